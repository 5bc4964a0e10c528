"""A quantized model from its copy on disk, which is made first where there is none, or in memory where there is no room."""

import contextlib
import hashlib
import mmap
import shutil
import struct
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import OlcError
from openllama_cli.models.checkpoint.inspect import Checkpoint
from openllama_cli.models.checkpoint.read_errors import explained
from openllama_cli.models.checkpoint.safetensors_files import read_safetensors_header, write_safetensors
from openllama_cli.models.checkpoint.stored import TensorInfo
from openllama_cli.models.checkpoint.torch_files import check_storages
from openllama_cli.models.model_files import new_folder, write_json
from openllama_cli.models.quantize.copies import ABOUT, FORMAT, WEIGHTS, copy_folder, read_about, sweep
from openllama_cli.models.quantize.rounding import Int4Layout, int4_layout
from openllama_cli.models.quantize.weights import QuantizedModel, check_quantizable, plan, quantized
from openllama_cli.models.spec import ModelFolder, ModelSpec, QuantizeName
from openllama_cli.system.device import choose_dtype, main_device
from openllama_cli.system.memory import give_back, size
from openllama_cli.system.progress import NullProgress, Progress, shown

if TYPE_CHECKING:
    import torch


_SMALL_FILES = 4_000_000
# Bytes that are summed up together, and how much of the file is looked at before its pages are given back.
_BLOCK = 4096
_PIECE = 64 << 20


class QuantizedFile:
    """A .safetensors file whose tensors are views of the mapped file. Raises ModelError or OSError if it cannot be read.

    header: what the file holds, by name.
    """

    def __init__(self, file: Path) -> None:
        self._layout: dict[str, tuple[int, TensorInfo]] = {}
        self.header = read_safetensors_header(file)
        with file.open("rb") as stream:
            position = 8 + int(struct.unpack("<Q", stream.read(8))[0])
            # Private and writable: torch warns of memory that cannot be written.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        for name, info in self.header.items():
            self._layout[name] = (position, info)
            position += info.nbytes

    def get(self, name: str) -> "torch.Tensor":
        """One tensor, copied only where its offset is not aligned for its dtype."""
        import torch

        offset, info = self._layout[name]
        dtype: torch.dtype = getattr(torch, info.dtype)
        if offset % dtype.itemsize:
            raw = torch.frombuffer(self._map, dtype=torch.uint8, count=info.nbytes, offset=offset)
            return raw.clone().view(dtype).view(info.shape)
        count = info.nbytes // dtype.itemsize
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset).view(info.shape)

    def release(self, name: str) -> None:
        """Give back the memory of a tensor that was copied elsewhere; it can still be read, from the file."""
        offset, info = self._layout[name]
        give_back(self._map, offset, info.nbytes)

    def checksum(self) -> str:
        """A checksum of the file, at the speed of memory, for every start.

        The SHA-256 of the 64-bit sums of each 4 KiB: any change within eight bytes shows, as do blocks that are lost,
        swapped or zeroed: what a disk does to a file. What a program may write (words that swap places) takes `digest`.
        """
        import torch

        digest = hashlib.sha256()
        for start in range(0, len(self._map), _PIECE):
            end = min(len(self._map), start + _PIECE)
            blocks = (end - start) // _BLOCK * _BLOCK
            if blocks:
                words = torch.frombuffer(self._map, dtype=torch.int64, count=blocks // 8, offset=start)
                digest.update(words.view(-1, _BLOCK // 8).sum(1).numpy().data)
            digest.update(self._map[start + blocks : end])
            give_back(self._map, start, end - start)
        return digest.hexdigest()

    def digest(self) -> str:
        """The SHA-256 of the SHA-256 of each 64 MiB: it sees every change, at 2 to 3 GB/s on two threads."""
        from concurrent.futures import ThreadPoolExecutor

        def piece(start: int) -> bytes:
            with memoryview(self._map) as whole, whole[start : start + _PIECE] as part:
                found = hashlib.sha256(part).digest()
            give_back(self._map, start, min(_PIECE, len(self._map) - start))
            return found

        with ThreadPoolExecutor(2) as threads:
            return hashlib.sha256(b"".join(threads.map(piece, range(0, len(self._map), _PIECE)))).hexdigest()


def load_quantized(
    folder: ModelFolder, checkpoint: Checkpoint, spec: ModelSpec, progress: Progress, notice: Callable[[str], None]
) -> QuantizedModel:
    """Open the quantized copy of a model, quantizing it first if need be. progress: counts stored bytes of the original.

    notice: told when a copy was damaged, and when none can be kept. Raises ModelError for a model that cannot be quantized
    or read, OlcError where the device is not the CPU.
    """
    from openllama_cli.native import library

    method = spec.quantize
    assert method is not None
    device = main_device(spec.device)
    if device.type != "cpu":
        raise OlcError(
            f"--quantize {method} runs only on the CPU, but --device {spec.device} is {device} here",
            "use --device cpu, or leave out --quantize",
            code="device",
        )
    check_quantizable(checkpoint, method)
    layout = int4_layout()
    dtype = choose_dtype(spec.dtype, checkpoint.dtype, device, kernels=library.usable())
    with explained(checkpoint, device, dtype):
        contents = plan(checkpoint, method, layout)
        configs = (checkpoint.path / name for name in ("config.json", "params.json"))
        files = [*checkpoint.files, *(file for file in configs if file.is_file())]
        # What the bytes depend on, apart from the model.
        settings: tuple[object, ...] = (method, *layout.name) if method == "int4" else (method,)
        settings += tuple(adapter.scale for adapter in checkpoint.adapters)
        files += [file for adapter in checkpoint.adapters for file in adapter.files]
        home = copy_folder(files, *settings)
        quantizing = partial(_quantizing, checkpoint, method, layout, progress)
        file = _open(home, contents, notice) or _build(home, folder, method, contents, quantizing, notice)
        if file is not None:
            return QuantizedModel(method, checkpoint, dtype, file.get, file.release, layout)
        in_memory = dict(quantizing())  # What is a view of the original's file stays one.
        # Memory of a tensor goes when it is no longer used: there is nothing to release.
        return QuantizedModel(method, checkpoint, dtype, in_memory.pop, lambda name: None, layout)


def _open(home: Path, wanted: dict[str, TensorInfo], notice: Callable[[str], None]) -> QuantizedFile | None:
    """The copy, if it is there and as it was written."""
    if not home.is_dir():
        return None
    about = read_about(home)
    if about is not None:
        try:
            file = QuantizedFile(home / WEIGHTS)
            if file.header == wanted and file.checksum() == about["checksum"] and _unchanged(home, file, about):
                return file
        except (OlcError, OSError, ValueError):
            pass
    notice("the quantized copy of the model is damaged; creating it again")
    return None


def _unchanged(home: Path, file: QuantizedFile, about: dict[str, Any]) -> bool:
    """Whether a copy's bytes are those that were written, by a hash of all of them unless nobody wrote since it was compared.

    The hash of a copy of 3 GB takes more than a second, too long for every start; a file that was written has another time of
    change, which no program sets. Copies of versions that kept no hash are taken as they are, and get one.
    """
    stamp = _stamp(home)
    if about.get("digest") is not None and about.get("stamp") == stamp:
        return True
    digest = file.digest()
    if about.get("digest") not in (None, digest):
        return False
    with contextlib.suppress(OSError):  # A cache that can only be read is hashed each time.
        write_json(home / ABOUT, {**about, "digest": digest, "stamp": stamp})
    return True


def _stamp(home: Path) -> list[int]:
    """What changes when the weights file is written or replaced."""
    found = (home / WEIGHTS).stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _quantizing(
    checkpoint: Checkpoint, method: QuantizeName, layout: Int4Layout, progress: Progress
) -> "Generator[tuple[str, torch.Tensor]]":
    """The quantized weights, one after another, next to a bar that counts the original's bytes."""
    import torch

    # What cannot be read of the model is a ModelError, not an OSError of the copy.
    with (
        shown(progress, f"quantizing to {method}", checkpoint.tensor_bytes),
        explained(checkpoint, torch.device("cpu"), torch.float32),
    ):
        check_storages(checkpoint.storages)
        yield from quantized(checkpoint, method, layout, progress.advance)


def _build(
    home: Path,
    folder: ModelFolder,
    method: QuantizeName,
    contents: dict[str, TensorInfo],
    quantizing: "Callable[[], Generator[tuple[str, torch.Tensor]]]",
    notice: Callable[[str], None],
) -> QuantizedFile | None:
    """Quantize into a new copy; None where it cannot be kept, which `notice` is told."""
    needed = sum(info.nbytes for info in contents.values()) + _SMALL_FILES
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        sweep()  # First: what killed processes left may be what fills the disk.
        free = shutil.disk_usage(home.parent).free
        if free < needed:
            raise OSError(f"{size(needed)} are needed and {size(free)} are free")
        # A copy that is in the way is damaged, or another process has just made the same one.
        with new_folder(home, replace=True) as unfinished, contextlib.closing(quantizing()) as tensors:
            write_safetensors(unfinished / WEIGHTS, contents, tensors, NullProgress())
            file = QuantizedFile(unfinished / WEIGHTS)
            about = {
                "format": FORMAT,
                "model": " + ".join(dict.fromkeys((folder.name, *(one.label for one in folder.adapters)))),
                "method": method,
                "repo_id": folder.repo_id,
                "revision": folder.revision,
                "folder": str(folder.path.resolve()),
                "size": (unfinished / WEIGHTS).stat().st_size,
                "checksum": file.checksum(),
                "digest": file.digest(),
                "stamp": _stamp(unfinished),
            }
            write_json(unfinished / ABOUT, about)
        return file
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # A pipe is where progress goes.
            raise
        reason = error.strerror or str(error)
        notice(f"cannot save the quantized model in {home.parent}: {reason}; it will be quantized again next time")
        return None
