"""Rows that were made again, held against those of OUTPUT: where they part, and whether rounding can be why."""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.output.results import Result
from openllama_cli.compare.difference import Candidate, Difference, Known, Summary, common_beginning, pair
from openllama_cli.compare.entries import Entry, alternative, entries
from openllama_cli.compare.lines import Lines, as_written
from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.config import Choices
from openllama_cli.records.batch.numbers import Choice, choices_of, numbers_of
from openllama_cli.records.replay import likeliest_only

# Looked at where two rows part. Rows in progress keep them for all of their tokens, hence fewer than of a single result.
CANDIDATES = 20
_SHOWN = 12

Cause = Literal["error", "prompt", "finish_reason", "text", "choice", "score"]


@dataclass(frozen=True)
class RowParting:
    """A row, or a sample of one, that did not come out as it is in OUTPUT.

    key: its custom_id, with the number of a second or later sample. unit, place: the first token (character) that differs, from
    0. recorded, now: what stands there with the log-probability that the replay gives it, None where that side had ended; of a
    recorded text without tokens the longest likely candidate with which it goes on. Of other causes the two values; of numbers
    each with its own. margin: by how much the replay found its own token, or choice, likelier, in natural logarithms.
    explained: whether rounding can be why; None where it cannot be told. beyond: the margin is more than that, where it is not
    known.
    """

    index: int
    key: str
    cause: Cause
    recorded: Candidate | None = None
    now: Candidate | None = None
    unit: Literal["token", "character"] | None = None
    place: int | None = None
    margin: float | None = None
    explained: bool | None = None
    beyond: float | None = None

    def document(self) -> dict[str, Any]:
        """For JSON."""
        sides = {
            name: None if side is None else {"text": side.text, "logprob": side.logprob}
            for name, side in (("recorded", self.recorded), ("now", self.now))
        }
        about = {name: getattr(self, name) for name in ("cause", "unit", "place")}
        return {
            "custom_id": self.key,
            "index": self.index,
            **about,
            **sides,
            "margin": self.margin,
            "explained": self.explained,
        }


@dataclass
class Comparer:
    """Takes rows as they come, in any order.

    output: OUTPUT; lines: its rows. rows: how many the record says it has. rounding: see `replay.rounding`. compared: rows.
    tokens: that are equal, in rows that are and at the beginning of others. noise: the largest difference of a log-probability
    of what is the same otherwise; None where OUTPUT has none. Raises UsageError for an OUTPUT that has not all rows.
    """

    output: Path
    lines: Lines
    rows: int
    rounding: float
    partings: list[RowParting] = field(default_factory=list)
    compared: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        self._summary = Summary()
        self._running: dict[int, Row] = {}
        self._offsets = array("q", self.lines.offsets())
        if len(self._offsets) != self.rows:
            cause = f"{self.output} has {len(self._offsets)} rows and the record {self.rows}"
            raise UsageError(cause, "name the OUTPUT that the record was written with: --output FILE", code="replay_output")

    @property
    def noise(self) -> float | None:
        return self._summary.logprob_difference

    def watched(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, as they are to be run: so that what stands where a row parts is known."""
        for row in rows:
            self._running[row.index] = row
            if row.sampling is None or row.choices is not None or row.scoring is not None:
                yield row
            else:
                most = max(row.sampling.logprobs or 0, CANDIDATES)
                yield replace(row, sampling=replace(row.sampling, logprobs=most))

    def add(self, result: Result) -> None:
        """Compare a row that was made again."""
        row = self._running.pop(result.index)
        self.compared += 1
        before = self.lines.document(self._offsets[result.index])
        now = as_written(self.output, result.line())
        found = list(self._partings(row, result, before, now))
        self.partings += found
        if not found:
            self.tokens += tokens_of(result.document)

    def _partings(self, row: Row, result: Result, before: Any, now: Any) -> Iterator[RowParting]:
        index, differs = result.index, False
        whole = entries(result.document, index)
        for a, b, full in zip_longest(self.lines.entries_of(before, index), entries(now, index), whole):
            # Lines of texts have no custom_ids.
            key = next(one.key for one in (full, b, a) if one is not None)
            if a is None or b is None:
                # What the format of OUTPUT leaves out, such as second samples of a table, is on neither side.
                if a is not b:
                    differs = True
                    yield RowParting(index, key, "text", value(a.text if a else None), value(b.text if b else None))
                continue
            for difference in pair(a, b, Known(), self._summary):
                differs = True
                yield self._parting(row, RowParting(index, key, "text"), difference, full, result.document)
        if not differs:
            numbered = RowParting(index, row.custom_id, "choice")
            yield from other_numbers(numbered, before, now, self.rounding, self._summary)

    def _parting(
        self, row: Row, found: RowParting, difference: Difference, full: Entry | None, document: Mapping[str, Any]
    ) -> RowParting:
        """What `difference` says, and what the replay tells beside it. full, document: the replay's, with all that it has."""
        a, b = difference.a, difference.b
        assert a is not None
        assert b is not None
        if a.error != b.error:
            return replace(found, cause="error", recorded=value(a.error), now=value(b.error))
        if difference.cause == "prompt":
            return replace(parted_by_characters(found, a.prompt or "", b.prompt or ""), cause="prompt")
        if row.choices is not None and a.text != b.text:
            return self._other_choice(row.choices, found, a.text or "", b.text or "", choices_of(document))
        if a.text == b.text and difference.divergence is None:
            return replace(found, cause="finish_reason", recorded=value(a.finish_reason), now=value(b.finish_reason))
        divergence = difference.divergence
        if full is None or full.tokens is None:
            return parted_by_characters(found, a.text or "", b.text or "")
        if divergence is not None and divergence.unit == "token":
            place = divergence.place
            recorded = None if divergence.a is None else _judged(str(divergence.a.text), full, place)
        else:
            place = _token_at(full, a.text or "")
            recorded = _continued(row, a, full, place)
        self.tokens += place
        return self._at_token(replace(found, unit="token", place=place, recorded=recorded), row, full)

    def _at_token(self, found: RowParting, row: Row, full: Entry) -> RowParting:
        """With the replay's own token in the place, and how far it is from the recorded one. full: the replay's."""
        place, recorded, tokens = found.place or 0, found.recorded, full.tokens or ()
        if place >= len(tokens):
            return found
        own = full.logprobs[place] if place < len(full.logprobs) else None
        found = replace(found, now=Candidate(str(tokens[place]), None, own))
        if recorded is None or own is None:
            return found
        plain = row.sampling is not None and likeliest_only(row.sampling)
        if recorded.logprob is not None:
            margin = own - recorded.logprob
            return replace(found, margin=margin, explained=margin <= 2 * self.rounding if plain else None)
        others = full.top[place] if place < len(full.top) else None
        beyond = own - min(others.values()) if others else None
        more = plain and beyond is not None and beyond > 2 * self.rounding
        return replace(found, beyond=beyond, explained=False if more else None)

    def _other_choice(
        self, choices: Choices, found: RowParting, before: str, now: str, known: Mapping[str, Choice]
    ) -> RowParting:
        """Another choice is the likeliest one now."""
        theirs, ours = known.get(before), known.get(now)
        sides = [Candidate(text, None, _log(known[text].probability) if text in known else None) for text in (before, now)]
        found = replace(found, cause="choice", recorded=sides[0], now=sides[1])
        if theirs is None or ours is None:
            return found
        margin = ours.score - theirs.score
        subtracted = 1 if choices.neutral is None else 2
        slack = subtracted * self.rounding * (ours.weight(choices.normalize) + theirs.weight(choices.normalize))
        return replace(found, margin=margin, explained=margin <= slack)


def other_numbers(found: RowParting, before: Any, now: Any, rounding: float, summary: Summary) -> Iterator[RowParting]:
    """The first log-probability of a choice, or of a text that was scored, that differs by more than rounding explains.

    before, now: the two rows. The largest difference of all goes into `summary`.
    """
    old, new = numbers_of(before), numbers_of(now)
    differences = [abs(old[name][0] - new[name][0]) for name in old.keys() & new.keys()]
    if differences:
        summary.logprob_difference = max(summary.logprob_difference or 0.0, *differences)
    for name in {**old, **new}:
        (before_here, tokens), (now_here, also) = old.get(name, (None, 0)), new.get(name, (None, 0))
        if before_here is None or now_here is None or tokens != also or abs(before_here - now_here) > rounding * tokens:
            sides = [None if one is None else Candidate(name, None, one) for one in (before_here, now_here)]
            cause: Cause = "choice" if name else "score"
            yield replace(found, cause=cause, recorded=sides[0], now=sides[1], explained=False)
            return


def value(text: str | None) -> Candidate | None:
    """What stands on one side, where it has no log-probability."""
    return None if text is None else Candidate(text)


def _log(probability: float) -> float | None:
    return math.log(probability) if probability > 0 else None


def parted_by_characters(found: RowParting, before: str, now: str) -> RowParting:
    """The first character that differs of two texts, with some behind it."""
    place = common_beginning(before, now)
    sides = [value(text[place : place + _SHOWN] or None) for text in (before, now)]
    return replace(found, unit="character", place=place, recorded=sides[0], now=sides[1])


def _judged(token: str, full: Entry, place: int) -> Candidate:
    return Candidate(token, None, alternative(full, place, token))


def _token_at(full: Entry, text: str) -> int:
    """The first token of an entry with which it leaves a text; the number of its tokens where it ends before that."""
    own = full.text or ""
    same = next((place for place, (a, b) in enumerate(zip(own, text, strict=False)) if a != b), min(len(own), len(text)))
    if same == len(own):
        return bisect_left(full.offsets, same)
    # Of several tokens that begin there, parts of one character, the first.
    return bisect_left(full.offsets, full.offsets[max(bisect_right(full.offsets, same) - 1, 0)])


def _continued(row: Row, before: Entry, full: Entry, place: int) -> Candidate | None:
    """The longest of the likely candidates in a place with which a recorded text goes on there; None where it had ended."""
    there = full.offsets[place] if place < len(full.offsets) else len(full.text or "")
    rest = (before.text or "")[there:]
    top = (full.top[place] if place < len(full.top) else None) or {}
    if not rest:
        return None
    fitting = [token for token in top if token and rest.startswith(token)]
    return _judged(max(fitting, key=len), full, place) if fitting else Candidate(rest[:_SHOWN])


def tokens_of(document: Mapping[str, Any]) -> int:
    """How many a row has of its own: generated, of its answer, or scored."""
    response = document.get("response")
    body = response.get("body") if isinstance(response, dict) else document
    usage = body.get("usage") if isinstance(body, dict) else None
    found, name = (document["score"], "tokens") if document.get("score") else (usage, "completion_tokens")
    count = found.get(name) if isinstance(found, dict) else None
    return count if type(count) is int else 0
