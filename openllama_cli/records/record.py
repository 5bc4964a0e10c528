"""The record of a run: versions, weights, machine, options, prompts and what came of them. Nothing secret is in it."""

import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from openllama_cli.models.fingerprint import adapters_fingerprint, opened_fingerprint
from openllama_cli.models.opened import OpenedModel
from openllama_cli.records.results import completed
from openllama_cli.version import __version__

if TYPE_CHECKING:
    from openllama_cli.api import Run
    from openllama_cli.models.loading.load import LoadedModel

# The form of records; another number is another form.
VERSION = 1
_LIBRARIES = ("torch", "transformers", "tokenizers", "sentencepiece", "safetensors")


def record(run: "Run", texts: Sequence[str], command: str, engine: str, **options: Any) -> dict[str, Any]:
    """Of a run that has ended. texts: its prompts. options: the command's own, besides those of sampling."""
    where = surroundings(run.model.loaded, command, engine, run.forward)
    return completed(where, run.sampling, list(zip(texts, run.prompts, strict=True)), run.rows, **options)


def surroundings(loaded: "LoadedModel", command: str, engine: str, forward: str | None) -> dict[str, Any]:
    """By what and where something ran. forward: the name of the forward pass, where one is known."""
    dtype = str(loaded.dtype).removeprefix("torch.")
    return {
        "olc_record": VERSION,
        "command": command,
        "versions": {"olc": __version__, "python": platform.python_version(), **_versions()},
        "model": model(loaded),
        "tokenizer": {"name": loaded.tokenizer.path.name, "sha256": loaded.tokenizer.sha256},
        "adapters": adapters(loaded),
        "quantization": None if loaded.quantized is None else loaded.quantized.method,
        "dtype": dtype,
        "device": loaded.device,
        "machine": machine(),
        "engine": engine,
        "forward": forward,
    }


def model(opened: OpenedModel) -> dict[str, Any]:
    """A model's name, where it comes from and the fingerprint of its files; of a folder its last name alone."""
    folder, found = opened.folder, opened_fingerprint(opened)
    # Of "." too.
    name = folder.path.absolute().name if folder.origin == "folder" else folder.name
    told = {"name": name, "origin": folder.origin, "repo_id": folder.repo_id}
    return told | {key: found[key] for key in ("revision", "files")}


def adapters(opened: OpenedModel) -> list[dict[str, Any]]:
    """The same of the adapters that were merged into it, in order, with the scale of each."""
    merged = adapters_fingerprint(opened).get("adapters", [])
    pairs = zip(merged, opened.folder.adapters, strict=True)
    return [one | {"repo_id": found.repo_id, "revision": found.revision} for one, found in pairs]


def machine() -> dict[str, Any]:
    """What decides in which order numbers are added: processor, kernels, threads. Imports torch."""
    import torch

    from openllama_cli.native.library import library
    from openllama_cli.system.device import cpuinfo

    found = library()
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpuinfo("model name", "Model") or platform.processor() or platform.machine(),
        "tier": None if found is None else found.tier.name,
        "torch_kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(place) for place in gpus],
    }


@cache  # A server makes records of many answers.
def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # An installation without metadata.
            continue
    return found
