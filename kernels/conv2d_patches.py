"""conv2d of taps that do not overlap: patches of the image, each multiplied by all weights.

y[n, co, oh, ow] = act(scale[co] * z + bias[co] + residual[n, co, oh, ow])
z = sum over (ci, kh, kw) of w[ci, kh, kw, co] * x[n, ci, oh*KH + kh, ow*KW + kw]

Shapes
------
x_hbm         (N, C_in, H, W)                f32 f16 bf16  HBM
w_hbm         (k rows, K tiles * T_out * m)  as x, or bf16 for f32  HBM, arranged by `pack`
scale_hbm     (C_out, 1)                     f32           HBM, or None
bias_hbm      (C_out, 1)                     f32           HBM, or None
residual_hbm  (N, C_out, OH, OW)             as x          HBM, or None
y_hbm         (N, C_out, OH, OW)             as x          HBM

Loop nest
---------
for K tile of (ci, kh) rows:                              the first block, as its pixels arrive
    load them as [lines of patches | ci kh, W], a run is a row of the image
    for place in a line: TensorE turns [lines | kh kw] into [kh kw | lines], by way of PSUM
    for visit of `first`, tile of channels:
        acc (co, patches) += w (kh kw, co).T @ x (kh kw, patches)
for block:
    load the block after the next
    for visit, tile of <= 128 output channels:
        for K tile: acc (co, patches) += w.T @ x
        y = act(acc); a part of the next block is turned
        one store for the visit

A transfer cannot bring kw to partitions: it would move single elements.  TensorE can, and the
patches of all lines in one instruction; so x, w and y cross HBM once, in runs of whole rows.
Neighbouring output channels share a partition (_matmul_plan.py), for runs of several planes.

It streams patches * K tiles * T_out columns, and patches * K tiles more to turn them; TensorE
limits it, or the bytes where the output channels are few.  Where its clock is slow at first,
TensorE turns zeros until the first pixels are there.

More images than one program takes are cut into parts that on-chip loops go through (_looped.py).

On trn1 TensorE transposes by multiplying with zeros and ones: NaN or Inf in a patch reaches the
results of others.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_transpose, isa nc_matmul (tile sizes), DMA
bandwidth guide (bytes of a run), NKI access patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from nkiconv.kernels import _looped
from nkiconv.kernels._algorithm import Candidate, Launch, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import Array
from nkiconv.kernels._epilogue import evict, load_table
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._patches_plan import Block, PatchesPlan, Turn, Visit, make_plans, turns_due
from nkiconv.kernels._price import Price
from nkiconv.kernels._strip import transfer_mode
from nkiconv.kernels._weights import PackedWeights

NAME = "patches"

_MOST_CHANNELS = 32  # with more, a tap at a time has enough of them on partitions
_UNFED = 0.05  # of the estimate, which knows little of the clock's ups and downs


def _warm_up(plan: PatchesPlan) -> None:
    """Have TensorE turn zeros, so that its clock is up when there is work."""
    if plan.warm_up > 0:
        size = nl.tile_size.pmax
        zeros_sb = nl.ndarray((size, size), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.memset(dst=zeros_sb, value=0.0, engine=nisa.engine.gpsimd)
        turned_ps = nl.ndarray((size, size), dtype=nl.bfloat16, buffer=nl.psum)
        for _ in range(plan.warm_up):
            nisa.nc_transpose(dst=turned_ps, data=zeros_sb, engine=nisa.engine.tensor)


def _load_lines(x_hbm: nl.NkiTensor, block: Block, k: int, plan: PatchesPlan) -> nl.NkiTensor:
    """x_sb (piece line, ci kh, pixels of a piece): a K tile of the block's patches."""
    g = plan.geometry
    KH = g.rows.taps
    lines = block.rows
    width = block.step * g.cols.taps
    shape = (block.pieces * block.lines, plan.k_tiles[k].size, width)
    x_sb = nl.ndarray(shape, dtype=plan.moving_dtype, buffer=nl.sbuf)
    for load in block.loads[k]:
        pixels = x_hbm[
            nl.ds(block.images.start, block.images.size),
            load.ci,
            nl.ds(lines.start * KH, lines.size * KH),
            nl.ds(load.piece * width, load.pieces * load.width),
        ]
        rows = pixels.reshape_dim(1, (lines.size, KH))[:, :, nl.ds(load.kh, load.size), :]
        pieces = rows.reshape_dim(3, (load.pieces, load.width))
        nisa.dma_copy(
            dst=x_sb[
                nl.ds(load.piece * block.lines, load.pieces * block.lines),
                nl.ds(load.row, load.size),
                0 : load.width,
            ],
            src=pieces.permute((3, 0, 1, 2, 4)),
            dge_mode=transfer_mode(x_hbm),
        )
    return x_sb


def _stream_tensor(w_hbm: nl.NkiTensor, plan: PatchesPlan) -> nl.NkiTensor:
    """Return w_sb (k rows, K tile, tile of channels, m) for the streamed channels, still empty."""
    shape = (w_hbm.shape[0], len(plan.k_tiles), plan.stream, plan.m.partitions)
    return nl.ndarray(shape, dtype=w_hbm.dtype, buffer=nl.sbuf)


def _load_streamed(w_sb: nl.NkiTensor, w_hbm: nl.NkiTensor, k: int, plan: PatchesPlan) -> None:
    """w_sb[:, k] = the weights of a K tile; of the first one tile by tile, the sooner to start."""
    m = plan.m.partitions
    at_once = plan.stream
    if k == 0:
        at_once = 1
    for t in range(0, plan.stream, at_once):
        nisa.dma_copy(
            dst=w_sb[:, k, nl.ds(t, at_once), :],
            src=w_hbm[:, nl.ds((k * plan.stream + t) * m, at_once * m)],
            dge_mode=nisa.dge_mode.none,
        )


def _load_tile(w_hbm: nl.NkiTensor, t: int, plan: PatchesPlan) -> nl.NkiTensor:
    """w_sb (k rows, K tile, m) of a tile of channels that is not streamed."""
    K = len(plan.k_tiles)
    m = plan.m.partitions
    w_sb = nl.ndarray((w_hbm.shape[0], K, m), dtype=w_hbm.dtype, buffer=nl.sbuf)
    tile_hbm = w_hbm[:, nl.ds(t * K * m, K * m)]
    nisa.dma_copy(
        dst=w_sb,
        src=tile_hbm.reshape((w_hbm.shape[0], K, m)),
        dge_mode=nisa.dge_mode.none,
    )
    return w_sb


def _load_vector(vector_hbm: nl.NkiTensor | None, plan: PatchesPlan) -> nl.NkiTensor | None:
    """vector_sb (m, tile of channels) of a number for each channel, or None."""
    if vector_hbm is None:
        return None
    m = plan.m
    vector_sb = nl.ndarray((m.partitions, m.tiles), dtype=nl.float32, buffer=nl.sbuf)
    dealt = m.full * m.tiles
    nisa.dma_copy(
        dst=vector_sb[0 : m.full, :],
        src=vector_hbm[0:dealt, :].reshape((m.full, m.tiles)),
        dge_mode=nisa.dge_mode.none,
    )
    if m.rest > 0:
        nisa.dma_copy(
            dst=vector_sb[m.full : m.full + 1, 0 : m.rest],
            src=vector_hbm[dealt : m.size, :].reshape((1, m.rest)),
            dge_mode=nisa.dge_mode.none,
        )
    return vector_sb


def _turned_tensors(block: Block, plan: PatchesPlan) -> list[nl.NkiTensor]:
    """Return turned_sb (kh kw, line, patch) of each K tile, still empty."""
    g = plan.geometry
    turned_sbs = []
    for k in plan.k_tiles:
        shape = (k.size * g.cols.taps, block.lines, g.cols.outputs)
        turned_sbs.append(nl.ndarray(shape, dtype=plan.moving_dtype, buffer=nl.sbuf))
    return turned_sbs


def _turn(
    turned_sb: nl.NkiTensor,
    x_sb: nl.NkiTensor,
    turn: Turn,
    block: Block,
    on_vector: bool,
    plan: PatchesPlan,
) -> None:
    """turned_sb[kh kw, line, patch] = x_sb[piece line, kh kw of the patch], for some patches."""
    KW = plan.geometry.cols.taps
    lines = block.lines
    size = len(turn.pieces)
    shape = (turned_sb.shape[0], lines, block.pieces, size)
    turned_ps = nl.ndarray(shape, dtype=turned_sb.dtype, buffer=nl.psum)
    for i in range(size):
        pieces = turn.pieces[i]
        nisa.nc_transpose(
            dst=turned_ps[:, :, 0:pieces, i].permute((0, 2, 1)),
            data=x_sb[0 : pieces * lines, :, nl.ds((turn.start + i) * KW, KW)],
            engine=nisa.engine.tensor,
        )
    if turn.full > 0:
        placed = turned_sb[:, :, 0 : turn.full * block.step]
        placed = placed.reshape_dim(2, (turn.full, block.step))
        _copy(
            placed[:, :, :, nl.ds(turn.start, size)], turned_ps[:, :, 0 : turn.full, :], on_vector
        )
    if turn.rest > 0:
        place = turn.full * block.step + turn.start
        _copy(
            turned_sb[:, :, nl.ds(place, turn.rest)],
            turned_ps[:, :, turn.full, 0 : turn.rest],
            on_vector,
        )


def _copy(dst_sb: nl.NkiTensor, src_ps: nl.NkiTensor, on_vector: bool) -> None:
    if on_vector:
        nisa.tensor_copy(dst=dst_sb, src=src_ps, engine=nisa.engine.vector)
    else:
        nisa.activation(dst=dst_sb, op=nl.copy, data=src_ps)


def _sum_tensor(visit: Visit, t: int, plan: PatchesPlan) -> nl.NkiTensor:
    """Return acc_ps (m, images, patches) of a tile of channels, still empty."""
    shape = (plan.m.rows[t], visit.box.images.size, visit.box.cols.size)
    return nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)


def _accumulate(
    acc_ps: nl.NkiTensor,
    w_sbs: list[nl.NkiTensor],
    turned_sb: nl.NkiTensor,
    k: int,
    t: int,
    visit: Visit,
    block: Block,
    plan: PatchesPlan,
) -> None:
    """acc_ps (m, images, patches) += w_sb (kh kw, m).T @ turned_sb (kh kw, images, patches)."""
    g = plan.geometry
    rows = turned_sb.shape[0]
    m = plan.m.rows[t]
    if t < plan.stream:
        stationary = w_sbs[0][0:rows, k, t, 0:m]
    else:
        stationary = w_sbs[t - plan.stream + 1][0:rows, k, 0:m]
    box = visit.box
    patches = turned_sb.reshape((rows, block.images.size, block.rows.size * g.cols.outputs))
    nisa.nc_matmul(
        dst=acc_ps,
        stationary=stationary,
        moving=patches[
            :, nl.ds(box.images.start, box.images.size), nl.ds(box.cols.start, box.cols.size)
        ],
        accumulate=k > 0,
    )


def _copy_results(
    y: nl.NkiTensor,
    y_sb: nl.NkiTensor,
    visit: Visit,
    block: Block,
    to_hbm: bool,
    plan: PatchesPlan,
) -> None:
    """Copy a visit's results: y (N, C_out, patches) = y_sb (m, images, tile, patches), or back."""
    m = plan.m
    box = visit.box
    part = visit.part
    images = nl.ds(block.images.start + box.images.start, box.images.size)
    first = block.rows.start * plan.geometry.cols.outputs + box.cols.start
    patches = y[images, :, nl.ds(first, box.cols.size)]
    dealt = patches[:, 0 : m.full * m.tiles, :].reshape_dim(1, (m.full, m.tiles))
    dealt = dealt[:, :, nl.ds(part.start, part.size), :].permute((1, 0, 2, 3))
    _transfer(dealt, y_sb[0 : m.full, :, :, :], to_hbm)
    rest = min(part.start + part.size, m.rest) - part.start
    if rest > 0:
        dealt = patches[:, nl.ds(m.full * m.tiles + part.start, rest), :]
        _transfer(dealt, y_sb[m.full : m.full + 1, :, 0:rest, :], to_hbm)


def _transfer(hbm: nl.NkiTensor, sb: nl.NkiTensor, to_hbm: bool) -> None:
    if to_hbm:
        nisa.dma_copy(dst=hbm, src=sb, dge_mode=transfer_mode(hbm))
    else:
        nisa.dma_copy(dst=sb, src=hbm, dge_mode=transfer_mode(hbm))


def _result_tensor(visit: Visit, dtype: Any, plan: PatchesPlan) -> nl.NkiTensor:
    """Return a tensor (m, images, tile, patches)."""
    box = visit.box
    shape = (plan.m.partitions, box.images.size, visit.part.size, box.cols.size)
    return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf)


def _residual(
    residual: nl.NkiTensor | None, visit: Visit, block: Block, plan: PatchesPlan
) -> nl.NkiTensor | None:
    """residual_sb (m, images, tile, patches), or None."""
    if residual is None:
        return None
    residual_sb = _result_tensor(visit, residual.dtype, plan)
    _copy_results(residual, residual_sb, visit, block, False, plan)
    return residual_sb


def _evict(
    y_sb: nl.NkiTensor,
    acc_ps: nl.NkiTensor,
    vectors: tuple[nl.NkiTensor | None, nl.NkiTensor | None],
    residual_sb: nl.NkiTensor | None,
    i: int,
    t: int,
    on_vector: bool,
    plan: PatchesPlan,
) -> None:
    """y_sb[m, images, i, patches] = act(scale*acc_ps + bias + residual_sb), of tile t."""
    m = plan.m.rows[t]
    scale_sb, bias_sb = vectors
    if scale_sb is not None:
        scale_sb = scale_sb[0:m, t : t + 1]
    if bias_sb is not None:
        bias_sb = bias_sb[0:m, t : t + 1]
    if residual_sb is not None:
        residual_sb = residual_sb[0:m, :, i, :]
    evict(y_sb[0:m, :, i, :], acc_ps, scale_sb, bias_sb, residual_sb, plan.epilogue, on_vector)


def _load_block(x_hbm: nl.NkiTensor, block: Block, plan: PatchesPlan) -> list[nl.NkiTensor]:
    """x_sb of each K tile."""
    x_sbs = []
    for k in range(len(plan.k_tiles)):
        x_sbs.append(_load_lines(x_hbm, block, k, plan))
    return x_sbs


def _turn_some(
    turned_sbs: list[nl.NkiTensor],
    x_sbs: list[nl.NkiTensor],
    block: Block,
    start: int,
    end: int,
    plan: PatchesPlan,
) -> None:
    """Turn the parts `start` to `end` of a block, counted through its K tiles.

    What is waited for is copied by VectorE, which is the faster: the first copy, but with one K
    tile the last one, as a rule that of two.
    """
    each = len(block.turns)
    vector_at = 0
    if len(plan.k_tiles) == 1:
        vector_at = 1
    for i in range(start, end):
        k = i // each
        on_vector = plan.takes_turns and i % 2 == vector_at
        _turn(turned_sbs[k], x_sbs[k], block.turns[i % each], block, on_vector, plan)


def _sum_first(
    w_sbs: list[nl.NkiTensor], x_sbs: list[nl.NkiTensor], turned_sbs: list[nl.NkiTensor],
    block: Block, plan: PatchesPlan,
) -> list[list[nl.NkiTensor]]:  # fmt: skip
    """Turn and multiply K tile by K tile; return acc_ps of each visit of `first` and its tiles.

    A K tile is multiplied when the next one has been turned, while copies of that go on.
    """
    K = len(plan.k_tiles)
    each = len(block.turns)
    sums = []
    for visit in block.first:
        accs = []
        for j in range(visit.part.size):
            accs.append(_sum_tensor(visit, visit.part.start + j, plan))
        sums.append(accs)
    for k in range(K + 1):
        if k < K:
            _turn_some(turned_sbs, x_sbs, block, k * each, (k + 1) * each, plan)
        if k > 0:
            for i in range(len(block.first)):
                visit = block.first[i]
                for j in range(visit.part.size):
                    t = visit.part.start + j
                    _accumulate(sums[i][j], w_sbs, turned_sbs[k - 1], k - 1, t, visit, block, plan)
    return sums


def _finish_first(
    y: nl.NkiTensor,
    residual: nl.NkiTensor | None,
    sums: list[list[nl.NkiTensor]],
    vectors: tuple[nl.NkiTensor | None, nl.NkiTensor | None],
    block: Block,
    plan: PatchesPlan,
) -> None:
    """y of the visits of `first`."""
    num_done = 0
    for i in range(len(block.first)):
        visit = block.first[i]
        residual_sb = _residual(residual, visit, block, plan)
        y_sb = _result_tensor(visit, y.dtype, plan)
        for j in range(visit.part.size):
            on_vector = plan.takes_turns and num_done % 2 == 1
            t = visit.part.start + j
            _evict(y_sb, sums[i][j], vectors, residual_sb, j, t, on_vector, plan)
            num_done = num_done + 1
        _copy_results(y, y_sb, visit, block, True, plan)


def _convolve(
    y_hbm: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: PatchesPlan,
) -> None:
    """y_hbm = the convolution of all of x_hbm; the loop nest is the one at the top of this file."""
    N, C_out, OH, OW = plan.y_shape
    y = y_hbm.reshape((N, C_out, OH * OW))
    residual = None
    if residual_hbm is not None:
        residual = residual_hbm.reshape((N, C_out, OH * OW))
    _warm_up(plan)
    load_table(plan.epilogue)
    K = len(plan.k_tiles)
    num_blocks = len(plan.blocks)

    block = plan.blocks[0]
    x_sbs = []
    w_sbs = [_stream_tensor(w_hbm, plan)]
    for k in range(K):  # weights after the K tile that is turned meanwhile
        x_sbs.append(_load_lines(x_hbm, block, k, plan))
        if k > 0:
            _load_streamed(w_sbs[0], w_hbm, k - 1, plan)
    _load_streamed(w_sbs[0], w_hbm, K - 1, plan)
    vectors = (_load_vector(scale_hbm, plan), _load_vector(bias_hbm, plan))
    for t in range(plan.stream, plan.m.tiles):
        w_sbs.append(_load_tile(w_hbm, t, plan))
    next_sbs = []
    if num_blocks > 1:
        next_sbs = _load_block(x_hbm, plan.blocks[1], plan)

    turned_sbs = _turned_tensors(block, plan)
    sums = _sum_first(w_sbs, x_sbs, turned_sbs, block, plan)
    _finish_first(y, residual, sums, vectors, block, plan)
    sums = []  # their banks are free

    for b in range(num_blocks):
        block = plan.blocks[b]
        x_sbs = next_sbs
        next_sbs = []
        if b + 2 < num_blocks:
            next_sbs = _load_block(x_hbm, plan.blocks[b + 2], plan)
        next_block = block
        next_turned_sbs = []
        num_turns = 0
        if b + 1 < num_blocks:
            next_block = plan.blocks[b + 1]
            next_turned_sbs = _turned_tensors(next_block, plan)
            num_turns = K * len(next_block.turns)
        num_done = 0
        num_turned = 0
        for visit in block.visits:
            residual_sb = _residual(residual, visit, block, plan)
            y_sb = _result_tensor(visit, x_hbm.dtype, plan)
            for j in range(visit.part.size):
                t = visit.part.start + j
                due = turns_due(num_done, block, num_turns, K, b == 0)
                _turn_some(next_turned_sbs, x_sbs, next_block, num_turned, due, plan)
                num_turned = due
                acc_ps = _sum_tensor(visit, t, plan)
                for k in range(K):
                    _accumulate(acc_ps, w_sbs, turned_sbs[k], k, t, visit, block, plan)
                on_vector = plan.takes_turns and num_done % 2 == 1
                _evict(y_sb, acc_ps, vectors, residual_sb, j, t, on_vector, plan)
                num_done = num_done + 1
            _copy_results(y, y_sb, visit, block, True, plan)
        _turn_some(next_turned_sbs, x_sbs, next_block, num_turned, num_turns, plan)
        turned_sbs = next_turned_sbs


@nki.jit
def conv2d_patches(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: PatchesPlan,
) -> nl.NkiTensor:
    """Return y_hbm; `_convolve` is the loop nest at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(y_hbm, x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm, plan)
    return y_hbm


@nki.jit
def conv2d_patches_looped(
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


def _convolve_part(hbm: dict[str, Any], plan: PatchesPlan) -> None:
    _convolve(hbm["y"], hbm["x"], hbm["w"], hbm["scale"], hbm["bias"], hbm["residual"], plan)


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield the cheapest plan.

    Raises
    ------
    NotSuited
        Taps that overlap or leave pixels out between them, padding, groups, pooling, many channels;
        or nothing fits.
    """
    _check(problem)
    plan, price = _cheapest(problem, 0)
    if price.static_instructions <= _looped.MAX_INSTRUCTIONS:
        yield Candidate(NAME, plan, price, _why(plan))
        return
    loops = _looped.Loops(_cheapest, lambda each: each[1], lambda _: None, equal=True)
    cut = _looped.cut_into_parts(problem, loops)
    pieces = tuple(replace(piece, part=piece.part[0]) for piece in cut.pieces)
    looped = LoopedPlan(pieces, _looped.y_shape(problem))
    yield Candidate(NAME, looped, _looped.total(cut), f"{_why(pieces[0].part)}; {cut.why}")


def _cheapest(problem: Problem, reserved_bytes: int) -> tuple[PatchesPlan, Price]:
    """Return the plan that is estimated to be the fastest of those that fit, and its price.

    Raises
    ------
    NotSuited
    """
    g = problem.geometry
    dtype = "bfloat16" if problem.precision == "fast" else problem.dtype
    room = nl.tile_size.sbuf_fmax_bytes - reserved_bytes
    found = [
        (plan, price)
        for plan, price in make_plans(g, problem.epilogue, dtype)
        if plan.sbuf_bytes <= room
    ]
    if not found:
        raise NotSuited(f"{g.C_in * g.rows.taps * g.cols.taps} values of a patch do not fit SBUF")
    return min(found, key=lambda each: each[1].estimate_us() * _unfed(each[0].blocks[0]))


def _unfed(block: Block) -> float:
    """Return 1 for an array that turns with all of its rows, and a little more for fewer."""
    return 1 + _UNFED * (1 - block.lines * block.pieces / nl.tile_size.pmax)


def _check(problem: Problem) -> None:
    """Refuse what is not a product of patches.

    Raises
    ------
    NotSuited
    """
    g = problem.geometry
    if g.G > 1:
        raise NotSuited("it has no groups")
    if problem.epilogue.pool is not None:
        raise NotSuited("it has no fused pooling")
    for axis in (g.rows, g.cols):
        if axis.taps != axis.stride or axis.dilation != 1:
            raise NotSuited(
                f"it takes strides equal to the taps and dilation 1, not {axis.taps} taps, stride "
                f"{axis.stride}, dilation {axis.dilation}"
            )
        if axis.pad or axis.outputs * axis.stride > axis.size:
            raise NotSuited("it takes no padding")
    if g.rows.taps * g.cols.taps == 1:
        raise NotSuited("one tap leaves nothing to turn")
    if g.C_in > _MOST_CHANNELS:
        raise NotSuited(f"{g.C_in} channels fill partitions as they lie; nothing has to be turned")
    if g.cols.taps > nl.tile_size.pmax:
        raise NotSuited(f"it takes at most {nl.tile_size.pmax} columns of taps, not {g.cols.taps}")


def _why(plan: PatchesPlan) -> str:
    block = plan.blocks[0]
    return (
        f"patches of {block.lines} lines in {block.pieces} pieces turned together, "
        f"{plan.k_rows} values contracted at once"
    )


def pack(w: PackedWeights, plan: PatchesPlan | LoopedPlan) -> Array:
    """Return weights (k rows, K tiles * T_out * m), zeros where there are none.

    Channels that are streamed come first, K tile by K tile; the others tile by tile.
    """
    if isinstance(plan, LoopedPlan):
        return pack(w, plan.pieces[0].part)  # there is one piece
    g, m = plan.geometry, plan.m
    KW = g.cols.taps
    taps = w.array[0].reshape(g.C_in * g.rows.taps, KW, g.C_out)
    if plan.moving_dtype == "bfloat16":
        taps = taps.astype(ml_dtypes.bfloat16)
    padded = np.zeros((*taps.shape[:2], m.partitions * m.tiles), dtype=taps.dtype)
    padded[:, :, : g.C_out] = taps
    dealt = padded.reshape(-1, KW, m.partitions, m.tiles).transpose(0, 1, 3, 2)
    packed = np.zeros((plan.k_rows, len(plan.k_tiles), m.tiles, m.partitions), dtype=taps.dtype)
    for k, rows in enumerate(plan.k_tiles):
        chosen = dealt[rows.start : rows.start + rows.size]
        packed[: rows.size * KW, k] = chosen.reshape(rows.size * KW, m.tiles, m.partitions)
    streamed = packed[:, :, : plan.stream].reshape(plan.k_rows, -1)
    others = packed[:, :, plan.stream :].transpose(0, 2, 1, 3).reshape(plan.k_rows, -1)
    return np.concatenate([streamed, others], axis=1)


def run(launch: Launch, operands: Operands, plan: PatchesPlan | LoopedPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    if isinstance(plan, LoopedPlan):
        return launch(conv2d_patches_looped, o.x, o.w, o.scale, o.bias, o.residual, plan)
    return launch(conv2d_patches, o.x, o.w, o.scale, o.bias, o.residual, plan)
