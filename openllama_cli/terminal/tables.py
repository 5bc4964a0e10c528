"""Tables on stdout: rich on a terminal, tab-separated lines in a pipe, for cut and awk."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import is_terminal, one_line, out, stdout_console


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Show rows under columns.

    right: columns aligned to the right. optional: columns that a narrow terminal leaves out, the first of them first; a pipe
    gets them all.
    """
    if not is_terminal(sys.stdout):
        out("\n".join("\t".join(one_line(cell) for cell in line) for line in [columns, *rows]) + "\n")
        return
    columns, rows = _fitted(columns, rows, optional)
    view = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        view.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        view.add_row(*(Text(one_line(cell)) for cell in row))
    stdout_console().print(view, soft_wrap=False)


def _fitted(
    columns: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Leave out optional columns, one after another, until the table fits the terminal or none is left."""
    for name in (*optional, None):
        widths = [max(cell_len(one_line(line[place])) for line in [columns, *rows]) for place in range(len(columns))]
        if name is None or sum(widths) + 2 * len(widths) <= stdout_console().width:
            break
        place = columns.index(name)
        columns, *rows = ([*line[:place], *line[place + 1 :]] for line in [columns, *rows])
    return columns, rows


def fields(pairs: Iterable[tuple[str, str | None]], styles: Mapping[str, str] = MappingProxyType({})) -> None:
    """Show names and values, one pair per line, without those that have no value. styles: name → of its value on a terminal."""
    known = [(name, one_line(value)) for name, value in pairs if value]
    if not is_terminal(sys.stdout):
        out("".join(f"{name}\t{value}\n" for name, value in known))
        return
    view = Table.grid(padding=(0, 2))
    view.add_column(style="dim", no_wrap=True)
    view.add_column(overflow="fold")
    for name, value in known:
        view.add_row(Text(name), Text(value, style=styles.get(name, "")))
    stdout_console().print(view, soft_wrap=False)


def figure(value: float) -> str:
    """A measured number with three digits, never in scientific notation: "0.0123", "47.1", "1,250"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """A time to wait: "0:07", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
