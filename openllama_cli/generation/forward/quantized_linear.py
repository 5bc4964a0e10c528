"""Linear layers with int8 and int4 weights on a CPU: by olc's own kernels, or by torch's operators.

int8 weights are symmetric, w = scale * q, with one scale per row of the matrix. Activations are quantized dynamically, one
scale per token, and summed exactly in int32. olc's own kernels use activations of two bytes. Two of torch's operators use one
byte; each works on other processors, so they are probed before they are used. A third, correct everywhere, is the fallback.

int4 weights have groups of inputs that share a scale and a zero point: w = scale * (q - 8) + zero, q in 0 … 15, both bfloat16.
"""

import functools
import time
import timeit
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear, pad

from openllama_cli.generation.forward.linear import NativeLinear
from openllama_cli.native import library
from openllama_cli.native.matmul import Kind

_ZERO_POINT = 128
# Up to this batch size torch's weight-only int8 operator is faster than a matmul with converted weights.
_FEW_ROWS = 8
# That operator reads beyond the end of rows whose length is not a multiple of this, and crashes.
_STEP = 64
# Rows of a weight that are converted at a time: the copy stays in the processor's cache.
_BLOCK = 256
# Slowdown against a dense matmul that is accepted. The operators' scalar fallback loops are hundreds of times slower.
_MAX_SLOWDOWN = 4.0


class NativeInt8Linear(NativeLinear):
    """int8 weights for olc's own kernels, as stored in their file."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(Kind.INT8, weight, len(weight), scale.float().contiguous(), bias)


class TileInt8Linear:
    """int8 weights as the left operand of an integer matmul, as stored in their file: for processors with AMX.

    As in `linear.TileLinear`, the left operand needs no repacking. On 2 cores a 9600 x 3200 layer takes 1.9 ms for 1 row, 2.3
    ms for 16 and 4.4 ms for 64; `OnednnInt8Linear` takes 3.7, 3.7 and 5.4 ms, and copies the weights.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._scale, self._bias = weight.contiguous(), scale.float(), bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        levels, scale = quantize_rows(x, torch.int8)
        y = torch._int_mm(self._weight, levels.T).T * self._scale * scale
        if self._bias is not None:
            y += self._bias
        return y.to(x.dtype)


class OnednnInt8Linear:
    """int8 weights, copied into the layout of oneDNN's matmul with unsigned activations: for processors with VNNI.

    Activations are unsigned bytes around 128. This runs at memory speed for one row and twice as fast as bfloat16 for many,
    while signed activations end in a scalar loop. The operator is the x86 back end of torch's quantized models, but private,
    and without VNNI it may saturate.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._scale = scale.float().contiguous()
        # What the zero point of the activations adds to each sum, subtracted again.
        sums = torch.cat([rows.sum(1, dtype=torch.int32) for rows in weight.split(_BLOCK)])
        self._offset = sums.float() * self._scale * -_ZERO_POINT
        self._zero_points = torch.zeros(weight.shape[0], dtype=torch.int64)
        self._bias = bias
        self._packed = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        quantized, scale = quantize_rows(x, torch.uint8)
        # The operator's x_scale and x_zero_point are per tensor, not per row: both stay neutral and are applied afterwards.
        sums: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            *(quantized, 1.0, 0, self._packed, self._scale, self._zero_points, self._offset),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        y = sums * scale
        if self._bias is not None:
            y += self._bias
        return y.to(x.dtype)


class PlainInt8Linear:
    """int8 weights with unquantized activations, for processors on which integer matmuls are wrong or slow."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._scale, self._bias = weight.contiguous(), scale, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        scale = self._scale.to(x.dtype)
        if x.shape[0] <= _FEW_ROWS and x.shape[1] % _STEP == 0:
            y = torch._weight_int8pack_mm(x.contiguous(), self._weight, scale)
        else:
            blocks = [linear(x, rows.to(x.dtype)) for rows in self._weight.split(_BLOCK)]
            y = torch.cat(blocks, dim=1) * scale
        return y if self._bias is None else y + self._bias.to(x.dtype)


def quantize_rows(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, in] → bytes [n, in] and the scale of each row, float32 [n, 1].

    dtype: int8 for -127 to 127, or uint8 for the same around 128. A NaN becomes some byte, but its row's scale is NaN.
    """
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    levels = x * (127 / largest)
    # Adding a half and truncating rounds unsigned bytes.
    levels = levels.round_() if dtype == torch.int8 else levels.add_(_ZERO_POINT + 0.5)
    return levels.to(dtype), largest / 127


Int8Linear = NativeInt8Linear | TileInt8Linear | OnednnInt8Linear | PlainInt8Linear


@functools.cache
def int8_kind() -> type[Int8Linear]:
    """The first kind that is correct and fast on this processor, made of int8 [out, in], float32 scales [out] and a bias."""
    if library.usable():
        return NativeInt8Linear  # Correct by its tests, and fast by the instructions that it requires.
    candidates: tuple[type[Int8Linear], ...] = (TileInt8Linear, OnednnInt8Linear) if library.has_amx() else (OnednnInt8Linear,)
    return next((kind for kind in candidates if works(kind)), PlainInt8Linear)


def works(kind: type[Any]) -> bool:
    """Whether this torch has the operator and this processor computes it exactly and fast."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        return _is_exact(kind) and _is_fast(kind)
    except (AttributeError, RuntimeError, TypeError):
        return False  # In this torch the private operator is gone or has other arguments.


def _is_exact(kind: type[Any]) -> bool:
    """Against integer arithmetic, on random bytes and on the largest ones, where pairs overflow 16 bits without VNNI."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (5, 200), generator=generator).float()
    weight = torch.randint(-127, 128, (70, 200), generator=generator).to(torch.int8)
    x[:, 0] = 127  # The largest of every row, so that its scale is 1.
    x[0], weight[0], weight[1] = 127, 127, -127
    expected = (x.double() @ weight.double().T).float()
    layer = kind(weight, torch.ones(70))
    return all(torch.equal(layer(x[:rows]), expected[:rows]) for rows in (1, 5))


def _is_fast(kind: type[Any]) -> bool:
    """Against a dense matmul, for one row and for several.

    With one thread, by its processor time: on a busy machine threads wait for each other far longer than the matmul takes.
    """
    weight = torch.ones(1024, 1024, dtype=torch.int8)
    ours, dense_weight = kind(weight, torch.ones(1024)), weight.float()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inputs = [torch.ones(rows, 1024) for rows in (1, 16)]
        return all(
            _least_seconds(ours, x) < _MAX_SLOWDOWN * _least_seconds(lambda x: linear(x, dense_weight), x) for x in inputs
        )
    finally:
        torch.set_num_threads(threads)


def _least_seconds(function: Callable[[torch.Tensor], Any], x: torch.Tensor) -> float:
    return min(timeit.repeat(lambda: function(x), timer=time.thread_time, repeat=6, number=1))


class NativeInt4Linear(NativeLinear):
    """int4 weights in the layout of olc's own kernels. With several rows they are converted to bfloat16, tile by tile.

    parameters: bfloat16 [out, groups, 2], scales and zero points. bias: [out].
    """

    def __init__(self, packed: torch.Tensor, parameters: torch.Tensor, out: int, bias: torch.Tensor | None = None) -> None:
        super().__init__(Kind.INT4, packed, out, parameters.contiguous(), bias)


class Int4Linear:
    """int4 weights in the layout of torch's operator: [out', in' / 2] packed bytes, padded as it requires.

    Activations are bfloat16. Up to four rows it runs at memory speed, beyond that each row costs as much as the first;
    converting the weights to bfloat16 blocks with torch's operators was measured to take three to five times as long, even for
    64 rows. parameters: bfloat16 [groups, out', 2], scales and zero points. out: rows without padding. bias: [out].
    """

    def __init__(self, packed: torch.Tensor, parameters: torch.Tensor, out: int, bias: torch.Tensor | None = None) -> None:
        self._packed, self._parameters, self._bias = packed, parameters, bias
        self._out = out
        self._in = packed.shape[1] * 2
        self._group = self._in // parameters.shape[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        padded = x.bfloat16()
        if self._in != x.shape[1]:
            padded = pad(padded, (0, self._in - x.shape[1]))
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            padded.contiguous(), self._packed, self._group, self._parameters
        )[:, : self._out].to(x.dtype)
        return y if self._bias is None else y + self._bias.to(x.dtype)


def int4_works() -> bool:
    """Whether this torch has the int4 operator and this processor computes it correctly."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 16, (128, 192), generator=generator, dtype=torch.int32)
    scale, zero = torch.rand(2, 3, 128, generator=generator).bfloat16()
    x = torch.randn(5, 192, generator=generator).bfloat16()
    weight = ((levels.float() - 8).view(128, 3, 64) * scale.T[..., None].float() + zero.T[..., None].float()).flatten(1)
    try:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        y = Int4Linear(packed, torch.stack([scale, zero], dim=-1), 128)(x)
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = x.float() @ weight.T
    return bool((y.float() - expected).norm() < 0.02 * expected.norm())
