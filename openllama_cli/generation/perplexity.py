"""How well a model predicts texts: what quantisation costs is read from this."""

import math
from collections.abc import Sequence

import torch

from openllama_cli.generation.forward import Forward


def perplexity(forward: Forward, rows: Sequence[Sequence[int]]) -> float:
    """exp of the mean negative log likelihood of every token behind each row's first one. rows: token ids, at least two."""
    nats, count = 0.0, 0
    for tokens in rows:
        logits = forward.prefill(tokens[:-1], forward.new_cache(len(tokens)), every=True)  # [n - 1, vocab]
        wanted = torch.tensor(list(tokens[1:]), device=logits.device)
        nats += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        count += len(wanted)
    return math.exp(nats / count)
