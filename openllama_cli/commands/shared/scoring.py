"""The score that `olc score` shows, by the model loaded here or by a server: two ways to the same outputs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.generation.text.scoring import Prepared, Score
from openllama_cli.terminal.streams import note, notice
from openllama_cli.terminal.views.complete import Stats, show_stats

if TYPE_CHECKING:
    from openllama_cli.models.loading.load import LoadedModel


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
    olc = {**describe(loaded), "forward": run.forward, **windows_json(prepared), "timings": timings}
    return ScoredText(score, loaded.folder.name, olc, Stats(timings, loaded.device, loaded.precision, run.forward))


def windows_json(prepared: Prepared) -> dict[str, Any]:
    """How the tokens ran, for JSON: a stride is null where one window was enough."""
    several = len(prepared.windows) > 1
    return {"windows": len(prepared.windows), "stride": prepared.stride if several else None}
