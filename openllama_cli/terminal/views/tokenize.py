"""Tokens on a terminal: the pieces of a text in colors, each above its id."""

import unicodedata
from collections.abc import Collection, Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.text import Text

from openllama_cli.terminal.streams import stdout_console

# Neighbors differ, and dark letters are readable on each of them.
_COLORS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")
_SPECIAL = "bold white on blue"
# Characters that a terminal shows as nothing, or that change what is around them: controls, formats (zero width, direction
# marks, joiners), surrogates, private and unassigned ones, line separators.
_UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_ARROWS = {"\n": "↵", "\r": "␍", "\t": "⇥"}


def show_pieces(ids: Sequence[int], pieces: Sequence[str], special: Collection[int] = ()) -> None:
    """Print pieces in rows as wide as the terminal, the ids below. special: ids without text, such as BOS.

    Spaces are `▁` as vocabularies spell them, and what cannot be seen is escaped, so that a terminal shows what is there.
    """
    console = stdout_console()
    upper, lower = Text(), Text()
    for cell in _cells(ids, pieces, special, console.width):
        if upper and upper.cell_len + 1 + cell[0].cell_len > console.width:
            console.print(upper, lower, sep="\n", crop=False)
            upper, lower = Text(), Text()
        if upper:
            upper.append(" ")
            lower.append(" ")
        upper.append_text(cell[0])
        lower.append_text(cell[1])
    if upper:
        console.print(upper, lower, sep="\n", crop=False)


def _cells(ids: Sequence[int], pieces: Sequence[str], special: Collection[int], width: int) -> Iterator[tuple[Text, Text]]:
    """Two lines for each token: piece and id, equally wide. A piece wider than the terminal takes several cells."""
    for place, (token, piece) in enumerate(zip(ids, pieces, strict=True)):
        style = _SPECIAL if token in special else _COLORS[place % len(_COLORS)]
        label = str(token)
        for part in chop_cells(shown(piece), max(width, 8)) or [""]:
            size = max(cell_len(part), len(label))
            # The color ends with the piece, so that spaces that only fill up are not taken for its own.
            yield Text.assemble((part, style), " " * (size - cell_len(part))), Text(label.ljust(size), style="dim")
            label = " " * len(label)


def shown(piece: str) -> str:
    r"""A piece as it can be seen: a space as `▁`, a line break as `↵`, a zero width joiner as `\u200d`.

    A combining mark that begins a piece (a vowel sign of Hindi) is put on a dotted circle, not on the piece before.
    """
    text = "".join(_visible(character) for character in piece)
    # A skin tone is no mark, but it too joins what stands before it.
    joins = piece and (unicodedata.category(piece[0]).startswith("M") or not cell_len(text))
    return f"◌{text}" if joins else text


def _visible(character: str) -> str:
    if character == " ":
        return "▁"
    if character in _ARROWS:
        return _ARROWS[character]
    category = unicodedata.category(character)
    # Variation selectors are marks, but what they select is up to the terminal, and so is the width.
    if category in _UNSHOWN or category == "Zs" or "\ufe00" <= character <= "\ufe0f":
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character
