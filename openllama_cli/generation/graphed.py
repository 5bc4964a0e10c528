"""The lean forward pass on an NVIDIA GPU: decode steps captured as CUDA graphs.

At one row a GPU reads the weights of a 3B model in 1.4 ms, while starting the kernels of a step one by one from Python takes
some 8 ms. A CUDA graph starts them all at once. It repeats the same kernels on the same addresses, so the rows' caches are
slots of one block of memory, every slot up to the last one in use takes part in a step, and attention looks at a fixed number
of positions under a mask; a graph is captured for each pair of these sizes that comes up, in some 20 ms.

The kernels of a step are as few as torch's operators allow: rotary embedding turns queries, keys and (by an angle of zero)
values at once, they go into the cache in one piece, and residuals are added by the matrix products.

Shapes: S = slots, H, K = query and key/value heads, G = H / K, D = head size, D' = with filling, L = positions looked at.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import embedding, rms_norm, scaled_dot_product_attention, silu

from openllama_cli.generation.cache import KVCache
from openllama_cli.generation.kernels import DenseLinear, Fused
from openllama_cli.generation.lean import LeanForward, suits
from openllama_cli.generation.llama_weights import LayerWeights, LlamaWeights, of_model
from openllama_cli.generation.slots import POSITIONS, SlotCache, SlotPool, SlotShape, slot_count, up_to

# Rotary embeddings whose frequencies change with the length of the text: a graph cannot follow.
_VARYING_ROPE = ("dynamic", "longrope")
_NARROW = (torch.float16, torch.bfloat16)
# Graphs are kept for so many pairs of sizes.
_MOST_GRAPHS = 64


class GraphForward(LeanForward):
    """Prefill as in `LeanForward`; decode in slots, by CUDA graphs.

    model: see `suits_graphs`. notice: told, once, when graphs cannot be captured; the kernels are then started one by one.
    capture: False runs every step without graphs, on any device: the same arithmetic, for tests.
    """

    name = "lean, CUDA graphs"

    def __init__(self, model: Any, notice: Callable[[str], None] | None = None, *, capture: bool = True) -> None:
        weights = of_model(model, stacked=True)
        super().__init__(weights)
        self._notice, self._capture = notice, capture
        self._pool = SlotPool(
            SlotShape(
                context=weights.context,
                layers=len(weights.layers),
                kv_heads=weights.kv_heads,
                head_size=weights.head_size,
                device=weights.device,
                dtype=weights.dtype,
            )
        )
        self._step = _Step(weights, self._pool)
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._version = 0

    def new_cache(self, capacity: int) -> KVCache:
        try:
            return self._pool.take(capacity)
        except torch.OutOfMemoryError:
            return super().new_cache(capacity)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        slots = [cache for cache in caches if isinstance(cache, SlotCache) and cache.pool is self._pool]
        if len(slots) < len(caches):  # One that found no room in the pool.
            return super().decode(tokens, caches)
        if self._version != self._pool.version:
            self._graphs.clear()
            self._version = self._pool.version
        size = min(slot_count(max(cache.slot for cache in slots) + 1), self._pool.slots)
        length = min(up_to(max(cache.length for cache in slots) + 1, POSITIONS), self._pool.positions)
        # Slots that are not in use write to the last position, which no row looks at.
        ids, positions = [0] * size, [self._pool.positions - 1] * size
        for token, cache in zip(tokens, slots, strict=True):
            ids[cache.slot], positions[cache.slot] = token, cache.length
        logits = self._run_step(torch.tensor([ids, positions]), length)
        for cache in slots:
            cache.advance(1)
        return logits[[cache.slot for cache in slots]]

    def _run_step(self, inputs: torch.Tensor, length: int) -> torch.Tensor:
        """[2, S] token ids and positions → [S, vocab] logits, float32, on the CPU.

        The first step of a size runs without a graph: it also makes libraries allocate what they need, before the capture.
        """
        size = (inputs.shape[1], length)
        graph = self._graphs.get(size)
        if graph is not None:
            return graph.replay(inputs)
        logits = self._step(inputs.to(self._device), length).cpu()
        if self._capture and len(self._graphs) < _MOST_GRAPHS:
            try:
                self._graphs[size] = _Graph(lambda ids: self._step(ids, length), inputs.to(self._device))
            except RuntimeError as error:
                self._capture = False
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                if self._notice is not None:
                    self._notice(f"CUDA graphs cannot be captured here, so decoding is slower: {reason}")
        return logits


class _Graph:
    """A captured step, its inputs and its outputs, which stay where they are."""

    def __init__(self, step: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> None:
        self._inputs = inputs.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = step(self._inputs)
        # Pinned, since the GPU copies such memory at once; overwritten by every step.
        self._received = torch.empty(self._logits.shape, dtype=self._logits.dtype, pin_memory=True)

    def replay(self, inputs: torch.Tensor) -> torch.Tensor:
        self._inputs.copy_(inputs)
        self._graph.replay()
        self._received.copy_(self._logits)
        return self._received


class _Step:
    """One token of every slot through the model: [2, S] ids and positions → [S, vocab] logits, float32."""

    def __init__(self, weights: LlamaWeights, pool: SlotPool) -> None:
        self._weights, self._pool = weights, pool
        # Of queries, keys and values: 1 where a head turns. [H + 2 K, 1]
        heads = [1] * (weights.heads + weights.kv_heads) + [0] * weights.kv_heads
        self._turns = torch.tensor(heads, device=weights.device, dtype=weights.dtype)[:, None]

    def __call__(self, inputs: torch.Tensor, length: int) -> torch.Tensor:
        weights, pool = self._weights, self._pool
        ids, positions = inputs
        cosine, sine = self._angles(positions)
        mask = self._mask(positions, length)
        place = positions[:, None, None, None].expand(-1, 2 * weights.kv_heads, 1, pool.shape.width)
        # What stands behind the first D of D' stays zero.
        turned = cosine.new_zeros((len(ids), len(self._turns), pool.shape.width))
        hidden = embedding(ids, weights.embedding)  # [S, hidden]
        for number, layer in enumerate(weights.layers):
            memory = pool.memory[number][: len(ids)]
            query_key_value, gate_up, output, down = _dense(layer)
            together = query_key_value.stacked(self._normalise(hidden, layer.attention_norm))
            together = together.unflatten(-1, (-1, weights.head_size))  # [S, H + 2 K, D]
            swapped = together.roll(weights.head_size // 2, -1)
            torch.addcmul(together * cosine, swapped, sine, out=turned[..., : weights.head_size])
            memory.scatter_(2, place, turned[:, weights.heads :, None])
            attended = self._attend(turned[:, : weights.heads], memory[:, :, :length], mask)
            hidden = output.added(hidden, attended)
            gate, up = gate_up(self._normalise(hidden, layer.mlp_norm))
            hidden = down.added(hidden, silu(gate).mul_(up))
        return weights.head(self._normalise(hidden, weights.norm)).float()

    def _angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, [S, H + 2 K, D]: (x1, x2) becomes (x1, x2) · cos + (x2, x1) · (-sin, sin); values stay."""
        cosine, sine = (x[:, None] for x in self._weights.rotary(positions))  # [S, 1, D]
        first, second = sine.chunk(2, dim=-1)
        sine = torch.cat((-first, second), dim=-1) * self._turns
        return cosine * self._turns + (1 - self._turns), sine

    def _mask(self, positions: torch.Tensor, length: int) -> torch.Tensor:
        """[S, 1, 1, L]: what is added to scores, -inf where no key is yet."""
        later = torch.arange(length, device=positions.device) > positions[:, None]  # [S, L]
        mask = torch.zeros(later.shape, device=positions.device, dtype=self._weights.dtype)
        return mask.masked_fill(later, -torch.inf)[:, None, None]

    def _attend(self, query: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[S, H, D'] and [S, 2 K, L, D'] → [S, H · D]. The G queries of a key head stand where a prompt's tokens would."""
        heads = self._weights.kv_heads
        # Flash attention takes no mask.
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            attended = scaled_dot_product_attention(
                query.unflatten(1, (heads, -1)), memory[:, :heads], memory[:, heads:], mask, scale=self._weights.scale
            )  # [S, K, G, D']
        return attended[..., : self._weights.head_size].flatten(1)

    def _normalise(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight.shape, weight, self._weights.eps)


def _dense(layer: LayerWeights) -> tuple[Fused, Fused, DenseLinear, DenseLinear]:
    """A layer's products, of the kinds that `of_model` makes when it stacks them."""
    query_key_value, gate_up, output, down = layer.query_key_value, layer.gate_up, layer.output, layer.down
    assert isinstance(query_key_value, Fused)
    assert isinstance(gate_up, Fused)
    assert isinstance(output, DenseLinear)
    assert isinstance(down, DenseLinear)
    return query_key_value, gate_up, output, down


def suits_graphs(model: Any) -> bool:
    """Whether `GraphForward` can run a model: as `suits`, on a GPU, in 16 bits, with a rotary embedding that is fixed."""
    rope = getattr(model.config, "rope_parameters", None) or getattr(model.config, "rope_scaling", None) or {}
    fixed = rope.get("rope_type", rope.get("type", "default")) not in _VARYING_ROPE
    return suits(model) and model.device.type == "cuda" and model.dtype in _NARROW and fixed
