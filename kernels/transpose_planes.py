"""Planes transposed in HBM: y[n, b, a] = x[n, a, b].

With a the pixels of an image and b its channels this makes (N, C, H, W) of (N, H, W, C), and the
other way round.

Shapes
------
x_hbm  (N, A, B)  f32 f16 bf16  HBM
y_hbm  (N, B, A)  as x          HBM

Loop nest
---------
for n, block of <= 512 a, block of <= 2048 b:
    load each tile of <= 128 a
    for tile of <= 128 b:
        for tile of a: TensorE turns it into its columns of one PSUM tile (b, <= 512)
        copy to SBUF, VectorE and ScalarE in turn; one store

On trn1 TensorE transposes by multiplying with zeros and ones, so that NaN or Inf in x reaches other
elements of its row of y.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_transpose.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from nkiconv.kernels._plan import Axis, Geometry, Tile, ceil_div, tiles
from nkiconv.kernels._price import Price
from nkiconv.kernels._problem import Problem
from nkiconv.kernels._strip import transfer_mode
from nkiconv.simulate.hardware import hardware

_B_ELEMS = 2048  # of a load per partition: at least 4 KiB, where the DMA rate levels off


@dataclass(frozen=True)
class Block(nl.NKIObject):
    """`size` neighbours from `start` on, and its tiles of at most 128, counted within it."""

    start: int
    size: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class TransposePlan(nl.NKIObject):
    """Everything that the kernel does."""

    shape: tuple[int, int, int]
    a_blocks: tuple[Block, ...]
    b_blocks: tuple[Block, ...]

    itemsize: int


def plan_transpose(
    shape: tuple[int, int, int], itemsize: int
) -> tuple[TransposePlan | LoopedPlan, Price]:
    """Cut the planes of a `shape` (N, A, B) into tiles.

    Returns
    -------
    plan
        With on-chip loops over n, or parts of a, where the program would be too long.
    price
        What it costs.

    Raises
    ------
    NotSuited
        The program would be too long all the same.
    """
    N, A, B = shape
    # Images of one channel: parts of them are bands of rows of x or y, whichever has more.
    turned = "y" if A >= B else "x"
    rows, cols = max(A, B), min(A, B)
    g = Geometry(N, 1, 1, 1, Axis(rows, 1, rows, 1, 1, 0), Axis(cols, 1, cols, 1, 1, 0), itemsize)

    def plan(part: Problem, _reserved_bytes: int) -> TransposePlan:
        sizes = (part.geometry.rows.size, cols)
        return _plan((part.geometry.N, *(sizes if turned == "y" else sizes[::-1])), itemsize)

    return in_parts_if_long(Problem(g, Epilogue(), ""), plan, _price, turned=turned)


def _plan(shape: tuple[int, int, int], itemsize: int) -> TransposePlan:
    return TransposePlan(
        shape=shape,
        a_blocks=_blocks(shape[1], nl.tile_size.psum_bank_fmax),
        b_blocks=_blocks(shape[2], _B_ELEMS),
        itemsize=itemsize,
    )


def _price(plan: TransposePlan) -> Price:
    hw = hardware()
    N, A, B = plan.shape
    pmax = nl.tile_size.pmax
    turns = N * ceil_div(A, pmax) * ceil_div(B, pmax)
    passes = hw.float32_matmul_row_cycles if plan.itemsize == 4 else 1
    tensor = turns * (pmax * passes + hw.matmul_gap_cycles) / hw.tensor_ghz
    num = 0
    for a in plan.a_blocks:
        for b in plan.b_blocks:  # loads; turns, copies and stores
            num += len(a.tiles) + len(b.tiles) * (len(a.tiles) + 2)
    return stage_price(2 * plan.itemsize * N * A * B, tensor, N * num)


def _blocks(size: int, size_max: int) -> tuple[Block, ...]:
    pmax = nl.tile_size.pmax
    return tuple(Block(t.start, t.size, tiles(t.size, pmax)) for t in tiles(size, size_max))


def _load(x_hbm: nl.NkiTensor, n: int, a_block: Block, b_block: Block) -> list[nl.NkiTensor]:
    """x_sb (a, b) of each tile of a."""
    x_sbs = []
    for a in a_block.tiles:
        x_sb = nl.ndarray((a.size, b_block.size), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(
            dst=x_sb,
            src=x_hbm[
                n, nl.ds(a_block.start + a.start, a.size), nl.ds(b_block.start, b_block.size)
            ],
            dge_mode=transfer_mode(x_hbm),
        )
        x_sbs.append(x_sb)
    return x_sbs


@nki.jit
def transpose_planes(x_hbm: nl.NkiTensor, plan: TransposePlan) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    N, A, B = plan.shape
    y_hbm = nl.ndarray((N, B, A), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _transpose(y_hbm, x_hbm, plan)
    return y_hbm


@nki.jit
def transpose_planes_looped(x_hbm: nl.NkiTensor, plan: LoopedPlan) -> nl.NkiTensor:
    """Return y_hbm (N, 1, B, A) by on-chip loops over parts (_looped.py)."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for piece in plan.pieces:
        _loop(y_hbm, x_hbm.expand_dim(1), piece)
    return y_hbm


def _loop(y_hbm: nl.NkiTensor, x_hbm: nl.NkiTensor, piece: Piece) -> None:
    """Transpose all parts of a piece."""
    if piece.iterations == 1:
        _transpose_part(take(y_hbm, piece.y, []), take(x_hbm, piece.x, []), piece.part)
        return
    table_sb = make_table(piece)

    def body(i: nl.VirtualRegister) -> None:
        at = indices(table_sb, piece, i)
        _transpose_part(take(y_hbm, piece.y, at), take(x_hbm, piece.x, at), piece.part)

    nl.fori_loop(0, piece.iterations, body)


def _transpose_part(y_hbm: nl.NkiTensor, x_hbm: nl.NkiTensor, plan: TransposePlan) -> None:
    _transpose(y_hbm.squeeze_dim(1), x_hbm.squeeze_dim(1), plan)


def _transpose(y_hbm: nl.NkiTensor, x_hbm: nl.NkiTensor, plan: TransposePlan) -> None:
    """y_hbm (n, b, a) = x_hbm (n, a, b)."""
    on_vector = True
    for n in range(plan.shape[0]):
        for a_block in plan.a_blocks:
            for b_block in plan.b_blocks:
                x_sbs = _load(x_hbm, n, a_block, b_block)
                for b in b_block.tiles:
                    shape = (b.size, a_block.size)
                    turned_ps = nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.psum)
                    for i_a in range(len(a_block.tiles)):
                        a = a_block.tiles[i_a]
                        nisa.nc_transpose(
                            dst=turned_ps[:, nl.ds(a.start, a.size)],
                            data=x_sbs[i_a][:, nl.ds(b.start, b.size)],
                            engine=nisa.engine.tensor,
                        )
                    y_sb = nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
                    if on_vector:
                        nisa.tensor_copy(dst=y_sb, src=turned_ps, engine=nisa.engine.vector)
                    else:
                        nisa.activation(dst=y_sb, op=nl.copy, data=turned_ps)
                    on_vector = not on_vector
                    nisa.dma_copy(
                        dst=y_hbm[
                            n,
                            nl.ds(b_block.start + b.start, b.size),
                            nl.ds(a_block.start, a_block.size),
                        ],
                        src=y_sb,
                        dge_mode=transfer_mode(y_hbm),
                    )
