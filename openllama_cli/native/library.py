"""The compiled libraries: which one runs on this processor, and how its functions are called.

It uses the threads of torch's own OpenMP: a second thread pool would compete for the same cores. OLC_KERNELS, the name of a
tier of `sources.py` or "none", is for tests and comparisons.
"""

import ctypes
import functools
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch

from openllama_cli.errors import OlcError
from openllama_cli.native.sources import TIERS, Tier, fingerprint

# Argument types of each function, without the threads: p a pointer, q an int64, i an int, f a float.
_ARGUMENTS = {
    "matmul": "ppppqqqii",
    "rms_norm": "pppqqqfi",
    "apply_rotary": "ppppqqqqi",
    "silu_mul": "pppqqqqi",
    "attend": "pppppppp" + "qqqqfi",
    "decode": "ppppppppp" + "qi",
}
_TYPES = {"p": ctypes.c_void_p, "q": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}
# With fewer elements than this, waking a second thread takes longer than it saves.
SMALL = 200_000


@dataclass(frozen=True)
class Library:
    """functions: by name, without the prefix olc_. parallel: the address of GOMP_parallel in the OpenMP that torch has loaded,
    GNU's, or Intel's or LLVM's, which provide it too.
    """

    tier: Tier
    functions: dict[str, Any]
    parallel: int | None


def usable() -> bool:
    """Whether kernels were compiled from these sources and run on this processor and system."""
    return library() is not None


def runnable() -> list[Tier]:
    """The tiers whose instructions this processor has, the fastest first."""
    return [tier for tier in TIERS if _processor_has(*tier.capabilities)]


@functools.cache
def library() -> Library | None:
    """The library of the fastest tier that there is, or of the one that OLC_KERNELS names; None if there is none.

    Raises OlcError if the one that it names does not run here.
    """
    wanted = os.environ.get("OLC_KERNELS") or None
    found = next((found for tier in runnable() if wanted in (None, tier.name) and (found := _open(tier))), None)
    if found is None and wanted not in (None, "none"):
        names = ", ".join([*(tier.name for tier in runnable()), "none"])
        raise OlcError(f"OLC_KERNELS={wanted}: no such kernels run here", f"use {names}, or unset it", code="device")
    return found


@functools.cache
def has_amx() -> bool:
    """Whether the processor has AMX for bfloat16 and int8, and this torch can tell (2.11 or newer)."""
    return bool(torch.backends.mkldnn.is_available()) and _processor_has("amx_tile", "amx_bf16", "amx_int8")


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
    found = library()
    assert found is not None
    if threads is None:
        threads = 1 if work < SMALL else torch.get_num_threads()
    if found.functions[name](*arguments, threads, found.parallel):
        raise MemoryError(f"no memory for the kernel {name}")


def _open(tier: Tier) -> Library | None:
    """None if the library is not compiled or is of other sources, if the system refuses AMX's registers, or if torch has no
    OpenMP to share.
    """
    if not sys.platform.startswith("linux") or not tier.library.is_file():
        return None
    try:
        opened = ctypes.CDLL(str(tier.library))
        opened.olc_sources.restype = ctypes.c_char_p
        if opened.olc_sources().decode() != fingerprint() or not opened.olc_allowed():
            return None
        functions = {name: getattr(opened, f"olc_{name}") for name in _ARGUMENTS}
    except (OSError, AttributeError):
        return None
    for name, letters in _ARGUMENTS.items():
        functions[name].argtypes = [_TYPES[letter] for letter in letters + "ip"]
        functions[name].restype = ctypes.c_int if name in ("matmul", "attend", "decode") else None
    try:
        parallel = ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None  # A torch without OpenMP: one thread would be slower than torch's own.
    return Library(tier, functions, parallel)
