"""Cutting a long text where it hurts least, so that each piece can be worked on by itself."""

import re
import unicodedata
from collections.abc import Iterator

_PARAGRAPH = re.compile(r"\n\s*\n\s*")
# The danda ends Hindi sentences; Japanese puts no space behind its full stop.
_SENTENCE = re.compile(r"[.!?…।॥][\"'”’»)\]]*\s+|[。！？｡][」』）]*\s*")
_LINE = re.compile(r"\n\s*")
_SPACE = re.compile(r"\s+")
_ZWJ = "\u200d"


def cut(text: str, most: int) -> Iterator[tuple[int, str]]:
    """The pieces of a text, in order, with the offset of each in code points; together they are the text.

    most: code points a piece may have. Cut is behind a blank line, else behind a sentence, a line break or a space in the
    second half of the piece, else anywhere but amid a character with its marks. An empty text is one empty piece.
    """
    start = 0
    while len(text) - start > most:
        end = _end(text, start, start + most)
        yield start, text[start:end]
        start = end
    yield start, text[start:]


def _end(text: str, start: int, limit: int) -> int:
    """Where the piece that begins at `start` ends, `limit` at the latest."""
    middle = start + (limit - start) // 2
    for pattern in (_PARAGRAPH, _SENTENCE, _LINE, _SPACE):
        # Whitespace may go on behind the limit, and cut in two it would be two tokens.
        found = (match.end() for match in pattern.finditer(text, middle, limit))
        ends = [end for end in found if end < limit or not text[limit].isspace()]
        if ends:
            return ends[-1]
    end = limit
    while end > middle and _joined(text, end):
        end -= 1
    return end if end > middle else limit


def _joined(text: str, place: int) -> bool:
    """Whether the characters before and at a place belong together: marks, emoji sequences, flags, whitespace."""
    before, after = text[place - 1], text[place]
    if before == _ZWJ or after == _ZWJ or unicodedata.category(after).startswith("M"):
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or (before.isspace() and after.isspace()):
        return True
    return all("\U0001f1e6" <= character <= "\U0001f1ff" for character in (before, after))
