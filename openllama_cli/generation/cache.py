"""The KV cache of one row, and attention over it.

Shapes: n = new tokens of a row, L = positions in its cache after them, H and K = query and key/value heads, D = head size.
"""

import weakref
from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

# Long prompts go through in pieces on a fixed grid that starts at position 0: the logits buffer stays small, and a prompt
# whose first pieces are copied from another row's cache (the same prefix) takes exactly the same path through the rest.
PREFILL_CHUNK = 64


class KVCache:
    """Keys and values of one row: per layer two tensors [K, capacity, D], on the layer's device, made when first written.

    capacity: positions, fixed: prompt plus new tokens. length: positions filled.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        # The cache that its first positions were copied from.
        self.origin: weakref.ref[KVCache] | None = None
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [K, n, D] keys and values after the positions filled so far; return all of them, [K, length + n, D].

        `length` itself moves on once every layer has been through: see `advance`.
        """
        if layer not in self._layers:
            shape = (keys.shape[0], self.capacity, keys.shape[2])
            self._layers[layer] = (keys.new_empty(shape), values.new_empty(shape))
        end = self.length + keys.shape[1]
        cached_keys, cached_values = self._layers[layer]
        cached_keys[:, self.length : end] = keys
        cached_values[:, self.length : end] = values
        return cached_keys[:, :end], cached_values[:, :end]

    def copy_from(self, other: "KVCache", count: int) -> None:
        """Take over the first `count` positions of another row; this cache must be empty."""
        for layer, (keys, values) in other._layers.items():
            self.append(layer, keys[:, :count], values[:, :count])
        self.origin = weakref.ref(other)
        self.advance(count)

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on, in every layer."""
        self.length = length

    def advance(self, count: int) -> None:
        """Count `count` positions as filled, in every layer."""
        self.length += count


def attend(
    layer: int, cache: KVCache, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Causal attention of a row's new tokens over all of its positions, the new ones included; these are cached.

    query: [H, n, D]; key, value: [K, n, D]. Returns [H, n, D].
    """
    keys, values = cache.append(layer, key, value)  # [K, L, D]
    count = query.shape[1]
    later = count > 1 and cache.length > 0
    return scaled_dot_product_attention(
        query[None],
        keys[None],
        values[None],
        attn_mask=_lower_right(count, keys.shape[1], query.device) if later else None,
        is_causal=count > 1 and not later,
        scale=scale,
        enable_gqa=query.shape[0] != key.shape[0],
    )[0]


def _lower_right(count: int, length: int, device: torch.device) -> torch.Tensor:
    """[n, L], true where new token i may look at position j: j <= L - n + i."""
    return torch.ones(count, length, dtype=torch.bool, device=device).tril(length - count)


def prefill_pieces(tokens: Sequence[int], position: int) -> Iterator[tuple[Sequence[int], bool]]:
    """Cut tokens that begin at a position at the lines of the prefill grid; each piece with whether it is the last."""
    done = 0
    while done < len(tokens):
        size = PREFILL_CHUNK - (position + done) % PREFILL_CHUNK
        piece = tokens[done : done + size]
        done += len(piece)
        yield piece, done == len(tokens)
