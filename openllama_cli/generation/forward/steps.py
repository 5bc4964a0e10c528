"""What a layer does between its products: norms, rotary embeddings, attention, the activation. By torch's operators, or on a
CPU by olc's own kernels.

Shapes: n = tokens, H and K = query and key/value heads, D = head size, L = positions in a row's cache.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import rms_norm, silu

from openllama_cli.generation.forward.cache import KVCache, attend
from openllama_cli.generation.forward.weights import LlamaWeights
from openllama_cli.native import layer as native
from openllama_cli.native import library

# Each row's cache, and how many of the tokens are its own, in their order.
Work = Sequence[tuple[KVCache, int]]


class TorchSteps:
    """By torch's operators, on every device and in every type; in float32 the same arithmetic as transformers'.

    name: what `--stats` calls them, where they are not torch's.
    """

    name: str | None = None

    def __init__(self, weights: LlamaWeights) -> None:
        self._weights = weights

    def normalize(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm (Zhang and Sennrich 2019), in float32 as transformers does it; on a GPU in one kernel."""
        if self._weights.device.type == "cuda":
            return rms_norm(x, weight.shape, weight, self._weights.eps)
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._weights.eps)
        return weight.to(x.dtype) * scaled.to(x.dtype)

    def turn(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        """Rotary position embedding (Su et al. 2021): [n, heads · D] by [n, D] → [n, heads, D], halves of D paired."""
        x = x.unflatten(-1, (-1, self._weights.head_size))
        first, second = x.chunk(2, dim=-1)
        return x * cosine[:, None] + torch.cat((-second, first), dim=-1) * sine[:, None]

    def activate(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """The gated activation of the MLP (Shazeer 2020)."""
        return silu(gate) * up

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, work: Work) -> torch.Tensor:
        """query [n, H, D], key and value [n, K, D] → [n, H · D], row by row. work: each row's cache, and its tokens.

        Tokens that belong to no row only fill up the products, and get zeros.
        """
        kind = self._weights.cache_dtype
        query, key, value = (x.to(kind).transpose(0, 1) for x in (query, key, value))  # [H or K, n, D]
        outputs = query.new_zeros(query.shape)
        start = 0
        for cache, count in work:
            own = slice(start, start + count)
            outputs[:, own] = attend(layer, cache, query[:, own], key[:, own], value[:, own], self._weights.scale)
            start += count
        return outputs.transpose(0, 1).flatten(1).to(self._weights.dtype)


class NativeSteps(TorchSteps):
    """By olc's own kernels: one instead of two to eight operators each, and attention of all rows together."""

    name = "AMX"

    def normalize(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return native.normalize(x, weight, self._weights.eps)

    def turn(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        return native.turn(x, cosine, sine, self._weights.head_size)

    def activate(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return native.activate(gate, up)

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, work: Work) -> torch.Tensor:
        if any(count > 1 for _, count in work):
            return super().attend(layer, query, key, value, work)
        value = value.bfloat16().contiguous()
        caches = [cache.room(layer, value.shape[1], value.shape[2], value.dtype, value.device) for cache, _ in work]
        lengths = [cache.length for cache, _ in work]
        return native.attend(query, key, value, caches, lengths, self._weights.scale, self._weights.dtype)


def make_steps(weights: LlamaWeights) -> TorchSteps:
    """The fastest on this machine. In float32, where rows are to be the same to the last bit, always torch's."""
    suits = weights.device.type == "cpu" and weights.cache_dtype == torch.bfloat16 and not weights.exact_rows
    sizes = weights.head_size <= native.MOST_SIZE and weights.head_size % 2 == 0
    return (NativeSteps if suits and sizes and library.usable() else TorchSteps)(weights)
