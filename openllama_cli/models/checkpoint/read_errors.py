"""What goes wrong while weights are loaded, in two lines. Anything not named here is a bug and keeps its traceback."""

import contextlib
import errno
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.errors import ModelError, first_line
from openllama_cli.models.checkpoint.inspect import Checkpoint
from openllama_cli.models.model_files import damaged
from openllama_cli.system.memory import is_out_of_memory, size

if TYPE_CHECKING:
    import torch


# How torch words a file that is not what its header said.
_DAMAGED = ("PytorchStreamReader", "PytorchStreamWriter", "storage has wrong byte size", "out of bounds for storage")


@contextlib.contextmanager
def explained(
    checkpoint: Checkpoint, device: "torch.device", dtype: "torch.dtype", *, os_errors: bool = True
) -> Iterator[None]:
    """Turn failures that are nobody's bug into a ModelError: no memory, no space, a file that cannot be read or changed.

    os_errors: False lets OSError pass, for a caller that also writes files.
    """
    try:
        yield
    except OSError as error:
        if not os_errors or isinstance(error, BrokenPipeError):  # A pipe is where progress goes.
            raise
        text = error.strerror or first_line(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(text) from error
        where = error.filename or _where(checkpoint)
        raise ModelError(f"{where} cannot be read: {text}", "check the file and its disk") from error
    except Exception as error:
        known = _explain(error, checkpoint, device, dtype)
        if known is None:
            raise
        raise known from error


def _explain(error: Exception, checkpoint: Checkpoint, device: "torch.device", dtype: "torch.dtype") -> ModelError | None:
    """The ModelError for an exception raised while loading, or None if it is a bug."""
    import torch
    from safetensors import SafetensorError

    if isinstance(error, ModelError):
        return None
    if is_out_of_memory(error):
        where = str(device) if isinstance(error, torch.OutOfMemoryError) else "the CPU"
        kind, needed = str(dtype).removeprefix("torch."), size(checkpoint.shape.parameters() * dtype.itemsize)
        remedy = "use --device auto, which spreads it over GPU, CPU and disk, or a smaller model"
        if dtype.itemsize > 2:
            remedy = "use --dtype bfloat16, which halves it, or a smaller model"
        return ModelError(f"{where} has too little memory: the model's {kind} weights need {needed}", remedy, code="memory")
    if isinstance(error, SafetensorError) and "No space left" in str(error):
        return _no_space(first_line(error))
    if isinstance(error, (SafetensorError, pickle.UnpicklingError, EOFError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _DAMAGED)
    ):
        return damaged(_where(checkpoint), f"is damaged, or changed during reading ({first_line(error)})")
    return None


def _no_space(text: str) -> ModelError:
    return ModelError(
        f"no space left for weights that are offloaded to disk: {text}",
        "free some space, point TMPDIR at another disk, or use --dtype float16 or bfloat16",
        code="no_space",
    )


def _where(checkpoint: Checkpoint) -> Path:
    return checkpoint.files[0] if len(checkpoint.files) == 1 else checkpoint.path
