"""What holds for the rows of a batch that are scored and not completed (`--score`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from openllama_cli.batch.input.field_names import OTHER_FIELDS, meaning
from openllama_cli.errors import UsageError

# The options of such rows: nothing is generated.
SAMPLING: Mapping[str, Any] = {"max_tokens": 0, "logprobs": 0}


class Scoring(NamedTuple):
    """How a row is scored. context: what stands before its text. stride: see `generation.text.scoring.prepare`."""

    context: str
    stride: int | None


@dataclass(frozen=True)
class ScoreSettings:
    """context_column: the field that has a row's context; None: rows have none. stride: of texts beyond the model's context.

    Raises UsageError for a field that means something else.
    """

    context_column: str | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        name = self.context_column
        if name is not None and (name in OTHER_FIELDS or not name.strip() or meaning(name) is not None):
            raise UsageError(f"--context-column {name!r} has another meaning", "rename the column, to context for example")
