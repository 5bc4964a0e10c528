"""Marks of tests that need more than a processor, and the numbers that tests of arithmetic run on."""

import pytest
import torch

from openllama_cli.native import library

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and this machine has none for torch")
needs_kernels = pytest.mark.skipif(not library.usable(), reason="the kernels need a processor with AMX and a C compiler")


def random(*size: int, seed: int = 0) -> torch.Tensor:
    """Numbers of the normal distribution."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))
