"""Writes that a crash cannot tear, and what is said when a disk refuses one."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from openllama_cli.errors import OlcError

AGAIN = "run the same command again: finished rows are kept"

# What a file system answers that cannot flush a folder; it then has no names to lose, or no way to keep them.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}


def write_error(problem: OSError, path: Path) -> OlcError:
    """The two lines about a write to `path` that the system refused; code "disk_full", "folder_gone" or "disk_error"."""
    reason = problem.strerror or str(problem)
    if problem.errno == errno.ENOSPC:
        return OlcError(f"no space left in {path.parent} for {path.name}", f"free some space, then {AGAIN}", code="disk_full")
    if problem.errno == errno.EDQUOT:
        return OlcError(
            f"your disk quota in {path.parent} is used up, {path.name} cannot grow",
            f"remove files of yours, then {AGAIN}",
            code="disk_full",
        )
    if problem.errno == errno.EFBIG:
        return OlcError(
            f"{path} cannot grow: no file may be larger here (ulimit -f, or the file system's limit)",
            f"raise the limit (ulimit -f unlimited), then {AGAIN}",
            code="disk_full",
        )
    if _is_gone(path.parent):
        return OlcError(
            f"the folder {path.parent} is gone, {path.name} cannot be written",
            f"bring it back (move or mount it), then {AGAIN}",
            code="folder_gone",
        )
    if problem.errno == errno.EIO:
        return OlcError(f"the disk failed to write {path} ({reason})", f"check the disk, then {AGAIN}", code="disk_error")
    if problem.errno == errno.ENAMETOOLONG:
        return OlcError(f"{path.name} is too long a name for a file", "choose a shorter name for -o", code="disk_error")
    return OlcError(
        f"{path} cannot be written: {reason}", f"check it, its folder and their permissions, then {AGAIN}", code="disk_error"
    )


def _is_gone(folder: Path) -> bool:
    try:
        return not folder.is_dir()
    except OSError:
        return False  # there, and out of bounds or broken


def write_whole(descriptor: int, data: bytes) -> None:
    """Write all of `data`, in one call unless the system takes less. Raises OSError, some of it having been written."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut, where the system can. Raises OSError when the disk fails."""
    if os.name != "posix":
        return  # Windows opens no folders
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # a folder that may be written but not read
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` in one step once it is whole and on the disk; on any error it is removed.

    temporary: its name until then, in the same folder; a file of that name is overwritten. Raises OlcError (see `write_error`).
    """
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as problem:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise write_error(problem, path) from problem
        raise
