"""A .safetensors file: what it holds, read from its header without torch, and writing one tensor by tensor."""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.models.checkpoint.shape import SAFETENSORS_CODES, TensorInfo
from openllama_cli.models.model_files import damaged, refuse_stand_in
from openllama_cli.system.progress import Progress

if TYPE_CHECKING:
    import torch


# The safetensors library refuses longer ones too.
LONGEST_HEADER = 100_000_000

_DTYPES = {code: dtype for dtype, code in SAFETENSORS_CODES.items()}


def read_safetensors_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a .safetensors file, by name.

    The format: 8 bytes with the header's length (little endian), the header as JSON, then the tensors without gaps. Every
    offset is checked against the file's size. Raises ModelError for a file that is truncated, damaged or something else,
    OSError where it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        refuse_stand_in(file, start + stream.read(56), "weights")
        if len(start) < 8:
            raise damaged(file, f"is truncated: {size} bytes, less than a header")
        length = struct.unpack("<Q", start)[0]
        if length > LONGEST_HEADER:
            raise damaged(file, "is not a safetensors file: its first 8 bytes are not a header length")
        if 8 + length > size:
            raise damaged(file, f"is truncated: {size:,} bytes, and its header alone needs {8 + length:,}")
        stream.seek(8)
        text = stream.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = sorted(_entry(name, entry) for name, entry in header.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(file, f"has a damaged header ({type(error).__name__}: {error})") from error
    position = 0
    for begin, end, name, tensor in entries:
        if begin != position or end - begin != tensor.nbytes:
            raise damaged(file, f"has a damaged header: {name} is at {begin}..{end} but needs {tensor.nbytes:,} bytes")
        position = end
    expected = 8 + length + position
    if size < expected:
        raise damaged(file, f"is truncated: {size:,} of {expected:,} bytes")
    if size > expected:
        raise damaged(file, f"is {size - expected:,} bytes longer than its header says ({expected:,})")
    return {name: tensor for _, _, name, tensor in entries}


def _entry(name: str, entry: dict[str, Any]) -> tuple[int, int, str, TensorInfo]:
    """Where a tensor begins and ends, its name, type and shape."""
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise ValueError(f"data_offsets {begin!r}, {end!r}, shape {shape!r}")
    return begin, end, name, TensorInfo(_DTYPES[entry["dtype"]], shape)


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
        header[name] = {"dtype": SAFETENSORS_CODES[info.dtype], "shape": info.shape, "data_offsets": [position, end]}
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
