"""The header of a GGUF file: its settings, and what tensors it holds, without numpy and without the weights.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version, two counts, settings (name, type,
value), tensors (name, dimensions, type, offset), then their bytes. The package gguf has a reader too, which takes a second and
more for the vocabulary of a Llama and believes every length in a file; this one takes a twentieth of that.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import brief, damaged, is_there, parsing
from openllama_cli.models.stand_ins import refuse_stand_in

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Vocabulary and merges of 256,000 pieces take some 20 MB, and are 1.3 million values. A header is read in Python: more of
# anything would cost minutes, and gigabytes.
_LONGEST = 64 << 20
_MOST_VALUES = 1 << 21
_MOST_SETTINGS, _MOST_TENSORS = 10_000, 50_000
_MOST_DIMENSIONS = 4
_MOST_PARTS = 10_000
_ALIGNMENT = 32
# The types of settings, by number, as `struct` has them.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")


@dataclass(frozen=True)
class GGUFTensor:
    """type: its number. shape: rows first, as torch has it. offset: of its bytes in the file."""

    type: int
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class GGUFHeader:
    """settings: name → number, text or tuple of them."""

    settings: dict[str, Any]
    tensors: dict[str, GGUFTensor]


def read_header(file: Path) -> GGUFHeader:
    """What a GGUF file says of itself.

    Raises ModelError for a file that is truncated, damaged, of a version that olc does not read, or something else; OSError
    where it cannot be read.
    """
    if not is_there(file):
        raise damaged(file, "is gone")
    with file.open("rb") as stream:
        start = stream.read(64)
        if not start.startswith(MAGIC):
            refuse_stand_in(file, start, "weights")
            raise damaged(file, "is not a GGUF file: it does not begin with GGUF")
        if len(start) < 24:
            raise damaged(file, f"is truncated: {len(start)} bytes, less than a header")
        version = struct.unpack_from("<I", start, 4)[0]
        if version & 0xFFFF == 0:
            raise ModelError(f"{file} was written for a big-endian machine", "use the model's little-endian GGUF file")
        if version not in VERSIONS:
            age = "newer" if version > max(VERSIONS) else "older"
            raise ModelError(
                f"{file} is GGUF version {version}, {age} than olc reads ({' and '.join(map(str, VERSIONS))})",
                "a newer olc may read it: pip install -U openllama-cli"
                if age == "newer"
                else "convert the model again with today's llama.cpp, or use another file of it",
                code="gguf_version",
            )
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content, parsing(file):
            return _Reader(file, content).header()


class _Reader:
    """Reads a header from front to back."""

    def __init__(self, file: Path, content: mmap.mmap) -> None:
        self._file, self._content = file, content
        self._at = 8
        self._end = min(len(content), _LONGEST)
        self._values = 0

    def header(self) -> GGUFHeader:
        tensors, settings = self._number("Q"), self._number("Q")
        for count, most, what in ((tensors, _MOST_TENSORS, "tensors"), (settings, _MOST_SETTINGS, "settings")):
            if count > most:
                raise damaged(self._file, f"has a damaged header: it says {count:,} {what}")
        found: dict[str, Any] = {}
        for _ in range(settings):
            name = self._text()
            if name in found:
                raise damaged(self._file, f"has a damaged header: it has {brief(name)} twice")
            found[name] = self._value(self._number("I"))
        listed: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(tensors):
            name = self._text()
            if name in listed:
                raise damaged(self._file, f"has a damaged header: it has {brief(name)} twice")
            dimensions = self._number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise damaged(self._file, f"has a damaged header: {brief(name)} has {dimensions} dimensions")
            shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
            if any(size > 1 << 40 for size in shape):
                raise damaged(self._file, f"has a damaged header: {brief(name)} is too large")
            listed[name] = (self._number("I"), shape, self._number("Q"))
        alignment = found.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20:
            raise damaged(self._file, "has a damaged header: general.alignment is not a number of bytes")
        start = -(-self._at // alignment) * alignment
        return GGUFHeader(found, {name: GGUFTensor(kind, shape, start + at) for name, (kind, shape, at) in listed.items()})

    def _take(self, count: int) -> int:
        """Where the next `count` bytes begin."""
        start = self._at
        if count > self._end - start:
            if self._end == len(self._content):
                raise damaged(self._file, f"is truncated: {self._end:,} bytes, less than its header says")
            raise damaged(self._file, f"has a header of more than {_LONGEST:,} bytes, too long for a Llama's")
        self._at += count
        return start

    def _number(self, code: str) -> Any:
        layout = f"<{code}"
        return struct.unpack_from(layout, self._content, self._take(struct.calcsize(layout)))[0]

    def _text(self) -> str:
        length = self._number("Q")
        start = self._take(length)
        return self._content[start : start + length].decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY:
            raise damaged(self._file, f"is damaged, or newer than olc: it has a setting of type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if inner != _TEXT and inner not in _NUMBERS:
            raise damaged(self._file, f"is damaged, or newer than olc: it has a list of type {inner}")
        self._values += count
        if self._values > _MOST_VALUES:
            raise damaged(self._file, f"has a damaged header: its lists have more than {_MOST_VALUES:,} values")
        if inner == _TEXT:
            return tuple(self._text() for _ in range(count))
        size = struct.calcsize(f"<{_NUMBERS[inner]}")
        start = self._take(count * size)
        return struct.unpack_from(f"<{count}{_NUMBERS[inner]}", self._content, start)


def parts(file: Path) -> tuple[Path, ...]:
    """All files of a model that is split, by the name of any of them (NAME-00001-of-00003.gguf); else the file alone."""
    found = _PART.fullmatch(file.name)
    if found is None or not 1 <= int(found[2]) <= int(found[3]) <= _MOST_PARTS:
        return (file,)
    return tuple(file.with_name(f"{found[1]}-{number:05d}-of-{found[3]}.gguf") for number in range(1, int(found[3]) + 1))


def gguf_files(folder: Path) -> list[Path]:
    """The models that lie in a folder as GGUF files, by name: of a split one its first file."""
    files = sorted(file for file in folder.glob("*.gguf") if not file.name.startswith("."))
    firsts = {file: parts(file)[0] for file in files}
    return [file for file, first in firsts.items() if first == file or first not in firsts]
