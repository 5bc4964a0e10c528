"""Generated tokens shaded by the probability that the model gave them: on a terminal, and as a picture."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from openllama_cli.terminal.streams import stdout_console, visible

# From likely to unlikely; dark letters are readable on each.
_SHADES = ((0.9, "black on #c7e9c0"), (0.5, "black on #e5f5b9"), (0.2, "black on #fee391"), (0.05, "black on #fdae6b"))
_UNLIKELY = "black on #fb8072"
_LEGEND = (("≥ 90 %", 0.95), ("≥ 50 %", 0.6), ("≥ 20 %", 0.3), ("≥ 5 %", 0.1), ("below", 0.01))


@dataclass(frozen=True)
class Shaded:
    """A piece of text and the natural logarithm of its probability; None where it has none."""

    text: str
    logprob: float | None = None


def shade(probability: float) -> str:
    """The rich style of a probability."""
    return next((style for least, style in _SHADES if probability >= least), _UNLIKELY)


def shaded_text(prompt: str, pieces: Sequence[Shaded]) -> Text:
    """The prompt dim, then every piece in its shade."""
    text = Text(visible(prompt), style="dim")
    for piece in pieces:
        style = "not dim" if piece.logprob is None else f"not dim {shade(math.exp(piece.logprob))}"
        # A line break carries no color; its sign does.
        text.append(visible(piece.text).replace("\n", "⏎\n"), style=style)
    return text


def legend() -> Text:
    """What the shades mean."""
    text = Text("probability: ", style="dim")
    for label, probability in _LEGEND:
        text.append(f" {label} ", style=f"not dim {shade(probability)}")
    return text


def show_shaded(prompt: str, pieces: Sequence[Shaded]) -> None:
    """Print one completion in shades on stdout."""
    stdout_console().print(shaded_text(prompt, pieces))


def show_legend() -> None:
    """Print the legend on stdout, if that shows colors."""
    console = stdout_console()
    if console.color_system is not None and not console.no_color:
        console.print(legend())


def svg(completions: Sequence[tuple[str, Sequence[Shaded]]], *, title: str, width: int = 80) -> str:
    """The picture of shaded completions as SVG; it refers to no font or file elsewhere."""
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False, markup=False, color_system="truecolor")
    for prompt, pieces in completions:
        console.print(shaded_text(prompt, pieces))
        console.print()
    console.print(legend())
    # rich's SVG loads its font from the network.
    return re.sub(r"@font-face\s*\{[^}]*\}", "", console.export_svg(title=title))
