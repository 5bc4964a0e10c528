"""Bars of `olc bench`, on a terminal and as a picture."""

import sys
from collections.abc import Sequence

from rich.text import Text

from openllama_cli.terminal.figures import figure
from openllama_cli.terminal.streams import is_terminal, one_line, stdout_console
from openllama_cli.terminal.views.generate import bar, text_svg

_WIDTH = 30


def bars(title: str, values: Sequence[tuple[str, float]]) -> Text:
    """One bar per value; the largest is full. A single value has none: there is nothing to compare it with."""
    most = max((value for _, value in values), default=0.0) or 1.0
    names = max((len(name) for name, _ in values), default=0)
    text = Text(f"{title}\n", style="bold")
    for name, value in values:
        text.append(f"{one_line(name):<{names}} ", style="not bold")
        if len(values) > 1:
            text.append(bar(value / most, _WIDTH), style="not bold cyan")
        text.append(f" {figure(value)}\n", style="not bold")
    return text


def show_bars(title: str, values: Sequence[tuple[str, float]]) -> None:
    """Print bars on a terminal, if there is something to compare; a pipe gets only the table."""
    if is_terminal(sys.stdout) and len(values) > 1:
        stdout_console().print(bars(title, values))


def bars_svg(charts: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, title: str) -> str:
    """The charts as a self-contained SVG picture."""
    return text_svg([bars(name, values) for name, values in charts], title=title, width=76)
