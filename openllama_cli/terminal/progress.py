"""Progress bars on stderr, only on a terminal: the rich side of `system.progress.Progress`."""

import sys

from rich import progress as parts
from rich.text import Text

from openllama_cli.terminal.streams import is_terminal, one_line, stderr_console


class TerminalProgress:
    """One bar at a time, in bytes, or a spinner if the total is unknown; silent if stderr is not a terminal."""

    def __init__(self) -> None:
        self._progress: parts.Progress | None = None
        self._task: parts.TaskID | None = None

    def start(self, label: str, total_bytes: int | None) -> None:
        """Begin a task; the current one ends."""
        columns: tuple[parts.ProgressColumn, ...] = (
            (parts.TextColumn("{task.description}"), parts.BarColumn(), parts.DownloadColumn(), parts.TimeRemainingColumn())
            if total_bytes
            else (parts.SpinnerColumn(), parts.TextColumn("{task.description}"), parts.TimeElapsedColumn())
        )
        self._show(label, total_bytes, columns)

    def start_steps(self, label: str, steps: int) -> None:
        """Begin a task of `steps` steps; `step` names each."""
        label_and_bar = (parts.TextColumn("{task.description}"), parts.BarColumn())
        self._show(label, steps, (*label_and_bar, parts.MofNCompleteColumn(), parts.TimeElapsedColumn()))

    def step(self, label: str, done: int) -> None:
        """Show the current step and how many steps are done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=Text(one_line(label)).markup, completed=done)

    def _show(self, label: str, total: int | None, columns: tuple[parts.ProgressColumn, ...]) -> None:
        self.finish()
        if not is_terminal(sys.stderr) or stderr_console().is_dumb_terminal:
            return
        self._progress = parts.Progress(*columns, console=stderr_console(), transient=True)
        # rich reads markup in descriptions: a file name with brackets would vanish.
        description = Text(one_line(label)).markup
        self._task = self._progress.add_task(description, total=total)
        self._progress.start()

    def advance(self, count: int) -> None:
        """Add to the bytes done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)

    def finish(self) -> None:
        """End the bar and clear its line."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None
