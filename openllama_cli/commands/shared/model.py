"""Finding, opening and loading a model, shown on stderr: a download, a progress bar, notices."""

from typing import TYPE_CHECKING

from openllama_cli.models import opened as models
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.system.progress import Progress, shown
from openllama_cli.terminal.streams import note, notice

if TYPE_CHECKING:
    from openllama_cli.models.loading.load import LoadedModel
    from openllama_cli.models.tokenizer.base import Tokenizer


def _progress() -> Progress:
    from openllama_cli.terminal.progress import TerminalProgress

    return TerminalProgress()


def open_tokenizer(spec: ModelSpec) -> tuple[ModelFolder, "Tokenizer"]:
    """A model and its tokenizer, without the weights where no adapter brings a tokenizer of its own. Raises OlcError."""
    from openllama_cli.models.adapters.apply import brings_tokenizer
    from openllama_cli.models.find import find
    from openllama_cli.models.tokenizer import open as tokenizers

    said: set[str] = set()

    def once(text: str) -> None:
        if text not in said:
            notice(text)
        said.add(text)

    folder = find(spec, progress=_progress(), notice=once, weights=False)
    if not any(map(brings_tokenizer, folder.adapters)):
        return folder, tokenizers.open_tokenizer(folder.path)
    # Whether it is the model's is told by the shapes of both.
    opened = OpenedModel.of(find(spec, progress=_progress(), notice=once))
    return opened.folder, opened.tokenizer


def find_model(spec: ModelSpec) -> ModelFolder:
    """`models.opened.find_model`. Raises OlcError."""
    return models.find_model(spec, progress=_progress(), notice=notice)


def tell_not_applied(folder: ModelFolder) -> None:
    """Say what `open_model` says of things beside a model's weights."""
    from openllama_cli.models.beside import not_applied

    for line in not_applied(folder):
        notice(line)


def open_model(spec: ModelSpec, folder: ModelFolder | None = None) -> OpenedModel:
    """`models.opened.open_model`. Raises OlcError."""
    return models.open_model(spec, folder, progress=_progress(), notice=notice)


def load_model(opened: OpenedModel, spec: ModelSpec, *, one_row: bool = False, lean: bool = True) -> "LoadedModel":
    """`generation.session.load_model`. Raises OlcError."""
    from openllama_cli.generation import session

    progress = _progress()
    with shown(progress, f"loading {opened.folder.name}", None):  # What is imported first takes seconds.
        return session.load_model(opened, spec, one_row=one_row, lean=lean, progress=progress, notice=note)
