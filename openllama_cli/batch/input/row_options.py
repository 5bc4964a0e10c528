"""The options that a row gives for itself, over those of the command."""

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from openllama_cli.batch.input.field_names import CHOICES, COUNTS, ECHO, MOST_SAMPLES, UNSUPPORTED, meaning
from openllama_cli.batch.input.prompts import Prompt, calibrated
from openllama_cli.batch.input.rows import Row, RowError, RowSettings, check_text, scored, shown
from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.config import Choices, out_of_place
from openllama_cli.generation.constraints.config import KINDS
from openllama_cli.generation.decode.config import FLAGS, INTEGERS, TEXTS, SamplingConfig, as_fields
from openllama_cli.openai_api.constraints import NAMES, constraint_fields

# What pandas writes for a value that is missing.
_MISSING = ("NaN", "nan")
_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


# As Excel writes it where semicolons separate columns. Not read: elsewhere 1,000 is a thousand.
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+", re.ASCII)


class RowOptions(NamedTuple):
    """What a row asks for. own_seed, own_length: whether it gave a seed, a max_tokens. echo: its prompt precedes its text.
    samples, best_of: see `Row`. choices: what its answer is chosen from, without its neutral prompt."""

    sampling: SamplingConfig
    own_seed: bool = False
    own_length: bool = False
    echo: bool = False
    samples: int = 1
    best_of: int = 1
    choices: Choices | None = None


def default_options(settings: RowSettings) -> RowOptions:
    """Of a row that asks for nothing itself."""
    samples = settings.samples
    return RowOptions(settings.sampling, samples=samples, best_of=samples, choices=settings.choosing.choices)


def read_options(
    given: Mapping[str, Any], settings: RowSettings, *, openai: bool = False, variables: tuple[str, ...] = ()
) -> RowOptions:
    """What a row asks for.

    given: the row's fields; those that are not options are ignored, and null counts as not given.
    openai: whether they are the body of an OpenAI line. variables: fields that belong to the template, whatever their name.

    Raises RowError: bad_option for a value that is wrong and for a name that is nearly an option's,
    unsupported_option for what other programs have.
    """
    own: dict[str, Any] = {}
    if openai:
        given = _with_constraint(given)
    for name, value in given.items():
        means = None if name in variables or (not openai and name in settings.carry.names) else meaning(name)
        if means is None:
            continue
        if means.kind == "typo":
            raise RowError("bad_option", typo(name, means.name, openai=openai))
        if means.kind == "unsupported":
            _refuse_unsupported(means.name, value, settings, openai=openai)
        elif value is not None:
            if means.name in own:
                raise RowError("bad_option", f"{means.name} is given twice, under two names")
            own[means.name] = _value(means.name, value)
    if settings.scoring is not None and own:
        raise RowError("bad_option", f"{next(iter(own))} says nothing where a text is scored; leave it out")
    choices = _choices(own.pop(CHOICES, None), settings)
    if choices is not None and (odd := out_of_place(own)) is not None:
        raise RowError("bad_option", f"{odd} says nothing where an answer is chosen from choices; leave it out")
    echo = own.pop(ECHO, False)
    if not isinstance(echo, bool):
        raise RowError("bad_option", f"echo is {shown(echo)}; give true or false")
    if choices is not None:
        return RowOptions(settings.sampling, echo=echo, choices=choices)
    samples = _count("n", own.pop("n", settings.samples))
    best_of = _count("best_of", own.pop("best_of", samples))
    if best_of < samples:
        raise RowError("bad_option", f"best_of is {best_of} and n is {samples}; best_of must not be less")
    if not own and best_of == settings.samples:
        return RowOptions(settings.sampling, echo=echo, samples=samples, best_of=best_of)
    if best_of > 1 and "temperature" not in settings.defaults:
        own.setdefault("temperature", 1.0)
    for name in TEXTS:
        if name in own:
            _check_texts(name, own[name])
    try:
        defaults = settings.defaults
        if any(name in own for name in KINDS):  # A row's own constraint stands in place of the command's.
            defaults = {name: value for name, value in defaults.items() if name not in KINDS}
        sampling = SamplingConfig.from_given({**defaults, **own}, shown=shown, guarded=settings.guarded)
    except UsageError as error:
        raise RowError("bad_option", as_fields(f"{error.cause}; {error.remedy}")) from None
    except (OverflowError, ValueError):  # an integer beyond what a float, or a message, can hold
        raise RowError("bad_option", f"a number is too large in {', '.join(own)}") from None
    if best_of > 1 and sampling.greedy and not openai:
        raise RowError(
            "bad_option", f"n is {best_of} at temperature 0, which gives as many identical texts; give a temperature"
        )
    return RowOptions(sampling, "seed" in own, "max_tokens" in own, echo, samples, best_of)


def _with_constraint(body: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenAI body with its constraint under olc's own name, whatever other programs call it. Raises RowError."""
    try:
        fields = constraint_fields(body)
    except UsageError as error:
        raise RowError("bad_option", f"{error.cause}; {error.remedy}") from None
    return {name: value for name, value in body.items() if name not in NAMES} | fields


def _count(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MOST_SAMPLES:
        raise RowError("bad_option", f"{name} is {shown(value)}; give an integer from 1 to {MOST_SAMPLES}")
    return value


def row_with(
    options: RowOptions,
    settings: RowSettings,
    index: int,
    line: int,
    custom_id: str,
    prompt: Prompt | None,
    *,
    tokens: tuple[int, ...] | None = None,
    openai: bool = False,
    carried: Mapping[str, Any] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Row:
    """The row that asks for these options; the rest as in `Row`. fields: those that fill the template, if there is one.

    Raises RowError for a neutral prompt that cannot be made.
    """
    return Row(
        index,
        custom_id,
        None if prompt is None else prompt.text,
        tokens,
        options.sampling,
        options.own_seed,
        options.own_length or settings.fixed_length,
        options.echo,
        options.samples,
        options.best_of,
        openai=openai,
        line=line,
        carried=carried or {},
        choices=calibrated(options.choices, settings, fields or {}, () if prompt is None else prompt.shots),
        scoring=scored(settings, fields or {}),
    )


def typo(name: str, meant: str, *, openai: bool = False) -> str:
    """The message for a field that looks like an option and is none."""
    otherwise = "rename it" if openai else f"rename it, or keep it as data: --carry {shlex.quote(f'all,{name}')}"
    return f"unknown field {name!r}; did you mean {meant}? If not, {otherwise}"


def cell_value(option: str, text: str) -> Any:
    """What a cell of a table means as the value of an option; None where it is empty or pandas's NaN. What is no number stays
    a text."""
    stripped = text.strip()
    if stripped in _MISSING:
        return None
    if option in KINDS:
        return text or None
    if option in (*TEXTS, CHOICES):
        return _parsed(stripped) if stripped.startswith("[") else text or None
    if option in ("stop_token_ids", "logit_bias") and stripped:
        return _parsed(stripped)
    if not stripped:
        return None
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    if _INTEGER.fullmatch(stripped):
        return int(stripped)
    return float(stripped) if _NUMBER.fullmatch(stripped) and math.isfinite(float(stripped)) else stripped


def _value(option: str, value: Any) -> Any:
    """An option's value as it was given, but for a whole float where an integer is wanted: pandas writes 5 as 5.0 where others
    of the column are missing.

    Raises RowError for a number, true or false in quotes, and for one with a decimal comma.
    """
    if option in (*INTEGERS, *COUNTS) and isinstance(value, float) and value.is_integer():
        return int(value)
    if option not in (*TEXTS, *KINDS, CHOICES, "stop_at") and isinstance(value, str):
        meant = cell_value(option, value)
        if isinstance(meant, bool) if option in (ECHO, *FLAGS) else type(meant) in (int, float):
            raise RowError("bad_option", f"{option} is {shown(value)}; write it without quotes: {shown(meant)}")
        if option not in (*INTEGERS, *COUNTS, *FLAGS, ECHO) and _DECIMAL_COMMA.fullmatch(value.strip()):
            raise RowError(
                "bad_option", f"{option} is {shown(value)}; write it with a point: {value.strip().replace(',', '.')}"
            )
    return value


def _choices(given: Any, settings: RowSettings) -> Choices | None:
    """What a row's answer is chosen from. given: its own choices, if it has any. Raises RowError."""
    if given is None:
        return settings.choosing.choices
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        keep = f"or keep it as data: --carry all,{CHOICES}"
        raise RowError("bad_option", f'choices is {shown(given)}; give a list of texts, such as ["yes", "no"], {keep}')
    try:
        return settings.choosing.own(tuple(check_text(text, CHOICES) for text in given))
    except UsageError as error:
        raise RowError(error.code, f"{error.cause}; {error.remedy}") from None


def _parsed(text: str) -> Any:
    """What a cell holds in JSON: several stop strings (["Q:", "END"]), ids, biases."""
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _refuse_unsupported(name: str, value: Any, settings: RowSettings, *, openai: bool) -> None:
    harmless, remedy = UNSUPPORTED[name]
    # True equals 1 in Python.
    if value is None or any(isinstance(value, bool) is isinstance(allowed, bool) and value == allowed for allowed in harmless):
        return
    if name == "model":
        if openai or value == settings.model:
            return  # OpenAI's requests have to name one; the answer names the one that it is from
        raise RowError(
            "unsupported_option", f"model is {shown(value)}; {remedy}, and keep the field as data: --carry all,model"
        )
    keep = "" if openai else f", or keep it as data: --carry {shlex.quote(f'all,{name}')}"
    raise RowError("unsupported_option", f"{name} is {shown(value)}, which olc does not have; {remedy}{keep}")


def _check_texts(name: str, texts: Any) -> None:
    for text in texts if isinstance(texts, list) else [texts]:
        if isinstance(text, str):
            check_text(text, name)
