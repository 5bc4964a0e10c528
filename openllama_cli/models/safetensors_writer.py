"""Writing a .safetensors file tensor by tensor. The library's own writer wants all of them in memory at once."""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.models.headers import SAFETENSORS_DTYPES, TensorInfo
from openllama_cli.models.progress import Progress

if TYPE_CHECKING:
    import torch

_CODES = {dtype: code for code, dtype in SAFETENSORS_DTYPES.items()}


def write_safetensors(
    file: Path, plan: Mapping[str, TensorInfo], tensors: "Iterable[tuple[str, torch.Tensor]]", progress: Progress
) -> None:
    """Write the tensors of `plan`, which `tensors` yields in the same order, and see them on the disk.

    Raises ValueError if a tensor is not the one that the plan has next, OSError if the file cannot be written.
    """
    import torch

    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, info in plan.items():
        end = position + info.nbytes
        header[name] = {"dtype": _CODES[info.dtype], "shape": info.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # Tensors begin at a multiple of 8, as the library has it.
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for (name, info), (given, tensor) in zip(plan.items(), tensors, strict=True):
            if given != name or tuple(tensor.shape) != info.shape or tensor.dtype != getattr(torch, info.dtype):
                raise ValueError(f"{name} {info} was planned, and {given} {tuple(tensor.shape)} {tensor.dtype} came")
            stream.write(tensor.contiguous().view(torch.uint8).numpy().data)
            progress.advance(info.nbytes)
        stream.flush()
        os.fsync(stream.fileno())
