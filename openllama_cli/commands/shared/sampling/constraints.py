"""The options that say what a text has to match, with the files that they name."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.options import GroupedOption
from openllama_cli.commands.shared.prompt_input import read_file
from openllama_cli.errors import UsageError
from openllama_cli.generation.constraints.config import Constraint

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_SUCH_AS = {"--json-schema": """--json-schema '{"type": "integer"}'""", "--grammar": "--grammar answer.lark"}


def constraint_options() -> dict[str, Decorator]:
    """--regex, --json-schema and --grammar, by the names that `SamplingConfig` has for them."""
    option = functools.partial(click.option, cls=GroupedOption, group="What the text has to match")
    return {
        "regex": option("--regex", metavar="REGEX", help=r"A regular expression: ' \d{4}', with the space before it."),
        "json_schema": option(
            "--json-schema",
            metavar="FILE|JSON",
            callback=_source,
            help="A JSON document of this schema.",
            shell_complete=suggest.files,
        ),
        "grammar": option(
            "--grammar", metavar="FILE", callback=_source, help="A grammar in Lark's syntax.", shell_complete=suggest.files
        ),
    }


def _source(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """What a file has, or the JSON that stands in its place; checked here, where the file's name is known."""
    if value is None or ctx.resilient_parsing:
        return value
    assert parameter.name is not None
    if parameter.name == "json_schema" and (value.lstrip()[:1] in ("{", "[") or value in ("true", "false")):
        return value
    if not value:
        flag = parameter.opts[0]
        raise UsageError(f"{flag} is empty", f"give {parameter.metavar}, such as {_SUCH_AS[flag]}", code="constraint_invalid")
    text = read_file(Path(value))
    try:
        Constraint("json_schema" if parameter.name == "json_schema" else "grammar", text)
    except UsageError as error:
        flag = parameter.opts[0]
        raise UsageError(error.cause.replace(flag, f"{flag} {value}", 1), error.remedy, code=error.code) from None
    return text
