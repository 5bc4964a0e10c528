"""Asking the machine: its hardware, and the installation that a completion needs, tried offline.

Everything that looks at hardware, files or the environment is behind `MachineProbe`; tests replace it with made-up machines.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from openllama_cli.devices.machine import measure as measuring
from openllama_cli.devices.machine.accelerators import read_accelerators, read_nvidia, read_torch_build
from openllama_cli.devices.machine.cpu import read_cpu
from openllama_cli.devices.machine.facts import Cache, Check, Facts, Measurement
from openllama_cli.errors import OlcError, first_line
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.find import demo_folder
from openllama_cli.models.hub.cache import list_cached
from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.system.paths import expanded, hub_cache_dir, hub_endpoint, hub_offline
from openllama_cli.system.progress import Progress
from openllama_cli.version import __version__

_BACKENDS = ("nccl", "gloo", "mpi", "ucc", "xccl")
# What changes how many threads torch uses, which GPUs it sees, or which of its kernels.
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_SAMPLE = "Q: What is the largest animal?\n  A: 東京 naïve 🐋"


class MachineProbe:
    """This machine. Imports torch."""

    def facts(self) -> Facts:
        """Everything that is found without measuring. Never raises for a broken installation: that is a fact too."""
        build = read_torch_build()
        built_for = {"cpu": "CPU", "cuda": "CUDA", "rocm": "ROCm", "xpu": "XPU", "metal": "CPU and Metal"}[build.kind]
        nvidia = read_nvidia()
        with_torch = build.version is not None
        return Facts(
            versions=read_versions(
                build.version, f"{built_for} {build.toolkit or ''}".rstrip(), nvidia.driver if nvidia else None
            ),
            torch=build,
            cpu=read_cpu(with_torch=with_torch),
            accelerators=read_accelerators() if with_torch else (),
            nvidia=nvidia,
            backends=_backends() if with_torch else dict.fromkeys(_BACKENDS, False),
            cache=read_cache(),
            checks=read_checks(),
            variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        )

    def measure(self, device: str, free_bytes: int, progress: Progress, deadline: float) -> Measurement:
        """Test and time one device; see `measure.measure`."""
        return measuring.measure(device, free_bytes=free_bytes, progress=progress, deadline=deadline)


def read_versions(torch_version: str | None, toolkit: str, driver: str | None) -> dict[str, str | None]:
    """Versions of the packages that a completion needs, without importing them; None for what is not installed.

    toolkit: what torch was built for: "CPU", "CUDA 12.8", "ROCm 6.4".
    """
    found: dict[str, str | None] = {
        "olc": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch_version,
        "torch_build": toolkit if torch_version else None,
    }
    for name in ("transformers", "accelerate", "sentencepiece", "safetensors", "huggingface-hub", "protobuf"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found | {"driver": driver}


def _backends() -> dict[str, bool]:
    """Which backends of torch.distributed this torch has."""
    from torch import distributed

    # is_xccl_available is newer than the others; a torch without distributed has none of them.
    questions = {name: getattr(distributed, f"is_{name}_available", None) for name in _BACKENDS}
    return {name: bool(question is not None and question()) for name, question in questions.items()}


def read_checks() -> tuple[Check, ...]:
    """Try the tokenizer library, protobuf and the demo model. Nothing is raised: a failure is a Check that is not ok."""
    attempts = {"sentencepiece": _sentencepiece, "protobuf": _protobuf, "demo model": _demo_model}
    return tuple(_check(name, attempt) for name, attempt in attempts.items())


def _check(name: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name, True, attempt())
    except OlcError as error:
        return Check(name, False, error.cause)
    except Exception as error:  # Broken installations fail in every way; a diagnosis has to survive them all.
        return Check(name, False, f"{type(error).__name__}: {first_line(error, 300)}")


def _sentencepiece() -> str:
    tokenizer = open_tokenizer(demo_folder())
    text = tokenizer.decode(tokenizer.encode(_SAMPLE))
    if text != _SAMPLE:
        raise ValueError(f"{_SAMPLE!r} was decoded as {text!r}")
    return f"encodes and decodes with the demo's tokenizer.model ({tokenizer.vocab_size:,} pieces)"


def _protobuf() -> str:
    # What transformers reads tokenizer.model files through; its own copy of SentencePiece's schema is loaded with it.
    from google.protobuf import __version__, descriptor_pb2

    descriptor_pb2.FileDescriptorProto(name="olc").SerializeToString()
    return str(__version__)


def _demo_model() -> str:
    found = inspect(demo_folder())
    return f"complete: {found.shape.parameters() / 1e6:.1f} M parameters in {found.dtype}"


def read_cache(env: Mapping[str, str] | None = None) -> Cache:
    """Look at the Hub's cache folder and settings; no network."""
    env = os.environ if env is None else env
    folder = hub_cache_dir(env)
    # The folder, or the closest one above it that exists.
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable, free = False, None
    # A file is made, since permissions alone do not tell (read-only disks, root, access lists).
    with suppress(OSError), tempfile.TemporaryFile(dir=there):
        writable = True
    with suppress(OSError):
        free = shutil.disk_usage(there).free
    try:
        models = list_cached(folder)
    except OSError:  # A folder that may not be read; `writable` says that it cannot be used.
        models = []
    largest = max(models, key=lambda model: model.bytes, default=None)
    variable = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if env.get(name)), None)
    return Cache(
        path=str(folder),
        exists=folder.is_dir(),
        writable=writable,
        free_bytes=free,
        models=len(models),
        largest=(largest.repo_id, largest.bytes) if largest else None,
        incomplete=tuple(model.repo_id for model in models if not model.complete),
        offline=variable if hub_offline(env) else None,
        token=_token(env),
        endpoint=hub_endpoint(env),
    )


def _token(env: Mapping[str, str]) -> str | None:
    """Where a Hub token is, by huggingface_hub's rules. It is not read."""
    if env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN"):
        return "HF_TOKEN" if env.get("HF_TOKEN") else "HUGGING_FACE_HUB_TOKEN"
    home = env.get("HF_HOME") or str(Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    file = expanded(Path(env.get("HF_TOKEN_PATH") or Path(home) / "token"))
    try:
        return "saved" if file.is_file() and file.stat().st_size else None
    except OSError:
        return None
