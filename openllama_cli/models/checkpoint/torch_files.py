"""The header of a PyTorch file (.bin, .pth), read without torch and without running what a pickle asks for.

torch.save writes a zip archive: data.pkl names every tensor with its shape and storage, and data/N holds storage N, stored
without compression. The pickle is read here with an unpickler that knows four names and refuses every other one, so a file
that carries code is refused before torch sees it (torch.load(weights_only=True) refuses it once more).
"""

import collections
import io
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError, first_line
from openllama_cli.models.checkpoint.shape import ITEM_SIZE, TORCH_STORAGES, TensorInfo
from openllama_cli.models.model_files import damaged, refuse_stand_in

_DTYPES = {storage: dtype for dtype, storage in TORCH_STORAGES.items()}
# A pickle of a few hundred tensors takes some 30 kB.
_LONGEST_PICKLE = 100_000_000
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    items: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def end(self) -> int:
        """One past the last item of the storage that this tensor reaches."""
        if 0 in self.shape:
            return 0
        return self.offset + 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))


def read_torch_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a .bin or .pth file, by name.

    Every tensor is checked to lie inside its storage, and every storage inside the file. Raises ModelError for a file that is
    truncated, damaged, something else, in the format before torch 1.6, or that asks to run code; OSError where it cannot
    be read.
    """
    with file.open("rb") as stream:
        start = stream.read(64)
    refuse_stand_in(file, start, "weights")
    if start.startswith(_LEGACY_MAGIC):
        raise ModelError(
            f"{file} uses the format of torch before 1.6, which cannot be read safely",
            f"save it again with a newer torch: torch.save(torch.load('{file.name}', weights_only=True), '{file.name}')",
        )
    if not start.startswith(b"PK\x03\x04"):
        raise damaged(file, "is not a PyTorch file: it does not start as a zip archive")
    size = file.stat().st_size
    try:
        if not zipfile.is_zipfile(file):
            raise damaged(file, f"is truncated: {size:,} bytes, without the directory at the end of a PyTorch file")
        with zipfile.ZipFile(file) as archive:
            return _read_archive(file, archive)
    except (ModelError, OSError):
        raise
    except Exception as error:  # zipfile and pickle fail in any way on damaged or hostile bytes; none of them is a bug here.
        raise damaged(file, f"is truncated or damaged ({size:,} bytes: {first_line(error)})") from error


def _read_archive(file: Path, archive: zipfile.ZipFile) -> dict[str, TensorInfo]:
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise damaged(file, "is a zip archive, but not one that torch.save wrote: it has no data.pkl")
    if entries[pickles[0]].file_size > _LONGEST_PICKLE:
        raise damaged(file, f"has a data.pkl of {entries[pickles[0]].file_size:,} bytes, too long for a list of tensors")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(folder + "byteorder")
    if order is not None and _stored(file, order) != b"little":
        raise damaged(file, "was written on a big-endian machine, which olc does not read")
    state = _Unpickler(io.BytesIO(_stored(file, entries[pickles[0]])), file).load()
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in state.items()
    ):
        raise ModelError(
            f"{file} does not hold a plain dict of tensors",
            "olc reads state dicts, as in pytorch_model.bin; extract the weights from a training checkpoint first",
        )
    for storage in {tensor.storage for tensor in state.values()}:
        entry = entries.get(f"{folder}data/{storage.key}")
        needed = storage.items * ITEM_SIZE[storage.dtype]
        if entry is None or entry.file_size < needed or entry.compress_type != zipfile.ZIP_STORED:
            raise damaged(file, f"is damaged: storage {storage.key} of {needed:,} bytes is incomplete")
        archive.open(entry).close()  # Compares the entry's own header with the directory; reads no data.
    for name, tensor in state.items():
        if tensor.end() > tensor.storage.items:
            raise damaged(file, f"is damaged: {name} reaches beyond its storage")
    return {name: TensorInfo(tensor.storage.dtype, tensor.shape) for name, tensor in state.items()}


def _stored(file: Path, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry, checked against its checksum. zipfile would not take torch's 0 for "no checksum"."""
    with file.open("rb") as stream:
        stream.seek(entry.header_offset + 26)  # Of a local header, whose last two fields are the lengths of what follows.
        name_length, extra_length = struct.unpack("<HH", stream.read(4))
        stream.seek(name_length + extra_length, 1)
        content = stream.read(entry.file_size)
    if entry.compress_type != zipfile.ZIP_STORED or entry.CRC not in (0, zlib.crc32(content)):
        raise zipfile.BadZipFile(f"{entry.filename} does not match its checksum")
    return content


class _Unpickler(pickle.Unpickler):
    """Reads a pickled state dict into descriptions of tensors."""

    def __init__(self, stream: Any, file: Path) -> None:
        super().__init__(stream)
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_rest: tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise ModelError(
            f"{self.file} refers to {module}.{name}, which plain weights do not need",
            "do not load it: it may run code. Get the model from its publisher, in safetensors format if there is one",
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, items = pid
        if kind != "storage" or dtype not in ITEM_SIZE or type(items) is not int or items < 0:
            raise ValueError(f"storage {pid!r}")
        return _Storage(str(key), dtype, items)


def _rebuild_tensor(storage: _Storage, offset: int, size: Any, stride: Any, *_rest: Any) -> _Tensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"tensor of {size!r}")
    return _Tensor(storage, offset, tuple(size), tuple(stride))
