"""The roofline of a profile as a drawing: rate over FLOP per byte, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, isinf, log10

from nkiconv.simulate.roofline import Roofline

__all__ = ["roofline_svg"]

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 42


def roofline_svg(r: Roofline) -> str:
    """An ``svg`` element whose colours come from the page's style; empty without matmuls."""
    if not r.flops or r.attained_tflops <= 0 or isinf(r.intensity):
        return ""
    return "".join(_pieces(r))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _pieces(r: Roofline) -> Iterator[str]:
    x_low = floor(log10(min(r.intensity, r.ridge) / 3))
    x_high = ceil(log10(max(r.intensity, r.ridge) * 3))
    y_high = ceil(log10(r.peak_tflops * 1.3))
    y_low = floor(log10(min(r.attained_tflops, r.attainable_tflops) / 2))

    def x_of(intensity: float) -> float:
        wide = _WIDTH - _LEFT - _RIGHT
        return _LEFT + wide * (log10(intensity) - x_low) / (x_high - x_low)

    def y_of(tflops: float) -> float:
        high = _HEIGHT - _TOP - _BOTTOM
        return _TOP + high * (y_high - max(y_low, log10(tflops))) / (y_high - y_low)

    said = (
        f"Attained {r.attained_tflops:,.2f} of {r.attainable_tflops:,.2f} TFLOP/s attainable at "
        f"{r.intensity:,.1f} FLOP per byte"
    )
    yield f'<svg class="roof" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}">'
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for power in range(x_low, x_high + 1):
        x = x_of(10.0**power)
        yield f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>'
        anchor = "end" if x > right - 20 else "mid"  # the last one would leave the picture
        yield f'<text x="{x:.1f}" y="{bottom + 15}" class="{anchor}">{_number(10.0**power)}</text>'
    for power in range(y_low, y_high + 1):
        y = y_of(10.0**power)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{_number(10.0**power)}</text>'
    centre, middle = (_LEFT + right) / 2, (_TOP + bottom) / 2
    yield f'<text x="{centre}" y="{_HEIGHT - 8}" class="mid">FLOP per byte of HBM</text>'
    yield (
        f'<text x="13" y="{middle}" class="mid" transform="rotate(-90 13 {middle})">TFLOP/s</text>'
    )
    start = max(10.0**x_low, 10.0**y_low * 1e3 / r.hbm_gb_per_s)
    yield (
        f'<path class="limit" d="M{x_of(start):.1f} {y_of(start * r.hbm_gb_per_s / 1e3):.1f}'
        f'L{x_of(r.ridge):.1f} {y_of(r.peak_tflops):.1f}H{right}"/>'
    )
    yield (
        f'<text x="{right - 4}" y="{y_of(r.peak_tflops) - 6:.1f}" class="end">'
        f"TensorE {_number(r.peak_tflops)} TFLOP/s</text>"
    )
    x, y, top = x_of(r.intensity), y_of(r.attained_tflops), y_of(r.attainable_tflops)
    yield f'<path class="gap" d="M{x:.1f} {top:.1f}V{y:.1f}"/>'
    yield f'<circle class="roofmark" cx="{x:.1f}" cy="{top:.1f}" r="4"/>'
    yield f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    side, place = ("end", x - 9) if x > _WIDTH * 0.55 else ("start", x + 9)
    yield (
        f'<text x="{place:.1f}" y="{y + 4:.1f}" class="{side} strong">'
        f"{_number(r.attained_tflops)} attained</text>"
    )
    yield "</svg>"
