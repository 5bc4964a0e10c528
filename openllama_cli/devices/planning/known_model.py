"""A model by name, as far as planning needs it: its numbers, with nothing loaded and nothing downloaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import HubError
from openllama_cli.models import find
from openllama_cli.models.catalogue import CATALOGUE, by_repo_id
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.hub.cache import cached


@dataclass(frozen=True)
class KnownModel:
    """What planning needs of a model.

    name: as the user gave it. config: keyword arguments for transformers' LlamaConfig. dtype: as stored. path: of its files,
    None where they are not here; download_bytes: what getting them costs.
    """

    name: str
    repo_id: str | None
    config: dict[str, Any]
    shape: LlamaShape
    dtype: str
    path: Path | None
    download_bytes: int


def look_up(name: str) -> KnownModel:
    """A model by alias, folder or Hub id: its checkpoint if that is here, else the published shape of an OpenLLaMA model.

    Raises ModelError for an unknown name or a broken checkpoint, HubError for a Hub model that is neither cached nor known.
    """
    target = find.resolve(name)
    path = target.path or (cached(target.repo_id) if target.repo_id else None)
    if path is not None:
        checkpoint = inspect(path)
        return KnownModel(name, target.repo_id, checkpoint.config, checkpoint.shape, checkpoint.dtype, path, 0)
    entry = CATALOGUE.get(name) or (by_repo_id(target.repo_id) if target.repo_id else None)
    if entry is None or entry.shape is None:
        raise HubError(
            f"{name} is not in the cache, and olc does not know its shape",
            f"get it with `olc models pull {name}`",
            code="not_cached",
        )
    return KnownModel(name, entry.repo_id, entry.shape.config(), entry.shape, "float16", None, entry.download_bytes)


def catalogue_models() -> list[KnownModel]:
    """The models with an alias that have a published shape, largest first, newer before older."""
    known = [look_up(alias) for alias, entry in CATALOGUE.items() if entry.shape is not None]
    return sorted(known, key=lambda model: -model.shape.parameters())
