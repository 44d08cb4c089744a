"""Plans of the direct kernel that pools, and what they cost.

A *section* is some pooled rows and what they need: rows of the convolution, and those pixels.  The
weights of as many output channels as fit stay in SBUF beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import nki.language as nl

from nkiconv.kernels._blocks import Pool, conv_outputs
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import STEP_MAX, Geometry, OutputTile, Tile, ceil_div, even_tiles, tiles
from nkiconv.kernels._price import Price, Transfers, matmul_cycles
from nkiconv.kernels._problem import NotSuited
from nkiconv.kernels._strip import Run, Side, make_side
from nkiconv.simulate.hardware import hardware

_LOAD_BYTES = 4096  # per partition: where the DMA rate levels off (vendor's DMA bandwidth guide)
_COPIES = 2  # of what is loaded or computed again and again


@dataclass(frozen=True)
class Section(nl.NKIObject):
    """Pooled rows whose pixels are in SBUF together, of some images.

    `conv` are the rows of the convolution that they need, `loads` the runs of pixels.
    """

    images: Tile
    pooled: Tile
    conv: Tile
    rows: Side
    loads: tuple[Run, ...]
    tiles: tuple[OutputTile, ...]


@dataclass(frozen=True)
class PooledPlan(nl.NKIObject):
    """Everything that the kernel does, decided beforehand.

    `conv_cols` counts the columns of the convolution that some window reaches; `pool` is the
    epilogue's; `fast`: the weights are bfloat16, and x becomes it when it is loaded.
    """

    geometry: Geometry
    epilogue: Epilogue
    pool: Pool
    y_shape: tuple[int, int, int, int]
    c_in_tiles: tuple[Tile, ...]
    c_out_blocks: tuple[tuple[Tile, ...], ...]
    cols: Side
    conv_cols: int
    sections: tuple[Section, ...]
    fast: bool
    sbuf_bytes: int

    @property
    def num_matmuls(self) -> int:
        """Matmuls of the whole kernel."""
        g = self.geometry
        rounds = g.G * sum(len(block) for block in self.c_out_blocks)
        taps = g.rows.taps * g.cols.taps * len(self.c_in_tiles)
        return rounds * taps * sum(len(section.tiles) for section in self.sections)

    @property
    def moving_columns(self) -> int:
        """Columns that TensorE streams."""
        g = self.geometry
        rounds = g.G * sum(len(block) for block in self.c_out_blocks)
        taps = g.rows.taps * g.cols.taps * len(self.c_in_tiles)
        outputs = sum(s.images.size * s.conv.size for s in self.sections) * self.conv_cols
        return rounds * taps * outputs


def plan_pooled(
    geometry: Geometry,
    epilogue: Epilogue,
    pool: Pool,
    *,
    padding_mode: str = "zeros",
    fast: bool = False,
    sbuf_bytes: int | None = None,
) -> PooledPlan:
    """Cut a convolution and its pool into sections that fit SBUF beside the weights.

    Parameters
    ----------
    fast
        Operands of float32 become bfloat16 on their way to SBUF.
    sbuf_bytes
        SBUF to use per partition; None takes all that the current target has.

    Raises
    ------
    NotSuited
        The smallest section does not fit, or rows are too far apart for an access pattern.
    """
    limit = nl.tile_size.sbuf_fmax_bytes if sbuf_bytes is None else sbuf_bytes
    fit = _Fit(geometry, epilogue, pool, padding_mode, fast)
    if geometry.rows.stride * fit.cols.size > STEP_MAX:
        raise NotSuited(
            f"rows of {fit.cols.size} pixels are too far apart for an access pattern (at most "
            f"{STEP_MAX} elements)"
        )
    num_tiles = ceil_div(geometry.C_out, nl.tile_size.pmax)
    sizes = list(fit.section_sizes())
    for parts in range(1, num_tiles + 1):
        block = ceil_div(num_tiles, parts)
        fits = [size for size in sizes if fit.sbuf_bytes(*size, block) <= limit]
        if fits:
            return fit.plan(*min(fits, key=lambda size: fit.cost_ns(*size)), block)
    smallest = min(fit.sbuf_bytes(*size, 1) for size in sizes)
    raise NotSuited(
        f"with a pool, weights and the smallest strip need {smallest} B of SBUF per partition, "
        f"which has {limit}; weights would have to be streamed"
    )


class _Fit:
    """A problem, and what sections of it need."""

    def __init__(
        self, g: Geometry, epilogue: Epilogue, pool: Pool, padding_mode: str, fast: bool
    ) -> None:
        self.fast = fast
        self.conv_cols = conv_outputs(pool.cols, Tile(0, pool.cols.outputs)).size
        self.g = replace(g, cols=replace(g.cols, outputs=self.conv_cols))
        self.epilogue = epilogue
        self.pool = pool
        self.mode = padding_mode
        self.cols = make_side(self.g.cols, Tile(0, self.conv_cols), padding_mode, whole=True)
        self.c_in_tiles = tiles(g.C_in, nl.tile_size.pmax)

    def section_sizes(self) -> Iterator[tuple[int, int]]:
        """Yield images and pooled rows of a section, the most first: several images if small."""
        outputs = self.pool.rows.outputs
        whole = self._conv(outputs) * self.conv_cols
        at_once = min(self.g.N, max(1, nl.tile_size.psum_bank_fmax // whole))
        if at_once > 1:
            for times in (4, 2, 1):
                yield min(self.g.N, times * at_once), outputs
        last, parts = 0, 1
        while last != 1:
            size = ceil_div(outputs, parts)
            if size != last:
                yield 1, size
            last, parts = size, parts + 1 + parts // 4

    def _conv(self, pooled_rows: int) -> int:
        return conv_outputs(self.pool.rows, Tile(0, pooled_rows)).size

    def _sections(self, images: int, pooled_rows: int) -> tuple[Section, ...]:
        every = even_tiles(self.pool.rows.outputs, pooled_rows)
        made: dict[tuple[int, Tile], Section] = {}
        found = []
        for n in even_tiles(self.g.N, images):
            for rows in every:
                key = (n.size, rows)
                if key not in made:
                    made[key] = self._section(n, rows)
                found.append(replace(made[key], images=n))
        return tuple(found)

    def _section(self, images: Tile, pooled: Tile) -> Section:
        conv = conv_outputs(self.pool.rows, pooled)
        side = make_side(self.g.rows, conv, self.mode)
        row_elems = max(1, self.cols.inside.size) * self.g.itemsize
        most = ceil_div(_LOAD_BYTES, row_elems)
        runs = (side.inside, *side.border) if self.cols.inside.size > 0 else side.border
        loads = tuple(
            Run(run.place + part.start, run.pixel + part.start * run.step, part.size, run.step)
            for run in runs
            for part in tiles(run.size, most)
        )
        return Section(images, pooled, conv, side, loads, tuple(self._tiles(images, conv)))

    def _tiles(self, images: Tile, conv: Tile) -> Iterator[OutputTile]:
        bank = nl.tile_size.psum_bank_fmax
        whole = conv.size * self.conv_cols
        if images.size > 1 or whole <= bank:
            for n in even_tiles(images.size, max(1, bank // whole)):
                yield OutputTile(n, conv, Tile(0, self.conv_cols))
            return
        for cols in even_tiles(self.conv_cols, bank):
            for rows in even_tiles(conv.size, max(1, bank // cols.size), conv.start):
                yield OutputTile(Tile(0, 1), rows, cols)

    def sbuf_bytes(self, images: int, pooled_rows: int, block_tiles: int) -> int:
        """Return the SBUF bytes per partition for such sections and tiles of output channels."""
        g, e, pool = self.g, self.epilogue, self.pool
        channels = min(block_tiles * nl.tile_size.pmax, g.C_out)
        rounds = g.G * ceil_div(g.C_out, channels)
        weights = len(self.c_in_tiles) * g.rows.taps * g.cols.taps * channels * g.itemsize
        vectors = 4 * block_tiles * (e.has_bias + e.has_scale)
        item = _conv_itemsize(pool, g.itemsize)
        conv_rows = self._conv(pooled_rows)
        first = Tile(0, _sizes(pool.rows.outputs, pooled_rows)[0][0])  # none is larger
        places = make_side(self.g.rows, conv_outputs(pool.rows, first), self.mode).size
        x = len(self.c_in_tiles) * images * places * self.cols.size
        conv = images * conv_rows * self.conv_cols
        tall = images * pooled_rows * self.conv_cols if pool.rows.size > 1 else 0
        y = images * pooled_rows * pool.cols.outputs
        mean = y * 4 if pool.kind == "avg" else 0
        streamed = (
            (x + y + conv * e.has_residual) * g.itemsize + (conv + tall) * item + mean + vectors
        )
        resident = weights * (1 if rounds == 1 else _COPIES) + e.scratch_bytes
        return resident + _COPIES * streamed

    def cost_ns(self, images: int, pooled_rows: int) -> float:
        """Return what the choice of sections changes: columns, and the last one's pooling."""
        g, hw = self.g, hardware()
        taps = g.rows.taps * g.cols.taps * len(self.c_in_tiles)
        cycles, tail = 0, 0
        for size, count in _sizes(self.pool.rows.outputs, pooled_rows):
            conv_rows = self._conv(size)
            for n, times in _sizes(g.N, images):
                tail = n * conv_rows * self.conv_cols
                for columns, tiles_of_it in self._columns(n, conv_rows):
                    each = matmul_cycles(columns, 2 if self.fast else g.itemsize, hw)
                    cycles += count * times * tiles_of_it * each
        rounds = g.G * ceil_div(g.C_out, nl.tile_size.pmax)
        sections = ceil_div(self.pool.rows.outputs, pooled_rows) * ceil_div(g.N, images)
        issue = sections * hw.dma_static_issue_ns
        return rounds * taps * cycles / hw.tensor_ghz + tail / hw.vector_ghz + issue

    def _columns(self, images: int, conv_rows: int) -> Iterator[tuple[int, int]]:
        """Yield the columns of a section's tiles, and how many have so many, as `_tiles` cuts."""
        bank = nl.tile_size.psum_bank_fmax
        whole = conv_rows * self.conv_cols
        if images > 1 or whole <= bank:
            for n, count in _sizes(images, max(1, bank // whole)):
                yield n * whole, count
            return
        for cols, across in _sizes(self.conv_cols, bank):
            for rows, down in _sizes(conv_rows, max(1, bank // cols)):
                yield rows * cols, across * down

    def plan(self, images: int, pooled_rows: int, block_tiles: int) -> PooledPlan:
        """Return the plan of such sections."""
        g, pool = self.g, self.pool
        c_outs = tiles(g.C_out, nl.tile_size.pmax)
        return PooledPlan(
            geometry=g,
            epilogue=self.epilogue,
            pool=pool,
            y_shape=(g.N, g.G * g.C_out, pool.rows.outputs, pool.cols.outputs),
            c_in_tiles=self.c_in_tiles,
            c_out_blocks=tuple(
                c_outs[part.start : part.start + part.size]
                for part in tiles(len(c_outs), block_tiles)
            ),
            cols=self.cols,
            conv_cols=self.conv_cols,
            sections=self._sections(images, pooled_rows),
            fast=self.fast,
            sbuf_bytes=self.sbuf_bytes(images, pooled_rows, block_tiles),
        )


def _sizes(size: int, size_max: int) -> tuple[tuple[int, int], ...]:
    """Return the sizes of `even_tiles`, the full one and the rest, and how many there are."""
    full = ceil_div(size, ceil_div(size, size_max))
    rest = size % full
    return ((full, size // full), (rest, 1)) if rest else ((full, size // full),)


def _conv_itemsize(pool: Pool, itemsize: int) -> int:
    """Return the bytes of an element of the convolution's result: a mean sums in float32."""
    return 4 if pool.kind == "avg" else itemsize


def price_of(plan: PooledPlan) -> Price:
    """Return what a plan costs."""
    g, e, pool = plan.geometry, plan.epilogue, plan.pool
    item = g.itemsize
    hw = hardware()
    rounds = g.G * sum(len(block) for block in plan.c_out_blocks)
    walks = g.G * len(plan.c_out_blocks)
    columns = ceil_div(plan.moving_columns, plan.num_matmuls)
    per_tile = min(g.C_out, nl.tile_size.pmax)
    per_in = min(g.C_in, nl.tile_size.pmax)
    conv = sum(s.images.size * s.conv.size for s in plan.sections) * plan.conv_cols
    y = g.N * pool.rows.outputs * pool.cols.outputs
    tall = g.N * pool.rows.outputs * plan.conv_cols
    w_item = 2 if plan.fast else item
    block_bytes = ceil_div(g.rows.taps * g.cols.taps * g.C_out * w_item, len(plan.c_out_blocks))
    transfers = [Transfers(walks, c_in.size, block_bytes) for c_in in plan.c_in_tiles]
    vectors = e.has_bias + e.has_scale
    for c_out in tiles(g.C_out, nl.tile_size.pmax):
        transfers += [Transfers(g.G * vectors, c_out.size, 4)] * (vectors > 0)
    for section in plan.sections:
        n = section.images.size
        for run in section.loads:
            descriptors, run_bytes = run.size, plan.cols.inside.size * item
            if plan.cols.size == plan.cols.inside.size and run.step == 1:  # rows side by side
                descriptors, run_bytes = 1, run.size * run_bytes
            for c_in in plan.c_in_tiles:
                transfers.append(Transfers(walks, c_in.size * n * descriptors, run_bytes))
        for c_out in tiles(g.C_out, nl.tile_size.pmax):
            run_bytes = section.conv.size * plan.conv_cols * item
            if e.has_residual:
                transfers.append(Transfers(g.G, c_out.size * n, run_bytes))
            run_bytes = section.pooled.size * pool.cols.outputs * item
            transfers.append(Transfers(g.G, c_out.size * n, run_bytes, to_hbm=True))
    steps = rounds * len(plan.sections)
    pooling = tall * (pool.rows.size - 1) + y * max(1, pool.cols.size - 1)
    evictions = rounds * sum(len(s.tiles) for s in plan.sections)
    columns_beside = (*plan.cols.zeros, *plan.cols.border)
    borders = [(*section.rows.zeros, *columns_beside) for section in plan.sections]
    return Price(
        moving_columns=plan.moving_columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=plan.num_matmuls
        * matmul_cycles(columns, 2 if plan.fast else item, hw, per_tile),
        transfers=tuple(transfers),
        scalar_elems=rounds * conv,
        scalar_instructions=evictions,
        vector_elems=rounds * (pooling + conv * e.has_residual),
        vector_instructions=steps * (pool.rows.size + pool.cols.size - 1),
        first_load_bytes=per_in * plan.sections[0].loads[0].size * plan.cols.inside.size * item
        if plan.sections[0].loads
        else 0,
        static_instructions=plan.num_matmuls
        + evictions * e.instructions
        + steps * (pool.rows.size + pool.cols.size)
        + walks * len(plan.c_in_tiles) * sum(map(len, borders))
        + sum(t.count for t in transfers),
    )  # fmt: skip
