"""conv2d of several groups: as many as fit TensorE side by side, in block-diagonal operands.

y[n, g*C_out + co, oh, ow] = act(scale*acc + bias + residual)
acc = sum over (ci, t) of w[g, ci, t, co] * x[n, g*C_in + ci, oh*s + kh*d - pad, ow*s + kw*d - pad]

Shapes
------
x_hbm         (N, G*C_in, H, W)          f32 f16 bf16  HBM
w_hbm         (G, C_in, KH*KW, C_out)    as x or bf16  HBM, taps in the plan's order
scale_hbm     (G*C_out, 1)               f32           HBM, or None
bias_hbm      (G*C_out, 1)               f32           HBM, or None
residual_hbm  (N, G*C_out, OH, OW)       as x          HBM, or None
y_hbm         (N, G*C_out, OH, OW)       as x          HBM

Loop nest
---------
for block of groups:
    load w (g ci, taps, co) once for each lane; build stationary operands from it:
        stat[lane g ci, tap, lane' g' co] = w[g ci, tap, co] where (lane, g) = (lane', g'), else 0
    for batch of images, strip of rows:         x once, each lane at its partitions
        for block of outputs, round of PSUM tiles, tap:
            acc (lane g co, images, rows, cols) += stat[tap].T @ x (lane g ci, images, rows, cols)
        y = act(...); a store for each lane

_groups.py says what lanes are and plans all this.  The zeros are built on chip, in one
multiplication with a mask of zeros and ones for several taps (VectorE and GpSimdE in turn): from
HBM they would be as many times the weights as there are groups.

TensorE limits it: KH*KW columns per output and block, of which trimmed padding spares some.  A zero
times Inf or NaN is NaN: such a pixel or weight reaches the other channels of its block, too.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul, tensor_tensor, affine_select;
architecture guide, start partitions of engines.
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
from nkiconv.kernels._algorithm import Candidate, Launch, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import DTYPES, Array
from nkiconv.kernels._epilogue import evict, load_table
from nkiconv.kernels._groups import (
    Batch,
    Block,
    Chunk,
    GroupedPlan,
    GroupedPlans,
    Outputs,
    Strip,
    Tap,
    join_sections,
    piece_rows,
    plan_grouped,
    sections,
    side_by_side,
    stored_rows,
)
from nkiconv.kernels._groups_price import price_of
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._plan import Geometry, Tile, ceil_div, tap_outputs
from nkiconv.kernels._price import Price
from nkiconv.kernels._strip import transfer_mode
from nkiconv.kernels._weights import PackedWeights

NAME = "grouped"


def _make_mask(dtype: str, groups: int, c_in: int, c_out: int) -> nl.NkiTensor:
    """mask_sb (groups c_in, groups, c_out): 1 where the groups are the same, else 0."""
    mask_sb = nl.ndarray((groups * c_in, groups, c_out), dtype=dtype, buffer=nl.sbuf)
    nisa.memset(dst=mask_sb, value=1.0, engine=nisa.engine.gpsimd)
    pattern = [[-c_in, groups], [0, c_out]]  # partition - group*c_in must be 0 to c_in - 1
    nisa.affine_select(
        dst=mask_sb, pattern=pattern, channel_multiplier=1, on_true_tile=mask_sb,
        on_false_value=0.0, cmp_op=nl.greater_equal,
    )  # fmt: skip
    nisa.affine_select(
        dst=mask_sb, pattern=pattern, channel_multiplier=1, on_true_tile=mask_sb,
        on_false_value=0.0, cmp_op=nl.less, offset=-c_in,
    )  # fmt: skip
    return mask_sb


def _load_weights(w_hbm: nl.NkiTensor, groups: Tile, plan: GroupedPlan) -> nl.NkiTensor:
    """w_sb (lane g ci, planes, taps, co): the weights as they lie in HBM, once for each lane."""
    g = plan.geometry
    rows = groups.size * g.C_in
    taps = len(plan.taps)
    shape = (plan.lanes * rows, plan.planes, taps, g.C_out)
    w_sb = nl.ndarray(shape, dtype=w_hbm.dtype, buffer=nl.sbuf)
    some = w_hbm[nl.ds(groups.start, groups.size * plan.planes), :, :, :]
    src = some.reshape((rows, plan.planes, taps, g.C_out))
    src = src.expand_dim(0).broadcast(0, plan.lanes)
    nisa.dma_copy(dst=w_sb, src=src, dge_mode=transfer_mode(w_hbm))
    return w_sb


def _load_vector(
    vector_hbm: nl.NkiTensor | None, groups: Tile, plan: GroupedPlan
) -> nl.NkiTensor | None:
    """vector_sb (lane g co, planes), or None."""
    if vector_hbm is None:
        return None
    g = plan.geometry
    rows = groups.size * g.C_out
    vector_sb = nl.ndarray((plan.lanes * rows, plan.planes), dtype=nl.float32, buffer=nl.sbuf)
    some = vector_hbm[nl.ds(groups.start * g.C_out, rows * plan.planes), :]
    src = some.reshape((rows, plan.planes))
    src = src.expand_dim(0).broadcast(0, plan.lanes)
    nisa.dma_copy(dst=vector_sb, src=src, dge_mode=transfer_mode(vector_hbm))
    return vector_sb


def _build(
    w_sb: nl.NkiTensor, mask_sb: nl.NkiTensor, groups: Tile, chunk: Chunk, plan: GroupedPlan
) -> nl.NkiTensor:
    """stat_sb (lane g ci, taps, lane g, co): a chunk's taps as stationary operands."""
    g = plan.geometry
    blocks = plan.lanes * groups.size
    taps = chunk.taps
    shape = (blocks * g.C_in, taps.size, blocks, g.C_out)
    stat_sb = nl.ndarray(shape, dtype=w_sb.dtype, buffer=nl.sbuf)
    engine = nisa.engine.gpsimd
    if chunk.on_vector:
        engine = nisa.engine.vector
    w_view = w_sb[:, chunk.plane, nl.ds(taps.start, taps.size), :].expand_dim(2)
    mask_view = mask_sb[0 : blocks * g.C_in, 0:blocks, :].expand_dim(1)
    nisa.tensor_tensor(
        dst=stat_sb, data1=w_view.broadcast(2, blocks), data2=mask_view.broadcast(1, taps.size),
        op=nl.multiply, engine=engine,
    )  # fmt: skip
    return stat_sb


def _channels_first(
    tensor_hbm: nl.NkiTensor, images: Tile, start: int, rows: int, planes: int
) -> nl.NkiTensor:
    """View (channels, images, planes, H, W) of some images and channels in HBM."""
    some = tensor_hbm[nl.ds(images.start, images.size), nl.ds(start, rows * planes), :, :]
    return some.reshape_dim(1, (rows, planes)).permute((1, 0, 2, 3, 4))


def _image(lane: int, batch: Batch, plan: GroupedPlan) -> int:
    """Return the first image of a lane in a batch."""
    image = lane * plan.lane_images + batch.start
    if plan.bands > 1:
        image = lane // plan.bands
    return image


def _load_strip(
    x_hbm: nl.NkiTensor, dtype: str, groups: Tile, batch: Batch, strip: Strip, plan: GroupedPlan
) -> nl.NkiTensor:
    """x_sb (lane g ci, images, planes, rows, cols) of a dtype, zeros outside the image."""
    g = plan.geometry
    cols = plan.cols
    rows = groups.size * g.C_in
    size = strip.bands[0].size
    shape = (batch.lanes * rows, batch.size, plan.planes, size, cols.size)
    x_sb = nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf)
    for part in strip.zeros:
        nisa.memset(dst=x_sb[:, :, :, nl.ds(part.start, part.size), :], value=0)
    for part in cols.zeros:
        for image in range(batch.size):
            nisa.memset(dst=x_sb[:, image, :, :, nl.ds(part.start, part.size)], value=0)
    inside = nl.ds(cols.inside.place, cols.inside.size)
    for piece in strip.pieces:
        for lane in range(batch.lanes):
            first = _image(lane, batch, plan) + piece.images.start
            src = _channels_first(
                x_hbm, Tile(first, piece.images.size), groups.start * g.C_in, rows, plan.planes
            )
            brought = piece_rows(piece, strip.bands[lane % plan.bands].inside)
            if brought.size > 0:
                end = brought.pixel + (brought.size - 1) * brought.step + 1
                places = nl.ds(brought.place, brought.size)
                images = nl.ds(piece.images.start, piece.images.size)
                planes = nl.ds(piece.planes.start, piece.planes.size)
                nisa.dma_copy(
                    dst=x_sb[nl.ds(lane * rows, rows), images, planes, places, inside],
                    src=src[:, :, planes, brought.pixel : end : brought.step, :],
                    dge_mode=transfer_mode(x_hbm),
                )
    return x_sb


def _accumulate(
    acc_ps: nl.NkiTensor,
    x_sb: nl.NkiTensor,
    stat_sb: nl.NkiTensor,
    chunk: Chunk,
    strip: Strip,
    tile: Outputs,
    blocks: int,
    plan: GroupedPlan,
) -> None:
    """acc_ps (lane g co, images, rows, cols) += stat_sb[:, tap].T @ x_sb for each tap of a chunk.

    A tap that leaves the image adds to the outputs that it reaches.
    """
    g = plan.geometry
    side = strip.bands[0]
    images = nl.ds(tile.images.start, tile.images.size)
    for i in range(chunk.taps.size):
        tap = plan.taps[chunk.taps.start + i]
        rows = tile.rows
        if plan.trimmed_rows:
            rows = tap_outputs(g.rows, tile.rows, tap.row)
        cols = tile.cols
        if plan.trimmed_cols:
            cols = tap_outputs(g.cols, tile.cols, tap.col)
        if rows.size > 0 and cols.size > 0:
            row = rows.start * g.rows.stride + tap.row * g.rows.dilation - g.rows.pad - side.origin
            row = row // side.step
            row_step = g.rows.stride // side.step
            row_end = row + (rows.size - 1) * row_step + 1
            col = cols.start * g.cols.stride + tap.col * g.cols.dilation - g.cols.pad
            col = col - plan.cols.origin
            col_end = col + (cols.size - 1) * g.cols.stride + 1
            nisa.nc_matmul(
                dst=acc_ps[
                    :,
                    :,
                    nl.ds(rows.start - tile.rows.start, rows.size),
                    nl.ds(cols.start - tile.cols.start, cols.size),
                ],
                stationary=stat_sb[0 : x_sb.shape[0], i, 0:blocks, :],
                moving=x_sb[
                    :, images, tile.plane, row:row_end:row_step, col : col_end : g.cols.stride
                ],
                accumulate=chunk.taps.start + i > 0,
            )


def _residual(
    residual_hbm: nl.NkiTensor | None, groups: Tile, batch: Batch, block: Block, plan: GroupedPlan
) -> nl.NkiTensor | None:
    """residual_sb as the result of a block, or None."""
    if residual_hbm is None:
        return None
    residual_sb = _results(residual_hbm, groups, batch, block, plan)
    if plan.bands * plan.band_rows > plan.geometry.rows.outputs:
        nisa.memset(dst=residual_sb, value=0)  # rows below the image, which are not stored
    for lane in range(batch.lanes):
        _move_results(residual_hbm, residual_sb, lane, groups, batch, block, plan, False)
    return residual_sb


def _results(
    y_hbm: nl.NkiTensor, groups: Tile, batch: Batch, block: Block, plan: GroupedPlan
) -> nl.NkiTensor:
    """y_sb (lane g co, images, planes, rows, cols) of a block, fresh."""
    rows = batch.lanes * groups.size * plan.geometry.C_out
    shape = (rows, block.images.size, block.planes.size, block.rows.size, y_hbm.shape[3])
    return nl.ndarray(shape, dtype=y_hbm.dtype, buffer=nl.sbuf)


def _move_results(
    y_hbm: nl.NkiTensor,
    y_sb: nl.NkiTensor,
    lane: int,
    groups: Tile,
    batch: Batch,
    block: Block,
    plan: GroupedPlan,
    store: bool,
) -> None:
    """Move a lane's rows of a block: y_sb to y_hbm, or back."""
    rows = groups.size * plan.geometry.C_out
    part = stored_rows(block, lane % plan.bands, plan)
    if part.size > 0:
        images = Tile(_image(lane, batch, plan) + block.images.start, block.images.size)
        start = groups.start * plan.geometry.C_out
        view = _channels_first(y_hbm, images, start, rows, plan.planes)
        planes = nl.ds(block.planes.start, block.planes.size)
        in_hbm = view[:, :, planes, nl.ds(part.start, part.size), :]
        in_sbuf = y_sb[nl.ds(lane * rows, rows), :, :, 0 : part.size, :]
        if store:
            nisa.dma_copy(dst=in_hbm, src=in_sbuf, dge_mode=transfer_mode(y_hbm))
        else:
            nisa.dma_copy(dst=in_sbuf, src=in_hbm, dge_mode=transfer_mode(y_hbm))


def _view(tensor_sb: nl.NkiTensor, tile: Outputs, block: Block) -> nl.NkiTensor:
    """View (lane g co, images, rows, cols) of a tile in a block's results."""
    return tensor_sb[
        :,
        nl.ds(tile.images.start - block.images.start, tile.images.size),
        tile.plane - block.planes.start,
        nl.ds(tile.rows.start - block.rows.start, tile.rows.size),
        nl.ds(tile.cols.start, tile.cols.size),
    ]


def _evict_round(
    y_sb: nl.NkiTensor,
    acc_pss: list[nl.NkiTensor],
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    residual_sb: nl.NkiTensor | None,
    together: tuple[Outputs, ...],
    block: Block,
    plan: GroupedPlan,
) -> None:
    """y_sb = act(scale*acc_ps + bias + residual_sb) for each tile, two engines in turn."""
    for i in range(len(together)):
        tile = together[i]
        rows = nl.ds(0, y_sb.shape[0])
        residual = None
        if residual_sb is not None:
            residual = _view(residual_sb, tile, block)
        scale = None
        if scale_sb is not None:
            scale = scale_sb[rows, nl.ds(tile.plane, 1)]
        bias = None
        if bias_sb is not None:
            bias = bias_sb[rows, nl.ds(tile.plane, 1)]
        evict(
            _view(y_sb, tile, block), acc_pss[i], scale, bias, residual, plan.epilogue, i % 2 == 1
        )


def _prepare(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    mask_sb: nl.NkiTensor,
    i_job: int,
    plan: GroupedPlans,
) -> dict[str, Any]:
    """Load what a block of groups begins with, and build its operands."""
    groups = plan.jobs[i_job].groups
    section = plan.sections[plan.jobs[i_job].section]
    part = section.parts[0]
    w_sb = _load_weights(w_hbm, groups, section)
    x_sb = _load_strip(x_hbm, w_hbm.dtype, groups, part.batches[0], part.strips[0], section)
    scale_sb = _load_vector(scale_hbm, groups, section)
    bias_sb = _load_vector(bias_hbm, groups, section)
    stat_sbs = []
    if section.resident:
        for chunk in section.chunks:
            stat_sbs.append(_build(w_sb, mask_sb, groups, chunk, section))
    return {"w": w_sb, "x": x_sb, "scale": scale_sb, "bias": bias_sb, "stats": stat_sbs}


def _run_block(
    y_hbm: nl.NkiTensor,
    x_sb: nl.NkiTensor,
    mask_sb: nl.NkiTensor,
    ready: dict[str, Any],
    residual_hbm: nl.NkiTensor | None,
    groups: Tile,
    batch: Batch,
    strip: Strip,
    block: Block,
    plan: GroupedPlan,
) -> None:
    """Compute and store a block of outputs."""
    diagonal = batch.lanes * groups.size
    residual_sb = _residual(residual_hbm, groups, batch, block, plan)
    y_sb = _results(y_hbm, groups, batch, block, plan)
    for together in block.rounds:
        acc_pss = []
        for tile in together:
            shape = (y_sb.shape[0], tile.images.size, tile.rows.size, tile.cols.size)
            acc_pss.append(nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum))
        if plan.resident:  # tile by tile, as their pixels arrive
            for i in range(len(together)):
                for i_chunk in range(len(plan.chunks)):
                    chunk = plan.chunks[i_chunk]
                    if together[i].plane == chunk.plane:
                        stat_sb = ready["stats"][i_chunk]
                        _accumulate(
                            acc_pss[i], x_sb, stat_sb, chunk, strip, together[i], diagonal, plan
                        )
        else:
            for chunk in plan.chunks:
                stat_sb = _build(ready["w"], mask_sb, groups, chunk, plan)
                for i in range(len(together)):
                    _accumulate(
                        acc_pss[i], x_sb, stat_sb, chunk, strip, together[i], diagonal, plan
                    )
        _evict_round(
            y_sb, acc_pss, ready["scale"], ready["bias"], residual_sb, together, block, plan
        )
    for lane in range(batch.lanes):
        _move_results(y_hbm, y_sb, lane, groups, batch, block, plan, True)


@nki.jit
def conv2d_grouped(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: GroupedPlans,
) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(y_hbm, x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm, plan)
    return y_hbm


@nki.jit
def conv2d_grouped_looped(
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


def _convolve_part(hbm: dict[str, Any], plan: GroupedPlans) -> None:
    _convolve(hbm["y"], hbm["x"], hbm["w"], hbm["scale"], hbm["bias"], hbm["residual"], plan)


def _convolve(
    y_hbm: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: GroupedPlans,
) -> None:
    """y_hbm = the convolution of all of x_hbm."""
    g = plan.geometry
    load_table(plan.epilogue)
    mask_sb = _make_mask(w_hbm.dtype, plan.mask_groups, g.C_in, g.C_out)
    # Loads and operands of a block are asked for before the block before it is computed: an
    # engine takes its instructions in order, and would else begin with them when that one is done.
    following = _prepare(x_hbm, w_hbm, scale_hbm, bias_hbm, mask_sb, 0, plan)
    for i_job in range(len(plan.jobs)):
        ready = following
        if i_job + 1 < len(plan.jobs):
            following = _prepare(x_hbm, w_hbm, scale_hbm, bias_hbm, mask_sb, i_job + 1, plan)
        groups = plan.jobs[i_job].groups
        section = plan.sections[plan.jobs[i_job].section]
        x_sb = ready["x"]
        for part in section.parts:
            for batch in part.batches:
                for strip in part.strips:
                    if x_sb is None:
                        x_sb = _load_strip(x_hbm, w_hbm.dtype, groups, batch, strip, section)
                    for block in strip.blocks:
                        _run_block(
                            y_hbm, x_sb, mask_sb, ready, residual_hbm, groups, batch, strip, block,
                            section,
                        )  # fmt: skip
                    x_sb = None


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield plans with one lane and with many.

    Raises
    ------
    NotSuited
        One group; a channel per group; a group larger than TensorE; padding other than zeros; more
        instructions than a program should have.
    """
    if problem.geometry.G == 1:
        raise NotSuited("there is one group only")
    if problem.geometry.C_in == 1:
        raise NotSuited('groups have one channel each, which "depthwise" is for')
    yield from block_diagonal_plans(problem, NAME)


def block_diagonal_plans(problem: Problem, name: str) -> Iterator[Candidate]:
    """Yield the plans of this file's kernel, in the name of an algorithm.

    Raises
    ------
    NotSuited
    """
    check_problem(problem)
    found = list(_candidates(problem, name, 0))
    fits = [one for one in found if one.price.static_instructions <= _looped.MAX_INSTRUCTIONS]
    yield from fits
    if fits or not found:
        return

    def make(part: Problem, reserved_bytes: int) -> GroupedPlans:
        several = list(_candidates(part, name, reserved_bytes))
        if not several:
            raise NotSuited("SBUF does not hold a part of it")
        best: GroupedPlans = min(several, key=Candidate.estimate_us).plan
        return best

    def w_shape(plan: GroupedPlans) -> tuple[int, ...]:
        return (plan.geometry.G, plan.geometry.C_in, len(_taps(plan)), plan.geometry.C_out)

    loops = _looped.Loops(make, _priced, w_shape, rows=True, groups=side_by_side(problem.geometry))
    cut = _looped.cut_into_parts(problem, loops)
    if len({_taps(piece.part) for piece in cut.pieces}) > 1:
        raise NotSuited("parts of it would need weights in several orders")
    plan = LoopedPlan(cut.pieces, _looped.y_shape(problem))
    why = "; ".join(_why(section) for section in cut.pieces[-1].part.sections)
    yield Candidate(name, plan, _looped.total(cut), f"{why}; {cut.why}")


def _taps(plan: GroupedPlans) -> tuple[Tap, ...]:
    """Return the order in which the weights of a plan lie."""
    return plan.sections[0].taps


def _candidates(problem: Problem, name: str, reserved_bytes: int) -> Iterator[Candidate]:
    """Yield plans of any length that leave so many bytes of SBUF per partition."""
    g, fast = problem.geometry, problem.precision == "fast"
    for shape in _shapes(g):
        planned = [plan_grouped(g, problem.epilogue, *section, fast=fast) for section in shape]
        found = tuple(section for section in planned if section is not None)
        if len(found) < len(planned):
            continue  # SBUF does not hold it
        plan = join_sections(g, problem.epilogue, found)
        if plan is None or plan.sbuf_bytes + reserved_bytes > nl.tile_size.sbuf_fmax_bytes:
            continue
        yield Candidate(name, plan, _priced(plan), "; ".join(_why(section) for section in found))


def _priced(plan: GroupedPlans) -> Price:
    """Return what a plan costs; its instructions with those of borders and epilogues."""
    price = price_of(plan)
    more = 0
    for section in plan.sections:
        for part in section.parts:
            for strip in part.strips:
                times = len(section.groups) * len(part.batches)
                tiles = sum(len(r) for block in strip.blocks for r in block.rounds)
                more += times * tiles * (plan.epilogue.instructions - 1)
                more += times * len(strip.zeros)
                more += times * len(section.cols.zeros) * part.batches[0].size
                if plan.epilogue.has_residual:  # rows below the image
                    more += times * len(strip.blocks)
    return replace(price, static_instructions=price.static_instructions + more)


def check_problem(problem: Problem) -> None:
    """Refuse what block-diagonal operands cannot do.

    Raises
    ------
    NotSuited
    """
    g = problem.geometry
    if side_by_side(g) == 0:
        raise NotSuited(
            f"a group has {max(g.C_in, g.C_out)} channels; block-diagonal operands are for at most "
            f"{nl.tile_size.pmax}"
        )
    if problem.padding_mode != "zeros":
        raise NotSuited(f'it has no padding_mode "{problem.padding_mode}"')
    if problem.epilogue.pool is not None:
        raise NotSuited("it has no fused pooling")


def _shapes(g: Geometry) -> list[list[tuple[Tile, int, int]]]:
    """Return sections (groups, lanes, planes) that are worth a look."""
    every = Tile(0, g.G)
    found = [[(every, 1, 1)]]
    fit = side_by_side(g)
    if fit < g.G and g.C_in == 1 and g.C_out == 1:
        least = ceil_div(g.G, fit)
        for planes in range(least, 2 * least):
            if g.G % planes == 0:
                found.append([(every, 1, planes)])
                break
    for most in (1, 2, 3):
        parts = sections(g, most)
        shape = [(part, max(1, fit // part.size), 1) for part in parts]
        if shape not in found:
            found.append(shape)
    return found


def _why(plan: GroupedPlan) -> str:
    """Return what is particular about a section."""
    parts = [f"{plan.groups[0].size * plan.lanes} blocks on the diagonal of an operand"]
    if plan.bands > 1:
        parts.append(f"{plan.bands} bands of rows side by side")
    if plan.lanes > plan.bands:
        parts.append(f"{plan.lanes // plan.bands} images side by side")
    if plan.planes > 1:
        parts.append(f"{plan.planes} neighbouring channels per partition")
    if not plan.resident:
        parts.append("operands built where they are used")
    if plan.fast:
        parts.append("operands rounded to bfloat16")
    return ", ".join(parts)


def pack(w: PackedWeights, plan: GroupedPlans | LoopedPlan) -> Array:
    """Return the weights with their taps in the plan's order, rounded where x is."""
    if isinstance(plan, LoopedPlan):
        return pack(w, plan.pieces[0].part)  # the same for all parts
    first = plan.sections[0]
    order = [tap.row * plan.geometry.cols.taps + tap.col for tap in first.taps]
    dtype = DTYPES["bfloat16"] if first.fast else w.array.dtype
    return np.ascontiguousarray(w.array[:, :, order, :].astype(dtype, copy=False))


def run(launch: Launch, operands: Operands, plan: GroupedPlans | LoopedPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    if isinstance(plan, LoopedPlan):
        return launch(conv2d_grouped_looped, o.x, o.w, o.scale, o.bias, o.residual, plan)
    return launch(conv2d_grouped, o.x, o.w, o.scale, o.bias, o.residual, plan)
