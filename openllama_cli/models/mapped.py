"""Tensors out of PyTorch files that are larger than memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Pages of a mapped file that were read count as this process's memory until it is unmapped, so now and then it is: after
# this many bytes, or after 1/64 of the files, since opening one takes some 20 ms.
READ_BEFORE_REOPENING = 64 << 20


class MappedFiles:
    """Some PyTorch files, mapped into memory; `get` gives the tensors of one name from each.

    A tensor keeps its file mapped for as long as it lives. Raises what torch.load raises for files that it cannot read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._open: list[dict[str, torch.Tensor]] = []
        self._read = 0
        self._limit = max(READ_BEFORE_REOPENING, sum(file.stat().st_size for file in files) // 64)

    def get(self, name: str) -> "list[torch.Tensor]":
        """The tensor called `name` in each file, in the order of the files: views of the files, not copies."""
        import torch

        if not self._open or self._read >= self._limit:
            self._open.clear()
            self._open += [torch.load(file, map_location="cpu", mmap=True, weights_only=True) for file in self._files]
            self._read = 0
        tensors = [file[name] for file in self._open]
        self._read += sum(tensor.nbytes for tensor in tensors)
        return tensors
