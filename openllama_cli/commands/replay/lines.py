"""What `olc replay` says of a result."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from openllama_cli.terminal.streams import one_line

if TYPE_CHECKING:
    from openllama_cli.records.read import Record
    from openllama_cli.records.replay import Comparison, Parting, Side
    from openllama_cli.records.scores import Deviation, Flip, Scores

# The text of a token.
Texts = Callable[[int], str | None]


def document_of(record: "Record", compared: "Comparison", changes: list[str]) -> dict[str, Any]:
    """The same for JSON."""
    from openllama_cli.records.replay import explained

    partings = [
        {
            "completion": one.row,
            "unit": "token",
            "place": one.place,
            "recorded": None if one.recorded is None else asdict(one.recorded),
            "now": None if one.here is None else asdict(one.here),
            "margin": one.margin,
            "explained": explained(one, record),
        }
        for one in compared.partings
    ]
    return {
        "equal": not compared.different,
        "completions": compared.rows,
        "tokens": compared.tokens,
        "largest_logprob_difference": compared.noise,
        "partings": partings,
        "scores": None if compared.scores is None else asdict(compared.scores),
        "answers": [asdict(flip) for flip in compared.flips],
        "best": compared.kept,
        "changed": changes,
    }


def lines_of(record: "Record", compared: "Comparison", changes: list[str], text: Texts) -> list[str]:
    """What came of it: one line if all is equal. text: of a token."""
    if not compared.different:
        return [f"equal: {'; '.join(_equal(record, compared, text))}"]
    rows = f"{compared.rows} completion{'s' * (compared.rows != 1)}"
    lines, parts = [], []
    if compared.partings:
        noise = "" if compared.noise is None else f", log-probabilities within {compared.noise:.2g}"
        parts.append(f"{len(compared.partings)} of {rows}; {_tokens(compared, 'equal ')} before that{noise}")
        for parting in compared.partings:
            lines += _parting_lines(record, parting)
    if compared.kept is not None:
        sides = [", ".join(str(row) for row, place in enumerate(side) if place is not None) for side in compared.kept]
        parts.append(f"the best of {rows} are others")
        lines.append(f"the best completions: recorded {sides[0]}, now {sides[1]}")
    if compared.flips:
        parts.append(f"{len(compared.flips)} of {_answers(record)}")
        for flip in compared.flips:
            lines += _flip_lines(compared.made, flip)
    if compared.scores is not None and compared.scores.beyond:
        parts.append(
            f"{compared.scores.beyond} of {_scored(compared.scores)} by more than {_rounding(compared.made)} can explain"
        )
    if compared.scores is not None and compared.scores.furthest is not None:
        lines.append(_deviation_line(record, compared.scores.furthest, text))
    changed = [f"changed: {one_line(change)}" for change in changes] or ["changed: nothing that the record tells"]
    return [f"different: {'; '.join(parts)}", *lines, *changed]


def _equal(record: "Record", compared: "Comparison", text: Texts) -> Iterator[str]:
    """What was compared, and how close it is."""
    if record.completions:
        noise = "" if compared.noise is None else f", log-probabilities within {compared.noise:.2g}"
        yield f"{compared.rows} completion{'s' * (compared.rows != 1)}, {_tokens(compared)}{noise}"
    if compared.share is not None:
        yield f"{_answers(record)}, probabilities within {compared.share:.2g}"
    if compared.scores is not None:
        furthest = compared.scores.furthest
        where = "" if furthest is None else f", most at {_place(record, furthest, text)}"
        within = 0.0 if furthest is None else furthest.difference
        yield f"{_scored(compared.scores)}, log-probabilities within {within:.2g}{where}"


def _tokens(compared: "Comparison", kind: str = "") -> str:
    return f"{compared.tokens} {kind}token{'s' * (compared.tokens != 1)}"


def _answers(record: "Record") -> str:
    assert record.choices is not None
    count = len(record.prompts) - (record.choices.neutral is not None)
    return f"{count} answer{'s' * (count != 1)} from {len(record.choices.texts)} choices"


def _scored(scores: "Scores") -> str:
    return f"{scores.tokens} scored token{'s' * (scores.tokens != 1)}"


def _rounding(made: Sequence["Record"], times: float = 1) -> str:
    from openllama_cli.records.replay import precision, rounding

    return f"{times * rounding(*made):g}, the most that rounding in {precision(*made)}"


def _flip_lines(made: Sequence["Record"], flip: "Flip") -> list[str]:
    from openllama_cli.records.replay import precision

    sides = [f'"{one_line(one.text)}" {100 * one.probability:.2f} %' for one in (flip.recorded, flip.here)]
    verdict = "no more" if flip.margin <= flip.explained else "more"
    can = f"{flip.explained:g}, the most that rounding in {precision(*made)} can explain"
    return [
        f"prompt {flip.prompt}: recorded {sides[0]}, now {sides[1]}",
        f"  margin {flip.margin:.3g}, recorded {flip.before:.3g} the other way: {verdict} than {can}",
    ]


def _deviation_line(record: "Record", one: "Deviation", text: Texts) -> str:
    sides = ["none" if value is None else f"{value:.6g}" for value in (one.recorded, one.here)]
    return f"largest difference, {_place(record, one, text)}: recorded {sides[0]}, now {sides[1]}"


def _place(record: "Record", one: "Deviation", text: Texts) -> str:
    known = text(one.id)
    token = f"token {one.place}, " + (f"id {one.id}" if known is None else f'"{one_line(known)}" (id {one.id})')
    if one.choice is not None:
        assert record.choices is not None
        neutral = one.prompt == len(record.prompts) - 1 and record.choices.neutral is not None
        after = " after the neutral prompt" if neutral else f" of prompt {one.prompt}" if len(record.prompts) > 1 else ""
        return f'choice "{one_line(record.choices.texts[one.choice])}"{after}, {token}'
    return token if len(record.prompts) == 1 else f"prompt {one.prompt}, {token}"


def _parting_lines(record: "Record", parting: "Parting") -> list[str]:
    from openllama_cli.records.replay import CANDIDATES, explained

    where = f"completion {parting.row}, token {parting.place}"
    lines = [f"{where}: recorded {_side(parting.recorded)}, now {_side(parting.here)}"]
    why = explained(parting, record)
    can = f"{_rounding([record], 2)} can explain"
    if parting.margin is not None:
        chance = "more than it decided, such as chance or a penalty"
        verdict = chance if why is None else f"no more than {can}" if why else f"more than {can}"
        lines.append(f"  margin {parting.margin:.3g}: {verdict}")
    elif why is False:
        lines.append(f"  the recorded token is not among the {CANDIDATES} likeliest ones: the margin is more than {can}")
    return lines


def unknown(token: int) -> str | None:
    """Nothing was loaded that knows the text of a token."""
    return None


def _side(side: "Side | None") -> str:
    if side is None:
        return "the end"
    named = f"token {side.id}" if side.text is None else f'"{one_line(side.text)}" (token {side.id})'
    return named if side.logprob is None else f"{named} {100 * math.exp(side.logprob):.2f} %"
