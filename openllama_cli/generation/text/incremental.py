"""Token ids to text as it becomes certain: complete characters, correct spaces, nothing that a stop string may still remove."""

from collections.abc import Sequence

from openllama_cli.models.tokenizer.base import Tokenizer


class IncrementalDecoder:
    """Decodes the tokens that follow a prompt, one by one.

    Joined, the pieces are `decode(prompt + tokens)` without `decode(prompt)`. Bytes of an incomplete character are held back.
    held: once no token follows, the rest: bytes that never became a character, as replacement characters.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt)
        self.held = ""

    def push(self, token: int) -> str:
        """The text that this token makes certain; empty while a character is incomplete."""
        # The tokenizer counts what was unfinished at the end of the ids so far as text of the new token.
        text = self._tokenizer.decode_continuation(self._ids, [token])
        self._ids.append(token)
        certain = len(text) - self._tokenizer.unfinished(self._ids[-4:])
        self.held = text[certain:]
        return text[:certain]

    def take_back(self, count: int, held: str) -> None:
        """Drop the last tokens. held: as it was before them."""
        del self._ids[len(self._ids) - count :]
        self.held = held


class StopStrings:
    """Finds the first stop string in text that arrives in pieces; holds back only what may still become one.

    held: the text held back, certain once no more can follow.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is now certain, and whether a stop string is complete: it and all after it are dropped.

        If several are complete, the one that ends first counts; of those, the one that starts first.
        """
        text = self.held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.held = ""
            return text[: min(found)[1]], True
        sizes = range(min(self._longest - 1, len(text)), 0, -1)
        held = next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)
        certain = len(text) - held
        self.held = text[certain:]
        return text[:certain], False
