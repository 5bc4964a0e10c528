"""`olc batch --score` and what goes with it, as decorator; what cannot stand beside it."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from openllama_cli.batch.input.score_settings import ScoreSettings
from openllama_cli.errors import UsageError

Command = Callable[..., Any]


def score_options(function: Command) -> Command:
    """Add the options; the command receives them as `scoring: ScoreSettings | None`."""

    @click.option("--score", is_flag=True, help="Score each row's prompt and complete nothing; see `olc score`.")
    @click.option("--context-column", metavar="NAME", help="With --score: the column that stands before each prompt, unscored.")
    @click.option("--stride", type=int, metavar="N", help="With --score: of prompts that do not fit; see `olc score`.")
    @functools.wraps(function)
    def wrapper(*args: Any, score: bool, context_column: str | None, stride: int | None, **values: Any) -> Any:
        if not score and (context_column is not None or stride is not None):
            flag = "--stride" if context_column is None else "--context-column"
            raise UsageError(f"{flag} requires --score", "add --score")
        return function(*args, scoring=ScoreSettings(context_column, stride) if score else None, **values)

    return wrapper


def refuse_beside_score(flags: Mapping[str, object]) -> None:
    """Raise UsageError for an option that says nothing where texts are scored. flags: whether each was given."""
    flag = next((flag for flag, given in flags.items() if given), None)
    if flag is not None:
        raise UsageError(f"{flag} cannot be combined with --score", f"leave one of them out: {_WHY}")


def refuse_texts(output: str | None) -> None:
    """Raise UsageError for an OUTPUT of texts alone, which a row that is scored does not have."""
    if output is not None and Path(output).suffix.lower() in (".txt", ".text"):
        cause = f"OUTPUT {output} would have a text per line, and --score makes none"
        raise UsageError(cause, "give a name in .jsonl, .csv or .tsv", code="output_format")


_WHY = "a text is scored here, by the model that is loaded, and nothing is generated"
