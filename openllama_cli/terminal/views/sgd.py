"""`olc sgd`: on a terminal curves during training, then the misread digits; in a pipe one line per epoch."""

import math
import sys
import time
from collections.abc import Sequence

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.figures import clock
from openllama_cli.terminal.streams import is_terminal, out, stdout_console
from openllama_cli.terminal.views.generate import bar

_SIDE_BY_SIDE = 72
_AXIS = 7
_GAP = 2
_FEW = 4
_BRAILLE = 0x2800
# The bits of a braille character's dots: two columns of four.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_INK = 0.5


class TrainingView:
    """Shows epochs as they finish. epochs: how many there will be."""

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
            # Drawn ten times a second, not after each epoch: small data sets have hundreds of epochs a second.
            self._live = Live(get_renderable=self._picture, console=console, refresh_per_second=10)
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def add(self, epoch: int, cost: float, correct: int, total: int) -> None:
        """Add a finished epoch. cost: of the training data. correct, total: of the test data."""
        self._costs.append(cost)
        self._accuracies.append(correct / total)
        self._said = f"{correct:,} of {total:,} correct ({correct / total:.1%})"
        if self._live is None:
            out(f"epoch {epoch:>{len(str(self._epochs))}}: cost {_cost(cost)}, {self._said}\n")

    def warn(self, text: str) -> bool:
        """Show a warning below the curves. False if no curves are being drawn."""
        self._warning = text
        return self._live is not None

    def _picture(self) -> Group:
        console = stdout_console()
        done = len(self._costs)
        spent = time.monotonic() - self._started
        left = f"{clock(spent / done * (self._epochs - done))} left" if done else ""
        if done == self._epochs:
            left = f"took {spent:.1f} s"
        head = f"epoch {done}/{self._epochs}"
        room = min(max(console.width - len(head) - len(left) - 4, 5), 40)
        lines = [Text.assemble((head, "bold"), "  ", (bar(done / self._epochs, room), "cyan"), "  ", left)]
        if done:
            lines += self._curves(console.width, max(3, min(8, (console.height - 8) // 2)))
        if self._warning:
            # Wrapped here, since this console does not wrap.
            lines += Text(self._warning, style="yellow").wrap(console, console.width)
        return Group(*lines)

    def _curves(self, width: int, height: int) -> list[Text]:
        beside = width >= _SIDE_BY_SIDE
        each = (width - _GAP) // 2 if beside else width
        # Copied, since the thread that draws must not see them grow.
        costs, accuracies = list(self._costs), list(self._accuracies)
        top, bottom = max(costs), math.floor(min(accuracies) * 10) / 10
        size = (each, height)
        left = self._panel(f"cost {_cost(costs[-1])}", costs, size, (0.0, top), ("0", f"{top:.3g}"), "yellow")
        right = self._panel(self._said, accuracies, size, (bottom, 1.0), (f"{bottom:.0%}", "100%"), "green")
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
        values: list[float],
        size: tuple[int, int],
        bounds: tuple[float, float],
        ends: Sequence[str],
        style: str,
    ) -> list[Text]:
        """A title and a curve with its axis. size: columns and rows of the curve. ends: labels of the bounds, lowest first."""
        width, height = size
        drawn = curve(values, self._epochs, max(width - _AXIS - 1, 4), height, *bounds)
        labels = [ends[1], *[""] * (height - 2), ends[0]]
        title_line = Text(f"{'':>{_AXIS}} {title}", style="bold")
        title_line.truncate(width)
        axes = [Text.assemble((f"{label:>{_AXIS - 1}}▕", "dim"), " ") for label in labels]
        return [title_line, *(axis.append(row, style=style) for axis, row in zip(axes, drawn, strict=True))]


def show_confusion(counts: Sequence[Sequence[int]]) -> None:
    """How often each digit (a row) was read as each (a column), on a terminal."""
    title = Text("digit (row) read as (column)")
    view = Table(box=None, title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
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

    Of small images as many as fit in one row, of large ones at least four, in several rows.
    """
    if not images:
        return
    console = stdout_console()
    color = console.color_system is not None and not console.no_color
    size = max(len(images[0][0][0]), len("8 as 1"))
    fitting = max(1, (console.width + _GAP) // (size + _GAP))
    shown = images[: max(fitting, _FEW)]
    heading = "misread" if len(shown) == total else f"misread, the {len(shown)} most confident of {total:,}"
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
    """Titles with lines below them; on a terminal the lines wrap at their indentation."""
    if not is_terminal(sys.stdout):
        out("\n".join(title + "".join(f"\n  {line}" for line in lines) + "\n" for title, lines in steps))
        return
    for place, (title, lines) in enumerate(steps):
        stdout_console().print(Text(title if not place else f"\n{title}", style="bold"))
        for line in lines:
            stdout_console().print(Padding(Text(line), (0, 0, 0, 2)), soft_wrap=False)


def _cost(cost: float) -> str:
    return f"{cost:.4f}" if 0.001 <= cost < 1000 else f"{cost:.3g}"


def curve(values: Sequence[float], places: int, width: int, height: int, lowest: float, highest: float) -> list[str]:
    """A line through the values in braille dots: `height` rows of `width` characters, from `lowest` (bottom) to `highest`.

    places: how many values there will be; the curve reaches the right edge with the last one.
    """
    dots = [[0] * width for _ in range(height)]
    columns, rows = 2 * width - 1, 4 * height - 1

    def spot(place: int) -> tuple[int, int]:
        share = min(max((values[place] - lowest) / (highest - lowest), 0.0), 1.0) if highest > lowest else 0.0
        return round(place / max(places - 1, 1) * columns), round((1 - share) * rows)

    def mark(x: int, y: int) -> None:
        dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]

    for place in range(len(values)):
        x, y = spot(place)
        before_x, before_y = spot(place - 1) if place else (x, y)
        steps = max(x - before_x, abs(y - before_y), 1)
        for step in range(steps + 1):
            mark(before_x + round((x - before_x) * step / steps), before_y + round((y - before_y) * step / steps))
    # Spaces where there are no dots: some fonts draw the empty braille character as eight circles.
    return ["".join(chr(_BRAILLE + bits) if bits else " " for bits in row) for row in dots]


def half_blocks(image: Sequence[Sequence[float]], *, color: bool) -> list[Text]:
    """An image of numbers from 0 (paper) to 1 (ink) in half blocks: one character for two pixels, one above the other.

    Without color a pixel is either ink or paper.
    """
    columns = len(image[0])
    padded = [*image, [0.0] * columns] if len(image) % 2 else image
    lines = []
    for upper, lower in zip(padded[::2], padded[1::2], strict=True):
        line = Text()
        for above, below in zip(upper, lower, strict=True):
            if color:
                line.append("▀", style=f"{_grey(above)} on {_grey(below)}")
            else:
                line.append(" ▀▄█"[(above >= _INK) + 2 * (below >= _INK)])
        lines.append(line)
    return lines


def _grey(ink: float) -> str:
    level = round(255 * min(max(ink, 0.0), 1.0))
    return f"#{level:02x}{level:02x}{level:02x}"
