"""A file of quantized weights, mapped: handing out its tensors, and telling whether it is as it was written."""

import hashlib
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.models.checkpoint.safetensors_files import TensorInfo, read_safetensors_header

if TYPE_CHECKING:
    import torch


_PAGE = mmap.PAGESIZE
# Bytes that are summed up together, and how much of the file is looked at before its pages are given back.
_BLOCK = 4096
_PIECE = 64 << 20


class QuantizedFile:
    """A .safetensors file whose tensors are views of the mapped file. Raises ModelError or OSError if it cannot be read."""

    def __init__(self, file: Path) -> None:
        self._places: dict[str, tuple[int, TensorInfo]] = {}
        header = read_safetensors_header(file)
        with file.open("rb") as stream:
            position = 8 + int(struct.unpack("<Q", stream.read(8))[0])
            # Private and writable: torch warns of memory that cannot be written.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        for name, info in header.items():
            self._places[name] = (position, info)
            position += info.nbytes

    def tensors(self) -> dict[str, TensorInfo]:
        """What the file holds."""
        return {name: info for name, (_, info) in self._places.items()}

    def take(self, name: str) -> "torch.Tensor":
        """One tensor, not copied unless it lies where its type cannot be read."""
        import torch

        offset, info = self._places[name]
        dtype: torch.dtype = getattr(torch, info.dtype)
        if offset % dtype.itemsize:
            raw = torch.frombuffer(self._map, dtype=torch.uint8, count=info.nbytes, offset=offset)
            return raw.clone().view(dtype).view(info.shape)
        count = info.nbytes // dtype.itemsize
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset).view(info.shape)

    def release(self, name: str) -> None:
        """Give back the memory of a tensor that was copied elsewhere; it can still be read, from the file."""
        offset, info = self._places[name]
        self._give_back(offset, info.nbytes)

    def checksum(self) -> str:
        """A checksum of the whole file, at the speed of memory.

        The SHA-256 of the 64-bit sums of each 4 KiB: any change within eight bytes shows, as do blocks that are lost,
        swapped or zeroed. (SHA-256 of everything would take longer than loading.)
        """
        import torch

        digest = hashlib.sha256()
        size = len(self._map)
        for start in range(0, size, _PIECE):
            end = min(size, start + _PIECE)
            whole = (end - start) // _BLOCK * _BLOCK
            if whole:
                words = torch.frombuffer(self._map, dtype=torch.int64, count=whole // 8, offset=start)
                digest.update(words.view(-1, _BLOCK // 8).sum(1).numpy().data)
            digest.update(self._map[start + whole : end])
            self._give_back(start, end - start)
        return digest.hexdigest()

    def _give_back(self, offset: int, count: int) -> None:
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = -(-offset // _PAGE) * _PAGE
        end = (offset + count) // _PAGE * _PAGE
        if end > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
