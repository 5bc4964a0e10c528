"""Errors for a disk that refuses a write of a batch."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from openllama_cli.errors import OlcError
from openllama_cli.system.files import atomic_write

AGAIN = "run the same command again: finished rows are kept"


def write_error(problem: OSError, path: Path) -> OlcError:
    """The error for a write to `path` that the system refused; code "disk_full", "folder_gone" or "disk_error"."""
    reason, folder = problem.strerror or str(problem), path.parent
    known = {
        errno.ENOSPC: (f"no space left in {folder} for {path.name}", f"free some space, then {AGAIN}", "disk_full"),
        errno.EDQUOT: (
            f"your disk quota in {folder} is used up; {path.name} cannot grow",
            f"remove some of your files, then {AGAIN}",
            "disk_full",
        ),
        errno.EFBIG: (
            f"{path} cannot grow: it has reached the largest file size allowed here (ulimit -f, or the file system's limit)",
            f"raise the limit (ulimit -f unlimited), then {AGAIN}",
            "disk_full",
        ),
        errno.EIO: (f"the disk failed to write {path} ({reason})", f"check the disk, then {AGAIN}", "disk_error"),
        errno.ENAMETOOLONG: (f"the file name {path.name} is too long", "choose a shorter name for -o", "disk_error"),
    }
    cause, remedy, code = known.get(
        problem.errno or 0,
        (f"{path} cannot be written: {reason}", f"check it, its folder and their permissions, then {AGAIN}", "disk_error"),
    )
    if code != "disk_full" and _is_gone(folder):
        cause = f"the folder {folder} no longer exists; {path.name} cannot be written"
        remedy, code = f"restore it (move or mount it back), then {AGAIN}", "folder_gone"
    return OlcError(cause, remedy, code=code)


def gone(path: Path) -> OlcError:
    """The error for a journal that is no longer in its place."""
    return OlcError(
        f"{path} no longer exists: it or its folder was removed, moved or replaced during the run",
        f"move it back if you can, then {AGAIN}",
        code="folder_gone",
    )


def _is_gone(folder: Path) -> bool:
    try:
        return not folder.is_dir()
    except OSError:
        return False  # there, and out of bounds or broken


@contextlib.contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """`system.files.atomic_write`, whose OSError becomes the OlcError of `write_error`. temporary: by default NAME.tmp."""
    try:
        with atomic_write(path, temporary=temporary or path.with_name(path.name + ".tmp")) as file:
            yield file
    except OSError as problem:
        raise write_error(problem, path) from problem
