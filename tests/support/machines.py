"""Machines that we do not have, as probes: facts and measurements made up, everything else real."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from openllama_cli.devices.machine.facts import (
    Accelerator,
    Cache,
    Check,
    Cpu,
    DtypeResult,
    Facts,
    Measurement,
    Nvidia,
    TorchBuild,
)
from openllama_cli.devices.machine.probe import MachineProbe
from openllama_cli.system.progress import Progress

GB = 10**9

CPU = Cpu(
    name="Made-up Processor",
    architecture="x86_64",
    physical_cores=8,
    logical_cores=16,
    allowed_cores=16,
    cpu_limit=None,
    threads=8,
    instruction_sets=("avx2", "avx512", "avx512_bf16"),
    kernels="AVX512",
    memory_total=64 * GB,
    memory_available=60 * GB,
)
OLD_CPU = dataclasses.replace(CPU, instruction_sets=("avx2",), kernels="AVX2")


def cpu_with(memory_gb: float, base: Cpu = CPU, **changes: Any) -> Cpu:
    """A processor with this much memory, all of it available."""
    memory = int(memory_gb * GB)
    return dataclasses.replace(base, memory_total=memory, memory_available=memory, **changes)


CACHE = Cache("/cache/hub", True, True, 500 * GB, 0, None, (), None, None, "https://huggingface.co")
CHECKS = tuple(Check(name, True, "works") for name in ("sentencepiece", "protobuf", "demo model"))
CPU_BUILD = TorchBuild("2.13.0+cpu")
CUDA_BUILD = TorchBuild("2.13.0", "cuda", "12.8", ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"))
GOOD = DtypeResult(True, 1e-4, True, 64, 300.0, 20.0, 20.0)


def gpu(index: int = 0, *, free: float, total: float | None = None, capability: str = "8.6") -> Accelerator:
    """A CUDA GPU with memory in GB."""
    return Accelerator(f"cuda:{index}", "NVIDIA Made-up", capability, int((total or free) * GB), int(free * GB))


def mps(cpu: Cpu = OLD_CPU) -> Accelerator:
    """Apple's GPU, which shares the computer's memory."""
    return Accelerator("mps", "Apple GPU", None, cpu.memory_total * 3 // 4, cpu.memory_available, shares_memory=True)


def measurement(bandwidth: float = 20.0, **results: DtypeResult) -> Measurement:
    """Every type right, but for those given."""
    return Measurement(bandwidth, dict.fromkeys(("float32", "float16", "bfloat16"), GOOD) | results, 1.0)


def facts(*accelerators: Accelerator, **changes: Any) -> Facts:
    """A sound machine with these GPUs, but for what is given."""
    with_cuda = any(found.device.startswith("cuda") for found in accelerators)
    cuda = Nvidia("570.86", "12.8", tuple(found.name for found in accelerators)) if with_cuda else None
    sound = Facts(
        versions={"olc": "1", "torch": "2.13.0"},
        torch=CUDA_BUILD if with_cuda else CPU_BUILD,
        cpu=CPU,
        accelerators=accelerators,
        nvidia=cuda,
        backends={"gloo": True, "nccl": with_cuda},
        cache=CACHE,
        checks=CHECKS,
    )
    return dataclasses.replace(sound, **changes)


@dataclass
class FakeProbe(MachineProbe):
    """A probe of a made-up machine. measured: devices in the order in which they were asked for."""

    found: Facts
    results: dict[str, Measurement] = field(default_factory=dict)
    measured: list[str] = field(default_factory=list)

    def facts(self) -> Facts:
        return self.found

    def measure(self, device: str, free_bytes: int, progress: Progress, deadline: float) -> Measurement:
        self.measured.append(device)
        return self.results.get(device, measurement())
