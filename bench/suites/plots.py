"""The plots of a run as SVG text, to stand in a page: matplotlib draws, the page's style colours.

Words and lines get the page's own colours, light or dark, by way of CSS variables that replace
placeholders; marks have a title that shows under the pointer.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from nkiconv.bench.suites.compare import Comparison
from nkiconv.bench.suites.measure import BenchRow
from nkiconv.bench.tables import SHORT_DTYPE
from nkiconv.simulate.report._colours import colour_of

__all__ = ["DTYPE_COLOURS", "changes_plot", "roofline_plot", "scaling_plot", "time_plot"]

DTYPE_COLOURS = {"bfloat16": "#5492ec", "float32": "#d07e26", "float16": "#4aa361"}
# All of one luminance, as in the page of a profile: they read on light and dark.

_INK, _SOFT, _LINE = "#010203", "#010204", "#010205"  # nothing is drawn in these colours otherwise
_VARIABLES = {_INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)"}

_STYLE: Any = {  # its type names each setting of one release of matplotlib
    "svg.fonttype": "none",
    "svg.hashsalt": "nkiconv",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
}

_ROW_INCHES = 0.21
CAUSES = (
    "TensorE", "VectorE", "ScalarE", "GpSimdE", "DMA bandwidth", "DMA latency", "dependency",
    "launch",
)  # fmt: skip


def _plain(value: float, _: object = None) -> str:
    """Return a number of a logarithmic axis as people write it."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 10_000 else f"{value:,g}"


class _Titles:
    """Titles of marks, by the id that matplotlib writes into the SVG."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._titles: dict[str, str] = {}

    def mark(self, artist: Any, title: str) -> None:
        """Give a mark its title."""
        name = f"{self._prefix}-{len(self._titles)}"
        artist.set_gid(name)
        self._titles[name] = title

    def put(self, svg: str) -> str:
        """Write the titles into the SVG."""

        def title(match: re.Match[str]) -> str:
            text = self._titles.get(match[1])
            return match[0] if text is None else f"{match[0]}<title>{escape(text)}</title>"

        return re.sub(r'<g id="([^"]+)">', title, svg)


def _svg(figure: Figure, titles: _Titles, label: str, prefix: str) -> str:
    """Return the figure as one <svg> element that scales to its place."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # ids of clip paths and markers must differ between the figures of a page
    for kept in sorted(set(re.findall(r'id="([mp][0-9a-f]{10})"', svg))):
        svg = svg.replace(kept, f"{prefix}-{kept}")
    svg = re.sub(r'id="((?:figure|axes|patch|line2d|matplotlib|text|xtick|ytick|legend|Path'
                 r'Collection|LineCollection)_?[\w.]*)"', rf'id="{prefix}-\1"', svg)  # fmt: skip
    svg = re.sub(r"font: (?:[\w.]+ )?([\d.]+)px[^;\"]*", r"font-size: \1px", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    return titles.put(svg)


def _drawn(
    prefix: str, label: str, size: tuple[float, float], draw: Callable[[Figure, _Titles], None]
) -> str:
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        titles = _Titles(prefix)
        draw(figure, titles)
        return _svg(figure, titles, label, prefix)


def _label(row: BenchRow) -> str:
    return f"{row.name}  {SHORT_DTYPE[row.dtype]}"


def time_plot(rows: Sequence[BenchRow], prefix: str) -> str:
    """Modelled time of each row beside its floor and PyTorch's, and what holds it; aligned."""
    shown = [row for row in rows if row.modelled]

    def draw(figure: Figure, titles: _Titles) -> None:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
        for place, row in enumerate(shown):
            _time_marks(left, row, place, titles)
            _share_bars(right, row, place, titles)
        left.set_yticks(range(len(shown)), [_label(row) for row in shown])
        left.set_ylim(len(shown) - 0.4, -0.6)
        left.set_xscale("log")
        left.xaxis.set_major_formatter(FuncFormatter(_plain))
        left.xaxis.set_minor_locator(NullLocator())
        left.grid(axis="x")
        left.set_xlabel("µs")
        left.tick_params(length=0)
        right.set_xlim(0, 1)
        right.xaxis.set_major_formatter(PercentFormatter(1.0))
        right.set_xlabel("share of the critical path, launch included")
        right.tick_params(length=0, labelleft=False)
        for side in ("left", "bottom"):
            right.spines[side].set_visible(False)

    height = 0.75 + _ROW_INCHES * len(shown)
    return _drawn(prefix, "time per convolution, and what it is bound by", (11.5, height), draw)


def _time_marks(axes: Any, row: BenchRow, place: int, titles: _Titles) -> None:
    m = row.modelled
    if m is None:
        return
    colour = DTYPE_COLOURS[row.dtype]
    axes.plot([m.floor_us, m.body_us], [place, place], color=colour, linewidth=2, alpha=0.5)
    (floor,) = axes.plot([m.floor_us], [place], "|", color=colour, markersize=9, markeredgewidth=2)
    titles.mark(floor, f"{_label(row)}: floor {m.floor_us:,.1f} µs")
    (body,) = axes.plot([m.body_us], [place], "o", color=colour, markersize=6.5)
    titles.mark(
        body,
        f"{_label(row)}: {m.body_us:,.1f} µs modelled, {m.body_us / m.floor_us:.2f} of its floor,"
        f" {m.algorithm}, bound by {m.bound}",
    )
    if row.host is not None:
        (host,) = axes.plot(
            [row.host.median_s * 1e6], [place], "D", color=_SOFT, markersize=4.5,
            fillstyle="none", markeredgewidth=1.2,
        )  # fmt: skip
        titles.mark(host, f"{_label(row)}: PyTorch {row.host.median_s * 1e3:,.2f} ms, measured")


def _share_bars(axes: Any, row: BenchRow, place: int, titles: _Titles) -> None:
    m = row.modelled
    if m is None:
        return
    whole, start = sum(m.time_us.values()), 0.0
    for cause in CAUSES:
        share = m.time_us.get(cause, 0.0) / whole
        if share > 0:
            (bar,) = axes.barh(place, share, 0.72, left=start, color=colour_of(cause))
            us = m.time_us[cause]
            titles.mark(bar, f"{_label(row)}: {cause} {us:,.1f} µs, {share:.0%}")
            start += share


def roofline_plot(rows: Sequence[BenchRow], prefix: str) -> str:
    """Attained rate over intensity, beneath the roofs of the target; marks bear row numbers."""
    shown = [(number, row) for number, row in enumerate(rows, 1) if row.modelled]
    roofs = {
        row.dtype: (row.modelled.peak_gflop_per_s, row.modelled.peak_gb_per_s)
        for _, row in shown
        if row.modelled
    }
    points = [(row.intensity, row.modelled.gflop_per_s) for _, row in shown if row.modelled]
    low = min([x for x, _ in points] + [1.0]) / 2
    high = max([x for x, _ in points] + [2 * p / b for p, b in roofs.values()]) * 2

    def draw(figure: Figure, titles: _Titles) -> None:
        axes = figure.subplots()
        for dtype, (peak, bandwidth) in roofs.items():
            colour = DTYPE_COLOURS[dtype]
            axes.plot(
                [low, peak / bandwidth, high], [low * bandwidth, peak, peak], color=colour,
                linewidth=2,
            )  # fmt: skip
            axes.annotate(
                f"{SHORT_DTYPE[dtype]}: {peak / 1e3:,.1f} TFLOP/s", (high, peak), (-2, 4),
                textcoords="offset points", ha="right", color=_SOFT, fontsize=9,
            )  # fmt: skip
        bandwidth = max(b for _, b in roofs.values())
        axes.annotate(
            f"HBM {bandwidth:,.0f} GB/s", (low * 1.3, low * 1.3 * bandwidth), (4, -14),
            textcoords="offset points", color=_SOFT, fontsize=9,
        )  # fmt: skip
        for (number, row), (x, y) in zip(shown, points, strict=True):
            (mark,) = axes.plot([x], [y], "o", color=DTYPE_COLOURS[row.dtype], markersize=6)
            titles.mark(
                mark, f"{number} {_label(row)}: {y:,.0f} GFLOP/s at {x:.3g} FLOP/B, modelled"
            )
        numbers = [number for number, _ in shown]
        _number_marks(axes, [(n, *at) for n, at in zip(numbers, points, strict=True)])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(
            min([y for _, y in points] + [1e3]) / 2, max(p for p, _ in roofs.values()) * 2
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_plain))
            axis.set_minor_locator(NullLocator())
        axes.grid()
        axes.set_xlabel("useful FLOP per byte that crosses HBM")
        axes.set_ylabel("GFLOP/s, modelled")

    return _drawn(prefix, "roofline", (9, 5.2), draw)


def _number_marks(axes: Any, marks: Iterable[tuple[int, float, float]]) -> None:
    """Write a number beside each mark unless another one stands there already."""
    taken: list[tuple[float, float]] = []
    for number, x, y in marks:
        place = math.log10(x), math.log10(y)
        if all(abs(place[0] - a) > 0.07 or abs(place[1] - b) > 0.11 for a, b in taken):
            axes.annotate(
                str(number), (x, y), (5, 3), textcoords="offset points", fontsize=8, color=_INK
            )
            taken.append(place)


def scaling_plot(rows: Sequence[BenchRow], prefix: str) -> str:
    """Time and share of peak as the image, the channels or the batch grow."""
    series = list(dict.fromkeys(row.series for row in rows if row.series))

    def draw(figure: Figure, titles: _Titles) -> None:
        grid = figure.subplots(2, len(series), sharex="col", sharey="row", squeeze=False)
        for column, name in enumerate(series):
            upper, lower = grid[0][column], grid[1][column]
            for dtype in dict.fromkeys(row.dtype for row in rows):
                members = [
                    row for row in rows
                    if row.series == name and row.dtype == dtype and row.modelled
                ]  # fmt: skip
                _grow(upper, lower, members, titles)
            values = sorted({row.value for row in rows if row.series == name})
            upper.set_xscale("log", base=2)
            upper.set_yscale("log")
            upper.yaxis.set_major_formatter(FuncFormatter(_plain))
            upper.yaxis.set_minor_locator(NullLocator())
            lower.set_xticks(values, [str(value) for value in values])
            lower.xaxis.set_minor_locator(NullLocator())
            lower.yaxis.set_major_formatter(PercentFormatter(1.0))
            lower.set_xlabel(name)
            upper.grid()
            lower.grid()
        grid[0][0].set_ylabel("µs")
        grid[1][0].set_ylabel("MFU, modelled")

    return _drawn(prefix, "scaling with image, channels and batch", (11.5, 5.4), draw)


def _grow(upper: Any, lower: Any, rows: Sequence[BenchRow], titles: _Titles) -> None:
    """Draw one element type's line, its floor and PyTorch's."""
    shown = [(row, row.modelled) for row in rows if row.modelled]
    if not shown:
        return
    colour = DTYPE_COLOURS[shown[0][0].dtype]
    values = [row.value for row, _ in shown]
    upper.plot(values, [m.body_us for _, m in shown], "-", color=colour, linewidth=2)
    upper.plot(values, [m.floor_us for _, m in shown], "--", color=colour, linewidth=1.2)
    hosts = [(row.value, row.host.median_s * 1e6) for row, _ in shown if row.host]
    if hosts:
        upper.plot(*zip(*hosts, strict=True), ":", color=colour, linewidth=1.4)
    lower.plot(values, [m.mfu for _, m in shown], "-", color=colour, linewidth=2)
    for row, m in shown:
        (mark,) = upper.plot([row.value], [m.body_us], "o", color=colour, markersize=5)
        titles.mark(mark, f"{_label(row)}: {m.body_us:,.1f} µs modelled, floor {m.floor_us:,.1f}")
        (mark,) = lower.plot([row.value], [m.mfu], "o", color=colour, markersize=5)
        titles.mark(mark, f"{_label(row)}: MFU {m.mfu:.1%}, modelled")


def changes_plot(found: Comparison, prefix: str, most: int = 40) -> str:
    """Change of the modelled time against the baseline, the largest first."""
    changed = sorted(
        (each for each in found.changes if each.change), key=lambda each: -abs(each.change or 0)
    )[:most]

    def draw(figure: Figure, titles: _Titles) -> None:
        axes = figure.subplots()
        for place, each in enumerate(changed):
            change = each.change or 0.0
            worse = each.regressed(found.tolerance)
            colour = "#e9696a" if worse else "#4aa361" if change < 0 else "#8a929e"
            (bar,) = axes.barh(place, change, 0.7, color=colour)
            titles.mark(bar, f"{each.name}: {each.before_us:,.1f} to {each.after_us:,.1f} µs")
            axes.annotate(
                f"{change:+.1%}", (change, place), (4 if change > 0 else -4, 0),
                textcoords="offset points", va="center", ha="left" if change > 0 else "right",
                fontsize=9,
            )  # fmt: skip
        labels = [f"{each.name}  {SHORT_DTYPE[each.dtype]} {each.target}" for each in changed]
        axes.set_yticks(range(len(changed)), labels)
        axes.set_ylim(len(changed) - 0.4, -0.6)
        axes.margins(x=0.15)
        axes.axvline(0, color=_SOFT, linewidth=1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.tick_params(length=0)
        axes.set_xlabel("change of the modelled time")

    size = 10.0, 0.8 + 0.24 * len(changed)
    return _drawn(prefix, "change against the baseline", size, draw) if changed else ""
