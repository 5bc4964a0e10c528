"""Matrix products with a layer's weights, for a few rows of activations.

With one row the weights are read once, at memory speed; torch's own operators reach half of that or less. With several rows
they are converted on the way, so that float16 and int4 weights cost what bfloat16 ones do; torch needs a converted copy.

- bfloat16 weights: float32 sums, of bfloat16 activations where the processor has BF16 or AMX, else of float32 ones.
- float16 weights: as they are, with float32 activations; but rounded to bfloat16 with several rows where there is BF16 or AMX.
- int8 weights, one scale per row: activations are quantized to integers, -16256 to 16256, with one scale per row (15 bits;
  others have 8). Sums are exact for up to 65,536 inputs.
- int4 weights, a scale and a zero point for every 64 inputs: activations as with int8; but weights become bfloat16 with several
  rows where there is AMX.
"""

from enum import IntEnum

import torch

from openllama_cli.native import INT4_BLOCK, INT4_GROUP
from openllama_cli.native.library import call

_TYPES = (torch.bfloat16, torch.float16, torch.int8, torch.uint8)
# With more inputs, sums of int8 products do not fit into 32 bits.
_MAX_INT8_INPUTS = 65_536


class Kind(IntEnum):
    """The types of weights, numbered as `enum kind` in weights.h."""

    BFLOAT16 = 0
    FLOAT16 = 1
    INT8 = 2
    INT4 = 3


def matmul(
    kind: Kind, weight: torch.Tensor, scales: torch.Tensor | None, x: torch.Tensor, out: int, threads: int | None = None
) -> torch.Tensor:
    """x @ weight.T: [n, in] bfloat16 or float32 → [n, out] of the same type. Only where `library.usable`.

    weight: contiguous, on the CPU: [out, in], or uint8 [out, in' / 2] for int4 (see `pack_int4`). scales: float32 [out] for
    int8; bfloat16 [out, in' / 64, 2] for int4; see `check`. threads: torch's number if None. Raises MemoryError, and ValueError
    for activations that do not fit the weights.
    """
    x = x.contiguous()
    rows, inputs = x.shape
    fits = inputs + -inputs % INT4_BLOCK == 2 * weight.shape[1] if kind == Kind.INT4 else inputs == weight.shape[1]
    if not fits or not inputs or x.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"{inputs} {x.dtype} activations do not fit {kind.name} weights of {list(weight.shape)}")
    y = torch.empty(rows, out, dtype=x.dtype)
    pointers = (weight.data_ptr(), None if scales is None else scales.data_ptr(), x.data_ptr(), y.data_ptr())
    is_float32 = x.dtype == torch.float32
    call("matmul", *pointers, rows, out, inputs, kind, is_float32, work=out * inputs, threads=threads)
    return y


def check(kind: Kind, weight: torch.Tensor, scales: torch.Tensor | None, out: int) -> None:
    """Raise ValueError for weights that `matmul` would misread."""
    rows, columns = weight.shape
    shape: list[int] | None = {Kind.INT8: [out], Kind.INT4: [out, columns // 32, 2]}.get(kind)
    valid = weight.dtype == _TYPES[kind] and weight.is_contiguous() and weight.device.type == "cpu" and rows == out
    if shape is not None:
        dtype = torch.float32 if kind == Kind.INT8 else torch.bfloat16
        valid &= scales is not None and scales.dtype == dtype and list(scales.shape) == shape and scales.is_contiguous()
    if kind == Kind.INT4:
        valid &= columns % (INT4_BLOCK // 2) == 0
    if not valid or (kind == Kind.INT8 and columns > _MAX_INT8_INPUTS):
        raise ValueError(f"the kernels do not accept {weight.dtype} weights of {[rows, columns]} as {kind.name}")


def pack_int4(levels: torch.Tensor) -> torch.Tensor:
    """Levels 0 … 15, [out, in] with in a multiple of 128 → uint8 [out, in / 2].

    Of 128 inputs, byte n holds input n in its lower half and input 64 + n in its upper half.
    """
    halves = levels.to(torch.uint8).view(len(levels), -1, 2, INT4_GROUP)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)
