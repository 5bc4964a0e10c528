"""huggingface_hub's cache on disk: finding, listing and removing what is there. Nothing here uses the network.

The layout is huggingface_hub's own (https://huggingface.co/docs/huggingface_hub/guides/manage-cache):

    models--<org>--<name>/
      refs/main                 the commit that "main" was when it was pulled
      snapshots/<commit>/…      one link per file, into blobs
      blobs/<checksum>          the files
      blobs/<checksum>.olc.incomplete   a download of ours that has not ended

It is read directly, because importing huggingface_hub takes longer than starting olc does.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openllama_cli.errors import HubError, ModelError
from openllama_cli.models.checkpoint.gguf.header import gguf_files, parts
from openllama_cli.models.hub.files import missing_files, only_adapter
from openllama_cli.models.model_files import read_object
from openllama_cli.system.paths import hub_cache_dir

PARTIAL_SUFFIX = ".olc.incomplete"
_LONGEST = 1000


@dataclass(frozen=True)
class CachedModel:
    """A Llama repository in the cache.

    revision: the commit that is used when no revision is named: that of "main", else the newest; None when only parts of
        files are there. revisions: all commits. path: the folder of `revision`.
    bytes: on disk, with unfinished downloads. missing: what `path` lacks to be complete; empty when it is.
    gguf: the models in GGUF files there, where `path` has no other weights; each is a model by itself.
    """

    repo_id: str
    revision: str | None
    revisions: tuple[str, ...]
    path: Path | None
    bytes: int
    missing: tuple[str, ...]
    gguf: tuple[Path, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether it can be used as it is, or a GGUF file of it can."""
        return self.path is not None and (not self.missing or bool(self.gguf))


def repo_folder(repo_id: str, cache: Path | None = None) -> Path:
    """The folder of a repository in the cache, whether or not it is there."""
    return (cache or hub_cache_dir()) / f"models--{repo_id.replace('/', '--')}"


def snapshot(repo_id: str, revision: str | None = None, cache: Path | None = None) -> Path | None:
    """The folder of a revision (branch, tag or commit; None is "main") if it was pulled, complete or not."""
    repo = repo_folder(repo_id, cache)
    name = revision or "main"
    if not is_safe_revision(name):
        return None
    ref = repo / "refs" / name
    commit = _ref(ref) or name
    folder = repo / "snapshots" / commit
    return folder if is_safe_revision(commit) and folder.is_dir() else None


def _ref(file: Path) -> str:
    """The commit in a ref, "" if there is none."""
    try:
        if not file.is_file():  # Opening a pipe waits for who writes to it.
            return ""
        with file.open("rb") as stream:
            return stream.read(_LONGEST).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def cached(repo_id: str, revision: str | None = None, file: str | None = None) -> Path | None:
    """The folder of a revision if it was pulled and is complete, else None. No network, no import, milliseconds.

    file: the GGUF file of it that is needed, and nothing else.
    """
    folder = snapshot(repo_id, revision)
    return folder if folder is not None and not missing_files(folder, file) else None


def is_safe_revision(revision: str) -> bool:
    """Whether a revision can be part of a path: no way out of the cache, and no name that a file cannot have."""
    parts = revision.split("/")
    right = revision.isprintable() and len(revision) <= _LONGEST and not Path(revision).is_absolute()
    return right and not {"..", ".", ""} & set(parts) and all(len(part.encode()) <= 255 for part in parts)


def cached_model(repo_id: str, cache: Path | None = None) -> CachedModel | None:
    """What the cache holds of one repository, whatever its architecture; None when it holds nothing."""
    repo = repo_folder(repo_id, cache)
    if not repo.is_dir():
        return None
    snapshots = [folder for folder in _folders(repo / "snapshots") if any(folder.iterdir())]
    snapshots.sort(key=lambda folder: folder.stat().st_mtime)
    path = snapshot(repo_id, None, cache) or (snapshots[-1] if snapshots else None)
    size = disk_bytes(repo)
    if path is None and not size:
        return None
    missing = tuple(missing_files(path)) if path else ("everything",)
    return CachedModel(
        repo_id=repo_id,
        revision=path.name if path else None,
        revisions=tuple(folder.name for folder in snapshots),
        path=path,
        bytes=size,
        missing=missing,
        gguf=tuple(gguf_files(path)) if path is not None and missing else (),
    )


def list_cached(cache: Path | None = None) -> list[CachedModel]:
    """The Llama models in the cache, by name, incomplete ones too, and adapters. Other architectures are left out, but for GGUF
    files, into which nobody has looked.
    """
    found = []
    for folder in _folders(cache or hub_cache_dir()):
        if folder.name.startswith("models--"):
            model = cached_model(folder.name.removeprefix("models--").replace("--", "/"), cache)
            # Without a snapshot it is a pull of ours that did not end: pull checks the architecture before the weights.
            if model is not None and (model.path is None or model.gguf or _is_llama(model.path)):
                found.append(model)
    return sorted(found, key=lambda model: model.repo_id.lower())


def disk_bytes(model: Path) -> int:
    """Bytes of the files below a folder, or of a GGUF file with the other parts of its model, each counted once however many
    links lead to it.
    """
    found = (Path(directory, name) for directory, _, names in os.walk(model) for name in names)
    sizes = {}
    for file in found if model.is_dir() else parts(model):
        try:
            status = file.stat()
        except OSError:
            continue  # A link to nothing, or a file that was removed meanwhile.
        sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def remove(repo_id: str, revision: str | None = None) -> int:
    """Remove a model from the cache and return the bytes that became free.

    revision None removes all of it, with unfinished downloads; a revision removes that one, and keeps the files that other
    revisions use. Raises HubError when it is not in the cache or cannot be removed.
    """
    import shutil  # Not at the top: with all that it unpacks it costs more than finding a model does.

    repo = repo_folder(repo_id)
    before = disk_bytes(repo)
    if not repo.is_dir():
        raise HubError(f"{repo_id} is not in the cache", "see `olc models list`", code="not_cached")
    folder = snapshot(repo_id, revision)
    if revision is not None and folder is None:
        raise HubError(
            f"revision {revision} of {repo_id} is not in the cache", f"see `olc models info {repo_id}`", code="not_cached"
        )
    try:
        commits = [entry.name for entry in _folders(repo / "snapshots")]
        if revision is not None and folder is not None and len(commits) > 1:
            _remove_revisions(repo, [folder.name])
            if folder.exists():
                # huggingface_hub leaves alone a cache folder that it does not understand, such as one with broken links.
                raise HubError(
                    f"cannot remove revision {revision} of {repo_id}", f"remove all of it: olc models rm --yes {repo_id}"
                )
        else:
            _remove_revisions(repo, commits)
            # What is left: unfinished downloads, and what huggingface_hub does not understand.
            if repo.exists():
                shutil.rmtree(repo)
            shutil.rmtree(repo.parent / ".locks" / repo.name, ignore_errors=True)
    except OSError as problem:
        raise HubError(f"cannot remove {repo}: {problem.strerror}", "check the folder's owner and permissions") from problem
    return before - disk_bytes(repo)


def _remove_revisions(repo: Path, commits: Sequence[str]) -> None:
    # huggingface_hub removes refs, then links, then the blobs that no other revision uses, and sweeps its shared store.
    from openllama_cli.models.hub.environment import check_seconds

    check_seconds()
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.utils import logging

    # It warns of commits that a scan did not understand; what it leaves is seen to by the caller.
    logging.set_verbosity_error()
    found = scan_cache_dir(repo.parent)
    # Only this repository: copies of one have the same commits, and delete_revisions would take any of them.
    alone = dataclasses.replace(found, repos=frozenset(one for one in found.repos if one.repo_path.name == repo.name))
    alone.delete_revisions(*commits).execute()


def _is_llama(folder: Path) -> bool:
    if (folder / "params.json").is_file() and not (folder / "config.json").is_file():
        return True
    if only_adapter({entry.name for entry in folder.iterdir()}):
        return True  # Of which model only its weights tell.
    try:
        return read_object(folder / "config.json").get("model_type") == "llama"
    except ModelError:
        return False


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
