"""Stop strings: found wherever they lie in the text, across token borders, and never shown."""

from collections import deque
from collections.abc import Sequence


class StopMatcher:
    """Looks for several texts at once in text that arrives in pieces (Aho and Corasick 1975).

    The automaton's state is the longest suffix of the text so far that begins some stop string; that suffix is held back,
    since it may become a stop string. Falling back along suffix links, rather than to the start, finds `112` in `1112`.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail: list[int] = [0]
        self._depth: list[int] = [0]
        # The longest stop string that ends at a state; it starts first, so the text is cut there.
        self._match: list[int] = [0]
        for stop in stops:
            self._add(stop)
        self._link()
        self._state = 0
        self._held = ""

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self._depth.append(self._depth[state] + 1)
                self._match.append(0)
            state = self._next[state][character]
        self._match[state] = len(stop)

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            self._match[state] = max(self._match[state], self._match[self._fail[state]])
            for character, child in self._next[state].items():
                self._fail[child] = self._step(self._fail[state], character)
                queue.append(child)

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(character, 0)

    def push(self, text: str) -> tuple[str, bool]:
        """Take more text; return what is now certain to be shown, and whether a stop string was completed.

        After a stop string everything from its start on is dropped; push no more.
        """
        self._held += text
        start = len(self._held) - len(text)
        for position in range(start, len(self._held)):
            self._state = self._step(self._state, self._held[position])
            if self._match[self._state]:
                shown = self._held[: position + 1 - self._match[self._state]]
                self._held = ""
                return shown, True
        keep = self._depth[self._state]
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def finish(self) -> str:
        """The text held back, once it is certain that no more comes."""
        held, self._held, self._state = self._held, "", 0
        return held
