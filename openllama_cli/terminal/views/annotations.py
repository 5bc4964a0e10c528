"""Annotated text: entities in color, tokens in a table, trees of words; in a pipe tab-separated lines.

The result of `olc annotate` goes to stdout, the annotations of a completion to stderr.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import drop, is_terminal, one_line, out, stderr_console, stdout_console, visible

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True)
class Mark:
    """A part of a text with a label. start, end: in code points. color: "#rrggbb"."""

    start: int
    end: int
    label: str
    color: str


@dataclass(frozen=True)
class Node:
    """A word of a dependency tree. head: the place of its head among the nodes; its own for a root."""

    word: str
    relation: str
    pos: str
    head: int


class AnnotationWriter:
    """Writes annotations to one of the streams. terminal: whether people look at it, who see more than lines."""

    def __init__(self, stream: Stream = "stdout") -> None:
        self._stream = stream
        self.terminal = is_terminal(sys.stdout if stream == "stdout" else sys.stderr)
        self._columns: tuple[str, ...] = ()

    def lines(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Tab-separated lines; the names of the columns are written once."""
        written = [tuple(columns), *rows] if self._columns != tuple(columns) else rows
        self._columns = tuple(columns)
        self._plain("".join("\t".join(one_line(cell) for cell in line) + "\n" for line in written))

    def marked(self, text: str, marks: Sequence[Mark]) -> None:
        """A text with its marks in color, or in brackets where there is no color."""
        console = self._console()
        colored = console.color_system is not None and not console.no_color
        shown, place = Text(), 0
        for mark in marks:
            shown.append(visible(text[place : mark.start]))
            word, label = visible(text[mark.start : mark.end]), one_line(mark.label)
            if colored:
                # The blank between them has the color too, so that word and label are one.
                shown.append(f"{word} ", style=f"black on {mark.color}")
                shown.append(label, style=f"bold black on {mark.color}")
            else:
                shown.append(f"[{word} {label}]")
            place = mark.end
        shown.append(visible(text[place:].rstrip("\n")))
        self._print(shown)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
        """A table as wide as it must be."""
        view = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            view.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in rows:
            view.add_row(*(Text(one_line(cell)) for cell in row))
        self._print(view)

    def tree(self, nodes: Sequence[Node]) -> None:
        """The trees of some sentences: every head above the words that depend on it, these in their order."""
        children: list[list[int]] = [[] for _ in nodes]
        roots: list[int] = []
        for place, node in enumerate(nodes):
            (roots if node.head == place else children[node.head]).append(place)
        # A list for a stack: a sentence may be deeper than Python lets a function call itself.
        waiting = [(place, "", "") for place in reversed(roots)]
        while waiting:
            place, branch, indent = waiting.pop()
            node = nodes[place]
            line = Text(branch, style="dim")
            line.append(one_line(node.word), style="not dim bold" if not branch else "not dim")
            line.append(f"  {one_line(node.relation)}", style="not dim cyan")
            line.append(f" {one_line(node.pos)}" if node.pos else "")
            line.truncate(self._console().width, overflow="ellipsis")
            self._print(line)
            last = len(children[place]) - 1
            for number, child in reversed(list(enumerate(children[place]))):
                waiting.append(
                    (child, indent + ("└─ " if number == last else "├─ "), indent + ("   " if number == last else "│  "))
                )

    def blank(self) -> None:
        """An empty line between what belongs to different things."""
        self._print(Text())

    def _console(self) -> Console:
        return stdout_console() if self._stream == "stdout" else stderr_console()

    def _print(self, what: Text | Table) -> None:
        try:
            self._console().print(what, soft_wrap=False)
        except OSError:
            if self._stream == "stdout":
                raise
            drop(sys.stderr)

    def _plain(self, text: str) -> None:
        if self._stream == "stdout":
            out(text)
            return
        try:
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()
        except OSError:
            drop(sys.stderr)
