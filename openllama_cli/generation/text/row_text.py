"""The text of one row as its tokens are chosen: what has become certain, what ends it, and what has to be taken back."""

import copy
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.request import FinishReason, Verdict
from openllama_cli.generation.text.banned import BannedTexts
from openllama_cli.generation.text.boundaries import StopAt
from openllama_cli.generation.text.incremental import IncrementalDecoder, StopStrings
from openllama_cli.models.tokenizer.base import Tokenizer

# Tokens of a prompt's end that are decoded, for what begins in it.
_TAIL = 64


class _State(NamedTuple):
    """All that a token changes, but for the decoder's ids."""

    held: str
    stops: StopStrings
    boundary: StopAt | None
    decoded: int
    shown: int
    hidden: int


class RowText:
    """Incremental decoding, then stop strings, then `stop_at`; beside them, banned texts.

    `watch` is called with every token that has text, by the loop, and `pop_text` for every step that comes out of it: a step
    may be held back, since its token may yet be taken back.

    reason: why the text has ended, None while it has not.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], sampling: SamplingConfig, *, hidden: int = 0) -> None:
        """hidden: how many characters of the text are the prompt's, see `healing`."""
        before = ""
        if sampling.ban or sampling.stop_at is not None:
            longest = max(map(len, sampling.ban), default=0)
            before = tokenizer.decode(prompt[-max(_TAIL, 4 * longest) :])
            before = before[: len(before) - tokenizer.unfinished(prompt[-_TAIL:])]
        self._decoder = IncrementalDecoder(tokenizer, prompt)
        self._stops = StopStrings(sampling.stop)
        self._boundary = None if sampling.stop_at is None else StopAt(sampling.stop_at, before)
        self._banned = BannedTexts(sampling.ban, before) if sampling.ban else None
        # Characters that were decoded, and that are shown in the end.
        self._decoded = self._shown = 0
        self._hidden = hidden
        self._undo: deque[_State] = deque()
        self._texts: deque[str] = deque()
        self.reason: FinishReason | None = None

    def watch(self, token: int) -> Verdict:
        """Add a token. See `request.Verdict`."""
        begun = bool(self._decoder.held)
        if self._banned is not None:
            self._undo.append(
                _State(
                    self._decoder.held,
                    copy.copy(self._stops),
                    copy.copy(self._boundary),
                    self._decoded,
                    self._shown,
                    self._hidden,
                )
            )
        text = self._decoder.push(token)
        visible = text[self._hidden :]
        self._hidden -= len(text) - len(visible)
        self._decoded += len(visible)
        shown = self._end_at(visible)
        self._shown += len(shown)
        uncertain = 0
        if self._banned is not None:
            beyond = 0 if self.reason is None else self._decoded - self._shown
            own, unfinished = len(text) - len(visible), bool(self._decoder.held)
            count, uncertain = self._banned.push(text, begun=begun, unfinished=unfinished, own=own, beyond=beyond)
            if count:
                self._take_back(count)
                return Verdict(rollback=count)
            while len(self._undo) > uncertain:
                self._undo.popleft()
        self._texts.append(shown)
        return Verdict(self.reason, uncertain=uncertain)

    def close(self) -> None:
        """No more tokens follow: what was held back is certain now, unless the text has ended."""
        if self.reason is not None:
            return
        text = self._end_at(self._decoder.held)
        if self.reason is None:
            rest = self._stops.held
            if self._boundary is not None:
                more, ended = self._boundary.push(rest)
                rest = more if ended else more + self._boundary.held
                self.reason = self._boundary.reason if ended else None
            text += rest
        self._texts.append(text)

    def pop_text(self) -> str:
        """The text that became certain with the next token that was watched."""
        return self._texts.popleft() if self._texts else ""

    def pop_rest(self) -> str:
        """All that is left."""
        text = "".join(self._texts)
        self._texts.clear()
        return text

    def _end_at(self, text: str) -> str:
        """The text that is certain of this and what was held back before; sets `reason` where it ends in it."""
        text, stopped = self._stops.push(text)
        self.reason = "stop" if stopped else None
        if self._boundary is not None:
            text, ended = self._boundary.push(text)
            if ended:
                self.reason = self._boundary.reason
            elif stopped:
                text += self._boundary.held
        return text

    def _take_back(self, count: int) -> None:
        """Undo the last tokens, the one that was just added included."""
        for _ in range(count - 1):
            self._undo.pop()
            self._texts.pop()
        state = self._undo.pop()
        self._decoder.take_back(count, state.held)
        self._stops, self._boundary, self._hidden = state.stops, state.boundary, state.hidden
        self._decoded, self._shown = state.decoded, state.shown
        self.reason = None
