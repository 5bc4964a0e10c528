"""Image files and pages that a command writes: checked before the work begins, written after it."""

import os
from pathlib import Path

from openllama_cli.errors import OlcError, UsageError

_REMEDY = "choose a file in a writable folder, such as {}"


def writable(file: str, such_as: str = "picture.svg") -> Path:
    """The path of an image or page to write. Raises UsageError if no file can be written there, with a name that could be."""
    path = Path(file)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}", _REMEDY.format(such_as))
    return path


def save(path: Path, picture: str) -> None:
    """Write an image or a page. Raises OlcError if that fails after all, as on a full disk."""
    try:
        path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise OlcError(f"cannot write {path}: {error.strerror or error}", _REMEDY.format(path.name)) from error
