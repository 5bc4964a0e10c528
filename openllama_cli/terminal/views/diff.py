"""What `olc diff` shows: rows side by side on a terminal, their common beginning dim; in a pipe a line of columns for each."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.text import Text

from openllama_cli.terminal.streams import cell, is_terminal, one_line, out, stdout_console, visible

COLUMNS = ("custom_id", "cause", "unit", "index", "a", "b", "margin_a", "margin_b")
# Lines of a text that are shown, and characters of the common beginning in front of where two texts part.
_MOST_LINES = 12
_BEGINNING = 160
_RULE = " │ "


@dataclass(frozen=True)
class ShownText:
    """A text of one side; None: there is none, and `missing` says why."""

    text: str | None
    missing: str = ""


@dataclass(frozen=True)
class ShownRow:
    """A row that differs. cause, place: in words. prompt: if both have the same. common: characters that both begin with."""

    key: str
    cause: str
    place: str
    prompt: str | None
    a: ShownText
    b: ShownText
    common: int


def show_columns(rows: Sequence[Sequence[str]]) -> None:
    """Write lines of columns, as `COLUMNS` names them."""
    out("".join("\t".join(cell(text) for text in row) + "\n" for row in rows))


def show_rows(names: tuple[str, str], rows: Sequence[ShownRow], facts: Sequence[str]) -> None:
    """Write what there is to say of all rows, and some of them side by side, in lines that fit the terminal."""
    console = stdout_console()
    for fact in facts:
        console.print(Text(one_line(fact)), soft_wrap=not is_terminal(sys.stdout))
    if not rows:
        return
    width = max((console.width - len(_RULE)) // 2, 8)
    console.print()
    _print_beside([Text(one_line(names[0]), "bold")], [Text(one_line(names[1]), "bold")], width)
    for row in rows:
        console.print()
        heading = Text.assemble((one_line(row.key), "bold"), "  ", (row.cause, "yellow"), "  ", (visible(row.place), ""))
        console.print(heading, soft_wrap=False, overflow="fold")
        if row.prompt:
            prompt = Text(one_line(row.prompt), "dim")
            prompt.truncate(console.width, overflow="ellipsis")
            console.print(prompt)
        _print_beside(_lines(row.a, row.common, "red", width), _lines(row.b, row.common, "green", width), width)


def _lines(side: ShownText, common: int, style: str, width: int) -> list[Text]:
    """A text in lines of at most `width` cells."""
    if side.text is None:
        return [Text(one_line(side.missing), "dim italic")]
    begin = max(common - _BEGINNING, 0)
    text = Text("…" if begin else "", "dim")
    text.append(visible(side.text[begin:common]), "dim")
    text.append(visible(side.text[common:]) or "∎", f"not dim {style}")
    text.expand_tabs(4)
    lines = list(text.wrap(stdout_console(), width, overflow="fold"))
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], Text("…", "dim")]
    return lines


def _print_beside(left: Sequence[Text], right: Sequence[Text], width: int) -> None:
    for one, other in zip_longest(left, right, fillvalue=Text()):
        line = one.copy()
        line.truncate(width, overflow="ellipsis", pad=True)
        other = other.copy()
        other.truncate(width, overflow="ellipsis")
        stdout_console().print(Text.assemble(line, (_RULE, "dim"), other), no_wrap=True, crop=False, overflow="ignore")
