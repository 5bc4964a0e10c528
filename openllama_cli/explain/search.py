"""Finding known errors in a message, a traceback or a log of any size, and which of them is the root cause.

One pass over the lines. The fixed words of every pattern are first looked for in a block of lines, as plain strings; only lines
that hold such words are compared with the whole pattern, so time is linear in the text, whatever it holds. olc's own errors are
recognized by their form, never by their sentences: two lines, or the code in their JSON.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache

from openllama_cli.explain.catalogue import KnownError, Pattern, known_error, patterns, with_olc_code
from openllama_cli.explain.diagnosis import SAME_FAILURE, Diagnosis, Explanation, Unknown, has_cause, ranked
from openllama_cli.explain.lines import (
    is_exception,
    is_quoted_code,
    message,
    reads_like_an_error,
    unescaped,
    without_secrets,
    without_terminal_codes,
)
from openllama_cli.explain.nearest import nearest
from openllama_cli.explain.own_code import OwnCode
from openllama_cli.explain.wrapped import find_wrapped

# A line longer than this is read in parts, which overlap.
_LONGEST_LINE = 1 << 20
_OVERLAP = 1200
_LONGEST_QUOTE = 300
# A terminal may have wrapped the cause of an olc error into this many lines.
_LONGEST_CAUSE = 40
# The end of the text that is kept, to look again where no cause was found.
_TAIL = 100_000
# How many known exceptions are passed over, from the end of a block, to find one that is not.
_KNOWN_EXCEPTIONS = 20

_OLC_ERROR = re.compile(r"(?:error|openllama_cli\.errors\.\w{1,40}): (.*)")
_OLC_CODE = re.compile(r'"code":\s?"(\w{1,60})"')
_PACKAGE = re.compile(r"(?:site|dist)-packages[/\\]([A-Za-z_]\w{0,60})[/\\]")
_EXCEPTION_WORDS = re.compile("Error|Exception|Exit|Interrupt")
# In many patterns: where a text does not hold one of these, it holds none of them.
_COMMON = ("cannot import name '", "No module named '", "KeyError: '", "has no attribute '", "keyword argument '")


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
        self._own_code = OwnCode()
        # The last line that names an exception no entry knows, and the last package in a path; both with their numbers.
        self._exception: Unknown | None = None
        self._package = (0, "")
        self._tail: list[tuple[int, str]] = []
        self._before = ""
        self._number = 1

    def read(self, block: str) -> None:
        """Read the next lines."""
        text = without_terminal_codes(block)
        lines, escaped = _lines(text, self._number)
        searched = f"{text}\n{escaped}"
        absent = {common for common in _COMMON if common not in searched}
        wanted = [
            (code, pattern)
            for code, pattern, common in _grouped()
            if common not in absent and code not in self._found and pattern.words in searched
        ]
        before = self._before
        has_frames = self._own_code.may_be_in(searched)
        for number, line in lines:
            if has_frames:
                self._own_code.read(number, line)
            for code, pattern in wanted:
                if pattern.words in line and code not in self._found:
                    self._compare(code, pattern, number, line, before)
            if '"code"' in line:
                # Of olc's errors, in error rows of `olc batch` and in other JSON.
                for found in _OLC_CODE.finditer(line):
                    for entry in with_olc_code(found[1]):
                        self._found.setdefault(entry.code, Explanation(entry, _quote(line, found.start()), number))
            if self._own is None:
                self._look_for_own(number, line)
            if "-packages" in line and (packages := _PACKAGE.findall(line)):
                self._package = number, packages[-1]
            before = line
        self._exception = self._last_exception(lines) or self._exception
        self._keep_tail(lines)
        self._before = before
        self._number += text.count("\n")

    def _compare(self, code: str, pattern: Pattern, number: int, line: str, before: str) -> None:
        text = message(line)
        if pattern.regex.search(text):
            # Quoted code may hold the message of another branch than the one that failed.
            quoted = not pattern.of_source and is_quoted_code(line, before)
            found = self._quoted if quoted else self._found
            place = _quote(text, text.find(pattern.words))
            found.setdefault(code, Explanation(known_error(code), place, number, self._own_code.near(number)))

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

    def _last_exception(self, lines: list[tuple[int, str]]) -> Unknown | None:
        """The last exception that is not one of a known error: torchrun's own comes after those that matter."""
        known = 0
        for place in range(len(lines) - 1, -1, -1):
            number, line = lines[place]
            if _EXCEPTION_WORDS.search(line):
                before = lines[place - 1][1] if place else self._before
                text = message(line)
                if is_exception(text) and not is_quoted_code(line, before):
                    if not _is_known(text):
                        return self._unknown(number, text)
                    known += 1
                    if known == _KNOWN_EXCEPTIONS:
                        return None
        return None

    def _keep_tail(self, lines: list[tuple[int, str]]) -> None:
        known = [*self._tail, *lines]
        size, first = 0, len(known)
        while first and (size := size + len(known[first - 1][1]) + 1) <= _TAIL:
            first -= 1
        self._tail = known[first:]

    def diagnosis(self) -> Diagnosis:
        """What was found, the root cause first."""
        found = list(self._found.values())
        # A library's message within an olc error has its own entry.
        if self._own is not None and all(one.line_number != self._own.line_number for one in found):
            found.append(self._own)
        found = found or list(self._quoted.values())
        explanations = ranked(found + self._wrapped(found))
        return Diagnosis(explanations, None if has_cause(explanations) else self._unexplained(bool(explanations)))

    def _wrapped(self, found: list[Explanation]) -> list[Explanation]:
        """What is found only where lines are joined; where a cause is known, only what is more exact than that."""
        if len(self._tail) == 1:
            return []
        seen = {one.error.code for one in found}
        known = has_cause(found, exactly=True)
        joined = {}
        for code, number, line in find_wrapped(self._tail, [one for one in patterns() if one[0] not in seen]):
            error = known_error(code)
            if code not in joined and (not known or seen.intersection(error.hides)):
                joined[code] = Explanation(error, _quote(line, 0), number, self._own_code.near(number))
        return list(joined.values())

    def _unexplained(self, something_found: bool) -> Unknown | None:
        """The last exception that nothing explains; without one, the last line that reads like an error."""
        found = self._exception
        if found is None and not something_found:
            lines = ((number, message(line)) for number, line in reversed(self._tail))
            found = next((self._unknown(number, text) for number, text in lines if reads_like_an_error(text)), None)
        if found is None:
            return None
        return Unknown(found.line, found.line_number, found.library, found.own_line, nearest(found.line))

    def _unknown(self, number: int, text: str) -> Unknown:
        library = self._package[1] if abs(number - self._package[0]) <= SAME_FAILURE else None
        return Unknown(_quote(text, 0), number, library or None, self._own_code.near(number))


def _lines(text: str, first: int) -> tuple[list[tuple[int, str]], str]:
    """Lines with their numbers. A carriage return ends a line too: progress bars overwrite theirs.

    What a string of JSON holds in one line, with escapes, comes as lines of its own before the whole, and once more as a text.
    """
    lines: list[tuple[int, str]] = []
    escaped: list[str] = []
    has_escapes = "\\n" in text or '\\"' in text
    for number, whole in enumerate(text.removesuffix("\n").split("\n"), first):
        for line in whole.removesuffix("\r").split("\r") if "\r" in whole else (whole,):
            if has_escapes and ("\\n" in line or '\\"' in line):
                parts = unescaped(line)
                lines += [(number, part) for part in parts]
                escaped += parts
            lines.append((number, line))
    return lines, "\n".join(escaped)


@cache
def _grouped() -> tuple[tuple[str, Pattern, str], ...]:
    """All patterns with their codes and what they have in common with others, if anything."""
    return tuple(
        (code, pattern, next((common for common in _COMMON if common in pattern.words), "")) for code, pattern in patterns()
    )


def _is_known(text: str) -> bool:
    return any(
        pattern.words in text and not pattern.of_source and pattern.regex.search(text) is not None for _, pattern in patterns()
    )


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
