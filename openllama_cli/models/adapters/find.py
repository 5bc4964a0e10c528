"""From `--adapter PATH|ID[:SCALE]` to an adapter's folder, downloaded if it is on the Hub; and the model that one names."""

import math
from collections.abc import Callable
from pathlib import Path

from openllama_cli.errors import ModelError, UsageError
from openllama_cli.models.adapters.adapter import weights_of
from openllama_cli.models.adapters.config import CONFIG, read_adapter_config
from openllama_cli.models.hub.cache import snapshot
from openllama_cli.models.hub.files import HUB_ID, weight_format
from openllama_cli.models.model_files import read_object
from openllama_cli.models.spec import FoundAdapter
from openllama_cli.system.progress import Progress


def find_adapter(
    text: str,
    *,
    offline: bool,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> FoundAdapter:
    """The adapter that `text` names: a folder, else a Hub id, whose "main" is taken from the cache or downloaded.

    Raises ModelError for one that is not there, HubError (see `hub.pull`), UsageError for a scale that is no number.
    """
    name, scale = parse(text)
    path = Path(name).expanduser()
    if path.is_dir():
        if not is_adapter(path):
            raise ModelError(f"{name} is not an adapter: it has no {CONFIG}", "give the folder that PEFT saved", code="adapter")
        return FoundAdapter(path, name, scale)
    if path.exists() or name.startswith((".", "/", "~")) or not HUB_ID.fullmatch(name):
        what = "is a file" if path.exists() else "does not exist"
        raise ModelError(f"the adapter {name} {what}", f"give the folder with {CONFIG}, or a Hub id", code="adapter")
    folder = snapshot(name)
    if folder is None or not is_adapter(folder) or weights_of(folder) is None:
        from openllama_cli.models.hub.pull import pull

        folder = pull(name, adapter=True, offline=offline, progress=progress, notice=notice)
    return FoundAdapter(folder, name, scale, name, folder.name)


def parse(text: str) -> tuple[str, float]:
    """A folder or Hub id, and the scale behind it; 1 without one. Raises UsageError for a scale that is no number."""
    name, colon, scale = text.rpartition(":")
    if not colon or Path(text).expanduser().exists():
        return text, 1.0
    try:
        value = float(scale)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not name:
        raise UsageError(f"--adapter {text}: {scale or 'nothing'} is not a number", "give FOLDER, FOLDER:0.5, or a Hub id")
    return name, value


def is_adapter(folder: Path) -> bool:
    """Whether an adapter lies in a folder, whatever else does."""
    return (folder / CONFIG).is_file()


def adapter_alone(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    if not is_adapter(folder) or (folder / "config.json").is_file():
        return False
    return weight_format({entry.name for entry in folder.iterdir()}) is None


def base_named(folder: Path) -> str | None:
    """What an adapter's configuration says that it was made for, whatever kind it is. Raises ModelError if it is no JSON."""
    base = read_object(folder / CONFIG).get("base_model_name_or_path")
    return base if isinstance(base, str) else None


def base_of(folder: Path) -> tuple[str, str | None]:
    """The model that an adapter was made for, as its configuration names it, and its revision on the Hub if one is named.

    Raises ModelError where that is nothing here.
    """
    config = read_adapter_config(folder)
    base = config.base
    here = base is not None and Path(base).exists()
    if base is None or not (here or HUB_ID.fullmatch(base)):
        where = "does not name its model" if base is None else f"was made for {base}, which is not here"
        raise ModelError(
            f"{folder} is an adapter, and {where}", f"give the model too: -m MODEL --adapter {folder}", code="adapter"
        )
    return base, None if here else config.revision
