"""Whether ids are all different, in some nine bytes of memory for each."""

from array import array
from collections.abc import Iterable

from openllama_cli.batch.rows import Row

# Hashes are kept in this many parts, so that looking through one at a time needs little memory.
_PARTS = 256


class SeenIds:
    """64-bit hashes of the ids that were added. Two ids may share one, if rarely: `find_duplicate` has the last word."""

    def __init__(self) -> None:
        self._parts = [array("q") for _ in range(_PARTS)]

    def add(self, custom_id: str) -> None:
        """Remember an id."""
        number = hash(custom_id)
        self._parts[number % _PARTS].append(number)

    def repeated(self) -> set[int]:
        """The hashes that were added more than once."""
        found: set[int] = set()
        for part in self._parts:
            once = set(part)
            if len(once) < len(part):
                found |= _twice(part)
        return found


def find_duplicate(rows: Iterable[Row], repeated: set[int]) -> tuple[Row, Row] | None:
    """The first two rows with the same id. repeated: the hashes of ids that may be the same."""
    first: dict[str, Row] = {}
    for row in rows:
        if hash(row.custom_id) in repeated:
            earlier = first.setdefault(row.custom_id, row)
            if earlier is not row:
                return earlier, row
    return None


def _twice(numbers: Iterable[int]) -> set[int]:
    once: set[int] = set()
    twice: set[int] = set()
    for number in numbers:
        (twice if number in once else once).add(number)
    return twice
