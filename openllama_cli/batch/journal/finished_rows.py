"""Which rows are finished and where their lines are: 10 bytes a row, whatever the rows hold."""

from array import array
from collections import Counter
from dataclasses import dataclass

_ABSENT = -1
_SUCCEEDED = 0  # the place of "no code" in _codes


@dataclass(frozen=True)
class Counts:
    """done: finished rows, the failed ones among them. failed: those. by_code: how many failed with each code."""

    done: int
    failed: int
    by_code: dict[str, int]


class FinishedRows:
    """For each row of `rows`: the offset of its line and the code it failed with, if it is finished."""

    def __init__(self, rows: int) -> None:
        self._offsets = array("q", [_ABSENT]) * rows
        self._codes = array("H", [_SUCCEEDED]) * rows
        self._places: dict[str | None, int] = {None: _SUCCEEDED}
        self._counts: Counter[str | None] = Counter()

    def __contains__(self, index: int) -> bool:
        return self._offsets[index] != _ABSENT

    def offset(self, index: int) -> int | None:
        """Where a row's line begins; None if it is not finished."""
        offset = self._offsets[index]
        return None if offset == _ABSENT else offset

    def set(self, index: int, code: str | None, offset: int) -> None:
        """Note a finished row; what was known of it is superseded."""
        self.remove(index)
        self._offsets[index] = offset
        self._codes[index] = self._places.setdefault(code, len(self._places))
        self._counts[code] += 1

    def remove(self, index: int) -> None:
        """Forget a row, if it is finished."""
        if index in self:
            self._counts[self._code(index)] -= 1
            self._offsets[index] = _ABSENT

    def remove_failed(self) -> None:
        """Forget the rows that failed."""
        for index, place in enumerate(self._codes):
            if place != _SUCCEEDED:
                self.remove(index)

    @property
    def counts(self) -> Counts:
        """How many rows are finished, and how many of them failed with which codes."""
        by_code = {code: count for code, count in self._counts.items() if code is not None and count}
        return Counts(self._counts.total(), sum(by_code.values()), by_code)

    def _code(self, index: int) -> str | None:
        # There are few codes, and a row is rarely superseded.
        return next(code for code, place in self._places.items() if place == self._codes[index])
