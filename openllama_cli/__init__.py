"""olc: text completion with OpenLLaMA models, and any other Llama checkpoint, from a shell and from Python.

From Python (docs/python.md):

    import openllama_cli as olc

    model = olc.load("3b-v2", quantize="int8")
    print(model.complete("The largest animal is", max_tokens=16).text)

Importing the package costs next to nothing: torch and transformers are imported by `load`. Begin reading in `api`, which the
commands use too; `cli` is the `olc` command, with one module per subcommand in `commands`.
"""

from typing import TYPE_CHECKING, Any

from openllama_cli.errors import OlcError
from openllama_cli.version import __version__

if TYPE_CHECKING:
    from openllama_cli.api import Choice, Completion, Model, Piece, Score, ScoredChoice, load

__all__ = ["Choice", "Completion", "Model", "OlcError", "Piece", "Score", "ScoredChoice", "__version__", "load"]


def __getattr__(name: str) -> Any:  # PEP 562: `api` is imported when one of its names is first used
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from openllama_cli import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
