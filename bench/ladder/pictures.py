"""What a step of the ladder does with the image, a PSUM bank and the results, as a picture."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

from nkiconv.bench.ladder.measure import CASE, Measured

__all__ = ["picture"]

_BLUE, _ORANGE, _GREY, _LIGHT = "#0072b2", "#d55e00", "#999999", "#dddddd"


def picture(measured: Measured) -> str:
    """Return an SVG of three panels: rows of x loaded, columns of a matmul, stores of a tile."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "nkiconv", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(8.4, 2.5), layout="constrained")
        loads, bank, stores = figure.subplots(1, 3, width_ratios=(1, 1.6, 1))
        _loads(loads, measured)
        _bank(bank, measured)
        _stores(stores, measured)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _loads(axes: Any, measured: Measured) -> None:
    """Bars: how often each row of the image crosses HBM."""
    reads = measured.reads_of_x
    axes.barh(range(len(reads)), reads, height=1.0, color=_BLUE, edgecolor=_BLUE, lw=0.5)
    axes.set_ylim(len(reads) - 0.5, -0.5)
    axes.set_xlim(0, max(40, *reads))
    axes.set_title("loads of each row of x")
    axes.set_ylabel("row of x")
    axes.set_xlabel("times")


def _bank(axes: Any, measured: Measured) -> None:
    """Return the 512 columns of a PSUM bank: what one matmul fills, and where columns come from."""
    per_tile = 512 // CASE.outputs[1] * CASE.outputs[1]
    copied = measured.copies_per_tile > 0
    if copied:  # tiles of positions, in pieces of 128
        edges = [*range(0, 512, 128), 512]
    else:
        step = min(per_tile, round(measured.widest_matmul))
        edges = [*range(0, per_tile, step), per_tile]
    for at, (first, end) in enumerate(pairwise(edges)):
        colour = (_BLUE, _ORANGE)[at % 2]
        axes.broken_barh([(first, end - first - 2)], (0.55, 0.4), color=colour)
        axes.text((first + end) / 2, 0.75, str(end - first), ha="center", va="center", color="w")
    source = "a copy for each" if copied else "a view of x in SBUF"
    axes.text(0, 0.30, f"moving columns: {source}", va="center")
    if copied:
        axes.vlines(range(0, 512, 4), 0.02, 0.18, color=_GREY, lw=0.6)
    else:
        axes.broken_barh([(0, per_tile)], (0.02, 0.16), color=_LIGHT)
    axes.set_xlim(0, 512)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_xticks(range(0, 513, 128))
    axes.set_title("matmuls of a tap in a PSUM bank")
    axes.set_xlabel("column")


def _stores(axes: Any, measured: Measured) -> None:
    """Draw the results of a tile, each store framed."""
    OW = CASE.outputs[1]
    rows = 512 // OW
    if measured.stores_per_tile > 1:
        for row in range(rows):
            axes.scatter(range(OW), [row] * OW, s=4, color=_ORANGE, marker="s", lw=0)
        title = "a store for each output"
    else:
        axes.broken_barh([(-0.5, OW)], (-0.5, rows), color=_BLUE)
        title = "one store for a tile"
    axes.set_xlim(-1, OW)
    axes.set_ylim(rows, -1)
    axes.set_title(title)
    axes.set_xlabel("column of y")
    axes.set_ylabel("row of y")
