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
from typing import Any

import ml_dtypes
import nki
import nki.language as nl
import numpy as np

from nkiconv.kernels._algorithm import Candidate, Launch, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import Array
from nkiconv.kernels._matmul import multiply
from nkiconv.kernels._matmul_plan import MatmulPlan, Product, arrange, cuts, make_plan
from nkiconv.kernels._weights import PackedWeights

NAME = "pointwise"

_MOST_INSTRUCTIONS = 20_000  # every visit is written out; more take long to compile


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
    residual = None
    if residual_hbm is not None:
        residual = residual_hbm.reshape(plan.y_shape)
    multiply(
        y_hbm.reshape(plan.y_shape), x_hbm.reshape(plan.x_shape), w_hbm, scale_hbm, bias_hbm,
        residual, plan,
    )  # fmt: skip
    return y_hbm


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
    count = best.price.static_instructions
    if count > _MOST_INSTRUCTIONS:
        raise NotSuited(
            f"it would take {count} instructions, more than the {_MOST_INSTRUCTIONS} that it "
            "writes out"
        )
    plan = make_plan(best, problem.epilogue)
    yield Candidate(NAME, plan, best.price, f"a matmul over all pixels; {best.why}")


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


def pack(w: PackedWeights, plan: MatmulPlan) -> Array:
    """Return the weights as `arrange` orders them, rounded where x is."""
    matrix = w.array[0, :, 0, :]
    if plan.moving_dtype == "bfloat16":
        matrix = matrix.astype(ml_dtypes.bfloat16)
    return arrange(np.asarray(matrix), plan)


def run(launch: Launch, operands: Operands, plan: MatmulPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    N, _, H, W = o.x.shape
    shape = _y_shape(N, H, W, plan)
    return launch(conv2d_pointwise, o.x, o.w, o.scale, o.bias, o.residual, shape, plan)


def _y_shape(N: int, H: int, W: int, plan: MatmulPlan) -> tuple[int, int, int, int]:
    """Return y's own shape: a plan without strides knows an image as one row."""
    if plan.x_shape[2:] == (H, W):
        return plan.y_shape
    return (N, plan.m.size, H, W)
