"""A lean forward pass for a Llama that lies whole on one device: on the loaded model's own weights, or on quantized ones.

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
from torch.nn.functional import embedding

from openllama_cli.generation.forward.cache import LARGE_PREFILL_CHUNK, PREFILL_CHUNK, KVCache, prefill_pieces
from openllama_cli.generation.forward.linear import vector_products
from openllama_cli.generation.forward.steps import Work, make_steps
from openllama_cli.generation.forward.transformers_forward import FLOAT32_ROWS
from openllama_cli.generation.forward.weights import LlamaWeights, of_model


class LeanForward:
    """Forward passes on a Llama's weights.

    source: a transformers Llama in eval mode (see `suits` for which ones), or what describes its weights.
    """

    name = "lean"

    def __init__(self, source: Any) -> None:
        self._weights = weights = source if isinstance(source, LlamaWeights) else of_model(source)
        self._device, self._dtype = weights.device, weights.dtype
        self._steps = make_steps(weights)
        if weights.method is not None:
            self.name = f"lean {weights.method}"
        if self._steps.name is not None:
            self.name += f" {self._steps.name}"

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

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, work: Work) -> torch.Tensor:
        """[n] ids at [n] positions → [n, hidden] after the last norm. work: each row's cache and how many ids are its own."""
        weights, steps = self._weights, self._steps
        hidden = embedding(ids, weights.embedding).to(self._dtype)
        cosine, sine = weights.rotary(positions)  # [n, D]
        for number, layer in enumerate(weights.layers):
            query, key, value = layer.query_key_value(steps.normalize(hidden, layer.attention_norm))
            query, key = steps.turn(query, cosine, sine), steps.turn(key, cosine, sine)  # [n, H or K, D]
            value = value.unflatten(-1, (weights.kv_heads, -1))
            hidden = hidden + layer.output(steps.attend(number, query, key, value, work))
            gate, up = layer.gate_up(steps.normalize(hidden, layer.mlp_norm))
            hidden = hidden + layer.down(steps.activate(gate, up))
        return steps.normalize(hidden, weights.norm)


def suits(model: Any) -> bool:
    """Whether `LeanForward` can run a model: all weights on one device, no hooks that move them, the Llama arithmetic."""
    devices = {parameter.device for parameter in model.parameters()}
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    return len(devices) == 1 and not hooked and devices.pop().type != "meta" and model.config.hidden_act == "silu"
