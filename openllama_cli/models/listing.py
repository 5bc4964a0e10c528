"""What `olc models list` shows: the catalogue, and the Llama models in the cache, without network or torch."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from openllama_cli.errors import OlcError
from openllama_cli.models import find
from openllama_cli.models.catalogue import CATALOGUE, Entry
from openllama_cli.models.checkpoint.config import read_config
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.find import choose, demo_folder
from openllama_cli.models.hub.cache import CachedModel, cached_model, disk_bytes, list_cached, snapshot
from openllama_cli.models.quantize.copies import QuantizedCopy, list_copies
from openllama_cli.models.spec import ChosenBy, QuantizeName

State = Literal["ready", "incomplete", "not downloaded", "missing"]


@dataclass(frozen=True)
class ListedModel:
    """One line of the list, and one object of its JSON.

    alias: None for what the catalogue does not have. repo_id: None for the demo model and for a folder.
    download_bytes: about what pulling it costs; None where that is not known. cached_bytes: on disk now, with unfinished
    downloads. revision, path: of what would be used. default: whether it is used when no model is named.
    """

    alias: str | None
    repo_id: str | None
    description: str
    parameters: int | None
    download_bytes: int | None
    cached_bytes: int
    revision: str | None
    path: str | None
    state: State
    default: bool


@dataclass(frozen=True)
class Listing:
    """All models, which one is used when none is named, and why; and the quantized copies that olc keeps of some."""

    models: tuple[ListedModel, ...]
    default: str
    chosen_by: ChosenBy
    quantized: tuple[QuantizedCopy, ...] = ()


def list_models(env: Mapping[str, str] | None = None) -> Listing:
    """The catalogue in its order, then other Llama models in the cache, then the default if it is a folder."""
    default, chosen_by = choose(None, env)
    models = [_from_catalogue(entry, default) for entry in CATALOGUE.values()]
    known = {entry.repo_id for entry in CATALOGUE.values()}
    models += [_from_cache(model, default) for model in list_cached() if model.repo_id not in known]
    if not any(model.default for model in models):
        models.append(_from_name(default))
    return Listing(tuple(models), default, chosen_by, tuple(list_copies()))


def _from_catalogue(entry: Entry, default: str) -> ListedModel:
    is_default = default in (entry.alias, entry.repo_id)
    if entry.repo_id is None:
        folder = demo_folder()
        return _from_folder(folder, entry.alias, entry.description, is_default)
    cached = cached_model(entry.repo_id)
    return ListedModel(
        alias=entry.alias,
        repo_id=entry.repo_id,
        description=entry.description,
        parameters=entry.parameters,
        download_bytes=entry.download_bytes,
        cached_bytes=cached.bytes if cached else 0,
        revision=cached.revision if cached else None,
        path=str(cached.path) if cached and cached.path else None,
        state=_state(cached),
        default=is_default,
    )


def _from_cache(model: CachedModel, default: str) -> ListedModel:
    return ListedModel(
        alias=None,
        repo_id=model.repo_id,
        description="in the cache",
        parameters=_parameters(model.path) if model.path else None,
        download_bytes=None,
        cached_bytes=model.bytes,
        revision=model.revision,
        path=str(model.path) if model.path else None,
        state=_state(model),
        default=default == model.repo_id,
    )


def _from_folder(folder: Path, alias: str | None, description: str, is_default: bool) -> ListedModel:
    here = folder.is_dir()
    return ListedModel(
        alias=alias,
        repo_id=None,
        description=description,
        parameters=_parameters(folder) if here else None,
        download_bytes=0,
        cached_bytes=disk_bytes(folder),
        revision=None,
        path=str(folder),
        state="ready" if here else "missing",
        default=is_default,
    )


def _from_name(default: str) -> ListedModel:
    """The default where it is neither in the catalogue nor in the cache: a folder, or a Hub id that was never pulled."""
    folder = Path(default).expanduser()
    if folder.is_dir() or default.startswith(("/", ".", "~")):
        return _from_folder(folder, None, "a folder", is_default=True)
    return ListedModel(None, default, "the default", None, None, 0, None, None, "not downloaded", default=True)


def _state(model: CachedModel | None) -> State:
    if model is None:
        return "not downloaded"
    return "ready" if model.complete else "incomplete"


def _parameters(folder: Path) -> int | None:
    """How many weights a model has, by its configuration; None where that does not say."""
    try:
        if (folder / "config.json").is_file():
            return read_config(folder)[1].parameters()
        return inspect(folder).parameters
    except OlcError:
        return None


def copies_of_folder(name: str) -> list[QuantizedCopy]:
    """Copies of the demo model or of a folder, by the model's name, by the folder's path, or by what `olc models list` calls
    the copy ("demo int8").

    A folder is called as it was when it was quantized, perhaps from elsewhere; so its name alone counts only once it is gone.
    The demo has copies of every installation of olc.
    """
    model, _, last = name.rpartition(" ")
    method = last if model and last in get_args(QuantizeName) else None
    model = model if method else name
    paths = {str(path) for path in _paths(model)}

    def means(copy: QuantizedCopy) -> bool:
        if copy.repo_id is not None or method not in (None, copy.method):
            return False
        called = copy.model == model and (model == "demo" or not Path(copy.folder).is_dir())
        return called or copy.folder in paths

    return [copy for copy in list_copies() if means(copy)]


def copies_of_repository(repo_id: str, revision: str | None) -> list[QuantizedCopy]:
    """Copies of a model on the Hub; with a revision, those of that one."""
    folder = snapshot(repo_id, revision) if revision is not None else None
    commits = {revision, folder.name if folder is not None else None}
    return [copy for copy in list_copies() if copy.repo_id == repo_id and (revision is None or copy.revision in commits)]


def _paths(name: str) -> list[Path]:
    """The folders that a name means, as copies know them."""
    paths = []
    with contextlib.suppress(OlcError):  # It is gone, or means something else.
        folder = find.resolve(name).path
        if folder is not None:
            paths.append(folder.resolve())
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # No name of a folder.
        paths.append(Path(name).expanduser().resolve())
    return paths
