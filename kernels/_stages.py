"""Kernels that run before and after a convolution, for what its algorithm does not do itself.

Each is a launch of its own and takes x or y once more through HBM:

    layout "NHWC"       x and the residual are transposed to (N, C, H, W) before, y back after
    a padding_mode      x is copied with its border before (zeros need no copy)
    a pool              y is pooled after; not means of 16-bit types, which would be rounded twice
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from nkiconv.kernels import _looped
from nkiconv.kernels._blocks import Pool
from nkiconv.kernels._looped import LoopedPlan
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.kernels._price import Price
from nkiconv.kernels.pad_planes import pad_planes, pad_planes_looped, plan_pad
from nkiconv.kernels.pool_planes import plan_pool, pool_planes, pool_planes_looped
from nkiconv.kernels.transpose_planes import (
    plan_transpose,
    transpose_planes,
    transpose_planes_looped,
)
from nkiconv.simulate.hardware import hardware

Launch = Callable[..., Any]
"""Runs a kernel on arrays, as `nkiconv.simulate.simulate_kernel(kernel, *args)` does."""


_LOOPED = {
    pad_planes: pad_planes_looped,
    pool_planes: pool_planes_looped,
    transpose_planes: transpose_planes_looped,
}


@dataclass(frozen=True)
class Stage:
    """A kernel that runs before or after, its plan, and what it costs."""

    kernel: Any
    plan: Any
    price: Price

    def run(self, launch: Launch, x: Any) -> Any:
        """Launch the kernel; return its result."""
        return launch(self.kernel, x, self.plan)


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
    x_first: Stage | None
    residual_first: Stage | None
    pad: Stage | None
    pool: Stage | None
    y_last: Stage | None
    why: str

    def before(self, launch: Launch, x: Any, residual: Any) -> tuple[Any, Any]:
        """Return x and the residual as the algorithm takes them."""
        N, C, H, W = self.x_shape
        if self.x_first is not None:
            x = self.x_first.run(launch, x.reshape(N, H * W, C))
        if self.pad is not None:
            x = self.pad.run(launch, x.reshape(N * C, 1, H, W))
            H, W = self.pad.plan.y_shape[2:]
        if residual is not None and self.residual_first is not None:
            g = self.geometry
            shape = (N, g.G * g.C_out, g.rows.outputs, g.cols.outputs)
            turned = residual.reshape(N, shape[2] * shape[3], shape[1])
            residual = self.residual_first.run(launch, turned).reshape(shape)
        return x.reshape(N, C, H, W), residual

    def after(self, launch: Launch, y: Any) -> Any:
        """Return y pooled, in the caller's layout."""
        N, C, OH, OW = self.y_shape
        if self.pool is not None:
            g = self.geometry
            planes = y.reshape(N * C, 1, g.rows.outputs, g.cols.outputs)
            y = self.pool.run(launch, planes).reshape(N, C, OH, OW)
        if self.y_last is None:
            return y
        return self.y_last.run(launch, y.reshape(N, C, OH * OW)).reshape(N, OH, OW, C)

    @property
    def all(self) -> tuple[Stage, ...]:
        """Those that there are."""
        every = (self.x_first, self.residual_first, self.pad, self.pool, self.y_last)
        return tuple(stage for stage in every if stage is not None)

    def estimate_us(self) -> float:
        """Return microseconds without launch: bytes through HBM, and a start and an end each."""
        return sum(stage.price.estimate_us() for stage in self.all)


def stages_for(
    geometry: Geometry,
    y_planes: tuple[int, int],
    *,
    has_residual: bool,
    border: str | None,
    layout: str,
    pool: Pool | None,
) -> tuple[Geometry, Stages]:
    """Return the convolution that is left, of NCHW images with zeros around them, and the stages.

    Parameters
    ----------
    y_planes
        Rows and columns of y, after a pool if there is one.
    border
        What stands around x if a stage copies it there, by padding_mode; None for no copy.
    pool
        What is to be pooled afterwards; None also where the algorithm pools.

    Raises
    ------
    NotSuited
        The program of one would be too long.
    """
    g = geometry
    N, C, C_out = g.N, g.G * g.C_in, g.G * g.C_out
    H, W = g.rows.size, g.cols.size
    why, pad = [], None
    if layout == "NHWC":
        why.append("x transposed before and y after, through HBM")
    if border is not None:
        rows, cols = _pads(g.rows), _pads(g.cols)
        pad = _stage(pad_planes, plan_pad, (N * C, H, W), rows, cols, border, g.itemsize)
        geometry = replace(g, rows=_padded(g.rows, rows), cols=_padded(g.cols, cols))
        what = "a border of zeros" if border == "zeros" else f"its {border} border"
        why.append(f"x copied with {what} before, through HBM")
    after = None
    if pool is not None:
        planes = (N * C_out, g.rows.outputs, g.cols.outputs)
        after = _stage(pool_planes, plan_pool, planes, pool, g.itemsize)
        why.append("y pooled after, through HBM")
    turned = layout == "NHWC"
    outputs = g.rows.outputs * g.cols.outputs
    return geometry, Stages(
        geometry=g,
        x_shape=(N, C, H, W),
        y_shape=(N, C_out, *y_planes),
        x_first=_turn((N, H * W, C), g.itemsize) if turned else None,
        residual_first=_turn((N, outputs, C_out), g.itemsize) if turned and has_residual else None,
        pad=pad,
        pool=after,
        y_last=_turn((N, C_out, y_planes[0] * y_planes[1]), g.itemsize) if turned else None,
        why="; ".join(why),
    )


def _turn(shape: tuple[int, int, int], itemsize: int) -> Stage:
    return _stage(transpose_planes, plan_transpose, shape, itemsize)


def _stage(kernel: Any, plan: Callable[..., tuple[Any, Price]], *arguments: Any) -> Stage:
    """Return a stage; several algorithms ask for the same one."""
    return _planned(kernel, plan, arguments, hardware().target, _looped.MAX_INSTRUCTIONS)


@lru_cache(maxsize=64)
def _planned(
    kernel: Any,
    plan: Callable[..., tuple[Any, Price]],
    arguments: tuple[Any, ...],
    _target: str,
    _limit: int,
) -> Stage:
    made, price = plan(*arguments)
    return Stage(_LOOPED[kernel] if isinstance(made, LoopedPlan) else kernel, made, price)


def _pads(axis: Axis) -> tuple[int, int]:
    """Return how many pixels an axis needs before the image and behind it."""
    reach = (axis.outputs - 1) * axis.stride + (axis.taps - 1) * axis.dilation + 1
    return axis.pad, max(0, reach - axis.pad - axis.size)


def _padded(axis: Axis, pads: tuple[int, int]) -> Axis:
    return replace(axis, size=sum(pads) + axis.size, pad=0)
