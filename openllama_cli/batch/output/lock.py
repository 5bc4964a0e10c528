"""One run at a time for each OUTPUT: a lock that names its holder, and that dies with its holder.

The kernel's lock (flock) on OUTPUT.lock is released however the process ends, so a file left by a dead one means nothing. Where
there is no flock (some network file systems), creating the file is the lock, and the process it names is looked for; a holder
on another machine is then believed to be alive.

Why not filelock: its lock file stays when it is released and names nobody, and it does without flock only where that is not
implemented (ENOSYS), not where a mounted file system has no locks (ENOLCK, ENOTSUP).
"""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from openllama_cli.batch.output.output import OutputFiles
from openllama_cli.errors import UsageError

# How long a holder may take between creating the file and writing its name into it.
_NAMELESS_SECONDS = 0.5
_TRIES = 1000
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. started: ISO 8601, UTC, to the second. command: the command line."""

    pid: int
    host: str
    started: str
    command: str


@contextlib.contextmanager
def output_lock(path: Path) -> Iterator[Holder]:
    """Keep other runs from writing OUTPUT (`path`) while the context lasts. A dead process's lock is taken over.

    Raises UsageError: code "output_locked", naming the process that holds it; "output_unwritable" where no lock can be made.
    """
    lock = OutputFiles.of(path).lock
    holder = Holder(
        pid=os.getpid(),
        host=socket.gethostname(),
        started=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        command=shlex.join(sys.argv),
    )
    try:
        descriptor = _acquire(lock, path)
    except OSError as problem:
        raise UsageError(
            f"{lock} cannot be written: {problem.strerror}",
            "choose an -o in a folder that exists and that you can write to",
            code="output_unwritable",
        ) from problem
    try:
        # A full disk must not keep a finished batch from being written out: the lock holds without the name in it.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(asdict(holder)).encode() + b"\n")
        yield holder
    finally:
        # The name goes before the kernel's lock: whoever waits for that finds the name gone, and starts over.
        with contextlib.suppress(OSError):
            if _is_at(descriptor, lock):
                lock.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(lock: Path, output: Path) -> int:
    """The open file of a lock that is ours. Raises UsageError if another process has it."""
    for _ in range(_TRIES):
        try:
            descriptor, created = _create_or_open(lock)
        except FileNotFoundError:
            continue  # removed by its holder just now
        try:
            flocked = _flock(descriptor)
            if flocked or (flocked is None and created):
                if _is_at(descriptor, lock):
                    return descriptor
            else:
                holder = _read_holder(lock)
                if holder is not None or lock.exists():
                    if flocked is False or not _is_dead(holder):
                        raise _held(holder, lock, output)
                    _remove_stale(holder, lock, output)
        except BaseException:
            os.close(descriptor)
            raise
        # It was removed, by its holder or by us as a dead one's, since it was opened: again.
        os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "it keeps appearing and disappearing", str(lock))


def _create_or_open(lock: Path) -> tuple[int, bool]:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        return os.open(lock, os.O_RDWR), False


def _flock(descriptor: int) -> bool | None:
    """Whether the kernel gave us the lock; None where it has none to give."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as problem:
        if problem.errno in _NO_FLOCK:
            return None
        raise
    return True


def _is_at(descriptor: int, lock: Path) -> bool:
    """Whether an open file is the one that has the lock's name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def _read_holder(lock: Path) -> Holder | None:
    """What a lock's file says; None if it is gone, or names nobody even after a while."""
    deadline = time.monotonic() + _NAMELESS_SECONDS
    while time.monotonic() < deadline:
        try:
            holder = Holder(**json.loads(lock.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, OSError):
            time.sleep(0.02)
        else:
            return holder if isinstance(holder.pid, int) and 0 < holder.pid < 1 << 31 else None
    return None


def _is_dead(holder: Holder | None) -> bool:
    """Whether a holder is known to have ended; False for one on another machine."""
    return holder is not None and holder.host == socket.gethostname() and not psutil.pid_exists(holder.pid)


def _remove_stale(holder: Holder | None, lock: Path, output: Path) -> None:
    """Without flock: remove a dead holder's file, unless another process has just done so. One process at a time looks."""
    claim = lock.with_name(lock.name + ".claim")
    try:
        os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        if _stays(claim):
            raise _held(None, claim, output) from None
        return
    try:
        if _read_holder(lock) == holder:
            lock.unlink(missing_ok=True)
    finally:
        claim.unlink(missing_ok=True)


def _stays(file: Path) -> bool:
    """Whether a file is still there after a while."""
    deadline = time.monotonic() + _NAMELESS_SECONDS
    while file.exists():
        if time.monotonic() > deadline:
            return True
        time.sleep(0.02)
    return False


def _held(holder: Holder | None, lock: Path, output: Path) -> UsageError:
    if holder is None:
        return UsageError(
            f"another process is writing {output}",
            f"wait until it finishes, or choose another -o; if no olc is running, remove {lock}",
            code="output_locked",
        )
    cause = f"{output} is being written by process {holder.pid} on {holder.host}, since {holder.started}"
    if holder.host == socket.gethostname():
        remedy = f"wait until it finishes, stop it (kill {holder.pid}), or choose another -o"
    else:
        remedy = f"wait until it finishes, or choose another -o; if {holder.host} is down, remove {lock}"
    return UsageError(cause, remedy, code="output_locked")
