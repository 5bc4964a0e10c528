"""What the decode loop is given and gives back: requests in, steps out; token ids only."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch

from openllama_cli.errors import OlcError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.trace import Trace
from openllama_cli.generation.decode.vocabulary import Pieceless, banned_index, without

# "eos": the model ended the text; "stop": a stop string or token, or a choice was made; "length": max tokens; "context": no
# position is left; "repetition": it went in circles; the rest: a complete one stands there, as `stop_at` asks.
FinishReason = Literal["eos", "stop", "length", "context", "repetition", "line", "sentence", "paragraph"]


class Verdict(NamedTuple):
    """What a token means for the text of its row.

    reason: the row ends with it. rollback: it and the tokens before it, so many in all, are taken back, and the first of them
    is not drawn at its position again. uncertain: how many of the last tokens may still be taken back.
    """

    reason: FinishReason | None = None
    rollback: int = 0
    uncertain: int = 0


GO_ON = Verdict()


class Constraint(Protocol):
    """What a row's tokens have to be. One object a row; it is told of every token that is kept, EOS included."""

    def mask(self, vocabulary: int) -> torch.Tensor | None:
        """The tokens that may come next, as [vocabulary] booleans; None for all."""

    def push(self, token: int) -> None:
        """A token was chosen."""

    def take_back(self, count: int) -> None:
        """The last tokens were not to be."""

    @property
    def finished(self) -> bool:
        """Whether the row is to end here, as nothing may follow."""


@dataclass(frozen=True)
class Request:
    """A prompt to complete, and what ends its row besides its limits.

    row: its identity: names it in events and, with the seed, determines its random numbers. draws_as: used for the random
    numbers instead, if given. tokens: at least one, at most the model's context. score: also report the prompt's
    log-probabilities, but for its first `unscored` tokens. speculate: maximum number of tokens that are drafted and verified in
    one pass (see `loop.draft`); changes no result. eos: ids that end it. watch: called with every token that has text, and says
    what it means (stop strings, bans: text is not known here). pieceless: tells the ids that are never drawn; None: all may be.
    breakers: ids that DRY takes for breakers. constraints: what the tokens have to be; for one run of this request.
    trace: how many candidates of each step are recorded with what the processors did to them; None: none. canceled: asked
    before every step; true ends the row with an error whose code is "canceled".

    stride: a prompt that is scored and not completed may be longer than the context: it is then scored in overlapping windows,
    each `stride` tokens further than the one before and with the first `lead` tokens (BOS) in front; see `prefill.windows`.
    branches: continuations of the prompt, none empty, that are scored on it instead of completing it.
    """

    row: int
    tokens: Sequence[int]
    sampling: SamplingConfig
    score: bool = False
    draws_as: int | None = None
    speculate: int = 0
    eos: frozenset[int] = frozenset()
    watch: Callable[[int], Verdict] | None = None
    pieceless: Pieceless | None = None
    breakers: frozenset[int] = frozenset()
    constraints: Sequence[Constraint] = ()
    trace: int | None = None
    canceled: Callable[[], bool] | None = None
    unscored: int = 0
    stride: int | None = None
    lead: int = 0
    branches: Sequence[Sequence[int]] = ()

    def banned(self, logits: torch.Tensor) -> torch.Tensor | None:
        """The ids that are never drawn, as an index into [..., vocab] logits."""
        return banned_index(self.pieceless, self.eos, logits.shape[-1], logits.device)


@dataclass(frozen=True)
class Scored:
    """A token with the log-probability (natural) that the model gave it, and the K most likely tokens at its position.

    entropy: of the distribution there, in bits. rank: 1 if no token was more likely, of those that may be drawn. All but the
    token are None or empty if nothing predicts it, and the rank also where it was not asked for.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    entropy: float | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Step:
    """A row's prompt was prefilled; or it got a token, or ended, or both. Its last step has a finish_reason or an error.

    scored: None if the row ends without a token (max tokens 0, context full, error, branches). prompt: once it is prefilled,
    one entry per prompt token, if asked for. branches: an entry per token of each. trace: of the token, if asked for.
    """

    row: int
    scored: Scored | None = None
    finish_reason: FinishReason | None = None
    error: OlcError | None = None
    prefilled: bool = False
    prompt: tuple[Scored, ...] = ()
    branches: tuple[tuple[Scored, ...], ...] = ()
    trace: Trace | None = None


def draws_of(row: int | None, sample: int) -> int:
    """Which random numbers a sample draws (`Request.draws_as`): of a row of a batch, all samples of all rows others; without
    one, as `olc complete --num-samples` with the same seed. The first sample draws as the row itself."""
    return sample if row is None else row + (sample << 32)


def score_each(tokens: Sequence[int], logprobs: torch.Tensor, count: int, banned: torch.Tensor | None = None) -> list[Scored]:
    """Tokens with their log-probabilities, ranks, entropies and the `count` most likely tokens in the place of each.

    logprobs: [n, vocab], log-softmax, one row a token. banned: ids that are not among the most likely, as they are never drawn,
    and that no rank counts; the distribution has them.
    """
    drawable = without(logprobs, banned)
    known = logprobs.shape[-1] - (0 if banned is None else banned.numel())
    values, best = drawable.topk(min(count, known))
    own = logprobs[torch.arange(len(tokens)), torch.tensor(tokens, device=logprobs.device)]
    ranks = (drawable > own[:, None]).sum(-1) + 1
    entropies = torch.special.entr(logprobs.exp()).sum(-1) / math.log(2)
    columns = (own.tolist(), best.tolist(), values.tolist(), entropies.tolist(), ranks.tolist())
    return [
        Scored(token, logprob, tuple(zip(ids, tops, strict=True)), entropy, rank)
        for token, logprob, ids, tops, entropy, rank in zip(tokens, *columns, strict=True)
    ]


def score(token: int, logprobs: torch.Tensor, count: int, banned: torch.Tensor | None = None) -> Scored:
    """`score_each` of one token, from [vocab] log-probabilities."""
    return score_each([token], logprobs[None], count, banned)[0]
