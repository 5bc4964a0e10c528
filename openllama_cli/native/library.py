"""The compiled library: whether it is there and runs on this processor, and its functions.

The threads are those of torch's own OpenMP, since a second set of threads would wait on the same cores.
"""

import ctypes
import functools
import sys
from dataclasses import dataclass
from typing import Any

import torch

from openllama_cli.native.sources import LIBRARY, fingerprint

# In torch's names.
_TILES = ("amx_tile", "amx_bf16", "amx_int8")
_NEEDED = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_bf16", "avx512_vnni", *_TILES)
# Each function's arguments before those of threads: p a pointer, q an int64, i an int, f a float.
_ARGUMENTS = {
    "product": "ppppqqqii",
    "normalize": "pppqqqfi",
    "turn": "ppppqqqqi",
    "activate": "pppqqqqi",
    "attend": "pppppppp" + "qqqqfi",
}
_TYPES = {"p": ctypes.c_void_p, "q": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}
# Numbers to work on up to which a second thread takes longer to wake up than it saves.
_SMALL = 200_000


@dataclass(frozen=True)
class Functions:
    """The library's functions, by their names without olc_, and the address of GOMP_parallel in the OpenMP that torch has
    loaded, if that is GNU's or speaks its language (Intel's and LLVM's do).
    """

    by_name: dict[str, Any]
    parallel: int | None


def usable() -> bool:
    """Whether the kernels are compiled from these sources, and this processor and system run them."""
    return _processor_has(*_NEEDED) and functions() is not None


@functools.cache
def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16 and int8 numbers, and this torch knows it (2.11 or newer)."""
    return bool(torch.backends.mkldnn.is_available()) and _processor_has(*_TILES)


@functools.cache
def _processor_has(*names: str) -> bool:
    probe = getattr(torch.cpu, "get_capabilities", None)
    capabilities = {} if probe is None else probe()
    return all(capabilities.get(name) for name in names)


def call(name: str, *arguments: Any, work: int, threads: int | None = None) -> None:
    """Call a function of the library, which must be `usable`.

    work: numbers it works on; where they are few, one thread does it. threads: as many as torch uses. Raises MemoryError.
    """
    found = functions()
    assert found is not None
    if threads is None:
        threads = 1 if work < _SMALL else torch.get_num_threads()
    if found.by_name[name](*arguments, threads, found.parallel):
        raise MemoryError(f"no memory for the kernel {name}")


@functools.cache
def functions() -> Functions | None:
    """The library, or None where it is not compiled, or from other sources, where the system refuses AMX's registers, or where
    torch has no OpenMP to share.
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
        by_name[name].restype = ctypes.c_int if name in ("product", "attend") else None
    try:
        parallel = ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None  # A torch without OpenMP. One thread would be slower than torch's many.
    return Functions(by_name, parallel)
