"""Every row of an input as it would run, without the model's weights: tokens of all prompts, and rows that would fail."""

import random
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from openllama_cli.batch.input.rows import Row, RowError

# Rows drawn from the input, to be measured.
_DRAWN = 64
# Wrong rows that are kept, to be shown.
_MOST_WRONG = 10


@dataclass(frozen=True)
class WrongRow:
    """A row that would fail. line: of the input, from 1; 0 where there is none."""

    custom_id: str
    line: int
    code: str
    message: str

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"custom_id": self.custom_id, "line": self.line or None, "code": self.code, "message": self.message}


@dataclass
class Survey:
    """All rows of an input, as they would run.

    context: the model's, in tokens. rows: all of them. tokens: of each prompt that can run. new_tokens: that may be made, at
    most, all samples of all rows together. shortened: rows whose max_tokens the context has no room for, and which would end
    where it does. longest: positions of the longest row. codes: of rows that would fail; wrong: the first of those. drawn:
    rows to measure.
    """

    context: int
    rows: int = 0
    tokens: "array[int]" = field(default_factory=lambda: array("q"))
    new_tokens: int = 0
    shortened: int = 0
    longest: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[WrongRow] = field(default_factory=list)
    drawn: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[Row], count: int, context: int, prepare: Callable[[Row], Row]) -> "Survey":
        """Reads all rows. count: of them. prepare: see `prepare.Prepare`."""
        survey = cls(context)
        lots = random.Random(0).sample(range(count), min(count, _DRAWN))
        places = set(lots)
        drawn = {}
        for row in rows:
            survey.rows += 1
            try:
                ready = prepare(row)
            except RowError as error:
                survey.fails(row, error.code, error.message)
                continue
            survey._count(ready)
            if row.index in places:
                drawn[row.index] = ready
        survey.drawn = [drawn[index] for index in lots if index in drawn]
        return survey

    def _count(self, row: Row) -> None:
        length, most = len(row.tokens or ()), most_new_tokens(row, self.context)
        self.tokens.append(length)
        self.new_tokens += most * row.best_of
        positions = max(length + most, length + max(map(len, row.branches), default=0))
        # A longer text is scored in windows.
        self.longest = max(self.longest, min(positions, self.context))
        assert row.sampling is not None
        self.shortened += not row.branches and row.prepared is None and most < row.sampling.max_tokens

    def fails(self, row: Row, code: str, message: str) -> None:
        """Count a row that would fail."""
        self.codes[code] += 1
        if len(self.wrong) < _MOST_WRONG:
            self.wrong.append(WrongRow(row.custom_id, row.line, code, message))

    def document(self) -> dict[str, Any]:
        """For JSON."""
        tokens = self.tokens
        lengths = {"min": min(tokens), "median": statistics.median_low(tokens), "max": max(tokens)} if tokens else {}
        return {
            "rows": self.rows,
            "failing": {
                "rows": self.codes.total(),
                "codes": dict(sorted(self.codes.items())),
                "first": [row.document() for row in self.wrong],
            },
            "prompt_tokens": {"total": sum(tokens), **lengths},
            "new_tokens_at_most": self.new_tokens,
            "shortened": self.shortened,
        }


def most_new_tokens(row: Row, context: int) -> int:
    """How many tokens one sample of a row may get: none where it is scored or chosen from texts."""
    if row.branches or row.prepared is not None or row.sampling is None:
        return 0
    return max(0, min(row.sampling.max_tokens, context - len(row.tokens or ())))
