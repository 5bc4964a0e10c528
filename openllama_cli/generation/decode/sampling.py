"""From logits to a token: what the processors leave, sampled.

Sampling inverts the cumulative distribution at one uniform number per token from the row's own generator, so it does not depend
on the other rows or on the batch size.
"""

import hashlib
import math
from collections.abc import Callable

import torch

from openllama_cli.errors import GenerationError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.processors import Place, stages


def row_seed(seed: int, row: int) -> int:
    """A row's own seed, in torch's range (63 bits), for any two integers."""
    digest = hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def row_generator(seed: int, row: int) -> torch.Generator:
    """The random numbers of one row: they depend on the seed and the row's identity alone."""
    return torch.Generator().manual_seed(row_seed(seed, row))


def choose_token(
    logits: torch.Tensor,
    place: Place,
    config: SamplingConfig,
    generator: torch.Generator | None,
    record: Callable[[str, torch.Tensor], None] | None = None,
) -> int:
    """Sample one token, or the most likely one if `config` is greedy.

    logits: [vocab], float32. record: called with every stage of the processors. Raises GenerationError if the logits are not
    finite, or nothing may be drawn.
    """
    require_finite(logits)
    for name, changed in stages(logits, place, config):
        logits = changed
        if record is not None:
            record(name, changed)
    if config.greedy:
        # NumPy's argmax is vectorized. Both take the first of several largest logits.
        return int(logits.numpy().argmax() if logits.device.type == "cpu" else logits.argmax())
    probabilities = logits.softmax(-1).cpu()
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


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax in float32 over the last dimension, of the untempered and unfiltered distribution."""
    return logits.float().log_softmax(-1)
