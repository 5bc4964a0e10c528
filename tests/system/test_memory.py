"""Which exceptions say that memory ran out."""

import pytest
import torch

from openllama_cli.system.memory import is_out_of_memory


def test_memory_that_ran_out_is_known_by_the_exception() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(RuntimeError("unable to mmap 1024 bytes from file <x>: Cannot allocate memory (12)"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
