"""The direct kernel with so little SBUF that each of its ways around that is taken."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from nkiconv.kernels import pack_weights
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.kernels._streamed_plan import StreamedPlan, plan_streamed
from nkiconv.kernels.conv2d_streamed import conv2d_streamed
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.simulate import profile, simulate_kernel

N, G, C_IN, W, KH, KW = 2, 2, 130, 30, 3, 4
ARGUMENTS: dict[str, Any] = {
    "stride": (2, 1),
    "dilation": (2, 2),
    "padding": ((3, 2), (3, 2)),
    "groups": G,
    "activation": "relu",
}


class Way(NamedTuple):
    """Height of x, output channels of a group, bytes of SBUF, and the plan that should follow."""

    H: int
    C_out: int
    sbuf_bytes: int
    weights_resident: bool
    x_resident: bool
    c_out_blocks: int = 1
    strips: tuple[int, int] = (1, 1)  # one below the other, side by side
    taps: tuple[int, int] = (KH, KW)


WAYS = {
    "everything-fits": Way(9, 260, 180_224, True, True),
    "blocks-of-output-channels": Way(9, 260, 40_000, True, True, c_out_blocks=3),
    "x-streamed": Way(9, 260, 30_000, True, False, c_out_blocks=3),
    "x-streamed-part-of-a-row": Way(41, 16, 4_500, True, False, strips=(1, 15), taps=(1, 2)),
    "weights-streamed": Way(9, 260, 20_000, False, True, taps=(1, 4)),
    "strips": Way(41, 140, 48_000, True, True, strips=(2, 1)),
    "columns": Way(41, 140, 40_000, True, True, strips=(1, 2)),
    "strips-weights-streamed": Way(41, 140, 24_000, False, True, strips=(2, 1), taps=(1, 4)),
    "both-streamed": Way(41, 40, 12_000, False, False, strips=(1, 2), taps=(2, 4)),
    "both-streamed-one-tap": Way(41, 40, 5_000, False, False, strips=(1, 4), taps=(1, 1)),
}


def _plan(way: Way) -> StreamedPlan:
    rows, cols = Axis(way.H, KH, (way.H + 1) // 2, 2, 2, 3), Axis(W, KW, 29, 1, 2, 3)
    g = Geometry(N, G, C_IN, way.C_out, rows, cols, itemsize=4)
    return plan_streamed(
        g,
        Epilogue(activation="relu", has_bias=True, has_residual=True),
        sbuf_bytes=way.sbuf_bytes,
    )


def _draw(*shape: int) -> Any:
    return np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize("name", WAYS)
def test_with_little_sbuf(name: str) -> None:
    way = WAYS[name]
    plan = _plan(way)
    tops = {strip.blocks[0].rows.start for strip in plan.strips}
    taken = Way(
        *way[:3],
        plan.weights_resident,
        plan.x_resident,
        len(plan.c_out_blocks) // G,
        (len(tops), len(plan.strips) // len(tops)),
        (plan.taps[0].rows.size, plan.taps[0].cols.size),
    )
    assert taken == way

    x, w = _draw(N, G * C_IN, way.H, W), _draw(G * way.C_out, C_IN, KH, KW)
    bias, residual = _draw(G * way.C_out), _draw(*plan.y_shape)
    packed = pack_weights(w, G).array
    y, seen = profile(
        simulate_kernel, conv2d_streamed, x, packed, None, bias.reshape(-1, 1), residual, plan
    )
    np.testing.assert_array_equal(y, conv2d_ref(x, w, bias, residual=residual, **ARGUMENTS))
    assert seen.hbm_read_bytes == plan.hbm_read_bytes
    assert seen.sbuf_peak_bytes <= plan.sbuf_bytes
    assert seen.instructions["nc_matmul"] == plan.num_matmuls
