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

Images of few channels lie abreast: B of them are one image of B*C_in channels, to be convolved to
B*C_out, which is how x and y lie in HBM.  Each image's weights meet zeros elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, gcd
from typing import NamedTuple

import nki.language as nl

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Geometry, Tile, ceil_div, even_tiles, tiles
from nkiconv.simulate.hardware import hardware

_CHUNK_BYTES = 256 * 1024  # of x and y: several are on their way at a time
_PIECES = 3  # of a transfer of few partitions: each costs its issue
_AHEAD = 2  # chunks, where an engine copies: a matmul waits for all that it copied until then
IMAGE_BUFFERS = 8  # of images, where they fit: small ones take less time than their transfers
_SHORT_BYTES = 400  # runs to HBM that are better put together: they cost as 512 bytes do
_HOST_ZEROS = 0.015  # of all bytes: zeros that may be read from HBM for a shorter start
_REREAD = 0.048  # the same for whatever is read more than once
_AGAIN = 0.04  # of a batch: images that may be convolved twice, where B does not divide it
_WAYS = 3  # to put images abreast: each has packings of its own


@dataclass(frozen=True)
class Packing(nl.NKIObject):
    """P, S, J, G, Q, U, B of the module's docstring; and the places `row_step` between groups."""

    P: int
    S: int
    J: int
    G: int
    Q: int
    U: int
    row_step: int
    B: int = 1

    @property
    def extra(self) -> int:
        """Places behind a row's own that hold the rows which are copied into phases past S."""
        return (self.J - 1) // self.S


@dataclass(frozen=True)
class Load(nl.NKIObject):
    """Rows `row`, `row` + S, ... of x into `size` places of `slots`, neighbouring rows each.

    Slot (g, j) has the channels of shift g and phase j; `skip` columns are shifted out of its rows.
    """

    place: int
    size: int
    slot: int
    slots: int
    row: int
    skip: int


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
    """Groups that are loaded, computed and stored together.

    Places, rows of x and elements count from those of the chunk's first group, so that most chunks
    of an image are the same.  `tiles` share the groups out to PSUM banks; `full` groups have all
    their output rows, a last one may have `rest` instead.  `zero_places` hold rows above or below
    the image, in the first `zero_slots` slots.
    """

    groups: int
    tiles: tuple[Tile, ...]
    zero_places: Tile
    zero_slots: int
    loads: tuple[Load, ...]
    moves: tuple[Move, ...]
    full: int
    rest: int


@dataclass(frozen=True)
class Strip(nl.NKIObject):
    """Groups from `start` on whose pixels are in SBUF together: chunks, and their first groups.

    `starts` count in the strip.  The first `carry` places are the last ones, from place
    `carry_from` on, of the strip before.
    """

    start: int
    carry: int
    carry_from: int
    starts: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class OutTile(nl.NKIObject):
    """Rows p and output channels that one matmul makes; `places` are the q that reach them."""

    rows: Tile
    channels: Tile
    places: tuple[int, ...]


@dataclass(frozen=True)
class Fill(nl.NKIObject):
    """A transfer of weights: `taps` rows of taps to entries `entry`, ... of some partitions.

    It ends at one of the images abreast, `image`.
    """

    partition: int
    partitions: int
    entry: int
    entry_step: int
    tap: int
    tap_step: int
    taps: int
    shift: int
    shifts: int
    image: int
    by_engine: bool


@dataclass(frozen=True)
class Im2colPlan(nl.NKIObject):
    """Everything that the kernel does, decided beforehand.

    `geometry` has images that lie abreast as one.  `images` has each image's strips; the first
    image begins with little and the last one ends so.  Of the first `direct` places of each buffer
    all phases of `shifts` shifts come from HBM, and not from other partitions.  `ahead` chunks are
    loaded before one is computed.  With `cleared` the zeros around images are in all buffers before
    a second image is loaded, so that no engine has them behind copies that wait for loads; copies
    by transfers are better off with fewer loads at once.  With `joined` the rows p lie one after
    another in a partition of SBUF before they are stored.  `weights` is "zeros" (HBM has them with
    their zeros), "rows" (a transfer from HBM for each row p and shift) or "phases" (one, and
    `fills` on the chip).  With `fast`, x and w are bfloat16 in SBUF.
    """

    geometry: Geometry
    epilogue: Epilogue
    y_shape: tuple[int, int, int, int]
    packing: Packing
    c_in_tiles: tuple[Tile, ...]
    c_out_tiles: tuple[Tile, ...]
    out_tiles: tuple[OutTile, ...]
    col_tiles: tuple[Tile, ...]
    images: tuple[tuple[Strip, ...], ...]
    direct: tuple[int, ...]
    shifts: int
    places: int
    width: int
    x_width: int
    rows: int
    entries: int
    entry: int
    weights: str
    fills: tuple[Fill, ...]
    buffers: int
    ahead: int
    cleared: bool
    joined: bool
    on_both: bool
    fast: bool
    num_matmuls: int
    moving_columns: int
    hbm_bytes: int
    sbuf_bytes: int


def abreast(g: Geometry, B: int) -> Geometry:
    """Return the convolution with B images as one; the last ones may be among those before too."""
    if B == 1:
        return g
    return replace(g, N=ceil_div(g.N, B), C_in=B * g.C_in, C_out=B * g.C_out)


def _abreast(g: Geometry) -> Iterator[int]:
    """Yield how many images may lie abreast."""
    B = min(g.N, nl.tile_size.pmax // max(g.C_in, g.C_out)) if g.N > 1 else 1
    for _ in range(_WAYS):
        while B > 1 and ceil_div(g.N, B) * B - g.N > _AGAIN * g.N:
            B -= 1
        if B > 1:
            yield B
        B //= 2
    yield 1


def packings(g: Geometry) -> Iterator[Packing]:
    """Yield the packings that fit the partitions."""
    for B in _abreast(g):
        yield from _packings(abreast(g, B), B)


def _packings(g: Geometry, B: int) -> Iterator[Packing]:
    pmax = nl.tile_size.pmax
    channels = min(g.C_in, pmax)
    rows, cols = g.rows, g.cols
    reach = (rows.taps - 1) * rows.dilation + 1
    together = max(1, pmax // g.C_out)
    hw = hardware()
    wanted = 0  # rows from which on the array reaches its full clock, with some gaps
    if hw.throttle_slowdown > 1:
        wanted = ceil(1.03 * hw.throttle_busy_share * hw.throttle_slowdown * pmax)
    for P in sorted({1, 2, 4, 8, 16, together}):
        if max(P, 1) > rows.outputs or ceil_div(P, together) > (8 if B == 1 else 1):
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
                    yield Packing(P, S, J, G, Q, U, T // S, B)
                    more = ceil_div(wanted, G * channels)  # phases without taps feed the clock
                    if more > J and Q == 1 and S == T and G * more * channels <= pmax:
                        yield Packing(P, S, more, G, Q, U, T // S, B)


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


def num_passes(g: Geometry, k: Packing) -> int:
    """Return the matmuls that a result needs, those for all its rows and channels together."""
    pmax, rows = nl.tile_size.pmax, g.rows
    together = max(1, pmax // g.C_out)
    places = ceil_div(k.P, together) if k.Q == 1 else 0
    for p in even_tiles(k.P, together) if k.Q > 1 else ():
        first = p.start * rows.stride
        last = (p.start + p.size - 1) * rows.stride + (rows.taps - 1) * rows.dilation
        places += min(k.Q - 1, last // k.S) - max(0, (first - k.J) // k.S + 1) + 1
    return places * k.U * ceil_div(g.C_out, pmax) * ceil_div(g.C_in, pmax)


class Sizes(NamedTuple):
    """Whole numbers of a packing: columns and places of a strip, groups of tiles and chunks.

    `columns` of y and `each` groups have a PSUM bank; chunks have `chunk` groups, the first and the
    last one `head`.  w_sb has `entries`, for every `step`-th row of the taps' reach.
    """

    width: int
    x_width: int
    entries: int
    step: int
    columns: int
    each: int
    num_groups: int
    chunk: int
    head: int


def sizes(g: Geometry, k: Packing) -> Sizes:
    """Return the sizes of a packing."""
    rows, cols = g.rows, g.cols
    bank = nl.tile_size.psum_bank_fmax
    width = (cols.outputs - 1) * cols.stride + (k.U * k.G - 1) * cols.dilation + 1
    x_width = min(cols.size, width - cols.pad)
    step = rows.stride if k.Q == 1 else gcd(rows.stride, k.S)
    entries = ((k.P - 1) * rows.stride + (k.Q - 1) * k.S) // step + 1
    num_groups = ceil_div(rows.outputs, k.P)
    columns = ceil_div(cols.outputs, ceil_div(cols.outputs, bank))
    each = max(1, bank // columns)
    x_group = k.row_step * k.S * g.C_in * x_width
    y_group = k.P * g.C_out * cols.outputs
    chunk = each * max(1, round(_CHUNK_BYTES / (each * (x_group + y_group) * g.itemsize)))
    chunk = min(chunk, each * ceil_div(max(1, min(4, g.N // 4)) * num_groups, 4 * each))
    chunk = min(chunk, max(each, 8 * ceil_div(bank, cols.outputs)))  # y in SBUF: not too much
    head = min(ceil_div(each, 2), num_groups)
    return Sizes(width, x_width, entries, step, columns, each, num_groups, chunk, head)


def direct_shifts(g: Geometry, k: Packing, s: Sizes, spare_bytes: int) -> int:
    """Return of how many shifts, 0, 1 or G, the first chunk may load all phases from HBM.

    What is not copied on the chip is there earlier; `spare_bytes` of x may be read twice.
    """
    places = (s.head - 1) * k.row_step + k.Q
    slot_bytes = g.C_in * s.x_width * g.itemsize * places
    if k.G * k.J > k.S and (k.G * k.J - k.S) * slot_bytes <= spare_bytes:
        return k.G
    return int(k.J > k.S and (k.J - k.S) * slot_bytes <= spare_bytes)


def make_plan(
    g: Geometry,
    epilogue: Epilogue,
    k: Packing,
    *,
    on_both: bool,
    fast: bool = False,
    part_of: Geometry | None = None,
) -> Im2colPlan | None:
    """Return the plan of a packing, or None where SBUF is too small.

    `part_of` is the convolution of which this is a part: weights lie in HBM in one way for all.
    """
    num_images, is_part = g.N, part_of is not None and part_of != g
    g, part_of = abreast(g, k.B), abreast(part_of or g, k.B)
    rows, cols, item = g.rows, g.cols, g.itemsize
    held = 2 if fast else item
    s = sizes(g, k)
    if s.x_width < 1:
        return None
    outs, passes = out_tiles(g, k), num_passes(g, k)
    c_in_tiles = even_tiles(g.C_in, nl.tile_size.pmax)
    col_tiles = even_tiles(cols.outputs, nl.tile_size.psum_bank_fmax)
    kept = len(c_in_tiles) * s.entries * k.U * g.C_out * held
    weights, w_bytes, spare_bytes = weights_way(part_of, k, s.entries, held)
    if is_part:
        spare_bytes = 0  # parts read halos twice
    if weights == "phases":
        kept += len(c_in_tiles) * rows.taps * cols.taps * g.C_out // k.B * held
    joined = joins(g, k)
    y_rows = k.P if joined else len(outs)
    y_bytes = (3 if epilogue.has_residual else 2) * y_rows * s.chunk * cols.outputs * item
    beside = kept + y_bytes + epilogue.scratch_bytes + 8 * len(outs) + 64
    left = nl.tile_size.sbuf_fmax_bytes - beside
    size, buffers = s.num_groups, min(g.N, IMAGE_BUFFERS)
    lines = len(c_in_tiles) * s.width * held
    while buffers > 2 and buffers * lines * _places(k, size) > left // 4:
        buffers -= 1
    if buffers * lines * _places(k, size) > left:
        buffers = 2
        place_max = left // (buffers * lines)
        size = (place_max - k.Q - k.extra) // k.row_step + 1
        size = size // s.each * s.each
        if size < 1:
            return None
    strips = _Strips(g, k, s, size, spare_bytes)
    images = strips.images()
    chunks = Counter(c for image in images for strip in image for c in strip.chunks)
    moves = {move.by_engine for c in chunks for move in c.moves}
    y_elems = g.N * g.C_out * rows.outputs * cols.outputs
    places = _places(k, min(size, s.num_groups))
    return Im2colPlan(
        geometry=g,
        epilogue=epilogue,
        y_shape=(num_images, g.C_out // k.B, rows.outputs, cols.outputs),
        packing=k,
        c_in_tiles=c_in_tiles,
        c_out_tiles=even_tiles(g.C_out, nl.tile_size.pmax),
        out_tiles=outs,
        col_tiles=col_tiles,
        images=images,
        direct=strips.direct(buffers),
        shifts=strips.shifts,
        places=places,
        width=s.width,
        x_width=s.x_width,
        rows=k.G * k.J * c_in_tiles[0].size,
        entries=s.entries,
        entry=s.step,
        weights=weights,
        fills=_fills(g, k, weights, s.step, s.entries),
        buffers=buffers,
        ahead=_AHEAD if True in moves else max(len(strip.starts) for strip in images[0]),
        cleared=False not in moves and len(images[0]) == 1 and g.N > IMAGE_BUFFERS,
        joined=joined,
        on_both=on_both,
        fast=fast,
        num_matmuls=sum(n * len(c.tiles) for c, n in chunks.items()) * len(col_tiles) * passes,
        moving_columns=g.N * s.num_groups * cols.outputs * passes,
        hbm_bytes=sum(n * _loaded_elems(g, c, s.x_width) for c, n in chunks.items()) * item
        + w_bytes
        + y_elems * item * (1 + epilogue.has_residual)
        + 4 * g.C_out * outs[0].rows.size * (epilogue.has_bias + epilogue.has_scale),
        sbuf_bytes=beside + buffers * lines * places,
    )


def least_matmuls(g: Geometry, k: Packing) -> int:
    """Return how many matmuls a plan has at least."""
    g = abreast(g, k.B)
    columns = g.N * ceil_div(g.rows.outputs, k.P) * g.cols.outputs * num_passes(g, k)
    return columns // nl.tile_size.psum_bank_fmax


def _loaded_elems(g: Geometry, chunk: Chunk, x_width: int) -> int:
    """Return the elements of x that a chunk loads, all channels together."""
    return sum(
        load.size * load.slots * g.C_in * (x_width - max(0, load.skip - g.cols.pad))
        for load in chunk.loads
    )


def joins(g: Geometry, k: Packing) -> bool:
    """Whether rows p, which come out on partitions of their own, are put together for the store.

    It takes an instruction for each p, and makes short runs long.
    """
    short = g.cols.outputs * g.itemsize < _SHORT_BYTES
    return k.P > 1 and short and g.C_out in (32, 64)  # where engines can start


def _places(k: Packing, groups: int) -> int:
    return (groups - 1) * k.row_step + k.Q + k.extra


def weights_way(g: Geometry, k: Packing, entries: int, held: int) -> tuple[str, int, int]:
    """Return how weights come to their places, the bytes that are read for them, and a rest.

    The rest is what may be read twice of x.
    """
    compact = g.C_in * g.rows.taps * g.cols.taps * g.C_out * held // k.B**2
    zeros = k.G * k.J * g.C_in * entries * k.U * g.C_out * held
    y = g.N * g.C_out * g.rows.outputs * g.cols.outputs * g.itemsize
    total = compact + y + g.N * g.C_in * g.rows.size * g.cols.size * g.itemsize
    spare = int(_REREAD * total)
    if zeros - compact <= _HOST_ZEROS * total:
        return "zeros", zeros, spare - max(0, zeros - compact)
    rows = k.P * g.C_in * g.rows.taps * k.G * k.U * g.C_out * held
    if k.Q == 1 and g.rows.dilation == 1 and k.B == 1 and rows - compact <= spare:
        return "rows", rows, spare - (rows - compact)
    return "phases", compact, 0  # by way of a transfer on the chip, as shifts are


def _fills(g: Geometry, k: Packing, weights: str, step: int, entries: int) -> tuple[Fill, ...]:
    rows, cols = g.rows, g.cols
    channels = min(g.C_in, nl.tile_size.pmax)
    own = channels // k.B  # of an image
    fills = []
    if weights == "rows":
        for p in range(k.P):  # in the order in which results need them
            for shift in range(k.G):
                first = (shift * k.J + p * rows.stride) * channels
                fills.append(Fill(first, rows.taps * channels, p, 1, 0, 1, 1, shift, k.U, 0, False))
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
                    for b in range(k.B):
                        first = (shift * k.J + j) * channels + b * own
                        fills.append(
                            Fill(first, own, hits[0][0], z_step, hits[0][1], tap_step, len(hits),
                                 shift, shifts, b, engine_starts(first, own))
                        )  # fmt: skip
    return tuple(fills)


class _Strips:
    """The strips of all images; chunks that are alike are made once."""

    def __init__(self, g: Geometry, k: Packing, sizes: Sizes, size: int, spare_bytes: int) -> None:
        self.g, self.k, self.sizes, self.size = g, k, sizes, size
        self.width, self.head = sizes.width, sizes.head
        self.row_bytes, self.hw = sizes.x_width * g.itemsize, hardware()
        self.channels = min(g.C_in, nl.tile_size.pmax)
        self.num_groups = sizes.num_groups
        self.made: dict[tuple[int, int, int, int], Chunk] = {}
        self.shifts = direct_shifts(g, k, sizes, spare_bytes)
        every = (k.G * k.J - k.S) * g.C_in * sizes.x_width * g.itemsize
        every *= g.N * _places(k, self.num_groups)
        alone = self.shifts == k.G and size >= self.num_groups
        self.all_direct = alone and every <= spare_bytes

    def images(self) -> tuple[tuple[Strip, ...], ...]:
        """Return the strips of each image."""
        N = self.g.N
        first = self._image(True, N == 1)
        if N == 1:
            return (first,)
        middle = (self._image(False, False),) * (N - 2) if N > 2 else ()
        return (first, *middle, self._image(False, True))

    def direct(self, buffers: int) -> tuple[int, ...]:
        """Return the places of each buffer whose rows are loaded from HBM more than once."""
        if self.all_direct:
            return (_places(self.k, self.num_groups),) * buffers
        first = 0
        if self.shifts > 0:
            first = (self.head - 1) * self.k.row_step + self.k.Q
        return (first,) + (0,) * (buffers - 1)

    def _image(self, is_first: bool, is_last: bool) -> tuple[Strip, ...]:
        k = self.k
        strips = []
        for part in tiles(self.num_groups, self.size):
            carry = max(0, k.Q + k.extra - k.row_step) if part.start > 0 else 0
            sizes = [t.size for t in tiles(part.size, self.sizes.chunk)]
            if is_first and part.start == 0 and part.size > self.head:
                second = min(self.sizes.each, part.size - self.head)
                rest = part.size - self.head - second
                sizes = [self.head, second, *(t.size for t in tiles(rest, self.sizes.chunk))]
            if is_last and part.start + part.size == self.num_groups and sizes[-1] > self.head:
                sizes[-1:] = [sizes[-1] - self.head, self.head]
            starts, chunks, at, loaded, copied = [], [], 0, carry, 0
            for size in sizes:
                begins = is_first and part.start == 0 and at == 0
                shifts = self.shifts if begins or self.all_direct else 0
                place = at * k.row_step
                starts.append(at)
                chunks.append(
                    self._chunk(part.start + at, size, loaded - place, copied - place, shifts)
                )
                copied = place + (size - 1) * k.row_step + k.Q
                loaded = copied if shifts > 0 else copied + k.extra
                at += size
            from_place = self.size * k.row_step if carry else 0
            strips.append(Strip(part.start, carry, from_place, tuple(starts), tuple(chunks)))
        return tuple(strips)

    def _chunk(self, group: int, size: int, loaded: int, copied: int, shifts: int) -> Chunk:
        """Return the chunk of `size` groups from `group` on of the image.

        Of its places, counted from its own first, those before `loaded` are there already, and
        those before `copied` in all slots.  All phases of the first `shifts` come from HBM.
        """
        k, rows = self.k, self.g.rows
        need = (size - 1) * k.row_step + k.Q
        end = need if shifts > 0 else need + k.extra
        base = group * k.row_step * k.S - rows.pad  # row of x at place 0, phase 0
        below = base + (end - 1) * k.S + (k.J if shifts > 0 else k.S)
        full = min(size, rows.outputs // k.P - group)
        rest = min(rows.outputs - group * k.P, size * k.P) - full * k.P
        inside = base + loaded * k.S >= 0 and below <= rows.size and rest == 0
        key = (size, loaded, copied, shifts)
        if inside and key in self.made:
            return self.made[key]
        places = Tile(loaded, max(0, end - loaded))
        loads, zeros, slots = self._loads(base, places, shifts)
        moves = self._moves(copied, need, end, shifts)
        chunk = Chunk(size, tiles(size, self.sizes.each), zeros, slots, loads, moves, full, rest)
        if inside:
            self.made[key] = chunk
        return chunk

    def _loads(self, base: int, places: Tile, shifts: int) -> tuple[tuple[Load, ...], Tile, int]:
        """Return the transfers of x into these places, and the places and slots to zero before."""
        k, rows, dilation = self.k, self.g.rows, self.g.cols.dilation
        phases = k.J if shifts > 0 else k.S
        end = places.start + places.size
        runs: list[list[int]] = []  # first phase, phases, places from, to
        for j in range(phases):
            low = min(end, max(places.start, ceil_div(-base - j, k.S)))
            high = max(low, min(end, ceil_div(rows.size - base - j, k.S)))
            if runs and runs[-1][2:] == [low, high]:
                runs[-1][1] += 1
            else:
                runs.append([j, 1, low, high])
        loads = [
            Load(part.start, part.size, g * k.J + j, num, part.start * k.S + j, g * dilation)
            for g in range(max(1, shifts))
            if g * dilation < self.g.cols.pad + self.sizes.x_width  # else nothing is left of a row
            for j, num, low, high in runs
            for part in self._cut(low, high - low, num * self.channels)
        ]
        low, high = max(run[2] for run in runs), min(run[3] for run in runs)
        if low <= places.start and high >= end:
            return tuple(loads), Tile(places.start, 0), 0
        zero = Tile(places.start, low - places.start)
        slots = max((j + num for j, num, at, _ in runs if at > places.start), default=0)
        if high < end:
            start = places.start if zero.size > 0 else high
            zero, slots = Tile(start, end - start), phases
        return tuple(loads), zero, shifts * k.J if shifts > 1 else slots

    def _cut(self, start: int, size: int, partitions: int) -> tuple[Tile, ...]:
        """Cut a load of rows into pieces, unless their issue takes longer than their bytes.

        Of many images only the first are waited for.
        """
        run_ns = self.row_bytes / self.hw.dma_bytes_per_ns + self.hw.dma_descriptor_ns
        alone_ns = size * run_ns * min(partitions, self.hw.dma_engine_partitions)
        if self.g.N > IMAGE_BUFFERS or alone_ns < 3 * self.hw.dma_static_issue_ns:
            return tiles(size, max(1, size), start)
        return _pieces(start, size, partitions, 4)

    def _moves(self, copied: int, need: int, end: int, shifts: int) -> tuple[Move, ...]:
        """Return the copies inside the strip into places from `copied` to `need` of other slots.

        All come from what was loaded, so that none waits for another.
        """
        k, width = self.k, self.width
        if shifts > 0:  # the first slots have all phases
            ways = [(shift, 0, k.J) for shift in range(1, k.G) if shifts == 1]
        else:
            ways = [
                (shift, level, min(k.S, k.J - level * k.S))
                for shift in range(k.G)
                for level in range(k.extra + 1)
                if shift + level > 0
            ]
        moves: list[Move] = []
        for shift, level, phases in ways:
            offset = level * width + shift * self.g.cols.dilation
            size = min(need * width, end * width - offset) - copied * width
            if size <= 0:
                continue
            first = (shift * k.J + level * k.S) * self.channels
            partitions = phases * self.channels
            fits = engine_starts(first, partitions)
            for part in _pieces(copied * width, size, 128 if fits else partitions, 2048):
                moves.append(
                    Move(first, partitions, part.start, part.size, part.start + offset, fits)
                )
        return tuple(moves)


def _pieces(start: int, size: int, partitions: int, least: int) -> tuple[Tile, ...]:
    """Cut a transfer of few partitions, of which each has few DMA engines, into several."""
    if size <= 0:
        return ()
    wanted = min(_PIECES, max(1, 64 // partitions), max(1, size // least))
    return even_tiles(size, ceil_div(size, wanted), start)


def engine_starts(start: int, size: int) -> bool:
    """Whether an engine can write so many partitions from there on."""
    return start % (32 if size <= 32 else 64 if size <= 64 else 128) == 0
