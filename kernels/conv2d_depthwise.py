"""conv2d with a channel per group (depthwise): diagonal operands, or banded ones for tall kernels.

*Diagonal*: the kernel of conv2d_grouped.py, where a group's block is one weight.  It takes KH*KW
columns per output of up to 128 channels.

*Banded*: TensorE contracts over the rows of the image instead of channels, so that all taps of a
column of taps take one pass:

    y[n, c, ho, wo] = sum over kw of  T[c, kw].T @ x[n, c, :, wo*s + kw*d - pad]
    T[c, kw][hi, ho] = w[c, hi + pad - ho, kw]      0 where that is no tap

KW columns per output of `size` channels, which share the partitions as blocks of a diagonal.  A row
of T is a piece of the zero-padded weights, reversed; the next row is the same piece one place on,
if rows are taken from the bottom up.  So T is one transfer per channel, within SBUF, and x is
loaded with its last row first.  `step` columns of taps lie side by side: 16 bytes, the widest step
that TensorE reads at full rate, and runs of OH*16 bytes.

Shapes
------
x_hbm         (N, C, H, W)                  f32 f16 bf16  HBM
w_hbm         (C, KW/step, KH, step)        as x or bf16  HBM, rows reversed, zeros behind KW
scale_hbm     (C, 1)                        f32           HBM, or None
bias_hbm      (C, 1)                        f32           HBM, or None
residual_hbm  (N, C, OH, OW)                as x          HBM, or None
y_hbm         (N, C, OH, OW)                as x          HBM

Loop nest (banded)
------------------
for tile of <= 128 channels:                    weights once, x once, last row first
    for round of sets of channels:              a set shares the partitions
        for set:
            T (block row, kw, block row) from the weights
            for tile of images, kw:
                acc (block row, images, cols) += T[kw].T @ x (block row, images, cols)
        y = act(...); a store for each block

Transfers within SBUF limit it: C * H * OH * KW elements.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul, dma_copy; access patterns (steps).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from nkiconv.kernels import _looped, conv2d_grouped
from nkiconv.kernels._algorithm import Candidate, Launch, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import DTYPES, Array
from nkiconv.kernels._banded_plan import (
    BandedPlan,
    ChannelTile,
    Round,
    block_channels,
    plan_banded,
    price_of,
)
from nkiconv.kernels._epilogue import evict, load_table
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._plan import Tile, ceil_div, tap_outputs
from nkiconv.kernels._price import (
    Price,
)
from nkiconv.kernels._strip import transfer_mode
from nkiconv.kernels._weights import PackedWeights

NAME = "depthwise"

_DIAGONAL_TAPS = 150  # of more, banded operands are always faster, and planning them takes long


def _load_columns(w_hbm: nl.NkiTensor, tile: ChannelTile, plan: BandedPlan) -> nl.NkiTensor:
    """w_sb (c, kw/step, rows, step): each column of reversed taps, zeros before and after."""
    taps = plan.geometry.rows.taps
    end = plan.before + taps
    shape = (tile.size, w_hbm.shape[1], plan.height, plan.step)
    w_sb = nl.ndarray(shape, dtype=w_hbm.dtype, buffer=nl.sbuf)
    if plan.before > 0:
        nisa.memset(dst=w_sb[:, :, 0 : plan.before, :], value=0)
    if plan.height > end:
        nisa.memset(dst=w_sb[:, :, end : plan.height, :], value=0)
    nisa.dma_copy(
        dst=w_sb[:, :, plan.before : end, :],
        src=w_hbm[nl.ds(tile.start, tile.size), :, :, :],
        dge_mode=transfer_mode(w_hbm),
    )
    return w_sb


def _load_images(
    x_hbm: nl.NkiTensor, dtype: str, tile: ChannelTile, plan: BandedPlan
) -> nl.NkiTensor:
    """x_sb (block row, sets, images, cols) of a dtype, each block's last row first."""
    g = plan.geometry
    blocks = tile.rounds[0].blocks
    shape = (blocks * g.rows.size, tile.sets, g.N, g.cols.size)
    x_sb = nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf)
    for row in range(g.rows.size):
        for block in range(blocks):
            some = block_channels(tile, block)
            at = block * g.rows.size + g.rows.size - 1 - row
            src = x_hbm[:, nl.ds(tile.start + some.start, some.size), row, :]
            nisa.dma_copy(
                dst=x_sb[nl.ds(at, 1), nl.ds(0, some.size), :, :],
                src=src.permute((1, 0, 2)),
                dge_mode=transfer_mode(x_hbm),
            )
    return x_sb


def _load_vector(
    vector_hbm: nl.NkiTensor | None, tile: ChannelTile, plan: BandedPlan
) -> nl.NkiTensor | None:
    """vector_sb (block row, sets), or None."""
    if vector_hbm is None:
        return None
    rows = plan.geometry.rows.outputs
    blocks = tile.rounds[0].blocks
    vector_sb = nl.ndarray((blocks * rows, tile.sets), dtype=nl.float32, buffer=nl.sbuf)
    for block in range(blocks):
        some = block_channels(tile, block)
        src = vector_hbm[nl.ds(tile.start + some.start, some.size), :]
        nisa.dma_copy(
            dst=vector_sb[nl.ds(block * rows, rows), nl.ds(0, some.size)],
            src=src.expand_dim(0).broadcast(0, rows),
            dge_mode=transfer_mode(vector_hbm),
        )
    return vector_sb


def _build(
    band_sb: nl.NkiTensor, w_sb: nl.NkiTensor, tile: ChannelTile, i_set: int, blocks: int,
    plan: BandedPlan,
) -> None:  # fmt: skip
    """band_sb (block row, kw/step, block row, step): a set's T, from overlapping pieces of w_sb."""
    g = plan.geometry
    groups = w_sb.shape[1]
    length = plan.height * plan.step
    # The last row of the image comes first, and finds output 0 at this place of the column.
    first = plan.before + g.rows.taps - g.rows.pad - g.rows.size
    for block in range(blocks):
        channel = block * tile.sets + i_set
        nisa.dma_copy(
            dst=band_sb[
                nl.ds(block * g.rows.size, g.rows.size),
                :,
                nl.ds(block * g.rows.outputs, g.rows.outputs),
                :,
            ],
            src=w_sb.ap(
                [
                    [groups * length, 1],
                    [plan.step, g.rows.size],
                    [length, groups],
                    [1, g.rows.outputs * plan.step],
                ],
                offset=channel * groups * length + first * plan.step,
            ),
            dge_mode=nisa.dge_mode.none,
        )


def _accumulate(
    acc_ps: nl.NkiTensor,
    band_sb: nl.NkiTensor,
    x_sb: nl.NkiTensor,
    i_set: int,
    images: Tile,
    plan: BandedPlan,
) -> None:
    """acc_ps (block row, images, cols) = sum over kw of T[kw].T @ x_sb."""
    axis = plan.geometry.cols
    rows = acc_ps.shape[0] // plan.geometry.rows.outputs * plan.geometry.rows.size
    for i in range(len(plan.cols)):
        tap = plan.cols[i]
        cols = tap_outputs(axis, Tile(0, axis.outputs), tap)
        col = cols.start * axis.stride + tap * axis.dilation - axis.pad
        col_end = col + (cols.size - 1) * axis.stride + 1
        nisa.nc_matmul(
            dst=acc_ps[:, :, nl.ds(cols.start, cols.size)],
            stationary=band_sb[
                0:rows, tap // plan.step, nl.ds(0, acc_ps.shape[0]), tap % plan.step
            ],
            moving=x_sb[
                0:rows, i_set, nl.ds(images.start, images.size), col : col_end : axis.stride
            ],
            accumulate=i > 0,
        )


def _move_results(
    y_hbm: nl.NkiTensor, y_sb: nl.NkiTensor, tile: ChannelTile, some: Round, store: bool
) -> None:
    """Move a round's results: y_sb (block row, sets, images, cols) to y_hbm, or back."""
    rows = y_hbm.shape[2]
    for block in range(some.blocks):
        start = tile.start + block * tile.sets + some.sets.start
        in_hbm = y_hbm[:, nl.ds(start, some.sets.size), :, :].permute((2, 1, 0, 3))
        in_sbuf = y_sb[nl.ds(block * rows, rows), :, :, :]
        if store:
            nisa.dma_copy(dst=in_hbm, src=in_sbuf, dge_mode=transfer_mode(y_hbm))
        else:
            nisa.dma_copy(dst=in_sbuf, src=in_hbm, dge_mode=transfer_mode(y_hbm))


def _load_tile(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    tile: ChannelTile,
    plan: BandedPlan,
) -> dict[str, Any]:
    """Load all of a tile of channels."""
    w_sb = _load_columns(w_hbm, tile, plan)
    x_sb = _load_images(x_hbm, w_hbm.dtype, tile, plan)
    scale_sb = _load_vector(scale_hbm, tile, plan)
    bias_sb = _load_vector(bias_hbm, tile, plan)
    return {"w": w_sb, "x": x_sb, "scale": scale_sb, "bias": bias_sb}


def _zero_buffers(w_hbm: nl.NkiTensor, plan: BandedPlan) -> list[nl.NkiTensor]:
    """band_sb (block row, kw/step, block row, step), some: what is off the diagonal stays zero."""
    g = plan.geometry
    band_sbs = []
    for i in range(plan.buffers):
        band_sb = nl.ndarray(
            (plan.blocks * g.rows.size, w_hbm.shape[1], plan.blocks * g.rows.outputs, plan.step),
            dtype=w_hbm.dtype,
            buffer=nl.sbuf,
        )
        engine = nisa.engine.gpsimd
        if plan.turns[i % len(plan.turns)]:
            engine = nisa.engine.vector
        nisa.memset(dst=band_sb, value=0, engine=engine)
        band_sbs.append(band_sb)
    return band_sbs


def _run_round(
    y_hbm: nl.NkiTensor,
    ready: dict[str, Any],
    band_sbs: list[nl.NkiTensor],
    residual_hbm: nl.NkiTensor | None,
    tile: ChannelTile,
    some: Round,
    plan: BandedPlan,
) -> None:
    """Compute and store a round of sets."""
    g = plan.geometry
    rows = some.blocks * g.rows.outputs
    shape = (rows, some.sets.size, g.N, g.cols.outputs)
    y_sb = nl.ndarray(shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
    residual_sb = None
    if residual_hbm is not None:
        residual_sb = nl.ndarray(shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
        _move_results(residual_hbm, residual_sb, tile, some, False)
    acc_pss = []
    for images in plan.image_tiles:
        shape = (rows, some.sets.size, images.size, g.cols.outputs)
        acc_pss.append(nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum))
    for i in range(some.sets.size):
        i_set = some.sets.start + i
        band_sb = band_sbs[i_set % len(band_sbs)]
        _build(band_sb, ready["w"], tile, i_set, some.blocks, plan)
        for i_images in range(len(plan.image_tiles)):
            images = plan.image_tiles[i_images]
            acc_ps = acc_pss[i_images][:, i, :, :]
            _accumulate(acc_ps, band_sb, ready["x"], i_set, images, plan)
            within = nl.ds(images.start, images.size)
            residual = None
            if residual_sb is not None:
                residual = residual_sb[:, i, within, :]
            scale = None
            if ready["scale"] is not None:
                scale = ready["scale"][0:rows, nl.ds(i_set, 1)]
            bias = None
            if ready["bias"] is not None:
                bias = ready["bias"][0:rows, nl.ds(i_set, 1)]
            evict(y_sb[:, i, within, :], acc_ps, scale, bias, residual, plan.epilogue, i % 2 == 1)
    _move_results(y_hbm, y_sb, tile, some, True)


@nki.jit
def conv2d_banded(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: BandedPlan,
) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(y_hbm, x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm, plan)
    return y_hbm


@nki.jit
def conv2d_banded_looped(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: LoopedPlan,
) -> nl.NkiTensor:
    """Return y_hbm by on-chip loops over parts (_looped.py)."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    operands = {
        "x": x_hbm, "w": w_hbm, "scale": scale_hbm, "bias": bias_hbm, "residual": residual_hbm,
        "y": y_hbm,
    }  # fmt: skip
    for piece in plan.pieces:
        _loop(operands, piece)
    return y_hbm


def _loop(operands: dict[str, Any], piece: Piece) -> None:
    """Convolve all parts of a piece."""
    if piece.iterations == 1:
        _convolve_part(take_part(operands, piece, []), piece.part)
        return
    table_sb = make_table(piece)

    def body(i: nl.VirtualRegister) -> None:
        _convolve_part(take_part(operands, piece, indices(table_sb, piece, i)), piece.part)

    nl.fori_loop(0, piece.iterations, body)


def _convolve_part(hbm: dict[str, Any], plan: BandedPlan) -> None:
    _convolve(hbm["y"], hbm["x"], hbm["w"], hbm["scale"], hbm["bias"], hbm["residual"], plan)


def _convolve(
    y_hbm: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: BandedPlan,
) -> None:
    """y_hbm = the convolution of all of x_hbm."""
    load_table(plan.epilogue)
    # What comes first here comes first on its engine: VectorE has to zero the columns' ends before
    # the buffers, and the next tile is loaded while one is computed.
    following = _load_tile(x_hbm, w_hbm, scale_hbm, bias_hbm, plan.channel_tiles[0], plan)
    band_sbs = _zero_buffers(w_hbm, plan)
    for i_tile in range(len(plan.channel_tiles)):
        ready = following
        tile = plan.channel_tiles[i_tile]
        if i_tile + 1 < len(plan.channel_tiles):
            following = _load_tile(
                x_hbm, w_hbm, scale_hbm, bias_hbm, plan.channel_tiles[i_tile + 1], plan
            )
        for some in tile.rounds:
            _run_round(y_hbm, ready, band_sbs, residual_hbm, tile, some, plan)


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield diagonal plans, and the banded one.

    Raises
    ------
    NotSuited
        One group, or several channels in a group; and as conv2d_grouped.py.
    """
    g = problem.geometry
    if g.G == 1 or g.C_in > 1:
        raise NotSuited("a group has other channels than one, or is alone")
    conv2d_grouped.check_problem(problem)
    diagonal = conv2d_grouped.block_diagonal_plans(problem, NAME)
    banded = plan_banded(g, problem.epilogue, fast=problem.precision == "fast")
    price = None if banded is None else price_of(banded)
    if banded is not None and price is not None and _is_short(price):
        yield Candidate(NAME, banded, price, _why(banded))
    else:
        try:  # fewer images at a time may do
            yield _in_parts(problem)
        except NotSuited:
            yield from diagonal
            return
    if g.rows.taps * g.cols.taps <= _DIAGONAL_TAPS:
        yield from diagonal


def _is_short(price: Price) -> bool:
    return price.static_instructions <= _looped.MAX_INSTRUCTIONS


def _why(plan: BandedPlan) -> str:
    why = f"rows contracted with banded operands, {plan.blocks} channels at once"
    return why + ", operands rounded to bfloat16" if plan.fast else why


def _in_parts(problem: Problem) -> Candidate:
    """Return on-chip loops over parts by banded operands.

    Raises
    ------
    NotSuited
    """

    def make(part: Problem, reserved_bytes: int) -> BandedPlan:
        plan = plan_banded(part.geometry, part.epilogue, fast=part.precision == "fast")
        if plan is None or plan.sbuf_bytes + reserved_bytes > nl.tile_size.sbuf_fmax_bytes:
            raise NotSuited("SBUF does not hold a part of it")
        return plan

    def w_shape(plan: BandedPlan) -> tuple[int, ...]:
        g = plan.geometry
        return (g.G, ceil_div(g.cols.taps, plan.step), g.rows.taps, plan.step)

    loops = _looped.Loops(make, price_of, w_shape, groups=nl.tile_size.pmax)
    cut = _looped.cut_into_parts(problem, loops)
    plan = LoopedPlan(cut.pieces, _looped.y_shape(problem))
    why = f"{_why(cut.pieces[0].part)}; {cut.why}"
    return Candidate(NAME, plan, _looped.total(cut), why)


def pack(w: PackedWeights, plan: Any) -> Array:
    """Return the weights as the kernel of this plan loads them."""
    if isinstance(plan, LoopedPlan) and isinstance(plan.pieces[0].part, BandedPlan):
        return pack(w, plan.pieces[0].part)  # the same for all parts
    if not isinstance(plan, BandedPlan):
        return conv2d_grouped.pack(w, plan)
    g = plan.geometry
    groups = w.array.shape[0]  # a part may have fewer
    wide = ceil_div(g.cols.taps, plan.step) * plan.step
    taps = w.array.reshape(groups, g.rows.taps, g.cols.taps)
    dtype = DTYPES["bfloat16"] if plan.fast else w.array.dtype
    columns = np.zeros((groups, g.rows.taps, wide), dtype=dtype)
    columns[:, :, : g.cols.taps] = taps[:, ::-1]
    grouped = columns.reshape(groups, g.rows.taps, -1, plan.step).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grouped)


def run(launch: Launch, operands: Operands, plan: Any) -> Any:
    """Launch the kernel; return y."""
    o = operands
    if isinstance(plan, LoopedPlan) and isinstance(plan.pieces[0].part, BandedPlan):
        return launch(conv2d_banded_looped, o.x, o.w, o.scale, o.bias, o.residual, plan)
    if not isinstance(plan, BandedPlan):
        return conv2d_grouped.run(launch, operands, plan)
    return launch(conv2d_banded, o.x, o.w, o.scale, o.bias, o.residual, plan)
