"""The lines of a file, one at a time, however long the file or a line is."""

import io
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from openllama_cli.errors import OlcError, UsageError
from openllama_cli.system.files import atomic_write

BOM = b"\xef\xbb\xbf"
_BUFFER = 256 * 1024
# What is kept of a line that is too long: enough to see what kind of line it was.
_HEAD = 4096
_SPOOL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """number: from 1. data: its bytes with the line break; only its first bytes where it is too long."""

    number: int
    data: bytes
    complete: bool = True


def check_input(path: Path) -> None:
    """Raise UsageError for a path that does not exist or is a folder. Nothing is opened: a pipe can be read only once."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder", "name a file of prompts: .txt, .jsonl, .csv or .tsv")


def _cannot_read(path: Path, error: Exception) -> UsageError:
    reason = getattr(error, "strerror", None) or str(error)
    return UsageError(f"cannot read {path}: {reason}", "check the path and its permissions")


@contextmanager
def open_input(path: Path, on_bytes: Callable[[memoryview], object] | None = None) -> Iterator["io.BufferedReader[io.FileIO]"]:
    """The file, past its byte order mark if it has one.

    on_bytes: called with the file's bytes in order as they are read, such as a hash's `update`.

    Raises UsageError if it cannot be opened, OlcError if reading it fails later on.
    """
    try:
        raw = io.FileIO(path) if on_bytes is None else _Observed(path, on_bytes)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _cannot_read(path, error) from error
    try:
        with io.BufferedReader(raw, _BUFFER) as file:
            if file.peek(len(BOM)).startswith(BOM):
                file.read(len(BOM))
            yield file
    except OSError as error:
        reason = error.strerror or str(error)
        raise OlcError(
            f"reading {path} failed: {reason}", "check the disk, then run the command again", code="input"
        ) from error


def read_lines(file: BinaryIO, limit: int) -> Iterator[Line]:
    """The lines of a file, ended by LF; the last one may lack it. Other characters that some programs break lines at, such
    as CR or U+2028, are part of the text.

    limit: bytes of a line, its line break (LF or CR LF) not counted. What exceeds it is read and dropped.
    """
    number = 0
    while data := file.readline(limit + 2):
        number += 1
        if len(data) <= limit or len(content(data)) <= limit:
            yield Line(number, data)
            continue
        head, ended = data[:_HEAD], data.endswith(b"\n")
        del data
        while not ended and (rest := file.readline(_BUFFER)):
            ended = rest.endswith(b"\n")
        yield Line(number, head, complete=False)


def content(data: bytes) -> bytes:
    """A line without its line break."""
    if data.endswith(b"\n"):
        return data[:-2] if data.endswith(b"\r\n") else data[:-1]
    return data


class _Observed(io.FileIO):
    """A file that shows a function what a buffered reader reads of it."""

    def __init__(self, path: Path, on_bytes: Callable[[memoryview], object]) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        self._on_bytes(memoryview(buffer)[:count])
        return count


def spool(stream: BinaryIO, path: Path) -> int:
    """Copy a stream to its end into a file, which appears when it is complete. Returns the bytes copied.

    An empty stream replaces nothing: it is what a command that is resumed without its pipe gets. Raises OlcError if the file
    cannot be written; nothing is left of it then, and an earlier one stays as it was.
    """
    try:
        first = stream.read(_SPOOL_BYTES)
        if not first and path.exists():
            return 0
        with atomic_write(path, temporary=path.with_name(path.name + ".tmp")) as file:
            file.write(first)
            shutil.copyfileobj(stream, file, _SPOOL_BYTES)
            return file.tell()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OlcError(f"cannot keep the input in {path}: {reason}", "free space there, or give the input as a file") from error
