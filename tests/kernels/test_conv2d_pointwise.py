"""conv2d's pointwise kernel: exact in every branch of its plan, and what it refuses."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv.kernels import conv2d, conv2d_pointwise, pack_weights
from nkiconv.kernels._algorithm import NotSuited, Operands, Problem
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._matmul_plan import MatmulPlan, cuts, make_plan
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.simulate import ConstraintError, profile, simulate_kernel, use_dma, use_target

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
TARGETS = ("trn1", "trn2", "trn3")
# N, C_in, H, W, C_out, stride
SHAPES = {
    "small-planes": (5, 320, 7, 7, 200, 1),  # ragged channels, several images in a matmul
    "one-image-two-groups": (1, 64, 28, 40, 96, 1),  # stacked
    "stacked-images": (2, 24, 20, 40, 144, 1),
    "stride": (2, 130, 9, 8, 70, 2),
    "stride-large": (1, 32, 47, 65, 40, (2, 3)),
    "stride-wide": (1, 8, 3, 1100, 16, 2),
    "stride-cols": (3, 40, 4, 30, 20, (1, 4)),
    "fully-connected": (4, 300, 1, 1, 260, 1),
    "one": (1, 1, 1, 1, 1, 1),
}


def _operands(shape: tuple[Any, ...], dtype: Any) -> tuple[Any, Any, tuple[int, ...]]:
    N, C_in, H, W, C_out, stride = shape
    rng = np.random.default_rng(C_in * H + W)
    s_h, s_w = (stride, stride) if isinstance(stride, int) else stride
    x = rng.integers(-2, 3, (N, C_in, H, W)).astype(dtype)
    w = rng.integers(-2, 3, (C_out, C_in, 1, 1)).astype(dtype)
    return x, w, (N, C_out, (H - 1) // s_h + 1, (W - 1) // s_w + 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_exact_on_integers(target: str, dtype: str, shape: str) -> None:
    x, w, _ = _operands(SHAPES[shape], DTYPES[dtype])
    stride = SHAPES[shape][-1]
    y = conv2d(x, w, stride=stride, algorithm="pointwise", target=target)
    np.testing.assert_array_equal(y, conv2d_ref(x, w, stride=stride))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dma", ["eager", "late"])
def test_exact_with_every_epilogue(dma: str, shape: str) -> None:
    x, w, y_shape = _operands(SHAPES[shape], np.float32)
    rng = np.random.default_rng(1)
    arguments: dict[str, Any] = {
        "stride": SHAPES[shape][-1],
        "scale": rng.integers(1, 3, y_shape[1]).astype(np.float32),
        "bias": rng.integers(-9, 9, y_shape[1]).astype(np.float32),
        "residual": rng.integers(-9, 9, y_shape).astype(np.float32),
        "activation": "relu",
    }
    for left_out in (None, "residual", "scale", "bias", "activation"):
        given_ = {name: value for name, value in arguments.items() if name != left_out}
        with use_dma(dma):
            y = conv2d(x, w, algorithm="pointwise", target="trn2", **given_)
        np.testing.assert_array_equal(y, conv2d_ref(x, w, **given_))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 280), st.integers(1, 12), st.integers(1, 60)),
    C_out=st.integers(1, 280),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dtype=st.sampled_from(sorted(DTYPES)),
    target=st.sampled_from(TARGETS),
    residual=st.booleans(),
)
def test_random_problems(
    sizes: tuple[int, int, int, int],
    C_out: int,
    stride: tuple[int, int],
    dtype: str,
    target: str,
    residual: bool,
) -> None:
    x, w, y_shape = _operands((*sizes, C_out, stride), DTYPES[dtype])
    added = np.ones(y_shape, DTYPES[dtype]) if residual else None
    y = conv2d(x, w, stride=stride, residual=added, algorithm="pointwise", target=target)
    np.testing.assert_array_equal(y, conv2d_ref(x, w, stride=stride, residual=added))


def test_fast_rounds_to_bfloat16_and_takes_a_quarter_of_the_cycles() -> None:
    x, w, _ = _operands((1, 256, 28, 28, 256, 1), np.float32)
    arguments = {"algorithm": "pointwise", "target": "trn2"}
    y, fast = profile(conv2d, x, w, precision="fast", **arguments)
    _, exact = profile(conv2d, x, w, **arguments)
    np.testing.assert_array_equal(y, conv2d_ref(x, w))  # small integers are exact in bfloat16
    assert fast.engine_busy_us["TensorE"] < exact.engine_busy_us["TensorE"] / 2


def _problem(shape: tuple[Any, ...], dtype: str, epilogue: Epilogue | None = None) -> Problem:
    N, C_in, H, W, C_out, stride = shape
    s_h, s_w = (stride, stride) if isinstance(stride, int) else stride
    rows, cols = (
        Axis(H, 1, (H - 1) // s_h + 1, s_h, 1, 0),
        Axis(W, 1, (W - 1) // s_w + 1, s_w, 1, 0),
    )
    geometry = Geometry(N, 1, C_in, C_out, rows, cols, np.dtype(DTYPES[dtype]).itemsize)
    return Problem(geometry, epilogue or Epilogue(), dtype)


def _all_plans(problem: Problem, sbuf_bytes: int | None) -> dict[str, MatmulPlan]:
    product = conv2d_pointwise._product(problem)
    found = cuts(product, problem.epilogue, sbuf_bytes=sbuf_bytes)
    return {
        f"{cut.columns} {cut.chunk} {cut.why} {cut.shape.whole_rows}": make_plan(
            cut, problem.epilogue
        )
        for cut in found
    }


@pytest.mark.parametrize("sbuf_bytes", [None, 24_000])
@pytest.mark.parametrize(
    "shape", ["small-planes", "stacked-images", "one-image-two-groups", "stride", "stride-large"]
)
def test_every_plan_is_exact_and_does_what_it_says(shape: str, sbuf_bytes: int | None) -> None:
    x, w, _ = _operands(SHAPES[shape], np.float32)
    wanted = conv2d_ref(x, w, stride=SHAPES[shape][-1])
    packed = pack_weights(w)
    with use_target("trn2"):
        plans = _all_plans(_problem(SHAPES[shape], "float32"), sbuf_bytes)
        for name, plan in plans.items():
            operands = Operands(x, conv2d_pointwise.pack(packed, plan))
            y, seen = profile(conv2d_pointwise.run, simulate_kernel, operands, plan, target="trn2")
            np.testing.assert_array_equal(y, wanted, err_msg=name)
            assert seen.hbm_read_bytes + seen.hbm_write_bytes == plan.hbm_bytes, name
            assert seen.instructions["nc_matmul"] == plan.num_matmuls, name
            assert seen.moving_columns == plan.moving_columns, name
            assert seen.sbuf_peak_bytes <= plan.sbuf_bytes, name


def test_every_branch_of_the_plan_is_reached() -> None:
    """The shapes above have them all: stacks, rests, strides loaded whole, both engines."""
    with use_target("trn2"):
        plans = [
            plan
            for shape in SHAPES.values()
            for plan in _all_plans(_problem(shape, "float32"), 24_000).values()
        ]
        best = [
            next(conv2d_pointwise.plans(_problem(shape, "bfloat16"))).plan
            for shape in SHAPES.values()
        ]
    assert {plan.stack for plan in plans} >= {1, 2, 3}
    assert {plan.k.rest > 0 for plan in plans} == {True, False}
    assert {plan.m.rest > 0 for plan in plans} == {True, False}
    assert {(plan.row_step > 1, plan.x_row_step > 1) for plan in plans} >= {
        (False, False),
        (True, False),
        (False, True),
    }
    assert all(plan.takes_turns for plan in best)
    with use_target("trn1"):
        plan = next(conv2d_pointwise.plans(_problem(SHAPES["stride"], "float32"))).plan
    assert not plan.takes_turns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"w": np.ones((4, 4, 3, 3), np.float32)}, "it takes 1x1 taps, not 3x3"),
        ({"padding": 1}, "it takes no padding"),
        ({"w": np.ones((4, 2, 1, 1), np.float32), "groups": 2}, "it takes one group, not 2"),
    ],
)
def test_what_it_refuses(arguments: dict[str, Any], message: str) -> None:
    given_ = {
        "x": np.ones((1, 4, 5, 5), np.float32),
        "w": np.ones((4, 4, 1, 1), np.float32),
        **arguments,
    }
    with pytest.raises(ConstraintError, match=message):
        conv2d(**given_, algorithm="pointwise")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4_000_000, 1, 1, 8, 1), "do not fit SBUF"),
        ((64, 1024, 512, 512, 1024, 1), "a program may write out 20,000"),
    ],
)
def test_what_is_too_large_is_left_to_others(shape: tuple[Any, ...], message: str) -> None:
    with pytest.raises(NotSuited, match=message):
        list(conv2d_pointwise.plans(_problem(shape, "float32")))


@pytest.mark.parametrize("shape", ["stacked-images", "small-planes"])
def test_bytes_of_an_epilogue_are_counted(shape: str) -> None:
    """Stacked pieces load their vectors once each, and a residual's shared pixels twice."""
    x, w, y_shape = _operands(SHAPES[shape], np.float32)
    epilogue = Epilogue(has_scale=True, has_bias=True, has_residual=True)
    vector, residual = np.ones((y_shape[1], 1), np.float32), np.ones(y_shape, np.float32)
    with use_target("trn2"):
        plan = next(conv2d_pointwise.plans(_problem(SHAPES[shape], "float32", epilogue))).plan
        operands = Operands(
            x, conv2d_pointwise.pack(pack_weights(w), plan), vector, vector, residual
        )
        _, seen = profile(conv2d_pointwise.run, simulate_kernel, operands, plan, target="trn2")
    assert (plan.stack > 1) == (shape == "stacked-images")
    assert seen.hbm_read_bytes + seen.hbm_write_bytes == plan.hbm_bytes
