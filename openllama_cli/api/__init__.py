"""The Python face of olc: `load` a model, then `complete`, `stream`, `score` or `choose` with it. See docs/python.md.

    model = load("3b-v2", quantize="int8")
    model.complete("The largest animal is", max_tokens=16).text

The commands `complete` and `generate` run on the same `Model`, through `Run`: begin reading in `model`. Importing this package
costs no torch; `load` does. Every expected failure is an `OlcError` with a `code`, a cause and a `remedy`, which name an
argument as the command line spells it: `top_p` is `--top-p`.
"""

from openllama_cli.api.model import Model, load
from openllama_cli.api.results import Choice, Completion, Piece, Sampling
from openllama_cli.api.run import Run
from openllama_cli.generation.choices.scores import ScoredChoice
from openllama_cli.generation.decode.config import choose_sampling
from openllama_cli.generation.text.scoring import Score

__all__ = [
    "Choice",
    "Completion",
    "Model",
    "Piece",
    "Run",
    "Sampling",
    "Score",
    "ScoredChoice",
    "choose_sampling",
    "load",
]
