"""Devices, types and memory: what `--device` and `--dtype` come to on this machine."""

import re
import sys
from pathlib import Path

import pytest
import torch

from openllama_cli.errors import OlcError
from openllama_cli.system import device as system
from openllama_cli.system import memory
from openllama_cli.system.cgroup import Limits
from openllama_cli.system.device import DtypeName, auto_dtype, choose_dtype, cpu_instructions, has_bfloat16, main_device

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_auto_type_is_the_stored_one_on_a_gpu_and_the_fast_one_on_a_cpu_and_another_is_used_as_it_is(name: DtypeName) -> None:
    assert choose_dtype("auto", name, GPU) == getattr(torch, name)
    assert choose_dtype("auto", name, CPU) == (torch.bfloat16 if has_bfloat16(cpu_instructions()) else torch.float32)
    assert choose_dtype(name, "bfloat16", CPU) == choose_dtype(name, "bfloat16", GPU) == getattr(torch, name)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="compares with /proc/cpuinfo")
def test_bfloat16_of_the_processor_agrees_with_the_kernel() -> None:
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert has_bfloat16(cpu_instructions()) == bool(words & {"avx512_bf16", "amx_bf16", "avx10_2", "bf16", "svebf16"})


def test_bfloat16_is_found_without_the_newer_probe_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = has_bfloat16(cpu_instructions())
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_bfloat16(cpu_instructions.__wrapped__()) == (found if sys.platform == "linux" else False)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert main_device("auto") == main_device("cpu") == CPU


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3", "mps"])
def test_asking_for_a_gpu_that_is_not_there_names_this_torch(device: str) -> None:
    with pytest.raises(OlcError, match=f"^--device {device}.* torch {re.escape(torch.__version__)}") as caught:
        main_device(device)
    assert "--device auto" in caught.value.remedy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_is_not_there_is_named_with_those_that_are() -> None:
    assert main_device("cuda") == GPU
    with pytest.raises(OlcError, match="cuda:99 does not exist: torch sees cuda:0"):
        main_device("cuda:99")


@pytest.mark.parametrize("instruction", ["avx512_bf16", "bf16", "sve_bf16", "svebf16"])
def test_large_float16_weights_may_stay_as_they_are_for_one_row(instruction: str) -> None:
    assert auto_dtype("float16", "cpu", [instruction], mapped=True) == "float16"
    assert auto_dtype("float16", "cpu", [instruction]) == "bfloat16"
    assert auto_dtype("float32", "cpu", [instruction], mapped=True) == "bfloat16"
    assert choose_dtype("float32", "float16", CPU, mapped=True) == torch.float32
    # Without bfloat16 instructions several rows would have nowhere to go.
    assert auto_dtype("float16", "cpu", ["avx2"], mapped=True) == "float32"


def test_a_container_grants_less_memory_than_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    free = system.free_bytes(CPU)
    assert free > 10**6
    for granted, expected in (
        (Limits(memory=3000, memory_used=1000), 2000),
        (Limits(memory=3000, memory_used=4000), 0),
        (Limits(memory=1 << 59, memory_used=0), None),
    ):
        monkeypatch.setattr(memory, "limits", lambda granted=granted: granted)
        found = system.free_bytes(CPU)
        assert found == expected if expected is not None else found > 10**6
