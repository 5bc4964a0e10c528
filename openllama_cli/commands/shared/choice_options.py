"""`--choices` and what goes with it, as decorator; what a template adds to it; what cannot stand beside it."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.prompt_input import PromptInput, argument, read_file, split_lines, unescape
from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.config import Choices, Normalize, quoted
from openllama_cli.generation.decode.config import flag_of

if TYPE_CHECKING:
    from openllama_cli.prompt_templates import PromptTemplate

Command = Callable[..., Any]


@dataclass(frozen=True)
class ChoiceOptions:
    """The options as given.

    named: the option that named the choices, and these; None where no option did. prefix: --choices-prefix. normalize: None
    unless it was given. calibrate_with: --calibrate-with, "" with --calibrate alone; None with neither. off: --no-choices.
    """

    named: tuple[str, tuple[str, ...]] | None = None
    prefix: str | None = None
    normalize: Normalize | None = None
    calibrate_with: str | None = None
    off: bool = False

    def choices(self, template: "PromptTemplate | None", *, of_rows: bool = False) -> Choices | None:
        """What is to be chosen from, without a neutral prompt; None where prompts are completed.

        of_rows: rows may bring their own. Raises UsageError.
        """
        texts = self.named[1] if self.named is not None else ()
        if template is not None and not self.off:
            texts = texts or template.choices
        if texts:
            return Choices(texts, self.prefix_of(template), self.normalize or "sum")
        if self.depending is not None and self.off:
            raise UsageError(f"{self.depending} and --no-choices cannot be combined", "leave one of them out")
        if self.depending is not None and not of_rows:
            raise UsageError(f"{self.depending} requires choices", "name them, such as --choices yes,no")
        return None

    def prefix_of(self, template: "PromptTemplate | None") -> str | None:
        """What stands between a prompt and a choice, if it was said."""
        return template.choices_prefix if self.prefix is None and template is not None else self.prefix

    def refuse(self, template: "PromptTemplate | None", flags: Mapping[str, object]) -> None:
        """Raise UsageError for an option that makes no sense where an answer is chosen. flags: whether each was given."""
        flag = next((flag for flag, given in flags.items() if given), None)
        if flag is None:
            return
        if self.named is not None:
            raise UsageError(f"{flag} cannot be combined with {self.named[0]}", f"leave one of them out; {_WHY}")
        name = "" if template is None else template.name
        raise UsageError(
            f"{flag} cannot be combined with the choices of the template {name}",
            f"leave it out, or add --no-choices to complete freely; {_WHY}",
        )

    @property
    def given(self) -> str | None:
        """The first of the options that was given."""
        return self.named[0] if self.named is not None else self.depending

    @property
    def depending(self) -> str | None:
        """The first option that was given and says nothing without choices."""
        given = {
            "--choices-prefix": self.prefix is not None,
            "--choices-normalize": self.normalize is not None,
            "--calibrate-with": bool(self.calibrate_with),
            "--calibrate": self.calibrate_with is not None,
        }
        return next((flag for flag, there in given.items() if there), None)


_WHY = "the answer is one of the choices, and nothing is sampled"


def check_calibrated(template: "PromptTemplate") -> None:
    """Raise UsageError for a template that has no neutral prompt: one in which nothing has to be given."""
    if not template.required:
        cause = f"the template {template.name} has no variable without a default, so no prompt of it is neutral"
        raise UsageError(cause, "leave out --calibrate and --calibrate-with", code="no_variable")


def with_neutral(choices: Choices, options: ChoiceOptions, source: PromptInput) -> Choices:
    """The choices with the neutral prompt that the options ask for, if they do. Raises UsageError."""
    text = options.calibrate_with
    if text is not None and source.template is not None:
        check_calibrated(source.template)
        text = source.with_values({**source.values, **dict.fromkeys(source.template.required, text)})
    return replace(choices, neutral=text)


def not_for_choices(server: str) -> UsageError:
    """The error of a server that is another program. server: its address."""
    return UsageError(
        f"{server} is not olc's own server, and others do not choose among texts",
        "leave out --server, or name one that `olc serve` runs",
        code="server_kind",
    )


def sampling_flags(given: Mapping[str, Any]) -> dict[str, object]:
    """The sampling options that were given, for `ChoiceOptions.refuse`."""
    return {flag_of(name): True for name in given}


def split_choices(text: str) -> tuple[str, ...]:
    """The parts between commas, without spaces around them. Raises UsageError: choices_count, choices_quoted."""
    parts = tuple(part.strip() for part in text.split(","))
    if len(parts) == 1 and parts[0]:
        cause = f"only the choice {quoted(parts[0])} was given"
        raise UsageError(cause, "separate choices by commas: --choices yes,no", code="choices_count")
    for part in parts:
        # As CSV has it; the commas in it would part what is one choice.
        if part.startswith('"') and part.count('"') == 1:
            cause = f"the choice {quoted(part)} has one quote: choices end at every comma, in quotes or not"
            raise UsageError(cause, "write them one per line in a file: --choices-file FILE", code="choices_quoted")
    return parts


def listed_choices(name: str) -> tuple[str, ...]:
    """The choices of a file: a list of texts in JSON, or one a line, which is used as it is. Raises UsageError."""
    text = read_file(Path(name))
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            if name.lower().endswith(".json"):
                raise UsageError(f"{name} is not JSON: {error}", 'write a list, such as ["yes", "no"]') from error
        else:
            if not isinstance(found, list) or not all(isinstance(choice, str) for choice in found):
                raise UsageError(f"{name} has something else than texts in its list", 'write a list, such as ["yes", "no"]')
            return tuple(found)
    return tuple(split_lines(text))


def choice_options(function: Command) -> Command:
    """Add --choices, --choices-file, --choices-prefix, --choices-normalize, --calibrate, --calibrate-with and --no-choices.

    The command, which has an option --escape, receives them as `choosing: ChoiceOptions`.
    """

    @click.option(
        "--choices",
        metavar="A,B,…",
        help="Answer with the most likely of these texts. Spaces around the commas do not count; see --choices-file for texts "
        "that have commas.",
    )
    @click.option(
        "--choices-file",
        metavar="FILE",
        help="File with the choices: one per line, used as it is, or a list in JSON.",
        shell_complete=suggest.files,
    )
    @click.option(
        "--choices-prefix",
        metavar="TEXT",
        show_default="a space, or nothing after whitespace",
        help="Text between the prompt and a choice.",
    )
    @click.option(
        "--choices-normalize",
        type=click.Choice(get_args(Normalize)),
        show_default="sum",
        help="Compare log-likelihoods, or these per token or per byte of the choice.",
    )
    @click.option("--calibrate", is_flag=True, help="Subtract how likely each choice is after the prompt with empty input.")
    @click.option("--calibrate-with", metavar="TEXT", help="The same with TEXT as input, such as N/A.")
    @click.option("--no-choices", is_flag=True, help="Complete freely, though the template has choices.")
    @functools.wraps(function)
    def wrapper(
        *args: Any,
        choices: str | None,
        choices_file: str | None,
        choices_prefix: str | None,
        choices_normalize: Normalize | None,
        calibrate: bool,
        calibrate_with: str | None,
        no_choices: bool,
        escape: bool,
        **values: Any,
    ) -> Any:
        def typed(text: str) -> str:
            return unescape(argument(text)) if escape else argument(text)

        named = None
        flag = "--choices" if choices is not None else "--choices-file"
        if choices is not None and choices_file is not None:
            raise UsageError("--choices and --choices-file cannot be combined", "leave one of them out")
        if choices is not None:
            named = flag, split_choices(typed(choices))
        elif choices_file is not None:
            named = flag, listed_choices(choices_file)
        if no_choices and named is not None:
            raise UsageError(f"{flag} and --no-choices cannot be combined", "leave one of them out")
        prefix = None if choices_prefix is None else typed(choices_prefix)
        neutral = typed(calibrate_with) if calibrate_with is not None else "" if calibrate else None
        options = ChoiceOptions(named, prefix, choices_normalize, neutral, no_choices)
        if named is not None:
            options.choices(None)  # What is wrong with them is said first.
        return function(*args, choosing=options, escape=escape, **values)

    return wrapper
