"""Finding known errors in a message, a traceback or a log of any size, and which of them is the root cause.

The text is read in pieces, once. In each piece the fixed words of every pattern are looked for as plain strings; only
around a find is a line cut out and compared with the whole pattern. So time is linear in the text, whatever it holds.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from openllama_cli.explain.catalogue import KnownError, Pattern, all_patterns
from openllama_cli.explain.lines import (
    as_printed,
    is_exception,
    is_quoted_code,
    message,
    without_secrets,
    without_terminal_codes,
)

# Vaguer entries are hidden by a more precise one in the same traceback: this many lines apart at most.
_SAME_FAILURE = 400
# Where an entry stands among the others; 0 and 2 are for what leads to another one, and for what follows from one.
_LEVELS = {"cause": 1, "warning": 3, "consequence": 4}


@dataclass(frozen=True)
class Explanation:
    """A known error in a text. line: where it was recognized, without secrets. line_number: counted from 1."""

    error: KnownError
    line: str
    line_number: int


@dataclass(frozen=True)
class OwnMessage:
    """The two lines of an error of olc that is not in the catalogue: it says itself what to do."""

    cause: str
    remedy: str
    line_number: int


@dataclass(frozen=True)
class Unknown:
    """What is said last in a text that nothing known explains. library: whose code raised it, if a traceback tells."""

    line: str
    line_number: int
    library: str | None


@dataclass(frozen=True)
class Diagnosis:
    """explanations: the root cause first. own: an olc message outside the catalogue. unknown: None if a cause was found."""

    explanations: tuple[Explanation, ...]
    own: OwnMessage | None
    unknown: Unknown | None


def ranked(explanations: list[Explanation]) -> tuple[Explanation, ...]:
    """Without the vaguer ones of the same failure; what leads to others first, then causes in the order of the text.

    An exception that was raised while another one was handled is printed after it, so the first of several causes is
    the likeliest root.
    """
    hidden = {
        vague.error.code
        for precise in explanations
        for vague in explanations
        if vague.error.code in precise.error.hides and abs(vague.line_number - precise.line_number) <= _SAME_FAILURE
    }
    kept = [one for one in explanations if one.error.code not in hidden]
    followers = {code for one in kept for code in one.error.leads_to}

    def order(one: Explanation) -> tuple[int, int]:
        if any(other.error.code in one.error.leads_to for other in kept):
            return 0, one.line_number
        follows = one.error.rank == "cause" and one.error.code in followers
        return 2 if follows else _LEVELS[one.error.rank], one.line_number

    return tuple(sorted(kept, key=order))


# Characters looked at on each side of a find; a longer line is cut there.
_REACH = 600
# A piece without a line break longer than this is searched as if it had one.
_LONGEST_LINE = 1 << 20
# What of the text before a block is looked at with it: the line before a find, the first half of an olc message.
_CONTEXT = 4 * _REACH
_TAIL = 1 << 16
# How the code of an olc error begins in its JSON.
_CODE = '"code": "'


@dataclass(frozen=True)
class _Find:
    explanation: Explanation
    # In a line of source that a traceback quotes: it may be another branch's message.
    in_code: bool
    # In the whole text.
    position: int


def explain(pieces: Iterable[str]) -> Diagnosis:
    """Explain a text that comes in pieces, cut anywhere."""
    search = _Search()
    for block in _blocks(pieces):
        search.read(block)
    return search.diagnosis()


def _blocks(pieces: Iterable[str]) -> Iterator[str]:
    """The text in blocks that end at the end of a line; parts of a very long line overlap."""
    rest = ""
    for piece in pieces:
        rest += piece
        end = rest.rfind("\n") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > _LONGEST_LINE:
            yield rest[:-_REACH]
            rest = rest[-2 * _REACH :]
    yield rest


class _Search:
    def __init__(self) -> None:
        # The fixed words, and whose they are; an entry is looked for until its first find.
        self._wanted = {
            words: [(entry, pattern, of_code) for _, entry, pattern, of_code in group]
            for words, group in groupby(
                sorted(((pattern.words, entry, pattern, of_code) for entry, pattern, of_code in all_patterns()), key=_words),
                key=_words,
            )
        }
        self._found: dict[str, _Find] = {}
        self._own: OwnMessage | None = None
        self._exception: tuple[str, int] | None = None
        # The block that is searched: some lines of the one before, then from `_begin` on what is new.
        self._block = ""
        self._begin = 0
        self._lines_before = 0
        self._characters_before = 0
        self._tail = ""

    def read(self, block: str) -> None:
        """Search a block of whole lines."""
        context = self._block[-_CONTEXT:]
        if len(context) == _CONTEXT:
            context = context[context.find("\n") + 1 :]
        new = without_terminal_codes(block)
        self._block, self._begin = context + new, len(context)
        codes = _CODE in new
        for words in self._wanted:
            if codes or not words.startswith(_CODE):
                self._look_for(words)
        self._look_for_own_message()
        self._remember_exception()
        self._lines_before += new.count("\n")
        self._characters_before += len(new)
        # What was found is not looked for in the blocks that follow.
        settled = {code for code, find in self._found.items() if not find.in_code}
        self._wanted = {
            words: items for words, items in self._wanted.items() if any(item[0].code not in settled for item in items)
        }
        self._tail = (self._tail + new)[-_TAIL:]

    def _number(self, place: int) -> int:
        """The number of the line at a place in the block."""
        if place < self._begin:
            return self._lines_before - self._block.count("\n", place, self._begin) + 1
        return self._lines_before + self._block.count("\n", self._begin, place) + 1

    def _look_for(self, words: str) -> None:
        block = self._block
        place = block.find(words, self._begin)
        while place >= 0:
            start, end, whole = _segment(block, place)
            line = block[start:end]
            text = as_printed(message(line)) if whole else line
            position = self._position(place)
            wanted = [item for item in self._wanted[words] if not self._settled(item[0], position)]
            if not wanted:
                return
            for entry, pattern, of_code in wanted:
                if pattern.matches(text):
                    in_code = not of_code and is_quoted_code(line, _line_before(block, start))
                    explanation = Explanation(entry, _shown(text, pattern.words), self._number(place))
                    self._keep(_Find(explanation, in_code, position))
            # A line with the same words many times over is looked at a few times only.
            place = block.find(words, max(place + len(words), min(end, place + _REACH // 2)))

    def _settled(self, entry: KnownError, position: int) -> bool:
        """Whether an entry was found before this position, and not in quoted code."""
        find = self._found.get(entry.code)
        return find is not None and not find.in_code and find.position <= position

    def _keep(self, find: _Find) -> None:
        """Keep the first find of an entry; one in quoted code only as long as there is no other."""
        code = find.explanation.error.code
        before = self._found.get(code)
        if before is None or (find.in_code, find.position) < (before.in_code, before.position):
            self._found[code] = find

    def _position(self, place: int) -> int:
        """Where a place in the block lies in the whole text, in characters without terminal sequences."""
        return self._characters_before + place - self._begin

    def _look_for_own_message(self) -> None:
        """olc's two lines, "error: …" and "  fix: …", which a terminal may have wrapped."""
        block = self._block
        place = block.find("  fix: ", self._begin)
        if self._own is not None or place < 0 or block[block.rfind("\n", 0, place) + 1 : place].strip():
            return
        begin = block.rfind("error: ", max(0, place - 4 * _REACH), place)
        if begin < 0 or block[block.rfind("\n", 0, begin) + 1 : begin].strip():
            return
        cause = " ".join(block[begin + len("error: ") : place].split())
        remedy = block[place:].split("\n", 1)[0].strip().removeprefix("fix: ")
        number = self._number(begin)
        self._own = OwnMessage(without_secrets(cause[: 2 * _REACH]), without_secrets(remedy[: 2 * _REACH]), number)
        # A message that was wrapped is looked at again as the one line that it was.
        for entry, pattern, _ in all_patterns():
            if entry.code not in self._found and pattern.matches(f"error: {cause}"):
                explanation = Explanation(entry, _shown(cause, pattern.words), number)
                self._keep(_Find(explanation, in_code=False, position=self._position(begin)))

    def _remember_exception(self) -> None:
        """Keep the last line that names an exception."""
        block, begin = self._block, self._begin
        places = {word: block.rfind(word, begin) for word in ("Error", "Exception", "Exit", "Interrupt")}
        for _ in range(1000):
            word, place = max(places.items(), key=lambda item: item[1])
            if place < 0:
                return
            places[word] = block.rfind(word, begin, place)
            start, end, whole = _segment(block, place)
            text = message(block[start:end])
            if whole and is_exception(text) and not is_quoted_code(block[start:end], _line_before(block, start)):
                self._exception = (text, self._number(start))
                return

    def diagnosis(self) -> Diagnosis:
        """What was found, the root cause first."""
        finds = [find for find in self._found.values() if not find.in_code] or list(self._found.values())
        explanations = ranked([find.explanation for find in finds])
        explained = any(one.error.rank == "cause" for one in explanations)
        unknown = None if explained else self._unknown(bool(explanations))
        own = None if self._own is None or any(one.line_number == self._own.line_number for one in explanations) else self._own
        return Diagnosis(explanations, own, None if own is not None else unknown)

    def _unknown(self, something_found: bool) -> Unknown | None:
        """The exception that nothing explains; with nothing found at all, the last line."""
        if self._exception is not None:
            text, number = self._exception
            if any(pattern.matches(as_printed(text)) for _, pattern, of_code in all_patterns() if not of_code):
                return None
            return Unknown(_shown(text, ""), number, _library(self._tail))
        text = self._tail.rstrip()
        if something_found or not text:
            return None
        number = self._lines_before - self._tail.count("\n", len(text)) + 1
        return Unknown(_shown(message(re.split("[\r\n]", text)[-1]), ""), number, _library(self._tail))


def _words(item: tuple[str, KnownError, Pattern, bool]) -> str:
    return item[0]


def _segment(block: str, place: int) -> tuple[int, int, bool]:
    """Start and end of the line around a place, and whether it begins there. A carriage return ends a line too (progress)."""
    low, high = max(0, place - _REACH), min(len(block), place + _REACH)
    before = max(block.rfind("\n", low, place), block.rfind("\r", low, place))
    ends = [end for end in (block.find("\n", place, high), block.find("\r", place, high)) if end >= 0]
    whole = before >= 0 or low == 0
    return (before + 1 if before >= 0 else low), min(ends, default=high), whole


def _line_before(block: str, start: int) -> str:
    end = block.rfind("\n", 0, start)
    return "" if end < 0 else block[max(block.rfind("\n", 0, end) + 1, end - _REACH) : end]


def _shown(text: str, words: str) -> str:
    """A line to quote: without secrets, and of a very long one the part around the words that were recognized."""
    text = without_secrets(text.strip())
    if len(text) <= 300:
        return text
    place = max(0, min(text.find(words) - 100, len(text) - 300)) if words else 0
    return "…" * (place > 0) + text[place : place + 300] + "…" * (place + 300 < len(text))


def _library(text: str) -> str | None:
    """The package whose file is the last one that a traceback names."""
    place = max(text.rfind("site-packages"), text.rfind("dist-packages"))
    if place < 0:
        return None
    parts = text[place + len("site-packages") :][:100].replace("\\", "/").split("/")
    return parts[1] if len(parts) > 2 and parts[1].isidentifier() else None
