"""What `olc generate --trace` shows: at every step the candidates and what the processors did to each."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from openllama_cli.terminal.streams import cell, is_terminal, one_line, out, stdout_console
from openllama_cli.terminal.views.generate import bar

_PIECE = 11
_BAR = 6
_COLUMNS = ("position", "token", "piece", "probability", "entropy_bits", "penalized", "tempered", "drawn", "candidates")


def begin(prompt: str) -> None:
    """Write a prompt (on a terminal) and the column heads of its trace."""
    if not is_terminal(sys.stdout):
        out("\t".join(_COLUMNS) + "\n")
        return
    console = stdout_console()
    console.print(Text(one_line(prompt), style="dim"))
    head = f"   {'token':<{_PIECE}} {'':{_BAR}} {'model':>7} {'penalized':>9} {'tempered':>8}  drawn"
    console.print(Text(head, style="bold"), no_wrap=True, crop=False)


def show(step: Mapping[str, Any]) -> None:
    """Write a decode step: in a pipe one line, tab-separated, with every candidate as `piece=model/penalized/tempered/drawn`,
    and on a terminal a line for each candidate, the token taken marked.

    step: as in the JSON of `--trace`.
    """
    taken = next(one for one in step["candidates"] if one["taken"])
    if not is_terminal(sys.stdout):
        candidates = " ".join(f"{cell(one['piece'])}={'/'.join(_numbers(one))}" for one in step["candidates"])
        model, *others = _numbers(taken)
        line = [str(step["position"]), str(step["token"]), cell(step["piece"]), model, f"{step['entropy_bits']:.3f}"]
        out("\t".join([*line, *others, candidates]) + "\n")
        return
    console = stdout_console()
    title = Text.assemble((f"position {step['position']}", "bold"), f", entropy {step['entropy_bits']:.2f} bits")
    console.print(title, no_wrap=True, crop=False)
    for one in step["candidates"]:
        piece = Text(one_line(one["piece"]))
        piece.truncate(_PIECE, overflow="ellipsis", pad=True)
        style = "bold green" if one["taken"] else "dim" if one["cut"] else ""
        tempered = "" if one["tempered"] is None else _percent(one["tempered"])
        line_text = Text.assemble(
            (f" {'→' if one['taken'] else ' '} {piece.plain} ", style),
            (bar(one["model"], _BAR), "cyan"),
            f" {_percent(one['model']):>7} {_percent(one['penalized']):>9} {tempered:>8}  {_outcome(one)}",
        )
        line_text.rstrip()
        console.print(line_text, no_wrap=True, crop=False)


def _outcome(one: Mapping[str, Any]) -> str:
    if one["cut"] is not None:
        return "never" if one["cut"] == "never" else f"cut: {one['cut']}"
    return _percent(one["drawn"]) if one["tempered"] is not None or one["taken"] else ""


def _numbers(one: Mapping[str, Any]) -> list[str]:
    """The probabilities of a candidate; what is not there is `-`, what was cut off names the filter."""
    tempered = "-" if one["tempered"] is None else f"{one['tempered']:.4f}"
    return [f"{one['model']:.4f}", f"{one['penalized']:.4f}", tempered, one["cut"] or f"{one['drawn']:.4f}"]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if 0 < share < 0.0995 else f"{100 * share:.1f} %"
