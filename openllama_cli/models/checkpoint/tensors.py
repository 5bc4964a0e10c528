"""The weights of a checkpoint of any format, one at a time by name, without holding the others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.models.checkpoint import meta as meta_format
from openllama_cli.models.checkpoint.inspect import Checkpoint
from openllama_cli.models.checkpoint.safetensors_files import read_safetensors_header
from openllama_cli.models.checkpoint.torch_files import READ_BEFORE_REOPENING, MappedFiles, read_torch_header

if TYPE_CHECKING:
    import torch
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    pass
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class TensorSource:
    """Reads weights under their Hugging Face names, in the types they are stored in."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._meta = meta_format.read_meta(checkpoint.path) if checkpoint.format == "meta" else None
        self._all = MappedFiles(checkpoint.files)
        self._each: dict[Path, Any] = {}
        self._read = 0
        self._safe = checkpoint.format == "safetensors"
        self._file_of: dict[str, Path] = {}
        if self._meta is None:
            read = read_safetensors_header if self._safe else read_torch_header
            self._file_of = {name: file for file in checkpoint.files for name in read(file)}

    def get(self, name: str) -> "torch.Tensor":
        """One weight, whole: a view of the mapped file where it lies there as it is.

        Raises what torch and safetensors raise for files that changed since they were inspected.
        """
        if self._meta is not None:
            return meta_format.read_tensor(self._all, self._meta.layout[name])
        file = self._file_of[name]
        return self._safetensors(file, name) if self._safe else self._torch(file, name)

    def _torch(self, file: Path, name: str) -> "torch.Tensor":
        if file not in self._each:
            self._each[file] = MappedFiles([file])
        tensors: list[torch.Tensor] = self._each[file].get(name)
        return tensors[0]

    def _safetensors(self, file: Path, name: str) -> "torch.Tensor":
        from safetensors import safe_open

        # Pages of a mapped file that were read count as this process's memory until it is unmapped.
        if file not in self._each or self._read >= READ_BEFORE_REOPENING:
            self._each = {file: safe_open(file, framework="pt")}
            self._read = 0
        tensor: torch.Tensor = self._each[file].get_tensor(name)
        self._read += tensor.nbytes
        return tensor


def lazy_tensors(checkpoint: Checkpoint) -> "dict[str, _LazyTensor]":
    """The weights as transformers takes slices of safetensors files: read when a part is asked for, and not kept."""
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


# Numbers that are converted at a time: their float32 copy stays in the processor's cache.
_BLOCK = 1 << 18


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


def cast_weights(checkpoint: Checkpoint, dtype: "torch.dtype") -> "Iterator[tuple[str, torch.Tensor]]":
    """All weights under their Hugging Face names, one after another; the checkpoint's pages do not pile up in memory.

    Raises what torch and safetensors raise for files that changed since they were inspected.
    """
    source = TensorSource(checkpoint)
    for name in checkpoint.tensors:
        yield name, cast(source.get(name), dtype)
