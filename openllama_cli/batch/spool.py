"""Standard input kept in a file, so that it can be read twice."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from openllama_cli.errors import OlcError


def spool(stream: BinaryIO, path: Path) -> int:
    """Copy a stream to its end into a file, which appears when it is whole. Returns the bytes copied.

    An empty stream replaces nothing: it is what a command that is resumed without its pipe gets. Raises OlcError if the file
    cannot be written; nothing is left of it then, and an earlier one stays as it was.
    """
    partial = path.with_name(path.name + ".tmp")
    try:
        with partial.open("wb") as file:
            shutil.copyfileobj(stream, file, 1024 * 1024)
            size = file.tell()
        if size or not path.exists():
            partial.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OlcError(f"cannot keep the input in {path}: {reason}", "free space there, or give the input as a file") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return size
