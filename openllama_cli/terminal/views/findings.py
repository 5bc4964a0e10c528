"""What is wrong and what to type: two lines each on a terminal, one tab-separated line in a pipe."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import is_terminal, one_line, stdout_console
from openllama_cli.terminal.tables import table

_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}


@dataclass(frozen=True)
class Finding:
    """severity: "error", "warning" or "info". fix: with commands in backticks."""

    severity: str
    code: str
    message: str
    fix: str


def show_findings(findings: Sequence[Finding]) -> None:
    """Show them on stdout, in their order."""
    if not is_terminal(sys.stdout):
        rows = [(finding.severity, finding.code, finding.message, finding.fix) for finding in findings]
        table(("severity", "code", "message", "fix"), rows)
        return
    view = Table.grid(padding=(0, 1))
    view.add_column(justify="right", no_wrap=True)
    view.add_column(overflow="fold")
    for finding in findings:
        severity = Text(f"{finding.severity}:", style=_STYLES.get(finding.severity, "bold"))
        view.add_row(severity, Text(one_line(finding.message)))
        view.add_row(Text("fix:", style="bold green"), _plain(finding.fix))
    stdout_console().print(view, soft_wrap=False)


def _plain(fix: str) -> Text:
    """Commands in bold in place of backticks."""
    text = Text()
    for place, part in enumerate(one_line(fix).split("`")):
        text.append(part, style="bold" if place % 2 else "")
    return text
