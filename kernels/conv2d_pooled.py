"""The direct path with a pool at its end: the convolution's result never leaves SBUF.

y[n, co, p, q] = max, or mean, over (i, j) of conv[n, co, p*ps + i, q*ps + j]
conv           = act(scale[co]*acc + bias[co] + residual[n, co, oh, ow])
acc            = sum over (ci, t) of w[ci, t, co] * x[n, ci, oh*s + kh*d - pad, ow*s + kw*d - pad]

with t = kh*KW + kw, the padding outside x, and all this once for each of G groups of channels.

Shapes
------
x_hbm         (N, G*C_in, H, W)          f32 f16 bf16  HBM
w_hbm         (G, C_in, KH*KW, C_out)    as x or bf16  HBM, packed
scale_hbm     (G*C_out, 1)               f32           HBM, or None
bias_hbm      (G*C_out, 1)               f32           HBM, or None
residual_hbm  (N, G*C_out, OH, OW)       as x          HBM, or None
y_hbm         (N, G*C_out, P, Q)         as x          HBM

Loop nest
---------
for group, block of output channels:            weights are loaded once and stay in SBUF
    for section = some images, or pooled rows of one:
        load its pixels, with their border
        for tile of <= 128 output channels:
            for tile of <= 512 outputs of the convolution, tile of <= 128 input channels, tap:
                acc (co, n, rows, cols) += w (ci, co).T @ x (ci, n, rows, cols)
            conv = act(scale*acc + bias + residual)     rounded to y's dtype, a mean's not
            y = pool(conv); one store

Rows and columns that no window reaches are not computed.  Windows that overlap share rows between
sections, which are computed twice: sections are as high as that and the last one's pooling, which
nothing overlaps, ask for.

The tensor engine limits it, as without the pool.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul (tile sizes, accumulation mode), isa
tensor_tensor, NKI access patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels import _looped
from nkiconv.kernels._algorithm import Candidate, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import DTYPES, Array
from nkiconv.kernels._blocks import pool_block
from nkiconv.kernels._epilogue import evict
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._plan import OutputTile, Tile
from nkiconv.kernels._pooled_plan import PooledPlan, Section, plan_pooled, price_of
from nkiconv.kernels._stages import Launch
from nkiconv.kernels._strip import fill_border, load_run, transfer_mode
from nkiconv.kernels._weights import PackedWeights

NAME = "direct"


def _load_weights(
    w_hbm: nl.NkiTensor, group: int, c_outs: tuple[Tile, ...], plan: PooledPlan
) -> list[nl.NkiTensor]:
    """w_sb (ci, taps, co) of each tile of input channels."""
    start = c_outs[0].start
    size = c_outs[-1].start + c_outs[-1].size - start
    w_sbs = []
    for c_in in plan.c_in_tiles:
        w_sb = nl.ndarray((c_in.size, w_hbm.shape[2], size), dtype=w_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(
            dst=w_sb,
            src=w_hbm[group, nl.ds(c_in.start, c_in.size), :, nl.ds(start, size)],
            dge_mode=transfer_mode(w_hbm),
        )
        w_sbs.append(w_sb)
    return w_sbs


def _load_vectors(
    vector_hbm: nl.NkiTensor | None, group: int, c_outs: tuple[Tile, ...], plan: PooledPlan
) -> list[nl.NkiTensor | None]:
    """vector_sb (co, 1) of each tile of output channels, or None."""
    vector_sbs: list[nl.NkiTensor | None] = []
    for c_out in c_outs:
        vector_sb = None
        if vector_hbm is not None:
            vector_sb = nl.ndarray((c_out.size, 1), dtype=nl.float32, buffer=nl.sbuf)
            channels = nl.ds(group * plan.geometry.C_out + c_out.start, c_out.size)
            nisa.dma_copy(
                dst=vector_sb, src=vector_hbm[channels, :], dge_mode=transfer_mode(vector_hbm)
            )
        vector_sbs.append(vector_sb)
    return vector_sbs


def _load_pixels(
    x_hbm: nl.NkiTensor, group: int, section: Section, dtype: str, plan: PooledPlan
) -> list[nl.NkiTensor]:
    """x_sb (ci, n, rows, cols) of each tile of input channels, the first rows of all first."""
    images = nl.ds(section.images.start, section.images.size)
    x_sbs = []
    for c_in in plan.c_in_tiles:
        shape = (c_in.size, section.images.size, section.rows.size, plan.cols.size)
        x_sbs.append(nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf))
    for run in section.loads:
        for i in range(len(plan.c_in_tiles)):
            c_in = plan.c_in_tiles[i]
            channels = nl.ds(group * plan.geometry.C_in + c_in.start, c_in.size)
            pixels = x_hbm[images, channels, :, :].permute((1, 0, 2, 3))
            load_run(x_sbs[i], pixels, run, plan.cols.inside)
    for x_sb in x_sbs:
        fill_border(x_sb, section.rows, plan.cols)
    return x_sbs


def _load_residual(
    residual_hbm: nl.NkiTensor | None, group: int, section: Section, c_out: Tile, plan: PooledPlan
) -> nl.NkiTensor | None:
    """residual_sb (co, n, rows, cols) of the section's outputs, or None."""
    if residual_hbm is None:
        return None
    shape = (c_out.size, section.images.size, section.conv.size, plan.conv_cols)
    residual_sb = nl.ndarray(shape, dtype=residual_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=residual_sb,
        src=residual_hbm[
            nl.ds(section.images.start, section.images.size),
            nl.ds(group * plan.geometry.C_out + c_out.start, c_out.size),
            nl.ds(section.conv.start, section.conv.size),
            nl.ds(0, plan.conv_cols),
        ].permute((1, 0, 2, 3)),
        dge_mode=transfer_mode(residual_hbm),
    )
    return residual_sb


def _accumulate(
    w_sbs: list[nl.NkiTensor],
    x_sbs: list[nl.NkiTensor],
    section: Section,
    c_out: Tile,
    tile: OutputTile,
    plan: PooledPlan,
) -> nl.NkiTensor:
    """acc_ps (co, n, rows, cols) = sum over input channels and taps of w_sb.T @ x_sb.

    `c_out` counts from the first channel of the weights in SBUF.
    """
    g = plan.geometry
    down = g.rows
    across = g.cols
    shape = (c_out.size, tile.images.size, tile.rows.size, tile.cols.size)
    acc_ps = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    images = nl.ds(tile.images.start, tile.images.size)
    row_step = down.stride // section.rows.step
    for i in range(len(x_sbs)):
        for kh in range(down.taps):
            row = section.rows.place(down, tile.rows.start, kh)
            row_end = row + (tile.rows.size - 1) * row_step + 1
            for kw in range(across.taps):
                col = plan.cols.place(across, tile.cols.start, kw)
                col_end = col + (tile.cols.size - 1) * across.stride + 1
                nisa.nc_matmul(
                    dst=acc_ps,
                    stationary=w_sbs[i][:, kh * across.taps + kw, nl.ds(c_out.start, c_out.size)],
                    moving=x_sbs[i][:, images, row:row_end:row_step, col : col_end : across.stride],
                    accumulate=i + kh + kw > 0,
                )
    return acc_ps


def _pool_and_store(
    y_hbm: nl.NkiTensor,
    conv_sb: nl.NkiTensor,
    group: int,
    section: Section,
    c_out: Tile,
    plan: PooledPlan,
) -> None:
    """y_hbm = the pooled rows of a section, for a tile of output channels."""
    shape = (c_out.size, section.images.size, section.pooled.size, plan.pool.cols.outputs)
    y_sb = nl.ndarray(shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
    pool_block(y_sb, conv_sb, plan.pool)
    nisa.dma_copy(
        dst=y_hbm[
            nl.ds(section.images.start, section.images.size),
            nl.ds(group * plan.geometry.C_out + c_out.start, c_out.size),
            nl.ds(section.pooled.start, section.pooled.size),
            :,
        ].permute((1, 0, 2, 3)),
        src=y_sb,
        dge_mode=transfer_mode(y_hbm),
    )


@nki.jit
def conv2d_pooled(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: PooledPlan,
) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(y_hbm, x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm, plan)
    return y_hbm


@nki.jit
def conv2d_pooled_looped(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: LoopedPlan,
) -> nl.NkiTensor:
    """Return y_hbm by on-chip loops over parts (_looped.py); each one loads its weights."""
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


def _convolve_part(hbm: dict[str, Any], plan: PooledPlan) -> None:
    _convolve(hbm["y"], hbm["x"], hbm["w"], hbm["scale"], hbm["bias"], hbm["residual"], plan)


def _convolve(
    y_hbm: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: PooledPlan,
) -> None:
    """y_hbm = the pooled convolution of all of x_hbm."""
    conv_dtype = x_hbm.dtype
    if plan.pool.kind == "avg":
        conv_dtype = nl.float32
    for group in range(plan.geometry.G):
        for c_outs in plan.c_out_blocks:
            w_sbs = _load_weights(w_hbm, group, c_outs, plan)
            scale_sbs = _load_vectors(scale_hbm, group, c_outs, plan)
            bias_sbs = _load_vectors(bias_hbm, group, c_outs, plan)
            for section in plan.sections:
                x_sbs = _load_pixels(x_hbm, group, section, w_hbm.dtype, plan)
                for i_out in range(len(c_outs)):
                    c_out = c_outs[i_out]
                    residual_sb = _load_residual(residual_hbm, group, section, c_out, plan)
                    shape = (c_out.size, section.images.size, section.conv.size, plan.conv_cols)
                    conv_sb = nl.ndarray(shape, dtype=conv_dtype, buffer=nl.sbuf)
                    loaded = Tile(c_out.start - c_outs[0].start, c_out.size)
                    for tile in section.tiles:
                        acc_ps = _accumulate(w_sbs, x_sbs, section, loaded, tile, plan)
                        images = nl.ds(tile.images.start, tile.images.size)
                        rows = nl.ds(tile.rows.start - section.conv.start, tile.rows.size)
                        cols = nl.ds(tile.cols.start, tile.cols.size)
                        residual = None
                        if residual_sb is not None:
                            residual = residual_sb[:, images, rows, cols]
                        evict(
                            conv_sb[:, images, rows, cols], acc_ps, scale_sbs[i_out],
                            bias_sbs[i_out], residual, plan.epilogue, False,
                        )  # fmt: skip
                    _pool_and_store(y_hbm, conv_sb, group, section, c_out, plan)


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield the plan that `plan_pooled` makes, or on-chip loops over such plans.

    Raises
    ------
    NotSuited
        There is no pool, weights and strips do not fit together, or the program would be too long
        even with on-chip loops.
    """
    pool = problem.epilogue.pool
    if pool is None:
        raise NotSuited("there is no pool")
    why = f"a matmul per tap and tile, taps read in place, {pool.kind}imum taken in SBUF"
    if pool.kind == "avg":
        why = "a matmul per tap and tile, taps read in place, means taken in SBUF"
    if _looped.least_matmuls(problem) <= _looped.MAX_INSTRUCTIONS:
        plan = _plan_part(problem, 0)
        price = price_of(plan)
        if price.static_instructions <= _looped.MAX_INSTRUCTIONS:
            yield Candidate(NAME, plan, price, why)
            return
    cut = _looped.cut_into_parts(
        problem,
        _looped.Loops(
            _plan_part,
            price_of,
            _looped.packed_shape,
            least=_looped.least_matmuls,
            rows=True,
            groups=1,
            channels=nl.tile_size.pmax,
        ),
    )
    looped = LoopedPlan(cut.pieces, _looped.y_shape(problem))
    yield Candidate(NAME, looped, _looped.total(cut), f"{why}; {cut.why}")


def _plan_part(problem: Problem, reserved_bytes: int) -> PooledPlan:
    pool = problem.epilogue.pool
    if pool is None:
        raise NotSuited("there is no pool")
    return plan_pooled(
        problem.geometry,
        problem.epilogue,
        pool,
        padding_mode=problem.padding_mode,
        fast=problem.precision == "fast",
        sbuf_bytes=nl.tile_size.sbuf_fmax_bytes - reserved_bytes,
    )


def pack(w: PackedWeights, plan: PooledPlan) -> Array:
    """Return the weights as `pack_weights` made them, rounded to bfloat16 for a fast plan."""
    return w.array.astype(DTYPES["bfloat16"]) if plan.fast else w.array


def run(launch: Launch, operands: Operands, plan: PooledPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    return launch(conv2d_pooled, o.x, o.w, o.scale, o.bias, o.residual, plan)
