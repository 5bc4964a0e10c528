"""What `olc score` shows: a text shaded by surprisal, its parts as a table, and the figures of the whole."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.figures import figure
from openllama_cli.terminal.streams import is_terminal, note, stdout_console, visible
from openllama_cli.terminal.tables import table
from openllama_cli.terminal.views.generate import SHADES, shades_legend, shows_colors

# Bits up to which a part has each shade but the last.
_BITS = (1.0, 3.0, 6.0, 10.0)


@dataclass(frozen=True)
class Part:
    """A token, a word or a line of a text.

    start: in characters. bits: its surprisal; None where it has none. tokens: how many it has. rank, expected: of a token: how
    many were as likely at most, and the most likely one, if that is another.
    """

    text: str
    start: int
    bits: float | None
    tokens: int
    rank: int | None = None
    expected: str | None = None


def shade(bits: float) -> str:
    """The rich style of a surprisal."""
    return next((style for most, style in zip(_BITS, SHADES, strict=False) if bits <= most), SHADES[-1])


def show(context: str, parts: Sequence[Part], unit: str, totals: Mapping[str, float | None]) -> None:
    """On a terminal the shaded text, its legend and the figures; a pipe gets the parts, and stderr the figures."""
    if not is_terminal(sys.stdout):
        show_parts(parts, unit)
        note(summary(totals))
        return
    console = stdout_console()
    if not shows_colors():
        show_parts(parts, unit)
    else:
        if unit == "line":
            if context:
                console.print(Text(visible(context), style="dim"), soft_wrap=False)
            console.print(_lines(parts), soft_wrap=False)
        else:
            console.print(_shaded(context, parts), soft_wrap=False)
        console.print(_legend(unit))
    console.print(_figures(totals), soft_wrap=False)


def show_parts(parts: Sequence[Part], unit: str) -> None:
    """One line for each part."""
    if unit != "token":
        rows = [[str(part.start), _bits(part.bits), str(part.tokens), part.text] for part in parts]
        table(["start", "bits", "tokens", "text"], rows, right=["start", "bits", "tokens"], optional=["start", "tokens"])
        return
    rows = [
        [str(part.start), _bits(part.bits), "" if part.rank is None else str(part.rank), part.text, part.expected or ""]
        for part in parts
    ]
    table(["start", "bits", "rank", "text", "expected"], rows, right=["start", "bits", "rank"], optional=["start"])


def summary(totals: Mapping[str, float | None]) -> str:
    """The figures on one line."""
    return (
        f"{_count(totals, 'tokens')}, {_count(totals, 'words')}, {_count(totals, 'bytes')}: "
        f"{_known(totals['bits'])} bits (log-likelihood {_known(totals['logprob'])}), "
        f"perplexity {_known(totals['perplexity'])} per token and {_known(totals['perplexity_per_word'])} per word, "
        f"{_known(totals['bits_per_byte'])} bits per byte"
    )


def _shaded(context: str, parts: Sequence[Part]) -> Text:
    text = Text(visible(context), style="dim")
    for part in parts:
        # A line break has no background color to shade; the sign in front of it does.
        text.append(
            visible(part.text).replace("\n", "⏎\n"), style=f"not dim {shade(part.bits)}" if part.bits is not None else ""
        )
    return text


def _lines(parts: Sequence[Part]) -> Table:
    """Each line behind its bits, shaded by its mean over tokens."""
    view = Table.grid(padding=(0, 1))
    view.add_column(justify="right", style="dim")
    view.add_column(overflow="fold")
    for part in parts:
        style = "dim" if part.bits is None else shade(part.bits / max(part.tokens, 1))
        view.add_row(_bits(part.bits), Text(visible(part.text.rstrip("\r\n")), style=style))
    return view


def _legend(unit: str) -> Text:
    what = "bits per token" if unit == "line" else "bits"
    return shades_legend(what, [*(f"≤ {most:g}" for most in _BITS), "more"])


def _figures(totals: Mapping[str, float | None]) -> Table:
    counts = [1, *(totals[name] for name in ("tokens", "words", "bytes"))]
    view = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "text", "per token", "per word", "per byte"):
        view.add_column(name, justify="right" if name else "left")
    for name, label in (("bits", "bits"), ("logprob", "log-likelihood")):
        total = totals[name] or 0.0
        view.add_row(label, *(figure(total / count) if count else "–" for count in counts))
    view.add_row("perplexity", "", _known(totals["perplexity"]), _known(totals["perplexity_per_word"]), "")
    view.add_row("count", "", *(f"{count or 0:,.0f}" for count in counts[1:]))
    return view


def _bits(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.3f}"


def _known(value: float | None) -> str:
    """A figure; a perplexity may be astronomical."""
    return "–" if value is None else figure(value) if value < 1e7 else f"{value:.3g}"


def _count(totals: Mapping[str, float | None], name: str) -> str:
    count = totals[name] or 0
    return f"{count:,.0f} {name if count != 1 else name.removesuffix('s')}"
