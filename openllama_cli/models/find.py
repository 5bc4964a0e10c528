"""From what the user asked for to a folder with a model: which model, where it is, and the download if that is needed.

Which model: --model, else OLC_MODEL, else the default set with `olc models default`, else the demo model. What a name means:
an alias; else a folder or a GGUF file, if there is one; else a Hub id, or a GGUF file of one (organization/name:FILE.gguf). A
name that looks like a path and is not one is an error, and is never sent to the Hub.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from openllama_cli.errors import HubError, ModelError, OlcError, UsageError
from openllama_cli.models.adapters.find import adapter_alone, base_of, find_adapter
from openllama_cli.models.catalogue import CATALOGUE, DEMO, by_repo_id, suggest
from openllama_cli.models.checkpoint.gguf.header import gguf_files
from openllama_cli.models.hub.cache import cached, snapshot
from openllama_cli.models.hub.files import HUB_ID, weight_format
from openllama_cli.models.model_files import TOKENIZERS
from openllama_cli.models.spec import ChosenBy, FoundAdapter, ModelFolder, ModelSpec, Origin
from openllama_cli.models.stand_ins import refuse_file_as_model
from openllama_cli.system.files import atomic_write
from openllama_cli.system.paths import config_dir, hub_endpoint
from openllama_cli.system.progress import Progress

Notice = Callable[[str], None]
# A GGUF file on the Hub: organization/name:FILE.gguf.
_HUB_FILE = re.compile(rf"({HUB_ID.pattern}):([A-Za-z0-9_][\w.-]{{0,250}}\.gguf)", re.ASCII)
# What an error says in front of a name that its user did not type just now, and how its user undoes the choice.
_CHOOSERS = {"flag": "", "environment": "OLC_MODEL: ", "default": "the default model: ", "fallback": ""}
_WHY = {"environment": "named by OLC_MODEL", "default": "the default model, chosen with `olc models default`"}
_UNDO = {"environment": "unset OLC_MODEL", "default": "`olc models default --unset`"}
# Addresses on the Hub, as they are copied from a browser.
_ADDRESS = re.compile(r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/|hf://", re.IGNORECASE)
_NOT_MODELS = {"datasets", "spaces", "collections", "papers", "docs", "blog", "buckets", "kernels"}
_WITH_REVISION = {"tree", "blob", "resolve", "raw", "commit", "commits"}


@dataclass(frozen=True)
class Target:
    """What a name means.

    name: to show (an alias stays one). repo_id: for origin "hub"; file: the GGUF file of it. path: for "folder" and "demo"; a
    folder, or a GGUF file.
    """

    name: str
    origin: Origin
    repo_id: str | None = None
    path: Path | None = None
    file: str | None = None

    def within(self, snapshot: Path) -> Path:
        """Where the model is in a snapshot of its repository."""
        return snapshot if self.file is None else snapshot / self.file


def demo_folder() -> Path:
    """The folder of the demo model in the package."""
    return Path(__file__).parent.parent / "demo_model" / "weights"


def choose(model: str | None) -> tuple[str, ChosenBy]:
    """The name of the model to use, and what named it. model: the value of --model, or None.

    Raises UsageError for an address on the Hub that is not of a model.
    """
    if model is not None:
        return from_address(model), "flag"
    named = os.environ.get("OLC_MODEL", "").strip()
    if named:
        return from_address(named), "environment"
    default = read_default()
    return (from_address(default), "default") if default is not None else (DEMO, "fallback")


def from_address(name: str) -> str:
    """The Hub id in a pasted address, such as https://huggingface.co/org/name/tree/main or org/name.git; any other name as it
    is.

    Raises UsageError for an address of something else on the Hub, or of a revision, which is --revision's to name.
    """
    found = _ADDRESS.match(name)
    mirror = f"{hub_endpoint()}/"
    if found is None and not name.startswith(mirror):
        cloned = name.endswith(".git") and HUB_ID.fullmatch(name) is not None and not Path(name).exists()
        return name.removesuffix(".git") if cloned else name
    rest = name[found.end() if found is not None else len(mirror) :]
    parts = [part for part in re.split("[?#]", rest)[0].split("/") if part]
    if parts[:1] == ["models"]:
        del parts[0]
    repo_id = "/".join(parts[:2]).removesuffix(".git")  # as git clones it; no id on the Hub ends so
    if (parts[:1] and parts[0] in _NOT_MODELS) or not HUB_ID.fullmatch(repo_id):
        raise UsageError(f"{name} is not the address of a model on the Hub", "give its id: organization/name")
    revision = "main"
    if len(parts) > 3 and parts[2] in _WITH_REVISION:
        revision = unquote("/".join(parts[3:6]) if parts[3] == "refs" else parts[3])  # refs/pr/1
    file = parts[-1] if len(parts) == 5 and parts[2] in _WITH_REVISION and parts[-1].endswith(".gguf") else None
    model = repo_id if file is None else f"{repo_id}:{unquote(file)}"
    if revision != "main":
        raise UsageError(f"{name} is revision {revision} of {repo_id}", f"give them apart: {model} --revision {revision}")
    return model


def default_file() -> Path:
    """Where the default is kept."""
    return config_dir() / "default-model"


def read_default() -> str | None:
    """The model set with `olc models default`, or None.

    Raises OlcError when the file is there and cannot be read.
    """
    file = default_file()
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not text"
        remedy = f"remove {file}, or set XDG_CONFIG_HOME to another folder"
        raise OlcError(f"cannot read the default model from {file}: {reason}", remedy) from problem


def write_default(model: str | None) -> None:
    """Set the default model, or remove it (None). The name is stored as it is: the caller checks it.

    Raises OlcError when the settings folder cannot be written.
    """
    file = default_file()
    try:
        if model is None:
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as stream:
            stream.write(f"{model}\n".encode())
    except OSError as problem:
        raise OlcError(
            f"cannot write {file}: {problem.strerror}", "set XDG_CONFIG_HOME to a writable folder, or use OLC_MODEL"
        ) from problem


def resolve(name: str, chosen_by: ChosenBy = "flag") -> Target:
    """What a name means. Nothing is downloaded and no network is used.

    Raises ModelError for a path that is missing or not a folder, and for a name that is neither alias, folder nor Hub id.
    """
    source, name = _CHOOSERS[chosen_by], from_address(name)
    entry = CATALOGUE.get(name)  # Before a folder of the same name, which is ./3b.
    if entry is not None:
        return Target(name, "demo", path=demo_folder()) if entry.repo_id is None else Target(name, "hub", entry.repo_id)
    path = path_of(name)
    if path is not None and path.is_dir():
        return Target(name, "folder", path=_in_folder(path, f"{source}{name}"))
    if path is not None and path.suffix == ".gguf" and path.is_file():
        return Target(name, "folder", path=path)
    if path is not None and path.exists():
        raise refuse_file_as_model(path, f"{source}{name}")
    if _looks_like_path(name):
        raise ModelError(
            f"{source}the folder {name} does not exist",
            "check the path; a Hub id is organization/name; `olc models list` shows known models",
        )
    of_hub = _HUB_FILE.fullmatch(name)
    if of_hub is not None:
        return Target(name, "hub", repo_id=of_hub[1], file=of_hub[2])
    if not HUB_ID.fullmatch(name):
        raise _unknown(name, source)
    return Target(name, "hub", repo_id=name)


def _in_folder(folder: Path, shown: str) -> Path:
    """A model's folder, or the GGUF file in it where there are no other weights. Raises ModelError where there are several."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError:
        return folder  # Who reads it says what is wrong.
    if weight_format(names) is not None or not any(name.endswith(".gguf") for name in names):
        return folder
    found = gguf_files(folder)
    if len(found) > 1:
        few = ", ".join(file.name for file in found[:4]) + ", …" * (len(found) > 4)
        raise ModelError(f"{shown} contains {len(found)} models: {few}", f"give one of them, such as {found[0]}")
    return found[0] if found else folder


def file_on_hub(name: str) -> tuple[str, str | None]:
    """A GGUF file's name on the Hub in two: "org/name", "FILE.gguf"; any other name and None."""
    found = _HUB_FILE.fullmatch(from_address(name))
    return (name, None) if found is None else (found[1], found[2])


def resolve_on_hub(name: str) -> str:
    """The Hub id of an alias or Hub id, whatever folders there are here.

    Raises UsageError for the demo model and for a folder, ModelError for a name that is neither alias nor Hub id.
    """
    name = from_address(name)
    entry = CATALOGUE.get(name)
    if entry is not None and entry.repo_id is None:
        raise UsageError(
            "the demo model is part of olc and is always available", "name a model on the Hub; see `olc models list`"
        )
    if entry is not None and entry.repo_id is not None:
        return entry.repo_id
    if HUB_ID.fullmatch(name):
        return name
    path = path_of(name)
    if path is not None and path.exists():
        raise UsageError(f"{name} is a local folder or file, not a model on the Hub", "give an alias or Hub id")
    raise _unknown(name)


def find(
    spec: ModelSpec, *, progress: Progress | None = None, notice: Notice | None = None, weights: bool = True
) -> ModelFolder:
    """The folder of the model that `spec` asks for, downloaded first if it is on the Hub and not in the cache.

    A cached model is found without network and immediately. progress, notice: told about a download. weights: whether they are
    needed, or the tokenizer alone.

    Raises ModelError (see `resolve`), HubError (see `hub.pull`) and UsageError (a revision of a folder).
    """
    name, chosen_by = choose(spec.model)
    target = resolve(name, chosen_by)
    alone: FoundAdapter | None = None
    model: ModelFolder | None = None
    if target.path is not None and adapter_alone(target.path):
        alone = FoundAdapter(target.path, str(target.path))
    else:
        model = _found(spec, target, name, chosen_by, progress=progress, notice=notice, weights=weights)
        if model.repo_id is not None and adapter_alone(model.path):
            alone = FoundAdapter(model.path, model.repo_id, 1.0, model.repo_id, model.revision)
            spec = replace(spec, revision=None)  # It was the adapter's.
    if alone is not None:
        base_name, revision = base_of(alone.path, alone.name)
        base = resolve(base_name)
        if notice is not None:
            notice(f"olc: {name} is an adapter for {base.name}")
        spec = replace(spec, revision=spec.revision or revision)
        model = _found(spec, base, base.name, chosen_by, progress=progress, notice=notice, weights=weights)
    assert model is not None
    adapters = [find_adapter(one, offline=spec.offline, progress=progress, notice=notice) for one in spec.adapters]
    # Given again, with a scale, it is meant once.
    if alone is not None and not any(one.path.resolve() == alone.path.resolve() for one in adapters):
        adapters.insert(0, alone)
    return replace(model, adapters=tuple(adapters))


def _found(
    spec: ModelSpec,
    target: Target,
    name: str,
    chosen_by: ChosenBy,
    *,
    progress: Progress | None,
    notice: Notice | None,
    weights: bool,
) -> ModelFolder:
    """The model alone."""
    if target.path is not None:
        if spec.revision is not None:
            what = "folder" if target.path.is_dir() else "file"
            raise UsageError(f"--revision {spec.revision} is for models on the Hub; {name} is a {what}", "leave out --revision")
        if not target.path.exists():
            raise ModelError("the demo model is missing from this installation", "reinstall olc, or use another model")
        return ModelFolder(target.path, name, target.origin, chosen_by=chosen_by)
    repo_id = target.repo_id
    assert repo_id is not None, "a target is a folder or on the Hub"
    path = cached(repo_id, spec.revision, target.file)
    if path is None and not weights and target.file is None:
        part = snapshot(repo_id, spec.revision)
        path = part if part is not None and any((part / name).exists() for name in TOKENIZERS) else None
    if path is None:
        path = _pulled(repo_id, target.file, name, chosen_by, spec, weights=weights, progress=progress, notice=notice)
    return ModelFolder(target.within(path), name, "hub", repo_id, path.name, chosen_by)


def _pulled(
    repo_id: str,
    file: str | None,
    name: str,
    chosen_by: ChosenBy,
    spec: ModelSpec,
    *,
    weights: bool,
    progress: Progress | None,
    notice: Notice | None,
) -> Path:
    """Download a model. Its user may not know that one is needed, so errors name the model and what chose it."""
    from openllama_cli.models.hub.pull import pull

    why = _WHY.get(chosen_by)

    def told(text: str) -> None:
        if notice is not None:
            notice(f"{text} ({name} is {why})" if why is not None and text.startswith("downloading") else text)

    try:
        return pull(repo_id, spec.revision, file=file, offline=spec.offline, weights=weights, progress=progress, notice=told)
    except HubError as problem:
        asked = f"{name} ({why})" if why is not None else name
        known = problem.cause.startswith((name, repo_id))
        cause = f"{asked}: {problem.cause}" if known else f"{asked} is not downloaded, and {problem.cause}"
        if known and why is None:
            cause = problem.cause
        pull_command = f"olc models pull {name}"
        # Where the repository holds something else, it would not be there later either.
        named = pull_command in problem.remedy or f"pull {repo_id}" in problem.remedy or problem.code == "no_model_files"
        later = "" if named else f"; then `{pull_command}`"
        undo = f", or {_UNDO[chosen_by]}" if why is not None else ""
        raise HubError(cause, f"{problem.remedy}{later}{undo}", code=problem.code) from problem


def _unknown(name: str, source: str = "") -> ModelError:
    meant = suggest(name)
    return ModelError(
        f"{source}{name} is not a known model, a folder or a Hub id",
        (f"did you mean {meant}? " if meant else "") + "a Hub id is organization/name; `olc models list` shows known models",
    )


def path_of(name: str) -> Path | None:
    """The path that a name is, or None if it cannot be one: too long, or in the home of a user who does not exist."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError):
        return None
    return path


def _looks_like_path(name: str) -> bool:
    """Whether a name that is not a folder was meant as one: ./x, ../x, /x, ~/x, a/b/c, x\\y, or a/b where a is a folder here.

    A Hub id that the catalogue or the cache has is one, whatever folders there are.
    """
    if name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1:
        return True
    if not HUB_ID.fullmatch(name) or by_repo_id(name) is not None or snapshot(name) is not None:
        return False
    return Path(name).parent.is_dir()
