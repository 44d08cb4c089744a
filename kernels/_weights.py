"""Weights in the order of the kernels: packed[g, ci, kh*KW + kw, co] = w[g*C_out/G + co, ci, ...].

The contracted channels come first, so that a slice lies in SBUF as the tensor engine wants its
stationary operand and no kernel has to transpose anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nkiconv.kernels import _arguments
from nkiconv.kernels._arguments import Array, ArrayLike
from nkiconv.simulate import ShapeError

_PLANS_KEPT = 4  # orders of one layer's weights: one for each size of image that it sees


@dataclass(frozen=True, eq=False)
class PackedWeights:
    """What `pack_weights` returns and `conv2d` takes in place of w.

    Shapes
    ------
    array  (groups, C_in/groups, KH*KW, C_out/groups)  float32 float16 bfloat16, read-only

    Raises
    ------
    ShapeError
        `array` has other than 4 dimensions, or its third is not KH*KW.
    """

    array: Array
    kernel_size: tuple[int, int]
    _arranged: dict[int, tuple[object, Array]] = field(default_factory=dict, init=False, repr=False)

    def arranged(self, plan: object, arrange: Callable[[], Array]) -> Array:
        """Return what `arrange` made for this very plan, now or at an earlier call."""
        known = self._arranged.get(id(plan))
        if known is None or known[0] is not plan:
            while len(self._arranged) >= _PLANS_KEPT:
                self._arranged.pop(next(iter(self._arranged)))
            known = self._arranged[id(plan)] = plan, arrange()
        return known[1]

    def __post_init__(self) -> None:
        KH, KW = self.kernel_size
        if self.array.ndim != 4 or self.array.shape[2] != KH * KW:
            raise ShapeError(
                f"PackedWeights: array has shape {self.array.shape} for {KH}x{KW} taps; it must be "
                f"(groups, C_in/groups, {KH * KW}, C_out/groups) (what pack_weights makes)"
            )

    @property
    def groups(self) -> int:
        """Number of groups that the weights were packed for."""
        return int(self.array.shape[0])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C_out, C_in/groups, KH, KW): the shape before packing."""
        G, C_in, _, C_out = self.array.shape
        return G * C_out, C_in, *self.kernel_size

    def unpack(self) -> Array:
        """Return the weights (C_out, C_in/groups, KH, KW) as PyTorch has them."""
        KH, KW = self.kernel_size
        G, C_in, _, C_out = self.array.shape
        taps = self.array.reshape(G, C_in, KH, KW, C_out).transpose(0, 4, 1, 2, 3)
        return np.ascontiguousarray(taps).reshape(self.shape)


def pack_weights(w: ArrayLike, groups: int = 1) -> PackedWeights:
    """Reorder weights once, so that `conv2d` need not do it at every call.

    Shapes
    ------
    w  (C_out, C_in/groups, KH, KW)  float32 float16 bfloat16, NumPy array or CPU torch tensor

    Raises
    ------
    ShapeError
        w has other than 4 dimensions or no elements, or groups does not divide C_out.
    DtypeError
        w is not an array, or of another dtype.
    ConstraintError
        groups is not a positive integer; w is a tensor that requires a gradient or is not on the
        CPU.
    """
    op = "pack_weights"
    groups = _arguments.integer(op, "groups", groups, least=1)
    values = _arguments.array(op, "w", w)
    _arguments.check_shape(op, "w", values, "(C_out, C_in/groups, KH, KW)")
    C_out, C_in, KH, KW = values.shape
    if C_out % groups:
        raise ShapeError(
            f"{op}: w has {C_out} output channels, which groups={groups} does not divide "
            "(torch.nn.functional.conv2d, groups)"
        )
    taps = values.reshape(groups, C_out // groups, C_in, KH * KW).transpose(0, 2, 3, 1)
    packed = taps.copy()  # C order; a copy also where the order is right, since w is the caller's
    packed.setflags(write=False)
    return PackedWeights(packed, (KH, KW))
