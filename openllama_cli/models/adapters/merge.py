"""Adding adapters to a weight, in float32: as peft's `merge_and_unload` computes it in that type.

LoRA (Hu et al. 2021): W + scale · B A. DoRA (Liu et al. 2024): each row of that, scaled to the length that training gave it,
where the length is measured with the model's own weight (peft's `DoraLinearLayer`); of an embedding, each column.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import ModelError
from openllama_cli.models.adapters.adapter import Adapter, Change
from openllama_cli.models.model_files import brief, parsing

if TYPE_CHECKING:
    import torch


class Adapters:
    """Adapters with their weights, which are opened when the first is needed."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._adapters = adapters
        self._open: dict[Path, Any] = {}

    def change(self, name: str) -> bool:
        """Whether any of them changes a weight."""
        return any(name in adapter.changes for adapter in self._adapters)

    def replace(self, name: str) -> bool:
        """Whether one stands in place of the model's weight, so that this need not be read."""
        return any(name in adapter.changes and adapter.changes[name].whole is not None for adapter in self._adapters)

    def merged(self, name: str, weight: "torch.Tensor | None", dtype: "torch.dtype | None") -> "torch.Tensor":
        """A weight with all of them in order, in `dtype`, or float32 for None. weight: the model's own, None where it is
        replaced.

        Raises ModelError for files that changed since they were inspected, for numbers in them that are not finite, and for
        weights beyond the range of `dtype`.
        """
        import torch

        changes = [(adapter, adapter.changes[name]) for adapter in self._adapters if name in adapter.changes]
        base = None if weight is None else weight.float()
        for place, (adapter, change) in reversed(list(enumerate(changes))):
            if change.whole is not None:  # What others did before is replaced too.
                base, changes = self._tensor(adapter, change.whole), changes[place:]
                self._check_twin(adapter, change, base)
                break
        assert base is not None, "a weight that is not replaced is given"
        merged = base
        for adapter, change in changes:
            merged = self._added(adapter, change, base, merged)
        result = merged if dtype is None else merged.to(dtype)
        if dtype == torch.float16 and not result.isfinite().all():
            files = " and ".join(str(adapter.file) for adapter, _ in changes)
            raise ModelError(
                f"{name} with {files} is beyond the range of float16", "use --dtype bfloat16 or float32", code="range"
            )
        return result

    def _check_twin(self, adapter: Adapter, change: Change, whole: "torch.Tensor") -> None:
        if change.twin is not None and not self._tensor(adapter, change.twin).equal(whole):
            raise ModelError(
                f"{adapter.file} holds two matrices for embedding and output, which are one in the model",
                "merge it with peft, and use the merged folder",
                code="adapter",
            )

    def _added(self, adapter: Adapter, change: Change, base: "torch.Tensor", merged: "torch.Tensor") -> "torch.Tensor":
        import torch

        if change.added is not None:
            return merged + self._tensor(adapter, change.added) * change.scale
        if change.a is None or change.b is None:
            return merged
        delta = (self._tensor(adapter, change.b) @ self._tensor(adapter, change.a)).mul_(change.scale)
        delta = delta.T if change.embedding else delta
        if change.magnitude is None:
            return merged + delta
        across = 0 if change.embedding else 1
        length = torch.linalg.norm(base + delta, dim=across)
        factor = (self._tensor(adapter, change.magnitude).flatten() / length).unsqueeze(across)
        scaled: torch.Tensor = factor * (merged + delta)
        return scaled

    def _tensor(self, adapter: Adapter, name: str) -> "torch.Tensor":
        import torch
        from safetensors import safe_open

        with parsing(adapter.file, memory=False):
            safe = adapter.file.suffix == ".safetensors"
            if adapter.file not in self._open:
                opened: Any = (
                    safe_open(adapter.file, framework="pt")
                    if safe
                    else torch.load(adapter.file, map_location="cpu", mmap=True, weights_only=True)
                )
                self._open[adapter.file] = opened
            found = self._open[adapter.file]
            tensor: torch.Tensor = found.get_tensor(name) if safe else found[name]
            tensor = tensor.float()
        if not tensor.isfinite().all():
            raise ModelError(
                f"{adapter.file}: {brief(name, 120)} has numbers that are NaN or infinite",
                "use an adapter of a training that did not diverge",
                code="adapter",
            )
        return tensor
