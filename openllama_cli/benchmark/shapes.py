"""Models of real shapes with random weights: speed depends on the shape, not on the values."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.errors import OlcError, UsageError
from openllama_cli.models.catalogue import CATALOGUE
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.find import demo_folder
from openllama_cli.models.hub.cache import disk_bytes
from openllama_cli.system.memory import size
from openllama_cli.system.paths import cache_dir
from openllama_cli.system.progress import Progress, shown

if TYPE_CHECKING:
    import torch

    from openllama_cli.models.checkpoint.stored import TensorInfo

# OpenLLaMA's, and two smaller ones: TinyLlama's 1.1B (grouped-query attention) and the 110M of llama2.c.
SHAPES: dict[str, LlamaShape] = {
    **{name: shape for name in ("3b", "7b", "13b") if (shape := CATALOGUE[name].shape) is not None},
    "1b": LlamaShape(2048, 5632, layers=22, heads=32, kv_heads=4, head_dim=64, vocab=32000, context=2048),
    "110m": LlamaShape(768, 2048, layers=12, heads=12, kv_heads=12, head_dim=64, vocab=32000, context=1024),
}
# Numbers that are drawn, then repeated: drawing billions takes minutes.
_DRAWN = 1 << 24


def random_model(name: str, dtype: str, progress: Progress) -> Path:
    """The folder of a random model of a shape, written under the cache directory unless it exists.

    name: of SHAPES. dtype: as stored, "float16" or "bfloat16". Raises UsageError for an unknown shape, OlcError if the disk is
    too full for it.
    """
    if name not in SHAPES:
        raise UsageError(f"--shape {name} is not known", f"use one of {', '.join(SHAPES)}")
    folder = _root() / f"{name}-{dtype}"
    if (folder / "config.json").exists():
        return folder
    shape = SHAPES[name]
    need = 2 * shape.parameters()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
    except OSError as error:
        raise OlcError(
            f"cannot write to {folder.parent}: {error.strerror}", "set XDG_CACHE_HOME to a writable folder", code="disk"
        ) from error
    if need * 1.02 > free:
        raise OlcError(
            f"random weights of shape {name} need {size(need)} in {folder.parent}, which has {size(free)} free",
            "free some space, set XDG_CACHE_HOME to a larger disk, or use a smaller --shape",
            code="disk_full",
        )
    _write(folder, shape, dtype, progress)
    return folder


@dataclass(frozen=True)
class RandomModel:
    """A random model that `random_model` has written. name: as `olc models list` shows it and `olc models rm` takes it."""

    name: str
    shape: str
    dtype: str
    bytes: int
    path: str
    complete: bool


def list_random_models() -> list[RandomModel]:
    """All that are on the disk, by name, with those that a killed run left incomplete."""
    found = []
    for folder in sorted(_root().iterdir()) if _root().is_dir() else []:
        shape, _, dtype = folder.name.rpartition("-")
        if folder.is_dir() and shape in SHAPES:
            complete = (folder / "config.json").is_file()
            found.append(RandomModel(f"bench {shape} {dtype}", shape, dtype, disk_bytes(folder), str(folder), complete))
    return found


def remove_random_models(models: Sequence[RandomModel]) -> int:
    """Remove them and return the bytes that became free. Raises OlcError for one that cannot be removed."""
    for model in models:
        try:
            shutil.rmtree(model.path)
        except OSError as error:
            raise OlcError(
                f"cannot remove {model.path}: {error.strerror}", "check the folder's owner and permissions"
            ) from error
    return sum(model.bytes for model in models)


def _root() -> Path:
    return cache_dir() / "bench"


def _write(folder: Path, shape: LlamaShape, dtype: str, progress: Progress) -> None:
    """Write weights, then the tokenizer, then config.json, whose presence marks the folder as complete."""
    from openllama_cli.models.checkpoint.safetensors_files import write_safetensors
    from openllama_cli.models.checkpoint.stored import TensorInfo

    folder.mkdir(exist_ok=True)
    plan = {name: TensorInfo(dtype, size) for name, size in shape.tensors().items()}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **shape.config(),
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": dtype,
    }
    with shown(progress, f"writing random weights to {folder}", sum(info.nbytes for info in plan.values())):
        try:
            write_safetensors(folder / "model.safetensors", plan, _tensors(plan), progress)
            shutil.copy(demo_folder() / "tokenizer.model", folder)
            (folder / "config.json").write_text(json.dumps(config, indent=1))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise OlcError(f"cannot write to {folder}: {error.strerror}", "free some space or set XDG_CACHE_HOME") from error


def _tensors(plan: "dict[str, TensorInfo]") -> "Iterator[tuple[str, torch.Tensor]]":
    """Normally distributed with standard deviation 0.02, as in a new Llama."""
    import torch

    block = torch.randn(_DRAWN, generator=torch.Generator().manual_seed(0)) * 0.02
    for name, info in plan.items():
        dtype: torch.dtype = getattr(torch, info.dtype)
        if len(info.shape) == 1:
            yield name, torch.ones(info.shape, dtype=dtype)
            continue
        count = info.shape[0] * info.shape[1]
        yield name, block.to(dtype).repeat(-(-count // len(block)))[:count].view(info.shape)
