"""Which rows of a batch are made again."""

import csv
import heapq
import random
from collections.abc import Iterable

from openllama_cli.batch.input.rows import Row
from openllama_cli.errors import UsageError


def sample(rows: int, count: int, seed: int) -> list[int]:
    """So many rows by chance, in their order; the same seed, the same rows, everywhere and always."""
    # Of Python's generator only `random` promises the same numbers in later versions, and not what `sample` makes of them.
    draw = random.Random(seed)
    return sorted(place for _, place in heapq.nsmallest(count, ((draw.random(), place) for place in range(rows))))


def parse(text: str) -> list[str]:
    """The value of --rows: names separated by commas, as CSV has them. Raises UsageError."""
    [names] = csv.reader([text]) if text and not {"\n", "\r"} & set(text) else [[]]
    if not names or not all(name.strip() for name in names):
        raise UsageError(f"--rows {text!r} names no rows", "give numbers, from 0, or custom_ids: --rows 3,17")
    return [name.strip() for name in names]


def named(rows: Iterable[Row], names: Iterable[str], count: int) -> list[int]:
    """The rows of these names, in their order: custom_ids, else numbers from 0. count: of all rows. Raises UsageError."""
    wanted = set(names)
    found = {row.custom_id: row.index for row in rows if row.custom_id in wanted}
    for name in wanted - set(found):
        if not (name.isascii() and name.isdecimal() and len(name) < 16 and int(name) < count):
            remedy = f"give custom_ids, or numbers from 0 to {count - 1}, as `index` in OUTPUT has them"
            raise UsageError(f"there is no row {name} in the batch", remedy, code="no_row")
        found[name] = int(name)
    return sorted(set(found.values()))
