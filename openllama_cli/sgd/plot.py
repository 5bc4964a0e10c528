"""The curves of a run and the weights of its first layer, as one self-contained SVG."""

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

import numpy as np

from openllama_cli.sgd.network import Matrix
from openllama_cli.sgd.training import Epoch

_WIDTH, _MARGIN = 720, 20
_PLOT_WIDTH, _PLOT_HEIGHT = 270, 170
_TILE, _GAP, _TILES_A_ROW = 60, 8, 10
# More would make the pictures too small or the file too large.
_MOST_TILES = 100
# Shades on each side of white.
_SHADES = 12
_POSITIVE, _NEGATIVE = (178, 24, 43), (33, 102, 172)


def svg(epochs: Sequence[Epoch], weights: Matrix, rows: int, columns: int, title: str) -> str:
    """The curves of cost and accuracy, and the first layer's weights (neurons, rows · columns) as pictures."""
    shown = weights[:_MOST_TILES]
    tile_rows = math.ceil(len(shown) / _TILES_A_ROW)
    top = 60 + _PLOT_HEIGHT + 70
    height = top + tile_rows * (_TILE + _GAP) + 12
    numbers, costs = [epoch.epoch for epoch in epochs], [epoch.cost for epoch in epochs]
    accuracies = [100 * epoch.correct / epoch.total for epoch in epochs]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        _text(_MARGIN, 24, title, size=min(14.0, (_WIDTH - 2 * _MARGIN) / (0.55 * len(title)))),
        *_plot(_MARGIN + 45, 60, "cost (mean per training image)", numbers, costs),
        *_plot(_WIDTH // 2 + 45, 60, "accuracy on the test images, %", numbers, accuracies, highest=100.0),
        *_tiles(top, shown, rows, columns, len(weights)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _plot(
    left: int, top: int, title: str, numbers: Sequence[int], values: Sequence[float], highest: float | None = None
) -> Iterator[str]:
    """A line through the values, with axes from 0."""
    step = _tick(max(highest or max(values), 1e-12) / 5)
    ceiling = highest or step * math.ceil(max(values) / step or 1)
    last = max(numbers[-1], 2)

    def x(number: float) -> float:
        return left + (number - 1) / (last - 1) * _PLOT_WIDTH

    def y(value: float) -> float:
        return top + _PLOT_HEIGHT * (1 - value / ceiling)

    yield _text(left, top - 12, title)
    for k in range(math.floor(ceiling / step * (1 + 1e-9)) + 1):
        at = y(k * step)
        yield f'<line x1="{left}" y1="{at:.1f}" x2="{left + _PLOT_WIDTH}" y2="{at:.1f}" stroke="#ddd"/>'
        yield _text(left - 6, at + 4, f"{k * step:.4g}", anchor="end")
    across = max(1, round(_tick(last / 5)))
    for number in sorted({1, *range(across, last + 1, across)}):
        yield _text(x(number), top + _PLOT_HEIGHT + 16, str(number), anchor="middle")
    yield _text(left + _PLOT_WIDTH / 2, top + _PLOT_HEIGHT + 34, "epoch", anchor="middle")
    points = " ".join(f"{x(number):.1f},{y(value):.1f}" for number, value in zip(numbers, values, strict=True))
    yield f'<polyline points="{points}" fill="none" stroke="#2166ac" stroke-width="2" stroke-linejoin="round"/>'
    yield f'<circle cx="{x(numbers[-1]):.1f}" cy="{y(values[-1]):.1f}" r="3" fill="#2166ac"/>'


def _tiles(top: int, weights: Matrix, rows: int, columns: int, total: int) -> Iterator[str]:
    """One picture per neuron: one pixel per weight, on the same color scale for all."""
    # With the maximum, a few outliers would leave all others pale.
    largest = float(np.quantile(np.abs(weights), 0.995)) or 1.0
    which = f"the first {len(weights)} of {total:,}" if len(weights) < total else f"{total}"
    caption = f"weights of the first layer, one picture per neuron ({which})"
    yield _text(_MARGIN, top - 14, caption)
    yield _text(_WIDTH - _MARGIN, top - 14, f"blue ≤ {-largest:.2g} … white 0 … red ≥ {largest:.2g}", anchor="end")
    levels = np.rint(np.clip(weights / largest, -1, 1) * _SHADES).astype(int).reshape(-1, rows, columns)
    scale = _TILE / max(rows, columns)
    for place, picture in enumerate(levels):
        row, column = divmod(place, _TILES_A_ROW)
        x, y = _MARGIN + column * (_TILE + _GAP), top + row * (_TILE + _GAP)
        yield f'<g transform="translate({x} {y}) scale({scale:.4f})" shape-rendering="crispEdges">'
        yield f"<title>neuron {place}</title>"
        yield f'<rect width="{columns}" height="{rows}" fill="#fff" stroke="#bbb" stroke-width="{1 / scale:.3f}"/>'
        for level in np.unique(picture[picture != 0]):
            # One path per shade is a tenth of the size of one rectangle per pixel.
            pixels = "".join(f"M{i} {j}h1v1h-1z" for j, i in np.argwhere(picture == level))
            yield f'<path fill="{_color(int(level))}" d="{pixels}"/>'
        yield "</g>"


def _color(level: int) -> str:
    """White at 0, red at the largest level, blue at the smallest."""
    end = _POSITIVE if level > 0 else _NEGATIVE
    share = abs(level) / _SHADES
    return "#" + "".join(f"{round(255 + (channel - 255) * share):02x}" for channel in end)


def _tick(about: float) -> float:
    """1, 2 or 5 times a power of ten, at least `about`."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= about * (1 - 1e-9))


def _text(x: float, y: float, text: str, *, size: float | None = None, anchor: str = "start") -> str:
    bigger = f' font-size="{size:.3g}"' if size else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{bigger}>{escape(text)}</text>'
