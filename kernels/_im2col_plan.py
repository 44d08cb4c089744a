"""Plans of the im2col kernel: which rows of the image and of y lie on which partitions.

Rows are counted in groups: P neighbouring output rows, T = P*stride rows of the padded image.
Partition (g, j, ci) of a strip holds, at place a of its rows,

    padded image row a*S + j of channel ci, shifted left by g*dilation columns

so that output row i*P + p finds tap (kh, kw) at j, g, and

    place i*T/S + q, column ow*stride + u*G*dilation     with p*stride + kh*dilation = q*S + j
                                                              kw = u*G + g

A matmul (q, u) contracts all partitions at once and makes all rows p of a group.  Where p, q and j
do not fit a tap its weights are zeros.  There are two ways to choose S and J, the phases j:

* J = S, a divisor of T: no row is in SBUF twice; several places q hold a group's rows;
* S = T, J = all rows of a group: one place, and the rows that groups share are copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import nki.language as nl

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Geometry, Tile, ceil_div, even_tiles, tiles

_CHUNK_BYTES = 256 * 1024  # of x and y: several are on their way at a time
_PIECES = 3  # of a transfer of few partitions: each costs its issue
_SHORT_BYTES = 400  # runs to HBM that are better put together: they cost as 512 bytes do
_HOST_ZEROS = 0.015  # of all bytes: zeros that may be read from HBM for a shorter start
_REREAD = 0.045  # the same for weights that are read once for each row of a group


@dataclass(frozen=True)
class Packing(nl.NKIObject):
    """P, S, J, G, Q, U of the module's docstring, and the places `row_step` between groups."""

    P: int
    S: int
    J: int
    G: int
    Q: int
    U: int
    row_step: int

    @property
    def extra(self) -> int:
        """Places behind a row's own that hold the rows which are copied into phases past S."""
        return (self.J - 1) // self.S


@dataclass(frozen=True)
class Load(nl.NKIObject):
    """Rows `row`, `row` + S, ... of x into places `place` of `phases`, neighbouring rows each."""

    place: int
    size: int
    phase: int
    phases: int
    row: int


@dataclass(frozen=True)
class Move(nl.NKIObject):
    """Elements from `shift` on of the first partitions, to `start` of those from `dst` on."""

    dst: int
    partitions: int
    start: int
    size: int
    shift: int
    by_engine: bool


@dataclass(frozen=True)
class Chunk(nl.NKIObject):
    """Groups that are loaded, computed and stored together, counted in their strip.

    `tiles` share the groups out to PSUM banks; `y_row` is the first output row; `full` groups have
    all their rows, a last one may have `rest` instead.
    """

    groups: Tile
    tiles: tuple[Tile, ...]
    zero_places: Tile
    loads: tuple[Load, ...]
    moves: tuple[Move, ...]
    y_row: int
    full: int
    rest: int


@dataclass(frozen=True)
class Strip(nl.NKIObject):
    """Groups whose pixels are in SBUF together.

    The first `carry` places are the last ones, from place `carry_from` on, of the strip before.
    """

    carry: int
    carry_from: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class OutTile(nl.NKIObject):
    """Rows p and output channels that one matmul makes; `places` are the q that reach them."""

    rows: Tile
    channels: Tile
    places: tuple[int, ...]


@dataclass(frozen=True)
class Fill(nl.NKIObject):
    """A transfer of weights: `taps` rows of taps to entries `entry`, ... of some partitions."""

    partition: int
    partitions: int
    entry: int
    entry_step: int
    tap: int
    tap_step: int
    taps: int
    shift: int
    shifts: int
    by_engine: bool


@dataclass(frozen=True)
class Im2colPlan(nl.NKIObject):
    """Everything that the kernel does, decided beforehand.

    With `joined` the rows p lie one after another in a partition of SBUF before they are stored.
    `weights` is "zeros" (HBM has them with their zeros), "rows" (a transfer from HBM for each row p
    and shift) or "phases" (one, and `fills` on the chip).
    """

    geometry: Geometry
    epilogue: Epilogue
    y_shape: tuple[int, int, int, int]
    packing: Packing
    c_in_tiles: tuple[Tile, ...]
    out_tiles: tuple[OutTile, ...]
    col_tiles: tuple[Tile, ...]
    strips: tuple[Strip, ...]
    places: int
    width: int
    x_width: int
    rows: int
    entries: int
    entry: int
    weights: str
    fills: tuple[Fill, ...]
    buffers: int
    joined: bool
    on_both: bool
    num_matmuls: int
    moving_columns: int
    hbm_bytes: int
    sbuf_bytes: int


def packings(g: Geometry) -> Iterator[Packing]:
    """Yield the packings that fit the partitions."""
    pmax = nl.tile_size.pmax
    channels = min(g.C_in, pmax)
    rows, cols = g.rows, g.cols
    reach = (rows.taps - 1) * rows.dilation + 1
    together = max(1, pmax // g.C_out)
    for P in sorted({1, 2, 4, 8, 16, together}):
        if max(P, 1) > rows.outputs or ceil_div(P, together) > 8:
            continue
        T, R = P * rows.stride, (P - 1) * rows.stride + reach
        phases = [(S, S) for S in range(1, T + 1) if T % S == 0]
        if R > T:
            phases.append((T, R))
        for S, J in phases:
            if J * channels > pmax or (J > 1 and g.C_in > pmax) or J > R:
                continue
            Q = ceil_div(R, S) if J == S else 1
            for U in range(1, cols.taps + 1):
                G = ceil_div(cols.taps, U)
                if ceil_div(cols.taps, G) != U or G * J * channels > pmax:
                    continue
                if G == 1 or g.C_in <= pmax:
                    yield Packing(P, S, J, G, Q, U, T // S)


def out_tiles(g: Geometry, k: Packing) -> tuple[OutTile, ...]:
    """Return the rows and channels of each matmul's result."""
    pmax = nl.tile_size.pmax
    rows = g.rows
    found = []
    for p in even_tiles(k.P, max(1, pmax // g.C_out)):
        first = p.start * rows.stride
        last = (p.start + p.size - 1) * rows.stride + (rows.taps - 1) * rows.dilation
        places = tuple(q for q in range(k.Q) if q * k.S <= last and q * k.S + k.J > first)
        for co in even_tiles(g.C_out, pmax):
            found.append(OutTile(p, co, places))
    return tuple(found)


def columns(g: Geometry, k: Packing, outs: tuple[OutTile, ...]) -> int:
    """Return the columns that TensorE streams."""
    groups = ceil_div(g.rows.outputs, k.P)
    passes = sum(len(out.places) for out in outs) * k.U * ceil_div(g.C_in, nl.tile_size.pmax)
    return g.N * groups * g.cols.outputs * passes


def make_plan(g: Geometry, epilogue: Epilogue, k: Packing, *, on_both: bool) -> Im2colPlan | None:
    """Return the plan of a packing, or None where SBUF is too small."""
    outs = out_tiles(g, k)
    rows, cols, item = g.rows, g.cols, g.itemsize
    width = (cols.outputs - 1) * cols.stride + (k.U * k.G - 1) * cols.dilation + 1
    x_width = min(cols.size, width - cols.pad)
    c_in_tiles = even_tiles(g.C_in, nl.tile_size.pmax)
    if x_width < 1:
        return None
    step = rows.stride if k.Q == 1 else gcd(rows.stride, k.S)
    entries = ((k.P - 1) * rows.stride + (k.Q - 1) * k.S) // step + 1
    entry = k.U * g.C_out
    num_groups = ceil_div(rows.outputs, k.P)
    col_tiles = even_tiles(cols.outputs, nl.tile_size.psum_bank_fmax)
    each = max(1, nl.tile_size.psum_bank_fmax // col_tiles[0].size)
    x_group = k.row_step * k.S * g.C_in * x_width * item
    y_group = k.P * g.C_out * cols.outputs * item
    chunk = each * max(1, round(_CHUNK_BYTES / (each * (x_group + y_group))))
    chunk = min(chunk, each * ceil_div(num_groups, 4 * each))
    most = ceil_div(nl.tile_size.psum_bank_fmax, cols.outputs)  # of y in SBUF: not too much
    chunk = min(chunk, max(each, 8 * most))
    kept = len(c_in_tiles) * entries * entry * item
    weights, w_bytes = _weights_way(g, k, entries)
    if weights == "phases":
        kept += len(c_in_tiles) * rows.taps * cols.taps * g.C_out * item
    joined = joins(g, k)
    y_rows = k.P if joined else len(outs)
    y_bytes = (3 if epilogue.has_residual else 2) * y_rows * chunk * cols.outputs * item
    beside = kept + y_bytes + epilogue.scratch_bytes + 8 * len(outs) + 64
    left = nl.tile_size.sbuf_fmax_bytes - beside
    size, buffers = num_groups, 2 if g.N > 1 else 1
    lines = len(c_in_tiles) * width * item
    if buffers * lines * _places(k, size) > left:
        buffers = 2
        place_max = left // (buffers * lines)
        size = (place_max - k.Q - k.extra) // k.row_step + 1
        size = size // each * each
        if size < 1:
            return None
    strips = tuple(_strip(g, k, part, chunk, each, width, size) for part in tiles(num_groups, size))
    used = sum(load.size * load.phases for s in strips for c in s.chunks for load in c.loads)
    y_elems = g.N * g.C_out * rows.outputs * cols.outputs
    num_tiles = sum(len(c.tiles) for s in strips for c in s.chunks) * len(col_tiles) * g.N
    passes = sum(len(out.places) for out in outs) * k.U * len(c_in_tiles)
    return Im2colPlan(
        geometry=g,
        epilogue=epilogue,
        y_shape=(g.N, g.C_out, rows.outputs, cols.outputs),
        packing=k,
        c_in_tiles=c_in_tiles,
        out_tiles=outs,
        col_tiles=col_tiles,
        strips=strips,
        places=_places(k, min(size, num_groups)),
        width=width,
        x_width=x_width,
        rows=k.G * k.J * c_in_tiles[0].size,
        entries=entries,
        entry=step,
        weights=weights,
        fills=_fills(g, k, weights, step, entries),
        buffers=buffers,
        joined=joined,
        on_both=on_both,
        num_matmuls=num_tiles * passes,
        moving_columns=columns(g, k, outs),
        hbm_bytes=g.N * used * g.C_in * x_width * item
        + w_bytes
        + y_elems * item * (1 + epilogue.has_residual)
        + 4 * g.C_out * k.P * (epilogue.has_bias + epilogue.has_scale),
        sbuf_bytes=beside + buffers * lines * _places(k, min(size, num_groups)),
    )


def joins(g: Geometry, k: Packing) -> bool:
    """Whether rows p, which come out on partitions of their own, are put together for the store.

    It takes an instruction for each p, and makes short runs long.
    """
    short = g.cols.outputs * g.itemsize < _SHORT_BYTES
    return k.P > 1 and short and g.C_out in (32, 64)  # where engines can start


def _places(k: Packing, groups: int) -> int:
    return (groups - 1) * k.row_step + k.Q + k.extra


def _weights_way(g: Geometry, k: Packing, entries: int) -> tuple[str, int]:
    """Return how weights come to their places, and the bytes that are read for them."""
    compact = g.C_in * g.rows.taps * g.cols.taps * g.C_out * g.itemsize
    zeros = k.G * k.J * g.C_in * entries * k.U * g.C_out * g.itemsize
    y = g.N * g.C_out * g.rows.outputs * g.cols.outputs * g.itemsize
    total = compact + y + g.N * g.C_in * g.rows.size * g.cols.size * g.itemsize
    if zeros - compact <= _HOST_ZEROS * total:
        return "zeros", zeros
    rows = k.P * g.C_in * g.rows.taps * k.G * k.U * g.C_out * g.itemsize
    if k.Q == 1 and g.rows.dilation == 1 and rows - compact <= _REREAD * total:
        return "rows", rows
    return "phases", compact


def _fills(g: Geometry, k: Packing, weights: str, step: int, entries: int) -> tuple[Fill, ...]:
    rows, cols = g.rows, g.cols
    channels = min(g.C_in, nl.tile_size.pmax)
    fills = []
    if weights == "rows":
        for shift in range(k.G):
            for p in range(k.P):
                first = (shift * k.J + p * rows.stride) * channels
                fills.append(Fill(first, rows.taps * channels, p, 1, 0, 1, 1, shift, k.U, False))
    if weights == "phases":
        for shift in range(k.G):
            for j in range(k.J):
                # entry z holds tap kh = (j + (Q-1)*S - z*step) / dilation: upwards as kh falls
                hits = []
                for kh in range(rows.taps - 1, -1, -1):
                    rest = j + (k.Q - 1) * k.S - kh * rows.dilation
                    if rest >= 0 and rest % step == 0 and rest // step < entries:
                        hits.append((rest // step, rows.taps - 1 - kh))
                if hits:
                    z_step = hits[1][0] - hits[0][0] if len(hits) > 1 else 1
                    tap_step = hits[1][1] - hits[0][1] if len(hits) > 1 else 1
                    shifts = len(range(shift, cols.taps, k.G))
                    fills.append(
                        Fill((shift * k.J + j) * channels, channels, hits[0][0], z_step,
                             hits[0][1], tap_step, len(hits), shift, shifts,
                             _engine_starts((shift * k.J + j) * channels, channels))
                    )  # fmt: skip
    return tuple(fills)


def _strip(
    g: Geometry, k: Packing, part: Tile, chunk: int, each: int, width: int, size: int
) -> Strip:
    """Return the strip of these groups; its first chunk is small, so that work starts early."""
    carry = max(0, k.Q + k.extra - k.row_step) if part.start > 0 else 0
    starts = tiles(part.size, chunk)
    if part.start == 0 and starts[0].size > each:
        starts = (Tile(0, each), *tiles(part.size - each, chunk, each))
    first = part.start * k.row_step
    chunks, place, before = [], carry, [0] * (k.G * (k.extra + 1))
    for groups in starts:
        end = _places(k, groups.start + groups.size)
        loads, zeros = _loads(g, k, first, Tile(place, max(0, end - place)))
        moves, before = _moves(g, k, end, before, width)
        row = (part.start + groups.start) * k.P
        full = min(groups.size, (g.rows.outputs - row) // k.P)
        rest = min(g.rows.outputs - row, groups.size * k.P) - full * k.P
        chunks.append(Chunk(groups, tiles(groups.size, each), zeros, loads, moves, row, full, rest))
        place = end
    return Strip(carry, size * k.row_step if carry else 0, tuple(chunks))


def _loads(g: Geometry, k: Packing, first: int, places: Tile) -> tuple[tuple[Load, ...], Tile]:
    """Return the transfers of x into these places of a strip, and the places to zero before."""
    rows = g.rows
    ranges: list[tuple[int, int]] = []
    for j in range(k.S):
        low = ceil_div(rows.pad - j, k.S) - first
        high = ceil_div(rows.size + rows.pad - j, k.S) - first
        low, high = max(low, places.start), min(high, places.start + places.size)
        ranges.append((low, max(low, high)))
    loads, j = [], 0
    while j < k.S:
        same = 1
        while j + same < k.S and ranges[j + same] == ranges[j]:
            same += 1
        low, high = ranges[j]
        for part in _pieces(low, high - low, same * min(g.C_in, nl.tile_size.pmax), 4):
            row = (first + part.start) * k.S + j - rows.pad
            loads.append(Load(part.start, part.size, j, same, row))
        j += same
    end = places.start + places.size
    gaps = [a for a in range(places.start, end) if any(not lo <= a < hi for lo, hi in ranges)]
    if not gaps:
        return tuple(loads), Tile(places.start, 0)
    return tuple(loads), Tile(gaps[0], gaps[-1] - gaps[0] + 1)


def _moves(
    g: Geometry, k: Packing, end: int, before: list[int], width: int
) -> tuple[tuple[Move, ...], list[int]]:
    """Return the copies inside the strip that places up to `end` allow; `before` are done.

    All come from what was loaded, so that none waits for another.
    """
    moves: list[Move] = []
    done: list[int] = []
    for shift in range(k.G):
        for level in range(k.extra + 1):
            offset = level * width + shift * g.cols.dilation
            start = before[len(done)]
            upto = max(start, end * width - offset)
            done.append(upto)
            if offset > 0 and upto > start:
                phases = min(k.S, k.J - level * k.S)
                first, size = (shift * k.J + level * k.S) * g.C_in, phases * g.C_in
                fits = _engine_starts(first, size)
                for part in _pieces(start, upto - start, 128 if fits else size, 2048):
                    shifted = part.start + offset
                    moves.append(Move(first, size, part.start, part.size, shifted, fits))
    return tuple(moves), done


def _pieces(start: int, size: int, partitions: int, least: int) -> tuple[Tile, ...]:
    """Cut a transfer of few partitions, of which each has few DMA engines, into several."""
    if size <= 0:
        return ()
    wanted = min(_PIECES, max(1, 64 // partitions), max(1, size // least))
    return even_tiles(size, ceil_div(size, wanted), start)


def _engine_starts(start: int, size: int) -> bool:
    """Whether an engine can write so many partitions from there on."""
    return start % (32 if size <= 32 else 64 if size <= 64 else 128) == 0
