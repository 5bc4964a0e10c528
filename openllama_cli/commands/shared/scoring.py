"""The score that `olc score` shows, by the model loaded here or by a server: two ways to the same outputs."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.generation.text.scoring import Prepared, Score
from openllama_cli.terminal.streams import note, notice
from openllama_cli.terminal.views.complete import Stats, show_stats

if TYPE_CHECKING:
    from openllama_cli.models.loading.load import LoadedModel
    from openllama_cli.serve.client.find import FoundServer


@dataclass(frozen=True)
class ScoredText:
    """A text's score. model: its name. olc: olc's own data, for JSON. stats: what was measured."""

    score: Score
    model: str
    olc: dict[str, Any]
    stats: Stats

    def show_stats(self) -> None:
        """Write to stderr what was measured."""
        show_stats(self.stats)
        if self.score.windows > 1:
            notice(f"{self.score.windows} windows, each {self.olc['stride']} tokens further than the one before")


def loaded_score(loaded: "LoadedModel", text: str, prepared: Prepared, *, top: int) -> ScoredText:
    """By a model that is loaded here. top: how many of the most likely tokens are wanted in the place of each."""
    from openllama_cli.api import Model, Run
    from openllama_cli.generation.session import describe

    run = Run.scoring(Model(loaded, notice=note), prepared, top=top).finish()
    score = Score.of(loaded.tokenizer, text, prepared, run.rows[0].prompt_scored)
    # Nothing is generated.
    timings = {name: value for name, value in run.timings.as_dict().items() if value is not None}
    olc = {**describe(loaded), "forward": run.forward, **_windows(prepared), "timings": timings}
    return ScoredText(score, loaded.folder.name, olc, Stats(timings, loaded.device, loaded.precision, run.forward))


def served_score(server: "FoundServer", text: str, context: str, *, stride: int | None, top: int) -> ScoredText:
    """By a server. Raises NotServedError, or for a server that was named OlcError."""
    from openllama_cli.serve.client.scores import ask_score

    began = time.perf_counter()
    made = ask_score(server, text, context, stride=stride, top=top)
    total = round(time.perf_counter() - began, 4)
    name, told = server.connection.name, made.olc
    if made.prepared is None:
        return ScoredText(made.score, server.model, {"server": name}, Stats({"total_s": total}, None, None, None, name))
    timings: dict[str, float | None] = {"load_s": 0.0, "total_s": total}
    if len(made.prepared.windows) == 1 and told["timings"] is not None:
        timings |= {"prefill_tokens_per_s": told["timings"]["prefill_tokens_per_s"]}
    own = {key: value for key, value in told.items() if key not in ("engine", "precision", "seed")}
    olc = {**own, **_windows(made.prepared), "timings": timings, "server": name}
    return ScoredText(made.score, server.model, olc, Stats(timings, told["device"], told["precision"], told["forward"], name))


def _windows(prepared: Prepared) -> dict[str, Any]:
    """How the tokens ran, for JSON: a stride is null where one window was enough."""
    several = len(prepared.windows) > 1
    return {"windows": len(prepared.windows), "stride": prepared.stride if several else None}
