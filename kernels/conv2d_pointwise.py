"""conv2d of 1x1 taps: a matrix product over the pixels of all images.

y[n, co, oh, ow] = act(scale[co] * z + bias[co] + residual[n, co, oh, ow])
z = sum over ci of w[ci, co] * x[n, ci, oh*s_h, ow*s_w]

Shapes
------
x_hbm         (N, C_in, H, W)                     f32 f16 bf16  HBM
w_hbm         (partitions, T_out, T_in, C_out')   as x          HBM, arranged (_matmul_plan.py)
scale_hbm     (C_out, 1)                          f32           HBM, or None
bias_hbm      (C_out, 1)                          f32           HBM, or None
residual_hbm  (N, C_out, OH, OW)                  as x          HBM, or None
y_hbm         (N, C_out, OH, OW)                  as x          HBM

Loop nest
---------
for group of pixels, chunk of output channels:      in the order that moves the fewest bytes
    load those pixels and weights that are not in SBUF yet
    for tile of <= 512 pixels, tile of <= 128 output channels:
        for tile of <= 128 input channels:
            acc (co, pixels) += w (ci, co).T @ x (ci, pixels)
        y = act(scale*acc + bias + residual)        PSUM to SBUF: the only rounding
    one store

Without a stride the pixels of an image lie side by side, so tiles need not be whole rows.  With one
the moving operand steps over columns; rows are left out by the transfer, or stepped over where
loading them makes its runs so much longer that it takes less time.

Bytes limit it, or emptying PSUM where the input channels are few; with many channels the tensor
engine does.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul (tile sizes), DMA bandwidth guide
(bytes of a run), NKI access patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import nki
import nki.language as nl
import numpy as np

from nkiconv.kernels import _looped
from nkiconv.kernels._algorithm import Candidate, Launch, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import Array
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._matmul import multiply
from nkiconv.kernels._matmul_plan import (
    Cut,
    MatmulPlan,
    Product,
    arrange,
    cuts,
    make_plan,
    num_instructions,
)
from nkiconv.kernels._weights import PackedWeights

NAME = "pointwise"


@nki.jit
def conv2d_pointwise(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    y_shape: tuple[int, int, int, int],
    plan: MatmulPlan,
) -> nl.NkiTensor:
    """Return y_hbm; `multiply` (_matmul.py) is the loop nest at the top of this file."""
    y_hbm = nl.ndarray(y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(y_hbm, x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm, plan)
    return y_hbm


@nki.jit
def conv2d_pointwise_looped(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: LoopedPlan,
) -> nl.NkiTensor:
    """Return y_hbm by on-chip loops over parts (_looped.py)."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    operands = {
        "x": x_hbm, "w": w_hbm, "scale": scale_hbm, "bias": bias_hbm, "residual": residual_hbm,
        "y": y_hbm,
    }  # fmt: skip
    for piece in plan.pieces:
        _loop(operands, piece)
    return y_hbm


def _loop(operands: dict[str, Any], piece: Piece) -> None:
    """Convolve all parts of a piece."""
    if piece.iterations == 1:
        _convolve_part(take_part(operands, piece, []), piece.part)
        return
    table_sb = make_table(piece)

    def body(i: nl.VirtualRegister) -> None:
        _convolve_part(take_part(operands, piece, indices(table_sb, piece, i)), piece.part)

    nl.fori_loop(0, piece.iterations, body)


def _convolve_part(hbm: dict[str, Any], plan: MatmulPlan) -> None:
    _convolve(hbm["y"], hbm["x"], hbm["w"], hbm["scale"], hbm["bias"], hbm["residual"], plan)


def _convolve(
    y_hbm: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: MatmulPlan,
) -> None:
    """y_hbm = the convolution of all of x_hbm."""
    residual = None
    if residual_hbm is not None:
        residual = residual_hbm.reshape(plan.y_shape)
    multiply(
        y_hbm.reshape(plan.y_shape), x_hbm.reshape(plan.x_shape), w_hbm, scale_hbm, bias_hbm,
        residual, plan,
    )  # fmt: skip


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield the cheapest plan.

    Raises
    ------
    NotSuited
        Other taps than 1x1, padding, groups, or a problem too large for one program.
    """
    product = _product(problem)
    found = cuts(product, problem.epilogue)
    if not found:
        raise NotSuited(f"{product.K} input channels of the fewest pixels do not fit SBUF")
    best = found[0]
    if best.price.static_instructions <= _looped.MAX_INSTRUCTIONS:
        plan = make_plan(best, problem.epilogue)
        price = replace(best.price, static_instructions=num_instructions(plan))
        if price.static_instructions <= _looped.MAX_INSTRUCTIONS:
            yield Candidate(NAME, plan, price, f"a matmul over all pixels; {best.why}")
            return

    def make(part: Problem, reserved_bytes: int) -> Cut:
        room = nl.tile_size.sbuf_fmax_bytes - reserved_bytes
        # Stacked pieces of an image are no view that can move.
        several = cuts(_product(part), part.epilogue, sbuf_bytes=room)
        return next(one for one in several if one.shape.stack == 1)

    loops = _looped.Loops(make, lambda one: one.price, lambda _: None, equal=True)
    cut = _looped.cut_into_parts(problem, loops)
    pieces = [replace(p, part=make_plan(p.part, problem.epilogue)) for p in cut.pieces]
    looped = LoopedPlan(tuple(pieces), _looped.y_shape(problem))
    why = f"a matmul over all pixels; {cut.pieces[0].part.why}; {cut.why}"
    yield Candidate(NAME, looped, _looped.total(cut), why)


def _product(problem: Problem) -> Product:
    """Return the product that a convolution is; without strides an image is one row.

    Raises
    ------
    NotSuited
    """
    g = problem.geometry
    if (g.rows.taps, g.cols.taps) != (1, 1):
        raise NotSuited(f"it takes 1x1 taps, not {g.rows.taps}x{g.cols.taps}")
    if g.G != 1:
        raise NotSuited(f"it takes one group, not {g.G}")
    for axis in (g.rows, g.cols):
        if axis.pad or (axis.outputs - 1) * axis.stride >= axis.size:
            raise NotSuited("it takes no padding")
    stride = (
        g.rows.stride if g.rows.outputs > 1 else 1,
        g.cols.stride if g.cols.outputs > 1 else 1,
    )
    size = (g.rows.size, g.cols.size)
    outputs = (g.rows.outputs, g.cols.outputs)
    if outputs == size:
        outputs = size = (1, size[0] * size[1])
    return Product(
        N=g.N,
        K=g.C_in,
        M=g.C_out,
        rows=outputs[0],
        cols=outputs[1],
        x_size=size,
        stride=stride,
        itemsize=g.itemsize,
        dtype="bfloat16" if problem.precision == "fast" else problem.dtype,
    )


def pack(w: PackedWeights, plan: MatmulPlan | LoopedPlan) -> Array:
    """Return the weights as `arrange` orders them, rounded where x is."""
    if isinstance(plan, LoopedPlan):
        return pack(w, plan.pieces[0].part)  # there is one piece
    matrix = w.array[0, :, 0, :]
    if plan.moving_dtype == "bfloat16":
        matrix = matrix.astype(ml_dtypes.bfloat16)
    return arrange(np.asarray(matrix), plan)


def run(launch: Launch, operands: Operands, plan: MatmulPlan | LoopedPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    if isinstance(plan, LoopedPlan):
        return launch(conv2d_pointwise_looped, o.x, o.w, o.scale, o.bias, o.residual, plan)
    N, _, H, W = o.x.shape
    shape = _y_shape(N, H, W, plan)
    return launch(conv2d_pointwise, o.x, o.w, o.scale, o.bias, o.residual, shape, plan)


def _y_shape(N: int, H: int, W: int, plan: MatmulPlan) -> tuple[int, int, int, int]:
    """Return y's own shape: a plan without strides knows an image as one row."""
    if plan.x_shape[2:] == (H, W):
        return plan.y_shape
    return (N, plan.m.size, H, W)
