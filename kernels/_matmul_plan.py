"""How a matrix product is cut: channels on partitions, pixels in groups, what is loaded when.

A *group* is a box of pixels that one transfer loads; a *chunk* is a range of tiles of y's channels
whose weights one transfer loads.  A *visit* multiplies a group by a chunk and stores the result in
one transfer.  Visits are in one of these orders:

    weights stay   for group: for chunk       every chunk is loaded at its first visit
    pixels stay    for chunk: for group       every group is loaded at its first visit
    neither        for block of groups: for chunk: for group of the block    weights are reloaded,
                   for block of chunks: for group: for chunk of the block    or pixels are

`make_plans` looks at sizes of groups, chunks and blocks, and keeps the cheapest that fit SBUF.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import nki.language as nl
import numpy as np

from nkiconv.kernels._arguments import Array
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Tile, ceil_div, even_tiles, tiles
from nkiconv.kernels._price import (
    Price,
    Transfers,
    alone_ns,
    matmul_cycles,
    streamed_cycles,
    transfer_ns,
)
from nkiconv.simulate.hardware import hardware

_COLUMNS = (512, 1024, 2048, 4096)  # of a group: from one PSUM tile to runs as long as pay
_FEW_COLUMNS = (256, 128, 64)  # where K is so large that no more fit
_STORE_BYTES = 1536  # per partition: half a microsecond of all DMA engines
_TILE = 512  # columns of a matmul, and of a PSUM bank in float32
_IN_FLIGHT = 3  # groups, and results, in SBUF at a time: loaded, computed, stored
_STACKS = (1, 2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Dealt(nl.NKIObject):
    """Channels on partitions: partition p holds `tiles` neighbours, from p*tiles on.

    `full` partitions hold as many, and where there is a `rest` one more holds that.  Tile t has
    `rows[t]` of the `partitions`.
    """

    size: int
    tiles: int
    full: int
    rest: int
    partitions: int
    rows: tuple[int, ...]


def deal(size: int, num_tiles: int) -> Dealt:
    """Deal `size` channels to as few partitions as `num_tiles` of them allow."""
    full, rest = size // num_tiles, size % num_tiles
    rows = tuple(full + (t < rest) for t in range(num_tiles))
    return Dealt(size, num_tiles, full, rest, full + (rest > 0), rows)


@dataclass(frozen=True)
class Box(nl.NKIObject):
    """Pixels of y: `images`, `rows`, `cols`; `turn` says which engine begins to empty PSUM."""

    images: Tile
    rows: Tile
    cols: Tile
    turn: int = 0

    @property
    def size(self) -> int:
        """How many pixels."""
        return self.images.size * self.rows.size * self.cols.size


@dataclass(frozen=True)
class Group(nl.NKIObject):
    """Pixels that are loaded together; `tiles` count from its first, `x_rows`, `x_cols` in x."""

    box: Box
    tiles: tuple[Box, ...]
    x_rows: Tile
    x_cols: Tile


@dataclass(frozen=True)
class Visit(nl.NKIObject):
    """A group, a chunk, and which of the two have to be loaded.

    `parts` are the tiles of the chunk that each have a store, `loads` those whose weights each
    have a transfer.
    """

    i_group: int
    i_chunk: int
    parts: tuple[Tile, ...]
    loads: tuple[Tile, ...]
    load_x: bool
    load_w: bool


@dataclass(frozen=True)
class Product(nl.NKIObject):
    """Sizes of a checked product: `rows` and `cols` are those of y, `x_size` those of x."""

    N: int
    K: int
    M: int
    rows: int
    cols: int
    x_size: tuple[int, int]
    stride: tuple[int, int]
    itemsize: int  # bytes of an element of x and y in HBM
    dtype: str  # of x in SBUF

    @property
    def moving_itemsize(self) -> int:
        """Bytes of an element of x and w in SBUF."""
        return 4 if self.dtype == "float32" else 2


@dataclass(frozen=True)
class MatmulPlan(nl.NKIObject):
    """Everything that the kernel does, decided beforehand.

    In SBUF neighbouring rows and columns of y are `row_step` and `col_step` apart; x's rows are
    loaded every `x_row_step`.  `stack` pieces of an image, `stack_step` pixels apart, are computed
    together.
    """

    k: Dealt
    m: Dealt
    epilogue: Epilogue
    moving_dtype: str
    x_shape: tuple[int, int, int, int]
    y_shape: tuple[int, int, int, int]
    row_step: int
    col_step: int
    x_row_step: int
    stack: int
    stack_step: int
    groups: tuple[Group, ...]
    chunks: tuple[Tile, ...]
    visits: tuple[Visit, ...]
    takes_turns: bool
    num_matmuls: int
    moving_columns: int
    hbm_bytes: int
    sbuf_bytes: int


@dataclass(frozen=True)
class Shape:
    """What does not depend on sizes of groups and chunks.

    `whole_rows` loads rows that a vertical stride skips, for longer runs.
    """

    product: Product
    k: Dealt
    m: Dealt
    stack: int
    cols: int  # of a stacked piece
    stack_step: int
    whole_rows: bool


@dataclass(frozen=True)
class Cut:
    """Sizes that `make_plans` chooses, and what they cost."""

    shape: Shape
    columns: int  # of a group
    chunk: int  # tiles of y's channels
    group_block: int  # groups that stay in SBUF together, or 0 for weights that stay
    chunk_block: int
    pixels_stay: bool  # all of them
    sbuf_bytes: int
    price: Price

    @property
    def why(self) -> str:
        """The order in words."""
        if self.group_block == 0:
            stays = "weights stay in SBUF" if self.chunk_block == 0 else "blocks of weights stay"
        else:
            stays = "pixels stay in SBUF" if self.pixels_stay else "blocks of pixels stay"
        if self.shape.stack > 1:
            stays += f", {self.shape.stack} pieces of an image side by side"
        return stays


def shapes(product: Product) -> Iterator[Shape]:
    """Yield ways to lay a product on the array, each with fewer columns than those before."""
    pmax = nl.tile_size.pmax
    p = product
    fewest = 0
    for stack in _STACKS:
        K_tiles = ceil_div(p.K, pmax // stack)
        M_tiles = ceil_div(p.M, pmax // stack)
        if stack > 1:
            while M_tiles < p.M and p.M % M_tiles:
                M_tiles += 1
            if K_tiles > 1 or p.rows > 1 or p.cols < 128 * stack:
                continue
        cols = ceil_div(p.cols, stack)
        while stack > 1 and (p.cols - cols) % (stack - 1):
            cols += 1
        columns = cols * K_tiles * M_tiles
        # A better fed array is worth as many columns: it keeps TensorE's clock up.
        if stack > 1 and columns > fewest * 1.02:
            continue
        fewest = columns
        step = (p.cols - cols) // (stack - 1) if stack > 1 else 0
        common = (p, deal(p.K, K_tiles), deal(p.M, M_tiles), stack, cols, step)
        yield Shape(*common, whole_rows=False)
        if p.stride[0] > 1 and p.rows > 1:
            yield Shape(*common, whole_rows=True)


def cuts(product: Product, epilogue: Epilogue, *, sbuf_bytes: int | None = None) -> list[Cut]:
    """Return sizes of groups, chunks and blocks that fit SBUF, the cheapest first.

    Parameters
    ----------
    sbuf_bytes
        SBUF to use per partition; None takes all that the target in force has.
    """
    limit = nl.tile_size.sbuf_fmax_bytes if sbuf_bytes is None else sbuf_bytes
    found: list[Cut] = []
    for sizes in (_COLUMNS, _FEW_COLUMNS):
        if not found:
            for shape in shapes(product):
                found += _cuts(shape, sizes, epilogue, limit)
    # Of what is estimated alike, that which waits the least for operands and stores.
    return sorted(found, key=lambda cut: (round(cut.price.estimate_us(), 1), cut.price.built_ns))


def _cuts(shape: Shape, sizes: tuple[int, ...], epilogue: Epilogue, limit: int) -> Iterator[Cut]:
    """Yield what fits of one shape, for groups of these sizes."""
    m_tiles = shape.m.tiles
    chunks = {m_tiles}
    if shape.stack == 1:  # stacked weights are few, and each transfer of them waits for zeros
        chunks = {1, m_tiles, *(ceil_div(m_tiles, n) for n in (2, 4, 8))}
    pixels = shape.product.N * shape.product.rows * shape.cols
    for columns in sizes:
        if columns // 2 >= max(pixels, _TILE):
            break
        for chunk in sorted(chunks):
            yield from _orders(shape, columns, chunk, epilogue, limit)


def _orders(
    shape: Shape, columns: int, chunk: int, epilogue: Epilogue, limit: int
) -> Iterator[Cut]:
    """Yield the orders of visits that fit, for these sizes."""
    p, itemsize = shape.product, shape.product.moving_itemsize
    group, num_groups = _largest(shape, columns), _num_boxes(shape, columns)
    spread = p.stride[1] * (p.stride[0] if shape.whole_rows else 1)
    if p.cols == 1 and p.stride[0] > 1:
        spread *= p.x_size[1]  # whole rows, for longer runs
    x_bytes = shape.k.tiles * group * itemsize * spread
    w_bytes = chunk * shape.k.tiles * shape.m.partitions * shape.stack * itemsize
    y_bytes = chunk * group * p.itemsize * (1 + epilogue.has_residual)
    num_chunks = ceil_div(shape.m.tiles, chunk)
    vectors = 4 * shape.m.tiles * (epilogue.has_bias + epilogue.has_scale) + 64
    fixed = vectors + epilogue.scratch_bytes + _IN_FLIGHT * y_bytes
    in_flight = min(_IN_FLIGHT if columns >= _TILE else 2, num_groups)

    def cut(
        group_block: int,
        chunk_block: int,
        x_times: int,
        w_times: int,
        used: int,
        stay: bool = False,
    ) -> Cut:
        stays = "pixels" if group_block else "weights"
        price = _price(shape, epilogue, columns, chunk, x_times, w_times, stays)
        return Cut(shape, columns, chunk, group_block, chunk_block, stay, used, price)

    all_w, all_x = num_chunks * w_bytes, num_groups * x_bytes
    weights_stay = fixed + all_w + in_flight * x_bytes
    pixels_stay = fixed + all_x + min(2, num_chunks) * w_bytes
    if weights_stay <= limit:
        yield cut(0, 0, 1, 1, weights_stay)
    if pixels_stay <= limit:
        yield cut(num_groups, 0, 1, 1, pixels_stay, stay=True)
    if weights_stay <= limit or pixels_stay <= limit:
        return
    groups = (limit - fixed - 2 * w_bytes) // (2 * x_bytes)  # the next block loads meanwhile
    if groups >= 1:
        used = fixed + 2 * w_bytes + 2 * groups * x_bytes
        yield cut(groups, 0, 1, ceil_div(num_groups, groups), used)
    chunks = (limit - fixed - in_flight * x_bytes) // (2 * w_bytes)
    if chunks >= 1:
        used = fixed + in_flight * x_bytes + 2 * chunks * w_bytes
        yield cut(0, chunks, ceil_div(num_chunks, chunks), 1, used)


def _num_boxes(shape: Shape, columns: int) -> int:
    """Return how many boxes `split` makes of all pixels."""
    p = shape.product
    if p.rows * shape.cols <= columns:
        return ceil_div(p.N, columns // (p.rows * shape.cols))
    if shape.cols <= columns:
        return p.N * ceil_div(p.rows, columns // shape.cols)
    return p.N * p.rows * ceil_div(shape.cols, columns)


def _largest(shape: Shape, columns: int) -> int:
    """Return the pixels of the largest of these boxes."""
    p, count = shape.product, _num_boxes(shape, columns)
    plane = p.rows * shape.cols
    if plane <= columns:
        return ceil_div(p.N, count) * plane
    if shape.cols <= columns:
        return ceil_div(p.rows, count // p.N) * shape.cols
    return ceil_div(shape.cols, count // (p.N * p.rows))


def _price(
    shape: Shape,
    epilogue: Epilogue,
    columns: int,
    chunk: int,
    x_times: int,
    w_times: int,
    stays: str,
) -> Price:
    """Return what these sizes cost; "weights" or "pixels" stay in SBUF, or blocks of them."""
    p, hw = shape.product, hardware()
    k, m, stack = shape.k, shape.m, shape.stack
    pixels = p.N * p.rows * shape.cols
    num_groups, num_tiles = _num_boxes(shape, columns), _num_boxes(shape, min(columns, _TILE))
    num_chunks = ceil_div(m.tiles, chunk)
    matmuls = num_tiles * k.tiles * m.tiles
    each = ceil_div(pixels, num_tiles)
    cycles = matmul_cycles(each, p.moving_itemsize, hw, stack * m.rows[0])
    if p.stride[1] * p.moving_itemsize > hw.wide_stride_bytes:
        cycles *= 2
    tensor_cycles = matmuls * cycles
    evictions = num_tiles * m.tiles
    by_vector = evictions // 2 if _takes_turns(epilogue) else 0
    if epilogue.has_residual:
        by_vector = evictions
    by_scalar = evictions if epilogue.has_residual else evictions - by_vector
    # small groups at both ends: as many more as a group has tiles, less the group itself
    ramp = 2 * (ceil_div(num_tiles, num_groups) - 1) if num_groups > 1 else 0
    x = _x_transfers(shape, columns, num_groups + ramp)
    y = _y_transfers(shape, columns, chunk, (num_groups + ramp) * num_chunks)
    w = Transfers(num_chunks, k.partitions, chunk * k.tiles * m.partitions * p.moving_itemsize)
    if stack > 1:
        run = m.partitions * p.moving_itemsize
        w = Transfers(num_chunks * stack, k.partitions * chunk, run)
    transfers = [
        replace(x, count=x.count * x_times),
        replace(w, count=w.count * w_times),
        replace(y, to_hbm=True),
    ]
    if epilogue.has_residual:
        transfers.append(y)
    first = 1 / num_tiles if num_groups > 1 else 1
    end = each if num_groups > 1 else pixels  # pixels of the first group, and of the last
    first_load = first * x.bytes + w.bytes / (m.tiles if stack == 1 else num_chunks)
    # What streams past the part that stays is needed within that part's first share of the work,
    # while results are stored, unless there is but one visit in it.
    shares, visits = (num_groups, num_chunks) if stays == "weights" else (num_chunks, num_groups)
    streamed = w.bytes + x.bytes / shares if stays == "weights" else x.bytes + w.bytes / shares
    stored = y.bytes / shares if visits > 1 else 0.0
    rate = hw.memory_bytes_per_ns
    late_ns = (streamed - first_load + stored) / rate
    late_ns -= tensor_cycles / hw.tensor_ghz / shares
    first_ns = _first_ns(shape, end, x, round(w.bytes / (m.tiles if stack == 1 else num_chunks)))
    first_ns += max(0.0, late_ns)
    # Stores begin when the first one's tiles are computed.
    part = _first_part(shape, columns, chunk, is_last=num_groups * num_chunks == 1)
    computed_ns = first * part / m.tiles * tensor_cycles / hw.tensor_ghz
    earlier_ns = y.count * transfer_ns(replace(y, to_hbm=True), hw) * (1 - first / m.tiles)
    # Where transfers limit it, the last results are computed when all else is moved.
    moved_ns = sum(t.count * transfer_ns(t, hw) for t in transfers[:2]) + earlier_ns
    moved_ns += hw.dma_static_start_ns + hw.dma_complete_ns
    return Price(
        moving_columns=pixels * k.tiles * m.tiles,
        matmuls=matmuls,
        tensor_cycles=tensor_cycles,
        streamed_cycles=streamed_cycles(
            pixels * k.tiles * m.tiles, p.moving_itemsize, stack * k.size / k.tiles, hw
        ),
        transfers=tuple(transfers),
        scalar_elems=by_scalar * each,
        scalar_instructions=by_scalar,
        vector_elems=by_vector * each,
        vector_instructions=by_vector,
        first_ns=first_ns,
        last_ns=_last_ns(shape, end, each, y, by_vector > 0),
        built_ns=max(first_ns + computed_ns + earlier_ns, moved_ns),
        lead_ns=_lead_ns(shape, chunk),
        static_instructions=matmuls
        + evictions * epilogue.instructions
        # a rest of the channels has transfers of its own
        + sum(t.count for t in transfers) * (2 if k.rest or m.rest else 1)
        + 8 * stack,
    )


def _first_ns(shape: Shape, pixels: int, x: Transfers, w_bytes: int) -> float:
    """Return when the first matmul has its pixels and weights, which are loaded in this order."""
    hw, k = hardware(), shape.k
    spread = shape.product.stride[1] * (shape.product.stride[0] if shape.whole_rows else 1)
    elems = pixels * k.partitions * k.tiles * shape.stack * spread
    run = min(x.run_bytes, elems * shape.product.itemsize)
    x_first = Transfers(1, ceil_div(elems * shape.product.itemsize, run), run)
    partitions = k.partitions * shape.stack
    w_first = Transfers(1, partitions, ceil_div(w_bytes, partitions))
    loaded = max(
        alone_ns(x_first, partitions, hw),
        hw.dma_static_issue_ns + alone_ns(w_first, partitions, hw),
        hw.dma_fill_ns + transfer_ns(x_first, hw) + transfer_ns(w_first, hw),
    )
    return hw.dma_static_start_ns + loaded + hw.dma_complete_ns + hw.dependency_ns


def _last_ns(shape: Shape, pixels: int, each: int, y: Transfers, takes_turns: bool) -> float:
    """Return how long the end takes from the last matmul, of `each` pixels, on."""
    hw, p = hardware(), shape.product
    ghz, latency = hw.scalar_ghz, hw.scalar_latency_ns
    if takes_turns:
        ghz, latency = hw.vector_ghz, hw.vector_latency_ns
    emptied = (each + hw.engine_issue_cycles) / ghz + latency
    partitions = shape.m.partitions * shape.stack
    tiles = 1
    if p.rows * shape.cols <= pixels:  # whole planes: short runs are put together
        tiles = min(
            shape.m.tiles, ceil_div(hw.dma_hbm_write_bytes, p.rows * shape.cols * p.itemsize)
        )
    moved = pixels * partitions * tiles * p.itemsize
    run = min(y.run_bytes, pixels * tiles * p.itemsize)
    if p.rows * shape.cols <= pixels:
        run = p.rows * shape.cols * tiles * p.itemsize
    stored = alone_ns(Transfers(1, ceil_div(moved, run), run, to_hbm=True), partitions, hw)
    start = hw.tensor_latency_ns + 2 * hw.dependency_ns + emptied
    return start + hw.dma_static_start_ns + stored + hw.dma_complete_ns


def _first_part(shape: Shape, columns: int, chunk: int, *, is_last: bool) -> int:
    """Return the tiles of y's channels that the first store writes (`_parts`)."""
    p = shape.product
    plane = p.rows * shape.cols
    most = chunk
    if plane > columns:
        most = ceil_div(_STORE_BYTES, min(plane, columns) * p.itemsize)
    part = even_tiles(chunk, most)[0].size
    return ceil_div(part, 2) if is_last and part == chunk else part


def _lead_ns(shape: Shape, chunk: int) -> float:
    """Return for how long stacked weights are zeroed before they are loaded."""
    if shape.stack == 1:
        return 0.0
    hw = hardware()
    zeroed = ceil_div(chunk, 2) * shape.stack * shape.m.partitions
    loads = shape.stack * hw.dma_static_issue_ns
    return zeroed / hw.vector_ghz + hw.vector_latency_ns + loads


def _y_transfers(shape: Shape, columns: int, chunk: int, count: int) -> Transfers:
    """Return the stores of groups of pixels."""
    p, m = shape.product, shape.m
    plane = p.rows * shape.cols
    elems = p.N * plane * m.tiles * m.partitions * shape.stack
    run = min(plane, _largest(shape, columns))
    if plane <= columns and shape.stack == 1:
        run = plane * chunk
    return Transfers(count, ceil_div(elems, run * count), run * p.itemsize)


def _x_transfers(shape: Shape, columns: int, count: int) -> Transfers:
    """Return the loads of groups of pixels."""
    p, k = shape.product, shape.k
    plane = p.rows * shape.cols
    pixels = p.N * k.partitions * k.tiles * shape.stack * plane
    if p.stride == (1, 1):
        run = min(plane, _largest(shape, columns))
        if plane <= columns and shape.stack == 1:
            run = plane * k.tiles
    elif shape.whole_rows:
        pixels = p.N * k.partitions * k.tiles * p.x_size[0] * p.x_size[1]
        run = p.x_size[1] * max(1, min(plane, columns) // shape.cols) * p.stride[0]
        if plane <= columns:
            run = p.x_size[0] * p.x_size[1] * k.tiles
    else:
        pixels = p.N * k.partitions * k.tiles * p.rows * p.x_size[1]
        run = min(p.x_size[1], columns * p.stride[1])
    return Transfers(count, ceil_div(pixels, run * count), run * p.itemsize)


def _takes_turns(epilogue: Epilogue) -> bool:
    """Whether VectorE helps: not on trn1, where PSUM serves one of the two at a time."""
    simple = epilogue.activation in (None, "relu", "relu6")
    return simple and not epilogue.has_residual and hardware().generation >= 3


def make_plan(cut: Cut, epilogue: Epilogue) -> MatmulPlan:
    """Return the plan of these sizes."""
    shape, p = cut.shape, cut.shape.product
    groups = tuple(_group(shape, box) for box in _ramped(shape, cut.columns))
    chunks = even_tiles(shape.m.tiles, cut.chunk)
    order = list(_visits(cut, len(groups), len(chunks)))
    visits = tuple(
        Visit(
            g,
            c,
            _parts(groups[g].box, chunks[c], p, is_last=i == len(order) - 1),
            _ascending(chunks[c]) if i == 0 and shape.stack == 1 else (chunks[c],),
            load_x,
            load_w,
        )
        for i, (g, c, load_x, load_w) in enumerate(order)
    )
    num_tiles = sum(len(group.tiles) for group in groups)
    return MatmulPlan(
        k=shape.k,
        m=shape.m,
        epilogue=epilogue,
        moving_dtype=p.dtype,
        x_shape=(p.N, p.K, *p.x_size),
        y_shape=(p.N, p.M, p.rows, p.cols),
        row_step=p.stride[0] if shape.whole_rows else 1,
        col_step=p.stride[1],
        x_row_step=1 if shape.whole_rows else p.stride[0],
        stack=shape.stack,
        stack_step=shape.stack_step,
        groups=groups,
        chunks=chunks,
        visits=visits,
        takes_turns=_takes_turns(epilogue),
        num_matmuls=num_tiles * shape.k.tiles * shape.m.tiles,
        moving_columns=cut.price.moving_columns,
        hbm_bytes=_hbm_bytes(shape, epilogue, groups, visits, chunks),
        sbuf_bytes=cut.sbuf_bytes,
    )


def _hbm_bytes(
    shape: Shape,
    epilogue: Epilogue,
    groups: tuple[Group, ...],
    visits: tuple[Visit, ...],
    chunks: tuple[Tile, ...],
) -> int:
    """Return the bytes that cross HBM."""
    p, k, m = shape.product, shape.k, shape.m
    x = sum(
        groups[v.i_group].box.images.size * groups[v.i_group].x_rows.size
        * groups[v.i_group].x_cols.size
        for v in visits
        if v.load_x
    )  # fmt: skip
    w = sum(chunks[v.i_chunk].size for v in visits if v.load_w) * k.tiles * m.partitions
    y = p.N * p.M * p.rows * p.cols * p.itemsize
    # residuals of pieces are loaded with what neighbours share
    residual = p.N * p.M * p.rows * shape.cols * shape.stack * p.itemsize
    vectors = 4 * p.M * shape.stack * (epilogue.has_bias + epilogue.has_scale)
    return (
        x * p.K * shape.stack * p.itemsize
        + w * k.partitions * shape.stack * p.moving_itemsize
        + y
        + residual * epilogue.has_residual
        + vectors
    )


def _parts(box: Box, chunk: Tile, p: Product, *, is_last: bool) -> tuple[Tile, ...]:
    """Return the tiles of a chunk that are stored together: few, but in transfers that pay.

    Where the box has whole planes of y they make up one run, which should not be short.
    """
    bytes_each = box.rows.size * box.cols.size * p.itemsize
    if bytes_each == p.rows * p.cols * p.itemsize:
        least, most = ceil_div(hardware().dma_hbm_write_bytes, bytes_each), chunk.size
    else:
        least, most = 1, ceil_div(_STORE_BYTES, bytes_each)
    parts = even_tiles(chunk.size, most, chunk.start)
    if not is_last:
        return parts
    return (*parts[:-1], *_halves(parts[-1], least))


def _halves(tile: Tile, least: int) -> tuple[Tile, ...]:
    """Return a half of the tile, a half of the rest, and so on; none shorter than `least`."""
    parts, start, size = [], tile.start, tile.size
    while size >= 2 * least and size > 1:
        parts.append(Tile(start, ceil_div(size, 2)))
        start, size = start + ceil_div(size, 2), size // 2
    return (*parts, Tile(start, size))


def _ascending(tile: Tile) -> tuple[Tile, ...]:
    """Return the tile in parts each larger than the one before: what is needed first is small."""
    parts, start = [], tile.start
    for part in reversed(_halves(tile, 1)):
        parts.append(Tile(start, part.size))
        start += part.size
    return tuple(parts)


def _visits(cut: Cut, num_groups: int, num_chunks: int) -> Iterator[tuple[int, int, bool, bool]]:
    """Yield group, chunk, and whether to load x and w, in the order of the visits."""
    ramp = num_groups if cut.pixels_stay else 0
    if cut.group_block == 0:
        for chunks in tiles(num_chunks, cut.chunk_block or num_chunks):
            for g in range(num_groups):
                for c in range(chunks.start, chunks.start + chunks.size):
                    yield g, c, c == chunks.start, g == 0
        return
    for groups in tiles(num_groups, cut.group_block + ramp):
        for c in range(num_chunks):
            for g in range(groups.start, groups.start + groups.size):
                yield g, c, c == 0, g == groups.start


def _ramped(shape: Shape, columns: int) -> list[Box]:
    """Return boxes of so many columns; the first and last in small parts, which wait for less."""
    p = shape.product
    whole = Box(Tile(0, p.N), Tile(0, p.rows), Tile(0, shape.cols))
    boxes = split(whole, columns)
    small = _TILE
    if len(boxes) == 1:
        return boxes
    return [*split(boxes[0], small), *boxes[1:-1], *split(boxes[-1], small)]


def split(box: Box, columns: int) -> list[Box]:
    """Cut a box into boxes of at most so many pixels, along one axis at a time."""
    if box.rows.size * box.cols.size <= columns:
        most = columns // (box.rows.size * box.cols.size)
        parts = even_tiles(box.images.size, most, box.images.start)
        return [Box(part, box.rows, box.cols) for part in parts]
    found = []
    for n in range(box.images.start, box.images.start + box.images.size):
        if box.cols.size <= columns:
            for rows in even_tiles(box.rows.size, columns // box.cols.size, box.rows.start):
                found.append(Box(Tile(n, 1), rows, box.cols))
            continue
        for r in range(box.rows.start, box.rows.start + box.rows.size):
            for cols in even_tiles(box.cols.size, columns, box.cols.start):
                found.append(Box(Tile(n, 1), Tile(r, 1), cols))
    return found


def num_instructions(plan: MatmulPlan) -> int:
    """Return the most instructions that the kernel's program has."""
    e, m = plan.epilogue, plan.m
    k_loads = 1 if plan.stack > 1 or not plan.k.rest else 2
    num = 2  # ScalarE's table
    num += (e.has_scale + e.has_bias) * (plan.stack + (m.rest > 0))
    for visit in plan.visits:
        num += k_loads * visit.load_x
        if visit.load_w:
            zeros = 2 if plan.stack > 1 else 0
            num += zeros + len(visit.loads) * plan.stack
        tiles = len(plan.groups[visit.i_group].tiles)
        for part in visit.parts:
            num += tiles * part.size * (plan.k.tiles + e.instructions)
            copies = 2 if plan.stack > 1 or part.start < m.rest else 1
            num += copies * (1 + e.has_residual)
    return num


def _group(shape: Shape, box: Box) -> Group:
    p = shape.product
    inner = Box(Tile(0, box.images.size), Tile(0, box.rows.size), Tile(0, box.cols.size))
    parts = split(inner, _TILE)
    if shape.whole_rows:
        rows = _span(box.rows, p.rows, p.stride[0], p.x_size[0])
    else:
        rows = Tile(box.rows.start * p.stride[0], box.rows.size)
    cols = _span(box.cols, shape.cols, p.stride[1], p.x_size[1])
    turned = tuple(replace(part, turn=i * shape.m.tiles) for i, part in enumerate(parts))
    if p.stride == (1, 1):
        cols = box.cols
    return Group(box, turned, rows, cols)


def _span(outputs: Tile, num_outputs: int, stride: int, size: int) -> Tile:
    """Return the pixels of an axis that hold these outputs, all where all are needed."""
    if outputs.size == num_outputs:
        return Tile(0, size)
    start = outputs.start * stride
    return Tile(start, min(outputs.size * stride, size - start))


def arrange(w: Array, plan: MatmulPlan) -> Array:
    """Return w (K, M) as (partitions, tile of m, tile of k, m of the tile), zeros where none is."""
    k, m = plan.k, plan.m
    padded = np.zeros((k.partitions * k.tiles, m.partitions * m.tiles), dtype=w.dtype)
    padded[: k.size, : m.size] = w
    dealt = padded.reshape(k.partitions, k.tiles, m.partitions, m.tiles)
    return np.ascontiguousarray(dealt.transpose(0, 3, 1, 2))
