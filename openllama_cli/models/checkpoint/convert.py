"""Meta's format, .bin or GGUF to a standard Hugging Face folder with safetensors.

The weights go from file to file one at a time, with their bits as they are, but for those of a GGUF file whose types torch has
not: memory holds about one tensor and the part of the source that is mapped (`tensors.READ_BEFORE_REOPENING`). The folder has
its name only when it is complete; a conversion that is killed leaves `.NAME.*.partial` next to it, which may be removed.
"""

import errno
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError, UsageError
from openllama_cli.models.adapters.apply import with_adapters
from openllama_cli.models.checkpoint.inspect import Checkpoint, check_vocabulary, inspect
from openllama_cli.models.checkpoint.read_errors import explained
from openllama_cli.models.checkpoint.safetensors_files import write_safetensors
from openllama_cli.models.checkpoint.stored import TensorInfo
from openllama_cli.models.checkpoint.tensors import TensorSource
from openllama_cli.models.checkpoint.torch_files import check_storages
from openllama_cli.models.model_files import new_folder, read_object, write_json
from openllama_cli.models.spec import FoundAdapter
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.gguf import rebuilt_files
from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.system.memory import size
from openllama_cli.system.progress import NullProgress, Progress, shown

SHARD_BYTES = 5_000_000_000
# Room for config.json, the tokenizer and the headers.
_SMALL_FILES = 16_000_000
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def convert(src: Path, dst: Path, *, adapters: Sequence[FoundAdapter] = (), progress: Progress | None = None) -> Checkpoint:
    """Write the model `src` (a folder in Meta's format or .bin, or a GGUF file) to the new folder `dst`, and return what
    `inspect` says of it.

    dst gets config.json, generation_config.json, the tokenizer's files with a tokenizer_config.json that asks for BOS, and
    model.safetensors, or shards of at most SHARD_BYTES with an index. Types stay as they are stored; quantized ones of
    GGUF become float16. adapters: are merged into the weights. progress: counts bytes of weights written.

    Raises UsageError if dst exists or is to be a GGUF file, its parent does not exist, or src is in safetensors already;
    ModelError if src cannot be used or the disk is full. Nothing is left at dst then.
    """
    if dst.suffix == ".gguf":
        raise UsageError(f"{dst} would be a GGUF file, and olc writes folders of safetensors", f"give {dst.with_suffix('')}")
    _check_destination(src, dst)
    checkpoint = with_adapters(inspect(src), adapters)
    if checkpoint.format == "safetensors" and not adapters:
        raise UsageError(f"{src} is already in safetensors format", f"use it directly: olc complete -m {src}")
    tokenizer = open_tokenizer(checkpoint.tokenizer_path, config_json=checkpoint.config_json)
    check_vocabulary(tokenizer, checkpoint)
    free, needed = shutil.disk_usage(dst.parent).free, max(checkpoint.bytes, checkpoint.tensor_bytes) + _SMALL_FILES
    if free < needed:
        raise _no_space(dst, f"{size(needed)} are needed and {size(free)} are free")
    try:
        with new_folder(dst) as partial:
            _write_small_files(checkpoint, tokenizer, partial)
            _write_weights(checkpoint, partial, progress or NullProgress())
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _no_space(dst, error.strerror or "no space") from error
        raise ModelError(
            f"{error.filename or dst} cannot be written: {error.strerror or error}", "check the folder and its permissions"
        ) from error
    return inspect(dst)


def plan_shards(tensors: dict[str, TensorInfo], shard_bytes: int) -> list[dict[str, TensorInfo]]:
    """Divide tensors, in order, over files of at most `shard_bytes`; a larger tensor has a file of its own."""
    shards: list[dict[str, TensorInfo]] = [{}]
    filled = 0
    for name, info in tensors.items():
        if shards[-1] and filled + info.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = info
        filled += info.nbytes
    return shards


def _check_destination(src: Path, dst: Path) -> None:
    if dst.exists() and src.exists() and dst.samefile(src):
        raise UsageError(f"{dst} is both source and destination", "choose a new folder for the converted model")
    if dst.exists() or dst.is_symlink():
        raise UsageError(f"{dst} already exists", "choose a new folder, or remove this one first")
    if not dst.parent.is_dir():
        raise UsageError(f"{dst.parent} is not a folder", f"create it first: mkdir -p {dst.parent}")


def _no_space(dst: Path, how: str) -> ModelError:
    return ModelError(f"no space for {dst}: {how}", "free some space there, or convert to another disk", code="no_space")


def _write_weights(checkpoint: Checkpoint, folder: Path, progress: Progress) -> None:
    import torch

    device, dtype = torch.device("cpu"), getattr(torch, checkpoint.dtype)
    bar = shown(progress, f"converting {checkpoint.path.name}", checkpoint.tensor_bytes)
    with bar, explained(checkpoint, device, dtype, os_errors=False):
        check_storages(checkpoint.storages)
        source = TensorSource(checkpoint)
        plan = _plan(checkpoint, source)
        tensors = ((name, source.get(name, getattr(torch, info.dtype))) for name, info in plan.items())
        shards = plan_shards(plan, SHARD_BYTES)
        names = ["model.safetensors"]
        if len(shards) > 1:
            names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
        for name, shard in zip(names, shards, strict=True):
            write_safetensors(folder / name, shard, itertools.islice(tensors, len(shard)), progress)
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total_size = sum(info.nbytes for info in plan.values())
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _plan(checkpoint: Checkpoint, source: TensorSource) -> dict[str, TensorInfo]:
    """The weights to write. A tied output matrix, which .bin files hold too, is left out if it is the same."""
    import torch

    plan = dict(checkpoint.tensors)
    embedding, output = "model.embed_tokens.weight", "lm_head.weight"
    if checkpoint.shape.tie and output in plan and torch.equal(source.get(embedding), source.get(output)):
        del plan[output]
    return plan


def _write_small_files(checkpoint: Checkpoint, tokenizer: Tokenizer, folder: Path) -> None:
    """config.json, generation_config.json and the tokenizer's files."""
    if checkpoint.config_json is None:
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **checkpoint.config,
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": _one_or_list(tokenizer.eos_ids),
            "torch_dtype": checkpoint.dtype,
            "use_cache": True,
        }
    else:
        config = dict(checkpoint.config_json)
        config.pop("transformers_weights", None)  # It names the files to read in place of the standard ones.
    write_json(folder / "config.json", config)
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": _one_or_list(tokenizer.eos_ids), "pad_token_id": 0}
    generation = read_object(checkpoint.path / "generation_config.json") or special
    write_json(folder / "generation_config.json", generation)
    for file in checkpoint.tokenizer_files:
        shutil.copyfile(file, folder / file.name)
    settings = read_object(checkpoint.tokenizer_path / "tokenizer_config.json")
    if not checkpoint.tokenizer_files:  # It is in the GGUF file.
        for name, content in rebuilt_files(checkpoint.files[0]).items():
            (folder / name).write_bytes(content)
        settings = read_object(folder / "tokenizer_config.json")
    settings = settings or _tokenizer_config(checkpoint, tokenizer)
    # Without it transformers adds no BOS, and a Llama without BOS writes nonsense.
    write_json(folder / "tokenizer_config.json", {"add_bos_token": tokenizer.bos_id is not None, **settings})


def _tokenizer_config(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    """What transformers needs to know of a tokenizer that came alone."""
    eos = min(tokenizer.eos_ids, default=None)
    return {
        "add_eos_token": False,
        "bos_token": None if tokenizer.bos_id is None else tokenizer.piece(tokenizer.bos_id),
        "clean_up_tokenization_spaces": False,
        "eos_token": None if eos is None else tokenizer.piece(eos),
        "model_max_length": checkpoint.shape.context,
        "tokenizer_class": "LlamaTokenizer" if tokenizer.path.suffix == ".model" else "PreTrainedTokenizerFast",
        "unk_token": None if tokenizer.unk_id is None else tokenizer.piece(tokenizer.unk_id),
    }


def _one_or_list(ids: frozenset[int]) -> int | list[int] | None:
    return sorted(ids) if len(ids) > 1 else next(iter(ids), None)
