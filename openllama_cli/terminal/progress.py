"""Progress on stderr: the rich side of `system.progress.Progress`.

On a terminal something moves from the start on, also while a bar stands still, such as during imports. Elsewhere only work that
takes longer than `FIRST_LINE` is heard of, in lines that become rarer, and the steps of work that has steps.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from openllama_cli.terminal.figures import clock
from openllama_cli.terminal.streams import is_terminal, notice, one_line, stderr_console

if TYPE_CHECKING:
    from rich import progress as parts

FIRST_LINE = 30.0
"""Seconds until the first line in a pipe; the next ones come after twice the time each."""
_TIME = ("TimeElapsedColumn",)


@contextmanager
def working(label: str) -> Iterator[None]:
    """A spinner and the time on a terminal while the block works; nothing elsewhere."""
    progress = TerminalProgress()
    progress.start(label, None)
    try:
        yield
    finally:
        progress.finish()


class TerminalProgress:
    """One bar at a time, in bytes, or a spinner if the total is unknown."""

    def __init__(self) -> None:
        self._progress: parts.Progress | None = None
        self._task: parts.TaskID | None = None
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._first: int | None = None
        self._begun = self._next_line = 0.0

    def start(self, label: str, total_bytes: int | None) -> None:
        """Begin a task; the current one ends."""
        self._show(label, total_bytes, ("BarColumn", "DownloadColumn", "TimeRemainingColumn") if total_bytes else _TIME)
        self._label, self._total, self._done, self._first = label, total_bytes, 0, None
        self._begun = time.monotonic()
        self._next_line = self._begun + FIRST_LINE

    def start_steps(self, label: str, steps: int) -> None:
        """Begin a task of `steps` steps; `step` names each."""
        self._show(label, steps, ("BarColumn", "MofNCompleteColumn", *_TIME))
        self._total = steps

    def step(self, label: str, done: int) -> None:
        """Show the current step and how many steps are done."""
        if self._progress is not None and self._task is not None:
            from rich.text import Text

            self._progress.update(self._task, description=Text(one_line(label)).markup, completed=done)
        else:
            notice(f"{label} ({done} of {self._total} done)")

    def _show(self, label: str, total: int | None, columns: tuple[str, ...]) -> None:
        """Begin a bar of rich's columns, after a spinner and the label; nothing where there is no terminal."""
        self.finish()
        if not is_terminal(sys.stderr) or stderr_console().is_dumb_terminal:
            return
        # Not at the top: without a terminal nothing of it is needed.
        from rich import progress as parts
        from rich.text import Text

        shown = [parts.SpinnerColumn(), parts.TextColumn("{task.description}"), *(getattr(parts, name)() for name in columns)]
        self._progress = parts.Progress(*shown, console=stderr_console(), transient=True)
        # rich reads markup in descriptions: a file name with brackets would vanish.
        description = Text(one_line(label)).markup
        self._task = self._progress.add_task(description, total=total)
        self._progress.start()

    def advance(self, count: int) -> None:
        """Add to the bytes done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)
            return
        self._done += count
        if self._first is None:
            # What came before, such as imports, says nothing of how fast the bytes come.
            self._first, self._begun = count, time.monotonic()
            self._next_line = self._begun + FIRST_LINE
            return
        if self._total and time.monotonic() >= self._next_line:
            self._report(self._total)

    def _report(self, total: int) -> None:
        """A line about work that takes long, where no bar is shown."""
        from rich.filesize import decimal as size

        passed = time.monotonic() - self._begun
        self._next_line = time.monotonic() + 2 * passed
        since = self._done - (self._first or 0)
        left = clock((total - self._done) * passed / since) if since > 0 else "?"
        speed = f"{size(int(max(since, 0) / passed))}/s"
        notice(f"{self._label}: {size(self._done)} of {size(total)}, {speed}, about {left} left")

    def finish(self) -> None:
        """End the bar and clear its line."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None
