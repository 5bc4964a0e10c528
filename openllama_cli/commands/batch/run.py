"""One run of a batch: rows from a runner into the journal, and what is said of it."""

import contextlib
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.batch.ray.options import RayOptions
from openllama_cli.batch.sizing import auto_rows, cache_bytes_per_position
from openllama_cli.batch.stopping import GracefulStop
from openllama_cli.commands.batch.annotations import RowAnnotator
from openllama_cli.commands.shared.model import load_model
from openllama_cli.errors import OlcError, RowsFailedError, Terminated
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.streams import note, notice
from openllama_cli.terminal.views.batch import BatchProgress

if TYPE_CHECKING:
    from openllama_cli.batch.input.precheck import InputSummary
    from openllama_cli.batch.journal.journal import Journal
    from openllama_cli.batch.ray.engine import RayRunner
    from openllama_cli.batch.runner import Runner
    from openllama_cli.models.loading.load import LoadedModel


class Batch:
    """One run: the journal that it fills, and what it tells. spooled: the copy of stdin, if that is the input.
    annotate: annotates the rows, if that is asked for.
    """

    def __init__(
        self,
        journal: "Journal",
        summary: "InputSummary",
        stop: GracefulStop,
        *,
        spooled: Path | None,
        as_json: bool,
        annotate: "RowAnnotator | None",
    ) -> None:
        self._journal, self._summary, self._stop = journal, summary, stop
        self._annotated = annotate.results(journal) if annotate is not None else None
        self._spooled, self._as_json = spooled, as_json
        self._spoken = ""
        if journal.counts.done:
            notice(f"olc: resuming: {journal.counts.done} of {summary.rows} rows are done")
        if journal.damaged:
            notice(f"olc: {journal.damaged} lines of the journal were damaged; their rows are done again")

    def runner(self, opened: OpenedModel, spec: ModelSpec, settings: RowSettings, wanted: int | None) -> "Runner":
        """Load the model, and decide how many rows run side by side."""
        # First: it settles how threads wait, which torch reads once, when it is imported.
        loaded = load_model(opened, spec)

        from openllama_cli.batch.runner import Runner
        from openllama_cli.generation.session import engines

        return Runner(
            engine=engines(loaded, note),
            tokenizer=loaded.tokenizer,
            context=opened.checkpoint.shape.context,
            vocabulary=opened.checkpoint.shape.vocab,
            model=opened.folder.name,
            results=self._annotated or self._journal,
            max_rows=wanted or self._auto_rows(loaded, opened, settings),
            stopping=lambda: self._stop.requested,
            notice=note,
        )

    def ray_runner(
        self,
        opened: OpenedModel,
        spec: ModelSpec,
        settings: RowSettings,
        wanted: int | None,
        options: RayOptions,
        header: Mapping[str, Any],
    ) -> "contextlib.AbstractContextManager[RayRunner]":
        """Workers in place of a model here, while the context lasts."""
        from openllama_cli.batch.ray.run import RayModel, open_runner

        return open_runner(
            options,
            RayModel(opened.folder, opened.checkpoint, spec, header["model"], opened.tokenizer.sha256),
            batch_size=wanted,
            positions=self._longest_row(settings),
            rows=self._summary.rows - self._journal.counts.done,
            results=self._annotated or self._journal,
            stopping=lambda: self._stop.requested,
            notice=note,
        )

    def _longest_row(self, settings: RowSettings) -> int:
        """Positions of the longest row, at most. A token is at least a byte of the prompt."""
        longest = max(self._summary.longest_prompt_bytes + 1, self._summary.longest_prompt_tokens)
        return longest + settings.sampling.max_tokens

    def _auto_rows(self, loaded: "LoadedModel", opened: OpenedModel, settings: RowSettings) -> int:
        from openllama_cli.system.device import free_bytes

        shape = opened.checkpoint.shape
        positions = min(shape.context, self._longest_row(settings))
        per_position = cache_bytes_per_position(shape.layers, shape.kv_heads, shape.head_dim, loaded.dtype.itemsize)
        on_cpu = loaded.input_device.type == "cpu"
        return auto_rows(free_bytes(loaded.input_device), per_position, positions, on_cpu=on_cpu)

    def run(self, runner: "Runner | RayRunner", rows: Any) -> None:
        """Work through the rows that are not done. A signal ends it with what it takes to resume said."""
        shown = BatchProgress(self._summary.rows, self._journal.counts.done, as_json=self._as_json)
        whole = False
        try:
            for progress in runner.run(rows):
                shown.update(progress.rows, progress.failed, progress.tokens)
                if self._annotated is not None:
                    self._annotated.flush_if_due()
                self._journal.sync_if_due()
            if self._annotated is not None:
                self._annotated.flush()
            self._stop.finish()
            whole = True
        except (KeyboardInterrupt, Terminated):
            shown.finish(done=False)
            with contextlib.suppress(OlcError):  # The interrupt is what counts now; opening it again finds what is there.
                if self._annotated is not None:
                    self._annotated.flush()
                self._journal.close()
            done = self._journal.counts.done
            again = _same_command(self._spooled)
            notice(f"olc: stopped with {done} of {self._summary.rows} rows done; to go on:\n  {again}")
            raise
        finally:
            shown.finish(done=whole)
        seconds, counts = shown.seconds, runner.progress
        self._spoken = f"{counts.rows} row{'s' * (counts.rows != 1)} in {seconds:.1f} s, {shown.tokens_per_s:.0f} tokens/s"

    def report(self, target: Path) -> None:
        """The end: what was written; raises RowsFailedError if rows failed."""
        counts = self._journal.counts
        said = f"olc: wrote {target}: {self._summary.rows} row{'s' * (self._summary.rows != 1)}, {counts.failed} failed"
        notice(f"{said} ({self._spoken})" if self._spoken else said)
        if counts.failed:
            by_code = ", ".join(f"{count} {code}" for code, count in sorted(counts.by_code.items()))
            raise RowsFailedError(
                f"{counts.failed} of {self._summary.rows} rows failed: {by_code}",
                f"their lines in {target.name} say why; --retry-errors tries them again, a mended input needs --restart",
            )


def _same_command(spooled: Path | None) -> str:
    """The command line that was typed, without --restart, which would throw away what is done. spooled: the copy of stdin."""
    command = shlex.join(["olc", *(argument for argument in sys.argv[1:] if argument != "--restart")])
    return command if spooled is None else f"{command} < {shlex.quote(str(spooled))}"
