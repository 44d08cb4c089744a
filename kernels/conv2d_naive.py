"""conv2d as one might first write it: the baseline that the direct kernel is measured against.

y[n, co, oh, ow] = act(bias[co]
    + sum over (ci, kh, kw) of w[co, ci, kh, kw] * x[n, ci, oh*s + kh*d - pad, ow*s + kw*d - pad])

Right, legal on every target, and slow on purpose.  (On trn1 the tensor engine transposes by
multiplying with zeros and ones, so NaN or Inf in a weight reaches other output channels too.)  Its
six faults, and what a good kernel does:

1. The whole image plane is loaded although a tile has 512 outputs.  Good: the rows that are needed,
   so that HBM bytes read are at most 1.05 times the bytes of x, w and bias.
2. A tile's columns are gathered by one copy per output.  Good: no copy; the matmul reads them in
   place through a strided view.
3. The plane is loaded again for every tile of channels and every tap.  Good: every byte once.
4. One store per output.  Good: one store per output tile.
5. Weights are loaded element by element from PyTorch's layout and transposed in the inner loop.
   Good: packed on the host, no transpose on the chip.
6. Matmuls of 128 columns although 512 fit a PSUM bank.  Good: full banks.

Shapes
------
x_hbm     (N, G*C_in, H, W)        f32 f16 bf16  HBM
w_hbm     (G*C_out, C_in, KH, KW)  as x          HBM, as PyTorch has it
bias_hbm  (G*C_out, 1)             f32           HBM, or None
y_hbm     (N, G*C_out, OH, OW)     as x          HBM

Loop nest
---------
for image, group, tile of <= 128 output channels, tile of 512 outputs:
    for tile of <= 128 input channels, tap:
        load the plane x[n, ci]; load and transpose w[co, ci, kh, kw]
        gather a column of x for every output; zeros where the tap lies outside x
        for 128 columns: acc += w.T @ columns
    y = act(acc + bias); for every output: one store

Copies limit it: N*G*OH*OW * KH*KW * ceil(C_in/128) * ceil(C_out/128) instructions of an element.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul, nc_transpose, tensor_copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._activations import activation_op
from nkiconv.kernels._arguments import Array
from nkiconv.kernels._plan import Geometry, Tile, tiles
from nkiconv.simulate import CapacityError, simulate_kernel

_PIECE = 128  # columns of a matmul: fault 6


@dataclass(frozen=True)
class NaivePlan(nl.NKIObject):
    """Sizes and tiles; `outputs` count row by row over the result's plane."""

    geometry: Geometry
    activation: str | None
    c_in_tiles: tuple[Tile, ...]
    c_out_tiles: tuple[Tile, ...]
    output_tiles: tuple[Tile, ...]


def plan_naive(geometry: Geometry, *, activation: str | None = None) -> NaivePlan:
    """Tile channels and outputs.

    Raises
    ------
    CapacityError
        The image plane and the tiles beside it need more SBUF than there is.
    """
    g = geometry
    limit = nl.tile_size.sbuf_fmax_bytes
    pmax, bank = nl.tile_size.pmax, nl.tile_size.psum_bank_fmax
    plane = g.rows.size * g.cols.size * g.itemsize
    beside = (2 * pmax + 2 * bank) * g.itemsize + 4  # weights twice, columns, results; bias
    if plane + beside > limit:
        raise CapacityError(
            f'conv2d: algorithm "naive" holds a whole plane of x, {g.rows.size}x{g.cols.size} of '
            f"{g.itemsize} B = {plane} B per partition, and {beside} B beside it; SBUF has {limit} "
            "(nl.tile_size.sbuf_fmax_bytes)"
        )
    return NaivePlan(
        geometry=g,
        activation=activation,
        c_in_tiles=tiles(g.C_in, pmax),
        c_out_tiles=tiles(g.C_out, pmax),
        output_tiles=tiles(g.rows.outputs * g.cols.outputs, bank),
    )


def _load_transposed_weights(
    w_hbm: nl.NkiTensor, c_start: int, c_out: Tile, c_in: Tile, kh: int, kw: int
) -> nl.NkiTensor:
    """w_sb (ci, co) of one tap, transposed on the tensor engine: fault 5."""
    start = c_start + c_out.start
    raw_sb = nl.ndarray((c_out.size, c_in.size), dtype=w_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=raw_sb,
        src=w_hbm[nl.ds(start, c_out.size), nl.ds(c_in.start, c_in.size), kh, kw],
    )
    w_ps = nl.ndarray((c_in.size, c_out.size), dtype=w_hbm.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=w_ps, data=raw_sb, engine=nisa.engine.tensor)
    w_sb = nl.ndarray((c_in.size, c_out.size), dtype=w_hbm.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=w_sb, src=w_ps)
    return w_sb


def _gather_columns(
    columns_sb: nl.NkiTensor, x_sb: nl.NkiTensor, first: int, kh: int, kw: int, geometry: Geometry
) -> None:
    """columns_sb (ci, outputs from `first` on) of one tap, copied one by one: fault 2."""
    rows = geometry.rows
    cols = geometry.cols
    nisa.memset(dst=columns_sb, value=0)
    for i in range(columns_sb.shape[1]):
        oh = (first + i) // cols.outputs
        ow = (first + i) % cols.outputs
        ih = oh * rows.stride + kh * rows.dilation - rows.pad
        iw = ow * cols.stride + kw * cols.dilation - cols.pad
        if ih >= 0 and ih < rows.size and iw >= 0 and iw < cols.size:
            nisa.tensor_copy(dst=columns_sb[:, i : i + 1], src=x_sb[:, ih, iw : iw + 1])


def _accumulate(
    acc_ps: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    plane_sb: nl.NkiTensor,
    n: int,
    group: int,
    c_out: Tile,
    outputs: Tile,
    plan: NaivePlan,
) -> None:
    """acc_ps (co, outputs) = sum over input channels and taps of w.T @ columns."""
    g = plan.geometry
    for c_in in plan.c_in_tiles:
        x_start = group * g.C_in + c_in.start
        x_sb = plane_sb[0 : c_in.size, :, :]
        for kh in range(g.rows.taps):
            for kw in range(g.cols.taps):
                nisa.dma_copy(dst=x_sb, src=x_hbm[n, nl.ds(x_start, c_in.size), :, :])
                w_sb = _load_transposed_weights(w_hbm, group * g.C_out, c_out, c_in, kh, kw)
                columns_sb = nl.ndarray(
                    (c_in.size, outputs.size), dtype=x_hbm.dtype, buffer=nl.sbuf
                )
                _gather_columns(columns_sb, x_sb, outputs.start, kh, kw, g)
                for start in range(0, outputs.size, _PIECE):
                    end = min(start + _PIECE, outputs.size)
                    nisa.nc_matmul(
                        dst=acc_ps[:, start:end],
                        stationary=w_sb,
                        moving=columns_sb[:, start:end],
                        accumulate=c_in.start + kh + kw > 0,
                    )


def _evict(
    y_hbm: nl.NkiTensor,
    acc_ps: nl.NkiTensor,
    bias_hbm: nl.NkiTensor | None,
    n: int,
    c_start: int,
    outputs: Tile,
    activation: str | None,
) -> None:
    """y_hbm[n, co, oh, ow] = act(acc_ps[co, i] + bias), one transfer per output: fault 4."""
    c_size = acc_ps.shape[0]
    width = y_hbm.shape[3]
    bias_sb = None
    if bias_hbm is not None:
        bias_sb = nl.ndarray((c_size, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=bias_sb, src=bias_hbm[nl.ds(c_start, c_size), :])
    y_sb = nl.ndarray(acc_ps.shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
    nisa.activation(dst=y_sb, op=activation_op(activation), data=acc_ps, bias=bias_sb)
    for i in range(outputs.size):
        oh = (outputs.start + i) // width
        ow = (outputs.start + i) % width
        nisa.dma_copy(dst=y_hbm[n, nl.ds(c_start, c_size), oh, ow : ow + 1], src=y_sb[:, i : i + 1])


@nki.jit
def conv2d_naive(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    bias_hbm: nl.NkiTensor | None,
    plan: NaivePlan,
) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    g = plan.geometry
    y_shape = (g.N, g.G * g.C_out, g.rows.outputs, g.cols.outputs)
    y_hbm = nl.ndarray(y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    # One buffer for every plane: a second one would not fit beside a large first.
    plane_shape = (plan.c_in_tiles[0].size, g.rows.size, g.cols.size)
    plane_sb = nl.ndarray(plane_shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
    for n in range(g.N):
        for group in range(g.G):
            for c_out in plan.c_out_tiles:
                for outputs in plan.output_tiles:
                    acc_ps = nl.ndarray(
                        (c_out.size, outputs.size), dtype=nl.float32, buffer=nl.psum
                    )
                    _accumulate(acc_ps, x_hbm, w_hbm, plane_sb, n, group, c_out, outputs, plan)
                    c_start = group * g.C_out + c_out.start
                    _evict(y_hbm, acc_ps, bias_hbm, n, c_start, outputs, plan.activation)
    return y_hbm


def run(
    x: Array, w: Array, bias: Array | None, geometry: Geometry, activation: str | None
) -> Array:
    """Plan and run the kernel on checked arrays; `bias` is (C_out, 1)."""
    plan = plan_naive(geometry, activation=activation)
    y: Array = simulate_kernel(conv2d_naive, x, w, bias, plan)
    return y
