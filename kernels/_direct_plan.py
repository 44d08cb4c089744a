"""Plans of the direct kernel: the order of its loads, products and stores, as whole numbers.

What is held in SBUF, and so how often x and w cross HBM, is one of four orders (`_orders`); the
first that reads everything once is taken, else the one that reads least:

* weights of all output channels resident, strips of the image pass by;
* the image resident, weights of a tile of output channels pass by;
* strips outermost, all weights pass by for each;
* blocks of output channels outermost, the image passes by for each.

A `Step` is one strip with the weights of one block of output channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import nki.language as nl

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import (
    STEP_MAX,
    Axis,
    Geometry,
    OutputTile,
    Tile,
    ceil_div,
    even_tiles,
    pixel_step,
    span_size,
    tap_outputs,
    tiles,
)
from nkiconv.kernels._price import matmul_cycles
from nkiconv.kernels._strip import Run, Side, make_side
from nkiconv.simulate import CapacityError
from nkiconv.simulate.hardware import hardware

QUADRANT = 32  # engines reach operands that start at multiples of so many partitions (isa)

_STORE_BYTES = 4096  # per partition: where the DMA rate levels off (vendor's DMA bandwidth guide)
_LOAD_BYTES = 4096  # likewise; the first loads are shorter, since the first matmul waits for them
_FIRST_LOAD_BYTES = 1024  # per partition: of the first weights
_INTERLEAVE_BYTES = 512  # per partition: shorter runs are made longer by neighbouring channels
_STORES = 3  # blocks of results: one is filled, one waits, one is stored
_EVERY_ROW = 0.8  # of the time of rows one by one, for which twice the bytes are worth it
_X_SHARE = 0.6  # of the room for strips: tensors of several sizes leave gaps
_HALF_NS = 200  # what halves of a batch cost: more matmuls and transfers
_HALVES_NS = 4000  # what halves have to bring: they stream twice the columns


@dataclass(frozen=True)
class Product(nl.NKIObject):
    """One matmul of each tile: `rows` partitions of a source, read at a tap.

    Sources are the tiles of input channels, then `Pack`s, of which `kh` and `kw` are -1.
    """

    source: int
    rows: int
    kh: int
    kw: int


@dataclass(frozen=True)
class Pack(nl.NKIObject):
    """A few channels, copied once for each of several taps onto partitions one below the other.

    The copies are shifted by their taps, so that one matmul contracts over all of them.
    """

    channels: int
    taps: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Block(nl.NKIObject):
    """Outputs that one store writes, for a tile of output channels."""

    images: Tile
    rows: Tile
    cols: Tile
    tiles: tuple[OutputTile, ...]


@dataclass(frozen=True)
class Section(nl.NKIObject):
    """A strip: some rows of one image, or several images.

    `carry` of its rows are copied from the strip before; `runs` are loaded.
    """

    images: Tile
    outputs: Tile
    rows: Side
    carry: int
    runs: tuple[Run, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class ChannelTile(nl.NKIObject):
    """At most 128 output channels: the `index`-th of all, the `place`-th of their block."""

    index: int
    place: int
    start: int
    size: int
    w_start: int  # column of w_hbm


@dataclass(frozen=True)
class Load(nl.NKIObject):
    """A transfer: run `part` of x for source `i`, or products `part` of weights for tile `i`."""

    is_x: bool
    i: int
    part: Tile


@dataclass(frozen=True)
class Step(nl.NKIObject):
    """One section with one block of output channels, and what is loaded for them.

    `x_back` counts the steps since the section was loaded; the weights may be those of the last
    step.
    """

    section: int
    block: int
    x_back: int
    loads_w: bool
    loads: tuple[Load, ...]


@dataclass(frozen=True)
class DirectPlan(nl.NKIObject):
    """Everything that the kernel does, decided beforehand.

    Parameters
    ----------
    c_in_tiles
        Channels of each source; interleaved, source t has channels t, t + T, t + 2 T, ...
    x_shape
        A section in SBUF: (partitions, sources, images, rows, columns), sources and images the
        other way round where channels are interleaved.
    interleaved_x, interleaved_y
        Neighbouring channels lie in one partition, so that a transfer's runs are longer.
    trimmed
        Strips have no border, and taps that leave the image compute fewer outputs.
    channels_first
        In a strip, all blocks of a tile of output channels, then the next tile: where weights take
        longer to load than the strip.  Else all tiles of a block.
    halves
        Output channels are computed in two column tiles of TensorE's array, side by side: float32
        weights of few columns load faster than those of many, which takes longest for small images.
    fast
        The weights are bfloat16, and x becomes it when it is loaded, whatever y is.
    """

    geometry: Geometry
    epilogue: Epilogue
    y_shape: tuple[int, int, int, int]
    x_shape: tuple[int, int, int, int, int]
    y_elems: int
    w_shape: tuple[int, int, int]
    c_in_tiles: tuple[Tile, ...]
    packs: tuple[Pack, ...]
    pack_shape: tuple[int, int, int, int, int]
    products: tuple[Product, ...]
    c_out_blocks: tuple[tuple[ChannelTile, ...], ...]
    cols: Side
    sections: tuple[Section, ...]
    steps: tuple[Step, ...]
    interleaved_x: bool
    interleaved_y: bool
    trimmed: bool
    halves: bool
    channels_first: bool
    fast: bool
    evict_on_both: bool
    order: str
    num_matmuls: int
    moving_columns: int
    tensor_cycles: int
    num_output_tiles: int
    hbm_read_bytes: int
    sbuf_bytes: int


@dataclass(frozen=True)
class _Order:
    """A loop order: how many steps there are, what they hold, what it costs."""

    name: str
    sections: tuple[Section, ...]
    block_tiles: int
    x_resident: bool
    sections_first: bool
    times_x: int
    times_w: int
    sbuf_bytes: int


def plan_direct(
    geometry: Geometry,
    epilogue: Epilogue | None = None,
    *,
    sbuf_bytes: int | None = None,
    padding_mode: str = "zeros",
    pack_taps: bool = True,
    fast: bool = False,
    part_of: Geometry | None = None,
) -> DirectPlan:
    """Plan a convolution whose weights or image, and parts of the other, fit SBUF.

    Parameters
    ----------
    sbuf_bytes
        SBUF to use per partition; None takes all that the current target has.
    pack_taps
        Whether the last few input channels may be copied for several taps.
    fast
        Operands of float32 become bfloat16 on their way to SBUF.
    part_of
        The convolution of which this is a part: weights lie in HBM in one order for all its parts.

    Raises
    ------
    CapacityError
        The weights of a tile of output channels, or the smallest strip, do not fit.
    """
    epilogue = epilogue or Epilogue()
    limit = nl.tile_size.sbuf_fmax_bytes if sbuf_bytes is None else sbuf_bytes
    return _Planner(geometry, epilogue, limit, padding_mode, pack_taps, fast, part_of).plan()


def least_us(g: Geometry, *, fast: bool = False) -> float:
    """Return TensorE's time for the products of a plan, at least: no plan need be made for it."""
    hw = hardware()
    reached = [
        sum(tap_outputs(axis, Tile(0, axis.outputs), tap).size for tap in range(axis.taps))
        for axis in (g.rows, g.cols)
    ]
    # Of more channels than partitions, taps of the last ones may share a product.
    columns = g.N * g.G * reached[0] * reached[1] * max(1, g.C_in // nl.tile_size.pmax)
    columns *= ceil_div(g.C_out, nl.tile_size.pmax)
    cycles = matmul_cycles(nl.tile_size.psum_bank_fmax, 2 if fast else g.itemsize, hw)
    return columns * cycles / nl.tile_size.psum_bank_fmax / hw.tensor_ghz / 1000


class _Planner:
    """The parts of a plan, in the order in which they follow from each other."""

    def __init__(
        self,
        g: Geometry,
        epilogue: Epilogue,
        limit: int,
        padding_mode: str,
        pack_taps: bool,
        fast: bool,
        part_of: Geometry | None = None,
    ) -> None:
        self.g = g
        self.whole = part_of or g
        self.fast = fast
        self.epilogue = epilogue
        self.limit = limit
        self.mode = None if padding_mode == "zeros" else padding_mode
        bank = nl.tile_size.psum_bank_fmax
        outputs = g.rows.outputs * g.cols.outputs
        # One large tile would have to wait for all of the image, and all of y for it.
        self.halved = (
            part_of is None and g.N == 1 and bank // 2 <= outputs <= bank and g.rows.outputs > 1
        )
        self.by_images = outputs <= bank and not self.halved
        self.cols = make_side(g.cols, Tile(0, g.cols.outputs), self.mode, whole=True)
        self.every_row = self._every_row()
        self.all_rows = make_side(
            g.rows, Tile(0, g.rows.outputs), self.mode,
            whole=self.every_row and self.by_images, every=self.every_row,
        )  # fmt: skip
        self._choose_channels(pack_taps)
        self._choose_tiles()

    def _every_row(self) -> bool:
        """Whether rows that no tap reaches are loaded too: in short runs the others take longer."""
        g, hw = self.g, hardware()
        step = pixel_step(g.rows, g.rows.taps)
        if step == 1:
            return False
        row = g.cols.size * g.itemsize
        each_ns = hw.dma_descriptor_ns + row / hw.dma_bytes_per_ns
        apart_ns = ceil_div(g.rows.size, step) * max(hw.dma_shortest_ns, each_ns)
        rate = hw.memory_bytes_per_ns / hw.dma_engines
        together_ns = hw.dma_descriptor_ns + g.rows.size * row / rate
        return together_ns < _EVERY_ROW * apart_ns

    def _choose_channels(self, pack_taps: bool) -> None:
        g, pmax = self.g, nl.tile_size.pmax
        num_taps = g.rows.taps * g.cols.taps
        rest = g.C_in % pmax
        together = min(num_taps, pmax // rest) if rest and g.C_in > pmax else 1
        saves = ceil_div(num_taps, max(1, together)) < num_taps
        # DMA copies channels to any partition but no single elements; engines from 32 to 32.
        packing = pack_taps and saves and (g.cols.stride == 1 or rest % 32 == 0)
        taps = self._tap_order()
        self.packs: tuple[Pack, ...] = ()
        if packing:
            self.c_in_tiles = tiles(g.C_in, pmax)
            self.packs = tuple(
                Pack(rest, tuple(taps[part.start : part.start + part.size]))
                for part in even_tiles(num_taps, together)
            )
        else:
            self.c_in_tiles = even_tiles(g.C_in, pmax)
        num = len(self.c_in_tiles)
        image_bytes = g.rows.size * g.cols.size * g.itemsize
        self.interleaved_x = (
            self.by_images
            and not packing
            and num > 1
            and g.C_in % num == 0
            and g.rows == self.whole.rows
            and self.mode is None
            and self.all_rows.size == g.rows.size
            and image_bytes < _INTERLEAVE_BYTES
        )
        products = [
            Product(t, self.c_in_tiles[t].size, kh, kw)
            for t in range(num - bool(packing))
            for kh, kw in taps
        ]
        for i, pack in enumerate(self.packs):
            products.append(Product(num + i, pack.channels * len(pack.taps), -1, -1))
        self.products = tuple(products)
        self.c_out_tiles = even_tiles(g.C_out, pmax)
        num = len(self.c_out_tiles)
        self.interleaved_y = (
            self.by_images
            and num > 1
            and g.C_out % num == 0
            and (g.rows, g.C_out) == (self.whole.rows, self.whole.C_out)
            and g.rows.outputs * g.cols.outputs * g.itemsize < _INTERLEAVE_BYTES
        )

    def _halves(self) -> bool:
        """Whether float32 weights take longer to the array than pixels, and than to SBUF."""
        g, hw = self.g, hardware()
        weights = self.c_out_tiles[0].size
        elems = self.image_tiles[0].size * self.row_tiles[0].size * self.col_tiles[0].size
        load = hw.float32_weight_load_cycles * weights
        if g.itemsize < 4 or self.fast or weights <= nl.tile_size.pmax // 2:
            return False
        if 5 * hw.float32_matmul_row_cycles * elems > 4 * load:
            return False
        num_tiles = len(self.image_tiles) * len(self.row_tiles) * len(self.col_tiles)
        matmuls = num_tiles * len(self.c_out_tiles) * len(self.products)
        cycles = hw.throttle_slowdown * matmuls * hw.float32_matmul_passes * load
        w_bytes = g.C_in * g.C_out * g.rows.taps * g.cols.taps * g.itemsize
        rate = hw.memory_bytes_per_ns
        return cycles / hw.tensor_ghz > w_bytes / rate + _HALVES_NS

    def _channels_first(self, section: Section, block_tiles: int) -> bool:
        rows = section.rows.size - section.carry
        x_elems = section.images.size * rows * self.cols.size * len(self.c_in_tiles)
        return self._w_bytes(block_tiles) > x_elems * self.g.itemsize

    def _tap_order(self) -> list[tuple[int, int]]:
        """Return the taps, first the one that reaches the most outputs."""
        first = []
        for axis in (self.whole.rows, self.whole.cols):
            every = Tile(0, axis.outputs)
            reached = [tap_outputs(axis, every, tap).size for tap in range(axis.taps)]
            first.append(reached.index(max(reached)))
        taps = [(kh, kw) for kh in range(self.g.rows.taps) for kw in range(self.g.cols.taps)]
        taps.remove((first[0], first[1]))
        return [(first[0], first[1]), *taps]

    def _choose_tiles(self) -> None:
        """Set the rows and columns of PSUM tiles, and the images or row tiles of a block."""
        g, bank = self.g, nl.tile_size.psum_bank_fmax
        if self.by_images:
            most = bank // (g.rows.outputs * g.cols.outputs)
            if self._image_step() > STEP_MAX:
                most = 1
            if 1 < g.N <= most and self._halves_batch():
                most = ceil_div(g.N, 2)
            self.image_tiles = even_tiles(g.N, most)
            self.row_tiles = even_tiles(g.rows.outputs, g.rows.outputs)
            self.col_tiles = even_tiles(g.cols.outputs, g.cols.outputs)
            self.block_rows = self.block_cols = 1
            self._choose_parts()
            return
        self.image_tiles = tiles(g.N, 1)
        self.col_tiles = even_tiles(g.cols.outputs, bank)
        most = max(1, bank // self.col_tiles[0].size)
        if self.halved:
            most = ceil_div(g.rows.outputs, 2)
        self.row_tiles = even_tiles(g.rows.outputs, most)
        half = nl.tile_size.psum_num_banks // 2
        elems = self.row_tiles[0].size * self.col_tiles[0].size
        wanted = min(half, ceil_div(_STORE_BYTES, elems * g.itemsize))
        self.block_cols = min(half, len(self.col_tiles))
        self.block_rows = max(1, wanted // self.block_cols)
        self._choose_parts()

    def _choose_parts(self) -> None:
        """Set the columns of blocks side by side: their tiles, and all of these together."""
        self.col_parts: list[tuple[tuple[Tile, ...], Tile]] = []
        for part in tiles(len(self.col_tiles), self.block_cols):
            cols = self.col_tiles[part.start : part.start + part.size]
            start, end = cols[0].start, cols[-1].start + cols[-1].size
            self.col_parts.append((cols, Tile(start, end - start)))

    def _halves_batch(self) -> bool:
        """Whether half a batch that fits one tile is worth computing while the rest is loaded.

        Else the first matmul waits for all of x; but each half needs all weights.
        """
        g, hw = self.g, hardware()
        elems = g.N * g.rows.outputs * g.cols.outputs
        if elems < nl.tile_size.psum_bank_fmax // 2:
            return False
        itemsize = 2 if self.fast else g.itemsize
        matmuls = len(self.products) * len(self.c_out_tiles)
        product_ns = matmuls * matmul_cycles(elems, itemsize, hw) / hw.tensor_ghz
        rate = hw.memory_bytes_per_ns
        x_ns = g.N * g.C_in * g.rows.size * g.cols.size * g.itemsize / rate
        y_ns = g.C_out * elems * g.itemsize / rate
        w_ns = g.C_in * g.C_out * g.rows.taps * g.cols.taps * itemsize / rate
        whole = x_ns + max(w_ns, product_ns) + y_ns
        halved = x_ns / 2 + max(w_ns, product_ns / 2) + product_ns / 2 + y_ns / 2
        return halved + _HALF_NS < whole

    def _image_step(self) -> int:
        """Return the elements from one image of a section to the next, in SBUF."""
        sources = len(self.c_in_tiles) if self.interleaved_x else 1
        return sources * self.all_rows.size * self.cols.size

    # Sections.

    def _blocks(
        self, images: Tile, row_tiles: tuple[Tile, ...], is_first: bool, is_last: bool
    ) -> list[Block]:
        """Return the blocks of some row tiles; the very first and last tile are on their own.

        What is computed first is loaded first, and what is stored last is short.
        """
        groups = list(tiles(len(row_tiles), self.block_rows))
        if is_last and groups[-1].size > 1:
            group = groups.pop()
            groups += [Tile(group.start, group.size - 1), Tile(group.start + group.size - 1, 1)]
        if is_first and self.packs and groups[0].size > 1:
            group = groups.pop(0)
            groups = [Tile(0, 1), Tile(1, group.size - 1), *groups]
        found = []
        for group in groups:
            rows = row_tiles[group.start : group.start + group.size]
            height = rows[-1].start + rows[-1].size - rows[0].start
            down = Tile(rows[0].start, height)
            for cols, across in self.col_parts:
                every = tuple([OutputTile(images, r, c) for r in rows for c in cols])
                found.append(Block(images, down, across, every))
        return found

    def _sections(self, num_groups: int) -> tuple[Section, ...]:
        """Return sections of so many groups of row tiles each, the image in even parts."""
        g = self.g
        found: list[Section] = []
        per_image = even_tiles(len(self.row_tiles), num_groups * self.block_rows)
        for images in self.image_tiles:
            before: Side | None = None
            for part in per_image:
                row_tiles = self.row_tiles[part.start : part.start + part.size]
                last = row_tiles[-1]
                outputs = Tile(row_tiles[0].start, last.start + last.size - row_tiles[0].start)
                side = self.all_rows
                if not self.by_images:
                    side = make_side(g.rows, outputs, self.mode, every=self.every_row)
                carry = 0
                if before is not None:
                    end = before.origin + before.size * before.step
                    carry = min(side.size, max(0, (end - side.origin) // side.step))
                is_last = images is self.image_tiles[-1] and part is per_image[-1]
                blocks = self._blocks(images, row_tiles, not found, is_last)
                runs = self._runs(side, carry, blocks[0] if not found else None)
                found.append(Section(images, outputs, side, carry, runs, tuple(blocks)))
                before = side
        return tuple(found)

    def _runs(self, side: Side, carry: int, first: Block | None) -> tuple[Run, ...]:
        """Return the loads of a section; the first section's are short, for an early start."""
        g = self.g
        runs = sorted((side.inside, *side.border), key=lambda run: run.place)
        ends = []
        if first is not None and not self.interleaved_x:
            last_tap = g.rows.taps - 1
            for tile in (first.tiles[0].rows, first.rows):
                last = tile.start + tile.size - 1
                ends.append(side.place(g.rows, last, last_tap) + 1)
            rows = max(1, _LOAD_BYTES // (self.cols.size * g.itemsize))
            ends += range(ends[-1] + rows, side.size, rows)
        found: list[Run] = []
        for run in runs:
            start = max(run.place, carry)
            end = run.place + run.size
            for cut in [*(e for e in ends if start < e < end), end]:
                if cut > start:
                    pixel = run.pixel + (start - run.place) * run.step
                    found.append(Run(start, pixel, cut - start, run.step))
                    start = cut
        return tuple(found) if self.cols.inside.size > 0 else ()

    # What fits.

    def _w_bytes(self, num_tiles: int) -> int:
        return num_tiles * len(self.products) * self.c_out_tiles[0].size * self.g.itemsize

    def _x_elems(self, sections: tuple[Section, ...]) -> int:
        """Return the elements per partition of one section, the largest."""
        images = max(s.images.size for s in sections)
        rows = max(s.rows.size for s in sections)
        outputs = max(s.outputs.size for s in sections)
        packed = len(self.packs) * outputs * self.g.cols.outputs
        return images * (len(self.c_in_tiles) * rows * self.cols.size + packed)

    def _y_elems(self, block_tiles: int) -> int:
        g = self.g
        if self.by_images:
            elems = self.image_tiles[0].size * g.rows.outputs * g.cols.outputs
            return elems * (block_tiles if self.interleaved_y else 1)
        rows = self.block_rows * self.row_tiles[0].size
        return rows * self.col_tiles[0].size * self.block_cols

    def _fixed_bytes(self, block_tiles: int) -> int:
        """Return the bytes per partition for blocks of results, residuals, bias and scale."""
        e = self.epilogue
        blocks = _STORES * (1 + e.has_residual) * self._y_elems(block_tiles) * self.g.itemsize
        vectors = 2 * 4 * len(self.c_out_tiles) * (e.has_bias + e.has_scale)
        zeros = self.g.itemsize * (nl.tile_size.psum_bank_fmax + nl.tile_size.pmax)
        return blocks + vectors + zeros + e.scratch_bytes

    def _section_sizes(self) -> Iterator[int]:
        """Yield how many groups of row tiles a section may have, the most first."""
        total = ceil_div(len(self.row_tiles), self.block_rows)
        last = 0
        for parts in range(1, total + 1):
            size = ceil_div(total, parts)
            if size != last:
                yield size
            last = size

    def _largest(self, room: int) -> tuple[tuple[Section, ...], int] | None:
        """Return the highest sections of which two fit, or all if there is one, and their bytes."""
        for size in self._section_sizes():
            rows = min(size * self.block_rows * self.row_tiles[0].size, self.g.rows.outputs)
            places = span_size(self.g.rows, rows, self.g.rows.taps, self.all_rows.step)
            least = min(places, self.all_rows.size) * self.cols.size * self.g.itemsize
            several = self.g.N * self.g.G > 1 or size * self.block_rows < len(self.row_tiles)
            most = room if not several else room / 2 if size == 1 else _X_SHARE * room / 2
            if least * len(self.c_in_tiles) > most:
                continue  # saves making sections that cannot fit
            sections = self._sections(size)
            once = self._x_elems(sections) * self.g.itemsize
            if len(sections) * self.g.G == 1:
                if once <= room:
                    return sections, once
            elif 2 * once <= _X_SHARE * room or (size == 1 and 2 * once <= room):
                return sections, 2 * once
        return None

    def _orders(self) -> Iterator[_Order]:
        """Yield what fits, in the order of preference among those that read the same."""
        num = len(self.c_out_tiles)
        w_copies = 1 if self.g.G == 1 else 2
        fixed = self._fixed_bytes(num)
        w_bytes = w_copies * self._w_bytes(num)
        found = self._largest(self.limit - fixed - w_bytes)
        if found:
            used = fixed + w_bytes + found[1]
            yield _Order("weights resident", found[0], num, False, False, 1, 1, used)
        if num == 1:
            return
        sections = self._sections(1 if self.by_images else len(self.row_tiles))
        x_bytes = len(sections) * self._x_elems(sections) * self.g.itemsize * w_copies
        for block in (num // 2, 1):  # two blocks at least: one is loaded while the other is used
            used = self._fixed_bytes(block) + 2 * self._w_bytes(block) + x_bytes
            if block and used <= self.limit:
                yield _Order("image resident", sections, block, True, False, 1, 1, used)
                break
        fixed = self._fixed_bytes(1) + 2 * self._w_bytes(1)
        found = self._largest(self.limit - fixed)
        if found:
            times = len(found[0])
            yield _Order("strips first", found[0], 1, False, True, 1, times, fixed + found[1])
        for parts in range(2, num + 1):
            block = ceil_div(num, parts)
            fixed = self._fixed_bytes(block) + 2 * self._w_bytes(block)
            found = self._largest(self.limit - fixed)
            if found:
                times = ceil_div(num, block)
                used = fixed + found[1]
                yield _Order("channels first", found[0], block, False, False, times, 1, used)
                break

    def _x_bytes(self, sections: tuple[Section, ...]) -> int:
        """Return the bytes of x that all sections load together."""
        pixels = sum(
            section.images.size * run.size * self.cols.inside.size
            for section in sections
            for run in section.runs
        )
        return pixels * self.g.G * self.g.C_in * self.g.itemsize

    def _read_bytes(self, order: _Order) -> int:
        g = self.g
        w_itemsize = 2 if self.fast else g.itemsize
        w = g.G * g.C_in * g.C_out * g.rows.taps * g.cols.taps * w_itemsize
        return order.times_x * self._x_bytes(order.sections) + order.times_w * w

    # Together.

    def plan(self) -> DirectPlan:
        """Return the plan."""
        g = self.g
        width = g.cols.stride * self.cols.size
        if g.rows.stride * width > STEP_MAX:
            raise CapacityError(
                f"conv2d: rows of {self.cols.size} pixels are too far apart for an access pattern "
                f"(at most {STEP_MAX} elements, int16; architecture guide)"
            )
        orders = []
        for order in self._orders():
            orders.append(order)
            if order.times_x == order.times_w == 1:
                break  # nothing reads less
        if not orders:
            raise CapacityError(
                f"conv2d: neither the weights of {self.c_out_tiles[0].size} of {g.C_out} output "
                f"channels twice nor a strip twice fit {self.limit} B of SBUF per partition "
                "together (nl.tile_size.sbuf_fmax_bytes)"
            )
        order = min(orders, key=self._read_bytes)
        blocks = self._channel_blocks(order.block_tiles)
        halves = self._halves()
        itemsize = 2 if self.fast else g.itemsize
        counted = _count(g, order.sections, self.products, self.mode is None, halves, itemsize)
        matmuls, columns, cycles = counted
        y_elems = g.N * g.G * g.C_out * g.rows.outputs * g.cols.outputs
        rounds = g.G * len(self.c_out_tiles)
        stores = sum(len(s.blocks) for s in order.sections)
        e = self.epilogue
        images = max(s.images.size for s in order.sections)
        rows = max(s.rows.size for s in order.sections)
        sources = len(self.c_in_tiles)
        return DirectPlan(
            geometry=g,
            epilogue=e,
            y_shape=(g.N, g.G * g.C_out, g.rows.outputs, g.cols.outputs),
            x_shape=(
                max(tile.size for tile in self.c_in_tiles),
                *((images, sources) if self.interleaved_x else (sources, images)),
                max(1, rows),  # no pixel but padding
                self.cols.size,
            ),
            y_elems=self._block_elems(order),
            w_shape=(
                max(p.rows for p in self.products),
                order.block_tiles,
                len(self.products) * self.c_out_tiles[0].size,
            ),
            c_in_tiles=self.c_in_tiles,
            packs=self.packs,
            pack_shape=(
                max((p.channels * len(p.taps) for p in self.packs), default=0),
                len(self.packs),
                images,
                max(s.outputs.size for s in order.sections),
                g.cols.outputs,
            ),
            products=self.products,
            c_out_blocks=blocks,
            cols=self.cols,
            sections=order.sections,
            steps=self._steps(order, blocks),
            interleaved_x=self.interleaved_x,
            interleaved_y=self.interleaved_y,
            trimmed=self.mode is None,
            halves=halves,
            channels_first=self._channels_first(order.sections[0], order.block_tiles),
            fast=self.fast,
            evict_on_both=matmuls < 4 * sum(len(b.tiles) for s in order.sections for b in s.blocks),
            order=order.name,
            num_matmuls=rounds * matmuls,
            moving_columns=rounds * columns,
            tensor_cycles=rounds * cycles,
            num_output_tiles=(g.G * len(blocks) if self.interleaved_y else rounds) * stores,
            hbm_read_bytes=self._read_bytes(order)
            + 4 * g.G * g.C_out * (e.has_bias + e.has_scale)
            + (y_elems * g.itemsize if e.has_residual else 0),
            sbuf_bytes=order.sbuf_bytes,
        )

    def _block_elems(self, order: _Order) -> int:
        """Return the elements per partition of the largest block of results."""
        return max(
            block.images.size * block.rows.size * block.cols.size
            for section in order.sections
            for block in section.blocks
        ) * (order.block_tiles if self.interleaved_y else 1)

    def _channel_blocks(self, block_tiles: int) -> tuple[tuple[ChannelTile, ...], ...]:
        found = []
        for part in tiles(len(self.c_out_tiles), block_tiles):
            found.append(
                tuple(
                    ChannelTile(
                        index=i,
                        place=i - part.start,
                        start=self.c_out_tiles[i].start,
                        size=self.c_out_tiles[i].size,
                        w_start=self.c_out_tiles[i].start * len(self.products),
                    )
                    for i in range(part.start, part.start + part.size)
                )
            )
        return tuple(found)

    def _steps(
        self, order: _Order, blocks: tuple[tuple[ChannelTile, ...], ...]
    ) -> tuple[Step, ...]:
        num_sections, num_blocks = len(order.sections), len(blocks)
        if order.sections_first:
            pairs = [(s, b) for s in range(num_sections) for b in range(num_blocks)]
        else:
            pairs = [(s, b) for b in range(num_blocks) for s in range(num_sections)]
        steps: list[Step] = []
        for s, b in pairs:
            loads_x = b == 0 or not (order.sections_first or order.x_resident)
            loads_w = order.sections_first or s == 0
            loads = self._loads(order.sections[s], blocks[b], loads_x, loads_w, not steps)
            back = 1 if order.sections_first else num_sections
            steps.append(Step(s, b, 0 if loads_x else back, loads_w, tuple(loads)))
        return tuple(steps)

    def _loads(
        self,
        section: Section,
        block: tuple[ChannelTile, ...],
        loads_x: bool,
        loads_w: bool,
        is_first: bool,
    ) -> Iterator[Load]:
        """Yield loads in the order of use: the first run of x with the first tile's weights."""
        runs = range(len(section.runs)) if loads_x else range(0)
        sources = range(1 if self.interleaved_x else len(self.c_in_tiles))
        pieces = self._pieces(block[0], is_first) if loads_w else []
        for t in sources:
            if runs:
                yield Load(True, t, Tile(runs[0], 1))
            for piece in pieces:
                if self.products[piece.start].source == t and not self.interleaved_x:
                    yield Load(False, 0, piece)
        for piece in pieces:
            if self.interleaved_x or self.products[piece.start].source >= len(self.c_in_tiles):
                yield Load(False, 0, piece)
        first = section.blocks[0].rows
        end = section.rows.place(self.g.rows, first.start + first.size - 1, self.g.rows.taps - 1)
        soon = [i for i in runs[1:] if section.runs[i].place <= end]
        if self._channels_first(section, len(block)):
            soon = list(runs[1:])
        for i in soon:
            for t in sources:
                yield Load(True, t, Tile(i, 1))
        if loads_w:
            for i in range(1, len(block)):
                for piece in self._pieces(block[i], False):
                    yield Load(False, i, piece)
        for i in runs[1 + len(soon) :]:
            for t in sources:
                yield Load(True, t, Tile(i, 1))

    def _pieces(self, tile: ChannelTile, is_first: bool) -> list[Tile]:
        """Return the products whose weights are loaded together, of the same rows and source."""
        each = tile.size * self.g.itemsize
        most = max(1, (_FIRST_LOAD_BYTES if is_first else _LOAD_BYTES) // each)
        found: list[Tile] = []
        for i, product in enumerate(self.products):
            last = found[-1] if found else None
            same = last is not None and self.products[last.start].rows == product.rows
            alone = is_first and last is not None and last.start == 0 and last.size == 1
            if is_first and last is not None and not self.interleaved_x:
                same = same and self.products[last.start].source == product.source
            if last is not None and same and last.size < most and not alone:
                found[-1] = Tile(last.start, last.size + 1)
            else:
                found.append(Tile(i, 1))
        return found


def _count(
    g: Geometry,
    sections: tuple[Section, ...],
    products: tuple[Product, ...],
    trimmed: bool,
    halves: bool,
    itemsize: int,
) -> tuple[int, int, int]:
    """Return matmuls, moving columns and TensorE's cycles for one tile of output channels."""
    hw = hardware()
    weights = even_tiles(g.C_out, nl.tile_size.pmax)[0].size
    each = 1
    if halves:
        weights, each = nl.tile_size.pmax // 2, 2
    sources: Counter[tuple[int, int]] = Counter((p.kh, p.kw) for p in products)
    kinds: Counter[tuple[tuple[int, ...], tuple[int, ...], int, int, int]] = Counter()
    down, across = _Reached(g.rows, trimmed), _Reached(g.cols, trimmed)
    for section in sections:
        for block in section.blocks:
            for tile in block.tiles:
                rows, cols = tile.rows, tile.cols
                kinds[
                    down.sizes(rows), across.sizes(cols), tile.images.size, rows.size, cols.size
                ] += 1
    matmuls = columns = cycles = 0
    for (downs, acrosses, images, num_rows, num_cols), times in kinds.items():
        whole = images * num_rows * num_cols
        is_covered = False
        for (kh, kw), count in sources.items():
            n = whole if kh < 0 else images * downs[kh] * acrosses[kw]
            is_covered = is_covered or n == whole
            if n:
                matmuls += times * count * each
                columns += times * count * n * each
                cycles += times * count * matmul_cycles(n, itemsize, hw, weights)
        if not is_covered:  # a product of zeros comes first
            matmuls += times
            columns += times * whole
            cycles += times * matmul_cycles(whole, itemsize, hw, weights)
    return matmuls, columns, cycles


class _Reached:
    """How many outputs each tap of an axis reaches: of most tiles, all."""

    def __init__(self, axis: Axis, trimmed: bool) -> None:
        self.axis = axis
        self.start, self.end = 0, axis.outputs  # what every tap reaches
        for tap in range(axis.taps) if trimmed else ():
            reached = tap_outputs(axis, Tile(0, axis.outputs), tap)
            self.start = max(self.start, reached.start)
            self.end = min(self.end, reached.start + reached.size)
        self.known: dict[tuple[int, int], tuple[int, ...]] = {}  # of the others

    def sizes(self, outputs: Tile) -> tuple[int, ...]:
        """Return how many of some outputs each tap reaches."""
        start, size = outputs.start, outputs.size
        if self.start <= start and start + size <= self.end:
            return (size,) * self.axis.taps
        found = self.known.get((start, size))
        if found is None:
            found = tuple(
                tap_outputs(self.axis, outputs, tap).size for tap in range(self.axis.taps)
            )
            self.known[start, size] = found
        return found
