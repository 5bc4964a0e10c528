"""Surprisal along a text as a curve: one self-contained SVG."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from openllama_cli.terminal.figures import figure
from openllama_cli.terminal.streams import one_line

_WIDTH, _LEFT, _RIGHT, _TOP, _HEIGHT = 960, 56, 20, 92, 240
_ACROSS = _WIDTH - _LEFT - _RIGHT
# Parts up to which each has its text below it; more points than these are means of neighbors.
_NAMED, _POINTS = 72, 600
_LONGEST_NAME = 18
# What XML cannot hold.
_NOT_XML = re.compile("[\ufffe\uffff]")


class _Point(NamedTuple):
    """place: of its middle, in parts. bits: None where the curve has a gap. label: what hovering shows."""

    place: float
    bits: float | None
    label: str


def svg(parts: Sequence[tuple[str, float | None]], unit: str, title: str, figures: str = "") -> str:
    """The bits of each part of a text: tokens, words or lines (unit). figures: those of the whole, on one line."""
    points, size = _points(parts)
    named = len(parts) <= _NAMED
    height = _TOP + _HEIGHT + (_LONGEST_NAME * 7 + 16 if named else 48)
    highest = max((point.bits for point in points if point.bits is not None), default=0.0)
    step = _step(max(highest, 1.0) / 5)
    ceiling = step * math.ceil(max(highest, 1.0) / step)
    caption = f"surprisal of each {unit}, bits" if size == 1 else f"surprisal of a {unit}, bits (means of {size})"

    def x(place: float) -> float:
        return _LEFT + (place + 0.5) / max(len(parts), 1) * _ACROSS

    def y(bits: float) -> float:
        return _TOP + _HEIGHT * (1 - bits / ceiling)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{_escaped(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="26" font-size="{_size(title, 14)}">{_escaped(title)}</text>',
        f'<text x="{_LEFT}" y="46" font-size="{_size(figures, 12)}" fill="#555">{_escaped(figures)}</text>',
        f'<text x="{_LEFT}" y="{_TOP - 12}">{caption}</text>',
    ]
    for k in range(round(ceiling / step) + 1):
        at = y(k * step)
        lines.append(f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{_WIDTH - _RIGHT}" y2="{at:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{k * step:.4g}</text>')
    for run in _runs(points):
        spots = " ".join(f"{x(point.place):.1f},{y(point.bits or 0.0):.1f}" for point in run)
        lines.append(f'<polyline points="{spots}" fill="none" stroke="#2166ac" stroke-width="1.5" stroke-linejoin="round"/>')
        radius = 3 if named else 1.5
        lines += [
            f'<circle cx="{x(point.place):.1f}" cy="{y(point.bits or 0.0):.1f}" r="{radius}" fill="#2166ac">'
            f"<title>{_escaped(point.label)}</title></circle>"
            for point in run
        ]
    lines += _names(parts, x) if named else _numbers(len(parts), unit, x)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _points(parts: Sequence[tuple[str, float | None]]) -> tuple[list[_Point], int]:
    """The points of the curve, and how many parts each is the mean of."""
    size = max(1, math.ceil(len(parts) / _POINTS))
    points = []
    for first in range(0, len(parts), size):
        group = parts[first : first + size]
        known = [bits for _, bits in group if bits is not None]
        bits = sum(known) / len(known) if known else None
        text = "".join(name for name, _ in group)
        label = f"{text[:80]} · {'no surprisal' if bits is None else f'{figure(bits)} bits'}"
        points.append(_Point(first + (len(group) - 1) / 2, bits, label))
    return points, size


def _runs(points: Sequence[_Point]) -> Iterator[list[_Point]]:
    """Points that follow each other without a gap."""
    run: list[_Point] = []
    for point in points:
        if point.bits is not None:
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _names(parts: Sequence[tuple[str, float | None]], x: Callable[[float], float]) -> Iterator[str]:
    for place, (name, _) in enumerate(parts):
        text = one_line(name.strip(" ") or name)
        text = text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"
        across, down = x(place) + 4, _TOP + _HEIGHT + 10
        yield (
            f'<text x="{across:.1f}" y="{down}" text-anchor="end" transform="rotate(-90 {across:.1f} {down})">'
            f"{_escaped(text.replace(' ', '␣'))}</text>"
        )


def _numbers(count: int, unit: str, x: Callable[[float], float]) -> Iterator[str]:
    step = max(1, round(_step(count / 8)))
    for number in (1, *range(step, count + 1, step)):
        yield f'<text x="{x(number - 1):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{number:,}</text>'
    yield f'<text x="{_LEFT + _ACROSS / 2}" y="{_TOP + _HEIGHT + 38}" text-anchor="middle">{unit}</text>'


def _step(least: float) -> float:
    """1, 2 or 5 times a power of ten, at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def _size(text: str, most: float) -> float:
    """The largest font size, up to `most`, at which a line fits."""
    return round(min(most, _ACROSS / (0.58 * max(len(text), 1))), 1)


def _escaped(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", one_line(text)))
