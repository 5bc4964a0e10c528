"""What a template makes of a row's fields: its prompt, with examples in front if they are wanted, and its neutral prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openllama_cli.batch.input.rows import RowError, RowSettings, check_text, names
from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.decode.config import SamplingConfig


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and the examples in it with their answers."""

    text: str
    shots: tuple[str, ...] = ()


def render(settings: RowSettings, fields: Mapping[str, Any], sampling: SamplingConfig, choices: Choices | None) -> Prompt:
    """The prompt that the template makes of a row's fields; those that it does not use are ignored.

    sampling, choices: the row's, for which its prompt is to leave room. Raises RowError.
    """
    template = settings.template
    assert template is not None
    values = _values(settings, fields)
    try:
        if settings.few_shot is None:
            return Prompt(check_text(template.render(values), "prompt"))
        prompt = settings.few_shot.prompt(values)
    except UsageError as error:
        raise _row_error(error, fields) from None
    check_text(prompt.text, "prompt")
    if settings.fit is not None and choices is not None:
        prompt = settings.fit(prompt, 0, choices.after(prompt.text))
    elif settings.fit is not None:
        prompt = settings.fit(prompt, sampling.max_tokens)
    return Prompt(prompt.text, prompt.shots)


def calibrated(
    choices: Choices | None, settings: RowSettings, fields: Mapping[str, Any], shots: tuple[str, ...] = ()
) -> Choices | None:
    """A row's choices with its neutral prompt, if rows are calibrated: its own prompt without what it is about.

    fields: those that fill the template. shots: the examples in the row's prompt. Raises RowError.
    """
    text = settings.choosing.calibrate_with
    if choices is None or text is None:
        return choices
    template = settings.template
    if template is None:
        return settings.choosing.calibrated(choices, text)
    values = _values(settings, {**fields, **dict.fromkeys(template.required, text)})
    try:
        few_shot = settings.few_shot
        neutral = template.render(values) if few_shot is None else few_shot.after(shots, values).text
        return settings.choosing.calibrated(choices, neutral)
    except UsageError as error:
        raise _row_error(error, fields) from None


def _values(settings: RowSettings, fields: Mapping[str, Any]) -> dict[str, Any]:
    variables = () if settings.template is None else settings.template.variables
    return {name: fields[name] for name in variables if name in fields}


def _row_error(error: UsageError, fields: Mapping[str, Any]) -> RowError:
    # The remedy of a missing variable is one for the command line.
    rest = names(fields) if error.code == "template_variable" else error.remedy
    return RowError("template_error", f"{error.cause}; {rest}")
