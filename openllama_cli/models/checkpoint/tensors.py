"""The weights of a checkpoint of any format, one at a time by name, without holding the others."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.models.adapters.merge import Adapters
from openllama_cli.models.checkpoint.gguf.blocks import GGUFWeights
from openllama_cli.models.checkpoint.inspect import Checkpoint
from openllama_cli.models.checkpoint.meta import half_split
from openllama_cli.models.model_files import Format, parsing

if TYPE_CHECKING:
    import torch

# Pages of a mapped file that were read count as this process's memory until it is unmapped, so now and then all files are:
# after this many bytes, and for PyTorch files after 1/64 of them, since opening one takes some 20 ms.
READ_BEFORE_REOPENING = 64 << 20
# Numbers that are converted at a time: their float32 copy stays in the processor's cache.
_BLOCK = 1 << 18


class TensorSource:
    """Reads weights under their Hugging Face names from where inspection found them.

    Slices of several files (Meta's format) are joined, rotary rows come in Hugging Face's order, blocks (GGUF) are
    decoded, and adapters merged.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._adapters = checkpoint, Adapters(checkpoint.adapters)
        small = checkpoint.format in ("safetensors", "gguf")
        self._limit = READ_BEFORE_REOPENING if small else max(READ_BEFORE_REOPENING, checkpoint.bytes // 64)
        self._open: dict[Path, Any] = {}
        self._read = 0

    def get(self, name: str, dtype: "torch.dtype | None" = None) -> "torch.Tensor":
        """One weight: a view of the mapped file where that holds it as it is, which keeps the file mapped as long as it lives.

        dtype: to convert it to; None is the type it is stored in, or float32 for one that is decoded or merged. Raises
        ModelError for files that changed since they were inspected.
        """
        if self._adapters.change(name):
            return self._adapters.merged(name, None if self._adapters.replace(name) else self._own(name, None), dtype)
        return self._own(name, dtype)

    def _own(self, name: str, dtype: "torch.dtype | None") -> "torch.Tensor":
        """A weight without adapters."""
        import torch

        stored = self._checkpoint.layout[name]
        if self._read >= self._limit:
            self._open.clear()
            self._read = 0
        slices = [self._slice(file, name, dtype) for file in stored.files]
        self._read += sum(slice_.nbytes for slice_ in slices)
        tensor = slices[0] if len(slices) == 1 else torch.cat(slices, stored.dim or 0)
        tensor = half_split(tensor, stored.heads) if stored.heads else tensor
        return tensor if dtype is None else cast(tensor, dtype)

    def _slice(self, file: Path, name: str, dtype: "torch.dtype | None") -> "torch.Tensor":
        """dtype: to decode blocks to."""
        stored = self._checkpoint.layout[name]
        with parsing(file, memory=False):
            if file not in self._open:
                self._open[file] = _opened(file, self._checkpoint.format)
            opened = self._open[file]
            if stored.blocks is not None:
                decoded: torch.Tensor = opened.get(stored.blocks, self._checkpoint.tensors[name].shape, dtype)
                return decoded
            tensor: torch.Tensor = (
                opened.get_tensor(stored.name) if self._checkpoint.format == "safetensors" else opened[stored.name]
            )
            return tensor


def _opened(file: Path, format_: Format) -> Any:
    """A file of weights, mapped: a `safe_open` of safetensors, a `GGUFWeights`, else torch's dict of tensors.

    Raises what their parsers do.
    """
    import torch
    from safetensors import safe_open

    if format_ == "safetensors":
        return safe_open(file, framework="pt")
    if format_ == "gguf":
        return GGUFWeights(file)
    return torch.load(file, map_location="cpu", mmap=True, weights_only=True)


def mapped_tensors(checkpoint: Checkpoint) -> dict[str, Any]:
    """All weights of files in Hugging Face's format, as transformers' `from_pretrained` makes them of a folder's: mapped.

    Slices of safetensors files, which are read when they are put in place, or tensors. Raises ModelError for changed files.
    """
    safetensors = checkpoint.format == "safetensors"  # Else .bin.
    opened: dict[Path, Any] = {}
    tensors = {}
    for name in checkpoint.tensors:
        stored = checkpoint.layout[name]
        file = stored.files[0]
        with parsing(file, memory=False):
            if file not in opened:
                opened[file] = _opened(file, checkpoint.format)
            tensors[name] = opened[file].get_slice(stored.name) if safetensors else opened[file][stored.name]
    return tensors


def lazy_tensors(checkpoint: Checkpoint) -> "dict[str, _LazyTensor]":
    """The weights as transformers expects slices of safetensors files: read when a part is asked for, and not kept."""
    source, lock = TensorSource(checkpoint), threading.Lock()
    return {name: _LazyTensor(source, lock, name, info.shape) for name, info in checkpoint.tensors.items()}


class _LazyTensor:
    """What transformers uses of a safetensors slice."""

    def __init__(self, source: TensorSource, lock: threading.Lock, name: str, shape: tuple[int, ...]) -> None:
        self._source, self._lock, self._name, self._shape = source, lock, name, shape

    def get_shape(self) -> list[int]:
        return list(self._shape)

    def __getitem__(self, part: Any) -> "torch.Tensor":
        with self._lock:  # transformers reads with several threads.
            # A copy: a view would keep the whole weight.
            return self._source.get(self._name)[part].clone()


def cast(tensor: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """`tensor.to(dtype)`. From float16 to bfloat16 it goes by way of float32, to the same bits.

    torch converts these two one number at a time: that takes three times as long.
    """
    import torch

    if (tensor.dtype, dtype) != (torch.float16, torch.bfloat16):
        return tensor.to(dtype)
    result = torch.empty(tensor.shape, dtype=dtype)
    wide = torch.empty(min(_BLOCK, tensor.numel()))
    if tensor.numel():
        for target, block in zip(result.view(-1).split(_BLOCK), tensor.reshape(-1).split(_BLOCK), strict=True):
            target.copy_(wide[: len(block)].copy_(block))
    return result
