"""Tables on stdout: rich on a terminal, tab-separated lines in a pipe, for cut and awk."""

import re
import sys
from collections.abc import Collection, Iterable, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import cell, is_terminal, one_line, out, stdout_console


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
        out("\n".join("\t".join(cell(text) for text in line) for line in [columns, *rows]) + "\n")
        return
    columns, rows = _fitted(columns, rows, optional)
    view = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        view.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        view.add_row(*(Text(one_line(text)) for text in row))
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


def fields(pairs: Iterable[tuple[str, str | None]], *, commands: Collection[str] = ()) -> None:
    """Show names and values, one pair per line, without those that have no value.

    commands: names of values to copy, which no line break of ours cuts.
    """
    known = [(name, value) for name, value in pairs if value]
    if not is_terminal(sys.stdout):
        out("".join(f"{name}\t{cell(value)}\n" for name, value in known))
        return
    width = max((cell_len(name) for name, _ in known), default=0) + 2
    console = stdout_console()
    for name, value in known:
        text = Text(one_line(value))
        if name in commands:
            lines = [text] if width + text.cell_len <= console.width else [Text(), text]
        else:
            lines = list(text.wrap(console, max(console.width - width, 10), overflow="fold"))
        for place, line in enumerate(lines):
            label = Text((name if place == 0 else "").ljust(width), style="dim")
            console.print(label + line if line is not text or len(lines) == 1 else line, soft_wrap=True)


def wrapped(text: str, width: int) -> list[Text]:
    """Lines of at most `width` cells from a text with commands in backticks, which are bold instead and never cut.

    A command that is longer than a line has one to itself, which the terminal itself breaks.
    """
    words: list[tuple[str, str]] = []
    for place, part in enumerate(text.split("`")):
        if place % 2:
            words.append((part, "bold"))
        else:
            words += [(word, "") for word in re.findall(r"\s+|\S+", part)]
    lines, line = [], Text()
    for word, look in words:
        if line and line.cell_len + cell_len(word.rstrip()) > width:
            line.rstrip()
            lines.append(line)
            line = Text()
        if line or word.strip():
            line.append(word, style=look)
    line.rstrip()
    return [*lines, line]
