"""Parts that every completion needs, tried offline: tokenizer library, demo model; and the Hub's folder and settings."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from openllama_cli.devices.machine.facts import Cache, Check
from openllama_cli.errors import OlcError
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.find import demo_folder
from openllama_cli.models.hub.cache import list_cached
from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.system.paths import hub_cache_dir, hub_endpoint, hub_offline

_SAMPLE = "Q: What is the largest animal?\n  A: 東京 naïve 🐋"


def read_checks() -> tuple[Check, ...]:
    """Try the tokenizer library, protobuf and the demo model. Nothing is raised: a failure is a Check that is not ok."""
    return (
        _check("sentencepiece", _sentencepiece),
        _check("protobuf", _protobuf),
        _check("demo model", _demo_model),
    )


def read_cache(env: Mapping[str, str] | None = None) -> Cache:
    """Look at the folder of the Hub's models and at the settings of the Hub; no network."""
    env = os.environ if env is None else env
    folder = hub_cache_dir(env)
    there = _nearest(folder)
    try:
        models = list_cached(folder)
    except OSError:  # A folder that may not be read; that it cannot be used is said by `writable`.
        models = []
    largest = max(models, key=lambda model: model.bytes, default=None)
    variable = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if env.get(name)), None)
    return Cache(
        path=str(folder),
        exists=folder.is_dir(),
        writable=_writable(there),
        free_bytes=_free(there),
        models=len(models),
        largest=(largest.repo_id, largest.bytes) if largest else None,
        incomplete=tuple(model.repo_id for model in models if not model.complete),
        offline=variable if hub_offline(env) else None,
        token=_token(env),
        endpoint=hub_endpoint(env),
    )


def _check(name: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name, True, attempt())
    except OlcError as error:
        return Check(name, False, error.cause)
    except Exception as error:  # Broken installations fail in every way; a diagnosis has to survive them all.
        return Check(name, False, f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _sentencepiece() -> str:
    tokenizer = open_tokenizer(demo_folder())
    ids = tokenizer.encode(_SAMPLE)
    text = tokenizer.decode(ids)
    if text != _SAMPLE:
        raise ValueError(f"{_SAMPLE!r} came back as {text!r}")
    return f"{tokenizer.vocab_size:,} pieces of the demo's tokenizer.model; a text came back whole"


def _protobuf() -> str:
    # What transformers reads tokenizer.model files through; its own copy of SentencePiece's schema is loaded with it.
    from google.protobuf import __version__, descriptor_pb2  # type: ignore[import-untyped]

    descriptor_pb2.FileDescriptorProto(name="olc").SerializeToString()
    return str(__version__)


def _demo_model() -> str:
    found = inspect(demo_folder())
    return f"{found.parameters / 1e6:.1f} M parameters, {found.dtype}, its files are whole"


def _nearest(folder: Path) -> Path:
    """The folder, or the closest one above it that exists."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _writable(folder: Path) -> bool:
    """Whether a file can be made there; permissions alone do not tell (read-only disks, root, access lists)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _token(env: Mapping[str, str]) -> str | None:
    """Where a Hub token is, by huggingface_hub's rules. It is not read."""
    if env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN"):
        return "HF_TOKEN" if env.get("HF_TOKEN") else "HUGGING_FACE_HUB_TOKEN"
    home = env.get("HF_HOME") or str(Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    file = Path(env.get("HF_TOKEN_PATH") or Path(home) / "token").expanduser()
    try:
        return "saved" if file.is_file() and file.stat().st_size else None
    except OSError:
        return None


def read_versions(torch_version: str | None, toolkit: str, driver: str | None) -> dict[str, str | None]:
    """Versions of what a completion runs through, without importing any of it; None where it is not installed."""
    from importlib import metadata

    from openllama_cli import __version__

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
