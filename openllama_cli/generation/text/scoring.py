"""How likely a text is: its tokens with their log-probabilities, by token, word and line, and the figures of the whole.

`prepare` makes of a text the tokens to run; `Score` is made of what they came to. Nothing here imports torch.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.windows import Window, default_stride, windows

if TYPE_CHECKING:
    from openllama_cli.generation.decode.request import Scored
    from openllama_cli.models.tokenizer.base import Tokenizer

Unit = Literal["token", "word", "line"]

# Words have the spaces before them, the last one also those behind it; lines their ends.
_PARTS = {"word": re.compile(r"\s*\S+(?:\s+\Z)?|\s+\Z"), "line": re.compile(r"[^\n]*\n|[^\n]+\Z")}
_BLACK = re.compile(r"\S")


class Prepared(NamedTuple):
    """A text as tokens.

    tokens: with BOS and the context's. first: the first one that is scored. starts: where each of those from `first` on begins
    in the text; the first at 0. windows: how the tokens run, each a `stride` further than the one before and with the `lead`
    first ones (BOS) in front.
    """

    tokens: list[int]
    first: int
    starts: list[int]
    windows: list[Window]
    stride: int
    lead: int


def prepare(tokenizer: "Tokenizer", text: str, context: str = "", *, positions: int, stride: int | None = None) -> Prepared:
    """The tokens of a text to score that follows a context directly. One in which both have a part is the text's.

    positions: the model's context. stride: None for half of that. Raises UsageError where the text has no tokens or is not
    UTF-8, and for a stride that is out of range.
    """
    whole = context + text
    tokens = tokenizer.encode(whole)
    lead = int(tokens[:1] == [tokenizer.bos_id])
    first, starts = cut(tokenizer.spans(whole), len(context), lead)
    return plan(tokens, first, starts, lead, positions=positions, stride=stride)


def plan(tokens: list[int], first: int, starts: list[int], lead: int, *, positions: int, stride: int | None) -> Prepared:
    """`prepare` with tokens that are known. lead: how many of them begin every window (BOS)."""
    chosen = default_stride(positions) if stride is None else stride
    found = windows(len(tokens), positions, chosen, lead)
    return Prepared(tokens, first, starts, [window for window in found if window.end > first], chosen, lead)


def cut(spans: Sequence[Sequence[int]], begin: int, lead: int) -> tuple[int, list[int]]:
    """Which of the tokens of a context and a text are the text's: the first of them, and where they start in it.

    spans: see `Tokenizer.spans`. begin: where the text begins. Raises UsageError where none is.
    """
    first = next((place for place in range(lead, len(spans)) if spans[place][0] >= begin or spans[place][1] > begin), None)
    if first is None:
        raise UsageError("the text to score has no tokens", "give a non-empty text", code="empty_prompt")
    return first, [0, *(max(start - begin, 0) for start, _ in spans[first + 1 :])]


@dataclass(frozen=True)
class Part:
    """A token, a word or a line of a text.

    text: joined, those of all parts are the text. start: where it begins there, in characters. logprob: natural, the sum over
    its tokens; None where none of them has one. tokens: how many begin in it.
    id, rank, top_logprobs: of a token, see `Score`.
    """

    text: str
    start: int
    logprob: float | None
    tokens: int
    id: int | None = None
    rank: int | None = None
    top_logprobs: Mapping[str, float] | None = None

    @property
    def bits(self) -> float | None:
        """The surprisal: minus the binary logarithm of the probability."""
        return None if self.logprob is None else in_bits(self.logprob)

    @property
    def expected(self) -> tuple[str, float] | None:
        """The most likely token, where that is another one, and its log-probability."""
        if self.rank == 1 or self.logprob is None or not self.top_logprobs:
            return None
        text, logprob = next(iter(self.top_logprobs.items()))
        return (text, logprob) if self.rank is not None or logprob > self.logprob else None


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text.

    tokens: ids, without BOS and the context. logprobs: natural, one a token; None for the first token of a model that has no
    BOS, where nothing predicts it. text: that was scored. starts: where each token begins in it, in characters; from each to
    the next is the token's text. ranks: 1 if no token was more likely. top_logprobs: the most likely tokens in the place of
    each and itself, by their texts, as in `Completion`. windows: passes that it took, more than one if it did not fit the
    context. Servers other than olc's tell no ids and no ranks: these lists are then empty.
    """

    tokens: list[int]
    logprobs: list[float | None]
    text: str
    starts: list[int]
    ranks: list[int | None]
    top_logprobs: list[dict[str, float] | None]
    windows: int = 1

    @classmethod
    def of(cls, tokenizer: "Tokenizer", text: str, prepared: Prepared, scored: "Sequence[Scored]") -> "Score":
        """Of a prepared text and its tokens, which were scored from the first on that is the text's."""
        from openllama_cli.generation.text.completion import alternatives

        entries = scored[prepared.first :]
        return cls(
            [entry.token for entry in entries],
            [entry.logprob for entry in entries],
            text,
            prepared.starts,
            [entry.rank for entry in entries],
            [alternatives(tokenizer, entry) if entry.top else None for entry in entries],
            len(prepared.windows),
        )

    @property
    def total(self) -> float:
        """The log-probability of the text: the sum over its tokens."""
        return math.fsum(value for value in self.logprobs if value is not None)

    @property
    def bits(self) -> float:
        """The surprisal of the text in bits."""
        return in_bits(self.total)

    @property
    def scored(self) -> int:
        """How many tokens have a log-probability."""
        return sum(value is not None for value in self.logprobs)

    @property
    def words(self) -> int:
        """How many words have a log-probability: what stands between spaces."""
        return sum(part.logprob is not None and not part.text.isspace() for part in self.by("word"))

    @property
    def bytes(self) -> int:
        """The length of the text in UTF-8, without tokens that have no log-probability."""
        return sum(len(part.text.encode()) for part in self.by("token") if part.logprob is not None)

    @property
    def perplexity(self) -> float:
        """exp of minus the mean log-probability of a token; nan where no token is predicted."""
        return _perplexity(self.total, self.scored)

    @property
    def perplexity_per_word(self) -> float:
        """The same of a word, which does not depend on how a tokenizer cuts words; nan without words."""
        return _perplexity(self.total, self.words)

    @property
    def bits_per_byte(self) -> float:
        """The surprisal of a byte of the text, which models with different tokenizers can be compared by."""
        return self.bits / self.bytes if self.bytes else math.nan

    def by(self, unit: Unit) -> list[Part]:
        """The text in tokens, words or lines.

        Spaces belong to the word that follows them, at the end to the last one; a line has its line break. A token counts to
        the word or line in which its first character that is not a space lies.
        """
        if unit != "token":
            return list(self._parts(unit))
        ends = [*self.starts[1:], len(self.text)]
        unknown = [None] * len(self.logprobs)
        told = (self.tokens or unknown, self.ranks or unknown, self.top_logprobs)
        columns = zip(self.logprobs, self.starts, ends, *told, strict=True)
        return [
            Part(self.text[start:end], start, logprob, 1, token, rank, top) for logprob, start, end, token, rank, top in columns
        ]

    def _parts(self, unit: Unit) -> Iterator[Part]:
        starts = [match.start() for match in _PARTS[unit].finditer(self.text)]
        tokens: list[list[float | None]] = [[] for _ in starts]
        for part in self.by("token"):
            black = _BLACK.search(part.text)
            place = part.start + (black.start() if black is not None else 0)
            tokens[bisect_right(starts, place) - 1].append(part.logprob)
        for (start, end), inside in zip(pairwise([*starts, len(self.text)]), tokens, strict=True):
            known = [value for value in inside if value is not None]
            logprob = None if inside and not known else math.fsum(known)
            yield Part(self.text[start:end], start, logprob, len(inside))

    def totals(self) -> dict[str, float | int | None]:
        """The figures of the whole, for JSON: None for what is not a number."""
        totals = {
            "logprob": self.total,
            "bits": self.bits,
            "tokens": self.scored,
            "words": self.words,
            "bytes": self.bytes,
            "perplexity": self.perplexity,
            "perplexity_per_word": self.perplexity_per_word,
            "bits_per_byte": self.bits_per_byte,
        }
        return {name: value if math.isfinite(value) else None for name, value in totals.items()}

    def document(self, unit: Unit, *, top: bool = False) -> list[dict[str, Any]]:
        """The tokens, words or lines, for JSON. top: with all alternatives of tokens."""
        return [_document(part, unit, top=top) for part in self.by(unit)]


def in_bits(logprob: float) -> float:
    """A natural log-probability as a surprisal in bits."""
    return (0.0 - logprob) / math.log(2)


def _perplexity(total: float, count: int) -> float:
    if not count:
        return math.nan
    try:
        return math.exp(-total / count)
    except OverflowError:  # A word may be a whole text, where no spaces are written.
        return math.inf


def _document(part: Part, unit: Unit, *, top: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"text": part.text, "start": part.start, "logprob": part.logprob, "bits": part.bits}
    if unit != "token":
        return document | {"tokens": part.tokens}
    expected = part.expected
    document |= {"id": part.id, "rank": part.rank}
    document["expected"] = None if expected is None else {"text": expected[0], "logprob": expected[1]}
    return document | ({"top_logprobs": part.top_logprobs} if top else {})
