"""Where files are kept: olc's settings, olc's own cache, and the cache that every Hugging Face tool shares.

The environment is read at each call and huggingface_hub is not imported, because a cached model has to be found in
milliseconds.
"""

import os
from collections.abc import Mapping
from pathlib import Path


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
    path = Path(os.path.expandvars(given))
    try:
        return path.expanduser()
    except RuntimeError:  # The home of a user who does not exist; huggingface_hub takes it as it is.
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


def _base(xdg: str, home: str) -> Path:
    given = os.environ.get(xdg)
    return Path(given) if given else Path.home() / home
