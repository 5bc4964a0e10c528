"""What `olc models list` and `rm` know without network or torch: catalogue, cache, folders and quantized copies."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from openllama_cli.errors import OlcError
from openllama_cli.models.adapters.find import adapter_alone
from openllama_cli.models.catalogue import CATALOGUE, Entry
from openllama_cli.models.checkpoint.config import read_config
from openllama_cli.models.checkpoint.gguf.header import parts
from openllama_cli.models.find import choose, demo_folder, path_of, resolve
from openllama_cli.models.hub.cache import CachedModel, cached_model, disk_bytes, list_cached, snapshot
from openllama_cli.models.quantize.copies import QuantizedCopy, list_copies
from openllama_cli.models.spec import ChosenBy, QuantizeName

State = Literal["ready", "incomplete", "not downloaded", "missing"]


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """One line of the list, and one object of its JSON.

    alias: None for what the catalogue does not have. repo_id: None for the demo model and for a folder. file: the GGUF file of
    the repository that is the model. download_bytes: about what pulling it costs; None where that is not known. cached_bytes:
    on disk now, with unfinished downloads. revision, path: of what would be used. default: whether it is used when no model is
    named.
    """

    alias: str | None = None
    repo_id: str | None = None
    file: str | None = None
    description: str
    parameters: int | None = None
    download_bytes: int | None = None
    cached_bytes: int = 0
    revision: str | None = None
    path: str | None = None
    state: State
    default: bool


@dataclass(frozen=True)
class Listing:
    """All models, which one is used when none is named, and why; and the quantized copies that olc keeps of some."""

    models: tuple[ListedModel, ...]
    default: str
    chosen_by: ChosenBy
    quantized: tuple[QuantizedCopy, ...] = ()


def list_models() -> Listing:
    """The catalogue in its order, then other Llama models in the cache, then the default if it is a folder."""
    default, chosen_by = choose(None)
    models = [_from_catalogue(entry, default) for entry in CATALOGUE.values()]
    known = {entry.repo_id for entry in CATALOGUE.values()}
    for model in list_cached():
        if model.repo_id not in known:
            models += _gguf_files(model, default) if model.gguf else [_from_cache(model, default)]
    if not any(model.default for model in models):
        # A folder, or a Hub id that was never pulled.
        folder = path_of(default)
        if folder is not None and not folder.is_dir() and not default.startswith(("/", ".", "~")):
            folder = None
        models.append(
            _from_folder(folder, None, _what_is(folder), True)
            if folder is not None
            else _on_hub(default, None, "the default", True)
        )
    return Listing(tuple(models), default, chosen_by, tuple(list_copies()))


def _from_catalogue(entry: Entry, default: str) -> ListedModel:
    is_default = default in (entry.alias, entry.repo_id)
    if entry.repo_id is None:
        return _from_folder(demo_folder(), entry.alias, entry.description, is_default)
    listed = _on_hub(entry.repo_id, cached_model(entry.repo_id), entry.description, is_default)
    return replace(listed, alias=entry.alias, parameters=entry.parameters, download_bytes=entry.download_bytes)


def _gguf_files(model: CachedModel, default: str) -> list[ListedModel]:
    """The Llama models that a repository in the cache has in GGUF files."""
    found = []
    for file in model.gguf:
        name = f"{model.repo_id}:{file.name}"
        complete, parameters = all(part.exists() for part in parts(file)), _parameters(file)
        if complete and parameters is None:
            continue  # Another architecture.
        listed = _on_hub(model.repo_id, model, "a GGUF file in the cache", default == name)
        found.append(
            replace(
                listed,
                file=file.name,
                parameters=parameters,
                cached_bytes=disk_bytes(file),
                path=str(file),
                state="ready" if complete else "incomplete",
            )
        )
    return found


def _from_cache(model: CachedModel, default: str) -> ListedModel:
    adapter = model.path is not None and adapter_alone(model.path)
    listed = _on_hub(model.repo_id, model, "an adapter in the cache" if adapter else "in the cache", default == model.repo_id)
    return replace(listed, parameters=_parameters(model.path) if model.path and not adapter else None)


def _on_hub(repo_id: str, cached: CachedModel | None, description: str, is_default: bool) -> ListedModel:
    return ListedModel(
        repo_id=repo_id,
        description=description,
        cached_bytes=cached.bytes if cached else 0,
        revision=cached.revision if cached else None,
        path=str(cached.path) if cached and cached.path else None,
        state="not downloaded" if cached is None else "ready" if cached.complete else "incomplete",
        default=is_default,
    )


def _what_is(path: Path) -> str:
    return "a file" if path.is_file() else "an adapter" if path.is_dir() and adapter_alone(path) else "a folder"


def _from_folder(folder: Path, alias: str | None, description: str, is_default: bool) -> ListedModel:
    here = folder.exists()
    return ListedModel(
        alias=alias,
        description=description,
        parameters=_parameters(folder) if here else None,
        download_bytes=0,
        cached_bytes=disk_bytes(folder),
        path=str(folder),
        state="ready" if here else "missing",
        default=is_default,
    )


def _parameters(folder: Path) -> int | None:
    """How many weights a model has, by its configuration; None where that does not say."""
    try:
        if (folder / "config.json").is_file():
            return read_config(folder)[1].parameters()
        # Only Meta's format says it in its weights, whose readers take longer to import than all of the list.
        from openllama_cli.models.checkpoint.inspect import inspect

        return inspect(folder).shape.parameters()
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
    paths = set()
    with contextlib.suppress(OlcError):  # It is gone, or means something else.
        folder = resolve(model).path
        paths |= set() if folder is None else {str(folder.resolve())}
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # Not a name that a folder can have.
        paths.add(str(Path(model).expanduser().resolve()))

    def means(copy: QuantizedCopy) -> bool:
        if copy.repo_id is not None or method not in (None, copy.method):
            return False
        called = copy.model == model and (model == "demo" or not Path(copy.folder).exists())
        return called or copy.folder in paths

    return [copy for copy in list_copies() if means(copy)]


def copies_of_repository(repo_id: str, revision: str | None) -> list[QuantizedCopy]:
    """Copies of a model on the Hub; with a revision, those of that one."""
    folder = snapshot(repo_id, revision) if revision is not None else None
    commits = {revision, folder.name if folder is not None else None}
    return [copy for copy in list_copies() if copy.repo_id == repo_id and (revision is None or copy.revision in commits)]
