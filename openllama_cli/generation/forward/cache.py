"""The KV cache of one row, and attention over it.

Shapes: n = new tokens of a row, L = positions in its cache after them, H and K = query and key/value heads, D = head size.
"""

import weakref
from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

# Long prompts go through in pieces on a fixed grid that starts at position 0: the logits buffer stays small, and a prompt
# whose first pieces are copied from another row's cache (the same prefix) takes exactly the same path through the rest.
PREFILL_CHUNK = 64
# Where a pass costs the same for few tokens as for many: on a GPU, which waits for its kernels to be started, and where the
# weights themselves are fetched from elsewhere.
LARGE_PREFILL_CHUNK = 256


class KVCache:
    """Keys and values of one row: per layer two tensors [K, capacity, D], on the layer's device, made when first written.

    capacity: positions, fixed: prompt plus new tokens. chunk: tokens between the lines of the prefill grid. length: positions
    filled.
    """

    def __init__(self, capacity: int, chunk: int = PREFILL_CHUNK) -> None:
        self.capacity = capacity
        self.chunk = chunk
        self.length = 0
        # The cache that its first positions were copied from.
        self.origin: weakref.ref[KVCache] | None = None
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [K, n, D] keys and values after the positions filled so far; return all of them, [K, length + n, D or more].

        `length` itself moves on once every layer has been through: see `advance`.
        """
        heads, count, size = keys.shape
        end = self.length + count
        cached_keys, cached_values = self.room(layer, heads, size, keys.dtype, keys.device)
        cached_keys[:, self.length : end] = keys
        cached_values[:, self.length : end] = values
        return cached_keys[:, :end], cached_values[:, :end]

    def room(
        self, layer: int, heads: int, size: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values, [K, capacity, D], made if it has none yet."""
        if layer not in self._layers:
            keys, values = (torch.empty(heads, self.capacity, size, dtype=dtype, device=device) for _ in range(2))
            self._layers[layer] = (keys, values)
        return self._layers[layer]

    def copy_from(self, other: "KVCache", count: int) -> None:
        """Take over the first `count` positions of another row; this cache must be empty."""
        for layer, (keys, values) in other.layers().items():
            self.append(layer, keys[:, :count], values[:, :count])
        self.origin = weakref.ref(other)
        self.advance(count)

    def layers(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of every layer that has any, [K, capacity or more, D]; those beyond `length` mean nothing."""
        return self._layers

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
    keys, values = cache.append(layer, key, value)  # [K, L, D or more]
    count, size = query.shape[1:]
    later = count > 1 and cache.length > 0
    attended = scaled_dot_product_attention(
        pad(query, (0, keys.shape[2] - size))[None] if keys.shape[2] > size else query[None],
        keys[None],
        values[None],
        attn_mask=_lower_right(count, keys.shape[1], query.device) if later else None,
        is_causal=count > 1 and not later,
        scale=scale,
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return attended[0, ..., :size]


def _lower_right(count: int, length: int, device: torch.device) -> torch.Tensor:
    """[n, L], true where new token i may look at position j: j <= L - n + i."""
    return torch.ones(count, length, dtype=torch.bool, device=device).tril(length - count)


def prefill_pieces(tokens: Sequence[int], cache: KVCache) -> Iterator[tuple[Sequence[int], bool]]:
    """Cut a row's next tokens at the lines of its prefill grid; each piece with whether it is the last."""
    done, position = 0, cache.length
    while done < len(tokens):
        size = cache.chunk - (position + done) % cache.chunk
        piece = tokens[done : done + size]
        done += len(piece)
        yield piece, done == len(tokens)
