"""The KV cache of one row, attention over it, and the reuse of common prompt prefixes.

Shapes: n = new tokens of a row, L = positions in its cache after them, H and K = query and key/value heads, D = head size.
"""

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

# Prefill runs in chunks on a fixed grid from position 0: the logits buffer stays small, and a prompt whose first chunks are
# copied from another row's cache takes exactly the same path through the rest.
PREFILL_CHUNK = 64
# Where a pass costs the same for few tokens as for many: on a GPU, which waits for kernel launches, and with offloaded weights.
LARGE_PREFILL_CHUNK = 256
# Rows whose caches are kept for their prefix. Rows of one template follow each other; a few let templates alternate.
_KEPT_ROWS = 4


class KVCache:
    """Keys and values of one row: per layer two tensors [K, capacity, D] on the layer's device, allocated on first write.

    capacity: positions, fixed: prompt and new tokens. chunk: the prefill grid's. length: positions filled.
    long_from: prompts of more tokens than this have keys that are turned otherwise (see `rotary`); None: all are turned alike.
    """

    def __init__(self, capacity: int, chunk: int = PREFILL_CHUNK, *, long_from: int | None = None) -> None:
        self.capacity = capacity
        self.chunk = chunk
        self.long_from = long_from
        self.length = 0
        # While a tree of continuations runs: which of its nodes each one sees, see `branching`.
        self.tree: torch.Tensor | None = None
        # The cache that its first positions were copied from.
        self.origin: weakref.ref[KVCache] | None = None
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [K, n, D] keys and values after the filled positions; return all of them, [K, length + n, D or more].

        `length` itself changes once all layers are written: see `advance`.
        """
        heads, count, size = keys.shape
        end = self.length + count
        cached_keys, cached_values = self.allocate(layer, heads, size, keys.dtype, keys.device)
        cached_keys[:, self.length : end] = keys
        cached_values[:, self.length : end] = values
        return cached_keys[:, :end], cached_values[:, :end]

    def allocate(
        self, layer: int, heads: int, size: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values, [K, capacity, D], allocated if they are not yet."""
        if layer not in self._layers:
            keys, values = (torch.empty(heads, self.capacity, size, dtype=dtype, device=device) for _ in range(2))
            self._layers[layer] = (keys, values)
        return self._layers[layer]

    def copy_from(self, other: "KVCache", count: int) -> None:
        """Copy the first `count` positions of another row into this empty cache."""
        for layer, (keys, values) in other.layers().items():
            self.append(layer, keys[:, :count], values[:, :count])
        self.origin = weakref.ref(other)
        self.advance(count)

    def layers(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of the layers written so far, [K, capacity or more, D]; undefined beyond `length`."""
        return self._layers

    def truncate(self, length: int) -> None:
        """Drop the positions from `length` on, in every layer."""
        self.length = length

    def advance(self, count: int) -> None:
        """Count `count` more positions as filled, in every layer."""
        self.length += count


class PrefixCache:
    """The prompts of the last few rows with their caches, so that prompts with a common prefix (few-shot) prefill it once.

    A row's keys and values of its prompt do not change while it decodes, so later rows can copy them. Only complete chunks of
    the prefill grid are copied: the rest of the prompt then takes the same path as it would alone, and logits are equal to the
    bit.
    """

    def __init__(self, kept: int = _KEPT_ROWS) -> None:
        self._rows: deque[tuple[Sequence[int], KVCache]] = deque(maxlen=kept)

    def restore(self, prompt: Sequence[int], cache: KVCache, most: int) -> int:
        """Copy the longest known prefix of `prompt`, of at most `most` tokens, into an empty cache; return how many positions
        that were. The logits of the tokens that are not copied are still needed: `most` is less than all.
        """
        longest, source = 0, None
        limit = most // cache.chunk * cache.chunk
        for tokens, other in self._rows:
            if cache.long_from is not None and (len(tokens) > cache.long_from) != (len(prompt) > cache.long_from):
                continue  # The same tokens, with other keys.
            common = _common_prefix(prompt, tokens, limit) // cache.chunk * cache.chunk
            if common > longest:
                longest, source = common, other
        if source is not None:
            cache.copy_from(source, longest)
        return longest

    def remember(self, prompt: Sequence[int], cache: KVCache) -> None:
        """Keep a row's cache, after its prefill."""
        if len(prompt) >= cache.chunk:
            self._rows.append((prompt, cache))

    def clear(self) -> None:
        """Forget all, so that their memory is free once no row uses it."""
        self._rows.clear()


def _common_prefix(one: Sequence[int], other: Sequence[int], limit: int) -> int:
    """Length of the common prefix of two prompts, at most `limit`."""
    limit = min(limit, len(one), len(other))
    return next((position for position in range(limit) if one[position] != other[position]), limit)


def prefill_chunks(tokens: Sequence[int], cache: KVCache) -> Iterator[tuple[Sequence[int], bool]]:
    """Split a row's next tokens at the lines of its prefill grid; each chunk with whether it is the last."""
    done, position = 0, cache.length
    while done < len(tokens):
        size = cache.chunk - (position + done) % cache.chunk
        chunk = tokens[done : done + size]
        done += len(chunk)
        yield chunk, done == len(tokens)


@contextmanager
def branching(cache: KVCache, parents: Sequence[int]) -> Iterator[list[int]]:
    """While it lasts, the tokens that `attend` gets are the nodes of a tree after the filled positions.

    parents: the node before each, which stands earlier in the list; -1: none. Gives the depth of each, from 0.
    """
    depths: list[int] = []
    # [n, n], true where a node sees another: itself and its ancestors.
    cache.tree = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        depths.append(0 if parent < 0 else depths[parent] + 1)
        if parent >= 0:
            cache.tree[node] |= cache.tree[parent]
    try:
        yield depths
    finally:
        cache.tree = None


def attend(
    layer: int, cache: KVCache, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Append a row's new tokens to its cache; causal attention of them over all of its positions.

    query: [H, n, D]; key, value: [K, n, D]. Returns [H, n, D].
    """
    keys, values = cache.append(layer, key, value)  # [K, L, D or more]
    count, size = query.shape[1:]
    mask = None
    if cache.tree is not None:
        mask = pad(cache.tree.to(query.device), (cache.length, 0), value=True)
    elif count > 1 and cache.length > 0:
        # [n, L], true where new token i may attend to position j: j <= L - n + i.
        length = keys.shape[1]
        mask = torch.ones(count, length, dtype=torch.bool, device=query.device).tril(length - count)
    attended = scaled_dot_product_attention(
        pad(query, (0, keys.shape[2] - size))[None] if keys.shape[2] > size else query[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=count > 1 and mask is None,
        scale=scale,
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return attended[0, ..., :size]
