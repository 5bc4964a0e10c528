"""Models from the Hugging Face Hub, in the cache that every Hugging Face tool shares.

`pull` gets a model, or what is missing of it; what never uses the network is in `cache`. Only the files that olc needs are
pulled (see `hub.files`). The weights are linked into the snapshot, and "main" pointed at it, when all of them are there: a pull
that was killed never leaves a model that looks complete, nor spoils the one that was there before.
"""

import os
import re
import shutil
import time
from collections.abc import Sequence, Set
from pathlib import Path
from urllib.parse import quote, urlsplit

from openllama_cli.errors import HubError, ModelError, UsageError, first_line
from openllama_cli.models.checkpoint.config import read_config
from openllama_cli.models.hub.cache import cached, is_safe_revision, repo_folder, snapshot
from openllama_cli.models.hub.client import describe, opened, whole_number
from openllama_cli.models.hub.download import WHOLE_SECONDS, Notice, RemoteFile, download, is_here, partial_bytes
from openllama_cli.models.hub.environment import check_endpoint, check_seconds
from openllama_cli.models.hub.errors import UNREACHABLE, NotAHubError, expected_errors, hub_error, offline_error
from openllama_cli.models.hub.files import (
    adapter_files,
    gguf_only,
    gguf_parts,
    missing_files,
    only_adapter,
    small_files,
    weight_files,
)
from openllama_cli.models.model_files import TOKENIZER_FILES, largest
from openllama_cli.system.files import atomic_write
from openllama_cli.system.memory import size
from openllama_cli.system.paths import hub_cache_dir, hub_cache_variable, hub_endpoint, hub_offline
from openllama_cli.system.progress import NullProgress, Progress, shown


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    file: str | None = None,
    adapter: bool = False,
    offline: bool = False,
    weights: bool = True,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Path:
    """Get a model from the Hub, or what is missing of it, and return the folder of its snapshot.

    revision: branch, tag or commit; None is "main", which is looked up anew. file: the model's GGUF file, which comes alone, or
    with the other parts of one that is split. adapter: the repository has to be one's; else it may be. offline: use the cache
    or fail. weights: without them only the small files come, configuration and tokenizer. notice: told about waiting for
    another process, about cut connections that are tried again, and about a Hub that cannot be reached while the model is in
    the cache.

    Raises HubError (its `code` tells which: repo_not_found, revision_not_found, gated, unauthorized, forbidden,
    hub_unreachable, offline, no_model_files, checksum, connection_cut, disk_full, …), ModelError for another architecture
    than Llama and for a tokenizer that olc cannot follow, before any weights are pulled, and UsageError for a revision that
    cannot be one.
    """
    if revision is not None and not is_safe_revision(revision):
        raise UsageError(f"--revision {revision} is not a valid revision", "use a branch, tag or commit")
    folder = cached(repo_id, revision, file) if not adapter else None
    if offline or hub_offline():
        if folder is not None:
            return folder
        part = snapshot(repo_id, revision)
        error = None if part is None or file is not None else gguf_only({entry.name for entry in part.iterdir()}, repo_id)
        if error is not None:
            raise error
        missing = tuple(missing_files(part, file)) if part and not adapter else ()
        raise offline_error(repo_id if file is None else f"{repo_id}:{file}", revision, missing)
    if folder is not None and revision == folder.name:
        return folder  # A commit never changes.
    check_seconds()
    check_endpoint()
    notice = notice or (lambda text: None)
    try:
        store = _store(repo_id, revision, progress or NullProgress(), notice)
        if adapter or (file is None and only_adapter(store.names)):
            return store.pull_adapter(revision)
        return store.pull_gguf(file, revision) if file is not None else store.pull(revision, weights=weights)
    except expected_errors() as problem:
        error = hub_error(problem, repo_id, revision)
        if error.code != UNREACHABLE or folder is None:
            raise error from problem
        notice(f"{error.cause}; using {repo_id} from the cache, commit {folder.name[:12]}")
        return folder
    except OSError as problem:
        raise HubError(
            f"cannot write to the cache {hub_cache_dir()}: {problem.strerror or first_line(problem)}",
            f"set {hub_cache_variable()} to a writable folder",
            code="disk",
        ) from problem


def _store(repo_id: str, revision: str | None, progress: Progress, notice: Notice) -> "_Store":
    with shown(progress, f"asking the Hub for {repo_id}", None):
        commit, names = _files(repo_id, revision)
    return _Store(repo_id, commit, names, progress, notice)


def _files(repo_id: str, revision: str | None) -> tuple[str, set[str]]:
    """The commit of a revision, and the names of its files."""
    from huggingface_hub.utils import validate_repo_id  # public, but not in __all__

    validate_repo_id(repo_id)
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    found = describe(f"{hub_endpoint()}/api/models/{repo_id}{at}")
    commit = found.get("sha") if isinstance(found, dict) else None
    if not isinstance(commit, str) or not re.fullmatch(r"[A-Za-z0-9_]{7,64}", commit):
        raise NotAHubError(f"the response has no commit of {repo_id}")
    siblings = found.get("siblings") or ()
    try:
        names = {sibling["rfilename"] for sibling in siblings}
    except (TypeError, LookupError) as problem:
        raise NotAHubError(f"the response has no list of the files of {repo_id}") from problem
    if not all(isinstance(name, str) for name in names):
        raise NotAHubError(f"the response has no list of the files of {repo_id}")
    return commit, names


class _Store:
    """One revision of one repository on its way into the cache."""

    def __init__(self, repo_id: str, commit: str, names: Set[str], progress: Progress, notice: Notice) -> None:
        self._repo_id, self._commit, self.names = repo_id, commit, names
        self._progress, self._notice = progress, notice
        self._folder = repo_folder(repo_id)
        self._snapshot = self._folder / "snapshots" / commit
        self._locks = hub_cache_dir() / ".locks" / self._folder.name
        self._blobs: dict[str, Path] = {}
        self._unchecked: dict[str, Path] = {}  # those of them that came without a checksum
        self._deadline = time.monotonic() + WHOLE_SECONDS

    def pull(self, revision: str | None, *, weights: bool) -> Path:
        """Get a model in Hugging Face's or Meta's format."""
        small = small_files(self.names, self._repo_id)
        self.get_small(small)
        folder = self.link()
        # Another architecture, a model that asks to run its own code and a tokenizer that olc cannot follow are refused before
        # gigabytes of weights are pulled.
        try:
            if (folder / "config.json").exists():
                read_config(folder)
            self.check_tokenizer()
        except ModelError as problem:
            raise ModelError(problem.cause.replace(str(folder), self._repo_id), problem.remedy, code=problem.code) from problem
        if not weights:
            if snapshot(self._repo_id, revision) is None:  # Never in the place of a complete model.
                self.point(revision or "main")
            return folder
        index = next(((folder / name).read_bytes() for name in small if name.endswith(".index.json")), None)
        self.get_large(weight_files(self.names, index, self._repo_id))
        self.link()
        self.check_headers(folder)
        self.point(revision or "main")
        return folder

    def pull_gguf(self, file: str, revision: str | None) -> Path:
        """Get a GGUF file, or all that a model is split over. Raises ModelError for one that is no Llama, when it is here: only
        the file itself says that.
        """
        wanted = gguf_parts(self.names, file, self._repo_id)
        folder = self.link()
        self.get_large(wanted)
        self.link()
        self.check_headers(folder / file)
        self.point(revision or "main")
        from openllama_cli.models.checkpoint.gguf.header import read_header
        from openllama_cli.models.checkpoint.gguf.llama import refuse_other

        refuse_other(Path(f"{self._repo_id}:{wanted[0]}"), read_header(folder / wanted[0]).settings)
        return folder

    def pull_adapter(self, revision: str | None) -> Path:
        """Get an adapter, which is looked into when it is applied."""
        small, weights = adapter_files(self.names, self._repo_id)
        self.get_small(small)
        self.link()
        self.get_large(weights)
        folder = self.link()
        self.point(revision or "main")
        return folder

    def get_small(self, names: Sequence[str]) -> None:
        """Have configuration and tokenizer as blobs."""
        for file in self.look_up(names):
            if file.size > largest(file.name):
                raise NotAHubError(
                    f"{file.name} of {self._repo_id} would have {size(file.size)}, more than any file of its name"
                )
            self.get(file)

    def look_up(self, names: Sequence[str]) -> list[RemoteFile]:
        """The size and checksum of those files that the snapshot does not have. Both come in headers; nothing is downloaded."""
        from huggingface_hub import hf_hub_url

        files = []
        for name in names:
            if (self._snapshot / name).exists():
                continue
            url = hf_hub_url(self._repo_id, name, revision=self._commit, endpoint=hub_endpoint())
            # Of a large file the Hub itself says size and checksum, and sends on to where it is.
            with opened("HEAD", url, follow=False) as response:
                told = response.headers
                length = whole_number(told.get("x-linked-size") or (None if "location" in told else told.get("content-length")))
                etag = (told.get("x-linked-etag") or told.get("etag") or "").removeprefix("W/").strip('"').lower()
            if length is None:
                raise NotAHubError(f"the response has no size of {name}")
            checksum = etag if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) else None
            # Without a checksum nothing says that a blob of another commit, or of another file, has the same content.
            blob = checksum or f"unchecked-{self._commit}-{name}"
            files.append(RemoteFile(name=name, url=url, checksum=checksum, size=length, blob=blob))
        return files

    def get(self, file: RemoteFile) -> None:
        """Have the file as a blob."""
        blob = self._blob(file)
        if not is_here(file, blob):
            lock = self._locks / f"{file.blob}.lock"
            download(file, blob, lock, self._progress, self._notice, deadline=self._deadline)
        self._blobs[file.name] = blob
        if file.checksum is None:
            self._unchecked[file.name] = blob

    def get_large(self, names: Sequence[str]) -> None:
        """Have the files of the weights as blobs. Raises HubError when the disk has no room for them."""
        large = self.look_up(names)
        need = self.require_space(large)
        if need:
            self._notice(f"downloading {self._repo_id}: {size(need)} into {hub_cache_dir()}")
        for file in large:
            self.get(file)

    def check_tokenizer(self) -> None:
        """Open the tokenizer. Raises ModelError, and removes its files where they came without a checksum (HubError)."""
        from openllama_cli.models.tokenizer.open import open_tokenizer

        try:
            open_tokenizer(self._snapshot)
        except ModelError as problem:
            self._remove(self._unchecked.keys() & set(TOKENIZER_FILES), problem)
            raise

    def check_headers(self, model: Path) -> None:
        """Look into what came without a checksum; remove it and raise HubError if it cannot be a model. model: its folder or
        GGUF file.
        """
        if not self._unchecked:
            return
        from openllama_cli.models.checkpoint.inspect import inspect

        try:
            inspect(model)
        except ModelError as problem:
            self._remove(self._unchecked.keys() - set(TOKENIZER_FILES), problem)
            raise
        names = ", ".join(self._unchecked)
        self._notice(f"the Hub gave no checksum of {names}: only sizes and headers were checked")

    def _remove(self, names: Set[str], problem: ModelError) -> None:
        """Remove files that came without a checksum, and raise HubError; nothing where there are none."""
        if not names:
            return
        for name in names:
            (self._snapshot / name).unlink(missing_ok=True)
            self._unchecked[name].unlink(missing_ok=True)
        raise HubError(
            f"what {urlsplit(hub_endpoint()).netloc} sent without a checksum is no model: {problem.cause}",
            "it was deleted; run the same command again, and check HF_ENDPOINT and any proxy if it happens again",
            code="checksum",
        ) from problem

    def require_space(self, files: Sequence[RemoteFile]) -> int:
        """The bytes that the files still need. Raises HubError when the disk has less room."""
        need = sum(file.size - partial_bytes(self._blob(file)) for file in files if not is_here(file, self._blob(file)))
        free = shutil.disk_usage(self._folder).free
        if need > free:
            raise HubError(
                f"{self._repo_id} needs {size(need)} more in {hub_cache_dir()}, which has {size(free)} free",
                f"free some space (`olc models rm` removes models), or set {hub_cache_variable()} to a folder on a larger disk",
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
        return self._folder / "blobs" / file.blob


def _link(blob: Path, pointer: Path) -> None:
    """Link as huggingface_hub does: relative, so that a cache can be moved; where links cannot be made, move the file."""
    temporary = pointer.with_name(f"{pointer.name}.{os.getpid()}.tmp")
    try:
        temporary.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        blob.replace(pointer)
    else:
        temporary.replace(pointer)
