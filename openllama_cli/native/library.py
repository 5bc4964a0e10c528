"""The compiled library: whether it exists and runs on this processor, and how its functions are called.

It uses the threads of torch's own OpenMP: a second thread pool would compete for the same cores.
"""

import ctypes
import functools
import sys
from typing import Any

import torch

from openllama_cli.native.sources import LIBRARY, fingerprint

# CPU capabilities, as torch names them.
_TILES = ("amx_tile", "amx_bf16", "amx_int8")
_NEEDED = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_bf16", "avx512_vnni", *_TILES)
# Argument types of each function, without the threads: p a pointer, q an int64, i an int, f a float.
_ARGUMENTS = {
    "matmul": "ppppqqqii",
    "rms_norm": "pppqqqfi",
    "apply_rotary": "ppppqqqqi",
    "silu_mul": "pppqqqqi",
    "attend": "pppppppp" + "qqqqfi",
}
_TYPES = {"p": ctypes.c_void_p, "q": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}
# With fewer elements than this, waking a second thread takes longer than it saves.
_SMALL = 200_000


def usable() -> bool:
    """Whether the kernels were compiled from these sources and run on this processor and system."""
    return _processor_has(*_NEEDED) and functions() is not None


@functools.cache
def has_amx() -> bool:
    """Whether the processor has AMX for bfloat16 and int8, and this torch can tell (2.11 or newer)."""
    return bool(torch.backends.mkldnn.is_available()) and _processor_has(*_TILES)


@functools.cache
def _processor_has(*names: str) -> bool:
    probe = getattr(torch.cpu, "get_capabilities", None)
    capabilities = {} if probe is None else probe()
    return all(capabilities.get(name) for name in names)


def call(name: str, *arguments: Any, work: int, threads: int | None = None) -> None:
    """Call a function of the library, which must be `usable`.

    work: how many elements it processes; one thread is used if they are few. threads: torch's number if None. Raises
    MemoryError.
    """
    found = functions()
    assert found is not None
    if threads is None:
        threads = 1 if work < _SMALL else torch.get_num_threads()
    by_name, parallel = found
    if by_name[name](*arguments, threads, parallel):
        raise MemoryError(f"no memory for the kernel {name}")


@functools.cache
def functions() -> tuple[dict[str, Any], int | None] | None:
    """The library's functions by name, without the prefix olc_, and the address of GOMP_parallel in the OpenMP that torch has
    loaded: GNU's, or Intel's or LLVM's, which provide it too.

    None if the library is not compiled or is of other sources, if the system refuses AMX's registers, or if torch has no OpenMP
    to share.
    """
    if not sys.platform.startswith("linux") or not LIBRARY.is_file():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.olc_sources.restype = ctypes.c_char_p
        if library.olc_sources().decode() != fingerprint() or not library.olc_allow_tiles():
            return None
        by_name = {name: getattr(library, f"olc_{name}") for name in _ARGUMENTS}
    except (OSError, AttributeError):
        return None
    for name, letters in _ARGUMENTS.items():
        by_name[name].argtypes = [_TYPES[letter] for letter in letters + "ip"]
        by_name[name].restype = ctypes.c_int if name in ("matmul", "attend") else None
    try:
        parallel = ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None  # A torch without OpenMP: one thread would be slower than torch's own.
    return by_name, parallel
