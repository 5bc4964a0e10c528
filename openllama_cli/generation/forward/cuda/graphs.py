"""The lean forward pass on an NVIDIA GPU: decode steps captured as CUDA graphs.

With one row a GPU reads the weights of a 3B model in 1.4 ms, while launching the kernels of a step one by one from Python takes
about 8 ms. A CUDA graph launches them all at once. It replays the same kernels on the same addresses, so the rows' KV caches
are slots of one tensor (`slots`), and every slot up to the last one in use takes part in a step. A graph is captured for each
number of slots that occurs, in about 20 ms; the one for a single row when the model is loaded.

Linear layers with the same input are fused, matmuls add their residuals, and the rest is in `kernels` and `attention`.

Shapes: S = slots, H, K = query and key/value heads, D = head size, D' = padded, L = positions read, P = positions of a slot.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import embedding

from openllama_cli.errors import first_line
from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.cuda.attention import slot_attention
from openllama_cli.generation.forward.cuda.kernels import step_kernels
from openllama_cli.generation.forward.cuda.slots import POSITIONS, SlotCache, SlotPool, round_up, slot_count
from openllama_cli.generation.forward.lean import LeanForward, supports_lean
from openllama_cli.generation.forward.weights import LlamaWeights, from_transformers
from openllama_cli.models.checkpoint.rope import longrope_limit

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_HALF_DTYPES = (torch.float16, torch.bfloat16)
# Graphs are kept for at most this many pairs of sizes.
_MAX_GRAPHS = 64


class GraphForward(LeanForward):
    """Prefill as in `LeanForward`; decode in slots, by CUDA graphs.

    model: see `supports_graphs`. notice: called once if graphs cannot be captured or do not fit into memory; kernels are then
    launched one by one. capture: False runs every step without graphs, on any device: the same arithmetic, for tests.
    """

    name = "lean, CUDA graphs"

    def __init__(self, model: "LlamaForCausalLM", notice: Callable[[str], None] | None = None, *, capture: bool = True) -> None:
        weights = from_transformers(model, fused=True)
        super().__init__(weights)
        self._notice, self._capture = notice, capture
        self._pool = SlotPool(weights)
        self._step = _Step(weights, self._pool)
        # None: it did not fit into memory.
        self._graphs: dict[tuple[int, int], _Graph | None] = {}
        self._full = False
        self._version = 0
        if capture:
            self._capture_one_row()

    def new_cache(self, capacity: int) -> KVCache:
        try:
            return self._pool.acquire(capacity)
        except torch.OutOfMemoryError:
            if not self._full and self._notice is not None:
                self._notice("the GPU's memory is nearly full, so decoding continues without CUDA graphs, slower")
            self._full = True
            return super().new_cache(capacity)

    @torch.inference_mode()
    def _capture_one_row(self) -> None:
        """Run and capture a step of one row, so that the first step of a text is as fast as the others."""
        cache = self.new_cache(min(POSITIONS, self.context + 1) - 1)
        self.prefill([0], cache)
        cache.truncate(0)
        self.decode([0], [cache])

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        slots = [cache for cache in caches if isinstance(cache, SlotCache) and cache.pool is self._pool]
        if len(slots) < len(caches):  # One did not fit into the pool.
            return super().decode(tokens, caches)
        if self._version != self._pool.version:
            self._graphs.clear()
            self._version = self._pool.version
        size = min(slot_count(max(cache.slot for cache in slots) + 1), self._pool.slots)
        length = self._pool.positions
        if not self._step.attention.any_length:
            length = min(round_up(max(cache.length for cache in slots) + 1, POSITIONS), length)
        # Unused slots write to the last position, which no row reads.
        ids, positions = [0] * size, [self._pool.positions - 1] * size
        for token, cache in zip(tokens, slots, strict=True):
            ids[cache.slot], positions[cache.slot] = token, cache.length
        # Our own kernels and graphs use the current device.
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            logits = self._run_step(torch.tensor([ids, positions]), length)
        for cache in slots:
            cache.advance(1)
        return torch.stack([logits[cache.slot] for cache in slots])

    def _run_step(self, inputs: torch.Tensor, length: int) -> torch.Tensor:
        """[2, S] token ids and positions → [S, vocab] float32 logits, which the next step overwrites.

        The first step of a size runs without a graph, so that libraries allocate their workspaces before the capture.
        """
        size = (inputs.shape[1], length)
        graph = self._graphs.get(size)
        if graph is not None:
            return graph.replay(inputs)
        logits = self._step(inputs.to(self._device), length)
        if self._capture and size not in self._graphs and len(self._graphs) < _MAX_GRAPHS:
            try:
                self._graphs[size] = _Graph(lambda ids: self._step(ids, length), inputs.to(self._device))
            except torch.OutOfMemoryError:
                self._graphs[size] = None
            except RuntimeError as error:
                self._capture = False
                if self._notice is not None:
                    self._notice(f"CUDA graphs cannot be captured here, so decoding is slower: {first_line(error)}")
        return logits


class _Graph:
    """A captured step with its input and output tensors, whose addresses are fixed."""

    def __init__(self, step: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> None:
        self._inputs = inputs.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = step(self._inputs)

    def replay(self, inputs: torch.Tensor) -> torch.Tensor:
        self._inputs.copy_(inputs)
        self._graph.replay()
        return self._logits


class _Step:
    """One token of every slot through the model: [2, S] ids and positions → [S, vocab] float32 logits."""

    def __init__(self, weights: LlamaWeights, pool: SlotPool) -> None:
        self._weights, self._pool = weights, pool
        self._kernels = step_kernels(weights.dtype, weights.eps, weights.device)
        self.attention = slot_attention(weights.kv_heads, weights.heads, pool.width, weights.scale, weights.norm)
        self._cosine, self._sine = weights.rotary(torch.arange(weights.context, device=weights.device))  # [context, D]

    def __call__(self, inputs: torch.Tensor, length: int) -> torch.Tensor:
        weights, pool, kernels = self._weights, self._pool, self._kernels
        ids, positions = inputs
        # Unused slots write beyond the context, where there are no angles.
        known = positions.clamp_max(weights.context - 1)
        cosine, sine = embedding(known, self._cosine), embedding(known, self._sine)  # [S, D]
        attend = self.attention.prepare(positions, length, pool.positions)
        hidden = embedding(ids, weights.embedding)  # [S, hidden]
        layers: Sequence[Any] = weights.layers  # With `Fused` and `DenseLinear`, as `from_transformers` makes them to be fused.
        for layer, slots in zip(layers, pool.memory, strict=True):
            memory = slots[: len(ids)]
            qkv = layer.query_key_value.concatenated(kernels.rms_norm(hidden, layer.attention_norm))
            qkv = qkv.unflatten(-1, (-1, weights.head_size))  # [S, H + 2 K, D]
            query = kernels.apply_rotary(qkv, cosine, sine, positions, memory)  # [S, H, D']
            attended = attend(query, memory)[..., : weights.head_size].flatten(1)  # [S, H · D]
            hidden = layer.output.add_to(hidden, attended)
            activated = kernels.silu_mul(layer.gate_up.concatenated(kernels.rms_norm(hidden, layer.mlp_norm)))
            hidden = layer.down.add_to(hidden, activated)
        return weights.head(kernels.rms_norm(hidden, weights.norm)).float()


def supports_graphs(model: "LlamaForCausalLM") -> bool:
    """Whether `GraphForward` can run a model: as `supports_lean`, on a GPU, in 16 bits, with angles that a graph can replay."""
    fixed = longrope_limit(model.config.to_dict()) is None
    return supports_lean(model) and model.device.type == "cuda" and model.dtype in _HALF_DTYPES and fixed
