"""The device that computes and the type it computes in: what `--device` and `--dtype` mean on this machine."""

import functools
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from openllama_cli.errors import OlcError, first_line
from openllama_cli.system.importing import importing
from openllama_cli.system.memory import free_memory

if TYPE_CHECKING:
    import torch

DtypeName = Literal["auto", "float32", "float16", "bfloat16"]


def main_device(requested: str) -> "torch.device":
    """The device that computes: what `--device` names, and for "auto" the accelerator if there is one, else the CPU.

    Raises OlcError if the named device is not there, saying what this torch was built for.
    """
    with importing("torch"):  # Mostly the first use of torch.
        import torch

    if requested == "auto":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # An unusable driver only means the CPU here.
            accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator
    device = torch.device(requested)
    if device.type == "cuda":
        return _cuda(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        built = "finds no Apple GPU" if torch.backends.mps.is_built() else "is built without Apple's Metal"
        raise OlcError(f"--device mps: torch {torch.__version__} {built}", "use --device auto or --device cpu", code="device")
    return device


def _cuda(device: "torch.device") -> "torch.device":
    """cuda:N for --device cuda[:N]; "cuda" alone is the first GPU."""
    import torch

    build = f"torch {torch.__version__}"
    if torch.version.cuda is None and torch.version.hip is None:
        raise OlcError(
            f"--device {device} needs a CUDA build of torch, but this is {build}",
            "install one (https://pytorch.org/get-started/locally/), or use --device auto",
            code="device",
        )
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        reason = f" ({first_line(reasons[0].message)})" if reasons else ""
        raise OlcError(
            f"--device {device}: {build}, built for CUDA {torch.version.cuda}, finds no GPU{reason}",
            "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --device auto",
            code="device",
        )
    index = device.index or 0
    if index >= count:
        there = "cuda:0 only" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise OlcError(
            f"--device {device} does not exist: torch sees {there}", "use one of these, or --device auto", code="device"
        )
    return torch.device("cuda", index)


def choose_dtype(
    requested: DtypeName, stored: str, device: "torch.device", *, mapped: bool = False, kernels: bool = False
) -> "torch.dtype":
    """The type to compute in.

    requested: `--dtype`. stored: the checkpoint's type. device: the one that computes. "auto", mapped and kernels: see
    `auto_dtype`.
    """
    import torch

    name: str = requested
    if requested == "auto":
        name = auto_dtype(stored, device.type, cpu_instructions(), mapped=mapped, kernels=kernels)
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def auto_dtype(stored: str, device: str, instructions: Collection[str], *, mapped: bool = False, kernels: bool = False) -> str:
    """What `--dtype auto` is: the checkpoint's type on an accelerator; on a CPU bfloat16 if it multiplies that, else float32.

    float16 prefill is ten times slower there (measured on AVX512 with bf16). device: the one that computes, "cpu" or another.
    instructions: of the CPU. mapped: keep float16 weights as they are on such a processor, for a forward pass that multiplies
    them in bfloat16: they need not be converted, which takes longer than an answer. kernels: olc's own kernels multiply 16-bit
    weights on any processor that they run on.
    """
    if device != "cpu":
        return stored
    narrow = stored if mapped and stored == "float16" else "bfloat16"
    return narrow if kernels or has_bfloat16(instructions) else "float32"


def has_bfloat16(instructions: Collection[str]) -> bool:
    """Whether a processor multiplies bfloat16 matrices itself: AVX512-BF16, AMX, AVX10.2 or Arm's BF16, alone or in SVE."""
    return not {"avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16", "svebf16"}.isdisjoint(instructions)


@functools.cache
def cpu_instructions() -> frozenset[str]:
    """What the processor can, in the names of torch, which are those of /proc/cpuinfo (x86 "flags", Arm "Features") too."""
    import torch

    probe = getattr(torch.cpu, "get_capabilities", None)  # Since torch 2.11.
    if probe is not None:
        return frozenset(name for name, there in probe().items() if there is True)
    return frozenset(cpuinfo("flags", "Features").split())


def cpuinfo(*keys: str) -> str:
    """The value of the first line of /proc/cpuinfo that has one of these keys; "" without one."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    pairs = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")


def free_bytes(device: "torch.device") -> int:
    """Memory that is free now on a device; for MPS and other devices that share it, the computer's own, or the container's."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()
