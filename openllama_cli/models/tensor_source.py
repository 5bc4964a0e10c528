"""The weights of a checkpoint of any format, one at a time by name, without holding the others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.models import meta_format
from openllama_cli.models.checkpoint import Checkpoint
from openllama_cli.models.headers import read_safetensors_header
from openllama_cli.models.mapped import READ_BEFORE_REOPENING, MappedFiles
from openllama_cli.models.torch_zip import read_torch_header

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
