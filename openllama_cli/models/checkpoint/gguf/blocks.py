"""The weights in a GGUF file: mapped where torch has their type, else decoded by the package gguf, some rows at a time."""

import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.gguf.llama import PLAIN_TYPES
from openllama_cli.models.checkpoint.stored import StoredBlocks
from openllama_cli.system.memory import give_back

if TYPE_CHECKING:
    import torch

# Weights that a thread decodes at a time: their copies in several types stay in the processor's cache.
_AT_ONCE = 1 << 18
_MOST_THREADS = 8


class GGUFWeights:
    """A GGUF file, mapped. Raises OSError where it cannot be read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with file.open("rb") as stream:
            # Private and writable: torch warns of memory that cannot be written.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)

    def get(self, stored: StoredBlocks, shape: tuple[int, ...], dtype: "torch.dtype | None") -> "torch.Tensor":
        """A tensor: a view of the file where it has a type of torch's, else decoded into `dtype`, or float32 for None.

        Raises ModelError for weights that are beyond the range of `dtype`.
        """
        import torch

        count = 1
        for size in shape:
            count *= size
        if stored.type in PLAIN_TYPES:
            own: torch.dtype = getattr(torch, PLAIN_TYPES[stored.type])
            return torch.frombuffer(self._map, dtype=own, count=count, offset=stored.offset).view(shape)
        return self._decoded(stored, shape, count, dtype or torch.float32)

    def _decoded(self, stored: StoredBlocks, shape: tuple[int, ...], count: int, dtype: "torch.dtype") -> "torch.Tensor":
        import gguf
        import numpy as np
        import torch

        kind = gguf.GGMLQuantizationType[stored.type]
        rows = np.frombuffer(self._map, np.uint8, stored.nbytes, stored.offset).reshape(count // shape[-1], -1)
        result = torch.empty(shape, dtype=dtype)
        target = result.view(len(rows), -1)
        step = max(1, _AT_ONCE // shape[-1])

        def decode(start: int) -> bool:
            """Whether the rows' weights are in the range of `dtype`."""
            part = target[start : start + step]
            part.copy_(torch.from_numpy(gguf.quants.dequantize(rows[start : start + step], kind)))
            return dtype != torch.float16 or bool(part.isfinite().all())

        gguf.quants.dequantize(rows[:1], kind)  # It completes tables the first time, which one thread has to do.
        with ThreadPoolExecutor(min(_MOST_THREADS, torch.get_num_threads())) as threads:
            whole = all(threads.map(decode, range(0, len(rows), step)))
            give_back(self._map, stored.offset, stored.nbytes)
            if not whole:
                raise ModelError(
                    f"{self._file} has weights beyond the range of float16", "use --dtype bfloat16 or float32", code="range"
                )
        return result
