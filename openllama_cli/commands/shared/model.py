"""Opening and loading a model with what a terminal shows of it: a download, a progress bar, notices on stderr."""

from typing import TYPE_CHECKING

from openllama_cli.generation import session
from openllama_cli.models import opened as models
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.streams import note, notice

if TYPE_CHECKING:
    from openllama_cli.models.loading.load import LoadedModel


def open_model(spec: ModelSpec) -> OpenedModel:
    """`models.opened.open_model`, shown on stderr. Raises OlcError."""
    from openllama_cli.terminal.progress import TerminalProgress

    progress = TerminalProgress()
    try:
        return models.open_model(spec, progress=progress, notice=notice)
    finally:
        progress.finish()


def load_model(opened: OpenedModel, spec: ModelSpec, *, one_row: bool = False) -> "LoadedModel":
    """`generation.session.load_model`, shown on stderr. Raises OlcError."""
    from openllama_cli.terminal.progress import TerminalProgress

    progress = TerminalProgress()
    try:
        return session.load_model(opened, spec, one_row=one_row, progress=progress, notice=note)
    finally:
        progress.finish()
