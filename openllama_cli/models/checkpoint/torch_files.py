"""The header of a PyTorch file (.bin, .pth), read without torch and without running what a pickle asks for.

torch.save writes a zip archive: data.pkl names every tensor with its shape and storage, and data/N holds storage N, stored
without compression. A file that carries code is refused before torch sees it (torch.load(weights_only=True) refuses it once
more), and so is one that torch would not read, or would read otherwise than it says.
"""

import errno
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from openllama_cli.errors import ModelError, first_line
from openllama_cli.models.checkpoint.stored import ITEM_SIZE, StoredBytes, TensorInfo
from openllama_cli.models.checkpoint.stored_pickle import LONGEST_PICKLE, PickledTensor, UnknownNameError, read_pickle
from openllama_cli.models.model_files import brief, damaged, is_there, parsing
from openllama_cli.models.stand_ins import refuse_stand_in
from openllama_cli.system.convert import to_state_dict

_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# What torch reads besides data.pkl and data/N, and the bytes that it takes for right (torch/csrc, inline_container.h).
_SMALL = {
    "byteorder": rb"little",
    "version": rb"([1-9]|10)\n?",
    ".format_version": rb"[0-9]{1,4}",
    ".storage_alignment": rb"[1-9][0-9]{0,5}",
}
# Of the zip archive, in bytes: some 100 for each tensor.
_LONGEST_DIRECTORY = 4 * 2**20
_BLOCK = 4 << 20


class TorchHeader(NamedTuple):
    """The tensors of a PyTorch file, by name, and where the bytes of its storages lie."""

    tensors: dict[str, TensorInfo]
    storages: tuple[StoredBytes, ...]


def read_torch_header(file: Path) -> TorchHeader:
    """What a .bin or .pth file holds.

    Every tensor is checked to lie inside its storage, and every storage inside the file. Raises ModelError for a file that is
    truncated, damaged, something else, in the format before torch 1.6, or that asks to run code; OSError where it cannot
    be read.
    """
    if not is_there(file):
        raise damaged(file, "is gone")
    with file.open("rb") as stream:
        start = stream.read(64)
        refuse_stand_in(file, start, "weights")
        if start.startswith(_LEGACY_MAGIC):
            raise ModelError(
                f"{file} uses the format of torch before 1.6, which cannot be read safely",
                f"save it again with a newer torch: torch.save(torch.load('{file.name}', weights_only=True), '{file.name}')",
            )
        if start[8:9] == b"{":
            raise ModelError(
                f"{file} is a safetensors file under the name of a PyTorch file",
                "use the Hugging Face folder that it belongs to"
                if file.stem.startswith("consolidated")
                else f"rename it to {file.stem.replace('pytorch_model', 'model')}.safetensors",
            )
        if not start.startswith(b"PK\x03\x04"):
            raise damaged(file, "is not a PyTorch file: it does not start as a zip archive")
        size = file.stat().st_size
        with parsing(file):
            try:
                directory = _directory_bytes(stream)
                if directory is None:
                    raise damaged(file, f"is truncated: {size:,} bytes, without the directory at the end of a PyTorch file")
                if directory > _LONGEST_DIRECTORY:
                    raise damaged(file, f"has a damaged directory: {directory:,} bytes, too long for a list of weights")
                with zipfile.ZipFile(stream) as archive:
                    return _read_archive(file, stream, archive)
            except (zipfile.BadZipFile, OSError) as error:
                if isinstance(error, OSError) and error.errno != errno.EINVAL:  # That is a place before the file's beginning.
                    raise
                raise damaged(file, f"is truncated or damaged ({size:,} bytes: {first_line(error)})") from error


def _read_archive(file: Path, stream: BinaryIO, archive: zipfile.ZipFile) -> TorchHeader:
    listed = archive.infolist()
    entries = {info.filename: info for info in listed}
    if len(entries) < len(listed):
        raise damaged(file, "has a damaged directory: it names an entry twice")
    folder = listed[0].filename.partition("/")[0] + "/" if listed else ""
    pickled = entries.get(folder + "data.pkl")
    if pickled is None:
        raise damaged(file, "is a zip archive, but not one that torch.save wrote: it has no data.pkl")
    outside = next((name for name in entries if not name.startswith(folder) or ".." in name.split("/")), None)
    if outside is not None:
        raise damaged(file, f"is damaged: {brief(outside)} lies outside the archive's folder")
    if any(name.startswith((folder + "constants.pkl", folder + "code/")) for name in entries):
        raise ModelError(f"{file} is a TorchScript program, not weights", "use the model's weights, in safetensors format")
    if entries.get(folder + "byteorder") is not None and _stored(stream, entries[folder + "byteorder"]) == b"big":
        raise damaged(file, "was written on a big-endian machine, which olc does not read")
    for name, wanted in _SMALL.items():
        entry = entries.get(folder + name)
        if entry is not None and not re.fullmatch(wanted, _stored(stream, entry)):
            raise damaged(
                file, f"is damaged, or of a newer torch: its entry {name} is {brief(_stored(stream, entry).decode('latin-1'))}"
            )
    if pickled.file_size > LONGEST_PICKLE:
        raise damaged(file, f"has a data.pkl of {pickled.file_size:,} bytes, too long for a list of a model's weights")
    state = _state(file, _stored(stream, pickled))
    storages = {}
    for storage in {tensor.storage for tensor in state.values()}:
        entry = entries.get(f"{folder}data/{storage.key}")
        needed = storage.items * ITEM_SIZE[storage.dtype]
        if entry is None or entry.file_size < needed or entry.compress_type != zipfile.ZIP_STORED:
            raise damaged(file, f"is damaged: storage {brief(storage.key)} of {needed:,} bytes is incomplete")
        archive.open(entry).close()  # Compares the entry's own header with the directory; reads no data.
        storages[storage.key] = StoredBytes(_begin(stream, entry), entry.file_size, entry.CRC)
    for name, tensor in state.items():
        if tensor.end() > tensor.storage.items:
            raise damaged(file, f"is damaged: {brief(name)} reaches beyond its storage")
    tensors = {name: TensorInfo(tensor.storage.dtype, tensor.shape) for name, tensor in state.items()}
    return TorchHeader(tensors, tuple(sorted(storages.values(), key=lambda stored: stored.offset)))


def _directory_bytes(stream: BinaryIO) -> int | None:
    """The length of a zip archive's directory, which is read as a whole; None where there is no archive."""
    end = stream.seek(0, 2)
    stream.seek(max(0, end - 65_557))  # The record at the end, with the longest comment.
    tail = stream.read()
    at = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - 18))
    if at < 0:
        return None
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07" and tail[at - 76 : at - 72] == b"PK\x06\x06":
        return int(struct.unpack_from("<Q", tail, at - 36)[0])
    return int(struct.unpack_from("<I", tail, at + 12)[0])


def _state(file: Path, content: bytes) -> dict[str, PickledTensor]:
    try:
        state = read_pickle(content)
    except UnknownNameError as error:
        raise ModelError(
            f"{file} refers to {error}, which plain weights do not need",
            "do not load it: it may run code. Get the model from its publisher, in safetensors format if there is one",
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, PickledTensor) for name, tensor in state.items()
    ):
        raise ModelError(
            f"{file} does not hold a plain dict of tensors",
            f"olc reads state dicts, as in pytorch_model.bin; {_extraction(file, state)}",
        )
    return state


def _extraction(file: Path, state: object) -> str:
    """What to do about a file with a state dict somewhere inside, such as a training checkpoint's."""
    entries = state.items() if isinstance(state, dict) else ()
    for key, value in entries:
        inner = value.values() if isinstance(value, dict) else ()
        if isinstance(key, str) and inner and all(isinstance(tensor, PickledTensor) for tensor in inner):
            return f"take the weights out of its entry {brief(key)}: {to_state_dict(file, key)}"
    return "extract the weights from a training checkpoint first"


def _begin(stream: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin, behind its own header."""
    stream.seek(entry.header_offset + 26)  # Of a local header, whose last two fields are the lengths of what follows.
    name_length, extra_length = struct.unpack("<HH", stream.read(4))
    return entry.header_offset + 30 + int(name_length) + int(extra_length)


def _stored(stream: BinaryIO, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry, checked against its checksum. zipfile would not take torch's 0 for "no checksum"."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"{brief(entry.filename)} is compressed")
    stream.seek(_begin(stream, entry))
    content = stream.read(min(entry.file_size, LONGEST_PICKLE))
    if len(content) < entry.file_size or entry.CRC not in (0, zlib.crc32(content)):
        raise zipfile.BadZipFile(f"{brief(entry.filename)} does not match its checksum")
    return content


def check_storages(storages: Mapping[Path, tuple[StoredBytes, ...]]) -> None:
    """Read all weights of PyTorch files and compare them with their checksums, where they have any.

    storages: of each file, see `TorchHeader`. On two threads some 3 GB/s of what the system has in its cache: for who reads the
    files anyway, not for every start. Raises ModelError where one differs, OSError where a file cannot be read.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as threads:
        for file, stored in storages.items():
            wrong = sum(threads.map(partial(_differs, file), stored))
            if wrong:
                raise damaged(file, f"is damaged: {wrong} of its {len(stored)} storages do not match their checksums")


def _differs(file: Path, stored: StoredBytes) -> bool:
    crc, left = 0, stored.count if stored.crc else 0
    with file.open("rb", buffering=0) as stream:
        stream.seek(stored.offset)
        while left:
            block = stream.read(min(left, _BLOCK))
            if not block:
                return True
            crc = zlib.crc32(block, crc)
            left -= len(block)
    return crc != stored.crc
