"""The compiled kernels as functions on torch tensors.

`product` is one linear layer for a few rows of activations. At one row it reads each weight once, at the speed of memory:
torch's own products reach half of that or less on these processors. At several rows it feeds AMX's tiles with weights that it
converts on the way, so that float16 and int4 weights cost what bfloat16 ones cost; torch needs a copy of them for that.

- bfloat16 weights: activations are bfloat16, sums float32.
- float16 weights: at one row all in float32; at several, weights are rounded to bfloat16.
- int8 weights, one scale for each row: activations become integers of two signed bytes, -16256 to 16256 with one scale for each
  row (15 bits where other int8 products have 8), and the sums are exact.
- int4 weights, a scale and a zero for each 64 inputs: at one row as with int8; at several, weights become bfloat16.

The threads are those of torch's own OpenMP, since a second set of threads would wait on the same cores.
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from enum import IntEnum

import torch

from openllama_cli.native.sources import LIBRARY, fingerprint

# Weights up to which a second thread takes longer to wake up than it saves.
_SMALL = 200_000
# Inputs of an int4 row are filled up to a multiple of this; a scale and a zero hold for so many.
INT4_BLOCK, INT4_GROUP = 128, 64
# In torch's names.
_TILES = ("amx_tile", "amx_bf16", "amx_int8")
_NEEDED = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_bf16", "avx512_vnni", *_TILES)


class Kind(IntEnum):
    """The types of weights, as `enum kind` in weights.h has them."""

    BFLOAT16 = 0
    FLOAT16 = 1
    INT8 = 2
    INT4 = 3


def usable() -> bool:
    """Whether the kernels are compiled from these sources, and this processor and system run them."""
    return _processor_has(*_NEEDED) and _load() is not None


@functools.cache
def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16 and int8 numbers, and this torch knows it (2.11 or newer)."""
    return bool(torch.backends.mkldnn.is_available()) and _processor_has(*_TILES)


def _processor_has(*names: str) -> bool:
    probe = getattr(torch.cpu, "get_capabilities", None)
    capabilities = {} if probe is None else probe()
    return all(capabilities.get(name) for name in names)


def product(
    kind: Kind, weight: torch.Tensor, scales: torch.Tensor | None, x: torch.Tensor, out: int, threads: int | None = None
) -> torch.Tensor:
    """[n, in] bfloat16 or float32 → [n, out] of the same type, x times the weights' transpose. Only where `usable`.

    weight: contiguous, on the CPU: [out, in], or uint8 [out, in' / 2] of int4 (see `pack_int4`). scales: float32 [out] of int8;
    bfloat16 [out, in' / 64, 2] of int4. threads: as many as torch uses. Raises MemoryError.
    """
    library = _load()
    assert library is not None
    x = x.contiguous()
    rows, inputs = x.shape
    y = torch.empty(rows, out, dtype=x.dtype)
    wide = x.dtype == torch.float32
    if threads is None:
        threads = 1 if out * inputs < _SMALL else torch.get_num_threads()
    function, parallel = library
    failed = function(
        weight.data_ptr(),
        None if scales is None else scales.data_ptr(),
        x.data_ptr(),
        y.data_ptr(),
        rows,
        out,
        inputs,
        kind,
        wide,
        wide,
        threads,
        parallel,
    )
    if failed:
        raise MemoryError(f"no memory for {rows} rows of {inputs} activations")
    return y


def pack_int4(levels: torch.Tensor) -> torch.Tensor:
    """Levels 0 … 15, [out, in] with in a multiple of 128 → uint8 [out, in / 2].

    Byte n of each 64 holds input n of 128 in its lower half, input 64 + n in the upper one.
    """
    halves = levels.to(torch.uint8).view(len(levels), -1, 2, INT4_GROUP)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)


@functools.cache
def _load() -> tuple[Callable[..., int], int | None] | None:
    """The library's function, and the address of GOMP_parallel in the OpenMP that torch has loaded, if that is GNU's or speaks
    its language (Intel's and LLVM's do).
    """
    if not sys.platform.startswith("linux") or not LIBRARY.is_file():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.olc_sources.restype = ctypes.c_char_p
        if library.olc_sources().decode() != fingerprint() or not library.olc_allow_tiles():
            return None
        function = library.olc_product
    except (OSError, AttributeError):
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer] * 4 + [integer] * 3 + [ctypes.c_int] * 4 + [pointer]
    try:
        parallel = ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, pointer).value
    except (OSError, AttributeError):
        parallel = None
    return function, parallel
