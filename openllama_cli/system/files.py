"""Files that are written completely or not at all, and fingerprints of files too large to read before every run.

Nothing here words an error for people but `file_fingerprint`: a caller knows what the file was for, and what to do about it.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from openllama_cli.errors import OlcError

MIB = 1 << 20
WHOLE_BYTES = 16 * MIB  # files up to this size are hashed completely
STRIDE_BYTES = 4 * MIB
SAMPLE_BYTES = 4096

# What file systems answer that cannot flush a folder: they have no names to lose, or no way to keep them.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}


@contextlib.contextmanager
def atomic_write(path: Path, *, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A binary file to write, which replaces `path` in one step after the block; after any exception it is removed.

    Before it replaces `path` it is flushed to the disk, and its name afterwards: a power cut leaves the old file or the new
    one. temporary: its name until then, in the same folder; a file of that name is overwritten. By default a name that no
    other process chooses.

    Raises OSError where it cannot be written.
    """
    if temporary is None:
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, in one call unless the system accepts less. Raises OSError, some of it having been written."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the system can. Raises OSError when the disk fails."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # It may be written but not read.
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def file_fingerprint(path: Path) -> dict[str, Any]:
    """{"bytes": size, "sha256": hex} of a file: of all of it up to 16 MiB, of samples beyond.

    Of a large file the first and last MiB are hashed, and 4 KiB of every 4 MiB between: the header (names, shapes and dtypes
    of the weights) and some of every large weight. So a fine-tuned, merged, converted or re-quantized checkpoint differs, even
    one whose changes are confined to a few matrices. What can go unseen is a change of a few kilobytes inside a file, such as
    one edited number.

    The values are stored in journals of `olc batch`: another way of sampling is another version of their format. Raises
    OlcError for a file that cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for offset, length in _blocks(size):
                file.seek(offset)
                digest.update(file.read(length))
    except OSError as problem:
        raise OlcError(f"{path} cannot be read: {problem.strerror}", "check the file and its permissions") from problem
    return {"bytes": size, "sha256": digest.hexdigest()}


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """The (offset, length) of what is hashed, in order."""
    if size <= WHOLE_BYTES:
        yield from ((offset, min(MIB, size - offset)) for offset in range(0, size, MIB))
        return
    yield 0, MIB
    yield from ((offset, SAMPLE_BYTES) for offset in range(STRIDE_BYTES, size - MIB, STRIDE_BYTES))
    yield size - MIB, MIB
