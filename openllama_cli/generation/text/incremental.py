"""Token ids to text as it becomes certain: complete characters, correct spaces, nothing that a stop string may still remove."""

from collections.abc import Sequence

from openllama_cli.models.tokenizer.base import Tokenizer


class IncrementalDecoder:
    """Decodes the tokens that follow a prompt, one by one.

    Joined, the pieces are `decode(prompt + tokens)` without `decode(prompt)`. Bytes of an incomplete character are held back.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt)
        self._held = ""

    def push(self, token: int) -> str:
        """The text that this token makes certain; empty while a character is incomplete."""
        # The tokenizer counts what was unfinished at the end of the ids so far as text of the new token.
        text = self._tokenizer.decode_continuation(self._ids, [token])
        self._ids.append(token)
        certain = len(text) - self._tokenizer.unfinished(self._ids[-4:])
        self._held = text[certain:]
        return text[:certain]

    @property
    def held(self) -> int:
        """How many characters are held back: U+FFFD for bytes that may still become one."""
        return len(self._held)

    def finish(self) -> str:
        """The rest: bytes that never became a character, as replacement characters."""
        held, self._held = self._held, ""
        return held


class StopStrings:
    """Finds the first stop string in text that arrives in pieces; holds back only what may still become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is now certain, and whether a stop string is complete: it and all after it are dropped.

        If several are complete, the one that ends first counts; of those, the one that starts first.
        """
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        sizes = range(min(self._longest - 1, len(text)), 0, -1)
        held = next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)
        certain = len(text) - held
        self._held = text[certain:]
        return text[:certain], False

    def finish(self) -> str:
        """The text held back, once no more can follow."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """The text of one row: incremental decoding, then stop strings.

    `watch` is called with every token but EOS. finished: whether a stop string is complete.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(tokenizer, prompt)
        self._stops = StopStrings(stops)
        self._pending = ""
        self.finished = False

    def watch(self, token: int) -> bool:
        """Add a token; true once a stop string is complete. See `loop.Request.watch`."""
        text, self.finished = self._stops.push(self._decoder.push(token))
        self._pending += text
        return self.finished

    def close(self) -> None:
        """No more tokens follow: what was held back is certain now, unless a stop string is complete."""
        if self.finished:
            return
        text, self.finished = self._stops.push(self._decoder.finish())
        self._pending += text
        if not self.finished:
            self._pending += self._stops.finish()

    def pop_text(self) -> str:
        """The text that has become certain since the last call."""
        text, self._pending = self._pending, ""
        return text
