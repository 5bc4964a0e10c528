"""RMS norm, rotary embedding, SiLU and decode attention, each as one kernel. Only where `library.usable`.

Activations are bfloat16 or float32, keys and values bfloat16. Everything is computed in float32 and rounded once, while torch's
operators round after every step. Rows may be strided (slices of a fused linear layer's output).
"""

import ctypes
from collections.abc import Sequence

import torch

from openllama_cli.native.library import call

# The largest head that fits into the kernels' registers.
MAX_HEAD_SIZE = 256


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of x [n, hidden] times weight [hidden], of the same dtype. Raises ValueError for anything else."""
    rows, size = x.shape
    x = _rows(x)
    _check(weight.shape == (size,) and weight.dtype == x.dtype and weight.is_contiguous(), "rms_norm", x, weight)
    y = torch.empty(rows, size, dtype=x.dtype)
    pointers = (x.data_ptr(), weight.data_ptr(), y.data_ptr())
    call("rms_norm", *pointers, rows, size, x.stride(0), eps, x.dtype == torch.float32, work=rows * size)
    return y


def apply_rotary(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, size: int) -> torch.Tensor:
    """Rotary embedding of x [n, heads · D] with cosine and sine [n, D], of the same dtype → bfloat16 [n, heads, D].

    size: D, even. Raises ValueError for anything else.
    """
    rows, heads = x.shape[0], x.shape[1] // size
    x = _rows(x)
    for angles in (cosine, sine):
        _check(angles.shape == (rows, size) and angles.dtype == x.dtype and angles.is_contiguous(), "apply_rotary", x, angles)
    y = torch.empty(rows, heads, size, dtype=torch.bfloat16)
    pointers = (x.data_ptr(), cosine.data_ptr(), sine.data_ptr(), y.data_ptr())
    call("apply_rotary", *pointers, rows, heads, size, x.stride(0), x.dtype == torch.float32, work=rows * x.shape[1])
    return y


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, [n, intermediate] each, of the same dtype. Raises ValueError for anything else."""
    rows, size = gate.shape
    gate, up = _rows(gate), _rows(up)
    _check(up.shape == gate.shape and up.dtype == gate.dtype, "silu_mul", gate, up)
    y = torch.empty(rows, size, dtype=gate.dtype)
    pointers = (gate.data_ptr(), up.data_ptr(), y.data_ptr())
    call("silu_mul", *pointers, rows, size, gate.stride(0), up.stride(0), gate.dtype == torch.float32, work=rows * size)
    return y


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    caches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    lengths: Sequence[int],
    scale: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Attention of one new token per row → [n, H · D] of `dtype`. Its key and value are first appended to the row's cache.

    query: [n, H, D]; key, value: [n, K, D]; caches: keys and values of each row, [K, capacity, D]; all contiguous bfloat16.
    lengths: positions filled before. D: even, at most MAX_HEAD_SIZE. Raises ValueError for anything else, and for a full cache.
    """
    rows, heads, size = query.shape
    valid = len(caches) == len(lengths) == rows
    for (keys, values), length in zip(caches, lengths, strict=False):
        valid &= keys.shape == values.shape == (key.shape[1], keys.shape[1], size) and length < keys.shape[1]
        valid &= keys.dtype == values.dtype == torch.bfloat16 and keys.is_contiguous() and values.is_contiguous()
    _check(valid and size <= MAX_HEAD_SIZE, "attend", query, *(keys for keys, _ in caches))
    for x in (query, key, value):
        shape = (rows, heads if x is query else key.shape[1], size)
        _check(x.shape == shape and x.dtype == torch.bfloat16 and x.is_contiguous(), "attend", query, x)
    y = torch.empty(rows, heads * size, dtype=dtype)
    pointers = [(ctypes.c_void_p * rows)(*(cache[part].data_ptr() for cache in caches)) for part in (0, 1)]
    numbers = [(ctypes.c_int64 * rows)(*values) for values in (lengths, [keys.shape[1] for keys, _ in caches])]
    call(
        "attend",
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        *pointers,
        *numbers,
        y.data_ptr(),
        rows,
        heads,
        key.shape[1],
        size,
        scale,
        dtype == torch.float32,
        work=sum(lengths) * heads * size * 2,
    )
    return y


def _rows(x: torch.Tensor) -> torch.Tensor:
    """x with contiguous rows."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _check(valid: bool, kernel: str, *tensors: torch.Tensor) -> None:
    if not valid or tensors[0].dtype not in (torch.bfloat16, torch.float32):
        given = ", ".join(f"{x.dtype} {list(x.shape)}" for x in tensors)
        raise ValueError(f"the kernel {kernel} does not accept {given}")
