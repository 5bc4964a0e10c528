"""What the Python interface is given and gives back: sampling options, completions, pieces of a stream, scores, choices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from openllama_cli.generation.choices.scores import ScoredChoice

if TYPE_CHECKING:
    from openllama_cli.generation.decode.config import Boundary
    from openllama_cli.generation.decode.request import FinishReason


class Sampling(TypedDict, total=False):
    """How tokens are chosen and when a completion ends: the fields of `SamplingConfig`, which says what each means."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int | str, float]
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_sequence_breakers: str | list[str] | tuple[str, ...]
    seed: int | None
    min_tokens: int
    stop: str | list[str] | tuple[str, ...]
    stop_token_ids: list[int] | tuple[int, ...]
    stop_at: "Boundary | None"
    ignore_eos: bool
    ban: str | list[str] | tuple[str, ...]
    heal: bool
    loop_guard: bool
    regex: str
    json_schema: str | Mapping[str, Any]
    grammar: str
    logprobs: int | None


@dataclass(frozen=True)
class Completion:
    """What a prompt was completed with. With `echo` the prompt comes first in `text`, `tokens` and the log-probabilities.

    prompt: as it was given.
    text: without the stop string that ended it.
    tokens: ids, without the EOS that ended them; those of a stop string are included.
    logprobs: the natural log-probability of each token, before temperature and filters; None for BOS, which nothing predicts.
        None altogether unless `logprobs` was given.
    top_logprobs: for each token the most likely ones in its place and itself, by their texts (` the`, `bytes:\\xe6` for a part
        of a character), with their log-probabilities.
    finish_reason: "eos" (the model ended the text), "stop" (a stop string or token, or a complete match), "length"
        (`max_tokens`), "context" (it is full), "repetition" (`loop_guard`), or "line", "sentence", "paragraph" (`stop_at`).
    seed: repeats a sampled text; None if greedy.
    complete: whether the text is a complete match of `regex`, `json_schema` or `grammar`; None without them. What was cut by
        `max_tokens`, or ended by `stop`, need not be one.
    """

    prompt: str
    text: str
    tokens: list[int]
    logprobs: list[float | None] | None
    top_logprobs: list[dict[str, float]] | None
    finish_reason: "FinishReason"
    seed: int | None
    complete: bool | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Piece:
    """One step of `Model.stream`.

    text: what has become certain with it: empty while a character is incomplete or a stop string may have begun.
    token, logprob, top_logprobs: of the token generated, as in `Completion`; None where the text ends without one.
    finish_reason: of the last piece, else None.
    """

    text: str
    token: int | None
    logprob: float | None
    top_logprobs: dict[str, float] | None
    finish_reason: "FinishReason | None"


@dataclass(frozen=True)
class Choice:
    """Which of some texts a model prefers after a prompt.

    prompt: as it was given. text: the preferred one; probability: its share, of all of them. alternatives: all choices in the
    order in which they were given, with their log-likelihoods, scores and probabilities.
    """

    prompt: str
    text: str
    probability: float
    alternatives: list[ScoredChoice]

    def __str__(self) -> str:
        return self.text
