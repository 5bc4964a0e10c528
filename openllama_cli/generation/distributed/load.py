"""Loading one model over the ranks of torchrun: the leader announces it, and every rank loads its shard.

transformers' tensor parallelism divides attention heads, MLP and vocabulary over the ranks and reads from a safetensors or .bin
file only what a rank holds. Meta's and GGUF files are passed to it in the same way, one weight at a time. Importing this module
does not import torch.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openllama_cli.errors import OlcError
from openllama_cli.generation.distributed.group import Group
from openllama_cli.models.adapters.find import find_adapter
from openllama_cli.models.checkpoint.inspect import Checkpoint, check_vocabulary
from openllama_cli.models.checkpoint.read_errors import explained
from openllama_cli.models.checkpoint.tensors import lazy_tensors
from openllama_cli.models.find import find
from openllama_cli.models.loading.from_pretrained import from_pretrained
from openllama_cli.models.loading.load import LoadedModel, runs_kernels
from openllama_cli.models.loading.ranks import rank_info
from openllama_cli.models.loading.startup import prepare_environment, read_ahead
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.system.device import DtypeName, choose_dtype, main_device
from openllama_cli.system.progress import NullProgress, Progress, shown
from openllama_cli.system.replaced import replaced


@dataclass(frozen=True)
class ShardedModel(LoadedModel):
    """This rank's shard of a model. group: the ranks that hold all of it."""

    group: Group = field(kw_only=True)


def load_as_leader(
    opened: OpenedModel,
    spec: ModelSpec,
    *,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> ShardedModel:
    """Rank 0: form the group and have every rank load its shard of a model. Raises OlcError."""
    prepare_environment()
    read_ahead(opened.checkpoint.files)
    info, folder = rank_info(), opened.folder
    assert info is not None
    kind, dtype = choose_device(spec, opened.checkpoint)
    group = Group(info)
    group.announce(
        {
            "folder": str(folder.path),
            "model": folder.name if folder.origin == "folder" else folder.hub_name or folder.name,
            "revision": folder.revision or spec.revision,
            "offline": spec.offline,
            "adapters": [[one.repo_id or str(one.path.absolute()), one.name, one.scale] for one in folder.adapters],
            "device": kind,
            "dtype": dtype,
            "signature": _signature(opened),
        }
    )
    Group.led = group
    group.join(kind)
    if notice is not None:
        backend = "NCCL, one GPU each"
        if kind == "cpu":
            import torch

            threads = torch.get_num_threads()
            backend = f"Gloo, on the CPU, {threads} thread{'s' * (threads != 1)} each (OMP_NUM_THREADS)"
        notice(f"model split over {info.size} processes: {backend}")
    return load_shard(opened, dtype, group, progress=progress)


def load_and_follow(group: Group, job: dict[str, Any]) -> None:
    """A follower: load what the leader announced, and run the forward passes that it commands."""
    from openllama_cli.generation.distributed.forward import follow
    from openllama_cli.generation.forward.transformers_forward import TransformersForward

    # First, so that the others notice from here on if this rank ends.
    group.join(job["device"])
    loaded = load_shard(_open_announced(job), job["dtype"], group)
    assert loaded.model is not None
    follow(TransformersForward(loaded.model, loaded.input_device), group.commands(), group.collective)
    group.leave()


def _open_announced(job: dict[str, Any]) -> OpenedModel:
    """The model that the leader has opened: the same folder, or on another host perhaps a copy of it elsewhere."""
    path = Path(job["folder"])
    if path.exists():
        folder = ModelFolder(path, job["model"])
    else:
        folder = find(ModelSpec(job["model"], revision=job["revision"], offline=job["offline"]), notice=lambda _: None)
    adapters = (
        replace(find_adapter(where, offline=job["offline"]), name=name, scale=scale) for where, name, scale in job["adapters"]
    )
    folder = replace(folder, adapters=tuple(adapters))
    opened = OpenedModel.of(folder)
    if _signature(opened) != job["signature"]:
        raise OlcError(
            f"{folder.path} is a different model from {job['folder']} on rank 0",
            "use the same model on every host",
        )
    return opened


def _signature(opened: OpenedModel) -> str:
    """A hash of what must be the same on all ranks for their shards to fit together."""
    checkpoint = opened.checkpoint
    tensors = sorted((name, info.dtype, *info.shape) for name, info in checkpoint.tensors.items())
    adapters = [(one.scale, *(file.stat().st_size for file in one.files)) for one in checkpoint.adapters]
    parts = [tensors, checkpoint.config, checkpoint.bytes, opened.tokenizer.sha256, adapters]
    content = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def choose_device(spec: ModelSpec, checkpoint: Checkpoint) -> tuple[str, DtypeName]:
    """Where the ranks compute, "cuda" or "cpu", and the dtype. Device "auto" is CUDA if a GPU can be used.

    Raises OlcError for a missing GPU, and for a torch or transformers that cannot shard a model.
    """
    import torch
    import torch.distributed as dist

    _tensor_parallel()
    device = main_device(spec.device)
    if device.type != "cuda":
        device = torch.device("cpu")  # transformers does not shard models over Apple GPUs.
    elif not dist.is_nccl_available():
        raise OlcError("this torch has CUDA but no NCCL, through which GPUs communicate", "use --device cpu", code="device")
    # The same as in one process, which may go on with a batch that was begun here, and the other way round.
    dtype = choose_dtype(spec.dtype, checkpoint.dtype, device, kernels=runs_kernels(checkpoint, device))
    name: Any = str(dtype).removeprefix("torch.")
    return device.type, name


def _tensor_parallel() -> dict[str, Any]:
    """The arguments for `from_pretrained`. Raises OlcError if this transformers has no tensor parallelism."""
    import transformers

    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError) as error:
        raise OlcError(
            f"transformers {transformers.__version__} cannot shard a model over processes",
            "pip install -U transformers (5.23 is known to work)",
        ) from error


def _accelerator(kind: str) -> AbstractContextManager[None]:
    """Have transformers shard the model over devices of this kind.

    It asks torch which accelerator it was built for, whether there is one or not: a computer without a GPU, but with the usual
    CUDA build, would be treated as one with GPUs.
    """
    import torch

    if torch._C._get_accelerator().type == kind:
        return nullcontext()
    return replaced(torch._C, _get_accelerator=lambda *_: torch.device(kind))


def load_shard(opened: OpenedModel, dtype_name: DtypeName, group: Group, progress: Progress | None = None) -> ShardedModel:
    """Load this rank's shard of a model on the group's device; returns once all ranks have theirs.

    dtype_name: the same on all group. progress: counts the stored bytes of all weights.

    Raises ModelError for a checkpoint that cannot be used or does not fit, OlcError if a rank is lost meanwhile.
    """
    folder, checkpoint, tokenizer = opened.folder, opened.checkpoint, opened.tokenizer
    started = time.perf_counter()
    progress = progress or NullProgress()
    check_vocabulary(tokenizer, checkpoint)
    with shown(progress, f"loading {folder.name}", checkpoint.tensor_bytes):
        dtype = choose_dtype(dtype_name, checkpoint.dtype, group.device)
        arguments = _tensor_parallel()
        if checkpoint.composed:
            arguments["state_dict"] = lazy_tensors(checkpoint)
        with explained(checkpoint, group.device, dtype), _accelerator(group.device.type):
            model = from_pretrained(checkpoint, tokenizer, dtype, progress, **arguments)
        group.barrier()
    return ShardedModel(
        folder,
        checkpoint,
        tokenizer,
        model=model,
        input_device=group.device,
        dtype=dtype,
        device=f"{group.info.size} x {group.device.type}",
        load_seconds=time.perf_counter() - started,
        group=group,
    )
