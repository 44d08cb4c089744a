"""conv2d by the direct path where neither weights nor image can stay in SBUF: both in parts.

conv2d_direct.py is for everything else, and simpler.

y[n, co, oh, ow] = act(bias[co] + residual[n, co, oh, ow]
    + sum over (ci, t) of w[ci, t, co] * x[n, ci, oh*s + kh*d - pad, ow*s + kw*d - pad])

with t = kh*KW + kw, zeros outside x, and all this once for each of G groups of channels.

Shapes
------
x_hbm         (N, G*C_in, H, W)          f32 f16 bf16  HBM
w_hbm         (G, C_in, KH*KW, C_out)    as x          HBM, packed
scale_hbm     (G*C_out, 1)               f32           HBM, or None
bias_hbm      (G*C_out, 1)               f32           HBM, or None
residual_hbm  (N, G*C_out, OH, OW)       as x          HBM, or None
y_hbm         (N, G*C_out, OH, OW)       as x          HBM

Loop nest
---------
for group, block of output channels:            weights are loaded once and stay in SBUF
    for image, strip of output rows:            its pixels are loaded once, zeros where they leave x
        for block of the strip, tile of <= 128 output channels:
            for tile of <= 128 input channels, tile of <= 512 outputs of the block, tap:
                acc (co, rows, cols) += w (ci, co).T @ x (ci, rows, cols)
            y = act(acc + bias)                 PSUM to SBUF on the scalar engine: the only rounding
            one store

The moving operand is a view of the strip: a tap is an offset into it, stride and dilation are
steps, and nothing is copied.  Weights or strips that do not fit SBUF are loaded inside the loops
instead (_fit.py says when).

The tensor engine limits large layers: N*G*OH*OW * KH*KW * ceil(C_in/128) * ceil(C_out/128) columns
of a cycle each, four in float32.  Many channels with few pixels are limited by loading the weights.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul (tile sizes, accumulation mode), isa
activation, DMA bandwidth guide (bytes per partition), NKI access patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels import _looped
from nkiconv.kernels._algorithm import Candidate, Launch, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import Array
from nkiconv.kernels._epilogue import evict
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._plan import Span, Tile, Window
from nkiconv.kernels._streamed_plan import (
    Block,
    ChannelBlock,
    ChannelTile,
    StreamedPlan,
    Taps,
    plan_streamed,
    price_of,
)
from nkiconv.kernels._strip import transfer_mode
from nkiconv.kernels._weights import PackedWeights

NAME = "direct"


def _load_weights(
    w_hbm: nl.NkiTensor,
    group: int,
    c_in: Tile,
    taps: Tile | Taps,
    c_out: ChannelTile | ChannelBlock,
) -> nl.NkiTensor:
    """w_sb (ci, taps, co): stationary operands, as they lie in HBM."""
    w_sb = nl.ndarray((c_in.size, taps.size, c_out.size), dtype=w_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=w_sb,
        src=w_hbm[
            group,
            nl.ds(c_in.start, c_in.size),
            nl.ds(taps.start, taps.size),
            nl.ds(c_out.start, c_out.size),
        ],
        dge_mode=transfer_mode(w_hbm),
    )
    return w_sb


def _load_vectors(
    vector_hbm: nl.NkiTensor | None, c_outs: ChannelBlock
) -> list[nl.NkiTensor | None]:
    """vector_sb (co, 1) of each tile of output channels, or None."""
    vector_sbs: list[nl.NkiTensor | None] = []
    for c_out in c_outs.tiles:
        vector_sb = None
        if vector_hbm is not None:
            vector_sb = nl.ndarray((c_out.size, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(
                dst=vector_sb,
                src=vector_hbm[nl.ds(c_out.y_start, c_out.size), :],
                dge_mode=transfer_mode(vector_hbm),
            )
        vector_sbs.append(vector_sb)
    return vector_sbs


def _load_windows(
    x_hbm: nl.NkiTensor, n: int, x_start: int, c_ins: tuple[Tile, ...], window: Window
) -> list[nl.NkiTensor]:
    """x_sb (ci, rows, cols) of each tile of input channels, zero where the window leaves x.

    The transfers take the channel tiles in turn: the first outputs need the first rows of all.
    """
    rows = window.rows
    cols = window.cols
    x_sbs = []
    for c_in in c_ins:
        x_sb = nl.ndarray((c_in.size, rows.size, cols.size), dtype=x_hbm.dtype, buffer=nl.sbuf)
        _zero_border(x_sb, rows, cols)
        x_sbs.append(x_sb)
    for load in window.loads:
        row = rows.zeros_before + load.start
        x_row = rows.x_start + load.start * rows.x_step
        x_row_end = x_row + (load.size - 1) * rows.x_step + 1
        for i_ci in range(len(c_ins)):
            nisa.dma_copy(
                dst=x_sbs[i_ci][:, nl.ds(row, load.size), nl.ds(cols.zeros_before, cols.x_size)],
                src=x_hbm[
                    n,
                    nl.ds(x_start + c_ins[i_ci].start, c_ins[i_ci].size),
                    x_row : x_row_end : rows.x_step,
                    nl.ds(cols.x_start, cols.x_size),
                ],
                dge_mode=transfer_mode(x_hbm),
            )
    return x_sbs


def _zero_border(x_sb: nl.NkiTensor, rows: Span, cols: Span) -> None:
    """Zeros above, below, to the left and to the right of the image, where the window has such."""
    top = rows.zeros_before
    bottom = rows.size - rows.zeros_after
    left = cols.zeros_before
    right = cols.size - cols.zeros_after
    if top > 0:
        nisa.memset(dst=x_sb[:, 0:top, :], value=0)
    if bottom < rows.size:
        nisa.memset(dst=x_sb[:, bottom : rows.size, :], value=0)
    if bottom > top and left > 0:
        nisa.memset(dst=x_sb[:, top:bottom, 0:left], value=0)
    if bottom > top and right < cols.size:
        nisa.memset(dst=x_sb[:, top:bottom, right : cols.size], value=0)


def _stationary(
    w_hbm: nl.NkiTensor,
    w_sbs: list[nl.NkiTensor],
    group: int,
    c_out: ChannelTile,
    i_ci: int,
    taps: Taps,
    plan: StreamedPlan,
) -> nl.NkiTensor:
    """w_sb (ci, taps, co): a view of the resident weights, else loaded now."""
    if plan.weights_resident:
        return w_sbs[i_ci][:, nl.ds(taps.start, taps.size), nl.ds(c_out.w_start, c_out.size)]
    return _load_weights(w_hbm, group, plan.c_in_tiles[i_ci], taps, c_out)


def _moving(
    x_hbm: nl.NkiTensor,
    x_sbs: list[nl.NkiTensor],
    n: int,
    x_start: int,
    i_ci: int,
    window: Window,
    plan: StreamedPlan,
) -> nl.NkiTensor:
    """x_sb (ci, rows, cols): the resident window, else loaded now."""
    if plan.x_resident:
        return x_sbs[i_ci]
    return _load_windows(x_hbm, n, x_start, (plan.c_in_tiles[i_ci],), window)[0]


def _accumulators(block: Block, c_out: ChannelTile) -> list[nl.NkiTensor]:
    """acc_ps (co, rows, cols) of each tile of the block: a PSUM bank each."""
    acc_pss = []
    for rows in block.tiles:
        shape = (c_out.size, rows.size, block.cols.size)
        acc_pss.append(nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum))
    return acc_pss


def _accumulate(
    acc_pss: list[nl.NkiTensor],
    w_sb: nl.NkiTensor,
    x_sb: nl.NkiTensor,
    window: Window,
    block: Block,
    taps: Taps,
    is_first: bool,
) -> None:
    """acc_ps (co, rows, cols) += w_sb[:, tap, :].T @ x_sb[:, rows, cols], for each tile and tap."""
    down = window.rows
    across = window.cols
    for i_tile in range(len(block.tiles)):
        tile = block.tiles[i_tile]
        row_start = (tile.start - down.first_output) * down.output_step
        col_start = (block.cols.start - across.first_output) * across.output_step
        i_tap = 0
        for kh in range(taps.rows.start, taps.rows.start + taps.rows.size):
            row = row_start + (kh - down.first_tap) * down.tap_step
            row_end = row + (tile.size - 1) * down.output_step + 1
            for kw in range(taps.cols.start, taps.cols.start + taps.cols.size):
                col = col_start + (kw - across.first_tap) * across.tap_step
                col_end = col + (block.cols.size - 1) * across.output_step + 1
                nisa.nc_matmul(
                    dst=acc_pss[i_tile],
                    stationary=w_sb[:, i_tap, :],
                    moving=x_sb[
                        :, row : row_end : down.output_step, col : col_end : across.output_step
                    ],
                    accumulate=i_tap > 0 or not is_first,
                )
                i_tap = i_tap + 1


def _evict(
    y_hbm: nl.NkiTensor,
    acc_pss: list[nl.NkiTensor],
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    n: int,
    c_out: ChannelTile,
    block: Block,
    plan: StreamedPlan,
) -> None:
    """y_hbm[n, co, rows, cols] = act(scale*acc_ps + bias + residual_hbm[n, co, rows, cols])."""
    shape = (c_out.size, block.rows.size, block.cols.size)
    channels = nl.ds(c_out.y_start, c_out.size)
    rows = nl.ds(block.rows.start, block.rows.size)
    cols = nl.ds(block.cols.start, block.cols.size)
    residual_sb = None
    if residual_hbm is not None:
        residual_sb = nl.ndarray(shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(
            dst=residual_sb, src=residual_hbm[n, channels, rows, cols],
            dge_mode=transfer_mode(residual_hbm),
        )  # fmt: skip
    y_sb = nl.ndarray(shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
    for i_tile in range(len(block.tiles)):
        tile = nl.ds(block.tiles[i_tile].start - block.rows.start, block.tiles[i_tile].size)
        residual = None
        if residual_sb is not None:
            residual = residual_sb[:, tile, :]
        evict(y_sb[:, tile, :], acc_pss[i_tile], scale_sb, bias_sb, residual, plan.epilogue, False)
    nisa.dma_copy(dst=y_hbm[n, channels, rows, cols], src=y_sb, dge_mode=transfer_mode(y_hbm))


@nki.jit
def conv2d_streamed(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: StreamedPlan,
) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(y_hbm, x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm, plan)
    return y_hbm


@nki.jit
def conv2d_streamed_looped(
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


def _convolve_part(hbm: dict[str, Any], plan: StreamedPlan) -> None:
    _convolve(hbm["y"], hbm["x"], hbm["w"], hbm["scale"], hbm["bias"], hbm["residual"], plan)


def _convolve(
    y_hbm: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: StreamedPlan,
) -> None:
    """y_hbm = the convolution of all of x_hbm."""
    for c_outs in plan.c_out_blocks:
        w_sbs = []
        if plan.weights_resident:
            for c_in in plan.c_in_tiles:
                w_sbs.append(_load_weights(w_hbm, c_outs.group, c_in, plan.all_taps, c_outs))
        scale_sbs = _load_vectors(scale_hbm, c_outs)
        bias_sbs = _load_vectors(bias_hbm, c_outs)
        for n in range(plan.y_shape[0]):
            for strip in plan.strips:
                x_sbs = []
                if plan.x_resident:
                    window = strip.windows[0]
                    x_sbs = _load_windows(x_hbm, n, c_outs.x_start, plan.c_in_tiles, window)
                for block in strip.blocks:
                    for c_out in c_outs.tiles:
                        acc_pss = _accumulators(block, c_out)
                        for i_ci in range(len(plan.c_in_tiles)):
                            for taps in plan.taps:
                                window = strip.windows[taps.i_window]
                                w_sb = _stationary(
                                    w_hbm, w_sbs, c_outs.group, c_out, i_ci, taps, plan
                                )
                                x_sb = _moving(x_hbm, x_sbs, n, c_outs.x_start, i_ci, window, plan)
                                is_first = i_ci == 0 and taps.start == 0
                                _accumulate(acc_pss, w_sb, x_sb, window, block, taps, is_first)
                        scale_sb = scale_sbs[c_out.index]
                        bias_sb = bias_sbs[c_out.index]
                        _evict(
                            y_hbm, acc_pss, scale_sb, bias_sb, residual_hbm, n, c_out, block, plan
                        )


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield the plan that `plan_streamed` makes, or on-chip loops over such plans.

    Raises
    ------
    NotSuited
        Padding other than zeros, a faster float32, or a program that is too long even with loops.
    """
    if problem.padding_mode != "zeros":
        raise NotSuited(f'it has no padding_mode "{problem.padding_mode}"')
    if problem.precision != "exact":
        raise NotSuited("it has no faster float32")
    why = "a matmul per tap and tile, taps read in place"
    if _looped.least_matmuls(problem) <= _looped.MAX_INSTRUCTIONS:
        plan = plan_streamed(problem.geometry, problem.epilogue)
        price = price_of(plan)
        if price.static_instructions <= _looped.MAX_INSTRUCTIONS:
            yield Candidate(NAME, plan, price, why)
            return

    def make(part: Problem, reserved_bytes: int) -> StreamedPlan:
        room = nl.tile_size.sbuf_fmax_bytes - reserved_bytes
        return plan_streamed(part.geometry, part.epilogue, sbuf_bytes=room)

    loops = _looped.Loops(
        make,
        price_of,
        _looped.packed_shape,
        least=_looped.least_matmuls,
        rows=True,
        groups=1,
        channels=nl.tile_size.pmax,
    )
    cut = _looped.cut_into_parts(problem, loops)
    looped = LoopedPlan(cut.pieces, _looped.y_shape(problem))
    yield Candidate(NAME, looped, _looped.total(cut), f"{why}; {cut.why}")


def pack(w: PackedWeights, plan: StreamedPlan) -> Array:
    """Return the weights as `pack_weights` made them."""
    return w.array


def run(launch: Launch, operands: Operands, plan: StreamedPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    return launch(conv2d_streamed, o.x, o.w, o.scale, o.bias, o.residual, plan)
