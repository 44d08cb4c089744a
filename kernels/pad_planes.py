"""Images with a border of zeros, or of their own pixels: reflect, replicate or circular.

y[p, i, j] = x[p, row(i - top), col(j - left)], the pixels that `padding_pixel` of _strip.py names

For algorithms that read zeros outside the image: they run on y without padding.

Shapes
------
x_hbm  (planes, 1, H, W)                                f32 f16 bf16  HBM
y_hbm  (planes, 1, top + H + bottom, left + W + right)  as x          HBM

Loop nest
---------
for tile of <= 128 planes, strip of rows (and columns, where rows are too wide for SBUF):
    load the strip's rows, each from where it is in x; copy the border's columns in SBUF, or load
    them where their pixels are in another strip; one store

Bytes limit it: x is read and y written once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._looped import (
    LoopedPlan,
    Piece,
    in_parts_if_long,
    indices,
    make_table,
    stage_price,
    take,
)
from nkiconv.kernels._plan import Axis, Geometry, Tile, even_tiles, tiles
from nkiconv.kernels._price import Price
from nkiconv.kernels._problem import Problem
from nkiconv.kernels._strip import Run, Side, fill_border, load_run, make_side, transfer_mode
from nkiconv.simulate.hardware import hardware

_STRIP_BYTES = 16_384  # per partition: long transfers, and several strips in flight
_LARGEST_BYTES = 4 * _STRIP_BYTES  # of a row: two of them fit SBUF


@dataclass(frozen=True)
class PadStrip(nl.NKIObject):
    """Padded rows that are in SBUF together, and where each comes from."""

    rows: Tile
    side: Side


@dataclass(frozen=True)
class PadColumns(nl.NKIObject):
    """Padded columns that are in SBUF together: `loads` are from x, the rest is made of these."""

    cols: Tile
    side: Side
    loads: tuple[Run, ...]


@dataclass(frozen=True)
class PadPlan(nl.NKIObject):
    """Everything that the kernel does."""

    planes: tuple[Tile, ...]
    y_shape: tuple[int, int, int, int]
    strips: tuple[PadStrip, ...]
    parts: tuple[PadColumns, ...]
    itemsize: int


def plan_pad(
    shape: tuple[int, int, int],
    rows: tuple[int, int],
    cols: tuple[int, int],
    mode: str,
    itemsize: int,
) -> tuple[PadPlan | LoopedPlan, Price]:
    """Cut planes of a `shape` into strips; `rows` and `cols` are what is added on either side.

    Returns
    -------
    plan
        With on-chip loops over planes, or bands of their rows, where the program would be too long.
    price
        What it costs.

    Raises
    ------
    NotSuited
        The program would be too long all the same.
    """
    planes, height, width = shape
    g = Geometry(
        planes, 1, 1, 1, Axis(height, 1, sum(rows) + height, 1, 1, rows[0]),
        Axis(width, 1, sum(cols) + width, 1, 1, cols[0]), itemsize,
    )  # fmt: skip
    problem = Problem(g, Epilogue(), "", padding_mode=mode)
    return in_parts_if_long(problem, _plan, _price)


def _plan(part: Problem, _reserved_bytes: int) -> PadPlan:
    g, mode = part.geometry, part.padding_mode
    height, width = g.rows.outputs, g.cols.outputs
    parts = _columns(g.cols, mode, g.itemsize)
    strip_rows = max(1, _STRIP_BYTES // (parts[0].cols.size * g.itemsize))
    return PadPlan(
        planes=tiles(g.N, nl.tile_size.pmax),
        y_shape=(g.N, 1, height, width),
        strips=tuple(
            PadStrip(strip, make_side(g.rows, strip, mode)) for strip in tiles(height, strip_rows)
        ),
        parts=parts,
        itemsize=g.itemsize,
    )


def _columns(axis: Axis, mode: str, itemsize: int) -> tuple[PadColumns, ...]:
    """Return all columns together where a row fits, else parts of rows."""
    width = axis.outputs
    if width * itemsize <= _LARGEST_BYTES:
        side = make_side(axis, Tile(0, width), mode, whole=True)
        return (PadColumns(Tile(0, width), side, (side.inside,)),)
    parts = []
    for cols in even_tiles(width, _LARGEST_BYTES // itemsize):
        side = make_side(axis, cols, mode)
        loads = (*((side.inside,) if side.inside.size > 0 else ()), *side.border)
        parts.append(PadColumns(cols, replace(side, border=()), loads))
    return tuple(parts)


def _price(plan: PadPlan) -> Price:
    loads = sum(len(s.side.border) + (s.side.inside.size > 0) for s in plan.strips)
    loads *= len(plan.planes) * sum(len(part.loads) for part in plan.parts)
    borders = sum(1 + len(part.side.border) + len(part.side.zeros) for part in plan.parts)
    zeros = sum(len(s.side.zeros) for s in plan.strips) * len(plan.parts)
    others = len(plan.planes) * (len(plan.strips) * borders + zeros)
    moved = 2 * plan.itemsize * plan.y_shape[0] * plan.y_shape[2] * plan.y_shape[3]
    return stage_price(moved, loads * hardware().dma_static_issue_ns, loads + others)


@nki.jit
def pad_planes(x_hbm: nl.NkiTensor, plan: PadPlan) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _pad(y_hbm, x_hbm, plan)
    return y_hbm


@nki.jit
def pad_planes_looped(x_hbm: nl.NkiTensor, plan: LoopedPlan) -> nl.NkiTensor:
    """Return y_hbm by on-chip loops over parts (_looped.py)."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for piece in plan.pieces:
        _loop(y_hbm, x_hbm, piece)
    return y_hbm


def _loop(y_hbm: nl.NkiTensor, x_hbm: nl.NkiTensor, piece: Piece) -> None:
    """Pad all parts of a piece."""
    if piece.iterations == 1:
        _pad(take(y_hbm, piece.y, []), take(x_hbm, piece.x, []), piece.part)
        return
    table_sb = make_table(piece)

    def body(i: nl.VirtualRegister) -> None:
        at = indices(table_sb, piece, i)
        _pad(take(y_hbm, piece.y, at), take(x_hbm, piece.x, at), piece.part)

    nl.fori_loop(0, piece.iterations, body)


def _pad(y_hbm: nl.NkiTensor, x_hbm: nl.NkiTensor, plan: PadPlan) -> None:
    """y_hbm = all of x_hbm with its border."""
    for planes in plan.planes:
        p = nl.ds(planes.start, planes.size)
        for strip in plan.strips:
            for part in plan.parts:
                shape = (planes.size, 1, strip.rows.size, part.cols.size)
                strip_sb = nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
                for cols in part.loads:
                    if strip.side.inside.size > 0:
                        load_run(strip_sb, x_hbm[p], strip.side.inside, cols)
                    for run in strip.side.border:
                        load_run(strip_sb, x_hbm[p], run, cols)
                fill_border(strip_sb, strip.side, part.side)
                nisa.dma_copy(
                    dst=y_hbm[
                        p,
                        :,
                        nl.ds(strip.rows.start, strip.rows.size),
                        nl.ds(part.cols.start, part.cols.size),
                    ],
                    src=strip_sb,
                    dge_mode=transfer_mode(y_hbm),
                )
