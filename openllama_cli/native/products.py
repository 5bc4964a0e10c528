"""Linear layers for a few rows of activations.

At one row a product reads each weight once, at the speed of memory: torch's own products reach half of that or less on these
processors. At several rows it feeds AMX's tiles with weights that it converts on the way, so that float16 and int4 weights cost
what bfloat16 ones cost; torch needs a copy of them for that.

- bfloat16 weights: activations are bfloat16, sums float32.
- float16 weights: at one row all in float32; at several, weights are rounded to bfloat16.
- int8 weights, one scale for each row: activations become integers of two signed bytes, -16256 to 16256 with one scale for each
  row (15 bits where other int8 products have 8), and their sums are exact. Up to 65,536 inputs.
- int4 weights, a scale and a zero for each 64 inputs: at one row as with int8; at several, weights become bfloat16.
"""

from enum import IntEnum

import torch

from openllama_cli.native import INT4_BLOCK, INT4_GROUP
from openllama_cli.native.library import call

_TYPES = (torch.bfloat16, torch.float16, torch.int8, torch.uint8)
# Beyond so many inputs the sums of int8 products do not fit 32 bits.
_MOST_INT8_INPUTS = 65_536


class Kind(IntEnum):
    """The types of weights, as `enum kind` in weights.h has them."""

    BFLOAT16 = 0
    FLOAT16 = 1
    INT8 = 2
    INT4 = 3


def product(
    kind: Kind, weight: torch.Tensor, scales: torch.Tensor | None, x: torch.Tensor, out: int, threads: int | None = None
) -> torch.Tensor:
    """[n, in] bfloat16 or float32 → [n, out] of the same type, x times the weights' transpose. Only where `library.usable`.

    weight: contiguous, on the CPU: [out, in], or uint8 [out, in' / 2] of int4 (see `pack_int4`). scales: float32 [out] of int8;
    bfloat16 [out, in' / 64, 2] of int4; see `check`. threads: as many as torch uses. Raises MemoryError, and ValueError for
    activations that do not fit the weights.
    """
    x = x.contiguous()
    rows, inputs = x.shape
    fits = inputs + -inputs % INT4_BLOCK == 2 * weight.shape[1] if kind == Kind.INT4 else inputs == weight.shape[1]
    if not fits or x.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"{inputs} {x.dtype} activations do not fit {kind.name} weights of {list(weight.shape)}")
    y = torch.empty(rows, out, dtype=x.dtype)
    call(
        "product",
        weight.data_ptr(),
        None if scales is None else scales.data_ptr(),
        x.data_ptr(),
        y.data_ptr(),
        rows,
        out,
        inputs,
        kind,
        x.dtype == torch.float32,
        work=out * inputs,
        threads=threads,
    )
    return y


def check(kind: Kind, weight: torch.Tensor, scales: torch.Tensor | None, out: int) -> None:
    """Raise ValueError for weights that `product` would read wrongly."""
    rows, columns = weight.shape
    shape: list[int] | None = {Kind.INT8: [out], Kind.INT4: [out, columns // 32, 2]}.get(kind)
    sound = weight.dtype == _TYPES[kind] and weight.is_contiguous() and weight.device.type == "cpu" and rows == out
    if shape is not None:
        wanted = torch.float32 if kind == Kind.INT8 else torch.bfloat16
        sound &= scales is not None and scales.dtype == wanted and list(scales.shape) == shape and scales.is_contiguous()
    if kind == Kind.INT4:
        sound &= columns % (INT4_BLOCK // 2) == 0
    if not sound or (kind == Kind.INT8 and columns > _MOST_INT8_INPUTS):
        raise ValueError(f"the kernels do not take {weight.dtype} weights of {[rows, columns]} as {kind.name}")


def pack_int4(levels: torch.Tensor) -> torch.Tensor:
    """Levels 0 … 15, [out, in] with in a multiple of 128 → uint8 [out, in / 2].

    Byte n of each 64 holds input n of 128 in its lower half, input 64 + n in the upper one.
    """
    halves = levels.to(torch.uint8).view(len(levels), -1, 2, INT4_GROUP)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)
