"""How much memory is free, and whether an exception says that it ran out: Python, CUDA and torch's CPU allocator differ.

And `size`, which writes bytes for people, and `give_back` for files that are mapped.
"""

import mmap

from openllama_cli.system.cgroup import limits

# What torch's CPU allocator and mmap raise is a plain RuntimeError, told apart by its words.
_NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory", "unable to mmap", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: MemoryError, torch.OutOfMemoryError (by its name: torch need not be imported), or
    a RuntimeError of torch's CPU allocator or of mmap."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def free_memory() -> int:
    """Bytes that this process can have without pushing out anything in use: the machine's, or what its container grants."""
    import psutil

    free = int(psutil.virtual_memory().available)
    granted = limits()
    if granted.memory is None or granted.memory_used is None:
        return free
    return max(0, min(free, granted.memory - granted.memory_used))


def size(count: float) -> str:
    """A number of bytes in powers of 1000, as disks and the Hub count them: "999 B", "16.2 MB", "6.9 GB", "123 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def give_back(mapped: mmap.mmap, offset: int, count: int) -> None:
    """Let go of the memory that whole pages of a private mapping take; they can still be read, from the file, as it is."""
    if not hasattr(mmap, "MADV_DONTNEED"):  # On macOS.
        return
    start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (offset + count) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:
        mapped.madvise(mmap.MADV_DONTNEED, start, end - start)
