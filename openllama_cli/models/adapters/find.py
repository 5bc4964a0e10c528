"""From `--adapter PATH|ID[:SCALE]` to an adapter's folder, downloaded if it is on the Hub; and the model that one names."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path

from openllama_cli.errors import HubError, ModelError, UsageError
from openllama_cli.models.adapters.adapter import weights_of
from openllama_cli.models.adapters.config import CONFIG, read_adapter_config
from openllama_cli.models.catalogue import by_folder
from openllama_cli.models.hub.cache import snapshot
from openllama_cli.models.hub.files import HUB_ID, only_adapter
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
        if path.is_file() and is_adapter(path.parent):
            raise ModelError(f"the adapter {name} is a file", f"give its folder: {path.parent}", code="adapter")
        if path.is_file() and path.suffix == ".gguf":
            what = "is a GGUF file, and olc merges adapters of PEFT"
        else:
            what = "is a file" if path.exists() else "does not exist"
        raise ModelError(f"the adapter {name} {what}", f"give the folder with {CONFIG}, or a Hub id", code="adapter")
    folder = snapshot(name)
    if folder is None or not is_adapter(folder) or weights_of(folder) is None:
        from openllama_cli.models.hub.pull import pull

        try:
            folder = pull(name, adapter=True, offline=offline, progress=progress, notice=notice)
        except HubError as problem:
            if problem.cause.startswith(name):
                raise
            cause = f"the adapter {name} is not downloaded, and {problem.cause}"
            raise HubError(cause, problem.remedy, code=problem.code) from problem
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
        told = f"has {scale} behind the colon, not a scale" if scale else "has no scale behind the colon"
        given = name or "FOLDER"
        raise UsageError(
            f"--adapter {text} {told if name else 'has nothing before the colon'}", f"give {given}, or {given}:0.5"
        )
    return name, value


def is_adapter(folder: Path) -> bool:
    """Whether an adapter lies in a folder, whatever else does."""
    return (folder / CONFIG).is_file()


def adapter_alone(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return is_adapter(folder) and only_adapter({entry.name for entry in folder.iterdir()})


def base_named(folder: Path) -> str | None:
    """What an adapter's configuration says that it was made for, whatever kind it is. Raises ModelError if it is no JSON."""
    base = read_object(folder / CONFIG).get("base_model_name_or_path")
    return base if isinstance(base, str) else None


def base_of(folder: Path, name: str | None = None) -> tuple[str, str | None]:
    """The model that an adapter was made for, as its configuration names it, and its revision on the Hub if one is named.

    name: the adapter's, if it is not its folder. Raises ModelError where that is nothing here, or an adapter too.
    """
    config, given = read_adapter_config(folder), name or str(folder)
    base = config.base
    here = base is not None and Path(base).exists()
    if base is None or not (here or HUB_ID.fullmatch(base)) or base == given or adapter_alone(Path(base)):
        where = f"was made for {base}, which is {'an adapter too' if here or base == given else 'not here'}"
        where = "does not name its model" if base is None else where
        alias = None if base is None else by_folder(base)
        raise ModelError(
            f"{given} is an adapter, and {where}",
            f"give the model too: -m {alias or 'MODEL'} --adapter {shlex.quote(given)}",
            code="adapter",
        )
    return base, None if here else config.revision
