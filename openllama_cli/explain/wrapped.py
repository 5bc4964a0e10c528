"""Messages that a terminal, a mail or a chat broke into lines: looked for without white space, where nothing else was found."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from openllama_cli.explain.catalogue import Pattern
from openllama_cli.explain.lines import is_quoted_code, message

# Shorter words, without their spaces, may arise from parts of others.
_SHORTEST = 16


def find_wrapped(lines: Sequence[tuple[int, str]], patterns: Sequence[tuple[str, Pattern]]) -> Iterator[tuple[str, int, str]]:
    """The codes whose messages go over several lines, with the number of the first line and the lines joined.

    lines: numbers and texts, a few thousand at most.
    """
    places, texts = _joined(lines)
    text = "".join(texts)
    for code, pattern in patterns:
        words = "".join(pattern.words.split())
        if words not in text or pattern.of_source or len(pattern.squeezed_words) < _SHORTEST or pattern.text[:1] == "^":
            continue
        if found := pattern.squeezed.search(text):
            first = _line_at(places, found.start())
            last = _line_at(places, found.end() - 1)
            yield code, places[first][1], " ".join(shown for _, _, shown in places[first : last + 1])


def _joined(lines: Sequence[tuple[int, str]]) -> tuple[list[tuple[int, int, str]], list[str]]:
    """Where each line begins in the text without white space, its number and what is shown of it; and that text's parts."""
    places: list[tuple[int, int, str]] = []
    texts: list[str] = []
    length, before = 0, ""
    for number, line in lines:
        shown = message(line)
        if shown and not is_quoted_code(line, before):
            places.append((length, number, shown))
            texts.append("".join(shown.split()))
            length += len(texts[-1])
        before = line
    return places, texts


def _line_at(places: Sequence[tuple[int, int, str]], position: int) -> int:
    return bisect_right(places, position, key=lambda place: place[0]) - 1
