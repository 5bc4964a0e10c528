"""How a piece of a text is shown on a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from openllama_cli.terminal.views.tokenize import shown


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        ("▁the", "▁the"),
        ("  ", "▁▁"),
        ("\t\n\r", "⇥↵␍"),
        ("\x1b[0m", r"\x1b[0m"),
        ("\x9b", r"\x9b"),
        ("👩\u200d👧", r"👩\u200d👧"),
        ("\u202eabc", r"\u202eabc"),
        ("\u3000", r"\u3000"),
        ("\U000e0001", r"\U000e0001"),
        ("\ufe0f", r"◌\ufe0f"),
        ("ि", "◌ि"),
        ("हि", "हि"),
        (r"\n", r"\n"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_escaped(piece: str, expected: str) -> None:
    assert shown(piece) == expected


@given(st.text(min_size=1))
def test_every_piece_takes_room_and_no_control_character_is_left(piece: str) -> None:
    text = shown(piece)
    assert cell_len(text) > 0
    assert text.isprintable()
