"""`olc sgd` on a terminal: the curves while it learns, then what was misread. In a pipe: a line for each epoch."""

import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import is_terminal, out, stdout_console
from openllama_cli.terminal.views.curves import curve, half_blocks
from openllama_cli.terminal.views.generate import bar

_SIDE_BY_SIDE = 72
_AXIS = 7
_GAP = 2
_FEW = 4


class TrainingView:
    """Shows epochs as they are done. epochs: how many there will be."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._costs: list[float] = []
        self._accuracies: list[float] = []
        self._said = ""
        self._warning = ""
        self._live: Live | None = None
        self._started = time.monotonic()

    def __enter__(self) -> "TrainingView":
        console = stdout_console()
        if is_terminal(sys.stdout) and not console.is_dumb_terminal:
            # Drawn some times a second, not after each epoch: small data have hundreds a second.
            self._live = Live(get_renderable=self._picture, console=console, refresh_per_second=10)
            self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def add(self, epoch: int, cost: float, correct: int, total: int) -> None:
        """An epoch is done. cost: of the training data. correct, total: of the test data."""
        self._costs.append(cost)
        self._accuracies.append(correct / total)
        self._said = f"{correct:,} of {total:,} correct ({correct / total:.1%})"
        if self._live is None:
            out(f"epoch {epoch:>{len(str(self._epochs))}}: cost {_cost(cost)}, {self._said}\n")

    def warn(self, text: str) -> bool:
        """Show a warning below the curves while they are drawn. False where nothing is drawn."""
        self._warning = text
        return self._live is not None

    def _picture(self) -> Group:
        console = stdout_console()
        done = len(self._costs)
        spent = time.monotonic() - self._started
        left = f"{_clock(spent / done * (self._epochs - done))} left" if done else ""
        if done == self._epochs:
            left = f"took {spent:.1f} s"
        head = f"epoch {done}/{self._epochs}"
        room = min(max(console.width - len(head) - len(left) - 4, 5), 40)
        lines = [Text.assemble((head, "bold"), "  ", (bar(done / self._epochs, room), "cyan"), "  ", left)]
        if done:
            lines += self._curves(console.width, max(3, min(8, (console.height - 8) // 2)))
        if self._warning:
            # Wrapped here, since this console leaves long lines to the terminal.
            lines += Text(self._warning, style="yellow").wrap(console, console.width)
        return Group(*lines)

    def _curves(self, width: int, height: int) -> list[Text]:
        beside = width >= _SIDE_BY_SIDE
        each = (width - _GAP) // 2 if beside else width
        costs, accuracies = list(self._costs), list(self._accuracies)
        top, bottom = max(costs), math.floor(min(accuracies) * 10) / 10
        left = self._panel(f"cost {_cost(costs[-1])}", costs, each, height, (0.0, top), ("0", f"{top:.3g}"), "yellow")
        ends = (f"{bottom:.0%}", "100%")
        right = self._panel(self._said, accuracies, each, height, (bottom, 1.0), ends, "green")
        if not beside:
            return left + right
        lines = []
        for one, other in zip(left, right, strict=True):
            one.truncate(each, pad=True)
            lines.append(Text.assemble(one, " " * _GAP, other))
        return lines

    def _panel(
        self,
        title: str,
        values: Sequence[float],
        width: int,
        height: int,
        bounds: tuple[float, float],
        ends: tuple[str, str],
        style: str,
    ) -> list[Text]:
        """A title and a curve with its axis, `height` + 1 lines. ends: the labels of the bounds, lowest and highest."""
        drawn = curve(values, self._epochs, max(width - _AXIS - 1, 4), height, *bounds)
        labels = [ends[1], *[""] * (height - 2), ends[0]]
        title_line = Text(f"{'':>{_AXIS}} {title}", style="bold")
        title_line.truncate(width)
        axes = [Text.assemble((f"{label:>{_AXIS - 1}}▕", "dim"), " ") for label in labels]
        return [title_line, *(axis.append(row, style=style) for axis, row in zip(axes, drawn, strict=True))]


def show_confusion(counts: Sequence[Sequence[int]]) -> None:
    """How often each digit (a row) was read as each (a column), on a terminal."""
    view = Table(
        box=None, title=Text("digit (row) read as (column)"), title_justify="left", pad_edge=False, padding=(0, 1, 0, 0)
    )
    view.add_column("", justify="right", style="bold")
    for digit in range(len(counts)):
        view.add_column(str(digit), justify="right")
    for digit, row in enumerate(counts):
        cells = [
            Text("·", style="dim") if not count else Text(str(count), style="green" if digit == other else "bold red")
            for other, count in enumerate(row)
        ]
        view.add_row(str(digit), *cells)
    stdout_console().print(Padding(view, (1, 0, 0, 0)), soft_wrap=False)


def show_misread(images: Sequence[tuple[Sequence[Sequence[float]], int, int]], total: int) -> None:
    """Some misread images side by side. images: pixels from 0 to 1, the digit, and what it was read as.

    Small images take one row, as many as fit; of large ones there are at least four, in several rows.
    """
    if not images:
        return
    console = stdout_console()
    color = console.color_system is not None and not console.no_color
    size = max(len(images[0][0][0]), len("8 as 1"))
    fitting = max(1, (console.width + _GAP) // (size + _GAP))
    shown = images[: max(fitting, _FEW)]
    heading = "misread" if len(shown) == total else f"misread, the {len(shown)} surest of {total:,}"
    console.print(Text(f"\n{heading} (digit as answer)"))
    for first in range(0, len(shown), fitting):
        row = [
            [Text(f"{label} as {answer}"), *half_blocks(image, color=color)] for image, label, answer in shown[first:][:fitting]
        ]
        for parts in zip(*row, strict=True):
            line = Text()
            for part in parts:
                part.pad_right(size + _GAP - part.cell_len)
                line.append_text(part)
            line.right_crop(_GAP)
            console.print(line, no_wrap=True, crop=True)


def show_steps(steps: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Titles with lines below; on a terminal the lines wrap with their indentation."""
    if not is_terminal(sys.stdout):
        out("\n".join(title + "".join(f"\n  {line}" for line in lines) + "\n" for title, lines in steps))
        return
    for place, (title, lines) in enumerate(steps):
        stdout_console().print(Text(title if not place else f"\n{title}", style="bold"))
        for line in lines:
            stdout_console().print(Padding(Text(line), (0, 0, 0, 2)), soft_wrap=False)


def _cost(cost: float) -> str:
    return f"{cost:.4f}" if 0.001 <= cost < 1000 else f"{cost:.3g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
