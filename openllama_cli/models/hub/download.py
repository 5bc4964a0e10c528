"""One file from the Hub into the cache, resumed across cut connections and killed processes.

huggingface_hub begins a file anew when its process was killed, which hurts with files of many GB. Here the bytes go to
`<checksum>.olc.incomplete` next to the blob, unbuffered, and the next attempt, in this process or another, asks only for the
rest (HTTP Range). The checksum is in the name, so a partial file of another version is never continued. A file becomes a
blob only when its checksum is right; where the Hub gives none, `hub.pull` looks at its header.

A server that sends next to nothing is left after `SLOW_SECONDS`, however often a byte arrives, and asked again.
"""

import contextlib
import errno
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import HubError, first_line
from openllama_cli.models.hub.cache import PARTIAL_SUFFIX
from openllama_cli.models.hub.client import body, opened, whole_number
from openllama_cli.models.hub.errors import NotAHubError, http_library
from openllama_cli.system.files import write_all
from openllama_cli.system.memory import size
from openllama_cli.system.paths import hub_cache_variable
from openllama_cli.system.progress import Progress, shown

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Waits before the next attempts. An attempt that brought a megabyte starts the count again."""

SLOW_SECONDS = 15.0
SLOWEST = 1000
"""Bytes a second, on average over `SLOW_SECONDS`; a server that sends less is asked again."""
WHOLE_SECONDS = 86_400.0
"""The longest that one call downloads; the next one continues."""

_RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_FRESH_START = 1_000_000
_READ_BYTES = 1 << 22

Notice = Callable[[str], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file to get.

    checksum: the sha256 of a large file or the git blob sha1 of a small one, in hex; None where the Hub gave none.
    blob: the name of its blob, which is the checksum where there is one.
    """

    name: str
    url: str
    checksum: str | None
    size: int
    blob: str


class _InterruptionError(Exception):
    """The connection ended before the file did; worth another attempt, after `wait` seconds if the server asked for it."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def partial_bytes(blob: Path) -> int:
    """How much of an unfinished blob is here already."""
    partial = _partial(blob)
    return partial.stat().st_size if partial.is_file() else 0


def is_here(file: RemoteFile, blob: Path) -> bool:
    """Whether a blob is there as large as the Hub says; one that was cut is not."""
    return blob.exists() and blob.stat().st_size == file.size


def download(
    file: RemoteFile, blob: Path, lock: Path, progress: Progress, notice: Notice, *, deadline: float | None = None
) -> None:
    """Get `file` as `blob`; nothing is asked of the Hub if it is there.

    lock: the lock file that huggingface_hub takes for this blob: whoever comes second waits, and then finds the blob.
    deadline: of `time.monotonic`; by default `WHOLE_SECONDS` from now.
    Raises HubError (cut connection, checksum, full disk, deadline) and what `hub.errors.expected_errors` names.
    """
    deadline = time.monotonic() + WHOLE_SECONDS if deadline is None else deadline
    with _locked(lock, file.name, progress, notice):
        if is_here(file, blob):
            return
        blob.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(blob)
        have = partial_bytes(blob)
        if have > file.size:
            partial.unlink()
            have = 0
        with shown(progress, file.name, file.size):
            progress.advance(have)
            _receive_all(file, partial, progress, notice, deadline)
        _check(file, partial, progress)
        partial.replace(blob)


def _partial(blob: Path) -> Path:
    return blob.with_name(blob.name + PARTIAL_SUFFIX)


@contextlib.contextmanager
def _locked(lock: Path, name: str, progress: Progress, notice: Notice) -> Iterator[None]:
    from huggingface_hub.utils import WeakFileLock  # public, but not in __all__

    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=0.2))
        except TimeoutError:
            notice(f"another process is downloading {name}; waiting for it")
            with shown(progress, f"waiting for another process to download {name}", None):
                stack.enter_context(WeakFileLock(lock))
        yield


def _receive_all(file: RemoteFile, partial: Path, progress: Progress, notice: Notice, deadline: float) -> None:
    """Attempt until the partial file is complete."""
    failures = reached = 0
    partial.touch()
    while (have := partial.stat().st_size) < file.size:
        try:
            _receive(file, partial, have, progress, deadline)
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


def _receive(file: RemoteFile, partial: Path, have: int, progress: Progress, deadline: float) -> None:
    """One request for the bytes from `have` on, written as they come."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        # A redirect to the file server of another origin is followed without the token.
        with opened("GET", file.url, start=have, download=True) as response:
            if response.status_code not in (200, 206):
                raise NotAHubError(f"it answered {response.status_code} instead of {file.name}")
            if response.status_code == 206 and not _continues(response, have, file.size):
                raise _begin_again(partial, have, progress)
            if response.status_code == 200 and have:
                # The server ignores Range and sends the file from its start.
                progress.advance(-have)
                have = 0
            with contextlib.closing(_paced(response)) as chunks:
                _write(file, partial, have, chunks, progress, deadline)
    except HfHubHTTPError as problem:
        status = problem.response.status_code
        if status == 416:  # The server's file has another length than the Hub says.
            raise _begin_again(partial, have, progress) from problem
        if status not in _RETRY_STATUS:
            raise
        asked = whole_number(problem.response.headers.get("Retry-After"))
        raise _InterruptionError(f"the server answered {status}", min(asked or 0.0, 60.0)) from problem


def _begin_again(partial: Path, have: int, progress: Progress) -> _InterruptionError:
    partial.unlink()
    partial.touch()
    progress.advance(-have)
    return _InterruptionError(f"the server did not continue at byte {have}")


def _paced(response: Any) -> Generator[bytes, None, None]:
    """The body. Raises _InterruptionError when it came too slowly, and what `client.body` raises.

    How fast it comes is watched from a thread: reading may wait for a long time for bytes that are none of the file's.
    """
    ended, slow = threading.Event(), threading.Event()

    def watch() -> None:
        before = 0
        while not ended.wait(SLOW_SECONDS):
            now = response.num_bytes_downloaded
            if now - before < SLOWEST * SLOW_SECONDS:
                slow.set()
                with contextlib.suppress(Exception):  # It may have ended meanwhile; then its timeout ends the wait.
                    stream = response.extensions["network_stream"]
                    socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)
                return
            before = now

    threading.Thread(target=watch, daemon=True, name="olc-hub-pace").start()
    interruption = _InterruptionError(f"less than {size(SLOWEST)}/s for {SLOW_SECONDS:.0f} s")
    try:
        yield from body(response)
    except Exception as problem:
        if not slow.is_set():
            raise
        raise interruption from problem
    finally:
        ended.set()
    if slow.is_set():
        raise interruption


def _continues(response: Any, have: int, size: int) -> bool:
    match = re.fullmatch(r"bytes ([0-9]{1,15})-[0-9]+/([0-9]+|\*)", response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == have and match[2] in (str(size), "*")


def _write(file: RemoteFile, partial: Path, have: int, chunks: Iterator[bytes], progress: Progress, deadline: float) -> None:
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
                if time.monotonic() > deadline:
                    raise HubError(
                        f"the download took more than {WHOLE_SECONDS / 3600:.0f} hours: {size(have)} of {size(file.size)} of "
                        f"{file.name} are here",
                        "run the same command again: it continues where it stopped",
                        code="too_slow",
                    )
    except OSError as problem:
        raise _disk_error(problem, file, partial) from problem


def _disk_error(problem: OSError, file: RemoteFile, partial: Path) -> HubError:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return HubError(
            f"no space left in {partial.parent} for {file.name} ({size(file.size)})",
            "free some space and run the same command again: it continues where it stopped; "
            f"or set {hub_cache_variable()} to a folder on a larger disk",
            code="disk_full",
        )
    return HubError(
        f"cannot write {partial}: {problem.strerror}", f"set {hub_cache_variable()} to a writable folder", code="disk"
    )


def _check(file: RemoteFile, partial: Path, progress: Progress) -> None:
    """Compare what is on disk with the checksum, and make sure that it stays on disk.

    Read back rather than hashed while receiving: a partial file may have been damaged since it was written.
    """
    digest = None
    if file.checksum is not None:
        git = b"blob %d\0" % file.size  # git's name for a file's content
        digest = hashlib.sha256() if len(file.checksum) == 64 else hashlib.sha1(git, usedforsecurity=False)
    with partial.open("rb") as source:
        if digest is not None:
            with shown(progress, f"checking {file.name}", file.size):
                while chunk := source.read(_READ_BYTES):
                    digest.update(chunk)
                    progress.advance(len(chunk))
        os.fsync(source.fileno())
    if digest is not None and digest.hexdigest() != file.checksum:
        partial.unlink()
        raise _mismatch(file, f"checksum {digest.hexdigest()[:12]}… instead of {str(file.checksum)[:12]}…")


def _mismatch(file: RemoteFile, what: str) -> HubError:
    return HubError(
        f"the download of {file.name} does not match the Hub: {what}",
        "it was deleted; run the same command again, and check your proxy if it happens again",
        code="checksum",
    )
