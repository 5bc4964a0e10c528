"""Where files are kept: olc's settings, olc's own cache, and the cache that every Hugging Face tool shares.

The environment is read at each call and huggingface_hub is not imported, because a cached model has to be found in
milliseconds.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from openllama_cli.errors import OlcError

_LONGEST_NAME, _LONGEST_PATH = 255, 4000


def config_dir() -> Path:
    """The folder of olc's settings: $XDG_CONFIG_HOME/olc, else ~/.config/olc."""
    return _base("XDG_CONFIG_HOME", ".config") / "olc"


def cache_dir() -> Path:
    """The folder of what olc can make again: $XDG_CACHE_HOME/olc, else ~/.cache/olc."""
    return _base("XDG_CACHE_HOME", ".cache") / "olc"


def hub_cache_dir(env: Mapping[str, str] = os.environ) -> Path:
    """huggingface_hub's cache, by its own rules: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME, ~/.cache."""
    given = env.get("HF_HUB_CACHE", env.get("HUGGINGFACE_HUB_CACHE"))
    if given is None:
        home = env.get("HF_HOME")
        if home is None:
            home = str(Path(env.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
        given = str(Path(home) / "hub")
    path = expanded(Path(os.path.expandvars(given)))
    return _possible(path, hub_cache_variable(env))


def expanded(path: Path) -> Path:
    """A path with ~ as the home it means; as it is, as huggingface_hub takes it, where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def hub_cache_variable(env: Mapping[str, str] = os.environ) -> str:
    """The variable to set for another cache folder: the one that is in force, else HF_HOME."""
    return next((name for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") if name in env), "HF_HOME")


def hub_endpoint(env: Mapping[str, str] = os.environ) -> str:
    """The Hub's address without a slash at its end: HF_ENDPOINT, else the public one."""
    return (env.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_offline(env: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment forbids the network, by huggingface_hub's own variables."""
    value = env.get("HF_HUB_OFFLINE") or env.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def _possible(path: Path, variable: str) -> Path:
    """The path, if a file system can have it."""
    if len(str(path)) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        raise OlcError(
            f"{variable} names a folder with a longer name than files can have: {str(path)[:60]}…",
            f"unset {variable}, or set it to another folder",
            code="environment",
        )
    return path


def _base(xdg: str, home: str) -> Path:
    given = os.environ.get(xdg)
    try:
        return _possible(Path(given), xdg) if given else Path.home() / home
    except RuntimeError as problem:
        raise OlcError(
            f"there is no home folder for olc's files: neither HOME nor {xdg} is set, and this user has none",
            f"set HOME, or {xdg}, to a writable folder",
            code="environment",
        ) from problem
