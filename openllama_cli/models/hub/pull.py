"""Models from the Hugging Face Hub, in the cache that every Hugging Face tool shares.

`pull` gets a model, or what is missing of it; what never uses the network is in `cache`. Only the files that olc needs are
pulled (see `hub.files`). The weights are linked into the snapshot, and "main" pointed at it, when all of them are there: a pull
that was killed never leaves a model that looks complete, nor spoils the one that was there before.
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from openllama_cli.errors import HubError, ModelError, UsageError
from openllama_cli.models.checkpoint.config import read_config
from openllama_cli.models.hub.cache import cached, is_safe_revision, repo_folder, snapshot
from openllama_cli.models.hub.download import Notice, RemoteFile, download, partial_bytes
from openllama_cli.models.hub.errors import UNREACHABLE, NotAHubError, expected_errors, hub_error, offline_error, timeouts
from openllama_cli.models.hub.files import missing_files, small_files, weight_files
from openllama_cli.system.files import atomic_write
from openllama_cli.system.memory import size
from openllama_cli.system.paths import hub_cache_dir, hub_endpoint, hub_offline
from openllama_cli.system.progress import NullProgress, Progress, shown
from openllama_cli.version import __version__


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    offline: bool = False,
    weights: bool = True,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Path:
    """Get a model from the Hub, or what is missing of it, and return the folder of its snapshot.

    revision: branch, tag or commit; None is "main", which is looked up anew. offline: use the cache or fail. weights: without
    them only the small files come, configuration and tokenizer. notice: told about waiting for another process, about cut
    connections that are tried again, and about a Hub that cannot be reached while the model is in the cache.

    Raises HubError (its `code` tells which: repo_not_found, revision_not_found, gated, unauthorized, forbidden,
    hub_unreachable, offline, no_model_files, checksum, connection_cut, disk_full, …), ModelError for another architecture
    than Llama, before its weights are pulled, and UsageError for a revision that cannot be one.
    """
    if revision is not None and not is_safe_revision(revision):
        raise UsageError(f"--revision {revision} is not a valid revision", "use a branch, tag or commit")
    folder = cached(repo_id, revision)
    if offline or hub_offline():
        if folder is not None:
            return folder
        part = snapshot(repo_id, revision)
        raise offline_error(repo_id, revision, tuple(missing_files(part)) if part else ())
    if folder is not None and revision == folder.name:
        return folder  # A commit never changes.
    notice = notice or (lambda text: None)
    try:
        return _pull(repo_id, revision, progress or NullProgress(), notice, weights=weights)
    except expected_errors() as problem:
        error = hub_error(problem, repo_id, revision)
        if error.code != UNREACHABLE or folder is None:
            raise error from problem
        notice(f"{error.cause}; using {repo_id} from the cache, commit {folder.name[:12]}")
        return folder
    except OSError as problem:
        raise HubError(
            f"cannot write to the cache {hub_cache_dir()}: {problem.strerror or problem}",
            "set HF_HOME to a writable folder",
            code="disk",
        ) from problem


def _pull(repo_id: str, revision: str | None, progress: Progress, notice: Notice, *, weights: bool) -> Path:
    with shown(progress, f"asking the Hub for {repo_id}", None):
        commit, names = _files(repo_id, revision)
    store = _Store(repo_id, commit, progress, notice)

    small = small_files(names, repo_id)
    for file in store.look_up(small):
        store.get(file)
    folder = store.link()
    # Another architecture, or a model that asks to run its own code, is refused before gigabytes of it are pulled.
    if (folder / "config.json").exists():
        try:
            read_config(folder)
        except ModelError as problem:
            raise ModelError(problem.cause.replace(str(folder), repo_id), problem.remedy, code=problem.code) from problem
    if not weights:
        if snapshot(repo_id, revision) is None:  # Never in the place of a complete model.
            store.point(revision or "main")
        return folder
    index = next(((folder / name).read_bytes() for name in small if name.endswith(".index.json")), None)
    large = store.look_up(weight_files(names, index, repo_id))
    need = store.require_space(large)
    if need:
        notice(f"downloading {repo_id}: {size(need)} into {hub_cache_dir()}")
    for file in large:
        store.get(file)
    store.link()
    store.point(revision or "main")
    return folder


def _files(repo_id: str, revision: str | None) -> tuple[str, set[str]]:
    """The commit of a revision, and the names of its files."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi(endpoint=hub_endpoint(), library_name="olc", library_version=__version__)
    try:
        info = hub.model_info(repo_id, revision=revision, timeout=timeouts())
    except (HfHubHTTPError, HFValidationError):
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as problem:
        # Not JSON, or JSON of another kind.
        raise NotAHubError(f"the response has no description of {repo_id}") from problem
    if not re.fullmatch(r"\w{7,64}", info.sha or ""):
        raise NotAHubError(f"the response has no commit of {repo_id}")
    return str(info.sha), {sibling.rfilename for sibling in info.siblings or ()}


class _Store:
    """One revision of one repository on its way into the cache."""

    def __init__(self, repo_id: str, commit: str, progress: Progress, notice: Notice) -> None:
        self._repo_id, self._commit = repo_id, commit
        self._progress, self._notice = progress, notice
        self._folder = repo_folder(repo_id)
        self._snapshot = self._folder / "snapshots" / commit
        self._locks = hub_cache_dir() / ".locks" / self._folder.name
        self._blobs: dict[str, Path] = {}

    def look_up(self, names: Sequence[str]) -> list[RemoteFile]:
        """The size and checksum of those files that the snapshot does not have. Both come in headers; nothing is downloaded."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        files = []
        for name in names:
            if (self._snapshot / name).exists():
                continue
            url = hf_hub_url(self._repo_id, name, revision=self._commit, endpoint=hub_endpoint())
            found = get_hf_file_metadata(url, timeout=timeouts(), endpoint=hub_endpoint())
            # The checksum becomes a file name.
            if found.size is None or not re.fullmatch(r"[\w-]+", found.etag or ""):
                raise NotAHubError(f"the response has no size or checksum of {name}")
            files.append(RemoteFile(name=name, url=url, checksum=str(found.etag), size=found.size))
        return files

    def get(self, file: RemoteFile) -> None:
        """Have the file as a blob."""
        blob = self._blob(file)
        if not blob.exists():
            download(file, blob, self._locks / f"{file.checksum}.lock", self._progress, self._notice)
        self._blobs[file.name] = blob

    def require_space(self, files: Sequence[RemoteFile]) -> int:
        """The bytes that the files still need. Raises HubError when the disk has less room."""
        need = sum(file.size - partial_bytes(self._blob(file)) for file in files if not self._blob(file).exists())
        free = shutil.disk_usage(self._folder).free
        if need > free:
            raise HubError(
                f"{self._repo_id} needs {size(need)} more in {hub_cache_dir()}, which has {size(free)} free",
                "free some space (`olc models rm` removes models), or set HF_HOME to a folder on a larger disk",
                code="disk_full",
            )
        return need

    def link(self) -> Path:
        """Link the files that are here into the snapshot, and return its folder."""
        self._snapshot.mkdir(parents=True, exist_ok=True)
        for name, blob in self._blobs.items():
            pointer = self._snapshot / name
            if not pointer.exists():
                _link(blob, pointer)
        return self._snapshot

    def point(self, revision: str) -> None:
        """Let a branch or tag mean this commit from now on."""
        if revision == self._commit:
            return
        ref = self._folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(ref) as stream:
            stream.write(self._commit.encode())

    def _blob(self, file: RemoteFile) -> Path:
        return self._folder / "blobs" / file.checksum


def _link(blob: Path, pointer: Path) -> None:
    """Link as huggingface_hub does: relative, so that a cache can be moved; where links cannot be made, move the file."""
    temporary = pointer.with_name(f"{pointer.name}.{os.getpid()}.tmp")
    try:
        temporary.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        blob.replace(pointer)
    else:
        temporary.replace(pointer)
