"""GPUs: what the system says of them, what torch has kernels for, and that asking does no harm without one."""

from pathlib import Path

import pytest
import torch

from openllama_cli.devices.machine.accelerators import (
    cuda_kernels_run,
    parse_nvidia_smi,
    read_accelerators,
    read_nvidia,
    read_torch_build,
)
from openllama_cli.devices.machine.facts import Nvidia

LISTING = "NVIDIA GeForce RTX 3090, 535.183.01\nTesla T4, 535.183.01\n"
BANNER = """
+---------------------------------------------------------------------------------------+
| NVIDIA-SMI 535.183.01             Driver Version: 535.183.01   CUDA Version: 12.2     |
|-----------------------------------------+----------------------+----------------------+
"""
PROC = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""
BUS = "sys/bus/pci/devices/0000:01:00.0"
PROC_OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)\n"


def test_nvidia_smi_names_driver_cuda_and_gpus() -> None:
    assert parse_nvidia_smi(LISTING, BANNER) == Nvidia("535.183.01", "12.2", ("NVIDIA GeForce RTX 3090", "Tesla T4"))
    assert parse_nvidia_smi(LISTING, "").cuda is None


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, None),
        ({"proc/driver/nvidia/version": PROC}, Nvidia("470.256.02", None, ())),
        ({"proc/driver/nvidia/version": PROC_OPEN}, Nvidia("570.86.15", None, ())),
        ({"proc/driver/nvidia/version": "new words"}, Nvidia("unknown", None, ())),
        # What a container was given.
        ({"dev/nvidia0": ""}, Nvidia("unknown", None, ("nvidia0",))),
        ({f"{BUS}/vendor": "0x10de\n", f"{BUS}/class": "0x030000\n"}, Nvidia(None, None, ())),
        ({f"{BUS}/vendor": "0x10de\n", f"{BUS}/class": "0x030200\n"}, Nvidia(None, None, ())),
        ({f"{BUS}/vendor": "0x10de\n", f"{BUS}/class": "0x040300\n"}, None),  # Its sound.
        ({f"{BUS}/vendor": "0x8086\n", f"{BUS}/class": "0x030000\n"}, None),
        ({f"{BUS}/vendor": "0x10de\n"}, None),
    ],
)
def test_without_nvidia_smi_the_system_tells_of_gpus(tmp_path: Path, files: dict[str, str], found: Nvidia | None) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert read_nvidia(tmp_path) == found


@pytest.mark.parametrize(
    ("capability", "arch_list", "runs"),
    [
        ("8.6", ("sm_75", "sm_80", "sm_90"), True),  # 8.0's kernels run on 8.6.
        ("8.6", ("sm_75", "sm_89", "sm_90"), False),
        ("3.7", ("sm_50", "sm_80"), False),
        ("12.0", ("sm_90", "compute_90"), True),  # Portable kernels run on all newer ones.
        ("7.5", ("sm_80", "compute_80"), False),
        ("9.0", ("sm_90a",), True),
        ("10.0", ("sm_90a", "compute_90a"), False),
        ("10.3", ("sm_100",), True),
        ("6.1", ("sm_50", "sm_60", "sm_70"), True),
        ("9.0", (), True),  # Nothing said.
    ],
)
def test_kernels_run_on_the_gpus_that_cuda_says(capability: str, arch_list: tuple[str, ...], runs: bool) -> None:
    assert cuda_kernels_run(capability, arch_list) == runs


def test_this_torch_is_described() -> None:
    build = read_torch_build()
    assert build.version == torch.__version__
    assert (build.kind == "cuda") == (torch.version.cuda is not None)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_none_is_found() -> None:
    assert read_accelerators() == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpus_have_memory_and_kernels() -> None:
    for gpu in read_accelerators():
        assert 0 < gpu.memory_free <= gpu.memory_total
        assert gpu.capability is not None
        assert cuda_kernels_run(gpu.capability, read_torch_build().arch_list)
