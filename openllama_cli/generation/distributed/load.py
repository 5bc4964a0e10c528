"""Loading a model of which each rank holds its part: transformers' tensor parallelism.

transformers divides the attention heads, the MLP and the vocabulary over the ranks and reads from a safetensors or .bin file
only what a rank holds. Meta's files are given to it in the same way, one weight at a time.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from openllama_cli.errors import OlcError
from openllama_cli.generation.distributed.group import Ranks
from openllama_cli.models.checkpoint.inspect import Checkpoint, check_vocabulary
from openllama_cli.models.checkpoint.read_errors import explained
from openllama_cli.models.checkpoint.tensors import lazy_tensors
from openllama_cli.models.loading.from_pretrained import from_pretrained
from openllama_cli.models.loading.load import LoadedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.system.device import DtypeName, choose_dtype, main_device
from openllama_cli.system.progress import NullProgress, Progress


def choose(spec: ModelSpec, checkpoint: Checkpoint) -> tuple[str, DtypeName]:
    """Where the ranks compute, "cuda" or "cpu", and in which type; device "auto" is CUDA where a GPU can be used.

    Raises OlcError for a GPU that is not there, and for a torch or transformers that cannot divide a model.
    """
    import torch
    import torch.distributed as dist

    _placement()
    device = main_device(spec.device)
    if device.type != "cuda":
        device = torch.device("cpu")  # transformers divides no model over Apple GPUs.
    elif not dist.is_nccl_available():
        raise OlcError("this torch has CUDA but no NCCL, which GPUs talk through", "use --device cpu", code="device")
    dtype: Any = str(choose_dtype(spec.dtype, checkpoint.dtype, device)).removeprefix("torch.")
    return device.type, dtype


def _placement() -> dict[str, Any]:
    """The arguments for `from_pretrained`. Raises OlcError where this transformers has no such parallelism."""
    import transformers

    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError) as error:
        raise OlcError(
            f"transformers {transformers.__version__} cannot divide a model over processes",
            "pip install -U transformers (5.23 is known to work)",
        ) from error


@contextlib.contextmanager
def _on(kind: str) -> Iterator[None]:
    """Have transformers divide the model over devices of this kind.

    It asks torch which accelerator it was built for, be one there or not: the usual build for CUDA on a computer without a
    GPU would be taken for one with GPUs.
    """
    import torch

    built_for: Any = torch._C._get_accelerator
    if built_for().type == kind:
        yield
        return
    torch._C._get_accelerator = lambda *_: torch.device(kind)
    try:
        yield
    finally:
        torch._C._get_accelerator = built_for


@dataclass(frozen=True)
class ShardedModel(LoadedModel):
    """This rank's part of a model. ranks: the group that holds the whole of it."""

    ranks: Ranks = field(kw_only=True)


def load_sharded(
    folder: ModelFolder,
    dtype_name: DtypeName,
    ranks: Ranks,
    *,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    progress: Progress | None = None,
) -> ShardedModel:
    """Load this rank's part of a model, on the device of the group; returns once all ranks have theirs.

    dtype_name: the type to compute in, the same on all ranks. progress: counts the stored bytes of the whole weights.

    Raises ModelError for a checkpoint that cannot be used or does not fit, OlcError if a rank is lost meanwhile.
    """
    started = time.perf_counter()
    progress = progress or NullProgress()
    check_vocabulary(tokenizer, checkpoint)
    progress.start(f"loading {folder.name}", sum(tensor.nbytes for tensor in checkpoint.tensors.values()))
    try:
        dtype = choose_dtype(dtype_name, checkpoint.dtype, ranks.device)
        how = _placement()
        if checkpoint.format == "meta":
            how["state_dict"] = lazy_tensors(checkpoint)
        with explained(checkpoint, ranks.device, dtype), _on(ranks.device.type):
            model = from_pretrained(checkpoint, tokenizer, dtype, progress, **how)
        ranks.ready()
    finally:
        progress.finish()
    return ShardedModel(
        model=model,
        tokenizer=tokenizer,
        folder=folder,
        checkpoint=checkpoint,
        input_device=ranks.device,
        dtype=dtype,
        device=f"{ranks.info.size} x {ranks.device.type}",
        load_seconds=time.perf_counter() - started,
        ranks=ranks,
    )
