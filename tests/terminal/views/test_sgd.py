"""Curves in braille and images in half blocks."""

from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.terminal.views.sgd import curve, half_blocks


def test_a_rising_line_goes_from_corner_to_corner() -> None:
    assert curve([0.0, 1.0], 2, 2, 1, 0.0, 1.0) == ["⡠⠊"]
    rows = curve([0.0, 0.5, 1.0], 3, 10, 4, 0.0, 1.0)
    assert rows[-1][0] != " " != rows[0][-1]
    assert rows[0][0] == rows[-1][-1] == " "


def test_a_curve_grows_to_the_right() -> None:
    widths = [max(len(row.rstrip()) for row in curve([0.5] * done, 10, 30, 3, 0.0, 1.0)) for done in range(1, 11)]
    assert widths == sorted(set(widths))
    assert (widths[0], widths[-1]) == (1, 30)


@given(
    st.lists(st.floats(0, 1e308, allow_nan=False), min_size=1, max_size=40),
    st.integers(1, 60),
    st.integers(1, 12),
    st.floats(0, 10),
    st.floats(0, 1e308),
)
def test_any_values_fill_the_space_and_no_more(
    values: list[float], width: int, height: int, lowest: float, highest: float
) -> None:
    rows = curve(values, len(values), width, height, lowest, highest)
    assert [len(row) for row in rows] == [width] * height
    # Connected: no column is left out.
    assert all(any(row[column] != " " for row in rows) for column in range(width)) or len(values) == 1


def test_two_pixels_share_a_character() -> None:
    image = [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 0.4, 0.6, 0.0]]
    assert [line.plain for line in half_blocks(image, color=False)] == [" ▀▄█", "▀ ▀ "]
    colored = half_blocks(image, color=True)
    assert [line.plain for line in colored] == ["▀▀▀▀"] * 2
    assert [str(span.style) for span in colored[0].spans] == [
        "#000000 on #000000",
        "#ffffff on #000000",
        "#000000 on #ffffff",
        "#ffffff on #ffffff",
    ]
