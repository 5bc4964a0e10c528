"""From logits to a token: the filters of a row, in the order transformers applies them, and the sampling.

All in float32. Order (transformers `_get_logits_processor`): repetition penalty, temperature, top-k, top-p, min-p. OpenAI's
bias comes before them, its penalties come after the first, as in vLLM. Sampling inverts the cumulative distribution at one
uniform number per token from the row's own generator, so it does not depend on the other rows or on the batch size.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from openllama_cli.errors import GenerationError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.vocabulary import without


def row_seed(seed: int, row: int) -> int:
    """A row's own seed, in torch's range (63 bits), for any two integers."""
    digest = hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def row_generator(seed: int, row: int) -> torch.Generator:
    """The random numbers of one row: they depend on the seed and the row's identity alone."""
    return torch.Generator().manual_seed(row_seed(seed, row))


def choose_token(
    logits: torch.Tensor,
    seen: Sequence[int],
    config: SamplingConfig,
    generator: torch.Generator | None,
    banned: torch.Tensor | None = None,
    prompt: int = 0,
) -> int:
    """Sample one token, or the most likely one if `config` is greedy.

    logits: [vocab], float32. seen: the row's tokens so far, prompt included, for the repetition penalty. banned: ids that are
    never chosen, see `vocabulary`. prompt: how many of `seen` are the prompt's, which OpenAI's penalties do not count.
    Raises GenerationError if the logits are not finite.
    """
    require_finite(logits)
    logits = without(logits, banned)
    if config.logit_bias:
        logits = add(logits, config.logit_bias)
    if config.repetition_penalty != 1:
        logits = penalize(logits, seen, config.repetition_penalty)
    if config.frequency_penalty != 0 or config.presence_penalty != 0:
        counts = Counter(seen[prompt:]).items()
        logits = add(logits, [(token, -config.presence_penalty - count * config.frequency_penalty) for token, count in counts])
    if config.greedy:
        # NumPy's argmax is vectorized. Both take the first of several largest logits.
        return int(logits.numpy().argmax() if logits.device.type == "cpu" else logits.argmax())
    probabilities = warp(logits, config).cpu()
    # float64: 32,000 float32 additions could leave the last sum below the number drawn.
    cumulative = probabilities.double().cumsum(0)
    drawn = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
    token = int(torch.searchsorted(cumulative, drawn, right=True))
    return min(token, int(probabilities.nonzero()[-1]))


def require_finite(logits: torch.Tensor) -> None:
    """Raise GenerationError if any logit is NaN or infinite."""
    low, high = torch.aminmax(logits)  # Both are NaN if any logit is; takes an eighth of the time of isfinite().all().
    if not math.isfinite(float(high) - float(low)):
        raise GenerationError(
            "the model's logits are NaN or infinite",
            "try --dtype float32; if that fails too, the weights are damaged",
            code="non_finite_logits",
        )


def add(logits: torch.Tensor, changes: Iterable[tuple[int, float]]) -> torch.Tensor:
    """[vocab] logits with a number added to some; ids that the model does not have are left out."""
    known = [(token, added) for token, added in changes if token < logits.numel()]
    if not known:
        return logits
    index = torch.tensor([token for token, _ in known], device=logits.device)
    added = torch.tensor([added for _, added in known], device=logits.device, dtype=logits.dtype)
    # What leaves float32 is as good as its end: infinities would be alike.
    return logits.index_put((index,), (logits[index] + added).clamp(max=torch.finfo(logits.dtype).max))


def penalize(logits: torch.Tensor, seen: Sequence[int], penalty: float) -> torch.Tensor:
    """Divide positive and multiply negative logits of tokens seen before (Keskar et al. 2019, CTRL)."""
    index = torch.tensor(sorted(set(seen)), device=logits.device, dtype=torch.long)
    score = logits[index]
    # An extreme penalty must make neither infinities, of which the first would be taken, nor NaN of a logit of 0.
    penalized = torch.where(score < 0, score * penalty, score / penalty).nan_to_num(neginf=-torch.inf)
    return logits.index_copy(0, index, penalized)


def warp(logits: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """The distribution that is sampled: [vocab] logits, float32 → [vocab] probabilities, float32.

    Each filter sees the distribution renormalized over what the previous one kept. The most likely token is always kept.
    """
    tempered = logits / config.temperature
    # Low temperatures overflow float32; differences from the largest do not.
    logits = tempered if math.isfinite(tempered.max()) else (logits - logits.max()) / config.temperature
    if 0 < config.top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(config.top_k).values[-1], -torch.inf)
    if config.top_p < 1:
        # Nucleus sampling (Holtzman et al. 2020): the smallest set of most likely tokens whose probability reaches top_p.
        ascending, order = logits.sort(stable=True)
        cut = ascending.softmax(-1).cumsum(-1) <= 1 - config.top_p
        cut[-1] = False
        logits = logits.masked_fill(torch.zeros_like(cut).scatter(0, order, cut), -torch.inf)
    if config.min_p > 0:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < config.min_p * probabilities.max(), -torch.inf)
    return logits.softmax(-1)


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax in float32 over the last dimension, of the untempered and unfiltered distribution."""
    return logits.float().log_softmax(-1)
