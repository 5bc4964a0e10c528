"""Texts that never appear (`--ban`): found when they are complete, and undone from the token in which they begin.

As koboldcpp's and exllamav2's banned strings: no token is forbidden for what it might become. Only where a banned text stands
complete is the row taken back to its first token, which is then not drawn at that position again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class BannedTexts:
    """Looks for banned texts in the text of one row.

    texts: that are banned; case counts. before: the end of the prompt's text: what begins in it and is completed behind it is
    undone too, from the first token of the completion.
    """

    texts: Sequence[str]
    before: str = ""
    # Of the tokens that may still be taken back: where the text of each begins in `_window`, and whether it goes on with a
    # character that the token before it began.
    _starts: list[tuple[int, bool]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._overlap = max(map(len, self.texts), default=1) - 1
        # The text of these tokens, with so much before them that a banned text may begin there.
        self._window = self.before[len(self.before) - min(self._overlap, len(self.before)) :]

    def push(self, text: str, *, begun: bool, unfinished: bool, own: int = 0, beyond: int = 0) -> tuple[int, int]:
        """Add a token: how many tokens are to be taken back, this one included, and if none are, how many are uncertain.

        text: that became certain with it. begun: whether it goes on with an incomplete character. unfinished: whether it leaves
        one. own: characters at the beginning of `text` that are the prompt's, see `healing`. beyond: characters at its end that
        nobody will see, as the row ends before them.
        """
        start, end = len(self._window), len(self._window) + len(text) - beyond
        self._starts.append((start, begun))
        self._window += text
        # What ends before this token, or in what is the prompt's, is the prompt's own.
        places = [self._window.find(banned, max(0, start + own - len(banned) + 1), end) for banned in self.texts]
        found = [place for place in places if place >= 0]
        if found:
            return self.take_back(len(self._starts) - self._token(min(found))), 0
        first = len(self._starts)
        partial = self._partial()
        if partial is not None:
            first = self._token(partial)
        if unfinished:
            first = min(first, self._begin(len(self._starts) - 1))
        uncertain = len(self._starts) - first
        self._forget(first)
        return 0, uncertain

    def take_back(self, count: int) -> int:
        """Drop the last tokens. Returns their number."""
        self._window = self._window[: self._starts[-count][0]]
        del self._starts[-count:]
        return count

    def _partial(self) -> int | None:
        """Where the earliest text begins that may still become a banned one."""
        first = length = len(self._window)
        for banned in self.texts:
            start = max(0, length - len(banned) + 1)
            while (start := self._window.find(banned[0], start, first)) >= 0:
                if banned.startswith(self._window[start:]):
                    first = start
                    break
                start += 1
        return first if first < length else None

    def _token(self, place: int) -> int:
        """The token in which the character at a place begins; the first one, for a place in the prompt."""
        covering = max((token for token, (start, _) in enumerate(self._starts) if start <= place), default=0)
        return self._begin(covering) if self._starts[covering][0] == place else covering

    def _begin(self, token: int) -> int:
        """The token that began the character that a token goes on with."""
        while token and self._starts[token][1]:
            token -= 1
        return token

    def _forget(self, count: int) -> None:
        """Tokens that are certain, and text that no banned one can begin in."""
        first = self._starts[count][0] if count < len(self._starts) else len(self._window)
        cut = max(0, first - self._overlap)
        self._window = self._window[cut:]
        self._starts = [(start - cut, begun) for start, begun in self._starts[count:]]
