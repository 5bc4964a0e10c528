"""What `olc tokenize` shows on a terminal: the pieces of a text in colors, each above its id."""

import unicodedata
from collections.abc import Collection, Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.text import Text

from openllama_cli.terminal.streams import escaped, one_line, stdout_console

# Neighbors differ, and dark letters are readable on each of them.
_COLORS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")
_SPECIAL = "bold white on blue"
# Categories of characters that a terminal does not show, or that change their neighbors: control, format (zero width,
# direction marks, joiners), surrogate, private use, unassigned, line and paragraph separators.
_UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_ARROWS = {"\n": "↵", "\r": "␍", "\t": "⇥"}


def show_pieces(ids: Sequence[int], pieces: Sequence[str], special: Collection[int] = ()) -> None:
    """Print pieces in rows as wide as the terminal, the ids below. special: ids without text, such as BOS.

    Spaces are `▁`, as vocabularies spell them, and invisible characters are escaped.
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


def show_note(text: str) -> None:
    """Print a line about the pieces, wrapped at words."""
    stdout_console().print(Text(one_line(text), style="dim"), soft_wrap=False)


def _cells(ids: Sequence[int], pieces: Sequence[str], special: Collection[int], width: int) -> Iterator[tuple[Text, Text]]:
    """Two lines for each token: piece and id, equally wide. A piece wider than the terminal takes several cells."""
    for place, (token, piece) in enumerate(zip(ids, pieces, strict=True)):
        style = _SPECIAL if token in special else _COLORS[place % len(_COLORS)]
        label = str(token)
        for part in chop_cells(shown(piece), max(width, 8)) or [""]:
            size = max(cell_len(part), len(label))
            # The color ends with the piece, so that padding does not look like part of it.
            yield Text.assemble((part, style), " " * (size - cell_len(part))), Text(label.ljust(size), style="dim")
            label = " " * len(label)


def shown(piece: str) -> str:
    r"""A piece made visible: a space as `▁`, a line break as `↵`, a zero width joiner as `\u200d`.

    A combining mark at its start (such as a vowel sign of Hindi) is put on a dotted circle, not on the piece before.
    """
    text = "".join(_visible(character) for character in piece)
    # A skin tone is not a mark, but it too combines with what is before it.
    joins = piece and (unicodedata.category(piece[0]).startswith("M") or not cell_len(text))
    return f"◌{text}" if joins else text


def _visible(character: str) -> str:
    if character == " ":
        return "▁"
    if character in _ARROWS:
        return _ARROWS[character]
    category = unicodedata.category(character)
    # Variation selectors are marks, but their effect and width depend on the terminal.
    if category in _UNSHOWN or category == "Zs" or "\ufe00" <= character <= "\ufe0f":
        return escaped(character)
    return character
