"""Asking the machine. Everything that looks at hardware, files or the environment is behind `Probe`; a test gives another."""

import os
from typing import Protocol

from openllama_cli.devices.machine import measure as measuring
from openllama_cli.devices.machine.accelerators import read_accelerators, read_nvidia, read_torch_build
from openllama_cli.devices.machine.cpu import read_cpu
from openllama_cli.devices.machine.facts import Facts, Measurement, TorchBuild
from openllama_cli.devices.machine.health import read_cache, read_checks, read_versions
from openllama_cli.system.progress import Progress

_BACKENDS = ("nccl", "gloo", "mpi", "ucc", "xccl")
# What changes how many threads torch takes, which GPUs it sees, or which of its kernels.
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


class Probe(Protocol):
    """What can be asked of a machine."""

    def facts(self) -> Facts:
        """Everything that is found without measuring. Never raises for a broken installation: that is a fact too."""

    def measure(self, device: str, free_bytes: int, progress: Progress, deadline: float) -> Measurement:
        """Test and time one device; see `measure.measure`."""


class MachineProbe:
    """This machine. Imports torch."""

    def facts(self) -> Facts:
        build = read_torch_build()
        nvidia = read_nvidia()
        with_torch = build.version is not None
        return Facts(
            versions=read_versions(build.version, build_name(build), nvidia.driver if nvidia else None),
            torch=build,
            cpu=read_cpu(with_torch=with_torch),
            accelerators=read_accelerators() if with_torch else (),
            nvidia=nvidia,
            backends=read_backends() if with_torch else dict.fromkeys(_BACKENDS, False),
            cache=read_cache(),
            checks=read_checks(),
            variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        )

    def measure(self, device: str, free_bytes: int, progress: Progress, deadline: float) -> Measurement:
        return measuring.measure(device, free_bytes=free_bytes, progress=progress, deadline=deadline)


def build_name(build: TorchBuild) -> str:
    """What a torch was built for, in words: "CPU", "CUDA 12.8", "ROCm 6.4"."""
    name = {"cpu": "CPU", "cuda": "CUDA", "rocm": "ROCm", "xpu": "XPU", "metal": "CPU and Metal"}[build.kind]
    return f"{name} {build.toolkit}" if build.toolkit else name


def read_backends() -> dict[str, bool]:
    """Which backends of torch.distributed this torch has."""
    from torch import distributed

    if not distributed.is_available():
        return dict.fromkeys(_BACKENDS, False)
    # xccl's question is newer than the rest.
    questions = {name: getattr(distributed, f"is_{name}_available", None) for name in _BACKENDS}
    return {name: bool(question is not None and question()) for name, question in questions.items()}
