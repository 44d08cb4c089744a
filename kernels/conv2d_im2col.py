"""conv2d with taps packed beside channels in the contraction, and output rows in the result.

y[n, co, i*P + p, ow] = act(scale[co]*acc + bias[co] + residual), acc = sum over (q, u, g, j, ci) of
    w[co, ci, kh, u*G + g] * x[n, ci, (i*T/S + q)*S + j - pad, ow*s + (u*G + g)*d - pad]

with kh*d = q*S + j - p*s, and zero where no tap fits (_im2col_plan.py has the letters).  For few
channels: a matmul has G*J*C_in rows and P*C_out columns of weights, up to 128 of each.

Where a batch has few channels, B images lie abreast: x and y lie in HBM as if they were one image,
of B*C_in channels and B*C_out, whose weights are zero between different images.  Transfers and
evictions then have B times the partitions.  All but the weights is as for one image.

Shapes
------
x_hbm         (N, C_in, H, W)     f32 f16 bf16  HBM
w_hbm         "zeros":  (tiles of C_in, rows, entries, U, C_out)  "rows": (G, KH*C_in, U, C_out)
              "phases": (C_in, KH, KW, C_out), the last tap's row first;  as x, or bf16
scale_hbm     (C_out, 1)          f32           HBM, or None
bias_hbm      (C_out, 1)          f32           HBM, or None
residual_hbm  (N, C_out, OH, OW)  as x          HBM, or None
y_hbm         (N, C_out, OH, OW)  as x          HBM

Loop nest
---------
first chunk of x, and weights, which stay in SBUF: in the order in which they are needed
for image, strip:                                   some buffers in turn
    for chunk of groups of P output rows:
        load its rows of x (a run is a row of the image); copy them for shifts and shared rows
    for chunk, tile of (p, co) <= 128, tile of <= 512 outputs of p:
        for tile of C_in, q, u:
            acc (p co, outputs) += w_sb (g j ci, p co).T @ x_sb (g j ci, outputs at q, u)
        y = act(acc); one store for the chunk

The first chunk and the last one are small, and as far as HBM is hardly read more for it, the first
one takes its copies from there too.

Nothing is stored with zeros but the weights: those of row p are a view that slides over entries,
entry z holding the tap of p*s - q*S = z*step - (Q-1)*S.

It streams N * OH/P * OW * Q * U columns for each tile of (p, co).  What limits it is TensorE, the
transfers of rows shorter than 512 bytes, or, from a tile of one matmul on, emptying PSUM.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul, isa dma_copy (any start partition),
access patterns, DMA bandwidth guide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from nkiconv.kernels import _looped
from nkiconv.kernels._algorithm import Candidate, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import DTYPES, Array
from nkiconv.kernels._epilogue import evict, load_table
from nkiconv.kernels._im2col_plan import (
    Chunk,
    Im2colPlan,
    OutTile,
    Packing,
    Strip,
    least_matmuls,
    make_plan,
)
from nkiconv.kernels._im2col_price import price, ranked
from nkiconv.kernels._looped import (
    LoopedPlan,
    Piece,
    Reached,
    indices,
    make_table,
    reach,
    reach_part,
    whole,
)
from nkiconv.kernels._plan import Geometry, Tile
from nkiconv.kernels._price import Price
from nkiconv.kernels._problem import TooLong
from nkiconv.kernels._stages import Launch
from nkiconv.kernels._strip import transfer_mode
from nkiconv.kernels._weights import PackedWeights
from nkiconv.simulate.hardware import hardware

NAME = "im2col"

_FIRST = 2  # chunks whose loads come among those of the weights
_PLANS = 2  # made in full: the first by a quick estimate


def _make_weights(dtype: Any, plan: Im2colPlan) -> list[nl.NkiTensor]:
    """w_sb (rows, entries, U, C_out) of each tile of C_in, zero unless HBM has the zeros."""
    k = plan.packing
    w_sbs = []
    for c_in in plan.c_in_tiles:
        shape = (k.G * k.J * c_in.size, plan.entries, k.U, plan.geometry.C_out)
        w_sb = nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf)
        if plan.weights != "zeros":
            nisa.memset(dst=w_sb, value=0.0)
        w_sbs.append(w_sb)
    return w_sbs


def _load_taps(w_hbm: nl.NkiTensor, plan: Im2colPlan) -> list[nl.NkiTensor]:
    """taps_sb (ci, KH, KW, C_out) of each tile of C_in, from which "phases" are filled."""
    g = plan.geometry
    B = plan.packing.B
    taps_sbs = []
    if plan.weights == "phases":
        for c_in in plan.c_in_tiles:
            size = c_in.size // B
            shape = (size, g.rows.taps, g.cols.taps, g.C_out // B)
            taps_sb = nl.ndarray(shape, dtype=w_hbm.dtype, buffer=nl.sbuf)
            nisa.dma_copy(
                dst=taps_sb, src=w_hbm[nl.ds(c_in.start, size)], dge_mode=nisa.dge_mode.none
            )
            taps_sbs.append(taps_sb)
    return taps_sbs


def _load_zeros(w_sbs: list[nl.NkiTensor], w_hbm: nl.NkiTensor, plan: Im2colPlan) -> None:
    """w_sb with the zeros, where HBM has them."""
    if plan.weights == "zeros":
        for i in range(len(w_sbs)):
            w_sb = w_sbs[i]
            nisa.dma_copy(
                dst=w_sb, src=w_hbm[i, nl.ds(0, w_sb.shape[0])], dge_mode=nisa.dge_mode.none
            )


def _load_rows(
    w_sbs: list[nl.NkiTensor], w_hbm: nl.NkiTensor, rows: Tile, plan: Im2colPlan
) -> None:
    """w_sb[g j ci, p, u co] for output rows p, where these are transfers of their own."""
    if plan.weights == "rows":
        for fill in plan.fills:
            if rows.start <= fill.entry and fill.entry < rows.start + rows.size:
                nisa.dma_copy(
                    dst=w_sbs[0][nl.ds(fill.partition, fill.partitions), fill.entry, :, :],
                    src=w_hbm[fill.shift],
                    dge_mode=nisa.dge_mode.none,
                )


def _fill_phases(w_sbs: list[nl.NkiTensor], taps_sbs: list[nl.NkiTensor], plan: Im2colPlan) -> None:
    """w_sb[g j ci, z, u, co] = the tap that phase j finds at entry z, for each image abreast."""
    C_out = plan.geometry.C_out // plan.packing.B
    G = plan.packing.G
    for i in range(len(taps_sbs)):
        size = plan.c_in_tiles[i].size // plan.packing.B
        for fill in plan.fills:
            entry_end = fill.entry + (fill.taps - 1) * fill.entry_step + 1
            tap_end = fill.tap + (fill.taps - 1) * fill.tap_step + 1
            shift_end = fill.shift + (fill.shifts - 1) * G + 1
            dst = w_sbs[i][
                nl.ds(fill.partition, size),
                fill.entry : entry_end : fill.entry_step,
                0 : fill.shifts,
                nl.ds(fill.image * C_out, C_out),
            ]
            src = taps_sbs[i][:, fill.tap : tap_end : fill.tap_step, fill.shift : shift_end : G, :]
            if fill.by_engine:
                nisa.tensor_copy(dst=dst, src=src, engine=nisa.engine.vector)
            else:
                nisa.dma_copy(dst=dst, src=src, dge_mode=nisa.dge_mode.none)


def _load_vectors(vector_hbm: nl.NkiTensor | None, plan: Im2colPlan) -> list[nl.NkiTensor | None]:
    """vector_sb (p co, 1) of each tile of results, or None; images abreast have the same.

    Single elements load slowly: tiles of the same channels share theirs.
    """
    num = len(plan.c_out_tiles)
    B = plan.packing.B
    rows = plan.out_tiles[0].rows.size  # as many as others have, or more
    loaded: list[nl.NkiTensor | None] = []
    for co in plan.c_out_tiles:
        vector_sb = None
        if vector_hbm is not None:
            vector_sb = nl.ndarray((rows * co.size, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(
                dst=vector_sb,
                src=vector_hbm.ap([[0, rows * B], [1, co.size // B], [1, 1]], offset=co.start),
                dge_mode=nisa.dge_mode.none,
            )
        loaded.append(vector_sb)
    vector_sbs: list[nl.NkiTensor | None] = []
    for i in range(len(plan.out_tiles)):
        out = plan.out_tiles[i]
        vector_sb = loaded[i % num]
        if vector_sb is not None:
            vector_sb = vector_sb[0 : out.rows.size * out.channels.size, :]
        vector_sbs.append(vector_sb)
    return vector_sbs


def _strip_buffers(dtype: Any, plan: Im2colPlan) -> list[list[nl.NkiTensor]]:
    """x_sb (g j ci, places, columns) of each tile of C_in, in turn."""
    k = plan.packing
    buffers = []
    for _ in range(plan.buffers):
        x_sbs = []
        for c_in in plan.c_in_tiles:
            shape = (k.G * k.J * c_in.size, plan.places, plan.width)
            x_sbs.append(nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf))
        buffers.append(x_sbs)
    return buffers


def _clear_sides(x_sbs: list[nl.NkiTensor], direct: int, plan: Im2colPlan) -> None:
    """Zeros beside the image, where rows are loaded from HBM: all shifts' in `direct` places."""
    k = plan.packing
    left = plan.geometry.cols.pad
    right = left + plan.x_width
    shifted = right - (plan.shifts - 1) * plan.geometry.cols.dilation
    for i in range(len(plan.c_in_tiles)):
        x_sb = x_sbs[i]
        channels = plan.c_in_tiles[i].size
        if direct > 0:
            rows = plan.shifts * k.J * channels
            _clear_columns(x_sb[0:rows, 0:direct, :], left, max(0, shifted))
        if direct < plan.places:
            _clear_columns(x_sb[0 : k.S * channels, direct : plan.places, :], left, right)


def _clear_columns(x_sb: nl.NkiTensor, left: int, right: int) -> None:
    """Zeros in x_sb[:, :, :left] and x_sb[:, :, right:]."""
    width = x_sb.shape[2]
    if left > 0:
        nisa.memset(dst=x_sb[:, :, 0:left], value=0.0, engine=nisa.engine.vector)
    if right < width:
        nisa.memset(dst=x_sb[:, :, right:width], value=0.0, engine=nisa.engine.vector)


def _clear_rows(x_sbs: list[nl.NkiTensor], strip: Strip, i_chunk: int, plan: Im2colPlan) -> None:
    """Zeros above and below the image, in what a strip's chunk loads."""
    chunk = strip.chunks[i_chunk]
    start = strip.starts[i_chunk] * plan.packing.row_step + chunk.zero_places.start
    if chunk.zero_slots > 0:
        for i in range(len(plan.c_in_tiles)):
            slots = chunk.zero_slots * plan.c_in_tiles[i].size
            nisa.memset(
                dst=x_sbs[i][0:slots, nl.ds(start, chunk.zero_places.size), :],
                value=0.0,
                engine=nisa.engine.gpsimd,
            )


def _load_chunk(
    x_sbs: list[nl.NkiTensor],
    x_hbm: Reached,
    n: int,
    strip: Strip,
    i_chunk: int,
    plan: Im2colPlan,
) -> None:
    """Bring the rows of x of a strip's chunk, then copy them for other phases and shifts."""
    g = plan.geometry
    k = plan.packing
    C_in = g.C_in // k.B
    H = x_hbm.rows
    W = g.cols.size
    chunk = strip.chunks[i_chunk]
    start = strip.starts[i_chunk]
    place = start * k.row_step
    row = (strip.start + start) * k.row_step * k.S - g.rows.pad
    for i in range(len(plan.c_in_tiles)):
        c_in = plan.c_in_tiles[i]
        x_sb = x_sbs[i]
        for load in chunk.loads:
            first = max(0, load.skip - g.cols.pad)
            size = plan.x_width - first
            pixel = ((n * C_in + c_in.start) * H + row + load.row) * W + first
            pixels = reach(
                x_hbm,
                [[W, load.slots], [H * W, c_in.size], [k.S * W, load.size], [1, size]],
                pixel,
            )
            nisa.dma_copy(
                dst=x_sb[
                    nl.ds(load.slot * c_in.size, load.slots * c_in.size),
                    nl.ds(place + load.place, load.size),
                    nl.ds(max(0, g.cols.pad - load.skip), size),
                ],
                src=pixels,
                dge_mode=transfer_mode(pixels),
            )
        flat_sb = x_sb.flatten_dims(1, 2)
        elem = place * plan.width
        for move in chunk.moves:
            dst = flat_sb[nl.ds(move.dst, move.partitions), nl.ds(elem + move.start, move.size)]
            src = flat_sb[0 : move.partitions, nl.ds(elem + move.shift, move.size)]
            if move.by_engine:
                nisa.tensor_copy(dst=dst, src=src, engine=nisa.engine.gpsimd)
            else:
                nisa.dma_copy(dst=dst, src=src, dge_mode=nisa.dge_mode.none)


def _carry(
    x_sbs: list[nl.NkiTensor], before_sbs: list[nl.NkiTensor], strip: Strip, plan: Im2colPlan
) -> None:
    """Copy the places that a strip shares with the one before."""
    for i in range(len(plan.c_in_tiles)):
        size = plan.packing.S * plan.c_in_tiles[i].size
        nisa.dma_copy(
            dst=x_sbs[i][0:size, 0 : strip.carry, :],
            src=before_sbs[i][0:size, nl.ds(strip.carry_from, strip.carry), :],
            dge_mode=nisa.dge_mode.none,
        )


def _accumulate(
    acc_ps: nl.NkiTensor,
    w_sbs: list[nl.NkiTensor],
    x_sbs: list[nl.NkiTensor],
    out: OutTile,
    groups: Tile,
    cols: Tile,
    plan: Im2colPlan,
) -> None:
    """acc_ps (p co, groups, cols) = sum over (ci tile, q, u) of w_sb.T @ x_sb."""
    g = plan.geometry
    k = plan.packing
    z_step = g.rows.stride // plan.entry
    is_first = True
    for i in range(len(plan.c_in_tiles)):
        for q in out.places:
            z = (out.rows.start * g.rows.stride + (k.Q - 1 - q) * k.S) // plan.entry
            z_end = z + (out.rows.size - 1) * z_step + 1
            place = groups.start * k.row_step + q
            place_end = place + (groups.size - 1) * k.row_step + 1
            for u in range(k.U):
                column = cols.start * g.cols.stride + u * k.G * g.cols.dilation
                column_end = column + (cols.size - 1) * g.cols.stride + 1
                nisa.nc_matmul(
                    dst=acc_ps,
                    stationary=w_sbs[i][
                        :,
                        z:z_end:z_step,
                        u,
                        nl.ds(out.channels.start, out.channels.size),
                    ],
                    moving=x_sbs[i][
                        :, place : place_end : k.row_step, column : column_end : g.cols.stride
                    ],
                    accumulate=not is_first,
                )
                is_first = False


def _copy_rows(
    y_hbm: Reached,
    y_sb: nl.NkiTensor,
    n: int,
    row: int,
    out: OutTile,
    chunk: Chunk,
    to_hbm: bool,
    plan: Im2colPlan,
) -> None:
    """Between y_hbm[n, co, row + i*P + p, :] and y_sb (p co, i, OW); a last group may be short."""
    g = plan.geometry
    P = plan.packing.P
    C_out = g.C_out // plan.packing.B
    OH = y_hbm.rows
    OW = g.cols.outputs
    start = ((n * C_out + out.channels.start) * OH + row + out.rows.start) * OW
    for short in (False, True):
        first = chunk.full if short else 0
        groups = 1 if short else chunk.full
        rows = min(out.rows.size, chunk.rest - out.rows.start) if short else out.rows.size
        if groups > 0 and rows > 0:
            there = reach(
                y_hbm,
                [[OW, rows], [OH * OW, out.channels.size], [P * OW, groups], [1, OW]],
                start + first * P * OW,
            )
            here = y_sb[0 : rows * out.channels.size, nl.ds(first, groups), :]
            _transfer(there, here, to_hbm)


def _copy_joined(
    y_hbm: Reached,
    y_sb: nl.NkiTensor,
    n: int,
    row: int,
    chunk: Chunk,
    to_hbm: bool,
    plan: Im2colPlan,
) -> None:
    """Between y_hbm[n, co, row + i*P + p, :] and y_sb (co, i*P + p, OW)."""
    g = plan.geometry
    OH = y_hbm.rows
    OW = g.cols.outputs
    rows = chunk.full * plan.packing.P + chunk.rest
    start = (n * (g.C_out // plan.packing.B) * OH + row) * OW
    there = reach(y_hbm, [[OH * OW, g.C_out], [OW, rows], [1, OW]], start)
    _transfer(there, y_sb[:, 0:rows, :], to_hbm)


def _transfer(there: nl.NkiTensor, here: nl.NkiTensor, to_hbm: bool) -> None:
    if to_hbm:
        nisa.dma_copy(dst=there, src=here, dge_mode=transfer_mode(there))
    else:
        nisa.dma_copy(dst=here, src=there, dge_mode=transfer_mode(there))


def _finish_chunk(
    y_hbm: Reached,
    residual_hbm: Reached | None,
    w_sbs: list[nl.NkiTensor],
    x_sbs: list[nl.NkiTensor],
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    n: int,
    group: int,
    start: int,
    out: OutTile,
    chunk: Chunk,
    on_vector: bool,
    plan: Im2colPlan,
) -> bool:
    """y_hbm[n, co, the chunk's rows] of one tile of results; return which engine is the next."""
    if plan.geometry.N == 1 or len(chunk.tiles) > 1:
        on_vector = False  # the other one is faster
    row = group * plan.packing.P
    size = out.rows.size * out.channels.size
    shape = (size, chunk.groups, plan.geometry.cols.outputs)
    residual_sb = None
    if residual_hbm is not None:
        residual_sb = nl.ndarray(shape, dtype=y_hbm.tensor.dtype, buffer=nl.sbuf)
        if chunk.rest > 0:
            nisa.memset(dst=residual_sb[:, nl.ds(chunk.full, 1), :], value=0.0)
        _copy_rows(residual_hbm, residual_sb, n, row, out, chunk, False, plan)
    y_sb = nl.ndarray(shape, dtype=y_hbm.tensor.dtype, buffer=nl.sbuf)
    for tile in chunk.tiles:
        for cols in plan.col_tiles:
            acc_ps = nl.ndarray((size, tile.size, cols.size), dtype=nl.float32, buffer=nl.psum)
            groups = Tile(start + tile.start, tile.size)
            _accumulate(acc_ps, w_sbs, x_sbs, out, groups, cols, plan)
            rows = nl.ds(tile.start, tile.size)
            columns = nl.ds(cols.start, cols.size)
            residual = None
            if residual_sb is not None:
                residual = residual_sb[:, rows, columns]
            evict(
                y_sb[:, rows, columns], acc_ps, scale_sb, bias_sb, residual, plan.epilogue,
                on_vector,
            )  # fmt: skip
            on_vector = plan.on_both and not on_vector
    _copy_rows(y_hbm, y_sb, n, row, out, chunk, True, plan)
    return on_vector


def _finish_joined(
    y_hbm: Reached,
    residual_hbm: Reached | None,
    w_sbs: list[nl.NkiTensor],
    x_sbs: list[nl.NkiTensor],
    scale_sbs: list[nl.NkiTensor | None],
    bias_sbs: list[nl.NkiTensor | None],
    n: int,
    group: int,
    start: int,
    chunk: Chunk,
    on_vector: bool,
    plan: Im2colPlan,
) -> bool:
    """y_hbm[n, co, the chunk's rows] of all tiles, whose rows p are put together before.

    ScalarE and VectorE wait for each other in one bank of PSUM.  They take banks in turn, but the
    rows of each where there is one image, so that its last bank takes no longer.
    """
    by_rows = plan.on_both and plan.geometry.N <= 4
    C_out = plan.geometry.C_out
    P = plan.packing.P
    row = group * P
    shape = (C_out, chunk.groups * P, plan.geometry.cols.outputs)
    residual_sb = None
    if residual_hbm is not None:
        residual_sb = nl.ndarray(shape, dtype=y_hbm.tensor.dtype, buffer=nl.sbuf)
        if chunk.rest > 0:
            first = chunk.full * P + chunk.rest
            nisa.memset(dst=residual_sb[:, first : shape[1], :], value=0.0)
        _copy_joined(residual_hbm, residual_sb, n, row, chunk, False, plan)
    y_sb = nl.ndarray(shape, dtype=y_hbm.tensor.dtype, buffer=nl.sbuf)
    for tile in chunk.tiles:
        groups = Tile(start + tile.start, tile.size)
        for i in range(len(plan.out_tiles)):
            out = plan.out_tiles[i]
            for cols in plan.col_tiles:
                acc_ps = nl.ndarray(
                    (out.rows.size * C_out, tile.size, cols.size), dtype=nl.float32, buffer=nl.psum
                )
                _accumulate(acc_ps, w_sbs, x_sbs, out, groups, cols, plan)
                for p in range(out.rows.size):
                    first = tile.start * P + out.rows.start + p
                    end = first + (tile.size - 1) * P + 1
                    columns = nl.ds(cols.start, cols.size)
                    channels = nl.ds(p * C_out, C_out)
                    scale_sb = scale_sbs[i]
                    if scale_sb is not None:
                        scale_sb = scale_sb[channels, :]
                    bias_sb = bias_sbs[i]
                    if bias_sb is not None:
                        bias_sb = bias_sb[channels, :]
                    residual = None
                    if residual_sb is not None:
                        residual = residual_sb[:, first:end:P, columns]
                    if by_rows:
                        on_vector = 2 * p >= out.rows.size
                    evict(
                        y_sb[:, first:end:P, columns], acc_ps[channels, :, :], scale_sb, bias_sb,
                        residual, plan.epilogue, on_vector,
                    )  # fmt: skip
                on_vector = plan.on_both and not on_vector
    _copy_joined(y_hbm, y_sb, n, row, chunk, True, plan)
    return on_vector


@nki.jit
def conv2d_im2col(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: Im2colPlan,
) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(
        whole(y_hbm), whole(x_hbm), w_hbm, scale_hbm, bias_hbm, whole(residual_hbm), plan
    )  # fmt: skip
    return y_hbm


@nki.jit
def conv2d_im2col_looped(
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
        _convolve_part(operands, piece, [])
        return
    table_sb = make_table(piece)

    def body(i: nl.VirtualRegister) -> None:
        _convolve_part(operands, piece, indices(table_sb, piece, i))

    nl.fori_loop(0, piece.iterations, body)


def _convolve_part(operands: dict[str, Any], piece: Piece, at: list[nl.VirtualRegister]) -> None:
    _convolve(
        reach_part(operands["y"], piece.y, at), reach_part(operands["x"], piece.x, at),
        operands["w"], operands["scale"], operands["bias"],
        reach_part(operands["residual"], piece.residual, at), piece.part,
    )  # fmt: skip


def _convolve(
    y_hbm: Reached,
    x_hbm: Reached,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: Reached | None,
    plan: Im2colPlan,
) -> None:
    """y_hbm = the convolution of all of x_hbm."""
    load_table(plan.epilogue)
    taps_sbs = _load_taps(w_hbm, plan)
    buffers = _strip_buffers(w_hbm.dtype, plan)
    _clear_sides(buffers[0], plan.direct[0], plan)
    w_sbs = _make_weights(w_hbm.dtype, plan)
    first = plan.images[0][0]
    _clear_rows(buffers[0], first, 0, plan)
    _load_chunk(buffers[0], x_hbm, 0, first, 0, plan)
    _load_zeros(w_sbs, w_hbm, plan)
    _fill_phases(w_sbs, taps_sbs, plan)
    for i in range(1, min(_FIRST, len(first.chunks))):
        _clear_rows(buffers[0], first, i, plan)
        _load_chunk(buffers[0], x_hbm, 0, first, i, plan)
    _load_rows(w_sbs, w_hbm, Tile(0, plan.out_tiles[0].rows.size), plan)
    done = plan.out_tiles[0].rows.size
    _load_rows(w_sbs, w_hbm, Tile(done, plan.packing.P - done), plan)
    scale_sbs = _load_vectors(scale_hbm, plan)
    bias_sbs = _load_vectors(bias_hbm, plan)
    for i in range(1, plan.buffers):
        _clear_sides(buffers[i], plan.direct[i], plan)
        if plan.cleared:
            for j in range(len(plan.images[i][0].chunks)):
                _clear_rows(buffers[i], plan.images[i][0], j, plan)
    turn = 0
    on_vector = False
    B = plan.packing.B
    for i_n in range(plan.geometry.N):
        n = min(i_n * B, plan.y_shape[0] - B)  # the last ones may be made twice
        for strip in plan.images[i_n]:
            x_sbs = buffers[turn % plan.buffers]
            # An image of which x_sbs held all rows left its zeros; but the first one loads more.
            clear = turn <= plan.buffers or len(plan.images[i_n]) > 1
            if plan.cleared:
                clear = turn == 0 or turn == plan.buffers
            if strip.carry > 0:
                _carry(x_sbs, buffers[(turn - 1) % plan.buffers], strip, plan)
            for i in range(min(plan.ahead, len(strip.chunks))):
                if turn > 0 or i >= _FIRST:
                    if clear:
                        _clear_rows(x_sbs, strip, i, plan)
                    _load_chunk(x_sbs, x_hbm, n, strip, i, plan)
            for i in range(len(strip.chunks)):
                start = strip.starts[i]
                group = strip.start + start
                if plan.joined:
                    on_vector = _finish_joined(
                        y_hbm, residual_hbm, w_sbs, x_sbs, scale_sbs, bias_sbs, n, group, start,
                        strip.chunks[i], on_vector, plan,
                    )  # fmt: skip
                else:
                    for j in range(len(plan.out_tiles)):
                        on_vector = _finish_chunk(
                            y_hbm, residual_hbm, w_sbs, x_sbs, scale_sbs[j], bias_sbs[j], n, group,
                            start, plan.out_tiles[j], strip.chunks[i], on_vector, plan,
                        )  # fmt: skip
                if i + plan.ahead < len(strip.chunks):
                    if clear:
                        _clear_rows(x_sbs, strip, i + plan.ahead, plan)
                    _load_chunk(x_sbs, x_hbm, n, strip, i + plan.ahead, plan)
            turn = turn + 1


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield plans of the packings that a quick estimate likes best.

    Raises
    ------
    NotSuited
        Groups, pooling, or padding other than zeros; or nothing fits.
    """
    g = problem.geometry
    if g.G > 1:
        raise NotSuited("it has no groups")
    if problem.epilogue.pool is not None:
        raise NotSuited("it has no fused pooling")
    if problem.padding_mode != "zeros":
        raise NotSuited(f'it has no padding_mode "{problem.padding_mode}"')
    cols = g.cols
    if (cols.outputs - 1) * cols.stride + (cols.taps - 1) * cols.dilation < cols.pad:
        raise NotSuited("every column that the taps reach is padding")
    hw = hardware()
    held = 2 if problem.precision == "fast" else g.itemsize
    found, too_long = 0, False
    reason: NotSuited | None = None
    for k in ranked(g, hw, held):
        if found + too_long == _PLANS:
            return
        if least_matmuls(g, k) <= _looped.MAX_INSTRUCTIONS:
            plan = _plan(problem, k, g)
            if plan is None:
                continue
            cost = _priced(plan)
            if cost.static_instructions <= _looped.MAX_INSTRUCTIONS:
                yield Candidate(NAME, plan, cost, _why(plan))
                found += 1
                continue
        if not too_long and k.B == 1:  # of several that are, the quickest
            try:
                yield _in_parts(problem, k)
                too_long = True
            except NotSuited as refusal:
                reason = reason or refusal
    if found == 0 and not too_long:
        if isinstance(reason, TooLong):
            raise reason
        raise NotSuited(
            f"no packing of {g.C_in} to {g.C_out} channels has strips that fit SBUF and at most "
            f"{_looped.MAX_INSTRUCTIONS:,} instructions"
        )


def _plan(problem: Problem, k: Packing, part_of: Geometry) -> Im2colPlan | None:
    on_both = hardware().generation > 2
    fast = problem.precision == "fast"
    return make_plan(
        problem.geometry, problem.epilogue, k, on_both=on_both, fast=fast, part_of=part_of
    )


def _in_parts(problem: Problem, k: Packing) -> Candidate:
    """Return on-chip loops over parts of the packing.

    Raises
    ------
    NotSuited
    """

    def make(part: Problem, reserved_bytes: int) -> Im2colPlan:
        plan = _plan(part, k, problem.geometry)
        if plan is None or plan.sbuf_bytes + reserved_bytes > nl.tile_size.sbuf_fmax_bytes:
            raise NotSuited("SBUF does not hold a part of it")
        return plan

    def least(whole: Problem) -> int:
        return least_matmuls(whole.geometry, k)

    loops = _looped.Loops(make, _priced, lambda _: None, rows=True, reached=True, least=least)
    cut = _looped.cut_into_parts(problem, loops)
    plan = LoopedPlan(cut.pieces, _looped.y_shape(problem))
    why = f"{_why(cut.pieces[0].part)}; {cut.why}"
    return Candidate(NAME, plan, _looped.total(cut), why)


def _priced(plan: Im2colPlan) -> Price:
    """Return what a plan costs; its instructions with those of borders and epilogues."""
    cost = price(plan, hardware())
    e = plan.epilogue
    tiles = cost.scalar_instructions + cost.vector_instructions
    chunks = sum(len(strip.chunks) for image in plan.images for strip in image)
    per_chunk = 1 + e.has_residual * (1 if plan.joined else len(plan.out_tiles))  # zeros
    carries = sum(strip.carry > 0 for image in plan.images for strip in image)
    more = tiles * e.instructions + (chunks * per_chunk + carries) * len(plan.c_in_tiles)
    more += (e.has_scale + e.has_bias) * len(plan.out_tiles)
    more += len(plan.c_in_tiles) * (4 * plan.buffers + 4) + 2
    return replace(cost, static_instructions=cost.static_instructions - tiles + more)


def worth(problem: Problem) -> str | None:
    """Return why "auto" need not ask for plans, or None: where there is nothing to pack."""
    g = problem.geometry
    if g.rows.taps * g.cols.taps == 1 and g.C_in >= 64:
        return "64 or more channels of 1x1 taps leave little to pack"
    if g.C_in > 64 and g.C_out > 64:
        return "more than 64 channels in and out leave nothing to pack"
    return None


def _why(plan: Im2colPlan) -> str:
    k = plan.packing
    rounded = ", operands rounded to bfloat16" if plan.fast else ""
    images = f" of {k.B} images" if k.B > 1 else ""
    return (
        f"{k.J} rows x {k.G} shifts x {plan.c_in_tiles[0].size} channels{images} contracted at "
        f"once, {k.P} output rows beside each other{rounded}"
    )


def pack(w: PackedWeights, plan: Im2colPlan | LoopedPlan) -> Array:
    """Return the weights as the plan's way of bringing them to their places wants them."""
    if isinstance(plan, LoopedPlan):
        return pack(w, plan.pieces[0].part)  # the same for all parts
    g, k = plan.geometry, plan.packing
    KH, KW, B = g.rows.taps, g.cols.taps, k.B
    C_in, C_out = g.C_in // B, g.C_out // B
    dtype = DTYPES["bfloat16"] if plan.fast else w.array.dtype
    taps = w.array[0].astype(dtype).reshape(C_in, KH, KW, C_out)
    if plan.weights == "phases":
        return np.ascontiguousarray(taps[:, ::-1])
    wide = np.zeros((B, C_in, KH, k.U * k.G, B, C_out), taps.dtype)
    for b in range(B):  # each image abreast to its own channels of y
        wide[b, :, :, :KW, b] = taps
    shifted = wide.reshape(g.C_in, KH, k.U, k.G, g.C_out)
    if plan.weights == "rows":
        return np.ascontiguousarray(shifted.transpose(3, 1, 0, 2, 4)).reshape(
            k.G, KH * g.C_in, k.U, g.C_out
        )
    packed = np.zeros((len(plan.c_in_tiles), plan.rows, plan.entries, k.U, g.C_out), taps.dtype)
    for i, tile in enumerate(plan.c_in_tiles):
        chosen = shifted[tile.start : tile.start + tile.size]
        for j in range(k.J):
            for z in range(plan.entries):
                kh, rest = divmod(j + (k.Q - 1) * k.S - z * plan.entry, g.rows.dilation)
                if rest or not 0 <= kh < KH:
                    continue
                for shift in range(k.G):
                    row = (shift * k.J + j) * tile.size
                    packed[i, row : row + tile.size, z] = chosen[:, kh, :, shift]
    return packed


def run(launch: Launch, operands: Operands, plan: Im2colPlan | LoopedPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    if isinstance(plan, LoopedPlan):
        return launch(conv2d_im2col_looped, o.x, o.w, o.scale, o.bias, o.residual, plan)
    return launch(conv2d_im2col, o.x, o.w, o.scale, o.bias, o.residual, plan)
