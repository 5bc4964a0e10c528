"""Which of a model's ids may be drawn: those that the tokenizer has a piece for.

Embeddings are often padded to a round number of rows, and ids may be left out between added tokens. A model gives such ids some
probability, as it was never trained not to, but they have no text. They stay in the distribution, so log-probabilities are the
model's own; only the choice, and the alternatives that are listed, leave them out.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch

# From the rows of an embedding to the ids among them that have no piece: `Tokenizer.pieceless`.
Pieceless = Callable[[int], frozenset[int]]


# By tokenizer, and gone with it. A model has one set of ids that end a row, or a few.
_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def _known(pieceless: Pieceless) -> dict[Any, Any]:
    """What was computed for a tokenizer already. A bound method as a key would keep its tokenizer alive."""
    return _KNOWN.setdefault(getattr(pieceless, "__self__", pieceless), {})


def banned_ids(pieceless: Pieceless | None, eos: frozenset[int], rows: int) -> tuple[int, ...]:
    """The ids of a model with `rows` of them that are never drawn, in order. One that ends a row needs no text."""
    if pieceless is None:
        return ()
    known = _known(pieceless)
    found: tuple[int, ...] | None = known.get((eos, rows))
    if found is None:
        found = known[eos, rows] = tuple(sorted(pieceless(rows) - eos))
    return found


def banned_index(pieceless: Pieceless | None, eos: frozenset[int], rows: int, device: torch.device) -> torch.Tensor | None:
    """`banned_ids` as an index into [..., rows] logits; None if there are none."""
    banned = banned_ids(pieceless, eos, rows)
    if pieceless is None or not banned:
        return None
    known = _known(pieceless)
    index: torch.Tensor | None = known.get((eos, rows, device))
    if index is None:
        # Not an inference tensor: it outlives the block that it is made in.
        with torch.inference_mode(False):
            index = known[eos, rows, device] = torch.tensor(banned, device=device)
    return index


def without(scores: torch.Tensor, banned: torch.Tensor | None) -> torch.Tensor:
    """[..., vocab] scores with -inf for banned ids."""
    return scores if banned is None else scores.index_fill(-1, banned, -torch.inf)
