"""One run of a batch: its annotations, rows from a runner into the journal, signals that stop it, and the messages about it."""

import contextlib
import hashlib
import shlex
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from openllama_cli.annotation.documents import parse_kinds
from openllama_cli.batch.input.readers import FormatName
from openllama_cli.batch.input.rows import Row, RowSettings
from openllama_cli.batch.output.results import ENDED_BY_US, MAY_PASS, Results
from openllama_cli.commands.batch.engines import Engine, Work
from openllama_cli.commands.shared.annotations import PipelineOptions, tell_lacking, tell_notes
from openllama_cli.commands.shared.few_shot import tell_cut
from openllama_cli.errors import OlcError, RowsFailedError, Terminated, UsageError
from openllama_cli.generation.text.hints import AGAINST_LOOPS
from openllama_cli.system.convert import to_utf8
from openllama_cli.system.files import file_fingerprint
from openllama_cli.terminal.streams import hint, notice
from openllama_cli.terminal.views.batch import BatchProgress

if TYPE_CHECKING:
    from openllama_cli.annotation.pipeline import Pipeline
    from openllama_cli.batch.input.precheck import InputSummary
    from openllama_cli.batch.journal.journal import Journal

# A sentence of any language, to see what a pipeline gives before a night's work.
_PROBE = "Berlin 2024."
# A row may take minutes. Whoever stops a batch wants it stopped; rows that are not finished by then are run again on resuming.
GRACE_SECONDS = 1.5


@dataclass
class RowAnnotator:
    """Annotates the texts of rows, once it is open; `batch.output.results.Results` calls it. It is made without spaCy."""

    kinds: tuple[str, ...]
    chosen: PipelineOptions
    pipeline: "Pipeline" = field(init=False)

    @classmethod
    def parse(cls, kinds: str | None, chosen: PipelineOptions) -> "RowAnnotator | None":
        """None where nothing is to be annotated. Raises UsageError."""
        if kinds is not None:
            return cls(parse_kinds(kinds, flag="--annotate"), chosen)
        if chosen.given:
            raise UsageError(f"{chosen.given} is for annotations", "add --annotate, such as --annotate entities")
        return None

    def open(self) -> None:
        """Load the pipeline. Raises OlcError for one that gives nothing of what is asked for."""
        from openllama_cli.annotation.annotate import annotate_completions
        from openllama_cli.annotation.documents import lacking

        self.pipeline = self.chosen.open()
        probed = annotate_completions(self.pipeline, [_PROBE], self.kinds)[0]
        tell_lacking(self.pipeline, lacking(probed.pieces, self.kinds), self.kinds, asked=True)

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        from openllama_cli.annotation.annotate import annotate_rows

        rows = annotate_rows(self.pipeline, texts, self.kinds)
        tell_notes(self.pipeline)
        return rows

    @property
    def options(self) -> dict[str, str]:
        """For the journal's header, as options: --annotate and --pipeline. Of a pipeline's files as of a model's."""
        digest = hashlib.sha256(repr(sorted(self.pipeline.identity.items())).encode())
        folder = self.pipeline.folder
        if folder is not None:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                digest.update(repr((str(file.relative_to(folder)), file_fingerprint(file))).encode())
        name = f"{self.pipeline.identity['pipeline']}-{self.pipeline.identity['version']}"
        return {"annotate": ",".join(self.kinds), "pipeline": f"{digest.hexdigest()[:12]}:{name}"}


@dataclass
class Batch:
    """One run: rows of an input into a journal.

    batch_size: None for what the engine thinks best. annotate: annotates the rows, if that is asked for. source: INPUT, as it
    was named. spooled: the copy of stdin, if that is the input. as_json: progress for programs.
    """

    journal: "Journal"
    summary: "InputSummary"
    stop: "GracefulStop"
    engine: Engine
    settings: RowSettings
    batch_size: int | None
    annotate: RowAnnotator | None
    source: str
    spooled: Path | None
    as_json: bool

    def __post_init__(self) -> None:
        self._results = Results(self.journal, self.annotate)
        self._speed = ""
        if self.journal.counts.done:
            notice(f"olc: resuming: {self.journal.counts.done} of {self.summary.rows} rows are done")
        if self.journal.damaged:
            notice(f"olc: {self.journal.damaged} lines of the journal were damaged; retrying their rows")

    def run(self, rows: Iterable[Row]) -> None:
        """Work through the rows that are not done. A signal ends it, with the command that resumes it printed."""
        try:
            self._run(rows)
        except (KeyboardInterrupt, Terminated):
            self._stopped()
            raise

    def _run(self, rows: Iterable[Row]) -> None:
        with self.engine.runner(self._work()) as runner:
            self.stop.running = True
            shown = BatchProgress(self.summary.rows, self.journal.counts.done, as_json=self.as_json)
            complete = False
            try:
                for progress in runner.run(rows):
                    shown.update(progress.rows, progress.failed, progress.tokens)
                    self._results.flush_if_due()
                self._results.flush()
                self.stop.finish()
                complete = True
            finally:
                shown.finish(done=complete)
                self.stop.running = False
            seconds, rows_done = shown.seconds, runner.progress.rows
        self._speed = f"{_rows(rows_done)} in {seconds:.1f} s, {shown.tokens_per_s:.0f} tokens/s"

    def report(self, target: Path) -> None:
        """Say what was written; raises RowsFailedError if rows failed."""
        counts = self.journal.counts
        text = f"olc: wrote {target}: {_rows(self.summary.rows)}, {counts.failed} failed"
        notice(f"{text} ({self._speed})" if self._speed else text)
        self._hint_ends()
        if self.settings.fit is not None and self.settings.few_shot is not None:
            max_tokens = self.settings.sampling.max_tokens if self.settings.choosing.choices is None else None
            tell_cut(self.settings.fit, self.summary.rows, self.settings.few_shot.shots, max_tokens)
        if self._speed and self.engine.caution is not None:
            notice(f"olc: {self.engine.caution}")
        if counts.failed:
            by_code = ", ".join(f"{count} {code}" for code, count in sorted(counts.by_code.items()))
            raise RowsFailedError(f"{counts.failed} of {self.summary.rows} rows failed: {by_code}", self._remedy(target))

    def _hint_ends(self) -> None:
        """Mention rows that ended otherwise than they should have."""
        if looped := self._results.looped:
            hint(f'{_rows(looped)} went in circles and ended there (finish_reason "repetition"); {AGAINST_LOOPS}')
        if incomplete := self._results.incomplete:
            hint(f'{_rows(incomplete)} ended before the text was complete ("constraint"); a larger -n gives it more tokens')

    def _remedy(self, target: Path) -> str:
        """What to do about rows that failed: a retry only for what may not happen again."""
        by_code = self.journal.counts.by_code
        remedies = [f"their lines in {target.name} say why"]
        if self.journal.kept and MAY_PASS & set(by_code):
            remedies.append(f"--retry-errors retries those with {' or '.join(sorted(MAY_PASS & set(by_code)))}")
        name = "stdin" if self.source == "-" else self.source
        if "invalid_utf8" in by_code and self.summary.encoding is not None:
            encoding = self.summary.encoding
            pipe = f"pipe it through iconv -f {encoding} -t UTF-8"
            line = pipe if self.source == "-" else f"convert it; if it is Western European: {to_utf8(Path(name), encoding)}"
            remedies.append(f"{name} is not UTF-8: {line}")
        elif set(by_code) - ENDED_BY_US:
            again = " and run all again with --restart" if self.journal.kept else ""
            remedies.append(f"correct the rows of {name}{again}, or run them alone, from a file of their own")
        return "; ".join(remedies)

    def _work(self) -> Work:
        return Work(
            self.summary.rows - self.journal.counts.done,
            self.summary.longest_prompt + self.settings.sampling.max_tokens,
            self.batch_size,
            self._results.append,
            lambda: self.stop.requested,
            self.journal.begin_run,
        )

    def _stopped(self) -> None:
        """Keep what is finished, and say how to resume."""
        with contextlib.suppress(OlcError):  # The interrupt is what counts now; opening it again finds what is there.
            self._results.flush()
            self.journal.close()
        if not self.journal.kept:
            notice(
                f"olc: stopped with {self.journal.counts.done} of {self.summary.rows} rows done; give -o a file to resume from"
            )
            return
        # Without --restart, which would throw away what is done.
        command = shlex.join(["olc", *(argument for argument in sys.argv[1:] if argument != "--restart")])
        if self.spooled is not None:
            command += f" < {shlex.quote(str(self.spooled))}"
        notice(f"olc: stopped with {self.journal.counts.done} of {self.summary.rows} rows done; to resume:\n  {command}")


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def tell_empty(summary: "InputSummary", fmt: FormatName) -> None:
    """Say how many prompts are empty, which few mean."""
    if summary.empty:
        are = "prompt is" if summary.rows == 1 else f"prompts {'is' if summary.empty == 1 else 'are'}"
        notice(f"olc: {summary.empty} of {summary.rows} {are} empty" + (", as blank lines are prompts" if fmt == "txt" else ""))


def input_changed(source: str, remedy: str) -> OlcError:
    """For rows that are not those that were counted."""
    return OlcError(f"{source} was changed during the run", f"results may mix both versions; {remedy}", code="input_changed")


class GracefulStop:
    """Handles SIGINT and SIGTERM while its context lasts; only in the main thread.

    requested: whether to begin no more rows. running: whether rows are in flight; else a signal ends the work at once. After a
    first signal the context's work has `GRACE_SECONDS`; then, or at a second signal, KeyboardInterrupt (SIGINT) or Terminated
    (SIGTERM) is raised in it. If the work ends before that, `finish` raises it.
    """

    def __init__(self) -> None:
        self.requested = False
        self.running = False
        self._number = signal.SIGINT
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "GracefulStop":
        handlers = {signal.SIGINT: self._first, signal.SIGTERM: self._first, signal.SIGALRM: lambda *_: self._raise()}
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def finish(self) -> None:
        """Raise what the signal stands for, if there was one."""
        if self.requested:
            self._raise()

    def _first(self, number: int, frame: FrameType | None) -> None:
        self._number = signal.Signals(number)
        if self.requested or not self.running:
            self._raise()
        self.requested = True
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        notice("stopping: rows in flight have a moment to finish; repeat to stop at once")

    def _raise(self) -> NoReturn:
        # Nothing may interrupt what is closed and written on the way out.
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Terminated if self._number == signal.SIGTERM else KeyboardInterrupt
