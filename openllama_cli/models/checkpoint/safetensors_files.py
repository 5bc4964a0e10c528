"""A .safetensors file: what it holds, read from its header without torch, and writing one tensor by tensor."""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import ModelError, first_line
from openllama_cli.models.checkpoint.stored import SAFETENSORS_CODES, TensorInfo
from openllama_cli.models.model_files import brief, damaged, is_there, parsing
from openllama_cli.models.stand_ins import refuse_stand_in
from openllama_cli.system.progress import Progress

if TYPE_CHECKING:
    import torch


# Some 120 bytes describe a tensor. (The library refuses headers of more than 100 MB, whose parsing takes 3 GB and 20 s.)
LONGEST_HEADER = 4 * 2**20
_LONGEST_OF_LIBRARY = 100_000_000
_MOST_DIMENSIONS = 64

_DTYPES = {code: dtype for dtype, code in SAFETENSORS_CODES.items()}


def read_safetensors_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a .safetensors file, by name.

    The format: 8 bytes with the header's length (little endian), the header as JSON, then the tensors without gaps. Every
    offset is checked against the file's size. Raises ModelError for a file that is truncated, damaged or something else,
    OSError where it cannot be read.
    """
    if not is_there(file):
        raise damaged(file, "is gone")
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(64)
        refuse_stand_in(file, start, "weights")
        _refuse_pytorch(file, start)
        if len(start) < 8:
            raise damaged(file, f"is truncated: {size} bytes, less than a header")
        length = struct.unpack("<Q", start[:8])[0]
        if length > _LONGEST_OF_LIBRARY:
            raise damaged(file, "is not a safetensors file: its first 8 bytes are not a header length")
        if 8 + length > size:
            raise damaged(file, f"is truncated: {size:,} bytes, and its header alone needs {8 + length:,}")
        if length > LONGEST_HEADER:
            raise damaged(file, f"has a header of {length:,} bytes, too long for a list of a model's weights")
        stream.seek(8)
        text = stream.read(length)
    with parsing(file):
        try:
            header = json.loads(text.decode())
            header.pop("__metadata__", None)
            entries = sorted(_entry(file, name, entry) for name, entry in header.items())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged(file, f"has a damaged header ({type(error).__name__}: {first_line(error)})") from error
    position = 0
    for begin, end, name, tensor in entries:
        if begin != position or end - begin != tensor.nbytes:
            raise damaged(file, f"has a damaged header: {brief(name)} is at {begin}..{end} but needs {tensor.nbytes:,} bytes")
        position = end
    expected = 8 + length + position
    if size < expected:
        raise damaged(file, f"is truncated: {size:,} of {expected:,} bytes")
    if size > expected:
        raise damaged(file, f"is {size - expected:,} bytes longer than its header says ({expected:,})")
    return {name: tensor for _, _, name, tensor in entries}


def _entry(file: Path, name: str, entry: dict[str, Any]) -> tuple[int, int, str, TensorInfo]:
    """Where a tensor begins and ends, its name, type and shape."""
    offsets, shape, code = entry["data_offsets"], entry["shape"], entry["dtype"]
    if type(offsets) is not list or type(shape) is not list or len(offsets) != 2 or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{brief(name)} has no two offsets, or no shape")
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in (*offsets, *shape)):
        raise ValueError(f"{brief(name)} has offsets or a shape that are not numbers from 0")
    if type(code) is not str:
        raise ValueError(f"{brief(name)} has no type")
    if code not in _DTYPES:
        raise ModelError(
            f"{file}: {brief(name)} is stored as {brief(code)}, which olc does not read",
            "use the model's float16 or bfloat16 version",
        )
    return offsets[0], offsets[1], name, TensorInfo(_DTYPES[code], tuple(shape))


def _refuse_pytorch(file: Path, start: bytes) -> None:
    """Raise ModelError for a file of torch.save: a zip archive, or a pickle as torch before 1.6 wrote."""
    if start.startswith((b"PK\x03\x04", b"\x80\x02")) and start[8:9] != b"{":
        raise ModelError(
            f"{file} is a PyTorch file under the name of a safetensors file",
            f"rename it to {file.stem.replace('model', 'pytorch_model')}.bin",
        )


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
