"""Matrix products with a layer's weights, each in the way that is fastest for its type and number of rows on a CPU.

At one row a product reads every weight once and computes next to nothing: what counts is memory speed. At many rows the
arithmetic counts. Measured for a 9600 x 3200 layer on 2 cores with AVX512 and bfloat16: `olc bench` repeats it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch.nn.functional import linear

# Rows of a float16 weight that are converted at a time: their bfloat16 copy stays in the processor's cache.
_BLOCK = 512


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
    """Matrices stacked into one, as quantised ones are: the activations are quantised once. sizes: rows of each."""

    def __init__(self, linear: Linear, sizes: Sequence[int]) -> None:
        self._linear, self._sizes = linear, list(sizes)

    def __call__(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return torch.split(self._linear(x), self._sizes, dim=-1)


class DenseLinear:
    """Weights in the type that is computed in: float32 and bfloat16 on a CPU, any type on a GPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self._weight, self._bias)


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
            blocks = [linear(narrow, rows.bfloat16()) for rows in self._weight.split(_BLOCK)]
            product = torch.cat(blocks, dim=1).float()
        return product if self._bias is None else product + self._bias


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
