"""What `olc replay` says of a batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.records.replay import precision, rounding
from openllama_cli.terminal.streams import one_line, out_json, out_lines

if TYPE_CHECKING:
    from openllama_cli.compare.difference import Candidate
    from openllama_cli.records.batch.compare import RowParting
    from openllama_cli.records.batch.read import BatchRecord


@dataclass(frozen=True)
class Replayed:
    """What came of it. rows: that were compared. tokens, noise: see `records.batch.compare.Comparer`. changed: surroundings.

    other: the record that it was held against, if nothing was run.
    """

    record: "BatchRecord"
    partings: Sequence["RowParting"]
    rows: int
    tokens: int
    noise: float | None
    changed: Sequence[str]
    other: "BatchRecord | None" = None

    @property
    def made(self) -> list["BatchRecord"]:
        """The records whose precisions decide what rounding explains."""
        return [self.record] if self.other is None else [self.record, self.other]

    @property
    def different(self) -> int:
        """Rows that differ."""
        return len({parting.index for parting in self.partings})


def show(replayed: Replayed, most: int, *, as_json: bool) -> None:
    """Print what came of it. most: rows that are told, of those that differ; JSON has all."""
    if as_json:
        out_json(_document(replayed))
        return
    out_lines(_lines(replayed, most))


def _document(replayed: Replayed) -> dict[str, Any]:
    return {
        "equal": not replayed.partings,
        "rows": replayed.rows,
        "different": replayed.different,
        "tokens": replayed.tokens,
        "largest_logprob_difference": replayed.noise,
        "partings": [parting.document() for parting in replayed.partings],
        "changed": list(replayed.changed),
    }


def _lines(replayed: Replayed, most: int) -> list[str]:
    rows = f"{replayed.rows} row{'s' * (replayed.rows != 1)}"
    tokens = f"{replayed.tokens} token{'s' * (replayed.tokens != 1)}"
    noise = "" if replayed.noise is None else f", log-probabilities within {replayed.noise:.2g}"
    if not replayed.partings:
        return [f"equal: {rows}, {tokens}{noise}"]
    lines = [f"different: {replayed.different} of {rows}; {tokens} are equal{noise}"]
    told = list(dict.fromkeys(parting.index for parting in replayed.partings))
    for parting in replayed.partings:
        if parting.index in told[:most]:
            lines += _parting_lines(replayed.made, parting)
    if more := len(told[most:]):
        lines.append(f"and {more} more row{'s' * (more != 1)} that differ{'s' * (more == 1)}")
    return lines + (
        [f"changed: {one_line(change)}" for change in replayed.changed] or ["changed: nothing that the record tells"]
    )


def _parting_lines(made: Sequence["BatchRecord"], parting: "RowParting") -> list[str]:
    key = one_line(parting.key)
    row = key if key.startswith("row-") else f"row {key}"
    before, now = parting.recorded, parting.now
    if parting.cause in ("error", "finish_reason"):
        name = "error" if parting.cause == "error" else "finish_reason"
        return [f"{row}: recorded {name} {_name(before)}, now {_name(now)}"]
    if parting.cause == "score" or (parting.cause == "choice" and before and now and before.text == now.text):
        return _number_lines(made, row, parting)
    where = "" if parting.place is None else f", {parting.unit} {parting.place}"
    of = " of the prompt" if parting.cause == "prompt" else ""
    lines = [f"{row}{where}{of}: recorded {_side(before)}, now {_side(now)}"]
    can = f"what rounding in {precision(*made)} can explain"
    if parting.margin is not None:
        verdicts = {
            None: "more than it decided, such as chance or a penalty",
            True: f"no more than {_limit(made, parting)}{can}",
            False: f"more than {_limit(made, parting)}{can}",
        }
        lines.append(f"  margin {parting.margin:.3g}: {verdicts[parting.explained]}")
    elif parting.beyond is not None:
        from openllama_cli.records.batch.compare import CANDIDATES

        more = f", more than {can}" if parting.explained is False else ""
        among = f"the recorded token is not among the {CANDIDATES} likeliest ones"
        lines.append(f"  {among}: the margin is more than {parting.beyond:.3g}{more}")
    return lines


def _number_lines(made: Sequence["BatchRecord"], row: str, parting: "RowParting") -> list[str]:
    before, now = parting.recorded, parting.now
    assert before is not None
    assert now is not None
    of = f' of "{one_line(before.text or "")}"' if parting.cause == "choice" else ""
    values = f"recorded {before.logprob:.6g}, now {now.logprob:.6g}"
    return [f"{row}, log-probability{of}: {values}", f"  more than what rounding in {precision(*made)} can explain"]


def _limit(made: Sequence["BatchRecord"], parting: "RowParting") -> str:
    """Of tokens; that of a choice depends on how many tokens it has."""
    return f"{2 * rounding(*made):g}, " if parting.cause == "text" else ""


def _name(side: "Candidate | None") -> str:
    return "none" if side is None else one_line(side.text or "")


def _side(side: "Candidate | None") -> str:
    if side is None:
        return "the end"
    named = f'"{one_line(side.text or "")}"'
    return named if side.logprob is None else f"{named} {100 * math.exp(side.logprob):.2f} %"
