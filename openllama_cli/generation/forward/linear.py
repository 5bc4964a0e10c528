"""Linear layers with unquantized weights, each in the way that is fastest for its dtype and batch size on a CPU.

With one row the layer is bound by memory: every weight is read once and little is computed. With many rows it is bound by
arithmetic. Which way is fastest depends on the processor; times below are for a 9600 x 3200 layer on 2 cores, and `olc bench`
measures complete models.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.functional import linear

from openllama_cli.native import library
from openllama_cli.native.decoder import Matrix
from openllama_cli.native.matmul import Kind, check, matmul

# Elements of a float16 matrix that are converted at a time: the copies stay in the processor's cache.
_BLOCK_WEIGHTS = 400_000
# Up to this many weights a matrix-vector product takes less time than oneDNN's overhead.
_SMALL = 300_000


# A linear layer with weights [out, in]: [n, in] → [n, out] of the same dtype, x @ weight.T + bias.
Linear = Callable[[torch.Tensor], torch.Tensor]
# Several linear layers with the same input: [n, in] → one [n, out] each.
Linears = Callable[[torch.Tensor], Sequence[torch.Tensor]]


class Separate:
    """One matmul per layer, on the checkpoint's own matrices: on a CPU fusing them gains nothing and needs a copy."""

    def __init__(self, *linears: Linear) -> None:
        self.linears = linears

    def __call__(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return [linear(x) for linear in self.linears]


class Fused:
    """Layers fused into one matmul: with quantized weights, so that activations are quantized once; on a GPU, since one large
    matmul reads memory faster than three small ones. sizes: rows of each.
    """

    def __init__(self, linear: Linear, sizes: Sequence[int]) -> None:
        self.linears, self._sizes = (linear,), list(sizes)

    def __call__(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return torch.split(self.concatenated(x), self._sizes, dim=-1)

    def concatenated(self, x: torch.Tensor) -> torch.Tensor:
        """All outputs concatenated: [n, in] → [n, sum of sizes]."""
        return self.linears[0](x)


class DenseLinear:
    """torch's own linear layer: float32 and bfloat16 on a CPU, any dtype on a GPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self._weight, self._bias)

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """residual + self(x), in one kernel if there is no bias."""
        total = torch.addmm(residual, x, self._weight.T)
        return total if self._bias is None else total.add_(self._bias)


class TileLinear(DenseLinear):
    """bfloat16 weights on a processor with AMX, as the left operand of the matmul instead of the right one.

    oneDNN loads tiles of the left operand directly from row-major memory, but repacks the right one at every call. With the
    weights on the right, as in `linear`, repacking dominates: 3.6 ms for 2 rows and 9.5 ms for 64, against 2.7 and 5.9 ms this
    way. A single row is duplicated, since it would be sent to a matrix-vector kernel that processes 3 weights per nanosecond
    and core, half of memory speed: 4.3 ms. Small matrices use that kernel all the same, since oneDNN has 30 microseconds of
    overhead.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 1 and self._weight.numel() < _SMALL:
            with onednn_disabled():
                return super().__call__(x)
        columns = (torch.cat((x, x)) if len(x) == 1 else x).T  # [in, 2 or n]
        y = torch.mm(self._weight, columns).T[: len(x)]
        return y if self._bias is None else y + self._bias


class HalfLinear:
    """float16 weights on a CPU, mapped from the checkpoint's file and never copied as a whole.

    A float16 matrix-vector product runs at memory speed, but float16 matmuls are ten times slower than bfloat16 ones, so with
    several rows the weights are converted to bfloat16, block by block. Activations are float32.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = weight
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 1:
            y = linear(x.half(), self._weight).float()
        else:
            x = x.bfloat16()
            y = torch.cat([bfloat16_linear(rows)(x) for rows in bfloat16_blocks(self._weight)], dim=1).float()
        return y if self._bias is None else y + self._bias


class NativeLinear:
    """Weights for olc's own kernels; see `native.matmul`. bias: [out]. Raises ValueError for weights that are not of `kind`."""

    def __init__(
        self,
        kind: Kind,
        weight: torch.Tensor,
        out: int,
        scales: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> None:
        weight = weight.contiguous()
        check(kind, weight, scales, out)
        self.matrix, self.bias = Matrix(kind, weight, scales, out), bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = matmul(self.matrix.kind, self.matrix.weight, self.matrix.scales, x, self.matrix.out)
        return y if self.bias is None else y + self.bias.to(x.dtype)


def bfloat16_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """The fastest linear layer with bfloat16 weights on this processor."""
    if library.usable():
        return NativeLinear(Kind.BFLOAT16, weight, len(weight), bias=bias)
    return TileLinear(weight, bias) if library.has_amx() else DenseLinear(weight, bias)


def float16_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """The fastest linear layer with float16 weights on a CPU, in place. Activations are float32."""
    if library.usable():
        return NativeLinear(Kind.FLOAT16, weight, len(weight), bias=bias)
    return HalfLinear(weight, bias)


def bfloat16_blocks(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """A float16 matrix converted to bfloat16 block by block; each block overwrites the one before.

    Through float32, since torch converts float16 to bfloat16 without vector instructions: 38 ms against 12 ms. Memory is
    reused, since allocating it costs more than the conversion.
    """
    rows = max(1, _BLOCK_WEIGHTS // weight.shape[1])
    as_float32 = torch.empty(rows, weight.shape[1])
    as_bfloat16 = torch.empty(rows, weight.shape[1], dtype=torch.bfloat16)
    for block in weight.split(rows):
        yield as_bfloat16[: len(block)].copy_(as_float32[: len(block)].copy_(block))


@contextmanager
def onednn_disabled() -> Iterator[None]:
    """For one row on a CPU: torch's own bfloat16 matrix-vector product runs at memory speed, oneDNN's at half of it."""
    if not torch.backends.mkldnn.is_available():
        yield
        return
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)
