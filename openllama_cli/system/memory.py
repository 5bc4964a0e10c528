"""Whether an exception says that memory ran out. Python, CUDA and torch's CPU allocator each say it in their own way."""

# What torch's CPU allocator and mmap raise is a plain RuntimeError, told apart by its words.
_NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory", "unable to mmap", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: MemoryError, torch.OutOfMemoryError (by its name: torch need not be imported), or
    a RuntimeError of torch's CPU allocator or of mmap."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
