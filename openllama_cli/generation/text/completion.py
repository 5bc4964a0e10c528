"""The result of a row: its text and tokens, its form in OpenAI's `text_completion` objects, and how long it took."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from openllama_cli.errors import ModelError
from openllama_cli.generation.constraints.config import Constraint
from openllama_cli.generation.constraints.config import told as matched
from openllama_cli.generation.decode.config import TEXT_ENDS
from openllama_cli.generation.decode.request import FinishReason, Scored
from openllama_cli.generation.decode.trace import Trace
from openllama_cli.generation.text.healing import NOTHING, Healed
from openllama_cli.generation.text.offsets import prompt_offsets, token_offsets
from openllama_cli.generation.text.stream import TextStep
from openllama_cli.models.tokenizer.base import Tokenizer


@dataclass
class Completion:
    """A row's prompt and its completion, collected step by step.

    prompt: token ids with BOS. scored: the completion's tokens, including a final EOS and the tokens of a stop string.
    prompt_scored: the prompt's tokens, if they were scored. branches: the tokens of the request's branches. healed: what of
    the prompt's end the completion's tokens begin with and its text does not; these tokens are then not in `prompt`.
    """

    prompt: Sequence[int]
    text: str = ""
    scored: list[Scored] = field(default_factory=list)
    prompt_scored: tuple[Scored, ...] = ()
    branches: tuple[tuple[Scored, ...], ...] = ()
    finish_reason: FinishReason | None = None
    healed: Healed = NOTHING

    def add(self, step: TextStep) -> None:
        """Add the row's next step. Raises the step's error, if it has one."""
        if step.error is not None:
            raise step.error
        self.text += step.text
        if step.healed.tokens:
            self.prompt, self.healed = self.prompt[: len(self.prompt) - step.healed.tokens], step.healed
        self.prompt_scored = step.prompt or self.prompt_scored
        self.branches = step.branches or self.branches
        if step.scored is not None:
            self.scored.append(step.scored)
        self.finish_reason = step.finish_reason or self.finish_reason

    @property
    def shown(self) -> list[Scored]:
        """The completion's tokens without a final EOS."""
        return self.scored[:-1] if self.finish_reason == "eos" else self.scored


def best_of(completions: Sequence[Completion], count: int) -> list[int]:
    """The places of the `count` completions whose tokens have the highest mean log-probability, the best first; all in their
    order if there are no more. Their tokens have to be scored.
    """
    places = range(len(completions))
    if count >= len(completions):
        return list(places)
    return sorted(places, key=lambda place: -_mean(completions[place].scored))[:count]


def _mean(scored: Sequence[Scored]) -> float:
    return sum(entry.logprob or 0.0 for entry in scored) / len(scored) if scored else 0.0


def openai_reason(reason: FinishReason | None) -> Literal["stop", "length"]:
    """OpenAI has two reasons: the text ended, or a limit was reached."""
    return "length" if reason in (None, "length", "context") else "stop"


# What OpenAI's two reasons do not say.
_NOTES: dict[FinishReason, str] = {
    "repetition": "the text repeated itself, and was ended by the loop guard",
    "line": "ended after a complete line, as stop_at asks",
    "sentence": "ended after a complete sentence, as stop_at asks",
    "paragraph": "ended after a complete paragraph, as stop_at asks",
}


def told(reason: FinishReason | None) -> dict[str, Any]:
    """olc's own reason and a note, for those that OpenAI's do not say; else empty."""
    return {"finish_reason": reason, "note": _NOTES[reason]} if reason in _NOTES else {}


def usage(completions: Sequence[Completion]) -> dict[str, int]:
    """OpenAI's `usage`. completion_tokens counts every generated token, EOS included; a shared prompt counts once."""
    # Tokens that are drawn anew were the prompt's.
    prompt = len(completions[0].prompt) + completions[0].healed.tokens if completions else 0
    generated = sum(len(completion.scored) for completion in completions)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def choice(
    index: int,
    completion: Completion,
    tokenizer: Tokenizer,
    *,
    echo: str | None,
    logprobs: bool,
    constraint: Constraint | None = None,
) -> dict[str, Any]:
    """One entry of `choices`. echo: the prompt's text, if it is to precede the completion. constraint: that its text has to
    match.
    """
    own = told(completion.finish_reason) | matched(constraint, completion.text)
    return {
        "index": index,
        "text": (echo or "") + completion.text,
        "finish_reason": openai_reason(completion.finish_reason),
        "logprobs": logprobs_object(completion, tokenizer, echo=echo) if logprobs else None,
        **({"olc": own} if own else {}),
    }


def logprobs_object(completion: Completion, tokenizer: Tokenizer, *, echo: str | None) -> dict[str, Any]:
    """OpenAI's `logprobs`: tokens, their log-probabilities and alternatives, and where each starts in the choice's text.

    With an echo the prompt's tokens come first, BOS included; nothing predicts BOS, so its log-probability is null.
    A final EOS is listed, as by OpenAI and vLLM: whoever counts prompt + max_tokens entries (lm-evaluation-harness) would
    lose a token without it. Tokens that are entirely part of what was cut off, such as a stop string, are left out.
    """
    entries: list[tuple[Scored, int]] = []
    if echo is not None:
        offsets = prompt_offsets(tokenizer, echo, completion.prompt)
        entries += zip(completion.prompt_scored, offsets, strict=True)
    start = len(echo or "")
    offsets = completion_offsets(tokenizer, completion, completion.scored)
    end = len(completion.text)
    for scored, offset in zip(completion.scored, offsets, strict=True):
        if offset < end or completion.finish_reason not in TEXT_ENDS:
            entries.append((scored, start + min(offset, end)))
    return logprobs_of(entries, tokenizer)


def completion_offsets(tokenizer: Tokenizer, completion: Completion, scored: Sequence[Scored]) -> list[int]:
    """Where each of a completion's tokens starts in its text; those of a healed word before its beginning start there."""
    offsets = token_offsets(tokenizer, completion.prompt, [entry.token for entry in scored])
    return [max(0, offset - completion.healed.characters) for offset in offsets]


def logprobs_of(entries: Sequence[tuple[Scored, int]], tokenizer: Tokenizer) -> dict[str, Any]:
    """OpenAI's `logprobs` of tokens and where each starts in the choice's text."""
    return {
        "tokens": [tokenizer.text(scored.token) for scored, _ in entries],
        "token_logprobs": [scored.logprob for scored, _ in entries],
        "top_logprobs": [alternatives(tokenizer, scored) if scored.logprob is not None else None for scored, _ in entries],
        "text_offset": [offset for _, offset in entries],
    }


def alternatives(tokenizer: Tokenizer, scored: Scored) -> dict[str, float]:
    """The most likely tokens in a token's place, by their texts, and the token itself: K entries, or K + 1.

    A second id with the same text, or one without a piece, is `token 259`. The order is by probability.
    """
    if scored.logprob is None:
        return {}
    own = (scored.token, scored.logprob)
    found = {_text(tokenizer, scored.token): own}
    for token, logprob in scored.top:
        if token != scored.token:
            text = _text(tokenizer, token)
            found[f"token {token}" if text in found else text] = (token, logprob)
    ranks = {token: rank for rank, (token, _) in enumerate(scored.top)}
    ordered = sorted(found.items(), key=lambda entry: ranks.get(entry[1][0], len(ranks)))
    return {text: logprob for text, (_, logprob) in ordered}


def _text(tokenizer: Tokenizer, token: int) -> str:
    try:
        return tokenizer.text(token)
    except ModelError:  # A row of the model's embedding that its tokenizer has no piece for.
        return f"token {token}"


@dataclass
class Timings:
    """Times a run over some rows by its steps as they arrive. Create it right before the first prefill.

    load_s: seconds to load the model. prompt_tokens: of the first row's prompt.
    """

    load_s: float
    prompt_tokens: int
    started: float = field(default_factory=time.perf_counter)
    prefilled: float | None = None
    first: float | None = None
    last: float | None = None
    decoded: int = 0
    decode_s: float = 0.0
    _started_rows: set[int] = field(default_factory=set)

    def add(self, step: TextStep) -> None:
        """Record a step at the time it arrives."""
        now = time.perf_counter()
        if self.prefilled is None and (step.prompt or step.branches or step.scored is not None):
            self.prefilled = now
        if step.scored is not None:
            if step.row in self._started_rows:
                self.decoded += 1
                self.decode_s += now - (self.last or self.started)
            self._started_rows.add(step.row)
            self.first = self.first or now
        self.last = now

    def as_dict(self) -> dict[str, float | None]:
        """Seconds, and tokens per second; null if nothing was measured.

        time_to_first_token_s is from the start of prefill. prefill_tokens_per_s is of the first row: later rows may reuse its
        prefix. decode_tokens_per_s is of all rows together, from the second token of each, without the time of other rows'
        prefills. total_s is loading plus generation.
        """
        to_first = None if self.first is None else self.first - self.started
        prefill = None if self.prefilled is None else self.prefilled - self.started
        figures = {
            "load_s": self.load_s,
            "time_to_first_token_s": to_first,
            "prefill_tokens_per_s": self.prompt_tokens / prefill if prefill else None,
            "decode_tokens_per_s": self.decoded / self.decode_s if self.decode_s else None,
            "total_s": self.load_s + (self.last or self.started) - self.started,
        }
        return {name: None if value is None else round(value, 4) for name, value in figures.items()}


def trace_document(trace: Trace, position: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """A step's trace for JSON. position: of the token, from 0. Pieces as SentencePiece writes them, with ▁ for a space."""
    candidates = [{**asdict(one), "piece": tokenizer.text(one.token).replace(" ", "▁")} for one in trace.candidates]
    taken = next(one for one in candidates if one["taken"])
    return {
        "position": position,
        "token": taken["token"],
        "piece": taken["piece"],
        "entropy_bits": trace.entropy,
        "stages": list(trace.stages),
        "candidates": candidates,
    }
