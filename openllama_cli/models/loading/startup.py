"""What is worth doing before torch is imported: threads that wait politely, memory in large pages, and weights on their way
into memory.
"""

import os
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

# How often a waiting OpenMP thread looks before it sleeps. By default it looks for ever so long, which is a little faster on an
# idle machine; where another program wants the core, every barrier of a forward pass then waits for the scheduler, and decode
# is some 30 times slower. Bounded, it keeps most of its speed.
_SPIN_COUNT = "2000"
_CHOSEN_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
_BLOCK = 64 << 20


def prepare_environment(env: MutableMapping[str, str] | None = None) -> None:
    """Set what torch reads when it is imported, unless the user did: how OpenMP threads wait, and large pages.

    Large pages (of the system's, on Linux) make filling fresh memory with weights cheaper: 2 MB at a time, not 4 KB.
    """
    env = os.environ if env is None else env
    if not any(name in env for name in _CHOSEN_BY_USER):
        env["GOMP_SPINCOUNT"] = _SPIN_COUNT
    env.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def read_ahead(files: Iterable[Path]) -> threading.Thread | None:
    """Ask the system to read files into its page cache, while this process imports torch and transformers.

    Nothing is copied, and what is cached already costs nothing. Files that together are larger than the free memory are left
    alone: they would push each other out. None where the system takes no such advice.
    """
    files = list(files)
    if not hasattr(os, "posix_fadvise") or sum(file.stat().st_size for file in files) > _free_memory():
        return None
    thread = threading.Thread(target=_advise, args=(files,), daemon=True, name="olc-read-ahead")
    thread.start()
    return thread


def _advise(files: Iterable[Path]) -> None:
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except OSError:
            return  # Loading will say it, in words.
        try:
            for offset in range(0, os.fstat(descriptor).st_size, _BLOCK):
                os.posix_fadvise(descriptor, offset, _BLOCK, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _free_memory() -> int:
    """Bytes that could be had without pushing anything out of memory that is in use; 0 where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return available(dict(line.split(":", 1) for line in lines if ":" in line))


def available(meminfo: Mapping[str, str]) -> int:
    """The free memory that /proc/meminfo tells, in bytes."""
    kilobytes = meminfo.get("MemAvailable", "0").split()
    return int(kilobytes[0]) * 1024 if kilobytes else 0
