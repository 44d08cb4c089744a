"""The plan of grouped and depthwise convolutions: which groups, rows and images work side by side.

TensorE contracts over 128 partitions, and a group seldom has as many channels.  So the partitions
are shared between *lanes*, and within a lane between groups:

    partition of x = lane*K + g*C_in + ci      K = groups of a block * C_in
    partition of y = lane*M + g*C_out + co     M = groups of a block * C_out

The stationary operand of a tap is block-diagonal: one copy of a group's weights for each lane.
Lanes are other images, or bands of rows of the same image.  More channels than partitions make
several blocks, or (a channel in and out per group) `planes`: partition q has channels q*planes to
q*planes + planes - 1, which lie side by side in HBM, so that one transfer's runs are longer.

Rows and columns are trimmed to the image where some tap reaches every output (_strip.py): that tap
comes first and overwrites PSUM; others add to the outputs that they reach.  Bands have a border.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki.language as nl

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Axis, Geometry, Tile, ceil_div, even_tiles, tap_outputs, tiles
from nkiconv.kernels._strip import Run, Side, make_side
from nkiconv.simulate.hardware import Hardware, hardware

_STATIONARY_BYTES = 49152  # per partition and block, to keep; more is built again where it is used
_LOAD_BYTES = 4096  # per partition and transfer: the DMA rate levels off here
_UNIT_BYTES = 8192  # per partition: images in SBUF together where a plane is small
_BUILD_BYTES = 2048  # of stationary operands per partition, by one instruction that builds them
_FIRST_TAPS = 2  # whose operands are built first


@dataclass(frozen=True)
class Tap(nl.NKIObject):
    """A tap; taps are numbered in the order in which the kernel adds them."""

    row: int
    col: int


@dataclass(frozen=True)
class Batch(nl.NKIObject):
    """Images of each lane that are in SBUF together, counted within the lane."""

    start: int
    size: int
    lanes: int


@dataclass(frozen=True)
class Piece(nl.NKIObject):
    """What a transfer brings: images of the batch, planes, and places of rows."""

    images: Tile
    planes: Tile
    places: Tile


@dataclass(frozen=True)
class Outputs(nl.NKIObject):
    """A PSUM tile: images of the batch, one plane, rows of the band, columns."""

    images: Tile
    plane: int
    rows: Tile
    cols: Tile


@dataclass(frozen=True)
class Block(nl.NKIObject):
    """What a store writes; the PSUM tiles of each of `rounds` are accumulated side by side."""

    images: Tile
    planes: Tile
    rows: Tile
    rounds: tuple[tuple[Outputs, ...], ...]


@dataclass(frozen=True)
class Strip(nl.NKIObject):
    """Rows of each band whose pixels are in SBUF together; `bands` has the rows of each."""

    bands: tuple[Side, ...]
    zeros: tuple[Tile, ...]
    pieces: tuple[Piece, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Chunk(nl.NKIObject):
    """Stationary operands that one instruction builds: taps of one plane."""

    plane: int
    taps: Tile
    on_vector: bool


@dataclass(frozen=True)
class Part(nl.NKIObject):
    """Images that are alike: how many are in SBUF together, and the strips that they are cut into.

    A rest of fewer images has strips of its own.
    """

    batches: tuple[Batch, ...]
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class GroupedPlan(nl.NKIObject):
    """What the kernel does with some of the groups, decided beforehand.

    Parameters
    ----------
    groups
        Blocks of groups, one after the other.
    planes
        Channels per partition; only where a group has one channel in and out.
    bands, band_rows
        Bands of an image, and the output rows of each; the last may have fewer.
    lane_images
        Images of a lane; lane l has those from l*lane_images on.  Of 1 with several bands.
    resident
        Whether all stationary operands of a block are kept.
    fast
        The weights are bfloat16, and x becomes it when it is loaded, whatever y is.
    """

    geometry: Geometry
    epilogue: Epilogue
    groups: tuple[Tile, ...]
    planes: int
    lanes: int
    bands: int
    band_rows: int
    lane_images: int
    taps: tuple[Tap, ...]
    chunks: tuple[Chunk, ...]
    resident: bool
    fast: bool
    trimmed_rows: bool
    cols: Side
    trimmed_cols: bool
    parts: tuple[Part, ...]
    num_matmuls: int
    moving_columns: int
    sbuf_bytes: int

    @property
    def held_bytes(self) -> int:
        """Return the bytes of an element of x and w in SBUF."""
        return _held_bytes(self.geometry, self.fast)


@dataclass(frozen=True)
class Job(nl.NKIObject):
    """A block of groups, of a section."""

    section: int
    groups: Tile


@dataclass(frozen=True)
class GroupedPlans(nl.NKIObject):
    """Everything that the kernel does: blocks of groups, one after the other.

    Taps are in the same order in all sections.  `mask_groups` are the most blocks on a diagonal.
    """

    geometry: Geometry
    epilogue: Epilogue
    y_shape: tuple[int, int, int, int]
    sections: tuple[GroupedPlan, ...]
    jobs: tuple[Job, ...]
    mask_groups: int
    sbuf_bytes: int


def piece_rows(piece: Piece, inside: Run) -> Run:
    """Return the rows that a transfer brings to a band, of those inside the image.

    Kernels call it, too, and `stored_rows`: they hold to the Python of the compiler.
    """
    place = max(piece.places.start, inside.place)
    end = min(piece.places.start + piece.places.size, inside.place + inside.size)
    pixel = inside.pixel + (place - inside.place) * inside.step
    return Run(place, pixel, max(0, end - place), inside.step)


def stored_rows(block: Block, band: int, plan: GroupedPlan) -> Tile:
    """Return the rows of y that a block holds of a band; the last band may have fewer."""
    first = band * plan.band_rows + block.rows.start
    return Tile(first, max(0, min(block.rows.size, plan.geometry.rows.outputs - first)))


def full_tap(axis: Axis) -> int:
    """Return a tap that finds a pixel of the image for every output, or -1."""
    best = -1
    for tap in range(axis.taps):
        if tap_outputs(axis, Tile(0, axis.outputs), tap).size == axis.outputs and (
            best < 0 or abs(2 * tap - axis.taps + 1) < abs(2 * best - axis.taps + 1)
        ):
            best = tap
    return best


def sections(g: Geometry, most: int) -> tuple[Tile, ...]:
    """Split the groups so that lanes leave few partitions idle, in at most `most` parts.

    96 channels with a lane each leave a quarter idle; 64 with two and 32 with four leave none.
    Full blocks come first.  Parts take time in proportion to one over their lanes.
    """
    fit = side_by_side(g)
    full = g.G // fit * fit
    rest = g.G - full
    parts = [full] if full else []
    while rest:
        size = rest
        if len(parts) + 1 < most:
            # Of the part sizes, the one that leaves the fewest partitions idle; then the largest.
            size = min(range(1, rest + 1), key=lambda n: (fit - fit // n * n, -n))
            if fit // size * size == fit // rest * rest:
                size = rest
        parts.append(size)
        rest -= size
    starts = [sum(parts[:i]) for i in range(len(parts))]
    return tuple(Tile(start, size) for start, size in zip(starts, parts, strict=True))


def side_by_side(g: Geometry) -> int:
    """Return how many groups fit TensorE's array side by side; 0 for none."""
    return nl.tile_size.pmax // max(g.C_in, g.C_out)


def _held_bytes(g: Geometry, fast: bool) -> int:
    return 2 if fast else g.itemsize


def plan_grouped(
    g: Geometry, epilogue: Epilogue, some: Tile, lanes: int, planes: int, *, fast: bool
) -> GroupedPlan | None:
    """Cut a convolution of several groups into parts that SBUF and PSUM hold.

    Parameters
    ----------
    some
        The groups.
    lanes
        Lanes to use at most; more than one needs all groups side by side.
    planes
        1, or how many channels each partition has.
    fast
        Operands of float32 become bfloat16 on their way to SBUF.

    Returns
    -------
    plan
        None where not even one row fits.
    """
    if planes > 1:
        groups: tuple[Tile, ...] = (Tile(some.start, some.size // planes),)
    else:
        groups = even_tiles(some.size, side_by_side(g), some.start)
    bands = max(1, min(lanes // g.N, g.rows.outputs))
    band_rows = ceil_div(g.rows.outputs, bands)
    bands = ceil_div(g.rows.outputs, band_rows)
    lane_images = 1 if bands > 1 else ceil_div(g.N, min(lanes, g.N))
    lanes = g.N * bands if bands > 1 else ceil_div(g.N, lane_images)

    trimmed_rows = bands == 1 and full_tap(g.rows) >= 0
    trimmed_cols = full_tap(g.cols) >= 0
    cols = make_side(g.cols, Tile(0, g.cols.outputs), None if trimmed_cols else "zeros", whole=True)
    taps = _ordered_taps(g)
    m = lanes * groups[0].size * g.C_out
    held = _held_bytes(g, fast)
    resident = planes * len(taps) * m * held <= _STATIONARY_BYTES
    if planes > 1 and not resident:
        return None

    height = band_rows
    while True:
        sbuf = _sbuf_bytes(
            g, epilogue, groups, planes, lanes, lane_images, height, cols, resident, held
        )
        if sbuf <= nl.tile_size.sbuf_fmax_bytes:
            break
        if height == 1 or planes > 1:
            return None
        height = ceil_div(height, 2)
    height = ceil_div(band_rows, ceil_div(band_rows, height))

    parts = []
    matmuls = columns = 0
    for batches in _batches(g, planes, lanes, lane_images, height < band_rows):
        strips = tuple(
            _strip(g, rows, bands, band_rows, trimmed_rows, cols, batches[0].size, planes, resident)
            for rows in even_tiles(band_rows, height)
        )
        parts.append(Part(batches, strips))
        counts = [_counts(g, strip, trimmed_rows, trimmed_cols) for strip in strips]
        matmuls += len(batches) * len(groups) * sum(n for n, _ in counts)
        columns += len(batches) * len(groups) * sum(n for _, n in counts)
    return GroupedPlan(
        geometry=g,
        epilogue=epilogue,
        groups=groups,
        planes=planes,
        lanes=lanes,
        bands=bands,
        band_rows=band_rows,
        lane_images=lane_images,
        taps=taps,
        chunks=_chunks(len(taps), planes, m, held),
        resident=resident,
        fast=fast,
        trimmed_rows=trimmed_rows,
        cols=cols,
        trimmed_cols=trimmed_cols,
        parts=tuple(parts),
        num_matmuls=matmuls,
        moving_columns=columns,
        sbuf_bytes=sbuf,
    )


def join_sections(
    g: Geometry, epilogue: Epilogue, found: tuple[GroupedPlan, ...]
) -> GroupedPlans | None:
    """Return the plan of all sections, or None where SBUF does not hold two at once."""
    sizes = [section.sbuf_bytes for section in found]
    most = max(sum(sizes[i : i + 2]) for i in range(len(sizes)))
    if most > nl.tile_size.sbuf_fmax_bytes:
        return None
    return GroupedPlans(
        geometry=g,
        epilogue=epilogue,
        y_shape=(g.N, g.G * g.C_out, g.rows.outputs, g.cols.outputs),
        sections=found,
        jobs=tuple(Job(i, groups) for i, section in enumerate(found) for groups in section.groups),
        mask_groups=max(section.lanes * section.groups[0].size for section in found),
        sbuf_bytes=most,
    )


def _ordered_taps(g: Geometry) -> tuple[Tap, ...]:
    """Return the taps, first one that reaches every output."""
    first = Tap(max(0, full_tap(g.rows)), max(0, full_tap(g.cols)))
    every = [Tap(row, col) for row in range(g.rows.taps) for col in range(g.cols.taps)]
    return (first, *(tap for tap in every if tap != first))


def build_rate(itemsize: int, hw: Hardware) -> float:
    """Return VectorE's cycles for an element of a stationary operand; GpSimdE's are 1 or more."""
    if hw.generation >= 3:
        return 0.5 if itemsize == 2 else 1.0
    return 1.0 if itemsize == 2 else hw.float32_pair_cycles


def takes_turns(itemsize: int, hw: Hardware) -> bool:
    """Whether VectorE and GpSimdE wait for each other where both build operands.

    On NeuronCore-v2 they share a port to SBUF; later, VectorE's faster modes take that of GpSimdE.
    """
    return hw.generation < 3 or build_rate(itemsize, hw) < 1


def _builders(itemsize: int) -> tuple[bool, ...]:
    """Return which engines build in turn, whether VectorE: one where the two would wait."""
    hw = hardware()
    if not takes_turns(itemsize, hw):
        return (True, False)
    rate = build_rate(itemsize, hw)
    elems = _BUILD_BYTES // itemsize
    vector = (elems * rate + hw.engine_issue_cycles) / hw.vector_ghz
    gpsimd = (elems * max(1.0, rate) + hw.gpsimd_issue_cycles) / hw.gpsimd_ghz
    return (vector < gpsimd,)


def _chunks(num_taps: int, planes: int, m: int, itemsize: int) -> tuple[Chunk, ...]:
    """Return what builds the stationary operands, in the order of their use.

    The first one is short, and of VectorE, which is the first to be done: TensorE waits for it.
    """
    most = max(1, _BUILD_BYTES // (m * itemsize))
    first = _ramp(num_taps, _FIRST_TAPS, most)
    others = even_tiles(num_taps, min(num_taps, most))
    turns = _builders(itemsize)
    every = [(plane, part) for plane in range(planes) for part in (others if plane else first)]
    return tuple(
        Chunk(plane, part, i == 0 or turns[i % len(turns)]) for i, (plane, part) in enumerate(every)
    )


def _ramp(size: int, first: int, most: int) -> tuple[Tile, ...]:
    """Split `size` into tiles of at most `most`, from `first` on each up to twice the one before.

    What follows the ramp is split evenly.
    """
    found, start, each = [], 0, first
    while start < size and each < most:
        found.append(Tile(start, min(each, size - start)))
        start, each = start + each, 2 * each
    rest = size - start
    return (*found, *(even_tiles(rest, min(rest, most), start) if rest > 0 else ()))


def _batches(
    g: Geometry, planes: int, lanes: int, lane_images: int, striped: bool
) -> list[tuple[Batch, ...]]:
    """Return the images that are in SBUF together, those of the same number side by side.

    The last lane may have fewer images than the others, and bands have one each.
    """
    size = images_together(g, planes, lane_images, striped)
    rest = lane_images - (lanes * lane_images - g.N) if lane_images > 1 else 1
    spans = [(Tile(0, rest), lanes)]
    if rest < lane_images:
        spans.append((Tile(rest, lane_images - rest), lanes - 1))
    by_size: dict[int, list[Batch]] = {}
    for span, count in spans:
        for part in tiles(span.size, size, span.start):
            by_size.setdefault(part.size, []).append(Batch(part.start, part.size, count))
    return [tuple(batches) for batches in by_size.values()]


def images_together(g: Geometry, planes: int, lane_images: int, striped: bool) -> int:
    """Return how many images of a lane are in SBUF together."""
    if striped:
        return 1
    bank = nl.tile_size.psum_bank_fmax
    packed = max(1, bank // (g.rows.outputs * g.cols.outputs))
    plane = planes * g.rows.size * g.cols.size * g.itemsize
    return min(lane_images, packed * max(1, _UNIT_BYTES // (plane * packed)))


def _sbuf_bytes(
    g: Geometry,
    epilogue: Epilogue,
    groups: tuple[Tile, ...],
    planes: int,
    lanes: int,
    lane_images: int,
    height: int,
    cols: Side,
    resident: bool,
    held: int,
) -> int:
    """Return what a partition holds: two strips, two results, weights, what they are built with."""
    striped = height < g.rows.outputs
    images = images_together(g, planes, lane_images, striped)
    x_rows = (height - 1) * g.rows.stride + (g.rows.taps - 1) * g.rows.dilation + 1
    x = images * planes * x_rows * cols.size * held
    y = images * planes * height * g.cols.outputs * g.itemsize
    taps, m = g.rows.taps * g.cols.taps, lanes * groups[0].size * g.C_out
    w = planes * taps * g.C_out * held
    built = planes * taps * m if resident else 4 * max(m, _BUILD_BYTES // held)
    copies = 2 if len(groups) > 1 else 1
    vectors = 4 * planes * (epilogue.has_scale + epilogue.has_bias)
    return (
        2 * x
        + (4 if epilogue.has_residual else 2) * y
        + copies * (w + built * held + vectors)
        + m * held * 2
        + epilogue.scratch_bytes
        + 64
    )


def _strip(
    g: Geometry,
    rows: Tile,
    bands: int,
    band_rows: int,
    trimmed: bool,
    cols: Side,
    images: int,
    planes: int,
    resident: bool,
) -> Strip:
    mode = None if trimmed else "zeros"
    sides = tuple(
        make_side(g.rows, Tile(band * band_rows + rows.start, rows.size), mode)
        for band in range(bands)
    )
    size = sides[0].size
    top = max(side.inside.place if side.inside.size else size for side in sides)
    bottom = max(size - side.inside.place - side.inside.size for side in sides)
    zeros = [Tile(0, top)] if top else []
    if bottom:
        start = max(top, size - bottom)
        if start < size:
            zeros.append(Tile(start, size - start))
    bank = nl.tile_size.psum_bank_fmax
    together = 4 if resident else 8  # PSUM banks; all, where operands are built for each round
    col_tiles = even_tiles(g.cols.outputs, bank)
    row_tiles = even_tiles(rows.size, max(1, min(rows.size, bank // col_tiles[0].size)), rows.start)
    plane = rows.size * g.cols.outputs
    packed = min(images, max(1, bank // plane)) if len(row_tiles) == 1 else 1
    if plane * g.itemsize >= _LOAD_BYTES // 2 or planes == images == 1:
        spans = [
            (Tile(i, 1), Tile(t, 1), part)
            for t in range(planes)
            for i in range(images)
            for part in tiles(len(row_tiles), max(1, together // len(col_tiles)))
        ]
    else:
        spans = [(Tile(0, images), Tile(0, planes), Tile(0, len(row_tiles)))]
    blocks = tuple(_block(span, row_tiles, col_tiles, packed, together) for span in spans)
    reach = (row_tiles[0].size - 1) * g.rows.stride + (g.rows.taps - 1) * g.rows.dilation
    first = max(1, reach // sides[0].step + 1 - sides[0].inside.place)
    return Strip(
        bands=sides,
        zeros=tuple(zeros),
        pieces=_pieces(g, size, cols, images, planes, sides[0].inside.place + first),
        blocks=blocks,
    )


def _block(
    span: tuple[Tile, Tile, Tile],
    row_tiles: tuple[Tile, ...],
    col_tiles: tuple[Tile, ...],
    packed: int,
    together: int,
) -> Block:
    """Return what a store writes: images, planes and a range of the tiles of rows."""
    images, planes, part = span
    rows = row_tiles[part.start : part.start + part.size]
    every = [
        Outputs(some, plane, row, col)
        for plane in range(planes.start, planes.start + planes.size)
        for some in even_tiles(images.size, packed, images.start)
        for row in rows
        for col in col_tiles
    ]
    rounds = tuple(
        tuple(every[part.start : part.start + part.size]) for part in tiles(len(every), together)
    )
    return Block(images, planes, Tile(rows[0].start, sum(row.size for row in rows)), rounds)


def _pieces(
    g: Geometry, size: int, cols: Side, images: int, planes: int, first: int
) -> tuple[Piece, ...]:
    """Return the transfers of a strip, in the order in which they are needed."""
    row_bytes = cols.inside.size * g.itemsize
    plane = size * row_bytes
    if plane >= _LOAD_BYTES or planes == images == 1:
        each = max(1, _LOAD_BYTES // row_bytes)
        first = min(first, each, size)
        places = (Tile(0, first), *tiles(size - first, each, first))
        return tuple(
            Piece(Tile(i, 1), Tile(t, 1), place)
            for t in range(planes)
            for i in range(images)
            for place in places
        )
    some_planes = tiles(planes, min(planes, ceil_div(_LOAD_BYTES, plane)))
    each = max(1, _LOAD_BYTES // (plane * some_planes[0].size))
    return tuple(
        Piece(some, part, Tile(0, size)) for part in some_planes for some in tiles(images, each)
    )


def _counts(g: Geometry, strip: Strip, trimmed_rows: bool, trimmed_cols: bool) -> tuple[int, int]:
    """Return matmuls and moving columns of a strip."""
    matmuls = columns = 0
    row_counts: dict[Tile, tuple[int, int]] = {}
    col_counts: dict[Tile, tuple[int, int]] = {}
    for block in strip.blocks:
        for tile in (tile for together in block.rounds for tile in together):
            if tile.rows not in row_counts:
                row_counts[tile.rows] = _reached(g.rows, tile.rows, trimmed_rows)
            if tile.cols not in col_counts:
                col_counts[tile.cols] = _reached(g.cols, tile.cols, trimmed_cols)
            rows, cols = row_counts[tile.rows], col_counts[tile.cols]
            matmuls += rows[0] * cols[0]
            columns += tile.images.size * rows[1] * cols[1]
    return matmuls, columns


def _reached(axis: Axis, outputs: Tile, trimmed: bool) -> tuple[int, int]:
    """Return how many taps reach any of the outputs, and how many outputs they reach in all."""
    if not trimmed:
        return axis.taps, axis.taps * outputs.size
    sizes = [tap_outputs(axis, outputs, tap).size for tap in range(axis.taps)]
    return sum(size > 0 for size in sizes), sum(sizes)
