"""What tells a model from another: a fingerprint of its files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openllama_cli.models.opened import OpenedModel
from openllama_cli.system.files import file_fingerprint


def opened_fingerprint(opened: OpenedModel) -> dict[str, Any]:
    """`model_fingerprint` of an opened model, and of its adapters if it has any."""
    found = model_fingerprint([*opened.checkpoint.files, *config_files(opened)], revision=opened.folder.revision)
    return found | adapters_fingerprint(opened)


def adapters_fingerprint(opened: OpenedModel) -> dict[str, Any]:
    """{"adapters": …} with name (without its folder), scale and files of each, in order; {} without any."""
    merged = opened.checkpoint.adapters
    adapters = [{"name": Path(one.name).name, "scale": one.scale, **model_fingerprint(one.files)} for one in merged]
    return {"adapters": adapters} if adapters else {}


def config_files(opened: OpenedModel) -> list[Path]:
    """The files beside the weights that results depend on."""
    # All that decides how a text becomes ids beside the tokenizer's own file.
    ids = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")
    names = ("config.json", "generation_config.json", "params.json", *ids)
    return [path for name in names if (path := opened.checkpoint.path / name).is_file()]


def model_fingerprint(files: Iterable[Path], *, revision: str | None = None) -> dict[str, Any]:
    """The fingerprint of a model's files: weights, configuration, tokenizer. revision: the Hub's commit, where it is known.

    {"revision": …, "files": {name: {"bytes": …, "sha256": …}}}. Names without their folder: a model may be moved. Raises
    OlcError for a file that cannot be read.
    """
    return {"revision": revision, "files": {file.name: file_fingerprint(file) for file in sorted(files)}}
