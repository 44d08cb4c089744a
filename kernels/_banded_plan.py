"""Plans of the banded kernel of conv2d_depthwise.py, and what they cost.

Up to 128 channels are loaded together, as a tile.  As many of them as fit share the partitions: a
set.  Sets whose results share a PSUM bank are a round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import nki.language as nl

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._groups import full_tap
from nkiconv.kernels._plan import Geometry, Tile, ceil_div, even_tiles, tap_outputs, tiles
from nkiconv.kernels._price import (
    Price,
    Transfers,
    alone_ns,
    matmul_cycles,
    streamed_cycles,
    transfer_ns,
)
from nkiconv.simulate.hardware import Hardware, hardware

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


def plan_banded(g: Geometry, epilogue: Epilogue, *, fast: bool) -> BandedPlan | None:
    """Return the plan, or None for what the banded kernel does not do."""
    found = list(_banded_plans(g, epilogue, fast))
    return min(found, key=lambda plan: price_of(plan).estimate_us()) if found else None


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


def block_channels(tile: ChannelTile, block: int) -> Tile:
    """Return a block's channels, counted within the tile."""
    start = block * tile.sets
    return Tile(start, min(tile.sets, tile.size - start))


def price_of(plan: BandedPlan) -> Price:
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
            size = block_channels(tile, block).size
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
        + plan.buffers  # zeroed
        + 2,  # ScalarE's table
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
