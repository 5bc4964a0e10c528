"""`olc batch --report`: on a terminal tables and bars, in a pipe lines of fields and tables for cut and awk."""

import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from string import ascii_uppercase
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import is_terminal, one_line, out, stdout_console
from openllama_cli.terminal.tables import fields, table
from openllama_cli.terminal.views.generate import bar

# Answers that are listed: of more the most frequent ones.
_MOST_ANSWERS = 20
_LONGEST_LABEL = 24
_BAR = 12


def show_report(report: Mapping[str, Any]) -> None:
    """report: the document of `batch.report.measures.Report`."""
    _show_figures(report)
    answers = report["answers"]
    # Where almost every row has an answer of its own there is nothing to count by answer.
    if len(answers) <= report["compared"] / 2:
        _heading("by answer")
        _show_answers(answers)
        _heading("answers (rows) and what was said instead (columns)")
        _show_confusion(report["confusion"])
    if report["calibration"] is not None:
        _heading("calibration: how often rows were right that were this sure")
        _show_bins(report["calibration"]["bins"])


def percent(share: float | None) -> str:
    """A share between 0 and 1: "75.0 %"; "-" for none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _show_figures(report: Mapping[str, Any]) -> None:
    low, high = report["interval"]
    calibration = report["calibration"]
    compared, nearly = report["compared"], report["nearly"]
    pairs = [
        ("accuracy", f"{percent(report['accuracy'])}, {report['correct']:,} of {compared:,} rows"),
        ("95 % interval", f"{percent(low)} to {percent(high)} (Wilson)"),
        ("nearly right", f"{nearly:,} more, but for case or punctuation" if nearly else None),
        ("not compared", _not_compared(report)),
    ]
    if calibration is not None:
        sure = f"{percent(calibration['confidence'])} on average"
        of = "" if calibration["rows"] == compared else f", {calibration['rows']:,} rows with probabilities"
        pairs += [
            ("confidence", sure + of),
            ("calibration error", f"{calibration['ece']:.3f} (expected, {len(calibration['bins'])} bins)"),
            ("Brier score", f"{calibration['brier']:.3f}"),
        ]
    fields(pairs)


def _not_compared(report: Mapping[str, Any]) -> str | None:
    parts = []
    if report["failed"]:
        parts.append(f"{report['failed']:,} failed")
    if report["without_answer"]:
        parts.append(f"{report['without_answer']:,} without an answer")
    return f"{', '.join(parts)} of {report['rows']:,} rows" if parts else None


def _heading(text: str) -> None:
    if not is_terminal(sys.stdout):
        out(f"\n# {text}\n")
        return
    stdout_console().print()
    stdout_console().print(Text(text, style="bold"), soft_wrap=True)


def _show_answers(answers: Sequence[Mapping[str, Any]]) -> None:
    shown = list(islice(answers, _MOST_ANSWERS))
    columns = ["answer", "rows", "texts", "precision", "recall", "F1"]
    numbers = [
        [str(each["rows"]), str(each["texts"]), *(_share(each[name]) for name in ("precision", "recall", "f1"))]
        for each in shown
    ]
    rows = [[each["answer"], *line] for each, line in zip(shown, numbers, strict=True)]
    if is_terminal(sys.stdout):
        columns.append("")
        rows = [[_label(row[0]), *row[1:], bar(each["recall"], _BAR)] for row, each in zip(rows, shown, strict=True)]
    table(columns, rows, right=columns[1:6], optional=["texts", "F1", ""])
    if len(answers) > len(shown):
        more = f"{len(answers) - len(shown):,} more answers with fewer rows; all are in --json"
        if is_terminal(sys.stdout):
            stdout_console().print(Text(more, style="dim"), soft_wrap=True)
        else:
            out(f"# {more}\n")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _show_confusion(confusion: Mapping[str, Any]) -> None:
    """Names above the columns where there is room for them; else letters, which stand beside the answers too."""
    names, texts, counts = confusion["answers"], confusion["texts"], confusion["counts"]
    if not is_terminal(sys.stdout):
        table(["answer", *texts], [[name, *map(str, line)] for name, line in zip(names, counts, strict=True)])
        return
    console = stdout_console()
    heads = [_label(text) for text in texts]
    labels = [_label(name) for name in names]
    if max(map(cell_len, labels)) + sum(max(cell_len(head), 5) + 2 for head in heads) > console.width:
        letters = [*ascii_uppercase[: len(texts) - 1], "other"]
        labels = [f"{letter} {label}" for letter, label in zip(letters, labels, strict=False)]
        heads = letters
    view = Table(box=None, header_style="bold", pad_edge=False)
    view.add_column("")
    for head in heads:
        view.add_column(Text(head), justify="right")
    for place, (label, line) in enumerate(zip(labels, counts, strict=True)):
        cells = [Text(str(count) if count else "·", style=_look(place, at, count)) for at, count in enumerate(line)]
        view.add_row(Text(label), *cells)
    console.print(view, soft_wrap=False)


def _look(row: int, column: int, count: int) -> str:
    if not count:
        return "dim"
    return "bold green" if row == column else "yellow"


def _label(text: str) -> str:
    label = Text(one_line(text))
    label.truncate(_LONGEST_LABEL, overflow="ellipsis")
    return label.plain


def _show_bins(bins: Sequence[Mapping[str, Any]]) -> None:
    terminal = is_terminal(sys.stdout)
    columns = ["probability", "rows", "confidence", "accuracy"]
    rows = []
    for each in bins:
        if terminal and not each["rows"]:
            continue
        span = f"{each['from']:g}–{each['to']:g}" if terminal else f"{each['from']:g}-{each['to']:g}"
        line = [span, str(each["rows"]), _share(each["confidence"]), _share(each["accuracy"])]
        rows.append([*line, *[bar(each["accuracy"] or 0.0, _BAR)] * terminal])
    table([*columns, *[""] * terminal], rows, right=columns[1:], optional=[""])
