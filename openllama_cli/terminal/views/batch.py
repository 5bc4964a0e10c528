"""Progress of a batch: a bar on a terminal, a line now and then elsewhere, JSON lines for programs."""

import sys
import time
from typing import TYPE_CHECKING

from openllama_cli.terminal.figures import clock
from openllama_cli.terminal.streams import is_terminal, notice, out_json, stderr_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


_LINE_SECONDS = 30.0
_JSON_SECONDS = 1.0


class BatchProgress:
    """Shows counts as they come.

    total: rows of the input. before: rows that an earlier run finished. as_json: lines on stdout instead of a bar or text.
    """

    def __init__(self, total: int, before: int, *, as_json: bool) -> None:
        self._total, self._before = total, before
        self._as_json = as_json
        self._started = self._reported = time.monotonic()
        self._rows = self._failed = self._tokens = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._reader_left = False
        if not as_json and is_terminal(sys.stderr) and not stderr_console().is_dumb_terminal:
            from rich import progress as parts

            columns = (
                parts.BarColumn(bar_width=None),
                parts.MofNCompleteColumn(),
                parts.TextColumn("{task.fields[failed]}{task.fields[speed]} tokens/s"),
                parts.TimeRemainingColumn(compact=True),
            )
            self._bar = parts.Progress(*columns, console=stderr_console(), transient=True, expand=True)
            self._task = self._bar.add_task("", total=total, completed=before, failed="", speed="0")
            self._bar.start()

    def update(self, rows: int, failed: int, tokens: int) -> None:
        """Show the counts of this run so far."""
        self._rows, self._failed, self._tokens = rows, failed, tokens
        if self._bar is not None and self._task is not None:
            words = f"{failed} failed, " if failed else ""
            self._bar.update(self._task, completed=self._before + rows, failed=words, speed=f"{self.tokens_per_s:.0f}")
            return
        now = time.monotonic()
        if now - self._reported >= (_JSON_SECONDS if self._as_json else _LINE_SECONDS):
            self._reported = now
            self._report(done=False)

    def finish(self, *, done: bool) -> None:
        """End the bar. done: whether the batch is finished."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._as_json:
            self._report(done=done)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second, all rows together."""
        return self._tokens / max(self.seconds, 1e-9)

    def _report(self, *, done: bool) -> None:
        rows = self._before + self._rows
        left = (self._total - rows) / self._rows * self.seconds if self._rows else None
        if self._as_json:
            document = {
                "rows": rows,
                "total": self._total,
                "failed": self._failed,
                "tokens": self._tokens,
                "tokens_per_s": round(self.tokens_per_s, 2),
                "seconds": round(self.seconds, 2),
                "seconds_left": None if left is None else round(left, 1),
                "done": done,
            }
            try:
                if not self._reader_left:
                    out_json(document)
            except BrokenPipeError:
                self._reader_left = True  # OUTPUT is written all the same.
            return
        words = f", {self._failed} failed" if self._failed else ""
        time_left = "" if left is None else f", {clock(left)} left"
        notice(f"olc: {rows} of {self._total} rows{words}, {self.tokens_per_s:.0f} tokens/s{time_left}")
