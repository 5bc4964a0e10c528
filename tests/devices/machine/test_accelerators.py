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
PROC_OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)\n"


def test_nvidia_smi_names_driver_cuda_and_gpus() -> None:
    assert parse_nvidia_smi(LISTING, BANNER) == Nvidia("535.183.01", "12.2", ("NVIDIA GeForce RTX 3090", "Tesla T4"))
    assert parse_nvidia_smi(LISTING, "").cuda is None


@pytest.mark.parametrize(("text", "driver"), [(PROC, "470.256.02"), (PROC_OPEN, "570.86.15"), ("new words", "unknown")])
def test_without_nvidia_smi_the_kernel_module_tells_the_driver(tmp_path: Path, text: str, driver: str) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    assert read_nvidia(tmp_path) == Nvidia(driver, None, ())


def test_a_device_file_alone_is_a_gpu_that_a_container_was_given(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert read_nvidia(tmp_path) == Nvidia("unknown", None, ("nvidia0",))


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x10de", "0x030000", True),
        ("0x10de", "0x030200", True),
        ("0x10de", "0x040300", False),  # Its sound.
        ("0x8086", "0x030000", False),
    ],
)
def test_a_gpu_on_the_bus_without_a_driver_is_found(tmp_path: Path, vendor: str, kind: str, found: bool) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    (device.parent / "0000:02:00.0").mkdir()
    assert read_nvidia(tmp_path) == (Nvidia(None, None, ()) if found else None)


def test_a_machine_without_nvidia_has_none(tmp_path: Path) -> None:
    assert read_nvidia(tmp_path) is None


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
