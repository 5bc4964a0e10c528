"""What a row came to, and its form in OpenAI's `text_completion` objects."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from openllama_cli.generation.decode.loop import FinishReason, Scored
from openllama_cli.generation.text.incremental import Decoder, IncrementalDecoder
from openllama_cli.generation.text.stream import TextStep


class Spelling(Decoder, Protocol):
    """The part of a tokenizer that names tokens."""

    def piece(self, token: int) -> str:
        """How the vocabulary spells an id."""


@dataclass
class Completion:
    """A row's prompt and what followed it, gathered step by step.

    prompt: token ids with BOS. scored: the tokens taken, a final EOS and the tokens of a stop string included.
    """

    prompt: Sequence[int]
    text: str = ""
    scored: list[Scored] = field(default_factory=list)
    prompt_scored: tuple[Scored, ...] = ()
    finish_reason: FinishReason | None = None

    def add(self, step: TextStep) -> None:
        """Take the row's next step. Raises the row's error, if that is what the step brings."""
        if step.error is not None:
            raise step.error
        self.text += step.text
        self.prompt_scored = step.prompt or self.prompt_scored
        if step.scored is not None:
            self.scored.append(step.scored)
        self.finish_reason = step.finish_reason or self.finish_reason

    @property
    def shown(self) -> list[Scored]:
        """The tokens taken, without a final EOS."""
        return self.scored[:-1] if self.finish_reason == "eos" else self.scored


def openai_reason(reason: FinishReason | None) -> Literal["stop", "length"]:
    """OpenAI tells two ends apart: the text ended, or no more was allowed."""
    return "stop" if reason in ("eos", "stop") else "length"


def usage(completions: Sequence[Completion]) -> dict[str, int]:
    """OpenAI's `usage`. completion_tokens counts every token the model made, EOS included; a shared prompt counts once."""
    prompt = len(completions[0].prompt) if completions else 0
    made = sum(len(completion.scored) for completion in completions)
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def choice(index: int, completion: Completion, tokenizer: Spelling, *, echo: str | None, logprobs: bool) -> dict[str, Any]:
    """One entry of `choices`. echo: the prompt's text, if it is to stand in front."""
    return {
        "index": index,
        "text": (echo or "") + completion.text,
        "finish_reason": openai_reason(completion.finish_reason),
        "logprobs": logprobs_object(completion, tokenizer, echo=echo) if logprobs else None,
    }


def logprobs_object(completion: Completion, tokenizer: Spelling, *, echo: str | None) -> dict[str, Any]:
    """OpenAI's `logprobs`: tokens, their log-probabilities and alternatives, and where each begins in the choice's text.

    With an echo the prompt's tokens stand first, BOS included; nothing predicts BOS, so its log-probability is null.
    Tokens that lie wholly in a cut-off stop string are left out.
    """
    entries: list[tuple[Scored, int]] = []
    if echo is not None:
        entries += zip(completion.prompt_scored, _offsets(tokenizer, (), completion.prompt), strict=True)
    start = len(echo or "")
    offsets = _offsets(tokenizer, completion.prompt, [scored.token for scored in completion.shown])
    end = len(completion.text)
    for scored, offset in zip(completion.shown, offsets, strict=True):
        if offset < end or completion.finish_reason != "stop":
            entries.append((scored, start + min(offset, end)))
    return {
        "tokens": [token_text(tokenizer, scored.token) for scored, _ in entries],
        "token_logprobs": [scored.logprob for scored, _ in entries],
        "top_logprobs": [_by_text(tokenizer, scored.top) if scored.logprob is not None else None for scored, _ in entries],
        "text_offset": [offset for _, offset in entries],
    }


def token_text(tokenizer: Spelling, token: int) -> str:
    r"""A token as OpenAI spells it: its text; a byte of a longer character as ``bytes:\xe3``."""
    piece = tokenizer.piece(token)
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
        value = int(byte.group(1), 16)
        return chr(value) if value < 0x80 else f"bytes:\\x{value:02x}"
    return piece.replace("▁", " ")


def _by_text(tokenizer: Spelling, top: Sequence[tuple[int, float]]) -> dict[str, float]:
    # Two ids may have the same text; the likelier one comes first and is kept.
    named: dict[str, float] = {}
    for token, logprob in top:
        named.setdefault(token_text(tokenizer, token), logprob)
    return named


def _offsets(tokenizer: Decoder, prefix: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Where each token begins in the text of `tokens` after `prefix`, in characters."""
    decoder = IncrementalDecoder(tokenizer, prefix)
    offsets, length = [], 0
    for token in tokens:
        offsets.append(length)
        length += len(decoder.push(token))
    return offsets
