"""Which of a model's ids may be drawn: those that the tokenizer has a piece for.

Embeddings are often padded to a round number of rows, and ids may be left out between added tokens. A model gives such ids some
probability, as it was never trained not to, but they have no text. They stay in the distribution, so log-probabilities are the
model's own; only the choice, and the alternatives that are listed, leave them out.
"""

import functools
from collections.abc import Callable

import torch

# From the rows of an embedding to the ids among them that have no piece: `Tokenizer.pieceless`.
Pieceless = Callable[[int], frozenset[int]]


@functools.lru_cache(maxsize=8)
def banned_ids(pieceless: Pieceless | None, eos: frozenset[int], rows: int) -> tuple[int, ...]:
    """The ids of a model with `rows` of them that are never drawn, in order. One that ends a row needs no text."""
    return () if pieceless is None else tuple(sorted(pieceless(rows) - eos))


@functools.lru_cache(maxsize=8)
def banned_index(pieceless: Pieceless | None, eos: frozenset[int], rows: int, device: torch.device) -> torch.Tensor | None:
    """`banned_ids` as an index into [..., rows] logits; None if there are none."""
    banned = banned_ids(pieceless, eos, rows)
    # Not an inference tensor: it outlives the block that it is made in.
    with torch.inference_mode(False):
        return torch.tensor(banned, device=device) if banned else None


def without(scores: torch.Tensor, banned: torch.Tensor | None) -> torch.Tensor:
    """[..., vocab] scores with -inf for banned ids."""
    return scores if banned is None else scores.index_fill(-1, banned, -torch.inf)
