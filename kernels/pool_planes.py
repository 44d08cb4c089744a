"""Images pooled in HBM: y[p, i, j] = max, or mean, over a window of x[p].

For algorithms that do not pool in the same pass: their result goes through HBM once more.

Shapes
------
x_hbm  (planes, 1, H, W)  f32 f16 bf16  HBM
y_hbm  (planes, 1, P, Q)  as x          HBM

Loop nest
---------
for tile of <= 128 planes, strip of pooled rows (and columns, where rows are too wide for SBUF):
    load the pixels that its windows reach; pool them (_blocks.py); one store

Bytes limit it: x is read once, but for pixels that two strips share, and y written once.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._blocks import Pool, conv_outputs, pool_block
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
from nkiconv.kernels._plan import Axis, Geometry, Tile, ceil_div, even_tiles, tiles
from nkiconv.kernels._price import Price
from nkiconv.kernels._problem import NotSuited, Problem
from nkiconv.kernels._strip import transfer_mode
from nkiconv.simulate.hardware import hardware

_STRIP_BYTES = 16_384  # per partition: long transfers, few shared rows, several strips in flight
_LARGEST_BYTES = 2 * _STRIP_BYTES  # of a strip of one pooled row: two of them, pooled, fit SBUF


@dataclass(frozen=True)
class PoolStrip(nl.NKIObject):
    """Pooled rows and columns that are made together, and those of x that they are made of."""

    pooled: Tile
    rows: Tile
    pooled_cols: Tile
    cols: Tile


@dataclass(frozen=True)
class PoolPlan(nl.NKIObject):
    """Everything that the kernel does."""

    pool: Pool
    planes: tuple[Tile, ...]
    y_shape: tuple[int, int, int, int]
    strips: tuple[PoolStrip, ...]
    itemsize: int


def plan_pool(
    shape: tuple[int, int, int], pool: Pool, itemsize: int
) -> tuple[PoolPlan | LoopedPlan, Price]:
    """Cut planes of a `shape` into strips.

    Returns
    -------
    plan
        With on-chip loops over planes, or bands of their rows, where the program would be too long.
    price
        What it costs.

    Raises
    ------
    NotSuited
        The program would be too long all the same, or a window is too large for SBUF.
    """
    planes, height, width = shape
    g = Geometry(
        planes, 1, 1, 1, Axis(height, 1, height, 1, 1, 0), Axis(width, 1, width, 1, 1, 0), itemsize
    )
    return in_parts_if_long(Problem(g, Epilogue(pool=pool), ""), _plan, _price)


def _plan(part: Problem, _reserved_bytes: int) -> PoolPlan:
    g, pool = part.geometry, part.epilogue.pool
    if pool is None:
        raise NotSuited("there is no pool")
    strips: list[PoolStrip] = []
    for pooled_cols, cols in _columns(g.cols.size, pool, g.itemsize):
        most = max(1, _STRIP_BYTES // (cols.size * g.itemsize * pool.rows.stride))
        for pooled in even_tiles(pool.rows.outputs, most):
            strips.append(PoolStrip(pooled, conv_outputs(pool.rows, pooled), pooled_cols, cols))
    return PoolPlan(
        pool=pool,
        planes=tiles(g.N, nl.tile_size.pmax),
        y_shape=(g.N, 1, pool.rows.outputs, pool.cols.outputs),
        strips=tuple(strips),
        itemsize=g.itemsize,
    )


def _columns(width: int, pool: Pool, itemsize: int) -> list[tuple[Tile, Tile]]:
    """Return the pooled columns of strips, and the columns of x; all of them where they fit."""
    window = pool.rows.size * itemsize
    if window * width <= _LARGEST_BYTES:
        return [(Tile(0, pool.cols.outputs), Tile(0, width))]  # rows side by side as in HBM
    most = (_LARGEST_BYTES // window - pool.cols.size) // pool.cols.stride + 1
    if most < 1:
        raise NotSuited(
            f"the pool's windows of {pool.rows.size}x{pool.cols.size} take more than the "
            f"{_LARGEST_BYTES} B of SBUF per partition that there are for one"
        )
    return [(part, conv_outputs(pool.cols, part)) for part in even_tiles(pool.cols.outputs, most)]


def _price(plan: PoolPlan) -> Price:
    pool = plan.pool
    each = pool.rows.size + pool.cols.size + 1  # a load, a store, the windows
    num = len(plan.planes) * len(plan.strips) * each
    vector = vector_elems(plan) / hardware().vector_ghz
    return stage_price(bytes_moved(plan), vector, num)


def bytes_moved(plan: PoolPlan) -> int:
    """Return the bytes that cross HBM."""
    pixels = sum(strip.rows.size * strip.cols.size for strip in plan.strips)
    planes, _, P, Q = plan.y_shape
    return planes * (pixels + P * Q) * plan.itemsize


def vector_elems(plan: PoolPlan) -> int:
    """Return the elements per partition that VectorE works on."""
    pool = plan.pool
    tall = sum(strip.pooled.size * strip.cols.size for strip in plan.strips)
    tall *= pool.rows.size - 1
    wide = pool.rows.outputs * pool.cols.outputs * max(1, pool.cols.size - 1)
    return ceil_div(plan.y_shape[0], nl.tile_size.pmax) * (tall + wide)


@nki.jit
def pool_planes(x_hbm: nl.NkiTensor, plan: PoolPlan) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _pool(y_hbm, x_hbm, plan)
    return y_hbm


@nki.jit
def pool_planes_looped(x_hbm: nl.NkiTensor, plan: LoopedPlan) -> nl.NkiTensor:
    """Return y_hbm by on-chip loops over parts (_looped.py)."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for piece in plan.pieces:
        _loop(y_hbm, x_hbm, piece)
    return y_hbm


def _loop(y_hbm: nl.NkiTensor, x_hbm: nl.NkiTensor, piece: Piece) -> None:
    """Pool all parts of a piece."""
    if piece.iterations == 1:
        _pool(take(y_hbm, piece.y, []), take(x_hbm, piece.x, []), piece.part)
        return
    table_sb = make_table(piece)

    def body(i: nl.VirtualRegister) -> None:
        at = indices(table_sb, piece, i)
        _pool(take(y_hbm, piece.y, at), take(x_hbm, piece.x, at), piece.part)

    nl.fori_loop(0, piece.iterations, body)


def _pool(y_hbm: nl.NkiTensor, x_hbm: nl.NkiTensor, plan: PoolPlan) -> None:
    """y_hbm = all of x_hbm, pooled."""
    for planes in plan.planes:
        p = nl.ds(planes.start, planes.size)
        for strip in plan.strips:
            x_sb = nl.ndarray(
                (planes.size, 1, strip.rows.size, strip.cols.size),
                dtype=x_hbm.dtype,
                buffer=nl.sbuf,
            )
            nisa.dma_copy(
                dst=x_sb,
                src=x_hbm[
                    p,
                    :,
                    nl.ds(strip.rows.start, strip.rows.size),
                    nl.ds(strip.cols.start, strip.cols.size),
                ],
                dge_mode=transfer_mode(x_hbm),
            )
            y_sb = nl.ndarray(
                (planes.size, 1, strip.pooled.size, strip.pooled_cols.size),
                dtype=x_hbm.dtype,
                buffer=nl.sbuf,
            )
            pool_block(y_sb, x_sb, plan.pool)
            nisa.dma_copy(
                dst=y_hbm[
                    p,
                    :,
                    nl.ds(strip.pooled.start, strip.pooled.size),
                    nl.ds(strip.pooled_cols.start, strip.pooled_cols.size),
                ],
                src=y_sb,
                dge_mode=transfer_mode(y_hbm),
            )
