"""A lean forward pass for a Llama that lies whole on one device, on the loaded model's own weights.

The same arithmetic as transformers' `LlamaForCausalLM`, without modules, hooks and masks between the operators: at one row
these cost a tiny model most of its time. Each row has its own position and cache (`forward.KVCache`); the linear layers see
all rows at once, attention runs row by row over exactly the positions that the row has.

Shapes: n = tokens (of one row in prefill, of one token each for several rows in decode), H and K = query and key/value heads,
D = head size, L = positions in a row's cache.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import embedding, silu

from openllama_cli.generation.cache import KVCache, attend, prefill_pieces
from openllama_cli.generation.forward import FLOAT32_ROWS
from openllama_cli.generation.kernels import DenseLinear, HalfLinear, Linear, vector_products


@dataclass(frozen=True)
class _Layer:
    """One decoder layer: its two norms and seven matrices."""

    attention_norm: torch.Tensor
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    mlp_norm: torch.Tensor
    gate: Linear
    up: Linear
    down: Linear


class LeanForward:
    """Forward passes on the weights of a transformers Llama. See `suits` for which ones.

    model: in eval mode.
    """

    name = "lean"

    def __init__(self, model: Any) -> None:
        config = model.config
        self._device = model.device
        self._half = model.dtype == torch.float16 and self._device.type == "cpu"
        # Activations of float16 weights on a CPU are float32 between products, and their keys and values bfloat16.
        self._dtype = torch.float32 if self._half else model.dtype
        self._cache_dtype = torch.bfloat16 if self._half else model.dtype
        self._exact_rows = model.dtype == torch.float32
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._scale = model.model.layers[0].self_attn.scaling
        self._eps = config.rms_norm_eps
        self._context = int(config.max_position_embeddings)
        self._rotary = model.model.rotary_emb
        self._embedding = model.model.embed_tokens.weight
        self._layers = [self._layer(layer) for layer in model.model.layers]
        self._norm = model.model.norm.weight
        self._head = self._linear(model.lm_head)

    def _linear(self, module: Any) -> Linear:
        kind = HalfLinear if self._half else DenseLinear
        return kind(module.weight, module.bias)

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            attention_norm=layer.input_layernorm.weight,
            query=self._linear(attention.q_proj),
            key=self._linear(attention.k_proj),
            value=self._linear(attention.v_proj),
            output=self._linear(attention.o_proj),
            mlp_norm=layer.post_attention_layernorm.weight,
            gate=self._linear(mlp.gate_proj),
            up=self._linear(mlp.up_proj),
            down=self._linear(mlp.down_proj),
        )

    @property
    def context(self) -> int:
        return self._context

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], cache: KVCache, *, every: bool = False) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for piece, last in prefill_pieces(tokens, cache.length):
            positions = torch.arange(cache.length, cache.length + len(piece), device=self._device)
            hidden = self._run(torch.tensor(piece, device=self._device), positions, [(cache, len(piece))])  # [n, hidden]
            cache.advance(len(piece))
            if every or last:
                kept.append(self._head(hidden if every else hidden[-1:]).float())
        return torch.cat(kept)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        count = len(tokens)
        filling = -count % FLOAT32_ROWS if self._exact_rows else 0
        ids = torch.tensor([*tokens, *[0] * filling], device=self._device)  # [n]
        positions = torch.tensor([*(cache.length for cache in caches), *[0] * filling], device=self._device)
        alone = count == 1 and self._device.type == "cpu"
        with vector_products(self._dtype) if alone else nullcontext():
            hidden = self._run(ids, positions, [(cache, 1) for cache in caches])
            logits = self._head(hidden)[:count]  # [rows, vocab]
        for cache in caches:
            cache.advance(1)
        return logits.float()

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, work: Sequence[tuple[KVCache, int]]) -> torch.Tensor:
        """[n] ids at [n] positions → [n, hidden] after the last norm. work: each row's cache and how many ids are its own."""
        hidden = embedding(ids, self._embedding).to(self._dtype)
        cosine, sine = self._rotary(hidden[None], positions[None])  # [1, n, D]
        cosine, sine = cosine[0, :, None], sine[0, :, None]  # [n, 1, D]
        for number, layer in enumerate(self._layers):
            x = self._normalise(hidden, layer.attention_norm)
            query = _rotate(layer.query(x).unflatten(-1, (self._heads, -1)), cosine, sine)  # [n, H, D]
            key = _rotate(layer.key(x).unflatten(-1, (self._kv_heads, -1)), cosine, sine)  # [n, K, D]
            value = layer.value(x).unflatten(-1, (self._kv_heads, -1))
            hidden = hidden + layer.output(self._attend(number, query, key, value, work))
            x = self._normalise(hidden, layer.mlp_norm)
            hidden = hidden + layer.down(silu(layer.gate(x)) * layer.up(x))
        return self._normalise(hidden, self._norm)

    def _normalise(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm (Zhang and Sennrich 2019), in float32 as transformers does it."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._eps)
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
        kind = self._cache_dtype
        query, key, value = (x.to(kind).transpose(0, 1) for x in (query, key, value))  # [H or K, n, D]
        outputs = query.new_zeros(query.shape)
        start = 0
        for cache, count in work:
            own = slice(start, start + count)
            outputs[:, own] = attend(layer, cache, query[:, own], key[:, own], value[:, own], self._scale)
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
