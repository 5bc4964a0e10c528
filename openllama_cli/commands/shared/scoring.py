"""The score that `olc score` shows, by the model loaded here or by a server: two ways to the same outputs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.generation.text.scoring import Prepared, Score
from openllama_cli.records import results
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


def loaded_score(
    loaded: "LoadedModel", text: str, prepared: Prepared, *, context: str, top: int, options: Mapping[str, Any] | None
) -> ScoredText:
    """By a model that is loaded here. top: how many of the most likely tokens are wanted in the place of each. options: the
    command's own, for the record; None if none is wanted."""
    from openllama_cli.api import Model, Run
    from openllama_cli.generation.session import describe

    run = Run.scoring(Model(loaded, notice=note), prepared, top=top).finish()
    score = Score.of(loaded.tokenizer, text, prepared, run.rows[0].prompt_scored)
    # Nothing is generated.
    timings = {name: value for name, value in run.timings.as_dict().items() if value is not None}
    olc = {**describe(loaded), "forward": run.forward, **_windows(prepared), "timings": timings}
    if options is not None:
        from openllama_cli.records.record import surroundings

        where = surroundings(loaded, "score", "loop", run.forward)
        olc["record"] = results.scored(where, context + text, prepared, score.logprobs, **options)
    return ScoredText(score, loaded.folder.name, olc, Stats(timings, loaded.device, loaded.precision, run.forward))


def served_score(
    server: "FoundServer",
    text: str,
    *,
    context: str,
    stride: int | None,
    top: int,
    options: Mapping[str, Any] | None,
) -> ScoredText:
    """By a server. options: see `loaded_score`. Raises NotServedError, or for a server that was named OlcError."""
    from openllama_cli.serve.client.scores import ask_score

    began = time.perf_counter()
    made = ask_score(server, text, context, stride=stride, top=top, record=options is not None)
    total = round(time.perf_counter() - began, 4)
    name, told = server.connection.name, made.olc
    if made.prepared is None:
        return ScoredText(made.score, server.model, {"server": name}, Stats({"total_s": total}, None, None, None, name))
    timings: dict[str, float | None] = {"load_s": 0.0, "total_s": total}
    if len(made.prepared.windows) == 1 and told["timings"] is not None:
        timings |= {"prefill_tokens_per_s": told["timings"]["prefill_tokens_per_s"]}
    own = {key: value for key, value in told.items() if key not in ("engine", "precision", "seed", "record")}
    olc = {**own, **_windows(made.prepared), "timings": timings, "server": name}
    # That of the last window says by what and where; what was scored is known here.
    if options is not None and isinstance(where := told.get("record"), dict):
        where = {**where, "command": "score"}
        olc["record"] = results.scored(where, context + text, made.prepared, made.score.logprobs, **options)
    return ScoredText(made.score, server.model, olc, Stats(timings, told["device"], told["precision"], told["forward"], name))


def _windows(prepared: Prepared) -> dict[str, Any]:
    """How the tokens ran, for JSON: a stride is null where one window was enough."""
    several = len(prepared.windows) > 1
    return {"windows": len(prepared.windows), "stride": prepared.stride if several else None}
