"""Plans of the direct kernel that keeps neither weights nor image in SBUF, and what they cost.

_fit.py says how large the parts are; here are the parts themselves.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import nki.language as nl

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._fit import Cut, best_cut
from nkiconv.kernels._plan import Geometry, Tile, Window, ceil_div, make_window, tiles
from nkiconv.kernels._price import Price, Transfers, matmul_cycles
from nkiconv.simulate.hardware import hardware

_LOAD_BYTES = 4096  # per partition and transfer: the DMA rate levels off here, and the first matmul
# waits for the first transfer (vendor's DMA bandwidth guide)


@dataclass(frozen=True)
class Taps(nl.NKIObject):
    """Taps that are worked on together: `size` neighbours in w_hbm, and their pixels' window."""

    rows: Tile
    cols: Tile
    start: int
    size: int
    i_window: int


@dataclass(frozen=True)
class Block(nl.NKIObject):
    """Outputs that one store writes; the rows of each of `tiles` have a PSUM bank."""

    rows: Tile
    cols: Tile
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Strip(nl.NKIObject):
    """Outputs whose pixels are in SBUF together: one window, or one for each `Taps`."""

    blocks: tuple[Block, ...]
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class ChannelTile(nl.NKIObject):
    """The `index`-th tile of a `ChannelBlock`: from `start` in its group, `y_start` in y."""

    index: int
    start: int
    size: int
    w_start: int  # in the weights of the block
    y_start: int


@dataclass(frozen=True)
class ChannelBlock(nl.NKIObject):
    """Output channels of one group, counted within it, whose weights are in SBUF together.

    `x_start` is the group's first channel in x.
    """

    group: int
    x_start: int
    start: int
    size: int
    tiles: tuple[ChannelTile, ...]


@dataclass(frozen=True)
class StreamedPlan(nl.NKIObject):
    """Everything that the kernel does, decided beforehand.

    `num_output_tiles` counts the stores, `hbm_read_bytes` everything that is loaded, `sbuf_bytes`
    what a partition has to hold.
    """

    geometry: Geometry
    epilogue: Epilogue
    y_shape: tuple[int, int, int, int]
    c_in_tiles: tuple[Tile, ...]
    c_out_blocks: tuple[ChannelBlock, ...]
    all_taps: Tile
    taps: tuple[Taps, ...]
    strips: tuple[Strip, ...]
    weights_resident: bool
    x_resident: bool
    num_output_tiles: int
    num_matmuls: int
    hbm_read_bytes: int
    sbuf_bytes: int


def plan_streamed(
    geometry: Geometry,
    epilogue: Epilogue | None = None,
    *,
    sbuf_bytes: int | None = None,
) -> StreamedPlan:
    """Cut a convolution into parts that SBUF and PSUM hold.

    Parameters
    ----------
    sbuf_bytes
        SBUF to use per partition; None takes all that the current target has.

    Raises
    ------
    CapacityError
        Not even the smallest parts fit; needs less SBUF than any target has.
    """
    g = geometry
    epilogue = epilogue or Epilogue()
    limit = nl.tile_size.sbuf_fmax_bytes if sbuf_bytes is None else sbuf_bytes
    cut = best_cut(g, limit - epilogue.scratch_bytes, has_residual=epilogue.has_residual)
    pmax = nl.tile_size.pmax
    taps = _taps(g, cut)
    strips = tuple(
        _strip(g, cut, taps, rows, cols)
        for rows in tiles(g.rows.outputs, cut.strip[0])
        for cols in tiles(g.cols.outputs, cut.strip[1])
    )
    y_shape = (g.N, g.G * g.C_out, g.rows.outputs, g.cols.outputs)
    y_elems = y_shape[0] * y_shape[1] * y_shape[2] * y_shape[3]
    c_in_tiles = tiles(g.C_in, pmax)
    blocks = [block for strip in strips for block in strip.blocks]
    rounds = g.N * g.G * ceil_div(g.C_out, pmax)
    matmuls_per_tile = len(c_in_tiles) * g.rows.taps * g.cols.taps
    return StreamedPlan(
        geometry=g,
        epilogue=epilogue,
        y_shape=y_shape,
        c_in_tiles=c_in_tiles,
        c_out_blocks=tuple(
            _channel_block(g, group, block)
            for group in range(g.G)
            for block in tiles(g.C_out, cut.c_out_block)
        ),
        all_taps=Tile(0, g.rows.taps * g.cols.taps),
        taps=taps,
        strips=strips,
        weights_resident=cut.weights_resident,
        x_resident=cut.x_resident,
        num_output_tiles=rounds * len(blocks),
        num_matmuls=rounds * sum(len(block.tiles) for block in blocks) * matmuls_per_tile,
        hbm_read_bytes=cut.read_bytes
        + (4 * g.G * g.C_out * (epilogue.has_bias + epilogue.has_scale))
        + (y_elems * g.itemsize if epilogue.has_residual else 0),
        sbuf_bytes=cut.sbuf_bytes,
    )


def _channel_block(g: Geometry, group: int, block: Tile) -> ChannelBlock:
    """Return the block of output channels of a group."""
    return ChannelBlock(
        group=group,
        x_start=group * g.C_in,
        start=block.start,
        size=block.size,
        tiles=tuple(
            ChannelTile(
                index=i,
                start=tile.start,
                size=tile.size,
                w_start=tile.start - block.start,
                y_start=group * g.C_out + tile.start,
            )
            for i, tile in enumerate(tiles(block.size, nl.tile_size.pmax, block.start))
        ),
    )


def _taps(g: Geometry, cut: Cut) -> tuple[Taps, ...]:
    """Return the groups of taps that are loaded together: whole rows of taps, or parts of one."""
    parts = [
        (rows, cols)
        for rows in tiles(g.rows.taps, cut.taps[0])
        for cols in tiles(g.cols.taps, cut.taps[1])
    ]
    return tuple(
        Taps(
            rows=rows,
            cols=cols,
            start=rows.start * g.cols.taps + cols.start,
            size=rows.size * cols.size,
            i_window=0 if cut.x_resident else i,
        )
        for i, (rows, cols) in enumerate(parts)
    )


def _strip(g: Geometry, cut: Cut, taps: tuple[Taps, ...], rows: Tile, cols: Tile) -> Strip:
    """Return the strip of these outputs."""
    blocks = tuple(
        Block(
            rows=Tile(row_tiles[0].start, sum(tile.size for tile in row_tiles)),
            cols=block_cols,
            tiles=row_tiles,
        )
        for block_cols, row_tiles in cut.blocks(rows, cols)
    )
    every_tap = (Tile(0, g.rows.taps), Tile(0, g.cols.taps))
    groups = (every_tap,) if cut.x_resident else tuple((tap.rows, tap.cols) for tap in taps)
    windows = tuple(
        make_window(
            g, (rows, cols), group, first_rows=blocks[0].tiles[0].size, load_bytes=_LOAD_BYTES
        )
        for group in groups
    )
    return Strip(blocks, windows)


def price_of(plan: StreamedPlan) -> Price:
    """Return what a plan costs."""
    g = plan.geometry
    counts = _Counts(plan)
    columns = g.N * g.G * g.rows.outputs * g.cols.outputs * ceil_div(g.C_out, nl.tile_size.pmax)
    columns = columns * len(plan.c_in_tiles) * g.rows.taps * g.cols.taps
    each = ceil_div(columns, plan.num_matmuls)
    per_tile = min(g.C_out, nl.tile_size.pmax)
    transfers = tuple(
        Transfers(n, descriptors, run, to_hbm)
        for (descriptors, run, to_hbm), n in counts.moved.items()
        if n
    )
    return Price(
        moving_columns=columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=plan.num_matmuls * matmul_cycles(each, g.itemsize, hardware(), per_tile),
        transfers=transfers,
        scalar_elems=counts.elems,
        scalar_instructions=counts.evictions,
        static_instructions=plan.num_matmuls
        + sum(t.count for t in transfers)
        + counts.memsets
        + counts.evictions * plan.epilogue.instructions,
    )


class _Counts:
    """Instructions and transfers of a plan, in the order of the loop nest."""

    def __init__(self, plan: StreamedPlan) -> None:
        self.plan, self.g, self.e = plan, plan.geometry, plan.epilogue
        self.moved: Counter[tuple[int, int, bool]] = Counter()  # descriptors, bytes, to HBM
        self.memsets = self.evictions = self.elems = 0
        N = self.g.N
        for c_outs in plan.c_out_blocks:
            if plan.weights_resident:
                for c_in in plan.c_in_tiles:
                    self._weights(c_in.size, plan.all_taps.size, c_outs.size, 1)
            vectors = self.e.has_scale + self.e.has_bias
            for c_out in c_outs.tiles:
                self.moved[c_out.size, 4, False] += vectors
            for strip in plan.strips:
                if plan.x_resident:
                    for c_in in plan.c_in_tiles:
                        self._window(strip.windows[0], c_in.size, N)
                for c_out in c_outs.tiles:
                    self._blocks(strip, c_out.size)

    def _blocks(self, strip: Strip, channels: int) -> None:
        g, plan = self.g, self.plan
        num = len(strip.blocks) * g.N
        for taps in plan.taps:
            for c_in in plan.c_in_tiles:
                if not plan.weights_resident:
                    self._weights(c_in.size, taps.size, channels, num)
                if not plan.x_resident:
                    self._window(strip.windows[taps.i_window], c_in.size, num)
        for block in strip.blocks:
            rows, cols = block.rows.size, block.cols.size
            whole = cols == g.cols.outputs
            run = (channels, rows * cols) if whole else (channels * rows, cols)
            self.moved[run[0], run[1] * g.itemsize, True] += g.N
            if self.e.has_residual:
                self.moved[run[0], run[1] * g.itemsize, False] += g.N
            self.evictions += g.N * len(block.tiles)
            self.elems += g.N * rows * cols

    def _weights(self, channels: int, taps: int, c_out: int, times: int) -> None:
        if c_out == self.g.C_out:
            self.moved[channels, taps * c_out * self.g.itemsize, False] += times
        else:
            self.moved[channels * taps, c_out * self.g.itemsize, False] += times

    def _window(self, window: Window, channels: int, times: int) -> None:
        rows, cols = window.rows, window.cols
        for load in window.loads:
            run = cols.x_size * self.g.itemsize
            self.moved[channels * load.size, run, False] += times
        inside = rows.size > rows.zeros_before + rows.zeros_after
        self.memsets += times * (
            (rows.zeros_before > 0)
            + (rows.zeros_after > 0)
            + inside * ((cols.zeros_before > 0) + (cols.zeros_after > 0))
        )
