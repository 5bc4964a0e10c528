"""What is worth doing before torch or transformers is imported: how threads wait, large pages, reading and mapping weights."""

import contextlib
import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.system.memory import free_memory

if TYPE_CHECKING:
    import torch

# How often a waiting OpenMP thread polls before it sleeps. By default it spins for very long, which is a little faster on an
# idle machine; where another program wants the core, every barrier of a forward pass then waits for the scheduler, and decode
# is some 30 times slower. Bounded, it keeps most of its speed.
_SPIN_COUNT = "2000"
_CHOSEN_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
_BLOCK = 64 << 20
# Of madvise, since Linux 5.14; older systems refuse it.
_POPULATE_READ = 22


def prepare_environment() -> None:
    """Set what torch reads when it is imported, unless the user did: how OpenMP threads wait, and large pages.

    Large pages (of the system's, on Linux) make filling fresh memory with weights cheaper: 2 MB at a time, not 4 KB.
    """
    if not any(name in os.environ for name in _CHOSEN_BY_USER):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def read_ahead(files: Iterable[Path]) -> threading.Thread | None:
    """Ask the system to read files into its page cache, while this process imports torch and transformers.

    Nothing is copied, and what is cached already costs nothing. Files that together are larger than the free memory are left
    alone: they would push each other out. None where the system takes no such advice.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    thread = threading.Thread(target=_advise, args=(list(files),), daemon=True, name="olc-read-ahead")
    thread.start()
    return thread


def map_pages(tensors: "Iterable[torch.Tensor]") -> threading.Thread | None:
    """Enter the pages of mapped tensors in this process's page table, while it imports transformers.

    Else each 64 KB interrupts the first forward pass: a quarter of its time with 64 tokens. None where the system is no Linux.
    """
    if not sys.platform.startswith("linux"):
        return None
    thread = threading.Thread(target=_populate, args=(list(tensors),), daemon=True, name="olc-map-pages")
    thread.start()
    return thread


def _populate(tensors: "list[torch.Tensor]") -> None:
    # What madvise says is no matter here: pages that are not entered now are when they are read.
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for tensor in tensors:
        start = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        madvise(start, tensor.data_ptr() + tensor.nbytes - start, _POPULATE_READ)


def _advise(files: list[Path]) -> None:
    # An OSError is no matter here: loading will raise the error that the user sees.
    with contextlib.suppress(OSError):
        if sum(file.stat().st_size for file in files) > free_memory():
            return
        for file in files:
            with file.open("rb", buffering=0) as opened:
                for offset in range(0, os.fstat(opened.fileno()).st_size, _BLOCK):
                    os.posix_fadvise(opened.fileno(), offset, _BLOCK, os.POSIX_FADV_WILLNEED)
