"""`olc batch --dry-run`: reads all rows, runs a handful of them, and says what the batch would be. Nothing is written."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.batch.input.readers import FormatName, read_rows
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.commands.batch.engines import LocalEngine, fitted_settings
from openllama_cli.commands.batch.looks import keep_stdin
from openllama_cli.commands.shared.model import load_model
from openllama_cli.errors import RowsFailedError
from openllama_cli.system.memory import size
from openllama_cli.terminal.streams import note, out_json

if TYPE_CHECKING:
    from openllama_cli.batch.forecast import Forecast, Memory
    from openllama_cli.batch.survey import Survey
    from openllama_cli.models.loading.load import LoadedModel


@dataclass(frozen=True)
class DryRun:
    """A batch that does not run. source: INPUT, as it was named. batch_size: None for what is best. annotated: whether texts
    would be annotated, which takes time that is not measured."""

    source: str
    fmt: FormatName
    settings: RowSettings
    engine: LocalEngine
    batch_size: int | None
    annotated: bool

    def show(self, *, as_json: bool) -> None:
        """Prints the forecast. Raises RowsFailedError if rows would fail, UsageError for an input that cannot be read."""
        with tempfile.TemporaryDirectory(prefix="olc-") as folder:
            path = Path(self.source)
            if self.source == "-":
                path = Path(folder) / "stdin"
                keep_stdin(path, restart=False)
            forecast = self._forecast(path)
        if self.annotated:
            note("annotations are not measured")
        if as_json:
            out_json(forecast.document())
        else:
            from openllama_cli.terminal.views.dry_run import show_forecast

            show_forecast(forecast.document(), None if forecast.memory is None else _in_words(forecast.memory))
        survey = forecast.survey
        if failing := survey.codes.total():
            by_code = ", ".join(f"{count} {code}" for code, count in sorted(survey.codes.items()))
            name = "stdin" if self.source == "-" else self.source
            remedy = f"correct them in {name}" + ("; the others run all the same" if survey.tokens else "")
            raise RowsFailedError(f"{failing} of {survey.rows} rows would fail: {by_code}", remedy)

    def _forecast(self, path: Path) -> "Forecast":
        from openllama_cli.batch.input.precheck import precheck
        from openllama_cli.batch.prepare import Prepare
        from openllama_cli.batch.survey import Survey

        summary = precheck(path, self.fmt, self.settings)
        opened, shape = self.engine.opened, self.engine.opened.checkpoint.shape
        settings = fitted_settings(self.settings, self.engine)
        prepare = Prepare(opened.tokenizer, shape.context, shape.vocab)
        survey = Survey.of(read_rows(path, self.fmt, settings), summary.rows, shape.context, prepare)
        if not survey.drawn:
            from openllama_cli.batch.forecast import Forecast

            return Forecast(survey)
        begun = time.perf_counter()
        loaded = load_model(opened, self.engine.spec)
        load_seconds = time.perf_counter() - begun
        positions = summary.longest_prompt + settings.sampling.max_tokens
        return self._measured(survey, loaded, positions, load_seconds)

    def _measured(self, survey: "Survey", loaded: "LoadedModel", positions: int, load_seconds: float) -> "Forecast":
        """positions: of the longest row, as the batch itself reckons them before it has counted tokens."""
        from openllama_cli.batch.forecast import Forecast, Memory, measure
        from openllama_cli.batch.runner import open_runner
        from openllama_cli.system.device import free_bytes
        from openllama_cli.system.progress import shown
        from openllama_cli.terminal.progress import TerminalProgress

        shape, name = loaded.checkpoint.shape, self.engine.opened.folder.name
        free = free_bytes(loaded.input_device)
        runner = open_runner(
            loaded, model=name, keep=lambda _: None, batch_size=self.batch_size, positions=positions, notice=note
        )
        with shown(TerminalProgress(), "measuring a handful of rows", None):
            pace = measure(runner, survey)
        rows = min(runner.batch_size, len(survey.tokens))
        cache = rows * survey.longest * shape.cache_bytes(loaded.dtype.itemsize)
        return Forecast(survey, runner.batch_size, Memory(_weights(loaded), cache, free), pace, load_seconds)


def _in_words(memory: "Memory") -> str:
    return f"{size(memory.weights)} weights, {size(memory.cache)} KV cache at most; {size(memory.free)} free"


def _weights(loaded: "LoadedModel") -> int:
    """Bytes of the weights, wherever they are."""
    shape, element = loaded.checkpoint.shape, loaded.dtype.itemsize
    if loaded.quantized is None:
        return shape.parameters() * element
    from openllama_cli.devices.planning.placement import quantized_parts

    return sum(part.bytes for part in quantized_parts(shape, loaded.quantized.method, element))
