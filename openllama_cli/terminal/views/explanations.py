"""Explanations of known errors: a heading and labeled lines on a terminal, label and text separated by a tab in a pipe."""

import sys
from collections.abc import Sequence

from rich.style import Style
from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import is_terminal, one_line, out, stdout_console

_STYLES = {"line": "dim", "olc": "bold green"}


def show_explanation(code: str, title: str, lines: Sequence[tuple[str, str]], *, heading: str = "", first: bool = True) -> None:
    """Show one error, below an empty line if it is not the first.

    lines: label and text, such as ("cause", "…"). heading: what is said above it on a terminal, such as its place.
    """
    if not first:
        out("\n")
    if not is_terminal(sys.stdout):
        out("".join(f"{label}\t{one_line(text)}\n" for label, text in [("error", f"{code}: {title}"), *lines]))
        return
    console = stdout_console()
    if heading:
        console.print(Text(heading, style="dim"), soft_wrap=False)
    console.print(Text.assemble((one_line(title), "bold yellow"), (f"  {one_line(code)}", "dim")), soft_wrap=False)
    view = Table.grid(padding=(0, 2, 0, 0))
    view.add_column(style="dim", no_wrap=True)
    view.add_column(overflow="fold")
    for label, text in lines:
        style = Style.parse(_STYLES.get(label, ""))
        if text.startswith("https://"):
            # A terminal that knows links keeps this one whole where the line is too narrow for it.
            style += Style(link=text)
        view.add_row(Text(label), Text(one_line(text), style=style))
    console.print(view, soft_wrap=False)
