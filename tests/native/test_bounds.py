"""The kernels touch nothing beyond the tensors they are given: each ends where a page that may not be touched begins."""

import ctypes
import faulthandler
import mmap
import multiprocessing
import os
from collections.abc import Callable

import pytest
import torch

from openllama_cli.native.library import call
from tests.native.test_matmul import CASES, weights
from tests.support.marks import needs_kernels

pytestmark = [needs_kernels, pytest.mark.usefixtures("tier")]

_NO_ACCESS = 0
_LIBC = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Memory that ends before a page without access; keeps what it maps."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []

    def __call__(self, tensor: torch.Tensor) -> int:
        """The address of a copy of a tensor."""
        pages = -(-tensor.nbytes // mmap.PAGESIZE)
        area = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
        self._maps.append(area)
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        end = start + pages * mmap.PAGESIZE
        assert _LIBC.mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, _NO_ACCESS) == 0, os.strerror(ctypes.get_errno())
        ctypes.memmove(end - tensor.nbytes, tensor.data_ptr(), tensor.nbytes)
        return end - tensor.nbytes


def matmuls() -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork.
    for kind, (out, inputs), rows, dtype in CASES:
        weight, scales, _ = weights(kind, out, inputs)
        guarded = Guarded()
        x, y = torch.ones(rows, inputs, dtype=dtype), torch.ones(rows, out, dtype=dtype)
        addresses = [guarded(weight), None if scales is None else guarded(scales), guarded(x), guarded(y)]
        call("matmul", *addresses, rows, out, inputs, kind, dtype == torch.float32, work=1)


def layers() -> None:
    for rows, heads, size in ((1, 1, 2), (3, 4, 100), (2, 2, 34), (1, 2, 256)):
        for dtype in (torch.float32, torch.bfloat16):
            wide, guarded = dtype == torch.float32, Guarded()
            x, angles = torch.ones(rows, heads * size, dtype=dtype), torch.ones(rows, size, dtype=dtype)
            narrow, row = torch.ones(rows, heads, size).bfloat16(), heads * size
            call("rms_norm", guarded(x), guarded(x[0]), guarded(x), rows, row, row, 1e-6, wide, work=1)
            call("silu_mul", guarded(x), guarded(x), guarded(x), rows, row, row, row, wide, work=1)
            pointers = (guarded(x), guarded(angles), guarded(angles), guarded(narrow))
            call("apply_rotary", *pointers, rows, heads, size, row, wide, work=1)
            for length in (0, 1, 17, 40):
                cache = torch.ones(heads, length + 1, size).bfloat16()
                caches = [(ctypes.c_void_p * rows)(*(guarded(cache) for _ in range(rows))) for _ in range(2)]
                numbers = [(ctypes.c_int64 * rows)(*[value] * rows) for value in (length, length + 1)]
                new = [guarded(narrow) for _ in range(3)]
                call("attend", *new, *caches, *numbers, guarded(x), rows, heads, heads, size, 1.0, wide, work=1)


def beyond() -> None:
    faulthandler.disable()
    guarded, x = Guarded(), torch.ones(1, 100)
    call("rms_norm", guarded(x), guarded(x), guarded(x[:, :10]), 1, 100, 100, 1e-6, True, work=1)


@pytest.mark.parametrize(
    ("work", "ends"), [(matmuls, 0), (layers, 0), (beyond, -11)], ids=["matmuls", "layers", "the guard itself"]
)
def test_nothing_beyond_the_end_is_touched(work: Callable[[], None], ends: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=work)  # What crashes must not be this one.
    process.start()
    process.join(120)
    assert process.exitcode == ends
