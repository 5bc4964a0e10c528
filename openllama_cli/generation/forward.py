"""Forward passes through a transformers Llama, for rows of different lengths side by side, without padding.

Every row owns its KV cache. The linear layers see all rows at once; attention runs row by row over exactly the positions
that the row has. This works wherever transformers and accelerate put the layers (one device, several, offloaded), because
it is only an attention function that transformers calls: registered under a name of our own, chosen for the time of one
forward pass, so that `model.generate` keeps its own.

Shapes: n = new tokens of a row, L = positions in its cache after them, H and K = query and key/value heads, D = head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

_ATTENTION = "olc_rows"

# Matrix products give a row the same bits whatever stands in the other rows, but not at every number of rows: one row is a
# matrix-vector product that adds up in another order. In float32 the rows are filled up to a multiple of this, so that a
# row's logits do not depend on its neighbours.
_FLOAT32_ROWS = 8

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
        self.advance(count)

    def advance(self, count: int) -> None:
        """Count `count` positions as filled, in every layer."""
        self.length += count


class Forward(Protocol):
    """What the decode loop needs of a model: prefill one row, decode one step of many."""

    @property
    def context(self) -> int:
        """Positions that the model was made for."""

    def prefill(self, tokens: Sequence[int], cache: KVCache, *, every: bool = False) -> torch.Tensor:
        """Run a row's prompt. Returns logits in float32: [1, vocab] after the last token, or [n, vocab] if `every`."""

    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        """Run one new token of each row. Returns logits in float32, [rows, vocab]."""


class TransformersForward:
    """Forward passes through `LlamaForCausalLM`, wherever its layers lie.

    model: in eval mode. input_device: where its embeddings take their input.
    """

    def __init__(self, model: Any, input_device: torch.device) -> None:
        self._model = model
        self._device = input_device
        self._exact_rows = model.dtype == torch.float32
        _register_attention()

    @property
    def context(self) -> int:
        return int(self._model.config.max_position_embeddings)

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], cache: KVCache, *, every: bool = False) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        done = 0
        while done < len(tokens):
            # To the next line of the grid, which starts at position 0 and not at this call's first token.
            size = min(PREFILL_CHUNK - cache.length % PREFILL_CHUNK, len(tokens) - done)
            chunk = torch.tensor([tokens[done : done + size]])  # [1, n]
            positions = torch.arange(cache.length, cache.length + size)[None]  # [1, n]
            logits = self._run(chunk, positions, [cache], keep=0 if every else 1)[0]  # [n or 1, vocab]
            cache.advance(size)
            done += size
            if every or done == len(tokens):
                kept.append(logits.float())
        return torch.cat(kept)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        rows = len(tokens)
        filling = -rows % _FLOAT32_ROWS if self._exact_rows else 0
        ids = torch.tensor([[token] for token in tokens] + [[0]] * filling)  # [rows, 1]
        positions = torch.tensor([[cache.length] for cache in caches] + [[0]] * filling)  # [rows, 1]
        logits = self._run(ids, positions, caches, keep=1)[:rows, -1]  # [rows, vocab]
        for cache in caches:
            cache.advance(1)
        return logits.float()

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, caches: Sequence[KVCache], *, keep: int) -> torch.Tensor:
        with _own_attention(self._model.config):
            output = self._model(
                input_ids=ids.to(self._device),
                position_ids=positions.to(self._device),
                use_cache=False,
                logits_to_keep=keep,
                row_caches=caches,
            )
        logits: torch.Tensor = output.logits
        return logits


def rows_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    row_caches: Sequence[KVCache],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention, each row over its own cache: transformers' attention interface.

    query: [rows, H, n, D]; key, value: [rows, K, n, D], the new positions only. Rows beyond `row_caches` fill up the
    matrix products and get zeros. Returns [rows, n, H, D].
    """
    outputs = query.new_zeros(query.shape)
    grouped = query.shape[1] != key.shape[1]
    count = query.shape[2]
    for row, cache in enumerate(row_caches):
        keys, values = cache.append(module.layer_idx, key[row], value[row])  # [K, L, D]
        outputs[row] = scaled_dot_product_attention(
            query[row : row + 1],
            keys[None],
            values[None],
            attn_mask=_lower_right(count, keys.shape[1], query.device) if count > 1 and cache.length else None,
            is_causal=count > 1 and cache.length == 0,
            scale=scaling,
            enable_gqa=grouped,
        )[0]
    return outputs.transpose(1, 2), None


def _lower_right(count: int, length: int, device: torch.device) -> torch.Tensor:
    """[n, L], true where new token i may look at position j: j <= L - n + i."""
    return torch.ones(count, length, dtype=torch.bool, device=device).tril(length - count)


def _register_attention() -> None:
    from transformers import AttentionInterface

    # A name without a mask function makes transformers build no mask at all.
    AttentionInterface.register(_ATTENTION, rows_attention)


@contextmanager
def _own_attention(config: Any) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
