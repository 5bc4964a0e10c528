"""The interface `Forward`, and forward passes through a transformers Llama: rows of different lengths batched without padding.

Each row owns its KV cache. Linear layers see all rows at once; attention runs row by row over exactly the positions of each.
This works wherever transformers and accelerate place the layers (one device, several, offloaded), because it is only an
attention function that transformers calls: registered under a name of our own and selected for one forward pass at a time, so
that `model.generate` keeps its own.

Shapes: n = new tokens of a row, H and K = query and key/value heads, D = head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from openllama_cli.generation.forward.cache import (
    LARGE_PREFILL_CHUNK,
    PREFILL_CHUNK,
    KVCache,
    attend,
    branching,
    prefill_chunks,
)
from openllama_cli.generation.forward.rotary import Rotary, rotary_of
from openllama_cli.models.checkpoint.rope import longrope_limit

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_ATTENTION = "olc_rows"

# A matmul gives a row the same bits whatever the other rows hold, but not at every batch size: one row is a matrix-vector
# product, which sums in another order. In float32 the batch is padded to a multiple of this, so that a row's logits are
# batch-invariant.
INVARIANT_ROWS = 8


class Forward(Protocol):
    """What the decode loop needs of a model: KV caches, prefill of one row, decode of many. name: for people."""

    name: str

    @property
    def context(self) -> int:
        """Positions that the model was trained for."""

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for a row of at most `capacity` positions."""

    def prefill(
        self,
        tokens: Sequence[int],
        cache: KVCache,
        *,
        every: bool = False,
        drafted: bool = False,
        prompt: int | None = None,
    ) -> torch.Tensor:
        """Run a row's prompt, or its end. Returns float32 logits: [1, vocab] of the last token, [n, vocab] if `every`.

        drafted: these tokens follow the prompt, and are to be run as `decode` would run them one by one. prompt: how many
        tokens the whole prompt has, if more than these follow.
        """

    def branch(self, tokens: Sequence[int], parents: Sequence[int], cache: KVCache) -> torch.Tensor:
        """Run a tree of continuations after a row's tokens, whose cache stays as long as it is: [n] tokens → [n, vocab] logits.

        parents: of each token the one before it, which stands earlier in the list; -1: the row's last. A token sees the row's
        tokens, its ancestors and itself (SpecInfer, Miao et al. 2023).
        """

    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        """Run one new token of each row. Returns float32 logits, [rows, vocab]."""


class TransformersForward:
    """Forward passes through `LlamaForCausalLM`, wherever its layers are placed.

    model: in eval mode. input_device: where token ids have to be.
    """

    name = "transformers"

    def __init__(self, model: "LlamaForCausalLM", input_device: torch.device) -> None:
        from transformers import AttentionInterface

        self._model: Any = model  # Called with an argument of ours, `row_caches`.
        self._device = input_device
        self.context = int(model.config.max_position_embeddings)
        self._batch_invariant = model.dtype == torch.float32
        self._all_on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
        self._limit = longrope_limit(model.config.to_dict())
        rotary: Any = self._model.model.rotary_emb
        self._rotary = None if self._limit is None else _RowRotary(rotary_of(rotary, model.dtype, torch.device("cpu")))
        # transformers builds no mask for a name without a mask function.
        AttentionInterface.register(_ATTENTION, _attend_rows)

    def new_cache(self, capacity: int) -> KVCache:
        return KVCache(capacity, PREFILL_CHUNK if self._all_on_cpu else LARGE_PREFILL_CHUNK, long_from=self._limit)

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
            positions = torch.arange(cache.length, cache.length + len(chunk))[None]  # [1, n]
            ids, keep = torch.tensor([chunk]), 0 if every else 1
            logits = self._run(ids, positions, [cache], keep=keep, prompt=total)[0]  # [n or 1, vocab]
            cache.advance(len(chunk))
            if every or last:
                kept.append(logits.float())
        return torch.cat(kept)

    @torch.inference_mode()
    def branch(self, tokens: Sequence[int], parents: Sequence[int], cache: KVCache) -> torch.Tensor:
        with branching(cache, parents) as depths:
            positions = torch.tensor([depths]) + cache.length  # [1, n]
            return self._run(torch.tensor([list(tokens)]), positions, [cache], keep=0)[0].float()

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        rows = len(tokens)
        padding = -rows % INVARIANT_ROWS if self._batch_invariant else 0
        ids = torch.tensor([[token] for token in tokens] + [[0]] * padding)  # [rows, 1]
        positions = torch.tensor([[cache.length] for cache in caches] + [[0]] * padding)  # [rows, 1]
        logits = self._run(ids, positions, caches, keep=1)[:rows, -1]  # [rows, vocab]
        for cache in caches:
            cache.advance(1)
        return logits.float()

    def _run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        caches: Sequence[KVCache],
        *,
        keep: int,
        prompt: int | None = None,
    ) -> torch.Tensor:
        with self._by_row(prompt):
            logits: torch.Tensor = self._model(
                input_ids=ids.to(self._device),
                position_ids=positions.to(self._device),
                use_cache=False,
                logits_to_keep=keep,
                row_caches=caches,
            ).logits
        return logits

    @contextmanager
    def _by_row(self, prompt: int | None) -> Iterator[None]:
        """Have every row attend to its own cache, and turned by itself where the angles depend on its length: transformers'
        module looks at the longest.
        """
        config, modules = self._model.config, self._model.model._modules
        attention, rotary = config._attn_implementation, modules["rotary_emb"]
        config._attn_implementation = _ATTENTION
        if self._rotary is not None:
            modules["rotary_emb"], self._rotary.prompt = self._rotary, prompt
        try:
            yield
        finally:
            config._attn_implementation, modules["rotary_emb"] = attention, rotary


class _RowRotary(torch.nn.Module):
    """In place of a `LlamaRotaryEmbedding`: [rows, n] positions → cosines and sines, [rows, n, D].

    prompt: of the next pass, see `Rotary`.
    """

    def __init__(self, rotary: Rotary) -> None:
        super().__init__()
        self._rotary = rotary
        self.prompt: int | None = None

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._rotary(position_ids.to(x.device), self.prompt)


def _attend_rows(
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
    """Causal attention of each row over its own cache, with transformers' attention interface.

    query: [rows, H, n, D]; key, value: [rows, K, n, D], new positions only. Rows beyond `row_caches` are padding and get zeros.
    Returns [rows, n, H, D].
    """
    outputs = query.new_zeros(query.shape)
    for row, cache in enumerate(row_caches):
        outputs[row] = attend(module.layer_idx, cache, query[row], key[row], value[row], scaling)
    return outputs.transpose(1, 2), None
