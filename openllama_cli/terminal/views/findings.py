"""What is wrong and what to do about it: the explanations of `olc explain`, the problems of `olc devices`.

A terminal gets labeled lines, a pipe labels and texts separated by tabs.
"""

import sys
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import is_terminal, one_line, out, stdout_console
from openllama_cli.terminal.tables import fields, table

_SEVERITIES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_LABELS = {"line": "dim", "olc": "bold green"}


def show_findings(findings: Sequence[tuple[str, str, str, str]]) -> None:
    """Show problems on stdout. Each: severity ("error", "warning" or "info"), code, message, fix with commands in backticks."""
    if not is_terminal(sys.stdout):
        table(("severity", "code", "message", "fix"), findings)
        return
    view = Table.grid(padding=(0, 1))
    view.add_column(justify="right", no_wrap=True)
    view.add_column(overflow="fold")
    for severity, _, message, fix in findings:
        view.add_row(Text(f"{severity}:", style=_SEVERITIES.get(severity, "bold")), Text(one_line(message)))
        view.add_row(Text("fix:", style="bold green"), _bold_commands(fix))
    stdout_console().print(view, soft_wrap=False)


def _bold_commands(fix: str) -> Text:
    """Commands in bold instead of backticks."""
    text = Text()
    for place, part in enumerate(one_line(fix).split("`")):
        text.append(part, style="bold" if place % 2 else "")
    return text


def show_explanation(code: str, title: str, lines: Sequence[tuple[str, str]], *, heading: str = "", first: bool = True) -> None:
    """Show one error, below an empty line if it is not the first.

    lines: label and text, such as ("cause", "…"). heading: what is said above it on a terminal, such as its place.
    """
    if not first:
        out("\n")
    if not is_terminal(sys.stdout):
        fields([("error", f"{code}: {title}"), *lines])
        return
    console = stdout_console()
    if heading:
        console.print(Text(heading, style="dim"), soft_wrap=False)
    console.print(Text.assemble((one_line(title), "bold yellow"), (f"  {one_line(code)}", "dim")), soft_wrap=False)
    # A terminal that knows links keeps one whole where the line is too narrow for it.
    fields(lines, _LABELS | {label: f"link {text}" for label, text in lines if text.startswith("https://")})
