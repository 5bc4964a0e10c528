"""What a layer does between its products, each in one kernel: only where `library.usable`.

Activations are bfloat16 or float32, keys and values bfloat16. Each number is computed in float32 and rounded once, where
torch's operators round after every step. Rows may lie apart (parts of a stacked product).
"""

import ctypes
from collections.abc import Sequence

import torch

from openllama_cli.native.library import call

# Of a head; what the kernels' registers hold.
MOST_SIZE = 256


def normalize(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of [n, hidden], times weight [hidden], of the same type. Raises ValueError for others."""
    rows, size = x.shape
    x = _rows(x)
    _check(weight.shape == (size,) and weight.dtype == x.dtype and weight.is_contiguous(), "normalize", x, weight)
    y = torch.empty(rows, size, dtype=x.dtype)
    pointers = (x.data_ptr(), weight.data_ptr(), y.data_ptr())
    call("normalize", *pointers, rows, size, x.stride(0), eps, _wide(x), work=rows * size)
    return y


def turn(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, size: int) -> torch.Tensor:
    """Rotary embedding of [n, heads · D] by angles [n, D] of the same type → bfloat16 [n, heads, D].

    size: D, even. Raises ValueError for angles that do not fit.
    """
    rows, heads = x.shape[0], x.shape[1] // size
    x = _rows(x)
    for angles in (cosine, sine):
        _check(angles.shape == (rows, size) and angles.dtype == x.dtype and angles.is_contiguous(), "turn", x, angles)
    y = torch.empty(rows, heads, size, dtype=torch.bfloat16)
    pointers = (x.data_ptr(), cosine.data_ptr(), sine.data_ptr(), y.data_ptr())
    call("turn", *pointers, rows, heads, size, x.stride(0), _wide(x), work=rows * x.shape[1])
    return y


def activate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of [n, intermediate] each, of the same type. Raises ValueError for others."""
    rows, size = gate.shape
    gate, up = _rows(gate), _rows(up)
    _check(up.shape == gate.shape and up.dtype == gate.dtype, "activate", gate, up)
    y = torch.empty(rows, size, dtype=gate.dtype)
    pointers = (gate.data_ptr(), up.data_ptr(), y.data_ptr())
    call("activate", *pointers, rows, size, gate.stride(0), up.stride(0), _wide(gate), work=rows * size)
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
    """One new token of each row → [n, H · D] of `dtype`, after its key and value were put into its cache.

    query: [n, H, D]; key, value: [n, K, D]; caches: for each row keys and values [K, capacity, D]; all contiguous bfloat16.
    lengths: of the caches before. D: up to MOST_SIZE, and even. Raises ValueError for others, and for a cache that is full.
    """
    rows, heads, size = query.shape
    room = len(caches) == len(lengths) == rows
    for (keys, values), length in zip(caches, lengths, strict=False):
        room &= keys.shape == values.shape == (key.shape[1], keys.shape[1], size) and length < keys.shape[1]
        room &= keys.dtype == values.dtype == torch.bfloat16 and keys.is_contiguous() and values.is_contiguous()
    _check(room and size <= MOST_SIZE, "attend", query, *(keys for keys, _ in caches))
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
    """x with the numbers of a row beside each other."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _check(sound: bool, kernel: str, *tensors: torch.Tensor) -> None:
    if not sound or tensors[0].dtype not in (torch.bfloat16, torch.float32):
        given = ", ".join(f"{x.dtype} {list(x.shape)}" for x in tensors)
        raise ValueError(f"the kernel {kernel} does not take {given}")


def _wide(x: torch.Tensor) -> bool:
    return x.dtype == torch.float32
