"""What is wrong and what to do about it: the explanations of `olc explain`, the problems of `olc devices`.

A terminal gets labeled lines, a pipe labels and texts separated by tabs.
"""

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import is_terminal, one_line, out, stdout_console
from openllama_cli.terminal.tables import fields, table, wrapped

_SEVERITIES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_LABELS = {"line": "dim", "olc": "bold green"}
# What code to paste begins with.
_CODE = " " * 4


def show_findings(findings: Sequence[tuple[str, str, str, str]]) -> None:
    """Show problems on stdout. Each: severity ("error", "warning" or "info"), code, message, fix with commands in backticks."""
    if not is_terminal(sys.stdout):
        table(("severity", "code", "message", "fix"), findings)
        return
    console = stdout_console()
    labels = max((len(severity) for severity, *_ in findings), default=0) + 2
    width = max(console.width - labels, 20)
    for severity, _, message, fix in findings:
        lines = Text(one_line(message)).wrap(console, width, overflow="fold")
        _labeled(f"{severity}:", _SEVERITIES.get(severity, "bold"), lines, labels)
        _labeled("fix:", "bold green", wrapped(one_line(fix), width), labels)


def _labeled(label: str, style: str, lines: Iterable[Text], width: int) -> None:
    """Lines behind a label; one that is too long for the terminal is not indented, so that what is copied of it is whole."""
    console = stdout_console()
    head = Text(f"{label:>{width - 1}} ", style=style)
    for line in lines:
        if width + line.cell_len > console.width:
            if head.plain.strip():
                console.print(head.copy())
            console.print(line, soft_wrap=True)
        else:
            console.print(Text.assemble(head, line), soft_wrap=True)
        head = Text(" " * width)


def show_explanation(code: str, title: str, lines: Sequence[tuple[str, str]], *, heading: str = "", first: bool = True) -> None:
    """Show one error, below an empty line if it is not the first.

    lines: label and text, such as ("cause", "…"). Lines of a text that begin with four spaces are code: a terminal gets them
    whole and without the label's column, to be copied; a pipe gets each line of a text with its label.
    heading: what is said above it on a terminal, such as its place.
    """
    if not first:
        out("\n")
    if not is_terminal(sys.stdout):
        fields((label, line) for label, text in [("error", f"{code}: {title}"), *lines] for line in text.split("\n"))
        return
    console = stdout_console()
    if heading:
        console.print(Text(heading, style="dim"), soft_wrap=False)
    console.print(Text.assemble((one_line(title), "bold yellow"), (f"  {one_line(code)}", "dim")), soft_wrap=False)
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        # A terminal that knows links keeps one whole where the line is too narrow for it.
        style = f"link {text}" if text.startswith("https://") else _LABELS.get(label, "")
        for place, (is_code, group) in enumerate(groupby(text.split("\n"), lambda line: line.startswith(_CODE))):
            if is_code:
                whole = "\n".join(one_line(line.removeprefix(_CODE)) for line in group)
                console.print(Text(f"\n{whole}\n", style="bold"), soft_wrap=True)
                continue
            said = Text(one_line(" ".join(group)), style=style)
            if label == "olc":  # A command, which the terminal breaks itself: what is copied has no line break then.
                console.print(Text.assemble((f"{label:<{width}}  ", "dim"), said), soft_wrap=True)
                continue
            view = Table.grid(padding=(0, 2))
            view.add_column(style="dim", no_wrap=True, width=width)
            view.add_column(overflow="fold")
            view.add_row(Text("" if place else label), said)
            console.print(view, soft_wrap=False)
