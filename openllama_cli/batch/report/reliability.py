"""A reliability diagram as one self-contained SVG: accuracy over confidence, beside what perfect calibration would be."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _TOP, _SIDE = 420, 60, 66, 320
_HEIGHT = _TOP + _SIDE + 60
_COUNTS = 40  # pixels: of the tallest bar that shows how many rows a bin has
_RIGHT, _GAP = "#2166ac", "#d6604d"


def svg(calibration: Mapping[str, Any], title: str) -> str:
    """calibration: as in a report's document."""
    bins = calibration["bins"]
    said = f"expected calibration error {calibration['ece']:.3f}, {len(bins)} bins, {calibration['rows']:,} rows"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(20, 24, title, size=min(14.0, (_WIDTH - 40) / (0.55 * max(len(title), 1)))),
        _text(20, 44, said),
        *_grid(),
        *_bars(bins),
        f'<line x1="{_LEFT}" y1="{_TOP + _SIDE}" x2="{_LEFT + _SIDE}" y2="{_TOP}" stroke="#555" stroke-dasharray="4 3"/>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _grid() -> Iterator[str]:
    for tenth in range(0, 11, 2):
        x, y = _LEFT + tenth / 10 * _SIDE, _TOP + _SIDE - tenth / 10 * _SIDE
        yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_LEFT + _SIDE}" y2="{y:.1f}" stroke="#ddd"/>'
        yield _text(_LEFT - 6, y + 4, f"{tenth / 10:g}", anchor="end")
        yield _text(x, _TOP + _SIDE + 18, f"{tenth / 10:g}", anchor="middle")
    yield _text(_LEFT + _SIDE / 2, _TOP + _SIDE + 38, "confidence (gray: how many rows)", anchor="middle")
    yield f'<text transform="translate(22 {_TOP + _SIDE / 2}) rotate(-90)" text-anchor="middle">accuracy</text>'


def _bars(bins: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    most = max(each["rows"] for each in bins)
    width = _SIDE / len(bins)
    for place, each in enumerate(bins):
        if not each["rows"]:
            continue
        x = _LEFT + place * width
        accuracy, confidence = each["accuracy"], each["confidence"]
        low, high = sorted((accuracy, confidence))
        rows = f"{each['rows']:,} row{'s' * (each['rows'] != 1)}"
        told = f"{rows}, confidence {confidence:.3f}, accuracy {accuracy:.3f}"
        yield f"<g><title>{each['from']:g} to {each['to']:g}: {told}</title>"
        yield _rect(x + 1, width - 2, 0, accuracy, _RIGHT, 0.75)
        yield _rect(x + 1, width - 2, low, high, _GAP, 0.45)
        count = each["rows"] / most * _COUNTS / _SIDE
        yield _rect(x + width / 2 - 2, 4, 0, count, "#222", 0.5)
        yield "</g>"


def _rect(x: float, width: float, low: float, high: float, color: str, opacity: float) -> str:
    """low, high: between 0 and 1, from the bottom."""
    y = _TOP + (1 - high) * _SIDE
    height = (high - low) * _SIDE
    where = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {where} fill="{color}" fill-opacity="{opacity}"/>'


def _text(x: float, y: float, text: str, *, size: float | None = None, anchor: str = "start") -> str:
    bigger = f' font-size="{size:.3g}"' if size else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{bigger}>{escape(text)}</text>'
