"""Token ids → text as it becomes certain: whole characters, right spaces, nothing that a stop string may still take back."""

from collections.abc import Sequence
from typing import Protocol

from openllama_cli.generation.stopping import StopMatcher


class Decoder(Protocol):
    """The part of a tokenizer that text needs; see `models.tokenizer.Tokenizer`."""

    def decode_continuation(self, prefix: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add after `prefix`."""

    def unfinished(self, ids: Sequence[int]) -> int:
        """How many of the last ids are bytes of a character that is not whole yet."""


class IncrementalDecoder:
    """Turns the tokens that follow a prompt into text, token by token.

    Joined, the pieces are `decode(prompt + tokens)` without `decode(prompt)`. Bytes of a character that is not complete
    yet are held back.
    """

    def __init__(self, decoder: Decoder, prompt: Sequence[int]) -> None:
        self._decoder = decoder
        # Tokens whose text has been shown and which end with a whole character, those after them, and how much of the
        # latter's text has been shown.
        self._prefix = list(prompt)
        self._pending: list[int] = []
        self._shown = 0

    def push(self, token: int) -> str:
        """The text that has become certain with this token; empty while a character is incomplete."""
        self._pending.append(token)
        # A character may have begun in the prompt, if the prompt was given as tokens.
        unfinished = self._decoder.unfinished([*self._prefix[-3:], *self._pending])
        text = self._show(max(0, len(self._pending) - unfinished))
        if unfinished == 0:
            self._prefix += self._pending
            self._pending, self._shown = [], 0
        return text

    def finish(self) -> str:
        """The rest: bytes that never became a character, as replacement characters."""
        return self._show(len(self._pending))

    def _show(self, count: int) -> str:
        if count == 0:
            return ""
        text = self._decoder.decode_continuation(self._prefix, self._pending[:count])
        new, self._shown = text[self._shown :], len(text)
        return new


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
