"""One model over the processes that torchrun started: how rank 0 has it loaded, and how the other ranks serve it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import OlcError
from openllama_cli.models.loading.ranks import RankInfo, rank_info
from openllama_cli.models.loading.startup import prepare_environment, read_ahead
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.system.progress import Progress

if TYPE_CHECKING:
    from openllama_cli.generation.distributed.group import Ranks
    from openllama_cli.generation.distributed.load import ShardedModel

# The group that this process leads, once it has formed one.
_leading: "Ranks | None" = None


def leading() -> "Ranks | None":
    """The group that this process leads; None in an ordinary run, and before a model is loaded."""
    return _leading


def load_with_ranks(
    opened: OpenedModel,
    spec: ModelSpec,
    *,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> "ShardedModel":
    """Rank 0: form the group, and have every rank load its part of a model. Raises OlcError."""
    global _leading
    prepare_environment()
    read_ahead(opened.checkpoint.files)
    from openllama_cli.generation.distributed.group import Ranks
    from openllama_cli.generation.distributed.load import choose, load_sharded

    here, folder = own_rank_info(), opened.folder
    kind, dtype = choose(spec, opened.checkpoint)
    ranks = Ranks(here)
    ranks.tell(
        {
            "folder": str(folder.path),
            "model": folder.name if folder.origin == "folder" else folder.repo_id or folder.name,
            "revision": folder.revision or spec.revision,
            "offline": spec.offline,
            "device": kind,
            "dtype": dtype,
            "signature": _signature(opened),
        }
    )
    _leading = ranks
    ranks.join(kind)
    if notice is not None:
        notice(f"one model over {here.size} processes: {_backend(ranks)}")
    return load_sharded(folder, dtype, ranks, checkpoint=opened.checkpoint, tokenizer=opened.tokenizer, progress=progress)


def serve(ranks: "Ranks", work: dict[str, Any]) -> None:
    """A rank above 0: load what rank 0 loads, and run the forward passes that it runs."""
    from openllama_cli.generation.distributed.forward import follow
    from openllama_cli.generation.distributed.load import load_sharded
    from openllama_cli.generation.forward.transformers_forward import TransformersForward

    # First, so that a rank that ends is noticed by the others from here on.
    ranks.join(work["device"])
    opened = _open_same(work)
    loaded = load_sharded(opened.folder, work["dtype"], ranks, checkpoint=opened.checkpoint, tokenizer=opened.tokenizer)
    follow(TransformersForward(loaded.model, loaded.input_device), ranks.orders(), ranks.together)
    ranks.leave()


def own_rank_info() -> RankInfo:
    """This process among the ranks; only where torchrun started several."""
    here = rank_info()
    assert here is not None
    return here


def _open_same(work: dict[str, Any]) -> OpenedModel:
    """The model that rank 0 has opened: the same folder, on another host perhaps a copy of it elsewhere."""
    from openllama_cli.models.checkpoint.inspect import inspect
    from openllama_cli.models.find import find
    from openllama_cli.models.tokenizer.open import open_tokenizer

    path = Path(work["folder"])
    if path.is_dir():
        folder = ModelFolder(path, work["model"], "folder", None, None, "flag")
    else:
        folder = find(ModelSpec(work["model"], revision=work["revision"], offline=work["offline"]), notice=lambda _: None)
    opened = OpenedModel(folder, inspect(folder.path), open_tokenizer(folder.path))
    if _signature(opened) != work["signature"]:
        raise OlcError(
            f"{folder.path} holds another model than {work['folder']} of rank 0",
            "give every host the same model",
        )
    return opened


def _signature(opened: OpenedModel) -> str:
    """What has to be the same on all ranks for their parts to fit."""
    checkpoint = opened.checkpoint
    tensors = sorted((name, info.dtype, *info.shape) for name, info in checkpoint.tensors.items())
    content = json.dumps([tensors, checkpoint.config, checkpoint.bytes, opened.tokenizer.sha256], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _backend(ranks: "Ranks") -> str:
    """What the sums go through, in words."""
    if ranks.backend == "nccl":
        return "nccl, a GPU each"
    import torch

    threads = torch.get_num_threads()
    return f"gloo, on the CPU with {threads} thread{'s' * (threads != 1)} each (OMP_NUM_THREADS)"
