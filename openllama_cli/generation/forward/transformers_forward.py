"""Forward passes through a transformers Llama, for rows of different lengths side by side, without padding.

Every row owns its KV cache. The linear layers see all rows at once; attention runs row by row over exactly the positions
that the row has. This works wherever transformers and accelerate put the layers (one device, several, offloaded), because
it is only an attention function that transformers calls: registered under a name of our own, chosen for the time of one
forward pass, so that `model.generate` keeps its own.

Shapes: n = new tokens of a row, H and K = query and key/value heads, D = head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from openllama_cli.generation.forward.cache import LARGE_PREFILL_CHUNK, PREFILL_CHUNK, KVCache, attend, prefill_pieces

_ATTENTION = "olc_rows"

# Matrix products give a row the same bits whatever stands in the other rows, but not at every number of rows: one row is a
# matrix-vector product that adds up in another order. In float32 the rows are filled up to a multiple of this, so that a
# row's logits do not depend on its neighbors.
FLOAT32_ROWS = 8


class Forward(Protocol):
    """What the decode loop needs of a model: caches, prefill one row, decode one step of many. name: for people."""

    name: str

    @property
    def context(self) -> int:
        """Positions that the model was made for."""

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for a row of at most `capacity` positions."""

    def prefill(self, tokens: Sequence[int], cache: KVCache, *, every: bool = False) -> torch.Tensor:
        """Run a row's prompt. Returns logits in float32: [1, vocab] after the last token, or [n, vocab] if `every`."""

    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        """Run one new token of each row. Returns logits in float32, [rows, vocab]."""


class TransformersForward:
    """Forward passes through `LlamaForCausalLM`, wherever its layers lie.

    model: in eval mode. input_device: where its embeddings take their input.
    """

    name = "transformers"

    def __init__(self, model: Any, input_device: torch.device) -> None:
        self._model = model
        self._device = input_device
        self._exact_rows = model.dtype == torch.float32
        self._all_on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
        _register_attention()

    @property
    def context(self) -> int:
        return int(self._model.config.max_position_embeddings)

    def new_cache(self, capacity: int) -> KVCache:
        return KVCache(capacity, PREFILL_CHUNK if self._all_on_cpu else LARGE_PREFILL_CHUNK)

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], cache: KVCache, *, every: bool = False) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for piece, last in prefill_pieces(tokens, cache):
            positions = torch.arange(cache.length, cache.length + len(piece))[None]  # [1, n]
            logits = self._run(torch.tensor([piece]), positions, [cache], keep=0 if every else 1)[0]  # [n or 1, vocab]
            cache.advance(len(piece))
            if every or last:
                kept.append(logits.float())
        return torch.cat(kept)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        rows = len(tokens)
        filling = -rows % FLOAT32_ROWS if self._exact_rows else 0
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
    for row, cache in enumerate(row_caches):
        outputs[row] = attend(module.layer_idx, cache, query[row], key[row], value[row], scaling)
    return outputs.transpose(1, 2), None


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
