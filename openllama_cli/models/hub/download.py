"""One file from the Hub into the cache, resumed across cut connections and killed processes.

huggingface_hub begins a file anew when its process was killed, which hurts with files of many GB. Here the bytes go to
`<checksum>.olc.incomplete` next to the blob, unbuffered, and the next attempt, in this process or another, asks only for the
rest (HTTP Range). The checksum is in the name, so a partial file of another version is never continued. A file becomes a
blob only when its checksum is right.
"""

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import HubError, first_line
from openllama_cli.models.hub.cache import PARTIAL_SUFFIX
from openllama_cli.models.hub.errors import http_library, timeouts
from openllama_cli.system.files import write_all
from openllama_cli.system.memory import size
from openllama_cli.system.progress import Progress, shown
from openllama_cli.version import __version__

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Waits before the next attempts. An attempt that brought a megabyte starts the count again."""

_RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_FRESH_START = 1_000_000
_READ_BYTES = 1 << 22

Notice = Callable[[str], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file to get. checksum: its ETag, the sha256 of a large file or the git blob sha1 of a small one; it names the blob."""

    name: str
    url: str
    checksum: str
    size: int


class _InterruptionError(Exception):
    """The connection ended before the file did; worth another attempt, after `wait` seconds if the server asked for it."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def partial_bytes(blob: Path) -> int:
    """How much of an unfinished blob is here already."""
    partial = _partial(blob)
    return partial.stat().st_size if partial.is_file() else 0


def download(file: RemoteFile, blob: Path, lock: Path, progress: Progress, notice: Notice) -> None:
    """Get `file` as `blob`; nothing is asked of the Hub if it is there.

    lock: the lock file that huggingface_hub takes for this blob: whoever comes second waits, and then finds the blob.
    Raises HubError (cut connection, checksum, full disk) and what `hub.errors.expected_errors` names.
    """
    with _locked(lock, file.name, progress, notice):
        if blob.exists():
            return
        blob.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(blob)
        have = partial_bytes(blob)
        if have > file.size:
            partial.unlink()
            have = 0
        with shown(progress, file.name, file.size):
            progress.advance(have)
            _receive_all(file, partial, progress, notice)
        _check(file, partial, progress)
        partial.replace(blob)


def _partial(blob: Path) -> Path:
    return blob.with_name(blob.name + PARTIAL_SUFFIX)


@contextlib.contextmanager
def _locked(lock: Path, name: str, progress: Progress, notice: Notice) -> Iterator[None]:
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # public, but not in __all__

    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=0.2))
        except TimeoutError:
            notice(f"another process is downloading {name}; waiting for it")
            with shown(progress, f"waiting for another process to download {name}", None):
                stack.enter_context(WeakFileLock(lock))
        yield


def _receive_all(file: RemoteFile, partial: Path, progress: Progress, notice: Notice) -> None:
    """Attempt until the partial file is complete."""
    failures = reached = 0
    partial.touch()
    while (have := partial.stat().st_size) < file.size:
        try:
            _receive(file, partial, have, progress)
            raise _InterruptionError("the server ended the file early")
        except (_InterruptionError, http_library().TransportError) as problem:
            now = partial.stat().st_size
            if now >= file.size:
                break
            failures = 1 if now - max(have, reached) >= _FRESH_START else failures + 1
            reached = max(have, now, reached)
            if failures > len(RETRY_SECONDS):
                raise HubError(
                    f"the connection broke {failures} times at {size(now)} of {size(file.size)} of {file.name}",
                    "run the same command again: it continues where it stopped",
                    code="connection_cut",
                ) from problem
            wait = max(RETRY_SECONDS[failures - 1], getattr(problem, "wait", 0.0))
            notice(f"{file.name}: {first_line(problem)}; retrying in {wait:.0f} s")
            time.sleep(wait)


def _receive(file: RemoteFile, partial: Path, have: int, progress: Progress) -> None:
    """One request for the bytes from `have` on, written as they come."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    # "identity", because a compressed answer cannot be continued by offset.
    headers = build_hf_headers(library_name="olc", library_version=__version__, headers={"Accept-Encoding": "identity"})
    if have:
        headers["Range"] = f"bytes={have}-"
    # A redirect to the file server of another origin is followed without the token.
    with get_session().stream(
        "GET", file.url, headers=headers, timeout=timeouts(download=True), follow_redirects=True
    ) as response:
        if response.status_code in _RETRY_STATUS:
            asked = response.headers.get("Retry-After", "")
            raise _InterruptionError(
                f"the server answered {response.status_code}", min(float(asked), 60.0) if asked.isdigit() else 0.0
            )
        if response.status_code == 416 or (response.status_code == 206 and not _continues(response, have, file.size)):
            # The server's file has another length than the Hub says, or it sends another part: begin again.
            partial.unlink()
            partial.touch()
            progress.advance(-have)
            raise _InterruptionError(f"the server did not continue at byte {have}")
        if response.status_code >= 400:
            response.read()
            hf_raise_for_status(response)
        if response.status_code != 206 and have:
            # The server ignores Range and sends the file from its start.
            progress.advance(-have)
            have = 0
        _write(file, partial, have, response.iter_raw(), progress)


def _continues(response: Any, have: int, size: int) -> bool:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == have and match[2] in (str(size), "*")


def _write(file: RemoteFile, partial: Path, have: int, chunks: Iterator[bytes], progress: Progress) -> None:
    try:
        # Unbuffered, so that a killed process leaves all that it received.
        with partial.open("r+b", buffering=0) as target:
            if os.fstat(target.fileno()).st_size > have:
                target.truncate(have)
            target.seek(have)
            for chunk in chunks:
                have += len(chunk)
                if have > file.size:
                    target.truncate(0)
                    raise _mismatch(file, f"more than the {file.size} bytes that the Hub announced")
                write_all(target.fileno(), chunk)
                progress.advance(len(chunk))
    except OSError as problem:
        raise _disk_error(problem, file, partial) from problem


def _disk_error(problem: OSError, file: RemoteFile, partial: Path) -> HubError:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return HubError(
            f"no space left in {partial.parent} for {file.name} ({size(file.size)})",
            "free some space and run the same command again: it continues where it stopped; or set HF_HOME to a larger disk",
            code="disk_full",
        )
    return HubError(f"cannot write {partial}: {problem.strerror}", "set HF_HOME to a writable folder", code="disk")


def _check(file: RemoteFile, partial: Path, progress: Progress) -> None:
    """Compare what is on disk with the checksum, and make sure that it stays on disk.

    Read back rather than hashed while receiving: a partial file may have been damaged since it was written.
    """
    if len(file.checksum) == 64:
        digest = hashlib.sha256()
    elif len(file.checksum) == 40:
        digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)  # git's name for a file's content
    else:
        digest = None
    with partial.open("rb") as source:
        if digest is not None:
            with shown(progress, f"checking {file.name}", file.size):
                while chunk := source.read(_READ_BYTES):
                    digest.update(chunk)
                    progress.advance(len(chunk))
        os.fsync(source.fileno())
    if digest is not None and digest.hexdigest() != file.checksum:
        partial.unlink()
        raise _mismatch(file, f"checksum {digest.hexdigest()[:12]}… instead of {file.checksum[:12]}…")


def _mismatch(file: RemoteFile, what: str) -> HubError:
    return HubError(
        f"the download of {file.name} does not match the Hub: {what}",
        "it was deleted; run the same command again, and check your proxy if it happens again",
        code="checksum",
    )
