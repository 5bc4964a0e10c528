"""Where a running server is found by the same user's commands: a Unix socket named after what it serves.

The folder belongs to the user alone (0700), and so does the socket (0600). The name tells model, revision, precision and
device, with a digest of the model's files by their sizes and times: a server of weights that changed since is not found.
"""

import contextlib
import hashlib
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from openllama_cli.models.spec import FoundAdapter
from openllama_cli.version import __version__

# A path that a Unix socket can have, in bytes: 107 on Linux, 103 elsewhere.
LONGEST_PATH = 103
_VARIABLES = ("OLC_KERNELS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES")
# Of the files in a model's folder, those that its results may depend on.
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".json", ".model")


def socket_folder() -> Path:
    """The folder of this user's sockets: $XDG_RUNTIME_DIR/olc, else olc-UID in the system's temporary folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "olc" if runtime else Path(os.environ.get("TMPDIR") or "/tmp") / f"olc-{os.getuid()}"


def private(folder: Path) -> bool:
    """Whether a folder is there, belongs to this user, is no link and is closed to everybody else."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077 == 0


def precision_name(dtype: str, quantize: str | None) -> str:
    """How a name writes `--dtype` and `--quantize`."""
    return dtype if quantize is None else quantize if dtype == "auto" else f"{quantize}-{dtype}"


def socket_path(folder: Path, revision: str | None, precision: str, device: str, adapters: Iterable[FoundAdapter] = ()) -> Path:
    """The socket of a server of a model folder or GGUF file. precision: `precision_name`. device: as `--device` names it.
    adapters: that are merged into it.

    Raises OSError for a folder that cannot be read.
    """
    real = folder.resolve()
    digest = hashlib.blake2b(digest_size=8)
    # Another olc, or other kernels, may give other bytes, and other variables another device.
    variables = (f"{name}={os.environ.get(name, '')}" for name in _VARIABLES)
    files = _files(folder.absolute() if folder.is_file() else real)  # In the Hub's cache a file has another name in truth.
    merged = (part for one in adapters for part in (str(one.path.resolve()), str(one.scale), *_files(one.path.resolve())))
    for part in (__version__, *variables, str(real), revision or "", precision, device, *files, *merged):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", f"{real.name[:20]}-{precision}-{device}")
    return socket_folder() / f"{slug}-{digest.hexdigest()}.sock"


def _files(model: Path) -> Iterator[str]:
    """Names, sizes and times. model: a folder, or a GGUF file, in whose place its folder is looked at (for other parts)."""
    gguf = model.is_file()
    with os.scandir(model.parent if gguf else model) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            ours = entry.name == model.name or entry.name.endswith(".gguf") if gguf else entry.name.endswith(_SUFFIXES)
            if entry.name.startswith(".") or not ours:
                continue
            with contextlib.suppress(OSError):
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    yield f"{entry.name}/{found.st_size}/{found.st_mtime_ns}"


def alive(path: Path) -> bool:
    """Whether a server accepts connections there."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True  # As full, or as slow: whoever took it for dead would unlink it.
        return True
