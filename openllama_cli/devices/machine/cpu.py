"""The processor: its name, cores, instruction sets and memory, as the system and torch tell them."""

import contextlib
import os
import platform
import subprocess

from openllama_cli.devices.machine.facts import Cpu
from openllama_cli.errors import OlcError
from openllama_cli.system.cgroup import limits
from openllama_cli.system.device import cpu_instructions, cpuinfo

# Instruction sets that matter for matmul.
_INSTRUCTIONS = (
    *("avx2", "avx512", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx10_2", "amx_bf16", "amx_fp16", "amx_int8"),
    *("neon", "fp16", "bf16", "i8mm", "sve", "sme"),
)
# How torch.cpu.get_capabilities and /proc/cpuinfo call some of them.
_ALIASES = {"avx512_f": "avx512", "avx512f": "avx512", "asimd": "neon", "fp16_arith": "fp16", "asimdhp": "fp16"}
_ALIASES |= {"sve_bf16": "bf16", "svebf16": "bf16"}
# Any of these multiplies float16 matrices without converting each number first.
FLOAT16 = frozenset({"avx512_fp16", "avx10_2", "amx_fp16", "fp16"})


def read_cpu(*, with_torch: bool = True) -> Cpu:
    """Read this machine's processor and memory. with_torch: also torch's threads and kernels."""
    import psutil

    memory = psutil.virtual_memory()
    granted = limits()
    limited = granted.memory is not None and granted.memory < memory.total
    logical = os.cpu_count() or 1
    threads: int | None = None
    kernels: str | None = None
    own_kernels: bool | None = None
    tier: str | None = None
    words = cpu_instructions() if with_torch else cpuinfo("flags", "Features").split()
    known = {_ALIASES.get(name, name) for name in words}
    if with_torch:
        import torch

        from openllama_cli.native import library

        threads, kernels = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
        with contextlib.suppress(OlcError):  # Of OLC_KERNELS, which a command that computes tells.
            if found := library.library():
                own_kernels, tier = True, found.tier.label
            elif library.runnable() and platform.system() == "Linux" and "OLC_KERNELS" not in os.environ:
                own_kernels = False
    return Cpu(
        name=_name(),
        architecture=platform.machine(),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        allowed_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical,
        cpu_limit=granted.cpus,
        threads=threads,
        instruction_sets=tuple(name for name in _INSTRUCTIONS if name in known),
        kernels=kernels,
        memory_total=memory.total,
        memory_available=memory.available,
        memory_limit=granted.memory if limited else None,
        memory_left=max(0, granted.memory - (granted.memory_used or 0)) if limited and granted.memory is not None else None,
        own_kernels=own_kernels,
        tier=tier,
    )


def answer(*command: str) -> str:
    """What a program prints; "" if it is not there, fails, or takes more than ten seconds."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def _name() -> str:
    """What the processor calls itself."""
    if platform.system() == "Darwin":
        return answer("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    return cpuinfo("model name", "Model") or platform.processor() or platform.machine()
