"""Marks of tests that need more than a processor, and the numbers that tests of arithmetic run on."""

import pytest
import torch

from openllama_cli.generation.forward.quantized_linear import int4_works
from openllama_cli.native import library

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and this machine has none for torch")
needs_kernels = pytest.mark.skipif(not library.usable(), reason="the kernels need an x86 processor with AVX2 and a C compiler")
needs_any_int4 = pytest.mark.skipif(not (library.usable() or int4_works()), reason="no int4 matmul works on this processor")


def random(*size: int, seed: int = 0) -> torch.Tensor:
    """Numbers of the normal distribution."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """How far from what is wanted, as a share of it."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())
