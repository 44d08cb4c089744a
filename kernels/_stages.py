"""Kernels that run before and after a convolution, for what its algorithm does not do itself.

Each is a launch of its own and takes x or y once more through HBM:

    layout "NHWC"       x and the residual are transposed to (N, C, H, W) before, y back after
    a padding_mode      x is copied with its border before (zeros need no copy)
    a pool              y is pooled after; not means of 16-bit types, which would be rounded twice
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nkiconv.kernels._blocks import Pool
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.kernels.pad_planes import PadPlan, pad_planes, plan_pad
from nkiconv.kernels.pool_planes import (
    PoolPlan,
    bytes_moved,
    plan_pool,
    pool_planes,
    vector_elems,
)
from nkiconv.kernels.transpose_planes import TransposePlan, plan_transpose, transpose_planes
from nkiconv.simulate.hardware import hardware

Launch = Callable[..., Any]
"""Runs a kernel on arrays, as `nkiconv.simulate.simulate_kernel(kernel, *args)` does."""


@dataclass(frozen=True)
class Stages:
    """What happens to x before, and to y after; `why` says it in words.

    Parameters
    ----------
    x_shape, y_shape
        (N, C, H, W) of x before its border, and of y after its pool.
    """

    geometry: Geometry
    x_shape: tuple[int, int, int, int]
    y_shape: tuple[int, int, int, int]
    x_first: TransposePlan | None
    residual_first: TransposePlan | None
    pad: PadPlan | None
    pool: PoolPlan | None
    y_last: TransposePlan | None
    why: str

    def before(self, launch: Launch, x: Any, residual: Any) -> tuple[Any, Any]:
        """Return x and the residual as the algorithm takes them."""
        N, C, H, W = self.x_shape
        if self.x_first is not None:
            x = launch(transpose_planes, x.reshape(N, H * W, C), self.x_first)
        if self.pad is not None:
            x = launch(pad_planes, x.reshape(N * C, 1, H, W), self.pad)
            H, W = self.pad.y_shape[2:]
        if residual is not None and self.residual_first is not None:
            shape = self.residual_first.shape
            rows = self.geometry.rows.outputs
            residual = launch(transpose_planes, residual.reshape(shape), self.residual_first)
            residual = residual.reshape(N, shape[2], rows, shape[1] // rows)
        return x.reshape(N, C, H, W), residual

    def after(self, launch: Launch, y: Any) -> Any:
        """Return y pooled, in the caller's layout."""
        N, C, OH, OW = self.y_shape
        if self.pool is not None:
            g = self.geometry
            planes = y.reshape(N * C, 1, g.rows.outputs, g.cols.outputs)
            y = launch(pool_planes, planes, self.pool).reshape(N, C, OH, OW)
        if self.y_last is None:
            return y
        return launch(transpose_planes, y.reshape(N, C, OH * OW), self.y_last).reshape(N, OH, OW, C)

    def estimate_us(self) -> float:
        """Return microseconds without launch: bytes through HBM, and a start and an end each."""
        hw = hardware()
        rate = min(hw.hbm_bytes_per_ns, hw.dma_aggregate_bytes_per_ns)
        ends = 2 * (hw.dma_static_start_ns + hw.dma_complete_ns + hw.dma_fill_ns)
        itemsize = self.geometry.itemsize
        total = 0.0
        for turn in (self.x_first, self.residual_first, self.y_last):
            if turn is not None:
                moved = 2 * itemsize * turn.shape[0] * turn.shape[1] * turn.shape[2]
                passes = hw.float32_matmul_row_cycles if itemsize == 4 else 1
                tensor = turn.num_transposes * (128 * passes + hw.matmul_gap_cycles)
                total += ends + max(moved / rate, tensor / hw.tensor_ghz)
        if self.pad is not None:
            shape = self.pad.y_shape
            moved = 2 * itemsize * shape[0] * shape[2] * shape[3]
            issue = self.pad.num_loads * hw.dma_static_issue_ns
            total += ends + max(moved / rate, issue)
        if self.pool is not None:
            moved = bytes_moved(self.pool, itemsize)
            total += ends + max(moved / rate, vector_elems(self.pool) / hw.vector_ghz)
        return total / 1000


def stages_for(
    geometry: Geometry,
    y_planes: tuple[int, int],
    *,
    has_residual: bool,
    padding_mode: str,
    layout: str,
    pool: Pool | None,
) -> tuple[Geometry, Stages]:
    """Return the convolution that is left, of NCHW images with zeros around them, and the stages.

    Parameters
    ----------
    y_planes
        Rows and columns of y, after a pool if there is one.
    pool
        What is to be pooled afterwards; None also where the algorithm pools.
    """
    g = geometry
    N, C, C_out = g.N, g.G * g.C_in, g.G * g.C_out
    H, W = g.rows.size, g.cols.size
    why, pad = [], None
    if layout == "NHWC":
        why.append("x transposed before and y after, through HBM")
    if padding_mode != "zeros":
        rows, cols = _pads(g.rows), _pads(g.cols)
        pad = plan_pad((N * C, H, W), rows, cols, padding_mode, g.itemsize)
        geometry = replace(g, rows=_padded(g.rows, rows), cols=_padded(g.cols, cols))
        why.append(f"x copied with its {padding_mode} border before, through HBM")
    after = None
    if pool is not None:
        after = plan_pool(N * C_out, g.cols.outputs, pool, g.itemsize)
        why.append("y pooled after, through HBM")
    turned = layout == "NHWC"
    outputs = g.rows.outputs * g.cols.outputs
    return geometry, Stages(
        geometry=g,
        x_shape=(N, C, H, W),
        y_shape=(N, C_out, *y_planes),
        x_first=plan_transpose((N, H * W, C)) if turned else None,
        residual_first=plan_transpose((N, outputs, C_out)) if turned and has_residual else None,
        pad=pad,
        pool=after,
        y_last=plan_transpose((N, C_out, y_planes[0] * y_planes[1])) if turned else None,
        why="; ".join(why),
    )


def _pads(axis: Axis) -> tuple[int, int]:
    """Return how many pixels an axis needs before the image and behind it."""
    reach = (axis.outputs - 1) * axis.stride + (axis.taps - 1) * axis.dilation + 1
    return axis.pad, max(0, reach - axis.pad - axis.size)


def _padded(axis: Axis, pads: tuple[int, int]) -> Axis:
    return replace(axis, size=sum(pads) + axis.size, pad=0)
