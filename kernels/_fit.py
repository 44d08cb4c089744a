"""How to cut a direct convolution so that its parts fit SBUF and little is read twice from HBM.

Normally all weights stay in SBUF and a strip of the image is loaded once for all output channels.
Where that does not fit, in the order in which it is tried:

* output channels in blocks: the image is read once per block;
* the image in columns: their halos are read twice;
* weights streamed, a few taps at a time: read again for every block of outputs;
* the image streamed, one tile of input channels and a few taps at a time: read again for every tile
  of output channels.

`best_cut` takes what reads the fewest bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import nki.language as nl

from nkiconv.kernels._plan import (
    STEP_MAX,
    Axis,
    Geometry,
    Tile,
    ceil_div,
    even_tiles,
    make_span,
    pixel_step,
    span_size,
    tiles,
)
from nkiconv.simulate import CapacityError

_COPIES = 2  # of what is loaded again and again: one is filled while the other is used
_STORE_BYTES = 4096  # per partition: where the DMA rate levels off (vendor's DMA bandwidth guide)
_STREAM_SHARE = 8  # a load of streamed weights takes at most 1/8 of SBUF; the image needs the rest


@dataclass(frozen=True)
class Cut:
    """One way to cut the work up.

    Parameters
    ----------
    weights_resident
        The weights of `c_out_block` output channels are loaded once; else `taps` at a time.
    x_resident
        All input channels of a strip are loaded once; else one tile of them and `taps` at a time.
    strip, tile
        Outputs (rows, columns) of a strip and of a PSUM bank.
    tiles_per_block
        PSUM banks that one store empties.
    taps
        Taps (rows, columns) that are loaded together.
    """

    geometry: Geometry
    has_residual: bool
    weights_resident: bool
    x_resident: bool
    c_out_block: int
    strip: tuple[int, int]
    tile: tuple[int, int]
    tiles_per_block: int
    taps: tuple[int, int]

    @property
    def _num_c_in_tiles(self) -> int:
        return ceil_div(self.geometry.C_in, nl.tile_size.pmax)

    @property
    def _num_rounds(self) -> int:
        """How often the kernel walks over the batch."""
        return self.geometry.G * ceil_div(self.geometry.C_out, self.c_out_block)

    @property
    def window_taps(self) -> tuple[int, int]:
        """Taps (rows, columns) that one window of the image serves."""
        g = self.geometry
        return (g.rows.taps, g.cols.taps) if self.x_resident else self.taps

    @property
    def pitch(self) -> int:
        """Columns of a window, so elements from row to row."""
        cols = self.geometry.cols
        return span_size(cols, self.strip[1], self.window_taps[1], 1)

    @property
    def weight_bytes(self) -> int:
        """SBUF bytes per partition for weights."""
        g = self.geometry
        if self.weights_resident:
            once = self._num_c_in_tiles * g.rows.taps * g.cols.taps * self.c_out_block
            return once * g.itemsize * (1 if self._num_rounds == 1 else _COPIES)
        c_out = min(g.C_out, nl.tile_size.pmax)
        return self.taps[0] * self.taps[1] * c_out * g.itemsize * _COPIES

    @property
    def x_bytes(self) -> int:
        """SBUF bytes per partition for windows of the image."""
        g = self.geometry
        num_taps = self.window_taps[0]
        height = span_size(g.rows, self.strip[0], num_taps, pixel_step(g.rows, num_taps))
        once = height * self.pitch * g.itemsize
        if not self.x_resident:
            return once * _COPIES
        whole = self.strip == (g.rows.outputs, g.cols.outputs) and g.N * self._num_rounds == 1
        return once * self._num_c_in_tiles * (1 if whole else _COPIES)

    @property
    def sbuf_bytes(self) -> int:
        """SBUF bytes per partition for everything."""
        g = self.geometry
        block_rows = min(self.tiles_per_block * self.tile[0], self.strip[0])
        y_bytes = block_rows * self.tile[1] * g.itemsize * _COPIES
        bias_bytes = 4 * ceil_div(self.c_out_block, nl.tile_size.pmax) * _COPIES  # float32
        stores = y_bytes * (2 if self.has_residual else 1)
        return self.weight_bytes + self.x_bytes + stores + bias_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes of x and w that are loaded from HBM."""
        g = self.geometry
        kh, kw = self.window_taps
        rows = _num_loaded(g.rows, self.strip[0], kh, pixel_step(g.rows, kh))
        cols = _num_loaded(g.cols, self.strip[1], kw, 1)
        times_x = ceil_div(g.C_out, self.c_out_block if self.x_resident else nl.tile_size.pmax)
        times_w = 1 if self.weights_resident else g.N * self._num_blocks
        x_elems = g.N * g.G * g.C_in * rows * cols * times_x
        w_elems = g.G * g.C_in * g.C_out * g.rows.taps * g.cols.taps * times_w
        return (x_elems + w_elems) * g.itemsize

    @property
    def _num_blocks(self) -> int:
        num = 0
        for rows in tiles(self.geometry.rows.outputs, self.strip[0]):
            for cols in tiles(self.geometry.cols.outputs, self.strip[1]):
                num += len(self.blocks(rows, cols))
        return num

    def blocks(self, rows: Tile, cols: Tile) -> tuple[tuple[Tile, tuple[Tile, ...]], ...]:
        """Return the blocks of a strip: their columns, and the rows of each PSUM tile."""
        found = []
        for block_cols in even_tiles(cols.size, self.tile[1], cols.start):
            row_tiles = even_tiles(rows.size, self.tile[0], rows.start)
            for group in even_tiles(len(row_tiles), self.tiles_per_block):
                found.append((block_cols, row_tiles[group.start : group.start + group.size]))
        return tuple(found)


def best_cut(geometry: Geometry, sbuf_bytes: int, *, has_residual: bool) -> Cut:
    """Return the cut that fits `sbuf_bytes` per partition and reads the fewest bytes from HBM.

    Raises
    ------
    CapacityError
        Not even the smallest parts fit.
    """
    g = geometry
    fits: list[Cut] = []
    for c_out_block in _even_sizes(ceil_div(g.C_out, nl.tile_size.pmax)):
        fits += _largest(g, sbuf_bytes, has_residual, True, c_out_block * nl.tile_size.pmax)
    fits += _largest(g, sbuf_bytes, has_residual, False, g.C_out)
    if not fits:
        raise CapacityError(
            f"conv2d: the smallest parts of a convolution of {g.C_in} to {g.C_out} channels do not "
            f"fit {sbuf_bytes} B of SBUF per partition (nl.tile_size.sbuf_fmax_bytes)"
        )
    return min(fits, key=lambda cut: cut.read_bytes)


def _largest(
    g: Geometry, limit: int, has_residual: bool, weights_resident: bool, c_out_block: int
) -> Iterator[Cut]:
    """Yield the widest, then highest strip that fits: one with x resident, one with x streamed.

    Wide strips first, since long rows load fastest.
    """
    for x_resident in (True, False):
        for strip_cols in _halves(g.cols.outputs if x_resident else _tile_cols(g.cols.outputs)):
            tile = _tile(g, strip_cols)
            cuts = (
                Cut(
                    geometry=g,
                    has_residual=has_residual,
                    weights_resident=weights_resident,
                    x_resident=x_resident,
                    c_out_block=min(c_out_block, g.C_out),
                    strip=(rows, strip_cols),
                    tile=tile,
                    tiles_per_block=_tiles_per_block(g, tile, weights_resident and x_resident),
                    taps=taps,
                )
                for taps in _tap_sizes(g, limit, weights_resident, x_resident)
                for rows in _strip_rows(g, tile, x_resident)
            )
            found = next((c for c in cuts if c.sbuf_bytes <= limit and c.pitch <= STEP_MAX), None)
            if found is not None:
                yield found
                break


def _tile_cols(strip_cols: int) -> int:
    """Return the output columns of a PSUM bank."""
    return even_tiles(strip_cols, nl.tile_size.psum_bank_fmax)[0].size


def _tile(g: Geometry, strip_cols: int) -> tuple[int, int]:
    """Return the outputs (rows, columns) of a PSUM bank."""
    cols = _tile_cols(strip_cols)
    pitch = span_size(g.cols, strip_cols, g.cols.taps, 1)
    rows = 1 if g.rows.stride * pitch > STEP_MAX else nl.tile_size.psum_bank_fmax // cols
    return min(rows, g.rows.outputs), cols


def _tiles_per_block(g: Geometry, tile: tuple[int, int], resident: bool) -> int:
    """Return how many PSUM banks to fill before they are emptied: at most half of all."""
    half = nl.tile_size.psum_num_banks // 2
    if not resident:
        return half  # every bank shares what is streamed
    return min(half, ceil_div(_STORE_BYTES, tile[0] * tile[1] * g.itemsize))


def _tap_sizes(
    g: Geometry, limit: int, weights_resident: bool, x_resident: bool
) -> Iterator[tuple[int, int]]:
    """Yield the taps (rows, columns) to load together, the most first."""
    KH, KW = g.rows.taps, g.cols.taps
    if weights_resident and x_resident:
        yield KH, KW
        return
    bytes_per_tap = min(g.C_out, nl.tile_size.pmax) * g.itemsize
    sizes = [(kh, KW) for kh in _even_sizes(KH)] + [(1, kw) for kw in _even_sizes(KW)]
    for kh, kw in sizes:
        if weights_resident or kh * kw * bytes_per_tap <= limit // _STREAM_SHARE:
            yield kh, kw
            if x_resident:
                return  # how many taps are loaded together does not change the image's window


def _strip_rows(g: Geometry, tile: tuple[int, int], x_resident: bool) -> Iterator[int]:
    """Yield the output rows of a strip, the most first; at least a PSUM bank."""
    num_tiles = ceil_div(g.rows.outputs, tile[0])
    if x_resident:
        for n in _even_sizes(num_tiles):
            yield min(n * tile[0], g.rows.outputs)
    else:
        yield min(_tiles_per_block(g, tile, False) * tile[0], g.rows.outputs)  # one block


def _even_sizes(size: int) -> Iterator[int]:
    """Yield the sizes of parts when `size` is cut into 1, 2, 3, ... even parts, each once."""
    part = size
    while part > 1:
        yield part
        part = ceil_div(size, ceil_div(size, part - 1))
    yield 1


def _halves(size: int) -> Iterator[int]:
    """Yield `size`, half of it, a quarter, ... down to 1."""
    while size > 1:
        yield size
        size = ceil_div(size, 2)
    yield 1


def _num_loaded(axis: Axis, strip: int, num_taps: int, step: int) -> int:
    """Return how many pixels of an axis all windows together load."""
    return sum(
        make_span(axis, outputs, taps, step).x_size
        for outputs in tiles(axis.outputs, strip)
        for taps in tiles(axis.taps, num_taps)
    )
