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
from dataclasses import dataclass, replace
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from nkiconv.kernels import _looped, conv2d_grouped
from nkiconv.kernels._algorithm import Candidate, Launch, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import DTYPES, Array
from nkiconv.kernels._epilogue import Epilogue, evict, load_table
from nkiconv.kernels._groups import full_tap
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._plan import Geometry, Tile, ceil_div, even_tiles, tap_outputs, tiles
from nkiconv.kernels._price import (
    Price,
    Transfers,
    alone_ns,
    matmul_cycles,
    streamed_cycles,
    transfer_ns,
)
from nkiconv.kernels._strip import transfer_mode
from nkiconv.kernels._weights import PackedWeights
from nkiconv.simulate.hardware import Hardware, hardware

NAME = "depthwise"

_STEP_BYTES = 16  # neighbours of an operand: TensorE reads at half rate from further apart
_BUFFERS = (16, 8, 4, 2)  # sets whose operands are in SBUF, if they fit: transfers run ahead


@dataclass(frozen=True)
class Round(nl.NKIObject):
    """Sets of channels that share a PSUM bank; `blocks` channels are in each of them."""

    sets: Tile
    blocks: int


@dataclass(frozen=True)
class ChannelTile(nl.NKIObject):
    """Channels that are loaded together: `sets` sets; block b of set i is channel b*sets + i."""

    start: int
    size: int
    sets: int
    rounds: tuple[Round, ...]


@dataclass(frozen=True)
class BandedPlan(nl.NKIObject):
    """Everything that the banded kernel does, decided beforehand.

    `blocks` channels share the partitions, and `buffers` sets of them are in SBUF, zeroed by
    VectorE or GpSimdE, as `turns` says of each in turn; `before` zeros stand in front of a column
    of `height` padded weights; `image_tiles` are the images of a matmul; taps are taken in the
    order `cols`.  With `fast` the weights are bfloat16, and x becomes it when it is loaded.
    """

    geometry: Geometry
    epilogue: Epilogue
    y_shape: tuple[int, int, int, int]
    blocks: int
    buffers: int
    turns: tuple[bool, ...]
    step: int
    before: int
    height: int
    cols: tuple[int, ...]
    channel_tiles: tuple[ChannelTile, ...]
    image_tiles: tuple[Tile, ...]
    fast: bool
    num_matmuls: int
    moving_columns: int
    sbuf_bytes: int

    @property
    def held_bytes(self) -> int:
        """Return the bytes of an element of x and w in SBUF."""
        return 2 if self.fast else self.geometry.itemsize


def plan_banded(g: Geometry, epilogue: Epilogue, *, fast: bool = False) -> BandedPlan | None:
    """Return the plan, or None for what the banded kernel does not do."""
    found = list(_banded_plans(g, epilogue, fast))
    return min(found, key=lambda plan: _price(plan).estimate_us()) if found else None


def _banded_plans(g: Geometry, epilogue: Epilogue, fast: bool) -> Iterator[BandedPlan]:
    """Yield plans with many buffers and with few: each has to be zeroed before it is used."""
    pmax, bank = nl.tile_size.pmax, nl.tile_size.psum_bank_fmax
    blocks = min(pmax // g.rows.size, pmax // g.rows.outputs, g.G)
    first = full_tap(g.cols)
    if (
        g.C_out > 1
        or blocks == 0
        or (g.rows.stride, g.rows.dilation) != (1, 1)
        or first < 0
        or g.cols.outputs > bank
    ):
        return
    held = 2 if fast else g.itemsize
    step = _STEP_BYTES // held
    while step // 2 >= g.cols.taps:
        step = step // 2
    before = max(0, g.rows.size + g.rows.pad - g.rows.taps)
    after_last = before + g.rows.taps - g.rows.pad + g.rows.outputs - 1
    height = max(before + g.rows.taps, after_last)
    images = min(g.N, bank // g.cols.outputs)
    image_tiles = even_tiles(g.N, images)
    channel_tiles = tuple(
        _channel_tile(tile, min(blocks, tile.size), max(1, bank // (g.N * g.cols.outputs)))
        for tile in even_tiles(g.G, pmax)
    )
    sets = channel_tiles[0].sets
    per_round = max(r.sets.size for tile in channel_tiles for r in tile.rounds)
    row = g.N * g.cols.outputs
    wide = ceil_div(g.cols.taps, step) * step
    sbuf = 2 * held * (sets * g.N * g.cols.size + wide * height)
    sbuf += g.itemsize * (4 if epilogue.has_residual else 2) * per_round * row
    sbuf += 16 * sets + epilogue.scratch_bytes + 64
    buffer = wide * blocks * g.rows.outputs * held
    room = (nl.tile_size.sbuf_fmax_bytes - sbuf) // buffer
    if len(image_tiles) > nl.tile_size.psum_num_banks // 2:
        return
    every = Tile(0, g.cols.outputs)
    reached = [tap_outputs(g.cols, every, tap).size for tap in range(g.cols.taps)]
    all_sets = sum(tile.sets for tile in channel_tiles)
    most = BandedPlan(
        geometry=g,
        epilogue=epilogue,
        y_shape=(g.N, g.G, g.rows.outputs, g.cols.outputs),
        blocks=blocks,
        buffers=0,
        turns=_zeroing(held),
        step=step,
        before=before,
        height=height,
        cols=(first, *(tap for tap in range(g.cols.taps) if tap != first and reached[tap])),
        channel_tiles=channel_tiles,
        image_tiles=image_tiles,
        fast=fast,
        num_matmuls=all_sets * len(image_tiles) * sum(n > 0 for n in reached),
        moving_columns=all_sets * g.N * sum(reached),
        sbuf_bytes=sbuf,
    )
    for n in dict.fromkeys(min(n, sets) for n in _BUFFERS if n <= room):
        yield replace(most, buffers=n, sbuf_bytes=sbuf + n * buffer)


def _zeroing(itemsize: int) -> tuple[bool, ...]:
    """Return which engines zero buffers in turn, whether VectorE: one where the two would wait.

    VectorE zeroes elements of two bytes twice as fast, by the port that GpSimdE needs.
    """
    hw = hardware()
    if itemsize == 2:
        return (True,)
    return (False,) if hw.generation < 3 else (True, False)


def _channel_tile(tile: Tile, blocks: int, per_round: int) -> ChannelTile:
    """Return the sets of a tile; a set lacks the last blocks where channels do not fill it."""
    sets = ceil_div(tile.size, blocks)
    full, rest = divmod(tile.size, sets)
    spans = [(Tile(0, rest), full + 1), (Tile(rest, sets - rest), full)]
    rounds = tuple(
        Round(part, count)
        for span, count in spans
        for part in tiles(span.size, per_round, span.start)
    )
    return ChannelTile(tile.start, tile.size, sets, rounds)


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


def _block_channels(tile: ChannelTile, block: int) -> Tile:
    """Return a block's channels, counted within the tile."""
    start = block * tile.sets
    return Tile(start, min(tile.sets, tile.size - start))


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
            some = _block_channels(tile, block)
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
        some = _block_channels(tile, block)
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


def _price(plan: BandedPlan) -> Price:
    """Return what a banded plan costs."""
    g, held = plan.geometry, plan.held_bytes
    hw = hardware()
    groups = ceil_div(g.cols.taps, plan.step)
    rounds = [(tile, some) for tile in plan.channel_tiles for some in tile.rounds]
    row, vectors = g.itemsize, plan.epilogue.has_scale + plan.epilogue.has_bias
    transfers = []
    for tile in plan.channel_tiles:
        w_run = g.rows.taps * plan.step * held
        transfers.append(Transfers(1, tile.size * groups, w_run))
        for block in range(tile.rounds[0].blocks):
            size = _block_channels(tile, block).size
            transfers.append(Transfers(g.rows.size, size * g.N, g.cols.size * row))
            if vectors:
                transfers.append(Transfers(vectors, g.rows.outputs, 4 * size))
    run = g.rows.outputs * plan.step * held
    transfers.append(Transfers(g.G, g.rows.size * groups, run, on_chip=True))
    for _, some in rounds:
        lines = g.rows.outputs * some.sets.size * g.N
        if plan.epilogue.has_residual:
            transfers.append(Transfers(some.blocks, lines, g.cols.outputs * row))
        transfers.append(Transfers(some.blocks, lines, g.cols.outputs * row, to_hbm=True))
    evictions = sum(some.sets.size for _, some in rounds) * len(plan.image_tiles)
    elems = sum(some.sets.size for _, some in rounds) * g.N * g.cols.outputs
    each = ceil_div(plan.moving_columns, plan.num_matmuls)
    k, m = plan.blocks * g.rows.size, plan.blocks * g.rows.outputs
    cycles = plan.num_matmuls * matmul_cycles(each, held, hw, m)
    stored_ns = sum(t.count * transfer_ns(t, hw) for t in transfers if t.to_hbm)
    first_ns, built_ns = _built_ns(plan, cycles / hw.tensor_ghz, stored_ns, hw)
    return Price(
        moving_columns=plan.moving_columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=cycles,
        streamed_cycles=streamed_cycles(plan.moving_columns, held, k, hw),
        transfers=tuple(transfers),
        scalar_elems=elems // 2,
        scalar_instructions=ceil_div(evictions, 2),
        vector_elems=elems // 2,
        vector_instructions=evictions // 2,
        first_ns=first_ns,
        last_ns=_last_ns(plan, rounds[-1][1], hw),
        built_ns=built_ns,
        static_instructions=plan.num_matmuls
        + evictions * plan.epilogue.instructions
        + sum(t.count for t in transfers)
        + 2 * len(plan.channel_tiles)  # zeros at either end of a column
        + 16,
    )


def _built_ns(
    plan: BandedPlan, tensor_ns: float, stored_ns: float, hw: Hardware
) -> tuple[float, float]:
    """Return when the first matmul starts, and when the last one ends for the sake of operands.

    Parameters
    ----------
    tensor_ns, stored_ns
        TensorE's work, and that of the DMA engines for y.
    """
    g = plan.geometry
    tile, groups = plan.channel_tiles[0], ceil_div(g.cols.taps, plan.step)
    tiles = len(plan.channel_tiles)
    sets = sum(tile.sets for tile in plan.channel_tiles)
    issue, around = hw.dma_static_issue_ns, hw.dma_static_start_ns + hw.dma_complete_ns
    w = Transfers(1, tile.size * groups, g.rows.taps * plan.step * plan.held_bytes)
    x = Transfers(1, tile.sets * g.N, g.cols.size * g.itemsize)
    build = Transfers(1, g.rows.size * groups, g.rows.outputs * plan.step * plan.held_bytes)
    vectors = plan.epilogue.has_scale + plan.epilogue.has_bias
    loads = g.rows.size * plan.blocks
    issued = 1 + loads + (tiles - 1) * (1 + loads + vectors * plan.blocks)  # the last tile's
    loaded = transfer_ns(w, hw) + loads * transfer_ns(x, hw)
    pixels = around + max((1 + loads) * issue + alone_ns(x, 1, hw), loaded)
    last_pixels = around + max(issued * issue + alone_ns(x, 1, hw), tiles * loaded)
    weights = around + alone_ns(w, tile.size, hw)
    elems = groups * plan.blocks * g.rows.outputs * plan.step
    zero, zeroed = 0.0, 0.0
    for by_vector in plan.turns:
        ghz, fixed = (hw.vector_ghz, hw.engine_issue_cycles)
        if not by_vector:
            ghz, fixed = (hw.gpsimd_ghz, hw.gpsimd_issue_cycles)
        zero = (elems * (0.5 if plan.held_bytes == 2 and by_vector else 1.0) + fixed) / ghz
        zeroed = max(zeroed, ceil_div(plan.buffers, len(plan.turns)) * zero)
    way = (plan.blocks - 1) * issue + around + alone_ns(build, 1, hw)  # from the columns
    computed = tensor_ns / sets
    ready = max(weights, zero + hw.vector_latency_ns) + way
    first = max(pixels, ready)
    turns = ceil_div(sets, plan.buffers) - 1  # for which a buffer has to be free again
    later = ceil_div(tile.sets, plan.buffers) - 1
    # Of a tile of channels, the results are stored, and all operands but the first are built, when
    # its pixels are there.
    moved = stored_ns + max(0, tile.sets - plan.buffers) * tiles * plan.blocks * transfer_ns(
        build, hw
    )
    return first + hw.dependency_ns, computed + max(
        zeroed + way,
        ready + g.G * issue,
        ready + turns * way,
        first + turns * (way + computed),
        max(ready, last_pixels) + max(later * (way + computed), moved / tiles),
    )


def _last_ns(plan: BandedPlan, some: Round, hw: Hardware) -> float:
    """Return how long the end takes from the last matmul on."""
    g = plan.geometry
    elems = plan.image_tiles[-1].size * g.cols.outputs + hw.engine_issue_cycles
    emptied = elems / hw.scalar_ghz + hw.scalar_latency_ns
    lines = g.rows.outputs * some.sets.size * g.N
    store = Transfers(1, lines, g.cols.outputs * g.itemsize, to_hbm=True)
    stored = (some.blocks - 1) * hw.dma_static_issue_ns + alone_ns(store, g.rows.outputs, hw)
    stored = max(stored, some.blocks * transfer_ns(store, hw))
    around = hw.dma_static_start_ns + hw.dma_complete_ns + 2 * hw.dependency_ns
    return hw.tensor_latency_ns + emptied + stored + around


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
    price = None if banded is None else _price(banded)
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

    loops = _looped.Loops(make, _price, w_shape, groups=nl.tile_size.pmax)
    cut = _looped.cut_into_parts(problem, loops)
    plan = LoopedPlan(cut.pieces, _looped.y_shape(problem))
    why = f"{_why(cut.pieces[0].part)}; {cut.why}"
    return Candidate(NAME, plan, _looped.total(cut), why)


_DIAGONAL_TAPS = 150  # of more, banded operands are always faster, and planning them takes long


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
