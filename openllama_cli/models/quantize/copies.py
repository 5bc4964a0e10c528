"""Quantized copies of models on disk, under olc's cache: `quantised/<key>/` with weights.safetensors and about.json.

The key is a hash of the model's files, the method and the format, so that another model is never mistaken for this one and an
edited one is quantized anew. A copy appears under its key only when it is complete. Neither torch nor the model is needed to
list and remove copies.
"""

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import OlcError
from openllama_cli.models.hub.cache import disk_bytes
from openllama_cli.system.files import file_fingerprint
from openllama_cli.system.paths import cache_dir

FORMAT = 2
WEIGHTS, ABOUT = "weights.safetensors", "about.json"
_ABOUT_TYPES = {"model": str, "method": str, "folder": str, "checksum": str, "size": int}
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A build that is alive writes all the time.
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True)
class QuantizedCopy:
    """A copy as `olc models list` shows it. folder: the original's, resolved. repo_id, revision: of a model from the Hub."""

    model: str
    method: str
    repo_id: str | None
    revision: str | None
    folder: str
    bytes: int
    path: str


def root() -> Path:
    """The folder of all copies."""
    return cache_dir() / "quantised"


def copy_folder(files: Sequence[Path], *settings: object) -> Path:
    """Where the copy of a model belongs, if there is one or not. settings: what the bytes depend on apart from its files.

    A file of the Hub's cache is known by its checksum, which is its name there. Any other one is known by the time of its last
    change and its fingerprint: a model of many gigabytes is not read through before every start. Raises OSError or OlcError
    for a file that cannot be read.
    """
    digest = hashlib.sha256(repr((FORMAT, settings)).encode())
    for file in files:
        digest.update(f"\n{file.name} {_identity(file)}".encode())
    return root() / digest.hexdigest()[:32]


def _identity(file: Path) -> str:
    target = file.resolve()
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    return f"{target.stat().st_mtime_ns} {file_fingerprint(target)}"


def read_about(folder: Path) -> dict[str, Any] | None:
    """What a copy says of itself: model, method, repo_id, revision and folder as a QuantizedCopy has them, and of its weights
    file size, checksum, digest and stamp (see `quantize.load`). None if there is none that this version wrote.
    """
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_bytes())
        known = about["format"] == FORMAT and all(isinstance(about[key], kind) for key, kind in _ABOUT_TYPES.items())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return about if known else None


def sweep() -> None:
    """Remove what killed builds left."""
    for partial in root().glob(".*.partial"):
        with contextlib.suppress(OSError):
            newest = max(entry.stat().st_mtime for entry in (partial, *partial.iterdir()))
            if time.time() - newest > _ABANDONED_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def list_copies() -> list[QuantizedCopy]:
    """All copies, by model and method."""
    copies = []
    for folder in sorted(root().iterdir()) if root().is_dir() else []:
        about = None if folder.name.startswith(".") else read_about(folder)
        if about is not None:
            original: dict[str, Any] = {key: about.get(key) for key in ("model", "method", "repo_id", "revision", "folder")}
            copies.append(QuantizedCopy(**original, bytes=disk_bytes(folder), path=str(folder)))
    return sorted(copies, key=lambda copy: (copy.model, copy.method))


def weight_files(folder: Path, method: str) -> list[Path]:
    """The weights of the newest copy of a model folder, if there is one: older ones are of another torch or processor."""
    original = str(folder.resolve())
    try:
        found = [Path(copy.path) / WEIGHTS for copy in list_copies() if (copy.folder, copy.method) == (original, method)]
        return sorted((file for file in found if file.is_file()), key=lambda file: file.stat().st_mtime)[-1:]
    except OSError:
        return []  # Opening them will raise the error that the user sees.


def remove_copies(copies: Sequence[QuantizedCopy]) -> int:
    """Remove copies and return the bytes that became free. Raises OlcError for one that cannot be removed."""
    freed = 0
    for copy in copies:
        try:
            shutil.rmtree(copy.path)
        except FileNotFoundError:
            continue  # Another process removed it.
        except OSError as error:
            raise OlcError(
                f"cannot remove {copy.path}: {error.strerror}", "check the folder's owner and permissions"
            ) from error
        freed += copy.bytes
    return freed
