"""What `olc complete --choices` shows: the answer, and on a terminal the probability of each choice as a bar."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from openllama_cli.terminal.streams import is_terminal, one_line, out, stdout_console, visible

if TYPE_CHECKING:
    from rich.text import Text

# Choices that are shown, the most likely first; JSON has them all.
_MOST_BARS = 20
_LONGEST_BAR = 40
_PERCENT = 7
_GAP = 2


class Bar(NamedTuple):
    """A choice and its probability."""

    text: str
    probability: float


def show_choice(prompt: str, prefix: str, answer: str, choices: Sequence[Bar]) -> None:
    """Write the answer; in a pipe nothing else but a newline.

    On a terminal the prompt stands dim in front of it, and the choices below, the most likely first. prefix: between the two.
    """
    if not is_terminal(sys.stdout):
        out(f"{answer}\n")
        return
    from rich.text import Text  # Not at the top: an answer that goes into a pipe has no need of it.

    console = stdout_console()
    console.print(Text.assemble((visible(prompt), "dim"), visible(prefix), (visible(answer), "bold")), soft_wrap=True)
    console.print()
    for line in _bars(answer, choices, console.width):
        console.print(line, no_wrap=True, crop=False)


def _bars(answer: str, choices: Sequence[Bar], width: int) -> "list[Text]":
    from rich.text import Text

    from openllama_cli.terminal.views.generate import bar

    ordered = sorted(choices, key=lambda choice: -choice.probability)
    shown, rest = ordered[:_MOST_BARS], ordered[_MOST_BARS:]
    names = [Text(one_line(choice.text), style="bold" if choice.text == answer else "") for choice in shown]
    # Whatever the names take, a bar has some room left.
    room = min(max(name.cell_len for name in names), max(width // 2 - _GAP, 1))
    length = max(min(width - room - _PERCENT - 2 * _GAP, _LONGEST_BAR), 0)
    lines = []
    for name, choice in zip(names, shown, strict=True):
        name.truncate(room, overflow="ellipsis", pad=True)
        percent = f"{100 * choice.probability:.1f} %"
        lines.append(
            Text.assemble(name, " " * _GAP, (bar(choice.probability, length), "cyan"), " " * _GAP, f"{percent:>{_PERCENT}}")
        )
    if rest:
        share = sum(choice.probability for choice in rest)
        lines.append(Text(f"and {len(rest)} others, {100 * share:.1f} % together", style="dim"))
    return lines
