"""Which files of a model repository are needed, and which of them a folder lacks. Names only: nothing is downloaded here.

Weights are pulled in one format: safetensors before `.bin` before Meta's `consolidated.*.pth`. Optimizer states, ONNX, Flax and
TensorFlow files, and the duplicates in `original/`, are never needed; a GGUF file is when it is named, and then it alone.
"""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from openllama_cli.errors import HubError, ModelError
from openllama_cli.models.adapters.adapter import WEIGHTS as ADAPTER_WEIGHTS
from openllama_cli.models.adapters.config import CONFIG as ADAPTER_CONFIG
from openllama_cli.models.checkpoint.gguf.header import parts
from openllama_cli.models.model_files import META_SHARD, TOKENIZER_FILES, TOKENIZERS, WEIGHT_FILES, Format, read

# huggingface_hub's rule for repository ids, without the old ids that have no organization.
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_SIDE_FILES = ("generation_config.json", *TOKENIZER_FILES)
_MOST_SHARDS = 10_000
# Types in the names of GGUF files, in the order in which olc suggests one.
_GGUF_MARKS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "F16", "Q4_0")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def weight_format(names: Collection[str]) -> Format | None:
    """The format whose weights will be used, of a repository's or a folder's file names; None without weights."""
    for kind, file in WEIGHT_FILES.items():
        if file in names or _index(file) in names:
            return kind
    return "meta" if any(META_SHARD.fullmatch(name) for name in names) else None


def only_adapter(names: Collection[str]) -> bool:
    """Whether a repository's or a folder's file names are those of an adapter, and of no model."""
    return ADAPTER_CONFIG in names and "config.json" not in names and weight_format(names) is None


def gguf_example(names: Collection[str]) -> str | None:
    """The GGUF file to begin with, of a repository's file names: nearly lossless before smaller; None if there is none."""
    files = sorted(name for name in names if name.endswith(".gguf") and "/" not in name)
    places = [place for place, mark in enumerate(_GGUF_MARKS) for name in files if mark in name.upper()]
    if places:
        return next(name for name in files if _GGUF_MARKS[min(places)] in name.upper())
    return files[0] if files else None


def gguf_only(names: Collection[str], repo_id: str) -> HubError | None:
    """The error for a repository, by its file names, whose weights are in GGUF files, of which none was named; else None."""
    found = gguf_example(names) if weight_format(names) is None else None
    if found is None:
        return None
    cause = f"{repo_id} has its weights in .gguf files only"
    return HubError(cause, f"name one of them, such as {repo_id}:{found}", code="no_model_files")


def small_files(names: Collection[str], repo_id: str) -> list[str]:
    """The files to get first: configuration, tokenizer, and the weights' index, of the file names in a repository.

    Raises HubError (code "no_model_files") when there are no weights, no configuration or no tokenizer.
    """
    kind = weight_format(names)
    if kind is None:
        error = gguf_only(names, repo_id)
        if error is not None:
            raise error
        raise _no_model(repo_id, f"has no model weights that olc supports ({_what_else(names)})")
    config = "params.json" if kind == "meta" else "config.json"
    if config not in names:
        raise _no_model(repo_id, f"has weights but no {config}")
    if not any(name in names for name in TOKENIZERS):
        raise _no_model(repo_id, f"has neither {' nor '.join(TOKENIZERS)}")
    index = [] if kind == "meta" or WEIGHT_FILES[kind] in names else [_index(WEIGHT_FILES[kind])]
    return [config, *(name for name in _SIDE_FILES if name in names), *index]


def weight_files(names: Collection[str], index: bytes | None, repo_id: str) -> list[str]:
    """The weight files to get. index: what the index file holds, where `small_files` asked for one.

    Raises HubError when the index is damaged or names files that are not in the repository.
    """
    kind = weight_format(names)
    if kind == "meta":
        return sorted(name for name in names if META_SHARD.fullmatch(name))
    if index is None:
        assert kind is not None, "small_files refuses a repository without weights"
        return [WEIGHT_FILES[kind]]
    shards = shards_of(index)
    if shards is None:
        raise _no_model(repo_id, "has a damaged weights index")
    absent = [name for name in shards if name not in names]
    if absent:
        raise _no_model(repo_id, f"is missing {absent[0]}, which its weights index lists")
    return shards


def shards_of(index: bytes) -> list[str] | None:
    """The file names in a weights index, sorted; None when it is damaged, names other than files beside it, or too many."""
    try:
        files = set(json.loads(index)["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if not 0 < len(files) <= _MOST_SHARDS or not all(isinstance(file, str) and _SAFE_NAME.fullmatch(file) for file in files):
        return None
    return sorted(files)


def gguf_parts(names: Collection[str], file: str, repo_id: str) -> list[str]:
    """The files of a model in GGUF, one or all that it is split over, of the file names in a repository.

    Raises HubError (code "no_model_files") where one is not there.
    """
    wanted = [part.name for part in parts(Path(file))]
    absent = [name for name in wanted if name not in names]
    if not absent:
        return wanted
    others = sorted(name for name in names if name.endswith(".gguf") and "/" not in name)
    few = ", ".join(others[:12]) + ", …" * (len(others) > 12)
    there = f"use one of its GGUF files: {few}" if others else "it has no GGUF files: give its id alone"
    raise HubError(f"{repo_id} has no {absent[0]}", there, code="no_model_files")


def adapter_files(names: Collection[str], repo_id: str) -> tuple[list[str], list[str]]:
    """The small files of an adapter's repository and those of its weights. Raises HubError (code "no_model_files")."""
    weights = next((name for name in ADAPTER_WEIGHTS if name in names), None)
    if weights is None or ADAPTER_CONFIG not in names:
        raise HubError(f"{repo_id} is not an adapter of PEFT", "give it as the model, -m, if it is one", code="no_model_files")
    return [ADAPTER_CONFIG, *(name for name in TOKENIZER_FILES if name in names)], [weights]


def missing_files(folder: Path, file: str | None = None) -> list[str]:
    """What a folder of the cache lacks to be a complete model, or an adapter; empty when it is. file: a GGUF file, which is a
    model by itself.

    A file that is a link to nothing counts as missing. For Meta's format, whose number of shards is written nowhere, one
    shard is enough.
    """
    if file is not None:
        return [part.name for part in parts(folder / file) if not part.exists()]
    names = {entry.name for entry in folder.iterdir() if entry.exists()}
    if only_adapter(names):
        return [] if names & set(ADAPTER_WEIGHTS) else [ADAPTER_WEIGHTS[0]]
    missing = []
    kind = weight_format(names)
    config = "params.json" if kind == "meta" else "config.json"
    if config not in names:
        missing.append(config)
    if not any(name in names for name in TOKENIZERS):
        missing.append(TOKENIZERS[0])
    if kind is None:
        missing.append("the weights")
    elif kind != "meta" and WEIGHT_FILES[kind] not in names:
        index = _index(WEIGHT_FILES[kind])
        try:
            shards = shards_of(read(folder / index))
        except ModelError:
            shards = None
        missing += [index] if shards is None else [name for name in shards if name not in names]
    return missing


def _index(file: str) -> str:
    return f"{file}.index.json"


def _no_model(repo_id: str, what: str) -> HubError:
    return HubError(f"{repo_id} {what}", "use a repository with safetensors or .bin weights of a Llama", code="no_model_files")


def _what_else(names: Collection[str]) -> str:
    """What a repository holds instead of weights, for the error."""
    suffixes: Sequence[str] = (".gguf", ".ggml", ".onnx", ".msgpack", ".h5", ".npz", ".safetensors", ".bin", ".pth")
    found = [suffix for suffix in suffixes if any(name.endswith(suffix) for name in names)]
    return f"only {', '.join(found)} files of other kinds" if found else f"{len(names)} files, none of them weights"
