"""A lean forward pass for a Llama that lies whole on one device: on the loaded model's own weights, or on quantised ones.

The same arithmetic as transformers' `LlamaForCausalLM`, without modules, hooks and masks between the operators: at one row
these cost a tiny model most of its time. Each row has its own position and cache (`cache.KVCache`); the linear layers see
all rows at once, attention runs row by row over exactly the positions that the row has.

Shapes: n = tokens (of one row in prefill, of one token each for several rows in decode), H and K = query and key/value heads,
D = head size, L = positions in a row's cache.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.functional import embedding, rms_norm, silu

from openllama_cli.generation.cache import LARGE_PREFILL_CHUNK, PREFILL_CHUNK, KVCache, attend, prefill_pieces
from openllama_cli.generation.forward import FLOAT32_ROWS
from openllama_cli.generation.kernels import vector_products
from openllama_cli.generation.llama_weights import LlamaWeights, of_model


class LeanForward:
    """Forward passes on a Llama's weights.

    source: a transformers Llama in eval mode (see `suits` for which ones), or what describes its weights.
    """

    name = "lean"

    def __init__(self, source: Any) -> None:
        self._weights = weights = source if isinstance(source, LlamaWeights) else of_model(source)
        self._device, self._dtype = weights.device, weights.dtype
        if weights.method is not None:
            self.name = f"lean {weights.method}"

    @property
    def context(self) -> int:
        return self._weights.context

    def new_cache(self, capacity: int) -> KVCache:
        return KVCache(capacity, PREFILL_CHUNK if self._device.type == "cpu" else LARGE_PREFILL_CHUNK)

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], cache: KVCache, *, every: bool = False) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for piece, last in prefill_pieces(tokens, cache):
            positions = torch.arange(cache.length, cache.length + len(piece), device=self._device)
            hidden = self._run(torch.tensor(piece, device=self._device), positions, [(cache, len(piece))])  # [n, hidden]
            cache.advance(len(piece))
            if every or last:
                kept.append(self._weights.head(hidden if every else hidden[-1:]).float())
        return torch.cat(kept)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        count = len(tokens)
        filling = -count % FLOAT32_ROWS if self._weights.exact_rows else 0
        ids = torch.tensor([*tokens, *[0] * filling], device=self._device)  # [n]
        positions = torch.tensor([*(cache.length for cache in caches), *[0] * filling], device=self._device)
        with vector_products() if count == 1 and self._weights.vector_products else nullcontext():
            hidden = self._run(ids, positions, [(cache, 1) for cache in caches])
            logits = self._weights.head(hidden)[:count]  # [rows, vocab]
        for cache in caches:
            cache.advance(1)
        return logits.float()

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, work: Sequence[tuple[KVCache, int]]) -> torch.Tensor:
        """[n] ids at [n] positions → [n, hidden] after the last norm. work: each row's cache and how many ids are its own."""
        weights = self._weights
        hidden = embedding(ids, weights.embedding).to(self._dtype)
        cosine, sine = (x[:, None] for x in weights.rotary(positions))  # [n, 1, D]
        for number, layer in enumerate(weights.layers):
            x = self._normalise(hidden, layer.attention_norm)
            query, key, value = layer.query_key_value(x)
            query = _rotate(query.unflatten(-1, (weights.heads, -1)), cosine, sine)  # [n, H, D]
            key = _rotate(key.unflatten(-1, (weights.kv_heads, -1)), cosine, sine)  # [n, K, D]
            value = value.unflatten(-1, (weights.kv_heads, -1))
            hidden = hidden + layer.output(self._attend(number, query, key, value, work))
            gate, up = layer.gate_up(self._normalise(hidden, layer.mlp_norm))
            hidden = hidden + layer.down(silu(gate) * up)
        return self._normalise(hidden, weights.norm)

    def _normalise(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm (Zhang and Sennrich 2019), in float32 as transformers does it; on a GPU in one kernel."""
        if self._device.type == "cuda":
            return rms_norm(x, weight.shape, weight, self._weights.eps)
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._weights.eps)
        return weight.to(self._dtype) * scaled.to(self._dtype)

    def _attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        work: Sequence[tuple[KVCache, int]],
    ) -> torch.Tensor:
        """[n, H, D] → [n, H · D], row by row. Tokens that belong to no row only fill up the products, and get zeros."""
        kind = self._weights.cache_dtype
        query, key, value = (x.to(kind).transpose(0, 1) for x in (query, key, value))  # [H or K, n, D]
        outputs = query.new_zeros(query.shape)
        start = 0
        for cache, count in work:
            own = slice(start, start + count)
            outputs[:, own] = attend(layer, cache, query[:, own], key[:, own], value[:, own], self._weights.scale)
            start += count
        return outputs.transpose(0, 1).flatten(1).to(self._dtype)


def _rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021) of [n, heads, D], halves of D paired as in transformers."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


def suits(model: Any) -> bool:
    """Whether `LeanForward` can run a model: all weights on one device, no hooks that move them, the Llama arithmetic."""
    devices = {parameter.device for parameter in model.parameters()}
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    return len(devices) == 1 and not hooked and devices.pop().type != "meta" and model.config.hidden_act == "silu"
