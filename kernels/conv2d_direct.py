"""conv2d by the direct path: one matrix product per tap, read straight from the image in SBUF.

y[n, co, oh, ow] = act(scale[co]*acc + bias[co] + residual[n, co, oh, ow])
acc = sum over (ci, t) of w[ci, t, co] * x[n, ci, oh*s + kh*d - pad, ow*s + kw*d - pad]

with t = kh*KW + kw, the padding outside x, and all this once for each of G groups of channels.

Shapes
------
x_hbm         (N, G*C_in, H, W)       f32 f16 bf16  HBM
w_hbm         (G, rows, columns)      as x or bf16  HBM, in the order of use (`pack`)
scale_hbm     (G*C_out, 1)            f32           HBM, or None
bias_hbm      (G*C_out, 1)            f32           HBM, or None
residual_hbm  (N, G*C_out, OH, OW)    as x          HBM, or None
y_hbm         (N, G*C_out, OH, OW)    as x          HBM

Loop nest
---------
for group, step = strip of x and block of output channels:
    load what the next step needs: a strip, but for rows that the last one has; weights
    for block of the strip, tile of <= 128 output channels:
        for tile of <= 512 outputs:
            for tile of <= 128 input channels, tap:
                acc (co, n, rows, cols) += w (ci, co).T @ x (ci, n, rows, cols)
            y = act(scale*acc + bias)               PSUM to SBUF: the only rounding
        one store

_direct_plan.py says in which order steps come, _direct_order.py how far loads run ahead.

The moving operand is a view of the strip: a tap is an offset into it, stride and dilation are
steps, and small images stand side by side.  Strips have no border for zeros: a tap that leaves the
image computes only the outputs that it reaches, after one that reaches all.  Where a few input
channels are left over, they are copied for several taps, and one matmul contracts over the copies.

The tensor engine limits large layers: N*G*OH*OW * KH*KW * ceil(C_in/128) * ceil(C_out/128) columns
of a cycle each, four in float32.  Many channels with few pixels are limited by loading the weights.

What fits SBUF in no order is left to conv2d_streamed.py.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul (tile sizes, accumulation mode), isa
activation, isa dma_copy (dge_mode), DMA bandwidth guide (bytes per partition), NKI access patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from nkiconv.kernels import _looped, conv2d_pooled, conv2d_streamed
from nkiconv.kernels._algorithm import Candidate, Launch, Operands, Problem
from nkiconv.kernels._arguments import DTYPES, Array
from nkiconv.kernels._direct_order import (
    BEFORE_VECTORS,
    ends_of_steps,
    loads_before,
    loads_in_order,
    stores_of,
)
from nkiconv.kernels._direct_plan import (
    QUADRANT,
    Block,
    ChannelTile,
    DirectPlan,
    Load,
    Section,
    plan_direct,
)
from nkiconv.kernels._direct_price import price_of, weight_transfers
from nkiconv.kernels._epilogue import evict
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._plan import OutputTile, Tile, even_tiles, tap_outputs
from nkiconv.kernels._pooled_plan import PooledPlan
from nkiconv.kernels._price import Price
from nkiconv.kernels._streamed_plan import StreamedPlan
from nkiconv.kernels._strip import fill_border, load_run, transfer_mode
from nkiconv.kernels._weights import PackedWeights
from nkiconv.simulate import CapacityError

NAME = "direct"
POOLS = True


def _strip(plan: DirectPlan, dtype: str) -> nl.NkiTensor:
    """An empty x_sb (ci, sources, images, rows, cols), or (ci, images, sources, rows, cols)."""
    return nl.ndarray(plan.x_shape, dtype=dtype, buffer=nl.sbuf)


def _source(x_sb: nl.NkiTensor, i: int, plan: DirectPlan) -> nl.NkiTensor:
    """x_sb (ci, images, rows, cols) of one tile of input channels."""
    if plan.interleaved_x:
        return x_sb[:, :, i, :, :]
    return x_sb[0 : plan.c_in_tiles[i].size, i, :, :, :]


def _load_pixels(
    x_sb: nl.NkiTensor, x_hbm: nl.NkiTensor, group: int, section: Section, load: Load,
    plan: DirectPlan,
) -> None:  # fmt: skip
    """x_sb = some rows of one tile of input channels; of all, where they are interleaved."""
    g = plan.geometry
    n = section.images
    images = x_hbm[nl.ds(n.start, n.size), nl.ds(group * g.C_in, g.C_in), :, :]
    if plan.interleaved_x:
        rows, sources = plan.x_shape[0], len(plan.c_in_tiles)
        nisa.dma_copy(
            dst=x_sb[:, 0 : n.size, :, :, :],
            src=images.reshape_dim(1, (rows, sources)).permute((1, 0, 2, 3, 4)),
            dge_mode=transfer_mode(x_hbm),
        )
    else:
        c_in = plan.c_in_tiles[load.i]
        channels = images[:, nl.ds(c_in.start, c_in.size), :, :].permute((1, 0, 2, 3))
        x_view = _source(x_sb, load.i, plan)[:, 0 : n.size, :, :]
        load_run(x_view, channels, section.runs[load.part.start], plan.cols.inside)


def _load_weights(
    w_sb: nl.NkiTensor, w_hbm: nl.NkiTensor, group: int, c_out: ChannelTile, part: Tile,
    plan: DirectPlan,
) -> None:  # fmt: skip
    """w_sb (ci, place, products*co) = stationary operands of some products."""
    rows = plan.products[part.start].rows
    start = part.start * c_out.size
    size = part.size * c_out.size
    nisa.dma_copy(
        dst=w_sb[0:rows, c_out.place, nl.ds(start, size)],
        src=w_hbm[group, 0:rows, nl.ds(c_out.w_start + start, size)],
        dge_mode=transfer_mode(w_hbm),
    )


def _begin(
    x_sbs: list[nl.NkiTensor],
    w_sbs: list[nl.NkiTensor],
    dtype: str,
    kept: dict[str, Any] | None,
    at: int,
    plan: DirectPlan,
) -> None:
    """Append a step's strip and weights, empty or those of an earlier step.

    The first rows of the strip are the last ones of the strip before, where these overlap.
    """
    step = plan.steps[at % len(plan.steps)]
    if step.loads_w:
        w_sbs.append(nl.ndarray(plan.w_shape, dtype=dtype, buffer=nl.sbuf))
    elif kept is not None and at == 0:
        w_sbs.append(kept["w"])
    else:
        w_sbs.append(w_sbs[at - 1])
    if step.x_back > 0:
        x_sbs.append(x_sbs[at - step.x_back])
        return
    x_sbs.append(_strip(plan, dtype))
    section = plan.sections[step.section]
    if section.carry > 0:
        before = plan.sections[step.section - 1]
        start = before.rows.size - section.carry
        for i in range(len(plan.c_in_tiles)):
            nisa.dma_copy(
                dst=_source(x_sbs[at], i, plan)[:, :, 0 : section.carry, :],
                src=_source(x_sbs[at - 1], i, plan)[:, :, nl.ds(start, section.carry), :],
                dge_mode=nisa.dge_mode.none,
            )


def _load(
    x_sb: nl.NkiTensor,
    w_sb: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    at: int,
    i: int,
    plan: DirectPlan,
) -> None:
    """The i-th transfer of a step."""
    step = plan.steps[at % len(plan.steps)]
    group = at // len(plan.steps)
    load = step.loads[i]
    if load.is_x:
        _load_pixels(x_sb, x_hbm, group, plan.sections[step.section], load, plan)
    else:
        c_out = plan.c_out_blocks[step.block][load.i]
        _load_weights(w_sb, w_hbm, group, c_out, load.part, plan)


def _complete(
    x_sb: nl.NkiTensor, packed_sbs: list[nl.NkiTensor | None], at: int, plan: DirectPlan
) -> nl.NkiTensor | None:
    """Set the border of a strip; return its copies for taps, if the plan has them."""
    step = plan.steps[at % len(plan.steps)]
    if step.x_back > 0:
        return packed_sbs[at - step.x_back]
    section = plan.sections[step.section]
    if not plan.trimmed:
        for i in range(len(plan.c_in_tiles)):
            fill_border(
                _source(x_sb, i, plan)[:, 0 : section.images.size, :, :], section.rows, plan.cols
            )
    if len(plan.packs) > 0:
        return _pack(x_sb, section, plan)
    return None


def _pack(x_sb: nl.NkiTensor, section: Section, plan: DirectPlan) -> nl.NkiTensor:
    """packed_sb (tap and ci, pack, images, rows, cols): the last source, shifted by taps."""
    g = plan.geometry
    packed_sb = nl.ndarray(plan.pack_shape, dtype=x_sb.dtype, buffer=nl.sbuf)
    source_sb = _source(x_sb, len(plan.c_in_tiles) - 1, plan)
    images = section.images.size
    across = Tile(0, g.cols.outputs)
    turn = 0
    for block in section.blocks:
        if block.cols.start == 0:  # blocks side by side share their rows
            for i in range(len(plan.packs)):
                pack = plan.packs[i]
                _zero_edges(packed_sb, i, section, block, plan)
                for j in range(len(pack.taps)):
                    kh, kw = pack.taps[j]
                    down = _reached(g.rows, block.rows, kh, plan)
                    cols = _reached(g.cols, across, kw, plan)
                    if down.size > 0 and cols.size > 0:
                        row = section.rows.place(g.rows, down.start, kh)
                        step = g.rows.stride // section.rows.step
                        end = row + (down.size - 1) * step + 1
                        col = plan.cols.place(g.cols, cols.start, kw)
                        col_end = col + (cols.size - 1) * g.cols.stride + 1
                        _copy_shifted(
                            packed_sb[
                                nl.ds(j * pack.channels, pack.channels),
                                i,
                                0:images,
                                nl.ds(down.start - section.outputs.start, down.size),
                                nl.ds(cols.start, cols.size),
                            ],
                            source_sb[:, 0:images, row:end:step, col : col_end : g.cols.stride],
                            turn,
                        )
                        turn = turn + 1
    return packed_sb


def _copy_shifted(dst_sb: nl.NkiTensor, src_sb: nl.NkiTensor, turn: int) -> None:
    """dst_sb = src_sb on other partitions: by engines in turn if they reach them, else by DMA."""
    if dst_sb.shape[0] % QUADRANT != 0:
        nisa.dma_copy(dst=dst_sb, src=src_sb, dge_mode=nisa.dge_mode.none)
    elif turn % 2 == 0:
        nisa.tensor_copy(dst=dst_sb, src=src_sb, engine=nisa.engine.vector)
    else:
        nisa.activation(dst=dst_sb, op=nl.copy, data=src_sb)


def _zero_edges(
    packed_sb: nl.NkiTensor, i: int, section: Section, block: Block, plan: DirectPlan
) -> None:
    """Zeros wherever a tap of pack `i` leaves the image, for all of its taps."""
    g = plan.geometry
    pack = plan.packs[i]
    rows = nl.ds(0, pack.channels * len(pack.taps))
    images = nl.ds(0, section.images.size)
    across = Tile(0, g.cols.outputs)
    top = block.rows.start
    bottom = block.rows.start + block.rows.size
    left = 0
    right = g.cols.outputs
    for kh, kw in pack.taps:
        down = _reached(g.rows, block.rows, kh, plan)
        cols = _reached(g.cols, across, kw, plan)
        top = max(top, down.start if down.size > 0 else bottom)
        bottom = min(bottom, down.start + down.size if down.size > 0 else top)
        left = max(left, cols.start if cols.size > 0 else right)
        right = min(right, cols.start + cols.size if cols.size > 0 else left)
    start = block.rows.start - section.outputs.start
    end = start + block.rows.size
    top = min(top, block.rows.start + block.rows.size) - section.outputs.start
    bottom = max(bottom - section.outputs.start, top)
    right = max(left, right)
    if top > start:
        nisa.memset(dst=packed_sb[rows, i, images, start:top, :], value=0)
    if bottom < end:
        nisa.memset(dst=packed_sb[rows, i, images, bottom:end, :], value=0)
    if bottom > top and left > 0:
        nisa.memset(dst=packed_sb[rows, i, images, top:bottom, 0:left], value=0)
    if bottom > top and right < g.cols.outputs:
        nisa.memset(dst=packed_sb[rows, i, images, top:bottom, right : g.cols.outputs], value=0)


def _reached(axis: Any, outputs: Tile, tap: int, plan: DirectPlan) -> Tile:
    """Outputs that find a tap in the strip."""
    return tap_outputs(axis, outputs, tap) if plan.trimmed else outputs


def _load_vectors(
    vector_hbm: nl.NkiTensor | None, group: int, plan: DirectPlan
) -> nl.NkiTensor | None:
    """vector_sb (co, tiles) of all output channels of a group, or None."""
    if vector_hbm is None:
        return None
    first = plan.c_out_blocks[0][0]
    num = 0
    for block in plan.c_out_blocks:
        num = num + len(block)
    vector_sb = nl.ndarray((first.size, num), dtype=nl.float32, buffer=nl.sbuf)
    start = group * plan.geometry.C_out
    if plan.interleaved_y:
        channels = vector_hbm[nl.ds(start, first.size * num), :]
        nisa.dma_copy(
            dst=vector_sb, src=channels.reshape((first.size, num)),
            dge_mode=transfer_mode(vector_hbm),
        )  # fmt: skip
        return vector_sb
    for block in plan.c_out_blocks:
        for c_out in block:
            nisa.dma_copy(
                dst=vector_sb[0 : c_out.size, nl.ds(c_out.index, 1)],
                src=vector_hbm[nl.ds(start + c_out.start, c_out.size), :],
                dge_mode=transfer_mode(vector_hbm),
            )
    return vector_sb


def _accumulate(
    w_sb: nl.NkiTensor,
    x_sb: nl.NkiTensor,
    packed_sb: nl.NkiTensor | None,
    section: Section,
    c_out: ChannelTile,
    tile: OutputTile,
    plan: DirectPlan,
) -> nl.NkiTensor:
    """acc_ps (co, n, rows, cols) = sum over products of w_sb.T @ x_sb."""
    g = plan.geometry
    shape = (c_out.size, tile.images.size, tile.rows.size, tile.cols.size)
    acc_ps = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    downs = []
    for kh in range(g.rows.taps):
        downs.append(_reached(g.rows, tile.rows, kh, plan))
    acrosses = []
    for kw in range(g.cols.taps):
        acrosses.append(_reached(g.cols, tile.cols, kw, plan))
    first = _covering(downs, acrosses, tile, plan)
    if first < 0:
        _start_with_zeros(acc_ps, x_sb.dtype)
    order = []
    if first >= 0:
        order.append(first)
    for i in range(len(plan.products)):
        if i != first:
            order.append(i)
    images = nl.ds(tile.images.start - section.images.start, tile.images.size)
    for i in order:
        product = plan.products[i]
        if packed_sb is not None and product.kh < 0:
            down = tile.rows
            across = tile.cols
            rows = nl.ds(down.start - section.outputs.start, down.size)
            moving = packed_sb[
                0 : product.rows, product.source - len(plan.c_in_tiles), images, rows,
                nl.ds(across.start, across.size),
            ]  # fmt: skip
        else:
            down = downs[product.kh]
            across = acrosses[product.kw]
            if down.size == 0 or across.size == 0:
                continue
            row = section.rows.place(g.rows, down.start, product.kh)
            col = plan.cols.place(g.cols, across.start, product.kw)
            row_step = g.rows.stride // section.rows.step
            row_end = row + (down.size - 1) * row_step + 1
            col_end = col + (across.size - 1) * g.cols.stride + 1
            moving = _source(x_sb, product.source, plan)[
                :, images, row:row_end:row_step, col : col_end : g.cols.stride
            ]
        _multiply(
            acc_ps[
                :,
                :,
                nl.ds(down.start - tile.rows.start, down.size),
                nl.ds(across.start - tile.cols.start, across.size),
            ],
            w_sb[0 : product.rows, c_out.place, nl.ds(i * c_out.size, c_out.size)],
            moving,
            i != first,
            plan.halves,
        )
    return acc_ps


def _multiply(
    acc_ps: nl.NkiTensor,
    stationary: nl.NkiTensor,
    moving: nl.NkiTensor,
    accumulate: bool,
    halves: bool,
) -> None:
    """acc_ps (+)= stationary.T @ moving, of output channels in two halves side by side if asked."""
    if not halves:
        nisa.nc_matmul(dst=acc_ps, stationary=stationary, moving=moving, accumulate=accumulate)
        return
    half = nl.tile_size.pmax // 2
    for start in range(0, acc_ps.shape[0], half):
        size = min(half, acc_ps.shape[0] - start)
        nisa.nc_matmul(
            dst=acc_ps[nl.ds(start, size)],
            stationary=stationary[:, nl.ds(start, size)],
            moving=moving,
            accumulate=accumulate,
            tile_position=(0, start),
            tile_size=(nl.tile_size.pmax, half),
        )


def _covering(downs: list[Tile], acrosses: list[Tile], tile: OutputTile, plan: DirectPlan) -> int:
    """Return the first product that reaches all outputs of a tile, or -1."""
    for i in range(len(plan.products)):
        product = plan.products[i]
        if product.kh < 0:
            return i
        if downs[product.kh].size == tile.rows.size and acrosses[product.kw].size == tile.cols.size:
            return i
    return -1


def _start_with_zeros(acc_ps: nl.NkiTensor, dtype: str) -> None:
    """acc_ps = 0 by a product of zeros: TensorE adds to nothing that another engine has written."""
    co, images, rows, cols = acc_ps.shape
    zeros_sb = nl.ndarray((1, co + images * rows * cols), dtype=dtype, buffer=nl.sbuf)
    nisa.memset(dst=zeros_sb, value=0)
    nisa.nc_matmul(
        dst=acc_ps,
        stationary=zeros_sb[:, 0:co],
        moving=zeros_sb[:, nl.ds(co, images * rows * cols)],
        accumulate=False,
    )


def _result_view(
    y_hbm: nl.NkiTensor, group: int, c_outs: tuple[ChannelTile, ...], block: Block,
    plan: DirectPlan,
) -> nl.NkiTensor:  # fmt: skip
    """y_hbm (co, images, tiles of channels, rows, cols) of a block."""
    g = plan.geometry
    images = y_hbm[
        nl.ds(block.images.start, block.images.size),
        :,
        nl.ds(block.rows.start, block.rows.size),
        nl.ds(block.cols.start, block.cols.size),
    ]
    if plan.interleaved_y:
        num = g.C_out // c_outs[0].size
        channels = images[:, nl.ds(group * g.C_out, g.C_out), :, :].reshape_dim(
            1, (c_outs[0].size, num)
        )
        return channels[:, :, nl.ds(c_outs[0].index, len(c_outs)), :, :].permute((1, 0, 2, 3, 4))
    start = group * g.C_out + c_outs[0].start
    channels = images[:, nl.ds(start, c_outs[0].size), :, :]
    return channels.permute((1, 0, 2, 3)).expand_dim(2)


def _results(
    like_hbm: nl.NkiTensor, c_outs: tuple[ChannelTile, ...], block: Block, plan: DirectPlan
) -> nl.NkiTensor:
    """An empty y_sb (co, images, tiles of channels, rows, cols) for a block."""
    y_sb = nl.ndarray((c_outs[0].size, plan.y_elems), dtype=like_hbm.dtype, buffer=nl.sbuf)
    num = len(c_outs) if plan.interleaved_y else 1
    elems = block.images.size * num * block.rows.size * block.cols.size
    return y_sb[:, 0:elems].reshape(
        (c_outs[0].size, block.images.size, num, block.rows.size, block.cols.size)
    )


def _compute_tile(
    y_sb: nl.NkiTensor,
    residual_sb: nl.NkiTensor | None,
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    w_sb: nl.NkiTensor,
    x_sb: nl.NkiTensor,
    packed_sb: nl.NkiTensor | None,
    section: Section,
    block: Block,
    c_out: ChannelTile,
    plan: DirectPlan,
) -> None:
    """y_sb (co, images, place, rows, cols) = act(scale*acc + bias + residual_sb), tile by tile."""
    place = c_out.place if plan.interleaved_y else 0
    vector = nl.ds(c_out.index, 1)
    scale = None if scale_sb is None else scale_sb[0 : c_out.size, vector]
    bias = None if bias_sb is None else bias_sb[0 : c_out.size, vector]
    for i in range(len(block.tiles)):
        tile = block.tiles[i]
        acc_ps = _accumulate(w_sb, x_sb, packed_sb, section, c_out, tile, plan)
        images = nl.ds(tile.images.start - block.images.start, tile.images.size)
        rows = nl.ds(tile.rows.start - block.rows.start, tile.rows.size)
        cols = nl.ds(tile.cols.start - block.cols.start, tile.cols.size)
        residual = None
        if residual_sb is not None:
            residual = residual_sb[:, images, place, rows, cols]
        on_vector = not plan.evict_on_both or (i + c_out.index) % 2 == 0
        evict(
            y_sb[:, images, place, rows, cols], acc_ps, scale, bias, residual, plan.epilogue,
            on_vector,
        )  # fmt: skip


def _compute(
    y_hbm: nl.NkiTensor,
    residual_hbm: nl.NkiTensor | None,
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    w_sb: nl.NkiTensor,
    x_sb: nl.NkiTensor,
    packed_sb: nl.NkiTensor | None,
    group: int,
    section: Section,
    block: Block,
    together: tuple[ChannelTile, ...],
    plan: DirectPlan,
) -> None:
    """y_hbm of a block and some tiles of output channels, by one store."""
    y_view = _result_view(y_hbm, group, together, block, plan)
    residual_sb = None
    if residual_hbm is not None:
        residual_sb = _results(y_hbm, together, block, plan)
        nisa.dma_copy(
            dst=residual_sb,
            src=_result_view(residual_hbm, group, together, block, plan),
            dge_mode=transfer_mode(residual_hbm),
        )
    y_sb = _results(y_hbm, together, block, plan)
    for c_out in together:
        _compute_tile(
            y_sb, residual_sb, scale_sb, bias_sb, w_sb, x_sb, packed_sb, section, block, c_out,
            plan,
        )  # fmt: skip
    nisa.dma_copy(dst=y_view, src=y_sb, dge_mode=transfer_mode(y_view))


@nki.jit
def conv2d_direct(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: DirectPlan,
) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(y_hbm, x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm, plan)
    return y_hbm


@nki.jit
def conv2d_direct_looped(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: LoopedPlan,
) -> nl.NkiTensor:
    """Return y_hbm by on-chip loops over parts (_looped.py); what all read may be in SBUF."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    operands = {
        "x": x_hbm, "w": w_hbm, "scale": scale_hbm, "bias": bias_hbm, "residual": residual_hbm,
        "y": y_hbm,
    }  # fmt: skip
    kept = None
    if len(plan.kept) > 0:
        kept = _load_kept(w_hbm, scale_hbm, bias_hbm, plan.kept, plan.pieces[0].part)
    for piece in plan.pieces:
        _loop(operands, kept, piece)
    return y_hbm


def _loop(operands: dict[str, Any], kept: dict[str, Any] | None, piece: Piece) -> None:
    """Convolve all parts of a piece."""
    if piece.iterations == 1:
        _convolve_part(take_part(operands, piece, []), kept, piece.part)
        return
    table_sb = make_table(piece)

    def body(i: nl.VirtualRegister) -> None:
        at = indices(table_sb, piece, i)
        _convolve_part(take_part(operands, piece, at), kept, piece.part)

    nl.fori_loop(0, piece.iterations, body)


def _convolve_part(hbm: dict[str, Any], kept: dict[str, Any] | None, plan: DirectPlan) -> None:
    _convolve(
        hbm["y"], hbm["x"], hbm["w"], hbm["scale"], hbm["bias"], hbm["residual"], plan, kept
    )  # fmt: skip


def _load_kept(
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    loads: tuple[Load, ...],
    plan: DirectPlan,
) -> dict[str, Any]:
    """Load what all parts read: the weights of all output channels, scale and bias."""
    w_sb = nl.ndarray(plan.w_shape, dtype=w_hbm.dtype, buffer=nl.sbuf)
    for load in loads:
        _load_weights(w_sb, w_hbm, 0, plan.c_out_blocks[0][load.i], load.part, plan)
    scale_sb = _load_vectors(scale_hbm, 0, plan)
    bias_sb = _load_vectors(bias_hbm, 0, plan)
    return {"w": w_sb, "vectors": (scale_sb, bias_sb)}


def _convolve(
    y_hbm: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: DirectPlan,
    kept: dict[str, Any] | None = None,
) -> None:
    """y_hbm = the convolution of all of x_hbm; `kept` are weights that are in SBUF already."""
    num = len(plan.steps)
    x_sbs: list[nl.NkiTensor] = []  # of each step
    w_sbs: list[nl.NkiTensor] = []
    packed_sbs: list[nl.NkiTensor | None] = []
    vector_sbs: list[tuple[nl.NkiTensor | None, nl.NkiTensor | None]] = []  # of each group
    if kept is not None:
        vector_sbs.append(kept["vectors"])
    loads = loads_in_order(plan)
    ends = ends_of_steps(plan)
    issued = 0
    for at in range(plan.geometry.G * num):
        group = at // num
        step = plan.steps[at % num]
        section = plan.sections[step.section]
        stores = stores_of(step, plan)
        for i in range(len(stores)):
            block, together = stores[i]
            upto = loads_before(ends, at, block, i, len(stores), residual_hbm is not None, plan)
            for of, i_load in loads[issued:upto]:
                if i_load == 0:
                    _begin(x_sbs, w_sbs, w_hbm.dtype, kept, of, plan)
                of_step = plan.steps[of % num]
                if i_load < len(of_step.loads):
                    _load(x_sbs[of], w_sbs[of], x_hbm, w_hbm, of, i_load, plan)
                else:
                    packed_sbs.append(_complete(x_sbs[of], packed_sbs, of, plan))
                soon = min(BEFORE_VECTORS, len(of_step.loads) - 1)
                if kept is None and of % num == 0 and i_load == soon:
                    # behind what the first matmuls need, before the bulk
                    scale_sb = _load_vectors(scale_hbm, of // num, plan)
                    bias_sb = _load_vectors(bias_hbm, of // num, plan)
                    vector_sbs.append((scale_sb, bias_sb))
            issued = max(issued, upto)
            packed_sb = packed_sbs[at] if len(plan.packs) > 0 else None
            scale_sb, bias_sb = vector_sbs[group]
            _compute(
                y_hbm, residual_hbm, scale_sb, bias_sb, w_sbs[at], x_sbs[at], packed_sb, group,
                section, block, together, plan,
            )  # fmt: skip


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield what keeps weights or image in SBUF; if nothing does, what streams both.

    Raises
    ------
    NotSuited
        Padding other than zeros, or faster float32, where neither weights nor image can be kept;
        or a program that is too long even with on-chip loops.
    """
    if problem.epilogue.pool is not None:
        yield from conv2d_pooled.plans(problem)
        return
    found = False
    for pack_taps in (True, False):
        try:
            candidate = _written_out(problem, pack_taps) or _in_parts(problem, pack_taps)
        except CapacityError:
            continue
        found = True
        yield candidate
        if not _first_part(candidate.plan).packs:
            break
    if not found:
        yield from conv2d_streamed.plans(problem)


def _first_part(plan: DirectPlan | LoopedPlan) -> Any:
    """Return the plan, or that of a first part."""
    return plan.pieces[0].part if isinstance(plan, LoopedPlan) else plan


def _written_out(problem: Problem, pack_taps: bool) -> Candidate | None:
    """Return the plan without on-chip loops; None where its program would be too long.

    Raises
    ------
    CapacityError
        It does not fit SBUF.
    """
    if _looped.least_matmuls(problem) > _looped.MAX_INSTRUCTIONS:
        return None  # nor worth the time that planning takes
    plan = plan_direct(
        problem.geometry, problem.epilogue, padding_mode=problem.padding_mode,
        pack_taps=pack_taps, fast=problem.precision == "fast",
    )  # fmt: skip
    price = price_of(plan)
    if price.static_instructions > _looped.MAX_INSTRUCTIONS:
        return None
    return Candidate(NAME, plan, price, _why(plan))


def _in_parts(problem: Problem, pack_taps: bool) -> Candidate:
    """Return on-chip loops over equal parts.

    Raises
    ------
    CapacityError
        A part does not fit SBUF.
    NotSuited
        The program would be too long all the same.
    """

    def make(part: Problem, reserved_bytes: int) -> DirectPlan:
        return plan_direct(
            part.geometry, part.epilogue, padding_mode=part.padding_mode, pack_taps=pack_taps,
            fast=part.precision == "fast", part_of=problem.geometry,
            sbuf_bytes=nl.tile_size.sbuf_fmax_bytes - reserved_bytes,
        )  # fmt: skip

    def w_shape(plan: DirectPlan) -> tuple[int, ...]:
        g = plan.geometry
        return (g.G, plan.w_shape[0], len(plan.products) * g.C_out)

    cut = _looped.cut_into_parts(
        problem,
        _looped.Loops(
            make, price_of, w_shape, least=_looped.least_matmuls, rows=True, groups=1,
            channels=even_tiles(problem.geometry.C_out, nl.tile_size.pmax)[0].size,
        ),
    )  # fmt: skip
    plans_ = [piece.part for piece in cut.pieces]
    kept: tuple[Load, ...] = ()
    before = None
    if problem.geometry.G == 1 and all(_keeps_weights(problem, plan) for plan in plans_):
        plan = plans_[0]
        kept = tuple(load for load in plan.steps[0].loads if not load.is_x)
        before = Price(0, 0, 0, weight_transfers(plan), static_instructions=len(kept))
        pieces = [replace(piece, part=_without_weights(piece.part)) for piece in cut.pieces]
        cut = replace(
            cut, pieces=tuple(pieces), prices=tuple(price_of(piece.part) for piece in pieces)
        )
    why = f"{_why(plans_[-1])}; {cut.why}" + (", the weights loaded before" if kept else "")
    return Candidate(
        NAME,
        LoopedPlan(cut.pieces, _looped.y_shape(problem), kept),
        _looped.total(cut, before),
        why,
    )


def _keeps_weights(problem: Problem, plan: DirectPlan) -> bool:
    """Whether a part has all output channels, and loads their weights once."""
    whole = plan.geometry.C_out == problem.geometry.C_out
    return whole and len(plan.c_out_blocks) == 1 and not any(s.loads_w for s in plan.steps[1:])


def _without_weights(plan: DirectPlan) -> DirectPlan:
    """Return the plan of a part whose weights are there."""
    first = plan.steps[0]
    loads = tuple(load for load in first.loads if load.is_x)
    return replace(plan, steps=(replace(first, loads_w=False, loads=loads), *plan.steps[1:]))


def _why(plan: DirectPlan) -> str:
    parts = [f"a matmul per tap and tile, taps read in place; {plan.order}"]
    if plan.packs:
        parts.append(f"{len(plan.packs[0].taps)} taps of the last channels share a matmul")
    if plan.interleaved_x or plan.interleaved_y:
        parts.append("neighbouring channels in a partition")
    if plan.fast:
        parts.append("operands rounded to bfloat16")
    return ", ".join(parts)


def pack(w: PackedWeights, plan: Any) -> Array:
    """Return the weights (G, rows, columns): tiles of output channels, products, channels.

    A row is a partition of the products' contraction.
    """
    if isinstance(plan, LoopedPlan):
        return pack(w, plan.pieces[0].part)  # the same for all parts
    if isinstance(plan, PooledPlan):
        return conv2d_pooled.pack(w, plan)
    if not isinstance(plan, DirectPlan):
        return conv2d_streamed.pack(w, plan)
    KW = plan.geometry.cols.taps
    num_in = len(plan.c_in_tiles)
    dtype = DTYPES["bfloat16"] if plan.fast else w.array.dtype
    groups, C_out = w.array.shape[0], w.array.shape[3]  # a part may have fewer
    packed = np.zeros((groups, plan.w_shape[0], len(plan.products) * C_out), dtype)
    c_outs = even_tiles(C_out, nl.tile_size.pmax)
    for index, c_out in enumerate(c_outs):
        out = slice(c_out.start, c_out.start + c_out.size)
        if plan.interleaved_y:
            out = slice(index, None, len(c_outs))
        for i, product in enumerate(plan.products):
            at = c_out.start * len(plan.products) + i * c_out.size
            columns = slice(at, at + c_out.size)
            if product.kh >= 0:
                tile = plan.c_in_tiles[product.source]
                chosen = slice(tile.start, tile.start + tile.size)
                if plan.interleaved_x:
                    chosen = slice(product.source, None, num_in)
                tap = product.kh * KW + product.kw
                packed[:, : tile.size, columns] = w.array[:, chosen, tap, out]
                continue
            group = plan.packs[product.source - num_in]
            tile = plan.c_in_tiles[-1]
            for j, (kh, kw) in enumerate(group.taps):
                rows = slice(j * tile.size, (j + 1) * tile.size)
                chosen = slice(tile.start, tile.start + tile.size)
                packed[:, rows, columns] = w.array[:, chosen, kh * KW + kw, out]
    return packed


def run(launch: Launch, operands: Operands, plan: Any) -> Any:
    """Launch the kernel; return y."""
    o = operands
    if isinstance(plan, LoopedPlan):
        part = plan.pieces[0].part
        kernel = conv2d_direct_looped
        if isinstance(part, PooledPlan):
            kernel = conv2d_pooled.conv2d_pooled_looped
        elif isinstance(part, StreamedPlan):
            kernel = conv2d_streamed.conv2d_streamed_looped
        return launch(kernel, o.x, o.w, o.scale, o.bias, o.residual, plan)
    if isinstance(plan, PooledPlan):
        return conv2d_pooled.run(launch, operands, plan)
    if not isinstance(plan, DirectPlan):
        return conv2d_streamed.run(launch, operands, plan)
    return launch(conv2d_direct, o.x, o.w, o.scale, o.bias, o.residual, plan)
