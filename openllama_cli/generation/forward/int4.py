"""Products with int4 weights on a CPU: by olc's own kernels, or by torch's operator for them.

Weights are in groups of inputs that share a scale and a zero: w = scale * (q - 8) + zero, q in 0 … 15, both bfloat16.
"""

import torch
from torch.nn.functional import pad

from openllama_cli.generation.forward.linear import NativeLinear
from openllama_cli.native.products import Kind


class NativeInt4Linear(NativeLinear):
    """int4 weights in the layout of olc's own kernels. Products of several rows go through bfloat16, tile by tile.

    parameters: bfloat16 [out, groups, 2], the scales and zeros. bias: [out].
    """

    def __init__(self, packed: torch.Tensor, parameters: torch.Tensor, out: int, bias: torch.Tensor | None = None) -> None:
        super().__init__(Kind.INT4, packed, out, parameters.contiguous(), bias)


class Int4Linear:
    """int4 weights in the layout of torch's operator, [out', in' / 2] packed bytes, filled up to what it takes.

    It takes bfloat16 activations. Up to four rows it runs at memory speed, beyond that it is as slow per row as one; converting
    the weights to bfloat16 first, in blocks with torch's operators, was measured at three to five times its time, even for 64
    rows. parameters: bfloat16 [groups, out', 2], the scales and zeros. out: rows that are weights. bias: [out].
    """

    def __init__(self, packed: torch.Tensor, parameters: torch.Tensor, out: int, bias: torch.Tensor | None = None) -> None:
        self._packed, self._parameters, self._bias = packed, parameters, bias
        self._out = out
        self._in = packed.shape[1] * 2
        self._group = self._in // parameters.shape[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        narrow = x.bfloat16()
        if self._in != x.shape[1]:
            narrow = pad(narrow, (0, self._in - x.shape[1]))
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            narrow.contiguous(), self._packed, self._group, self._parameters
        )[:, : self._out].to(x.dtype)
        return product if self._bias is None else product + self._bias.to(x.dtype)


def int4_works() -> bool:
    """Whether this torch on this processor has the operator, and it computes what it should."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 16, (128, 192), generator=generator, dtype=torch.int32)
    scale, zero = torch.rand(2, 3, 128, generator=generator).bfloat16()
    x = torch.randn(5, 192, generator=generator).bfloat16()
    weight = ((levels.float() - 8).view(128, 3, 64) * scale.T[..., None].float() + zero.T[..., None].float()).flatten(1)
    try:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        product = Int4Linear(packed, torch.stack([scale, zero], dim=-1), 128)(x)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    expected = x.float() @ weight.T
    return bool((product.float() - expected).norm() < 0.02 * expected.norm())
