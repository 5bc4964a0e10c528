"""The weights of a checkpoint as something that transformers takes slices of, as it does of safetensors files."""

import threading
from typing import TYPE_CHECKING, Any

from openllama_cli.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

    from openllama_cli.models.tensor_source import TensorSource


def lazy_tensors(checkpoint: Checkpoint) -> "dict[str, _LazyTensor]":
    """The weights as transformers takes slices of safetensors files: read when a part is asked for, and not kept."""
    from openllama_cli.models.tensor_source import TensorSource

    source, lock = TensorSource(checkpoint), threading.Lock()
    return {name: _LazyTensor(source, lock, name, info.shape) for name, info in checkpoint.tensors.items()}


class _LazyTensor:
    """What transformers uses of a safetensors slice."""

    def __init__(self, source: "TensorSource", lock: threading.Lock, name: str, shape: tuple[int, ...]) -> None:
        self._source, self._lock, self._name, self._shape = source, lock, name, shape

    def get_shape(self) -> list[int]:
        return list(self._shape)

    def __getitem__(self, part: Any) -> "torch.Tensor":
        with self._lock:  # transformers reads with several threads.
            # A copy: a view would keep the whole weight.
            return self._source.get(self._name)[part].clone()
