"""What `olc generate` shows: tokens shaded by probability, on a terminal and as SVG."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from openllama_cli.terminal.streams import stdout_console, visible

# From likely to unlikely; dark letters are readable on each. All are in the palette of terminals with 256 colors, which would
# show others as their neighbors there.
SHADES = ("black on #afffaf", "black on #d7ffaf", "black on #ffd787", "black on #ffaf5f", "black on #ff8787")
_LEAST = (0.9, 0.5, 0.2, 0.05)
_BLOCKS = " ▏▎▍▌▋▊▉█"
_BAR = 8


@dataclass(frozen=True)
class Shaded:
    """A piece of text and its natural log-probability; None where it has none."""

    text: str
    logprob: float | None = None


def shade(probability: float) -> str:
    """The rich style of a probability."""
    return next((style for least, style in zip(_LEAST, SHADES, strict=False) if probability >= least), SHADES[-1])


def shaded_text(prompt: str, pieces: Sequence[Shaded]) -> Text:
    """The prompt dim, then every piece in its shade."""
    text = Text(visible(prompt), style="dim")
    for piece in pieces:
        style = "not dim" if piece.logprob is None else f"not dim {shade(math.exp(piece.logprob))}"
        # A line break has no background color to shade; the sign in front of it does.
        text.append(visible(piece.text).replace("\n", "⏎\n"), style=style)
    return text


def legend() -> Text:
    """The probability that each shade stands for."""
    return shades_legend("probability", [*(f"≥ {100 * least:.0f} %" for least in _LEAST), "below"])


def shades_legend(what: str, labels: Sequence[str]) -> Text:
    """What each of the shades stands for."""
    text = Text(f"{what}: ", style="dim")
    for label, style in zip(labels, SHADES, strict=True):
        text.append(f" {label} ", style=f"not dim {style}")
    return text


def shows_colors() -> bool:
    """Whether stdout is a terminal with colors."""
    console = stdout_console()
    return console.color_system is not None and not console.no_color


def show_legend() -> None:
    """Print the legend on stdout, if that shows colors."""
    if shows_colors():
        stdout_console().print(legend())


def svg(completions: Sequence[tuple[str, Sequence[Shaded]]], *, title: str) -> str:
    """Completions (prompt, pieces) in shades as an SVG."""
    texts = [part for prompt, pieces in completions for part in (shaded_text(prompt, pieces), Text())]
    return text_svg([*texts, legend()], title=title, width=80)


def text_svg(texts: Sequence[Text], *, title: str, width: int) -> str:
    """Texts below each other as an SVG that loads no font or file. width: in characters."""
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False, markup=False, color_system="truecolor")
    for text in texts:
        console.print(text)
    # rich's SVG loads its font from the network.
    return re.sub(r"@font-face\s*\{[^}]*\}", "", console.export_svg(title=title))


def bar(share: float, width: int = _BAR) -> str:
    """A bar for a share between 0 and 1, in eighths of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width)
