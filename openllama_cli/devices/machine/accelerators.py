"""GPUs: those that torch can use, and NVIDIA's whether or not torch can."""

import re
import warnings
from pathlib import Path

from openllama_cli.devices.machine.cpu import answer
from openllama_cli.devices.machine.facts import Accelerator, BuildKind, Nvidia, TorchBuild
from openllama_cli.errors import first_line

_NVIDIA_PCI = "0x10de"
_DISPLAY_CLASS = "0x03"


def read_torch_build() -> TorchBuild:
    """Which torch is installed, and whether it can use what it was built for."""
    try:
        import torch
    except Exception as error:  # A broken installation fails in ImportError, OSError and stranger ways.
        return TorchBuild(None, trouble=f"{type(error).__name__}: {first_line(error, 300)}")
    toolkits: dict[BuildKind, str | None] = {"cuda": torch.version.cuda, "rocm": torch.version.hip}
    toolkits["xpu"] = getattr(torch.version, "xpu", None)
    kind: BuildKind = "metal" if torch.backends.mps.is_built() else "cpu"
    kind = next((name for name, version in toolkits.items() if version is not None), kind)
    toolkit = toolkits.get(kind)
    if kind not in ("cuda", "rocm"):
        return TorchBuild(torch.__version__, kind, toolkit)
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        arch_list = tuple(torch.cuda.get_arch_list()) if available else ()
    trouble = None if available or not reasons else first_line(reasons[0].message, 300)
    return TorchBuild(torch.__version__, kind, toolkit, arch_list, trouble)


def read_accelerators() -> tuple[Accelerator, ...]:
    """The GPUs that torch can use: CUDA (and ROCm, which torch calls cuda too), Intel's XPU, Apple's MPS."""
    return (*_gpus("cuda"), *_gpus("xpu"), *_mps())


def _gpus(kind: str) -> list[Accelerator]:
    """kind: the module of torch, "cuda" or "xpu"."""
    import torch

    backend = getattr(torch, kind, None)
    with warnings.catch_warnings(action="ignore"):  # Why there is none is in `TorchBuild.trouble`.
        count = backend.device_count() if backend is not None and backend.is_available() else 0
    found = []
    for index in range(count):
        assert backend is not None, "it has devices"
        properties = backend.get_device_properties(index)
        try:
            free, total = (int(count) for count in backend.mem_get_info(index))
        except RuntimeError:  # A full or broken device.
            free, total = 0, int(properties.total_memory)
        found.append(
            Accelerator(
                device=f"{kind}:{index}",
                name=properties.name,
                capability=f"{properties.major}.{properties.minor}" if kind == "cuda" else None,
                memory_total=total,
                memory_free=free,
                shares_memory=kind == "cuda" and bool(getattr(properties, "is_integrated", False)),
            )
        )
    return found


def _mps() -> list[Accelerator]:
    """Apple's GPU takes its memory from the computer's, up to a share that Metal recommends."""
    import psutil
    import torch

    if not torch.backends.mps.is_available():
        return []
    memory = psutil.virtual_memory()
    most = int(torch.mps.recommended_max_memory())
    return [Accelerator("mps", "Apple GPU", None, most, min(most, memory.available), shares_memory=True)]


def read_nvidia(root: Path = Path("/")) -> Nvidia | None:
    """What the system knows of NVIDIA GPUs, without torch; None if there is none. root: where /proc, /dev and /sys are."""
    asked = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if root == Path("/") and (listing := answer(*asked)):
        return parse_nvidia_smi(listing, answer("nvidia-smi"))
    driver = None
    version = root / "proc/driver/nvidia/version"
    if version.is_file():
        found = re.search(r"Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", version.read_text(errors="replace"))
        driver = found[1] if found else "unknown"
    devices = sorted((root / "dev").glob("nvidia[0-9]*"))
    if driver is None and not devices and not _on_the_bus(root):
        return None
    return Nvidia(driver or ("unknown" if devices else None), None, tuple(file.name for file in devices))


def parse_nvidia_smi(listing: str, banner: str) -> Nvidia:
    """The answers of `nvidia-smi --query-gpu=name,driver_version --format=csv,noheader` and of plain `nvidia-smi`."""
    rows = [line.rpartition(",") for line in listing.splitlines() if "," in line]
    driver = next((row[2].strip() for row in rows), None)
    newest = re.search(r"CUDA Version:\s*(\d+\.\d+)", banner)
    return Nvidia(driver, newest[1] if newest else None, tuple(row[0].strip() for row in rows))


def _on_the_bus(root: Path) -> bool:
    """Whether there is an NVIDIA display controller, even without a driver."""
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == _NVIDIA_PCI and kind.startswith(_DISPLAY_CLASS):
            return True
    return False


def cuda_kernels_run(capability: str, arch_list: tuple[str, ...]) -> bool:
    """Whether a torch with kernels for `arch_list` runs on a GPU of this compute capability ("8.6").

    Binary kernels (sm_80) run on the same major version from their minor version on; the portable ones (compute_90) on every
    newer GPU; kernels of one exact GPU (sm_90a) on that one. As in CUDA's programming guide. An empty list says nothing.
    """
    mine = tuple(int(part) for part in capability.split("."))
    known = [found for name in arch_list if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name))]
    for kind, major, minor, exact in (found.groups() for found in known):
        its = int(major), int(minor)
        if its <= mine and (kind == "compute" or its[0] == mine[0]) and (exact != "a" or its == mine):
            return True
    return not known
