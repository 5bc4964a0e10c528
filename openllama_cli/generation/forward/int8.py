"""Products with int8 weights on a CPU.

Weights are symmetric, w = scale * q with one scale for each row of the matrix. Activations are quantized as they come, one
scale for each token, and the products of bytes are summed in int32, exactly. olc's own kernels do that with activations of two
bytes; two of torch's operators with one byte, each on other processors, so they are probed before they are used; a third one,
which is right everywhere, is the fallback.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear

from openllama_cli.generation.forward.linear import NativeLinear
from openllama_cli.native import library
from openllama_cli.native.products import Kind

_ZERO_POINT = 128
# Up to so many rows torch's own int8 product is faster than making bfloat16 weights and multiplying with them.
_FEW_ROWS = 8
# Its vector loops read beyond the end of rows whose length is no multiple of their step, and crash.
_STEP = 64
# Rows of a weight that are converted at a time: their copy stays in the processor's cache.
_BLOCK = 256
# The operators' reference loops are hundreds of times slower than a dense product, the real ones never slower than this.
_SLOWEST = 4.0


def int8_linear(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> "Int8Linear":
    """The fastest right product on this machine. weight: int8 [out, in]; scale: float32 [out]; bias: [out].

    copied: the weight was copied into oneDNN's own layout, and the one given is not used again.
    """
    return int8_kind()(weight, scale, bias)


class NativeInt8Linear(NativeLinear):
    """int8 weights for olc's own kernels, as they lie in their file."""

    copied = False

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(Kind.INT8, weight, len(weight), scale.float().contiguous(), bias)


class TileInt8Linear:
    """int8 weights as the left operand of an integer product, as they lie in their file: for processors with AMX.

    As with `kernels.TileLinear`, the left operand needs no rearranging. On 2 cores a 9600 x 3200 layer takes 1.9 ms for 1 row,
    2.3 for 16 and 4.4 for 64, against 3.7, 3.7 and 5.4 of `OnednnInt8Linear`, whose copy of the weights it does not make.
    """

    copied = False

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._scale, self._bias = weight.contiguous(), scale.float(), bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        levels, scale = quantize_rows(x, torch.int8)
        product = torch._int_mm(self._weight, levels.T).T * self._scale * scale
        if self._bias is not None:
            product += self._bias
        return product.to(x.dtype)


class OnednnInt8Linear:
    """int8 weights, packed for oneDNN's product with unsigned bytes: for processors with VNNI instructions.

    Activations are unsigned bytes around 128: this product runs at memory speed for one row and at twice bfloat16's for many,
    while the one of signed activations falls into a reference loop. The operator is torch's own (the x86 back end of its
    quantized models) but private; without VNNI instructions it may also saturate.
    """

    copied = True

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._scale = scale.float().contiguous()
        # What the zero point of the activations adds to each sum, taken off again.
        sums = torch.cat([rows.sum(1, dtype=torch.int32) for rows in weight.split(_BLOCK)])
        self._offset = sums.float() * self._scale * -_ZERO_POINT
        self._zero_points = torch.zeros(weight.shape[0], dtype=torch.int64)
        self._bias = bias
        self._packed = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        quantized, scale = quantize_rows(x, torch.uint8)
        # x_scale and x_zero_point hold for all rows, so both are left neutral and applied outside.
        sums = _product(quantized, self._packed, self._scale, self._zero_points, self._offset)
        product = sums * scale
        if self._bias is not None:
            product += self._bias
        return product.to(x.dtype)


class PlainInt8Linear:
    """int8 weights with unquantized activations, for processors on which integer products are wrong or slow."""

    copied = False

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._scale, self._bias = weight.contiguous(), scale, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        scale = self._scale.to(x.dtype)
        if x.shape[0] <= _FEW_ROWS and x.shape[1] % _STEP == 0:
            product = torch._weight_int8pack_mm(x.contiguous(), self._weight, scale)
        else:
            blocks = [linear(x, rows.to(x.dtype)) for rows in self._weight.split(_BLOCK)]
            product = torch.cat(blocks, dim=1) * scale
        return product if self._bias is None else product + self._bias.to(x.dtype)


def quantize_rows(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, in] → bytes [n, in], and what a step of each row is worth, float32 [n, 1].

    dtype: int8, for -127 to 127, or uint8, for the same around 128. A NaN becomes some byte, but its row's scale stays NaN.
    """
    wide = x.float()
    largest = wide.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    levels = wide * (127 / largest)
    # For unsigned bytes, adding a half and cutting off rounds.
    levels = levels.round_() if dtype == torch.int8 else levels.add_(_ZERO_POINT + 0.5)
    return levels.to(dtype), largest / 127


def _product(
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zero_points: torch.Tensor, offset: torch.Tensor
) -> torch.Tensor:
    product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, packed, scale, zero_points, offset, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


Int8Linear = NativeInt8Linear | TileInt8Linear | OnednnInt8Linear | PlainInt8Linear


@functools.cache
def int8_kind() -> type[Int8Linear]:
    """The first product that is right and fast on this processor, of those that suit it."""
    candidates: list[type[Any]] = [OnednnInt8Linear]
    if library.has_amx():
        candidates.insert(0, TileInt8Linear)
    if library.usable():
        return NativeInt8Linear  # Known to be right, and by the instructions that it needs to be fast.
    return next((kind for kind in candidates if works(kind)), PlainInt8Linear)


def works(kind: type[Any]) -> bool:
    """Whether this torch on this processor has the product's operator, right to the last unit, and fast."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        return _is_right(kind) and _is_fast(kind)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False  # Another torch, in which the private operator is gone or takes other arguments.


def _is_right(kind: type[Any]) -> bool:
    """Against sums in integers, on random bytes and on the largest ones, where pairs overflow 16 bits without VNNI."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (5, 200), generator=generator).float()
    weight = torch.randint(-127, 128, (70, 200), generator=generator).to(torch.int8)
    x[:, 0] = 127  # The largest of every row, so that a step is worth 1.
    x[0], weight[0], weight[1] = 127, 127, -127
    expected = (x.double() @ weight.double().T).float()
    product = kind(weight, torch.ones(70))
    return all(torch.equal(product(x[:rows]), expected[:rows]) for rows in (1, 5))


def _is_fast(kind: type[Any]) -> bool:
    """Against a dense product, for one row and for several.

    By one thread, in its own processor time: where other programs want the cores, threads wait for each other far longer than
    these products take.
    """
    weight = torch.ones(1024, 1024, dtype=torch.int8)
    ours, dense = kind(weight, torch.ones(1024)), functools.partial(_dense, weight.float())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inputs = [torch.ones(rows, 1024) for rows in (1, 16)]
        return all(_least_seconds(ours, x) < _SLOWEST * _least_seconds(dense, x) for x in inputs)
    finally:
        torch.set_num_threads(threads)


def _dense(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return linear(x, weight)


def _least_seconds(function: Callable[[torch.Tensor], Any], x: torch.Tensor) -> float:
    times = []
    for _ in range(6):
        started = time.thread_time()
        function(x)
        times.append(time.thread_time() - started)
    return min(times)
