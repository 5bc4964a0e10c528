"""Logit processors: from a model's logits to the distribution that a token is drawn from, in one order, each row by itself.

1. what is never drawn here: ids without a piece, EOS before `min_tokens` or with `ignore_eos`, ids that a rollback has ruled
   out at this position, ids that a constraint does not allow
2. logit bias
3. repetition penalty
4. frequency and presence penalty
5. DRY
6. temperature, top-k, top-p, min-p; not for greedy rows

All in float32. From 3 to 6 it is the order of transformers (`_get_logits_processor`), with OpenAI's penalties after the
repetition penalty, as in vLLM. The trace shows these very stages.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from openllama_cli.errors import GenerationError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.dry import dry_penalties
from openllama_cli.generation.decode.vocabulary import without

# A stage's name and the [vocab] logits after it.
Stage = tuple[str, torch.Tensor]


@dataclass(frozen=True)
class Place:
    """Where in a row a token is chosen.

    seen: the row's tokens so far; the first `prompt` of them are the prompt's. pieceless: ids that no place draws, as an index
    (see `vocabulary`). never: ids that this place does not draw. masks: [vocab] booleans, false where a constraint allows no
    token. breakers: ids that break a sequence, for DRY.
    """

    seen: Sequence[int] = ()
    prompt: int = 0
    pieceless: torch.Tensor | None = None
    never: Sequence[int] = ()
    masks: Sequence[torch.Tensor] = ()
    breakers: frozenset[int] = frozenset()


def stages(logits: torch.Tensor, place: Place, config: SamplingConfig) -> Iterator[Stage]:
    """The processors that have something to do, in order: "allowed" always, then those of the options. [vocab] logits in,
    float32 and finite. Raises GenerationError (code "no_token_left") if nothing may be drawn.
    """
    logits = _allowed(logits, place)
    yield "allowed", logits
    if config.logit_bias:
        logits = add(logits, [(token, added) for token, added in config.logit_bias if isinstance(token, int)])
        yield "logit bias", logits
    if config.repetition_penalty != 1:
        logits = penalize(logits, place.seen, config.repetition_penalty)
        yield "repetition penalty", logits
    if config.frequency_penalty != 0 or config.presence_penalty != 0:
        counts = Counter(place.seen[place.prompt :]).items()
        logits = add(logits, [(token, -config.presence_penalty - count * config.frequency_penalty) for token, count in counts])
        yield "frequency and presence", logits
    if config.dry_multiplier > 0:
        penalties = dry_penalties(place.seen, place.breakers, config.dry_multiplier, config.dry_base, config.dry_allowed_length)
        logits = add(logits, [(token, -penalty) for token, penalty in penalties.items()])
        yield "DRY", logits
    if not config.greedy:
        yield from _truncated(logits, config)


def _allowed(logits: torch.Tensor, place: Place) -> torch.Tensor:
    logits = without(logits, place.pieceless)
    never = [token for token in place.never if token < logits.numel()]
    if not never and not place.masks:
        return logits
    if never:
        logits = logits.index_fill(0, torch.tensor(never, device=logits.device), -torch.inf)
    for mask in place.masks:
        logits = logits.masked_fill(~mask.to(logits.device), -torch.inf)
    if float(logits.max()) == -math.inf:
        raise GenerationError(
            "no token may follow here: all are banned, or not what is asked for",
            "loosen --ban, --min-tokens, --ignore-eos or the constraint",
            code="no_token_left",
        )
    return logits


def add(logits: torch.Tensor, changes: Iterable[tuple[int, float]]) -> torch.Tensor:
    """[vocab] logits with a number added to some; ids that the model does not have are left out."""
    known = [(token, added) for token, added in changes if token < logits.numel()]
    if not known:
        return logits
    index = torch.tensor([token for token, _ in known], device=logits.device)
    added = torch.tensor([added for _, added in known], device=logits.device, dtype=logits.dtype)
    return _changed(logits, index, logits[index] + added)


def penalize(logits: torch.Tensor, seen: Sequence[int], penalty: float) -> torch.Tensor:
    """Divide positive and multiply negative logits of tokens seen before (Keskar et al. 2019, CTRL)."""
    index = torch.tensor(sorted(set(seen)), device=logits.device, dtype=torch.long)
    score = logits[index]
    return _changed(logits, index, torch.where(score < 0, score * penalty, score / penalty))


def _changed(logits: torch.Tensor, index: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """[vocab] logits with other scores at an index, finite ones. What is not drawn (-inf) stays out; nothing else becomes -inf,
    from which it could not be told where nothing else is left, and a logit of 0 that is divided by 0 is no NaN.
    """
    kept = logits[index]
    return logits.index_copy(0, index, torch.where(kept.isinf(), kept, scores.nan_to_num()))


def _truncated(logits: torch.Tensor, config: SamplingConfig) -> Iterator[Stage]:
    """Temperature and what cuts tokens off.

    Each filter sees the distribution renormalized over what the previous one kept. The most likely token is always kept.
    """
    # A temperature beyond float32 would make NaN of what is not drawn.
    tempered = logits / min(config.temperature, torch.finfo(logits.dtype).max)
    # Low temperatures overflow float32; differences from the largest do not.
    logits = tempered if math.isfinite(tempered.max()) else (logits - logits.max()) / config.temperature
    yield "temperature", logits
    if 0 < config.top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(config.top_k).values[-1], -torch.inf)
        yield "top-k", logits
    if config.top_p < 1:
        # Nucleus sampling (Holtzman et al. 2020): the smallest set of most likely tokens whose probability reaches top_p.
        ascending, order = logits.sort(stable=True)
        cut = ascending.softmax(-1).cumsum(-1) <= 1 - config.top_p
        cut[-1] = False
        logits = logits.masked_fill(torch.zeros_like(cut).scatter(0, order, cut), -torch.inf)
        yield "top-p", logits
    if config.min_p > 0:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < config.min_p * probabilities.max(), -torch.inf)
        yield "min-p", logits
