"""Where a line, a sentence or a paragraph is complete (`--stop-at`), in text that arrives in pieces.

- line: before the first line break that follows something visible.
- paragraph: before the first blank line that follows something visible.
- sentence: after `.`, `!`, `?` or `…` with the quotation marks and brackets behind it, where white space follows and then what
  can begin a sentence; after `。`, `！`, `？`, `।`, `؟` and `۔` whatever follows; and before a blank line. A lower-case letter
  does not begin one, so that `approx. ten`, `"Stop!" he said` and `and so … on` go on. Nor does a full stop end one in numbers
  (3.5) and addresses, which no space follows, behind single letters (`J. Smith`, `U.S. Army`), behind abbreviations that stand
  before names or numbers (`Dr. No`, `Fig. 3`), and behind the number of a list item (`1. First`). In doubt the sentence goes
  on: it may become two, and is not cut in half.

A sentence is known to be complete only by what follows, which the text then ends before.
"""

import re
from typing import NamedTuple

from openllama_cli.generation.decode.config import Boundary

_CLOSERS = "\"'”’»›)\\]}*_」』】）》〉"
_OPENERS = "\"'“‘«‹([{*_„‚¿¡「『【（《〈—–-"
_MARKS = re.compile("[.!?…。！？।॥؟۔]+")
_WIDE = re.compile("[。！？।॥؟۔]")
_CLOSED = re.compile(f"[{_CLOSERS}]*")
# White space, and what opens the next sentence.
_FOLLOWS = re.compile(rf"\s[{re.escape(_OPENERS)}\s]*")
_LINE, _LINE_BEGUN = re.compile(r"\r?\n"), re.compile(r"\r$")
_BLANK_LINE, _BLANK_LINE_BEGUN = re.compile(r"\r?\n[^\S\n]*\n"), re.compile(r"\r$|\r?\n[^\S\n]*$")
# Characters before a mark that are looked at.
_CONTEXT = 60
# What stands before a full stop: letters and marks of one word, with full stops in it.
_WORD = re.compile(r"[^\W_][\w.'’]*$")
_ITEM = re.compile(r"(?:^|\n)[^\S\n]*(?:\d{1,3}|[ivxlc]{1,5})$")
# Before a name.
# fmt: off
_BEFORE_NAMES = frozenset((
    "mr", "mrs", "ms", "mx", "dr", "prof", "st", "sr", "jr", "rev", "hon", "gen", "col", "capt", "cpt", "lt", "sgt",
    "maj", "cmdr", "adm", "gov", "sen", "rep", "pres", "supt", "messrs", "mmes", "mme", "mlle", "mt", "ft", "ste",
    "vs", "v", "cf", "viz", "al", "e.g", "i.e", "esp", "incl", "inc", "ltd", "co", "corp", "dept", "univ", "assn",
    "bros", "a.k.a", "ca", "approx", "est", "sra", "dra", "srta", "ud", "uds", "hr", "fr", "frl", "z.b", "d.h", "u.a",
    "bzw", "vgl", "ph.d", "ph",
))
# fmt: on
# Before a number.
# fmt: off
_BEFORE_NUMBERS = frozenset((
    "no", "nos", "nr", "num", "p", "pp", "pg", "vol", "vols", "fig", "figs", "sec", "secs", "ch", "chap", "eq", "eqs",
    "art", "abs", "par", "app", "ed", "pt", "ver", "tab", "bd", "kap", "jan", "feb", "mar", "apr", "jun", "jul", "aug",
    "sep", "sept", "oct", "nov", "dec",
))
# fmt: on


class _Found(NamedTuple):
    """end: where the text ends, None if it is not complete. certain: up to where the text is shown in any case. settled: up to
    where no end can be found any more."""

    end: int | None
    certain: int
    settled: int


class StopAt:
    """Finds the end of the first complete line, sentence or paragraph in text that arrives in pieces.

    before: the end of the prompt's text, in which the first word may begin. held: text that is held back, certain once no more
    can follow.
    """

    def __init__(self, kind: Boundary, before: str = "") -> None:
        self.reason = kind
        self._before = before[-_CONTEXT:]
        self._window = ""
        self._given = 0
        self._begun = False

    @property
    def held(self) -> str:
        return self._window[self._given :]

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is now certain, and whether it is complete: all after it is dropped."""
        self._window += text
        found = self._find(self._window)
        certain = found.certain if found.end is None else found.end
        shown = self._window[self._given : certain]
        self._given = certain
        if found.end is not None:
            self._window = self._window[:certain]
            return shown, True
        passed = self._window[: found.settled]
        self._begun |= bool(passed.strip())
        self._before = (self._before + passed)[-_CONTEXT:]
        self._window = self._window[found.settled :]
        self._given -= found.settled
        return shown, False

    def _find(self, text: str) -> _Found:
        start = 0 if self._begun else len(text) - len(text.lstrip())
        if start == len(text):
            return _Found(None, start, start)
        if self.reason == "line":
            return _where(_LINE, _LINE_BEGUN, text, start)
        blank = _where(_BLANK_LINE, _BLANK_LINE_BEGUN, text, start)
        return blank if self.reason == "paragraph" else self._sentence(text, blank)

    def _sentence(self, text: str, blank: _Found) -> _Found:
        for match in _MARKS.finditer(text, 0, len(text) if blank.end is None else blank.end):
            behind = _CLOSED.match(text, match.end())
            assert behind is not None
            closed = behind.end()
            if closed == len(text):  # More marks, or what closes, may follow.
                return _Found(None, min(blank.certain, closed), match.start())
            if _WIDE.search(match.group()):
                return _Found(closed, closed, closed)
            follows = _FOLLOWS.match(text, closed)
            if follows is None:
                continue
            if follows.end() == len(text):  # What follows decides.
                return _Found(None, min(blank.certain, closed), match.start())
            if self._ends(text[: match.start()], match.group(), text[follows.end()]):
                return _Found(closed, closed, closed)
        return blank

    def _ends(self, text: str, mark: str, following: str) -> bool:
        """Whether a sentence ends at a mark that white space follows. text: before it. following: the letter behind it."""
        if following.islower():
            return False
        if mark != ".":
            return True
        before = self._before + text
        if _ITEM.search(before):
            return False
        word = _WORD.search(before)
        if word is None:
            return True
        name = word.group()
        last = name.rsplit(".", 1)[-1]
        if len(last) == 1 and last.isalpha() and name != "I":
            return False
        if name.lower() in _BEFORE_NAMES:
            return False
        return not (name.lower() in _BEFORE_NUMBERS and following.isdigit())


def _where(pattern: re.Pattern[str], begun: re.Pattern[str], text: str, start: int) -> _Found:
    """Where a pattern is, from `start` on, and else what may become one."""
    match = pattern.search(text, start)
    if match is not None:
        return _Found(match.start(), match.start(), match.start())
    partial = begun.search(text, start)
    end = len(text) if partial is None else partial.start()
    return _Found(None, end, end)
