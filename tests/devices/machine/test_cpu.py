"""The processor of this machine, against what else tells of it."""

import dataclasses
import os
from pathlib import Path

import psutil
import pytest
import torch

from openllama_cli.devices.machine.cpu import read_cpu
from openllama_cli.devices.planning.memory import auto_dtype
from openllama_cli.native import library
from openllama_cli.native.sources import TIERS, Tier
from openllama_cli.system.device import choose_dtype
from tests.support.machines import CPU, facts


def test_cores_threads_and_memory_are_those_of_this_machine() -> None:
    cpu = read_cpu()
    assert cpu.logical_cores == os.cpu_count()
    assert 1 <= cpu.usable_cores <= cpu.physical_cores <= cpu.logical_cores
    assert cpu.threads == torch.get_num_threads()
    assert cpu.memory_total == psutil.virtual_memory().total
    assert 0 < cpu.memory_free <= cpu.memory_available < cpu.memory_total
    assert cpu.name
    assert cpu.kernels == torch.backends.cpu.get_cpu_capability()


@pytest.mark.parametrize(
    ("tiers", "opened", "told"),
    [(TIERS, library.Library(TIERS[0], {}, None), (True, "AMX")), (TIERS[3:], None, (False, None)), ((), None, (None, None))],
    ids=["run", "not compiled", "not for this processor"],
)
def test_own_kernels_are_of_interest_where_they_could_run(
    monkeypatch: pytest.MonkeyPatch,
    tiers: tuple[Tier, ...],
    opened: library.Library | None,
    told: tuple[bool | None, str],
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(library, "runnable", lambda: tiers)
    monkeypatch.setattr(library, "library", lambda: opened)
    cpu = read_cpu()
    assert (cpu.own_kernels, cpu.tier) == told
    assert read_cpu(with_torch=False).own_kernels is None


def test_a_wrong_name_of_kernels_is_a_fact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLC_KERNELS", "none such")
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    cpu = read_cpu()
    assert (cpu.own_kernels, cpu.tier) == (None, None)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="compares with /proc/cpuinfo")
def test_instruction_sets_agree_with_the_kernel_with_and_without_torch() -> None:
    cpu = read_cpu()
    assert cpu.instruction_sets == read_cpu(with_torch=False).instruction_sets
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert ("avx2" in cpu.instruction_sets) == ("avx2" in words)


def test_the_automatic_type_is_the_one_that_loading_takes() -> None:
    here = facts(cpu=read_cpu())
    for stored in ("float32", "float16", "bfloat16"):
        for mapped in (False, True):
            chosen = choose_dtype("auto", stored, torch.device("cpu"), mapped=mapped, kernels=library.usable())
            assert f"torch.{auto_dtype(stored, here, mapped=mapped)}" == str(chosen)


@pytest.mark.parametrize(
    ("changes", "cores"),
    [
        ({}, 8),
        ({"allowed_cores": 4}, 4),
        ({"cpu_limit": 2.0}, 2),
        ({"cpu_limit": 1.5}, 2),
        ({"cpu_limit": 0.25}, 1),
        ({"cpu_limit": 64.0}, 8),
    ],
)
def test_usable_cores_are_physical_ones_that_affinity_and_container_grant(changes: dict[str, float], cores: int) -> None:
    assert dataclasses.replace(CPU, **changes).usable_cores == cores  # type: ignore[arg-type]


def test_free_memory_is_what_the_container_has_left() -> None:
    assert CPU.memory_free == CPU.memory_available
    assert dataclasses.replace(CPU, memory_limit=8, memory_left=3).memory_free == 3
