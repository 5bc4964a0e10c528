"""Shades of probability: the same in true color and in 256 colors."""

import pytest
from rich.color import ColorSystem
from rich.style import Style

from openllama_cli.terminal.views.bench import bars
from openllama_cli.terminal.views.generate import shade


@pytest.mark.parametrize("probability", [0.95, 0.6, 0.3, 0.1, 0.01])
def test_shades_are_in_the_palette_of_256_colors(probability: float) -> None:
    color = Style.parse(shade(probability)).bgcolor
    assert color is not None
    assert color.downgrade(ColorSystem.EIGHT_BIT).get_truecolor() == color.get_truecolor()


def test_a_bar_compares() -> None:
    assert "█" not in bars("decode", [("olc", 3.0)]).plain
    assert "█" in bars("decode", [("olc", 3.0), ("model.generate", 1.0)]).plain
