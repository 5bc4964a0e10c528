"""Where the rows of two outputs part, and why, as far as the files tell."""

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import sub
from typing import Any, Literal

from openllama_cli.compare.entries import Entry, alternative
from openllama_cli.compare.kept import Kept, Place
from openllama_cli.compare.lines import Lines

# In the order in which they are looked for: a row whose prompts differ may well have other options too.
Cause = Literal["only in A", "only in B", "error", "prompt", "options", "model", "text"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one side has where two sides part. id: the token's, where that is all the file tells.

    logprob: of the token on its own side. margin: how much likelier it was there than the other side's token, in natural
    logarithms; negative where sampling took the less likely one.
    """

    text: str | None
    id: int | None = None
    logprob: float | None = None
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two texts part. place: of the first token, or character, that differs, from 0. None: that side had ended."""

    unit: Literal["token", "character"]
    place: int
    a: Candidate | None
    b: Candidate | None

    def document(self) -> dict[str, Any]:
        """For JSON."""
        sides = {
            name: None
            if side is None
            else {key: getattr(side, key) for key in ("text", "id", "logprob", "margin") if getattr(side, key) is not None}
            for name, side in (("a", self.a), ("b", self.b))
        }
        return {"unit": self.unit, "index": self.place, **sides}


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not the same on both sides, or is on one of them only. common: characters that both texts begin with."""

    cause: Cause
    a: Entry | None
    b: Entry | None
    divergence: Divergence | None = None
    common: int = 0

    @property
    def key(self) -> str:
        one = self.a or self.b
        assert one is not None
        return one.key


@dataclass
class Summary:
    """Counts of what was compared. logprob_difference: the largest between the same tokens in front of where texts part."""

    rows_a: int = 0
    rows_b: int = 0
    equal: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    logprob_difference: float | None = None

    @property
    def different(self) -> int:
        """Rows that are not equal, those on one side only included."""
        return self.causes.total()

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": {"a": self.rows_a, "b": self.rows_b},
            "equal": self.equal,
            "different": self.different,
            "causes": dict(self.causes.most_common()),
            "largest_logprob_difference": self.logprob_difference,
        }


@dataclass(frozen=True)
class Known:
    """What is known to differ between two outputs as wholes."""

    model: bool = False
    options: bool = False


def differences_of(a: Lines, b: Lines, known: Known, summary: Summary) -> Iterator[Difference]:
    """Every row that differs, in A's order and then those in B only; `summary` is complete at the end.

    Rows are matched by their keys, the second row of a key with the second. While the orders agree, as they do after two runs
    of one input, no more than a row a side is in memory; from where they do not, B's other rows go into a temporary file
    and their places into memory. Raises UsageError for a line that is not a row.
    """
    return (difference for _, _, difference in placed_differences(a, b, known, summary))


def placed_differences(a: Lines, b: Lines, known: Known, summary: Summary) -> Iterator[tuple[int, int, Difference]]:
    """The same, each behind the offset of its line and its place in the line, in A, or in B where it is only there."""
    left, right = a.entries(), b.entries(like=a)
    for entry, offset, within in left:
        summary.rows_a += 1
        other = next(right, None)
        summary.rows_b += other is not None
        if other is None or other[0].key != entry.key:
            yield from _out_of_order((entry, offset, within), other, left, right, b, known, summary)
            return
        for found in pair(entry, other[0], known, summary, scores=True):
            yield offset, within, found
    for entry, offset, within in right:
        summary.rows_b += 1
        yield offset, within, counted(Difference("only in B", None, entry), summary)


def _out_of_order(
    one: tuple[Entry, int, int],
    other: tuple[Entry, int, int] | None,
    left: Iterator[tuple[Entry, int, int]],
    right: Iterator[tuple[Entry, int, int]],
    b: Lines,
    known: Known,
    summary: Summary,
) -> Iterator[tuple[int, int, Difference]]:
    """The rest, from the first rows on that are not of one key."""
    places: dict[str, list[Place]] = {}
    with Kept(b) as kept:
        if other is not None:
            for found, offset, within in itertools.chain([other], right):
                summary.rows_b += found is not other[0]
                places.setdefault(found.key, []).append(kept.add(found, offset, within))
        # The first row of a key is taken first, from the end, as taking it from the front moves all others.
        for of_key in places.values():
            of_key.reverse()
        following: tuple[Entry, int, int] | None = one
        while following is not None:
            entry, offset, within = following
            if there := places.get(entry.key):
                for difference in pair(entry, kept.get(there.pop())[0], known, summary, scores=True):
                    yield offset, within, difference
            else:
                yield offset, within, counted(Difference("only in A", entry, None), summary)
            following = next(left, None)
            summary.rows_a += following is not None
        for there in places.values():
            for place in reversed(there):
                found, offset, within = kept.get(place)
                yield offset, within, counted(Difference("only in B", None, found), summary)


def counted(difference: Difference, summary: Summary) -> Difference:
    summary.causes[difference.cause] += 1
    return difference


def pair(a: Entry, b: Entry, known: Known, summary: Summary, *, scores: bool = False) -> Iterator[Difference]:
    """The difference of two rows that are matched, if there is one, which `summary` then counts.

    scores: whether scores have to be the same number; a replay looks at how far they lie apart itself.
    """
    if a is b:
        summary.equal += 1
        if any(value is not None for value in a.logprobs or ()) or (scores and a.score is not None):
            summary.logprob_difference = summary.logprob_difference or 0.0
        return
    same_tokens = a.tokens is None or b.tokens is None or _kind(a.tokens) != _kind(b.tokens) or a.tokens == b.tokens
    parting = None if same_tokens else _token_divergence(a, b)
    _compare_logprobs(a.logprobs, b.logprobs, None if parting is None else parting.place, summary)
    prompts_differ = a.prompt is not None and b.prompt is not None and a.prompt != b.prompt
    same = a.error == b.error and _same(a.text, b.text, a, b) and _same(a.finish_reason, b.finish_reason, a, b)
    if scores and (a.score is not None or b.score is not None):
        same = same and a.score == b.score
        _compare_logprobs([a.score], [b.score], None, summary)
    if same and same_tokens and not prompts_differ:
        summary.equal += 1
        return
    if parting is None and a.text is not None and b.text is not None and a.text != b.text:
        parting = _character_divergence(a.text, b.text)
    cause: Cause = "text"
    if a.error != b.error:
        cause = "error"
    elif prompts_differ:
        cause = "prompt"
    elif known.options:
        cause = "options"
    elif known.model or (a.model != b.model and None not in (a.model, b.model)):
        cause = "model"
    yield counted(Difference(cause, a, b, parting, common_beginning(a.text or "", b.text or "")), summary)


def _same(one: str | None, other: str | None, a: Entry, b: Entry) -> bool:
    """Whether a text or a reason is the same. The ids of both say enough where one has none: a check has no text."""
    return one == other or (None in (one, other) and _kind(a.tokens or ()) is _kind(b.tokens or ()) is int)


def _kind(tokens: Sequence[str] | Sequence[int]) -> type | None:
    return type(tokens[0]) if tokens else None


def _token_divergence(a: Entry, b: Entry) -> Divergence:
    assert a.tokens is not None
    assert b.tokens is not None
    place = _shared(a.tokens, b.tokens)
    return Divergence("token", place, _candidate(a, b, place), _candidate(b, a, place))


def _candidate(own: Entry, other: Entry, place: int) -> Candidate | None:
    assert own.tokens is not None
    assert other.tokens is not None
    if place >= len(own.tokens):
        return None
    token = own.tokens[place]
    logprob = own.logprobs[place] if place < len(own.logprobs) else None
    rival = alternative(own, place, other.tokens[place]) if place < len(other.tokens) else None
    margin = None if logprob is None or rival is None else logprob - rival
    return Candidate(token, None, logprob, margin) if isinstance(token, str) else Candidate(None, token, logprob, margin)


def _shared(a: Sequence[object], b: Sequence[object]) -> int:
    """How many elements two sequences begin with in common."""
    most = min(len(a), len(b))
    if a[:most] == b[:most]:
        return most
    # Halves that are compared as wholes take less time than elements one by one.
    same, differ = 0, most
    while differ - same > 1:
        middle = (same + differ) // 2
        same, differ = (middle, differ) if a[same:middle] == b[same:middle] else (same, middle)
    return same


def _character_divergence(a: str, b: str) -> Divergence:
    place, end = common_beginning(a, b), _shared(a, b) + 1
    sides = [Candidate(text[place:end]) if place < len(text) else None for text in (a, b)]
    return Divergence("character", place, *sides)


def common_beginning(a: str, b: str) -> int:
    """How many characters two texts begin with in common, cut back to where no character is combined with the next."""
    place = _shared(a, b)
    while place > 0 and any(_combines(text, place) for text in (a, b)):
        place -= 1
    return place


def _combines(text: str, place: int) -> bool:
    """Whether the character at a place is drawn together with the one before it: marks, joiners, variation selectors."""
    if place >= len(text):
        return False
    return unicodedata.category(text[place]) in ("Mn", "Me", "Mc") or "\u200d" in text[place - 1 : place + 1]


def _compare_logprobs(a: Sequence[Any], b: Sequence[Any], places: int | None, summary: Summary) -> None:
    """Those of the same tokens, floats or None. places: how many of them; None for all."""
    a, b = a[:places], b[:places]
    try:
        found: list[float] = list(map(abs, map(sub, a, b)))
    except TypeError:  # Some are not known.
        found = [abs(one - other) for one, other in zip(a, b, strict=False) if one is not None and other is not None]
    if found:
        summary.logprob_difference = max(summary.logprob_difference or 0.0, *found)
