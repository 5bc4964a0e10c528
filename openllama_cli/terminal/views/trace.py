"""The decode loop step by step: position, the likeliest tokens with bars, the token taken, the entropy."""

import math
import sys
from collections.abc import Sequence

from rich.text import Text

from openllama_cli.terminal.streams import is_terminal, one_line, out, stdout_console

_BLOCKS = " ▏▎▍▌▋▊▉█"
_BAR = 8
_PIECE = 12


def bar(share: float, width: int = _BAR) -> str:
    """A bar for a share between 0 and 1, in eighths of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width)


class TraceWriter:
    """Writes one line a step as it comes; in a pipe tab-separated, with every candidate as `piece=probability`."""

    def __init__(self) -> None:
        self._terminal = is_terminal(sys.stdout)

    def begin(self, prompt: str) -> None:
        """Name the prompt and the columns."""
        if not self._terminal:
            out("position\ttoken\tpiece\tprobability\tentropy_bits\tcandidates\n")
            return
        console = stdout_console()
        console.print(Text(one_line(prompt), style="dim"))
        console.print(Text(f"{'position':>8}  {'taken':<{_PIECE}}  {'bits':>5}  likeliest tokens", style="bold"))

    def step(
        self, position: int, token: int, piece: str, logprob: float, entropy: float, top: Sequence[tuple[str, float]]
    ) -> None:
        """Write one step. top: pieces with their log-probabilities, likeliest first. entropy: in bits."""
        if not self._terminal:
            candidates = " ".join(f"{one_line(name)}={math.exp(value):.4f}" for name, value in top)
            line = [str(position), str(token), one_line(piece), f"{math.exp(logprob):.4f}", f"{entropy:.3f}", candidates]
            out("\t".join(line) + "\n")
            return
        console = stdout_console()
        line_text = Text(f"{position:>8}  ")
        line_text.append(_fitted(piece), style="bold green" if top and top[0][0] == piece else "bold yellow")
        line_text.append(f"  {entropy:>5.2f}  ")
        for name, value in top:
            share = math.exp(value)
            cell = Text.assemble((bar(share), "cyan"), f" {share:>4.0%} ", (_fitted(name), "bold" if name == piece else ""))
            if line_text.cell_len + cell.cell_len > console.width:
                break
            line_text.append_text(cell).append("  ")
        line_text.rstrip()
        console.print(line_text, no_wrap=True, crop=False)


def _fitted(piece: str) -> str:
    text = Text(one_line(piece))
    text.truncate(_PIECE, overflow="ellipsis", pad=True)
    return text.plain
