"""Matrix products with a layer's weights, each in the way that is fastest for its type and number of rows on a CPU.

At one row a product reads every weight once and computes next to nothing: what counts is memory speed. At many rows the
arithmetic counts. Which way is fastest depends on the processor; times below are of a 9600 x 3200 layer on 2 cores, and
`olc bench` measures whole models.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch.nn.functional import linear

from openllama_cli.native import library
from openllama_cli.native.products import Kind, check, product

# Weights of a float16 matrix that are converted at a time: the copies stay in the processor's cache.
_BLOCK_WEIGHTS = 400_000
# Up to so many weights a matrix-vector product takes less time than oneDNN needs to begin.
_SMALL = 300_000


class Linear(Protocol):
    """A layer's weights, [out, in], as a function: [n, in] → [n, out] of the same type."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x times the weights' transpose."""


class Linears(Protocol):
    """Several layers' weights that read the same input: [n, in] → one [n, out] for each."""

    def __call__(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """x times each of them."""


class Separate:
    """Matrices as they lie in the checkpoint. Copying them together gains nothing, and needs their memory again."""

    def __init__(self, *linears: Linear) -> None:
        self._linears = linears

    def __call__(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return [linear(x) for linear in self._linears]


class Fused:
    """Matrices stacked into one: quantized ones, since activations are then quantized once, and those on a GPU, since one
    large product reads memory faster than three small ones. sizes: rows of each.
    """

    def __init__(self, linear: Linear, sizes: Sequence[int]) -> None:
        self._linear, self._sizes = linear, list(sizes)

    def __call__(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return torch.split(self._linear(x), self._sizes, dim=-1)

    def stacked(self, x: torch.Tensor) -> torch.Tensor:
        """The products beside each other: [n, in] → [n, sum of sizes]."""
        return self._linear(x)


class DenseLinear:
    """Weights in the type that is computed in: float32 and bfloat16 on a CPU, any type on a GPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self._weight, self._bias)

    def added(self, sum_: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """sum_ + self(x), in one kernel if there is no bias."""
        total = torch.addmm(sum_, x, self._weight.T)
        return total if self._bias is None else total.add_(self._bias)


class TileLinear:
    """bfloat16 weights on a processor with AMX: the weights are the product's left operand, the activations its right one.

    oneDNN loads tiles of the left operand from its rows as they lie in the checkpoint, while it first rearranges the right
    one, at every call. With the weights on the right, as `linear` has them, that is what takes the time: 3.6 ms for 2 rows and
    9.5 for 64 against 2.7 and 5.9 this way. One row goes through twice, since a single one ends in a matrix-vector kernel
    that adds up 3 weights a nanosecond and core, half of what memory brings: 4.3 ms. Small matrices take that kernel all the
    same: oneDNN needs 30 microseconds to begin.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 1 and self._weight.numel() < _SMALL:
            with vector_products():
                return linear(x, self._weight, self._bias)
        columns = (torch.cat((x, x)) if len(x) == 1 else x).T  # [in, 2 or n]
        product = torch.mm(self._weight, columns).T[: len(x)]
        return product if self._bias is None else product + self._bias


class HalfLinear:
    """float16 weights on a CPU, as a checkpoint's file holds them: mapped, never copied whole.

    A float16 matrix-vector product runs at memory speed, but float16 matrix products are ten times slower than bfloat16
    ones; so several rows go through bfloat16 copies of some weight rows at a time. Activations are float32.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = weight
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 1:
            product = linear(x.half(), self._weight).float()
        else:
            narrow = x.bfloat16()
            blocks = [bfloat16_linear(rows)(narrow) for rows in bfloat16_blocks(self._weight)]
            product = torch.cat(blocks, dim=1).float()
        return product if self._bias is None else product + self._bias


class NativeLinear:
    """Weights for olc's own kernels; see `native.products`. bias: [out]. Raises ValueError for weights of another kind."""

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
        self._kind, self._weight, self._out, self._scales, self._bias = kind, weight, out, scales, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = product(self._kind, self._weight, self._scales, x, self._out)
        return y if self._bias is None else y + self._bias.to(x.dtype)


def bfloat16_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """The fastest product with bfloat16 weights on this processor."""
    if library.usable():
        return NativeLinear(Kind.BFLOAT16, weight, len(weight), bias=bias)
    return TileLinear(weight, bias) if library.has_amx() else DenseLinear(weight, bias)


def float16_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """The fastest product with float16 weights on a CPU, where they are. Activations are float32."""
    if library.usable():
        return NativeLinear(Kind.FLOAT16, weight, len(weight), bias=bias)
    return HalfLinear(weight, bias)


def bfloat16_blocks(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """A float16 matrix in bfloat16, some rows at a time; each block is overwritten by the next.

    By way of float32, since torch converts float16 to bfloat16 one number at a time: 38 ms against 12. Into the same memory
    again, since fresh memory costs more than the conversion.
    """
    rows = max(1, _BLOCK_WEIGHTS // weight.shape[1])
    wide = torch.empty(rows, weight.shape[1])
    narrow = torch.empty(rows, weight.shape[1], dtype=torch.bfloat16)
    for block in weight.split(rows):
        yield narrow[: len(block)].copy_(wide[: len(block)].copy_(block))


@contextmanager
def vector_products() -> Iterator[None]:
    """For one row on a CPU: bfloat16 matrix-vector products at memory speed, which oneDNN's run at half of."""
    if not torch.backends.mkldnn.is_available():
        yield
        return
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)
