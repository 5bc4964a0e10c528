"""The OUTPUTs of two records of the same batch, held against each other; nothing is run."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from openllama_cli.compare.difference import Difference, Known, Summary, pair
from openllama_cli.compare.entries import Entry
from openllama_cli.compare.lines import Lines
from openllama_cli.errors import UsageError
from openllama_cli.records.batch.compare import RowParting, other_numbers, parted_by_characters, tokens_of, value
from openllama_cli.records.batch.read import BatchRecord


@dataclass
class Held:
    """What came of it; see `compare.Comparer`."""

    rounding: float
    partings: list[RowParting] = field(default_factory=list)
    compared: int = 0
    tokens: int = 0
    summary: Summary = field(default_factory=Summary)

    @property
    def noise(self) -> float | None:
        return self.summary.logprob_difference


def refuse_others(record: BatchRecord, other: BatchRecord) -> None:
    """Raise UsageError for two records that are not of the same work."""
    one, two = record.document, other.document
    what = None
    if (one["input"]["rows_sha256"], record.rows) != (two["input"]["rows_sha256"], other.rows):
        # Options that were given are in the rows.
        same = one["input"]["sha256"] == two["input"]["sha256"]
        what = "options" if same else "rows"
    elif _settings(record) != _settings(other):
        what = "options"
    elif _other_weights(record, other):
        what = "weights"
    elif record.suffix != other.suffix:
        what = "formats of OUTPUT"
    if what is not None:
        a, b = (shlex.quote(str(side.path.parent / side.document["output"]["name"])) for side in (record, other))
        raise UsageError(f"{record.name} and {other.name} have different {what}", f"compare the outputs: olc diff {a} {b}")


def _settings(record: BatchRecord) -> dict[str, Any]:
    """Without what the model is called there, and where it runs: neither makes other rows."""
    return {**record.document["settings"], "model": None, "for_server": None}


def _other_weights(record: BatchRecord, other: BatchRecord) -> bool:
    """Of a model that a server had its name may be all that is known, which is no name elsewhere."""
    if (record.server is None) != (other.server is None):
        return False
    names = [side.document["model"].get("name") for side in (record, other)]
    return record.weights != other.weights or (record.server is not None and names[0] != names[1])


def against(a: Lines, b: Lines, rounding: float) -> Held:
    """Compare two OUTPUTs row by row, in their order. rounding: see `replay.rounding`. Raises UsageError."""
    held = Held(rounding)
    for index, (here, there) in enumerate(zip_longest(a.offsets(), b.offsets())):
        if here is None or there is None:
            raise UsageError(
                f"{a.name} and {b.name} have different numbers of rows",
                f"compare them: olc diff {shlex.quote(a.name)} {shlex.quote(b.name)}",
            )
        before, now = a.document(here), b.document(there)
        sides = a.entries_of(before, index), b.entries_of(now, index)
        found = list(_partings(index, before, now, sides, held))
        held.compared += 1
        held.partings += found
        held.tokens += 0 if found else tokens_of(before)
    return held


def _partings(index: int, before: Any, now: Any, sides: tuple[list[Entry], list[Entry]], held: Held) -> Iterator[RowParting]:
    """before, now: the two rows; sides: their entries."""
    differs, key = False, ""
    for one, two in zip_longest(*sides):
        key = key or next(side.key for side in (one, two) if side is not None)
        if one is None or two is None:
            differs = True
            yield RowParting(index, key, "text", value(one.text if one else None), value(two.text if two else None))
            continue
        for difference in pair(one, two, Known(), held.summary):
            differs = True
            yield _parting(RowParting(index, one.key, "text"), difference, held)
    if not differs:
        yield from other_numbers(RowParting(index, key, "choice"), before, now, held.rounding, held.summary)


def _parting(found: RowParting, difference: Difference, held: Held) -> RowParting:
    one, two, divergence = difference.a, difference.b, difference.divergence
    assert one is not None
    assert two is not None
    if one.error != two.error:
        return replace(found, cause="error", recorded=value(one.error), now=value(two.error))
    if difference.cause == "prompt":
        return replace(parted_by_characters(found, one.prompt or "", two.prompt or ""), cause="prompt")
    if divergence is not None and divergence.unit == "token":
        held.tokens += divergence.place
        margin = None if divergence.b is None else divergence.b.margin
        found = replace(found, recorded=divergence.a, now=divergence.b, margin=margin)
        return replace(found, unit="token", place=divergence.place)
    if one.text == two.text:
        return replace(found, cause="finish_reason", recorded=value(one.finish_reason), now=value(two.finish_reason))
    return parted_by_characters(found, one.text or "", two.text or "")
