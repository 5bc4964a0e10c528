"""A lean forward pass for a Llama on one device, on the loaded model's own weights or on quantized ones.

The arithmetic of transformers' `LlamaForCausalLM` without modules, hooks and masks, which take most of a tiny model's time with
one row. Each row has its own positions and KV cache; linear layers see all rows at once, attention runs row by row over exactly
the positions of each. `TorchOps` and `NativeOps` are two implementations of what lies between the linear layers.

Shapes: n = tokens (of one row in prefill; one of each row in decode), H and K = query and key/value heads, D = head size,
L = positions in a row's cache.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import embedding, rms_norm, silu

from openllama_cli.generation.forward.cache import (
    LARGE_PREFILL_CHUNK,
    PREFILL_CHUNK,
    KVCache,
    attend,
    branching,
    prefill_chunks,
)
from openllama_cli.generation.forward.linear import NativeLinear, onednn_disabled
from openllama_cli.generation.forward.transformers_forward import INVARIANT_ROWS
from openllama_cli.generation.forward.weights import LlamaWeights
from openllama_cli.native import decoder as native_decoder
from openllama_cli.native import layer as native
from openllama_cli.native import library

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

# Each row's cache and how many of the tokens belong to the row, in order.
RowTokens = Sequence[tuple[KVCache, int]]


class LeanForward:
    """Forward passes on a Llama's weights: `weights.from_transformers` (see `supports_lean`) or `weights.from_quantized`."""

    name = "lean"

    def __init__(self, weights: LlamaWeights) -> None:
        self._weights = weights
        self._device, self._dtype, self.context = weights.device, weights.dtype, weights.context
        self._ops = fastest_ops(weights)
        if weights.method is not None:
            self.name = f"lean {weights.method}"
        if self._ops.name is not None:
            self.name += f" {self._ops.name}"

    def new_cache(self, capacity: int) -> KVCache:
        chunk = PREFILL_CHUNK if self._device.type == "cpu" else LARGE_PREFILL_CHUNK
        return KVCache(capacity, chunk, long_from=self._weights.rotary.limit)

    @torch.inference_mode()
    def prefill(
        self,
        tokens: Sequence[int],
        cache: KVCache,
        *,
        every: bool = False,
        drafted: bool = False,
        prompt: int | None = None,
    ) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        total = None if drafted else prompt or cache.length + len(tokens)
        for chunk, last in prefill_chunks(tokens, cache):
            positions = torch.arange(cache.length, cache.length + len(chunk), device=self._device)
            ids = torch.tensor(chunk, device=self._device)
            hidden = self._run(ids, positions, [(cache, len(chunk))], total)  # [n, hidden]
            cache.advance(len(chunk))
            if every or last:
                kept.append(self._weights.head(hidden if every else hidden[-1:]).float())
        return torch.cat(kept)

    @torch.inference_mode()
    def branch(self, tokens: Sequence[int], parents: Sequence[int], cache: KVCache) -> torch.Tensor:
        ids = torch.tensor(tokens, device=self._device)
        with branching(cache, parents) as depths:
            positions = torch.tensor(depths, device=self._device) + cache.length
            return self._weights.head(self._run(ids, positions, [(cache, len(tokens))])).float()

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        count = len(tokens)
        padding = [0] * (-count % INVARIANT_ROWS) if self._weights.batch_invariant else []
        ids = torch.tensor([*tokens, *padding], device=self._device)  # [n]
        positions = torch.tensor([*(cache.length for cache in caches), *padding], device=self._device)
        with onednn_disabled() if count == 1 and self._weights.gemv_without_onednn else nullcontext():
            hidden = self._run(ids, positions, [(cache, 1) for cache in caches])
            logits = self._weights.head(hidden)[:count]  # [rows, vocab]
        for cache in caches:
            cache.advance(1)
        return logits.float()

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, rows: RowTokens, prompt: int | None = None) -> torch.Tensor:
        """[n] ids at [n] positions → [n, hidden] after the final norm. prompt: tokens of the prompt that they are part of."""
        weights, ops = self._weights, self._ops
        hidden = embedding(ids, weights.embedding).to(self._dtype)
        cosine, sine = weights.rotary(positions, prompt)  # [n, D]
        if isinstance(ops, NativeOps) and ops.decoder is not None and all(count == 1 for _, count in rows):
            return ops.rms_norm(ops.decode(hidden, cosine, sine, [cache for cache, _ in rows]), weights.norm)
        for number, layer in enumerate(weights.layers):
            query, key, value = layer.query_key_value(ops.rms_norm(hidden, layer.attention_norm))
            query, key = ops.apply_rotary(query, cosine, sine), ops.apply_rotary(key, cosine, sine)  # [n, H or K, D]
            value = value.unflatten(-1, (weights.kv_heads, -1))
            hidden = hidden + layer.output(ops.attend(number, query, key, value, rows))
            gate, up = layer.gate_up(ops.rms_norm(hidden, layer.mlp_norm))
            hidden = hidden + layer.down(ops.silu_mul(gate, up))
        return ops.rms_norm(hidden, weights.norm)


def supports_lean(model: "LlamaForCausalLM") -> bool:
    """Whether `LeanForward` can run a model: all weights on one device, no hooks that move them, the Llama arithmetic."""
    devices = {parameter.device for parameter in model.parameters()}
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    return len(devices) == 1 and not hooked and devices.pop().type != "meta" and model.config.hidden_act == "silu"


class TorchOps:
    """By torch's operators, on every device and in every dtype; in float32 the same arithmetic as transformers'.

    name: what `--stats` adds to the forward pass's name.
    """

    name: str | None = None

    def __init__(self, weights: LlamaWeights) -> None:
        self._weights = weights

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm (Zhang and Sennrich 2019), in float32 as transformers does it; on a GPU in one kernel."""
        if self._weights.device.type == "cuda":
            return rms_norm(x, weight.shape, weight, self._weights.eps)
        x32 = x.float()
        scaled = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self._weights.eps)
        return weight.to(x.dtype) * scaled.to(x.dtype)

    def apply_rotary(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        """Rotary position embedding (Su et al. 2021): [n, heads · D] by [n, D] → [n, heads, D]; halves of D are paired."""
        x = x.unflatten(-1, (-1, self._weights.head_size))
        first, second = x.chunk(2, dim=-1)
        return x * cosine[:, None] + torch.cat((-second, first), dim=-1) * sine[:, None]

    def silu_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """The gated activation of the MLP, SwiGLU (Shazeer 2020)."""
        return silu(gate) * up

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: RowTokens) -> torch.Tensor:
        """query [n, H, D], key and value [n, K, D] → [n, H · D], row by row. Padding tokens, of no row, get zeros."""
        dtype = self._weights.cache_dtype
        query, key, value = (x.to(dtype).transpose(0, 1) for x in (query, key, value))  # [H or K, n, D]
        outputs = query.new_zeros(query.shape)
        start = 0
        for cache, count in rows:
            own = slice(start, start + count)
            outputs[:, own] = attend(layer, cache, query[:, own], key[:, own], value[:, own], self._weights.scale)
            start += count
        return outputs.transpose(0, 1).flatten(1).to(self._weights.dtype)


class NativeOps(TorchOps):
    """By olc's own kernels: one instead of two to eight operators each, and decode attention of all rows at once.

    decoder: all layers in one call, for one token per row; None if some of them are not for the kernels.
    """

    def __init__(self, weights: LlamaWeights) -> None:
        super().__init__(weights)
        found = library.library()
        assert found is not None
        self.name = found.tier.label
        self.decoder = decoder_of(weights)

    def decode(self, hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, caches: Sequence[KVCache]) -> torch.Tensor:
        """All decoder layers for one token of each cache, [n, hidden] → [n, hidden]: what `LeanForward` does one by one."""
        assert self.decoder is not None
        weights, lengths = self._weights, [cache.length for cache in caches]
        shape = (weights.kv_heads, weights.head_size, torch.bfloat16, hidden.device)
        pairs = [[cache.allocate(number, *shape) for cache in caches] for number in range(len(weights.layers))]
        return self.decoder(hidden, cosine, sine, pairs, lengths)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return native.rms_norm(x, weight, self._weights.eps)

    def apply_rotary(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        return native.apply_rotary(x, cosine, sine, self._weights.head_size)

    def silu_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return native.silu_mul(gate, up)

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: RowTokens) -> torch.Tensor:
        if any(count > 1 for _, count in rows):
            return super().attend(layer, query, key, value, rows)
        value = value.bfloat16().contiguous()
        caches = [cache.allocate(layer, value.shape[1], value.shape[2], value.dtype, value.device) for cache, _ in rows]
        lengths = [cache.length for cache, _ in rows]
        return native.attend(query, key, value, caches, lengths, self._weights.scale, self._weights.dtype)


def decoder_of(weights: LlamaWeights) -> native_decoder.Decoder | None:
    """The layers for one call, if all are made of olc's own kernels and have no bias."""

    def matrices(group: Any) -> list[native_decoder.Matrix]:
        linears = [linear for linear in getattr(group, "linears", [group]) if isinstance(linear, NativeLinear)]
        return [linear.matrix for linear in linears if linear.bias is None]

    layers = []
    for layer in weights.layers:
        groups = [matrices(group) for group in (layer.query_key_value, layer.output, layer.gate_up, layer.down)]
        if [len(group) for group in groups] not in ([1, 1, 1, 1], [3, 1, 2, 1]):
            return None
        inputs, (output,), gate_up, (down,) = groups
        layers.append(native_decoder.Layer(layer.attention_norm, inputs, output, layer.mlp_norm, gate_up, down))
    sizes = {"heads": weights.heads, "kv_heads": weights.kv_heads, "size": weights.head_size}
    return native_decoder.Decoder(layers, **sizes, eps=weights.eps, scale=weights.scale)


def fastest_ops(weights: LlamaWeights) -> TorchOps:
    """The fastest on this machine; always torch's in float32, where a row's bits must not depend on the batch."""
    narrow = weights.device.type == "cpu" and weights.cache_dtype == torch.bfloat16 and not weights.batch_invariant
    heads_fit = weights.head_size <= native.MAX_HEAD_SIZE and weights.head_size % 2 == 0
    return (NativeOps if narrow and heads_fit and library.usable() else TorchOps)(weights)
