"""Which quantised copies a name means, for `olc models rm`: also those of models that are no longer where they were."""

import contextlib
from pathlib import Path
from typing import get_args

from openllama_cli.errors import OlcError
from openllama_cli.models import find
from openllama_cli.models.hub_cache import snapshot
from openllama_cli.models.quantise_cache import QuantisedCopy, list_copies
from openllama_cli.models.spec import QuantizeName


def copies_of_folder(name: str) -> list[QuantisedCopy]:
    """Copies of the demo model or of a folder, by the model's name, by the folder's path, or by what `olc models list` calls
    the copy ("demo int8").

    A folder is called as it was when it was quantised, perhaps from elsewhere; so its name alone counts only once it is gone.
    The demo has copies of every installation of olc.
    """
    model, _, last = name.rpartition(" ")
    method = last if model and last in get_args(QuantizeName) else None
    model = model if method else name
    paths = {str(path) for path in _paths(model)}

    def means(copy: QuantisedCopy) -> bool:
        if copy.repo_id is not None or method not in (None, copy.method):
            return False
        called = copy.model == model and (model == "demo" or not Path(copy.folder).is_dir())
        return called or copy.folder in paths

    return [copy for copy in list_copies() if means(copy)]


def copies_of_repository(repo_id: str, revision: str | None) -> list[QuantisedCopy]:
    """Copies of a model on the Hub; with a revision, those of that one."""
    folder = snapshot(repo_id, revision) if revision is not None else None
    commits = {revision, folder.name if folder is not None else None}
    return [copy for copy in list_copies() if copy.repo_id == repo_id and (revision is None or copy.revision in commits)]


def _paths(name: str) -> list[Path]:
    """The folders that a name means, as copies know them."""
    paths = []
    with contextlib.suppress(OlcError):  # It is gone, or means something else.
        folder = find.resolve(name).path
        if folder is not None:
            paths.append(folder.resolve())
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # No name of a folder.
        paths.append(Path(name).expanduser().resolve())
    return paths
