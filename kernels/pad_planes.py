"""Images with a border of their own pixels: reflect, replicate or circular.

y[p, i, j] = x[p, row(i - top), col(j - left)], the pixels that `padding_pixel` of _strip.py names

For algorithms that read zeros outside the image: they run on y without padding.

Shapes
------
x_hbm  (planes, 1, H, W)                                f32 f16 bf16  HBM
y_hbm  (planes, 1, top + H + bottom, left + W + right)  as x          HBM

Loop nest
---------
for tile of <= 128 planes, strip of rows:
    load the strip's rows, each from where it is in x; copy the border's columns in SBUF; one store

Bytes limit it: x is read and y written once.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._plan import Axis, Tile, tiles
from nkiconv.kernels._strip import Side, fill_border, load_run, make_side

_STRIP_BYTES = 16_384  # per partition: long transfers, and several strips in flight


@dataclass(frozen=True)
class PadStrip(nl.NKIObject):
    """Padded rows that are in SBUF together, and where each comes from."""

    rows: Tile
    side: Side


@dataclass(frozen=True)
class PadPlan(nl.NKIObject):
    """Everything that the kernel does."""

    planes: tuple[Tile, ...]
    y_shape: tuple[int, int, int, int]
    strips: tuple[PadStrip, ...]
    cols: Side

    @property
    def num_loads(self) -> int:
        """Transfers from HBM."""
        runs = sum(len(s.side.border) + (s.side.inside.size > 0) for s in self.strips)
        return len(self.planes) * runs


def plan_pad(
    shape: tuple[int, int, int],
    rows: tuple[int, int],
    cols: tuple[int, int],
    mode: str,
    itemsize: int,
) -> PadPlan:
    """Cut planes of a `shape` into strips; `rows` and `cols` are what is added on either side."""
    planes, height, width = shape
    y_shape = (planes, 1, sum(rows) + height, sum(cols) + width)
    down = Axis(height, 1, y_shape[2], 1, 1, rows[0])
    across = Axis(width, 1, y_shape[3], 1, 1, cols[0])
    strip_rows = max(1, _STRIP_BYTES // (y_shape[3] * itemsize))
    return PadPlan(
        planes=tiles(planes, nl.tile_size.pmax),
        y_shape=y_shape,
        strips=tuple(
            PadStrip(strip, make_side(down, strip, mode)) for strip in tiles(y_shape[2], strip_rows)
        ),
        cols=make_side(across, Tile(0, y_shape[3]), mode, whole=True),
    )


@nki.jit
def pad_planes(x_hbm: nl.NkiTensor, plan: PadPlan) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for planes in plan.planes:
        p = nl.ds(planes.start, planes.size)
        for strip in plan.strips:
            shape = (planes.size, 1, strip.rows.size, plan.y_shape[3])
            strip_sb = nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
            if strip.side.inside.size > 0:
                load_run(strip_sb, x_hbm[p], strip.side.inside, plan.cols.inside)
            for run in strip.side.border:
                load_run(strip_sb, x_hbm[p], run, plan.cols.inside)
            fill_border(strip_sb, strip.side, plan.cols)
            nisa.dma_copy(
                dst=y_hbm[p, :, nl.ds(strip.rows.start, strip.rows.size), :],
                src=strip_sb,
                dge_mode=nisa.dge_mode.none,
            )
    return y_hbm
