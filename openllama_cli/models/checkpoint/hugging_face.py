"""A Hugging Face folder as transformers reads it: which files hold the weights, and which weight of a Llama a name means.

The order of the files is transformers': model.safetensors, its index, pytorch_model.bin, its index.
"""

import os
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import WEIGHT_FILES, Format, brief, damaged, fetch_again, is_there, read_object

# The output matrix: the one weight that is no part of LlamaModel.
HEAD = "lm_head.weight"
_PREFIX = "model."
# What programs that wrap a model put in front of its weights' names, and how weights are saved without it.
_WRAPPERS = {
    "_checkpoint_wrapped_module.": ("activation checkpointing", "save the weights without it"),
    "_fsdp_wrapped_module.": ("FSDP", "gather them with StateDictType.FULL_STATE_DICT before saving"),
    "_orig_mod.": ("torch.compile", "save them with model._orig_mod.save_pretrained(FOLDER)"),
    "_forward_module.": ("Lightning", "save them with model.module.save_pretrained(FOLDER)"),
    "base_model.model.": ("PEFT", "save them with model.merge_and_unload().save_pretrained(FOLDER)"),
    "module.": ("DataParallel or DeepSpeed", "save them with model.module.save_pretrained(FOLDER)"),
}


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold the weights, in order.

    index: where they have one, with the names of the weights in it. plain: whether transformers finds them too: it reads an
    index only with "metadata" and without a byte order mark.
    """

    format: Format
    files: tuple[Path, ...]
    index: Path | None = None
    names: frozenset[str] = frozenset()
    plain: bool = True


def weight_files(folder: Path) -> list[WeightFiles | ModelError]:
    """The weights of a folder in each format that it has, in transformers' order; an error for each that is not complete."""
    found: list[WeightFiles | ModelError] = []
    for format_, name in WEIGHT_FILES.items():
        try:
            found += _of_format(folder, format_, name)
        except ModelError as error:
            found.append(error)
    return found


def _of_format(folder: Path, format_: Format, name: str) -> list[WeightFiles]:
    single, index = folder / name, folder / f"{name}.index.json"
    if is_there(single):
        return [WeightFiles(format_, (single,))]
    if is_there(index):
        return [_indexed(index, format_)]
    stem, _, suffix = name.rpartition(".")
    shards = sorted(file.name for file in folder.glob(f"{stem}-*-of-*.{suffix}"))
    if shards:
        raise ModelError(
            f"{folder} has shards such as {brief(shards[0])} but no {index.name}", f"copy {index.name} into the folder"
        )
    return []


def _indexed(index: Path, format_: Format) -> WeightFiles:
    content = read_object(index)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise damaged(index, "has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or not name or name in (".", ".."):
            raise damaged(index, f"names a file that is {brief(name)}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise damaged(index, f"names a file outside its folder: {brief(name)}")
    names = sorted(set(weight_map.values()))
    absent = [name for name in names if not is_there(index.parent / name)]
    if absent:
        raise ModelError(
            f"{index.name} lists {len(names)} files, {len(absent)} of them missing in {index.parent}: {brief(absent[0])}",
            fetch_again(index.parent / absent[0]),
        )
    plain = isinstance(content.get("metadata"), dict) and index.read_bytes()[:3] != b"\xef\xbb\xbf"
    return WeightFiles(format_, tuple(index.parent / name for name in names), index, frozenset(weight_map), plain)


def other_shards(folder: Path) -> list[tuple[Format, tuple[Path, ...]]]:
    """Shards that lie in a folder with an index which does not list them, by format: an index of another download."""
    found: list[tuple[Format, tuple[Path, ...]]] = []
    for format_, name in WEIGHT_FILES.items():
        stem, _, suffix = name.rpartition(".")
        shards = tuple(sorted(folder.glob(f"{stem}-*-of-*.{suffix}")))
        if shards and is_there(folder / f"{name}.index.json"):
            found.append((format_, shards))
    return found


def complete_beside(error: ModelError, folder: Path, files: tuple[Path, ...]) -> ModelError:
    """The error for weights that cannot be read where others lie beside them: `files`, which are complete."""
    more = f" and {len(files) - 1} more hold" if len(files) > 1 else " holds"
    cause = f"{error.cause}; {files[0].name} beside it{more} all weights"
    first = _first_there(folder)
    if first is None or first in files:
        return ModelError(cause, error.remedy)
    if first.name.endswith(".index.json") and Path(first.stem.removesuffix(".index")).suffix == files[0].suffix:
        return ModelError(cause, f"copy the {first.name} that belongs to them into the folder; or {error.remedy}")
    command = f"mv {shlex.quote(str(first))} {shlex.quote(f'{first}.old')}"
    return ModelError(cause, f"to use {files[0].name}: {command}; or {error.remedy}")


def _first_there(folder: Path) -> Path | None:
    """The weights or index that transformers would read, broken symlinks too; None where shards without an index are first."""
    for name in WEIGHT_FILES.values():
        for path in (folder / name, folder / f"{name}.index.json"):
            if os.path.lexists(path):
                return path
        stem, _, suffix = name.rpartition(".")
        if any(folder.glob(f"{stem}-*-of-*.{suffix}")):
            return None
    return None


def llama_names(stored: Iterable[str], expected: Collection[str]) -> dict[str, str]:
    """Each stored name, and the weight that transformers takes it for: `rename_source_key` in its core_model_loading.

    A name may lack "model." in front, as a bare LlamaModel saves it, or have one too many. expected: the names of all weights,
    the output matrix among them. What is none of these keeps its name.
    """
    named = {}
    for name in stored:
        shorter = name.removeprefix(_PREFIX)
        if shorter != name and shorter in expected:
            named[name] = shorter
        elif _PREFIX + name in expected:
            named[name] = _PREFIX + name
        else:
            named[name] = name
    return named


def refuse_wrapped(where: str, stored: Collection[str], expected: Collection[str]) -> None:
    """Raise ModelError if the names would be a Llama's without what some program put in front of them."""

    def known(names: Iterable[str]) -> int:
        return sum(name in expected for name in llama_names(names, expected).values())

    now = known(stored)
    if 2 * now >= len(expected):
        return
    for wrapper, (program, remedy) in _WRAPPERS.items():
        plain = [name.replace(wrapper, "") for name in stored if wrapper in name]
        if known(plain) > max(now, len(expected) // 2):
            raise ModelError(
                f"{where}: the names of the weights have the prefix {wrapper!r}, which {program} adds",
                f"{remedy}, or rename them without it",
            )
    ending = "embed_tokens.weight"
    prefixes = {name.removesuffix(ending).removesuffix(_PREFIX) for name in stored if name.endswith(ending)}
    for prefix in sorted(prefixes - {""})[:8]:
        if known(name.removeprefix(prefix) for name in stored if name.startswith(prefix)) > max(now, len(expected) // 2):
            raise ModelError(
                f"{where}: the names of the weights have the prefix {brief(prefix)!r}, which a Llama's do not have",
                "rename them without it, or use the language model's own checkpoint",
            )
