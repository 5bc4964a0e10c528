"""Finding known errors in a message, a traceback or a log of any size, and which of them is the root cause.

One pass over the lines. The fixed words of every pattern are first looked for in a block of lines, as plain strings; only lines
that hold such words are compared with the whole pattern, so time is linear in the text, whatever it holds. olc's own errors are
recognized by their form, never by their sentences: two lines, or the code in their JSON.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from openllama_cli.explain.catalogue import KnownError, Pattern, known_errors, with_olc_code
from openllama_cli.explain.lines import is_exception, is_quoted_code, message, without_secrets, without_terminal_codes

# Vaguer entries are hidden by a more precise one in the same traceback: this many lines apart at most.
_SAME_FAILURE = 400
# Where an entry stands among the others; 0 and 2 are for what leads to another one, and for what follows from one.
_LEVELS = {"cause": 1, "warning": 3, "consequence": 4}
# A line longer than this is read in parts, which overlap.
_LONGEST_LINE = 1 << 20
_OVERLAP = 1200
_LONGEST_QUOTE = 300
# A terminal may have wrapped the cause of an olc error into this many lines.
_LONGEST_CAUSE = 40

_OLC_ERROR = re.compile(r"(?:error|openllama_cli\.errors\.\w{1,40}): (.*)")
_OLC_CODE = re.compile(r'"code":\s?"(\w{1,60})"')
_PACKAGE = re.compile(r"(?:site|dist)-packages[/\\]([A-Za-z_]\w{0,60})[/\\]")


@dataclass(frozen=True)
class Explanation:
    """A known error in a text. line: where it was recognized, without secrets. line_number: counted from 1."""

    error: KnownError
    line: str
    line_number: int


@dataclass(frozen=True)
class Unknown:
    """What is said last in a text that nothing known explains. library: whose code raised it, if a traceback tells."""

    line: str
    line_number: int
    library: str | None


@dataclass(frozen=True)
class Diagnosis:
    """explanations: the root cause first. unknown: None if a cause was found."""

    explanations: tuple[Explanation, ...]
    unknown: Unknown | None


def explain(pieces: Iterable[str]) -> Diagnosis:
    """Explain a text that comes in pieces, cut anywhere. What is kept of it does not grow with its length."""
    search = _Search()
    for block in _blocks(pieces):
        search.read(block)
    return search.diagnosis()


def _blocks(pieces: Iterable[str]) -> Iterator[str]:
    """The text in blocks of complete lines; a very long line in overlapping parts."""
    rest = ""
    for piece in pieces:
        rest += piece
        end = rest.rfind("\n") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > _LONGEST_LINE:
            yield rest
            rest = rest[-_OVERLAP:]
    yield rest


class _Search:
    def __init__(self) -> None:
        # The first find of each entry by its code, apart from those in source code that a traceback quotes.
        self._found: dict[str, Explanation] = {}
        self._quoted: dict[str, Explanation] = {}
        # An olc error, which says itself what to do.
        self._own: Explanation | None = None
        # The lines of an olc error whose fix has not come yet, and the number of the first.
        self._cause: tuple[int, list[str]] | None = None
        # Number and text of the last line that names an exception, of the last one that is not blank, and the last package.
        self._exception = self._last = self._package = (0, "")
        self._before = ""
        self._number = 1

    def read(self, block: str) -> None:
        """Read the next lines."""
        text = without_terminal_codes(block)
        missing = (entry for entry in known_errors() if entry.code not in self._found)
        wanted = [(entry, pattern) for entry in missing for pattern in entry.patterns if pattern.words in text]
        # A carriage return ends a line too: progress bars overwrite theirs.
        lines = [
            (number, line)
            for number, whole in enumerate(text.removesuffix("\n").split("\n"), self._number)
            for line in whole.removesuffix("\r").split("\r")
        ]
        before = self._before
        for number, line in lines:
            for entry, pattern in wanted:
                if pattern.words in line and entry.code not in self._found:
                    self._compare(entry, pattern, number, line, before)
            if '"code"' in line:
                # Of olc's errors, in error rows of `olc batch` and in other JSON.
                for code in _OLC_CODE.finditer(line):
                    for entry in with_olc_code(code[1]):
                        self._found.setdefault(entry.code, Explanation(entry, _quote(line, code.start()), number))
            if self._own is None:
                self._look_for_own(number, line)
            if "-packages" in line and (packages := _PACKAGE.findall(line)):
                self._package = number, packages[-1]
            before = line
        self._last = next((found for found in reversed(lines) if found[1].strip()), self._last)
        self._exception = self._last_exception(lines) or self._exception
        self._before = before
        self._number += text.count("\n")

    def _compare(self, entry: KnownError, pattern: Pattern, number: int, line: str, before: str) -> None:
        text = message(line)
        if pattern.regex.search(text):
            # Quoted code may hold the message of another branch than the one that failed.
            quoted = not pattern.of_source and is_quoted_code(line, before)
            found = self._quoted if quoted else self._found
            found.setdefault(entry.code, Explanation(entry, _quote(text, text.find(pattern.words)), number))

    def _look_for_own(self, number: int, line: str) -> None:
        """The two lines of an olc error, "error: …" and "  fix: …"."""
        if "rror" in line and (begin := _OLC_ERROR.match(message(line))):
            self._cause = number, [begin[1]]
        elif self._cause is not None:
            first, parts = self._cause
            text = message(line)
            if text.startswith("fix: "):
                cause = without_secrets(" ".join(parts)[:_OVERLAP])
                fix = without_secrets(text.removeprefix("fix: ")[:_OVERLAP])
                own = KnownError("olc", "olc", "An olc error, with its own fix", cause, fix)
                self._own = Explanation(own, f"error: {cause}", first)
            parts.append(text)
            if not text or len(parts) > _LONGEST_CAUSE:
                self._cause = None

    def _last_exception(self, lines: list[tuple[int, str]]) -> tuple[int, str] | None:
        for place in range(len(lines) - 1, -1, -1):
            number, line = lines[place]
            if any(word in line for word in ("Error", "Exception", "Exit", "Interrupt")):
                before = lines[place - 1][1] if place else self._before
                if is_exception(message(line)) and not is_quoted_code(line, before):
                    return number, line
        return None

    def diagnosis(self) -> Diagnosis:
        """What was found, the root cause first."""
        found = list(self._found.values())
        # A library's message within an olc error has its own entry.
        if self._own is not None and all(one.line_number != self._own.line_number for one in found):
            found.append(self._own)
        explanations = _ranked(found or list(self._quoted.values()))
        explained = any(one.error.rank == "cause" for one in explanations)
        return Diagnosis(explanations, None if explained else self._unknown(bool(explanations)))

    def _unknown(self, something_found: bool) -> Unknown | None:
        """The exception that nothing explains; with nothing found at all, the last line."""
        number, line = self._exception if self._exception[0] else self._last
        text = message(line)
        if self._exception[0]:
            if any(
                pattern.regex.search(text) for entry in known_errors() for pattern in entry.patterns if not pattern.of_source
            ):
                return None
        elif something_found or not text:
            return None
        near = abs(number - self._package[0]) <= _SAME_FAILURE
        return Unknown(_quote(text, 0), number, self._package[1] or None if near else None)


def _ranked(explanations: list[Explanation]) -> tuple[Explanation, ...]:
    """Without the vaguer ones of the same failure; what leads to others first, then causes in the order of the text.

    An exception that was raised while another one was handled is printed after it, so the first of several causes is the most
    likely root.
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


def _quote(text: str, place: int) -> str:
    """A line to show: without secrets, and of a very long one the part around what was recognized."""
    begin = max(0, place - 4 * _LONGEST_QUOTE)
    text, words = text[begin : place + 4 * _LONGEST_QUOTE], text[place : place + 20]
    text = without_secrets(text.strip())
    if len(text) <= _LONGEST_QUOTE:
        return text
    found = text.find(words)  # Masking has moved them.
    start = max(0, min((found if found >= 0 else place - begin) - 100, len(text) - _LONGEST_QUOTE))
    return "…" * (start > 0) + text[start : start + _LONGEST_QUOTE] + "…" * (start + _LONGEST_QUOTE < len(text))
