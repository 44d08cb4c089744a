"""Modelled over measured time as a picture: one dot a point, both axes logarithmic, as SVG text."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, log10

from nkiconv.bench.calibration.measure import Report, Row

__all__ = ["scatter"]

_SIDE, _MARGIN, _EDGE = 520, 60, 30  # pixels: the square of dots, room for numbers, room elsewhere
_BAND = 0.1
"""The strip around equality that is drawn: the error that is aimed at."""

_COLOURS = {"fit": "#0072b2", "held out": "#d55e00", "not in the error": "#999999"}


def scatter(report: Report) -> str:
    """Return the picture of all rows."""
    times = [t for row in report.rows for t in (row.point.measured_us, row.modelled_us)]
    low, high = floor(log10(min(times))), ceil(log10(max(times)))
    scale = _SIDE / (high - low)

    def x(time_us: float) -> float:
        return _MARGIN + (log10(time_us) - low) * scale

    def y(time_us: float) -> float:
        return _EDGE + _SIDE - (log10(time_us) - low) * scale

    width, height = _MARGIN + _SIDE + _EDGE, _EDGE + _SIDE + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for power in range(low, high + 1):
        at, across, up = 10.0**power, x(10.0**power), y(10.0**power)
        parts += [
            _line(across, _EDGE, across, _EDGE + _SIDE, "#dddddd"),
            _line(_MARGIN, up, _MARGIN + _SIDE, up, "#dddddd"),
            f'<text x="{across:.1f}" y="{_EDGE + _SIDE + 18}" text-anchor="middle">{at:,g}</text>',
            f'<text x="{_MARGIN - 8}" y="{up + 4:.1f}" text-anchor="end">{at:,g}</text>',
        ]
    first, last = 10.0**low, 10.0**high
    parts.append(_line(x(first), y(first), x(last), y(last), "#000000"))
    for factor in (1 + _BAND, 1 - _BAND):
        one = first if factor > 1 else first / factor
        other = last / factor if factor > 1 else last
        parts.append(_line(x(one), y(one * factor), x(other), y(other * factor), "#aaaaaa"))
    parts += [
        f'<circle cx="{x(row.point.measured_us):.1f}" cy="{y(row.modelled_us):.1f}" r="4" '
        f'fill="{_COLOURS[_group(row)]}" fill-opacity="0.7">'
        f"<title>{row.point.id}: {row.ratio:.2f}</title></circle>"
        for row in report.rows
    ]
    parts += [*_words(width, height), "</svg>"]
    return "\n".join(parts) + "\n"


def _group(row: Row) -> str:
    if not row.counts:
        return "not in the error"
    return "held out" if row.held_out else "fit"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _words(width: int, height: int) -> Iterator[str]:
    middle = _EDGE + _SIDE // 2
    yield (
        f'<text x="{_MARGIN + _SIDE // 2}" y="{height - 20}" text-anchor="middle">'
        "measured, µs</text>"
    )
    yield (
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        "modelled, µs</text>"
    )
    for i, (word, colour) in enumerate(_COLOURS.items()):
        at = _EDGE + 20 + 20 * i
        yield f'<circle cx="{_MARGIN + 16}" cy="{at}" r="4" fill="{colour}"/>'
        yield f'<text x="{_MARGIN + 28}" y="{at + 4}">{word}</text>'
    yield (
        f'<text x="{_MARGIN + 12}" y="{_EDGE + 24 + 20 * len(_COLOURS)}">'
        f"grey lines: ±{_BAND:.0%}</text>"
    )
