"""Pictures in characters: a curve in braille dots, and grey images in half blocks."""

from collections.abc import Sequence

from rich.text import Text

_BRAILLE = 0x2800
# The bits of a braille character's dots: two columns of four.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_INK = 0.5


def curve(values: Sequence[float], places: int, width: int, height: int, lowest: float, highest: float) -> list[str]:
    """A line through the values in `height` rows of `width` characters, from `lowest` at the bottom to `highest`.

    places: how many values there will be; the curve reaches the right edge with the last of them.
    """
    dots = [[0] * width for _ in range(height)]
    columns, rows = 2 * width - 1, 4 * height - 1

    def spot(place: int) -> tuple[int, int]:
        share = min(max((values[place] - lowest) / (highest - lowest), 0.0), 1.0) if highest > lowest else 0.0
        return round(place / max(places - 1, 1) * columns), round((1 - share) * rows)

    def mark(x: int, y: int) -> None:
        dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]

    for place in range(len(values)):
        x, y = spot(place)
        before_x, before_y = spot(place - 1) if place else (x, y)
        steps = max(x - before_x, abs(y - before_y), 1)
        for step in range(steps + 1):
            mark(before_x + round((x - before_x) * step / steps), before_y + round((y - before_y) * step / steps))
    # A space where there is no dot: some fonts draw the empty braille character as eight circles.
    return ["".join(chr(_BRAILLE + bits) if bits else " " for bits in row) for row in dots]


def half_blocks(image: Sequence[Sequence[float]], *, color: bool) -> list[Text]:
    """An image of numbers from 0 (paper) to 1 (ink): a character for two pixels, one above the other.

    Without color a pixel is ink or paper.
    """
    columns = len(image[0])
    padded = [*image, [0.0] * columns] if len(image) % 2 else image
    lines = []
    for upper, lower in zip(padded[::2], padded[1::2], strict=True):
        line = Text()
        for above, below in zip(upper, lower, strict=True):
            if color:
                line.append("▀", style=f"{_grey(above)} on {_grey(below)}")
            else:
                line.append(" ▀▄█"[(above >= _INK) + 2 * (below >= _INK)])
        lines.append(line)
    return lines


def _grey(ink: float) -> str:
    level = round(255 * min(max(ink, 0.0), 1.0))
    return f"#{level:02x}{level:02x}{level:02x}"
