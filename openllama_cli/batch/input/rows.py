"""One row of a batch's input, whatever file it came from; a row that is wrong carries its error instead of a prompt."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openllama_cli.batch.input.carry import Carry
from openllama_cli.batch.input.choice_settings import ChoiceSettings
from openllama_cli.batch.input.lines import Line, content
from openllama_cli.batch.input.score_settings import ScoreSettings, Scoring
from openllama_cli.few_shot import FewShot, Fitting
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.text.scoring import Prepared
from openllama_cli.prompt_templates import PromptTemplate

# Bytes of a line (of a record, in .csv and .tsv): far beyond any context, far below what would exhaust the memory.
MAX_LINE_BYTES = 16 * 2**20

# Characters of an error's message: values of the input are quoted in it, and may be long.
_MAX_MESSAGE = 300


@dataclass(unsafe_hash=True)
class RowError(Exception):
    """Why a row is not completed: raised where a reader meets it, carried by the row that stands for the wrong one.

    code: short and stable, for machines. Readers give invalid_utf8, invalid_json, invalid_csv, invalid_type,
        invalid_unicode, line_too_long, missing_prompt, template_error, bad_option, unsupported_option and
        unsupported_endpoint; the runner adds its own, such as context_length_exceeded.
    message: one line for people.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row: as read from the input, and until its result is written.

    index: place among the rows of the input, from 0.
    custom_id: the row's own, else "row-{index}".
    prompt: the text, template applied; None where the prompt is token ids, or cannot be read of a row that is wrong.
    tokens: the prompt as token ids. A reader fills them in where the input gives ids (OpenAI lines only; at least one, used
        as they are, without a BOS added), the runner for every row that it is about to run.
    sampling: the command's defaults with the row's own options over them; None where the row is wrong.
    own_seed: whether the row itself gave the seed.
    fixed_length: whether somebody gave max_tokens, in the row or on the command line: else the row may be shorter, to fit into
        the model's context.
    echo: whether the prompt belongs to the completion's text.
    samples, best_of: how many completions are answered, and of how many they are the best.
    openai: whether the row is answered in the shape of OpenAI's batch output.
    error: None where the row can be run.
    line: the line of the input on which the row begins, from 1; 0 where there is none.
    carried: fields that go through to OUTPUT, by their names there.
    body: of an OpenAI line that goes to a server as it is.
    choices: what its answer is chosen from; None where it is completed. branches: their tokens, which the runner fills in with
        `tokens`, those that are before all of them.
    scoring: how its prompt is scored; None where it is completed. prepared: its tokens, which the runner fills in.
    """

    index: int
    custom_id: str
    prompt: str | None = None
    tokens: tuple[int, ...] | None = None
    sampling: SamplingConfig | None = None
    own_seed: bool = False
    fixed_length: bool = True
    echo: bool = False
    samples: int = 1
    best_of: int = 1
    openai: bool = False
    error: RowError | None = None
    line: int = 0
    carried: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    choices: Choices | None = None
    branches: tuple[tuple[int, ...], ...] = ()
    scoring: Scoring | None = None
    prepared: Prepared | None = None


@dataclass(frozen=True)
class RowSettings:
    """What holds for every row.

    template: turns a row's fields into its prompt; None: a row gives its prompt.
    defaults: sampling options as for `SamplingConfig.from_given`: those given on the command line, with the
        template's stop and max_tokens beneath. A row's own options replace them one by one.
    fixed_length: whether max_tokens among them was given, and is no template's.
    max_line_bytes: a longer line becomes an error row and is never kept in memory.
    carry: which fields go through to OUTPUT. model: the run's, as it was named; a row may name it too.
    few_shot: examples that stand in front of what the template makes of a row, if they are wanted. fit: leaves out those for
    which the model's context has no room; None before the model is known.
    samples: completions of a row that says nothing else. for_server: whether rows go to a server, which gets the bodies of
    OpenAI lines as they are. guarded: whether greedy rows have the loop guard unless they say otherwise. sampling: what a row
    without options of its own gets. choosing: what rows are chosen from. scoring: how rows are scored; None where they are
    completed.

    Raises UsageError for defaults that are wrong.
    """

    template: PromptTemplate | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    max_line_bytes: int = MAX_LINE_BYTES
    carry: Carry = field(default_factory=Carry)
    model: str | None = None
    fixed_length: bool = True
    for_server: bool = False
    samples: int = 1
    guarded: bool = False
    few_shot: FewShot | None = None
    fit: Fitting | None = None
    choosing: ChoiceSettings = field(default_factory=ChoiceSettings)
    scoring: ScoreSettings | None = None
    sampling: SamplingConfig = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampling", SamplingConfig.from_given(self.defaults, guarded=self.guarded))


def error_row(
    index: int,
    line: int,
    error: RowError,
    *,
    custom_id: str | None = None,
    prompt: str | None = None,
    openai: bool = False,
    carried: Mapping[str, Any] | None = None,
) -> Row:
    """The row that stands for one that is wrong. Its error's message is made one line, and cut where it is long."""
    message = " ".join(error.message.split())
    if len(message) > _MAX_MESSAGE:
        message = message[: _MAX_MESSAGE - 1] + "…"
    custom_id = default_id(index) if custom_id is None else custom_id
    # A new error: the one that was raised holds the frames that it went through.
    return Row(index, custom_id, prompt, openai=openai, error=RowError(error.code, message), line=line, carried=carried or {})


def kept_prompt(error: RowError, prompt: Callable[[], str]) -> str | None:
    """The prompt of a row that is wrong elsewhere; None where the prompt itself is. prompt: reads it."""
    if error.code == "template_error":  # rendering it again would fail again, which may take long
        return None
    try:
        return prompt()
    except RowError:
        return None


def default_id(index: int) -> str:
    """The custom_id of a row that gives none."""
    return f"row-{index}"


_NAMES_SHOWN = 8


def text_of(line: Line, limit: int) -> str:
    """The text of a line, without its line break.

    limit: in bytes, for the message. Raises RowError if the line is longer, or not UTF-8.
    """
    if not line.complete:
        raise RowError("line_too_long", f"line {line.number} is longer than {limit / 2**20:g} MiB")
    data = content(line.data)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RowError("invalid_utf8", not_utf8(data, line.number, error)) from None


def not_utf8(data: bytes, line: int, error: UnicodeDecodeError) -> str:
    """Which byte of a line is at fault, for a message."""
    return f"line {line} is not UTF-8: byte 0x{data[error.start]:02x} at byte {error.start + 1}"


def check_text(text: str, name: str) -> str:
    r"""The text itself. name: of the field, for the message.

    Raises RowError if it cannot be written as UTF-8: JSON's "\ud800" is a character that cannot.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{name} has an unpaired surrogate, {text[error.start]!r}, at character {error.start + 1}"
        raise RowError("invalid_unicode", message) from None
    return text


def scored(settings: RowSettings, fields: Mapping[str, Any]) -> Scoring | None:
    """How a row is scored, if rows are. fields: the row's. Raises RowError."""
    if settings.scoring is None:
        return None
    column, context = settings.scoring.context_column, ""
    if column is not None:
        if column not in fields:
            raise RowError("missing_context", f"the row has no {column!r}; {names(fields)}")
        given = fields[column]
        if given is not None and not isinstance(given, str):
            raise RowError("invalid_type", f"{column} is {kind(given)}; give a string")
        context = check_text(given or "", column)
    return Scoring(context, settings.scoring.stride)


def names(fields: Iterable[str]) -> str:
    """Which fields or columns there are, for a message."""
    found = [repr(name) for name in fields]
    more = ", …" if len(found) > _NAMES_SHOWN else ""
    return f"it has {', '.join(found[:_NAMES_SHOWN])}{more}" if found else "it has no other fields"


def shown(value: Any) -> str:
    """A value of the input in a message, as JSON writes it."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
    except RecursionError:
        return kind(value)
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def kind(value: Any) -> str:
    """What JSON calls a value, with its article."""
    if value is None:
        return "null"
    words = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return words[type(value)]
