"""What `olc models info` says of one model, without network or torch: from its files, or from the catalogue."""

import hashlib
from pathlib import Path
from typing import Any

from openllama_cli.errors import HubError
from openllama_cli.models.adapters.apply import with_adapters
from openllama_cli.models.adapters.find import adapter_alone, base_named, base_of
from openllama_cli.models.beside import adapter_beside
from openllama_cli.models.catalogue import CATALOGUE, Entry, by_repo_id
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.find import Target, resolve
from openllama_cli.models.hub.cache import CachedModel, cached_model, disk_bytes, snapshot
from openllama_cli.models.hub.files import gguf_only, missing_files
from openllama_cli.models.spec import FoundAdapter
from openllama_cli.models.tokenizer.open import open_tokenizer

# Larger files are not read just to show their checksum.
_QUICK_BYTES = 64_000_000
_KEYS = (
    *("model", "alias", "repo_id", "revision", "cached_revisions", "path", "state", "missing"),
    *("architecture", "parameters", "context", "vocabulary", "layers", "hidden_size", "intermediate_size"),
    *("heads", "kv_heads", "head_dim", "tied_embeddings"),
    *("format", "dtype", "files", "bytes", "bytes_on_disk", "tokenizer", "adapters"),
)


def details(target: Target, revision: str | None = None) -> dict[str, Any]:
    """What is known of a model: a JSON object with the same keys for every model, null where something is not known.

    model, alias, repo_id, revision (commit), cached_revisions, path, state ("ready", "incomplete", "not downloaded"), missing
    (files); architecture, parameters, context, vocabulary, layers, hidden_size, intermediate_size, heads, kv_heads, head_dim,
    tied_embeddings; format, dtype (as stored), files (name, bytes, sha256), bytes (of the weights), bytes_on_disk (with all
    revisions and unfinished downloads); tokenizer (kind, vocabulary, bos_id, eos_ids, sha256); adapters (path, base_model,
    applied): one that lies beside the model is not applied, and of a folder that holds only an adapter the numbers are those of
    its model, where that is here.

    For a model of the catalogue that is not here, the numbers are the published ones. Raises HubError for another Hub model
    that is not here, and what `checkpoint.inspect` and `open_tokenizer` raise for a broken one.
    """
    entry = CATALOGUE.get(target.name) or (by_repo_id(target.repo_id) if target.repo_id else None)
    document: dict[str, Any] = dict.fromkeys(_KEYS) | {
        "model": target.name,
        "alias": entry.alias if entry else None,
        "repo_id": target.repo_id,
        "missing": [],
        "bytes_on_disk": 0,
    }
    if target.path is not None and adapter_alone(target.path):
        return _of_adapter(FoundAdapter(target.path, target.name), revision)
    if target.path is not None:
        return document | {"state": "ready", "bytes_on_disk": disk_bytes(target.path)} | _of_folder(target.path)
    assert target.repo_id is not None, "a target is a folder or on the Hub"
    cache = cached_model(target.repo_id)
    folder = snapshot(target.repo_id, revision) if revision else cache.path if cache else None
    if cache is not None:
        document |= {"bytes_on_disk": cache.bytes, "cached_revisions": list(cache.revisions)}
    if cache is not None and folder is not None and not missing_files(folder, target.file):
        if target.file is None and adapter_alone(folder):
            return _of_adapter(FoundAdapter(folder, target.name, repo_id=target.repo_id, revision=folder.name))
        return document | {"state": "ready", "revision": folder.name} | _of_folder(target.within(folder))
    if target.file is None and cache is not None and cache.gguf:
        error = gguf_only([file.name for file in cache.gguf], target.repo_id)
        if error is not None:
            raise error
    return document | _incomplete(target, entry, cache, folder, revision)


def _incomplete(
    target: Target, entry: Entry | None, cache: CachedModel | None, folder: Path | None, revision: str | None
) -> dict[str, Any]:
    if cache is None and (entry is None or revision is not None):
        name = target.name if target.file else target.repo_id
        raise HubError(f"{name} is not in the cache", f"download it with `olc models pull {name}`", code="not_cached")
    found: dict[str, Any] = {"state": "incomplete" if cache else "not downloaded"}
    if folder is not None:
        found |= {"revision": folder.name, "path": str(folder), "missing": missing_files(folder, target.file)}
    if entry is not None and entry.shape is not None:
        found |= _of_shape(entry.shape) | {"format": entry.format, "dtype": "float16", "bytes": entry.download_bytes}
    return found


def _of_adapter(adapter: FoundAdapter, revision: str | None = None) -> dict[str, Any]:
    """Of what has only an adapter: what is known of its model, merged with it where that is here. revision: the model's."""
    name, its_own = base_of(adapter.path, adapter.name)
    base = details(resolve(name), revision or its_own)
    merged = _of_folder(Path(base["path"]), (adapter,)) if base["state"] == "ready" else {}
    return base | merged | {"model": adapter.name, "alias": None, "adapters": [_adapter(adapter.path, applied=True)]}


def _of_folder(folder: Path, adapters: tuple[FoundAdapter, ...] = ()) -> dict[str, Any]:
    checkpoint, beside = with_adapters(inspect(folder), adapters), adapter_beside(folder, ())
    tokenizer = open_tokenizer(checkpoint.tokenizer_path, config_json=checkpoint.config_json)
    files = [*checkpoint.files, *checkpoint.tokenizer_files]
    return _of_shape(checkpoint.shape) | {
        "path": str(folder),
        "format": checkpoint.format,
        "dtype": checkpoint.stored_types,
        "bytes": checkpoint.bytes,
        "adapters": [] if beside is None else [_adapter(beside, applied=False)],
        "files": [{"name": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files],
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocabulary": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_ids": sorted(tokenizer.eos_ids),
            "sha256": tokenizer.sha256,
        },
    }


def _adapter(folder: Path, *, applied: bool) -> dict[str, Any]:
    return {"path": str(folder), "base_model": base_named(folder), "applied": applied}


def _of_shape(shape: LlamaShape) -> dict[str, Any]:
    return {
        "architecture": "LlamaForCausalLM",
        "parameters": shape.parameters(),
        "context": shape.context,
        "vocabulary": shape.vocab,
        "layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "tied_embeddings": shape.tie,
    }


def _sha256(file: Path) -> str | None:
    """A file's sha256: from its name in the Hub's cache, where that is the checksum, or read if it is not large."""
    name = file.resolve().name
    if len(name) == 64 and file.is_symlink():
        return name
    if file.stat().st_size > _QUICK_BYTES:
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()
