"""Token ids → text as it becomes certain: whole characters, right spaces, nothing that a stop string may still take back."""

from collections.abc import Sequence
from typing import Protocol

from openllama_cli.generation.text.stop_strings import StopMatcher


class Decoder(Protocol):
    """The part of a tokenizer that text needs; see `models.tokenizer.Tokenizer`."""

    def decode_continuation(self, prefix: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add after `prefix`."""

    def unfinished(self, ids: Sequence[int]) -> int:
        """How many characters at the end of the text of ids, 0 to 3, are bytes of a character that is not whole yet."""


class IncrementalDecoder:
    """Turns the tokens that follow a prompt into text, token by token.

    Joined, the pieces are `decode(prompt + tokens)` without `decode(prompt)`. Bytes of a character that is not complete
    yet are held back.
    """

    def __init__(self, decoder: Decoder, prompt: Sequence[int]) -> None:
        self._decoder = decoder
        self._ids = list(prompt)
        self._held = ""

    def push(self, token: int) -> str:
        """The text that has become certain with this token; empty while a character is incomplete."""
        # The decoder counts what is unfinished at the end of the ids so far with the new token's text.
        text = self._decoder.decode_continuation(self._ids, [token])
        self._ids.append(token)
        certain = len(text) - self._decoder.unfinished(self._ids[-4:])
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """The rest: bytes that never became a character, as replacement characters."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """The text of one row: incremental decoding, then stop strings.

    `push` is given every token but EOS; `finished` tells that a stop string was completed. `shown` is all text so far.
    """

    def __init__(self, decoder: Decoder, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(decoder, prompt)
        self._matcher = StopMatcher(stops)
        self._pending = ""
        self.finished = False

    def watch(self, token: int) -> bool:
        """Take a token; true once a stop string is complete. The loop's `Request.watch`."""
        text, self.finished = self._matcher.push(self._decoder.push(token))
        self._pending += text
        return self.finished

    def close(self) -> None:
        """No more tokens come: what was held back is certain now, unless a stop string was completed."""
        if self.finished:
            return
        text, self.finished = self._matcher.push(self._decoder.finish())
        self._pending += text
        if not self.finished:
            self._pending += self._matcher.finish()

    def take(self) -> str:
        """The text that has become certain since the last call."""
        text, self._pending = self._pending, ""
        return text
