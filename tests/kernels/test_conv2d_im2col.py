"""The im2col kernel: exact on integers, in every way that its plans have, and counted by them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nkiconv import reference
from nkiconv.kernels import conv2d, conv2d_im2col, pack_weights
from nkiconv.kernels._algorithm import NotSuited, Operands, Problem
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._im2col_plan import Im2colPlan, make_plan, packings
from nkiconv.kernels._im2col_price import price, ranked
from nkiconv.kernels._plan import Axis, Geometry, ceil_div
from nkiconv.reference import bounds
from nkiconv.reference.conv2d import magnitude
from nkiconv.simulate import ConstraintError, profile, simulate_kernel, use_dma, use_target
from nkiconv.simulate.hardware import hardware

TARGETS = ("trn1", "trn2", "trn3")

# (N, C_in, H, W, C_out, KH, KW), stride, padding, dilation
LAYERS = {
    "stem": ((1, 3, 30, 26, 64, 7, 7), 2, 3, 1),
    "large-stem": ((1, 3, 120, 120, 64, 7, 7), 2, 3, 1),
    "out-tiles": ((1, 8, 9, 9, 150, 3, 3), 1, 1, 1),
    "many-out": ((1, 3, 48, 64, 64, 3, 3), 1, 1, 1),
    "tall": ((1, 32, 60, 30, 32, 3, 3), 1, 1, 1),
    "c64": ((1, 64, 13, 11, 64, 3, 3), 1, 1, 1),
    "c32-images": ((3, 32, 9, 10, 32, 3, 3), 1, 1, 1),
    "many-images": ((6, 16, 20, 12, 24, 3, 3), 1, 1, 1),
    "few-out": ((1, 128, 40, 9, 3, 3, 3), 1, 1, 1),
    "channel-tiles": ((1, 200, 9, 9, 4, 3, 3), 1, 1, 1),
    "patches": ((2, 3, 16, 12, 96, 4, 4), 4, 0, 1),
    "dilated": ((1, 16, 15, 15, 24, 3, 3), 1, 2, 2),
    "wide": ((1, 3, 6, 1040, 8, 3, 3), 1, 1, 1),
    "filter": ((1, 1, 17, 19, 1, 5, 3), 1, 2, 1),
    "one-pixel": ((1, 2, 1, 1, 5, 1, 1), 1, 0, 1),
    "abreast": ((8, 3, 10, 9, 32, 3, 3), 1, 1, 1),
    "abreast-rest": ((29, 2, 5, 7, 16, 3, 3), 1, 1, 1),  # by six: one image twice
    "abreast-stem": ((4, 3, 30, 26, 32, 7, 7), 2, 3, 1),
    "abreast-zeros": ((8, 1, 40, 40, 32, 3, 3), 1, 1, 1),
    "abreast-c32": ((12, 32, 9, 8, 32, 3, 3), 1, 1, 1),
    "shifted-out": ((2, 2, 4, 1, 64, 2, 3), 1, 1, 1),
}


def integers(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def geometry(sizes: tuple[int, ...], stride: int, pad: int, dilation: int) -> Geometry:
    N, C_in, H, W, C_out, KH, KW = sizes
    axes = [
        Axis(n, k, (n + 2 * pad - dilation * (k - 1) - 1) // stride + 1, stride, dilation, pad)
        for n, k in ((H, KH), (W, KW))
    ]
    return Geometry(N=N, G=1, C_in=C_in, C_out=C_out, rows=axes[0], cols=axes[1], itemsize=4)


def operands(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    N, C_in, H, W, C_out, KH, KW = sizes
    return integers((N, C_in, H, W)), integers((C_out, C_in, KH, KW), seed=1)


def run_plan(plan: Im2colPlan, x: Any, w: Any) -> Any:
    packed = conv2d_im2col.pack(pack_weights(w), plan)
    return conv2d_im2col.run(simulate_kernel, Operands(x=x, w=packed), plan)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", LAYERS)
def test_exact_on_integers(layer: str, target: str) -> None:
    sizes, stride, padding, dilation = LAYERS[layer]
    x, w = operands(sizes)
    args: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    with use_dma("late"):
        y = conv2d(x, w, **args, algorithm="im2col", target=target)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, **args))


@pytest.mark.parametrize(
    "layer",
    [
        "stem",
        "c64",
        "c32-images",
        "many-images",
        "patches",
        "dilated",
        "abreast",
        "abreast-rest",
        "abreast-c32",
    ],
)
def test_every_packing_is_exact_and_counted(layer: str) -> None:
    """Whatever the estimate prefers."""
    g = geometry(*LAYERS[layer])
    sizes, stride, padding, dilation = LAYERS[layer]
    x, w = operands(sizes)
    expected = reference.conv2d(x, w, stride=stride, padding=padding, dilation=dilation)
    with use_target("trn2"):
        for k in list(packings(g))[::7]:
            plan = make_plan(g, Epilogue(), k, on_both=True)
            assert plan is not None
            y, seen = profile(run_plan, plan, x, w, target="trn2")
            np.testing.assert_array_equal(y, expected, err_msg=str(k))
            assert seen.instructions["nc_matmul"] == plan.num_matmuls
            assert seen.hbm_read_bytes + seen.hbm_write_bytes == plan.hbm_bytes
            assert seen.sbuf_peak_bytes <= plan.sbuf_bytes


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", LAYERS)
def test_faster_float32_is_exact_on_small_integers(layer: str, target: str) -> None:
    sizes, stride, padding, dilation = LAYERS[layer]
    x, w = operands(sizes)
    args: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    with use_dma("late"):
        y = conv2d(x, w, **args, algorithm="im2col", precision="fast", target=target)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, reference.conv2d(x, w, **args))


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("layer", ["stem", "c64", "dilated", "few-out"])
def test_faster_float32_rounds_operands_and_nothing_else(layer: str, target: str) -> None:
    (N, C_in, H, W, C_out, KH, KW), stride, padding, dilation = LAYERS[layer]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, C_in, H, W), dtype=np.float32)
    w = rng.standard_normal((C_out, C_in, KH, KW), dtype=np.float32)
    bias = rng.standard_normal(C_out, dtype=np.float32)
    args: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    args |= {"bias": bias, "activation": "relu"}
    args["residual"] = rng.standard_normal(reference.conv2d(x, w, **args).shape, dtype=np.float32)
    y = conv2d(x, w, **args, algorithm="im2col", precision="fast", target=target)
    r, m = reference.conv2d_float64(x, w, **args), magnitude(x, w, **args)
    known: dict[str, Any] = {"terms": C_in * KH * KW, "dtype": np.float32, "activation": "relu"}
    assert bounds.max_error_ratio(y, r, m, **known, precision="fast") <= 1
    assert bounds.max_error_ratio(y, r, m, **known) > 1  # it is not the exact kernel
    z = reference.conv2d_float64(*(v.astype(ml_dtypes.bfloat16) for v in (x, w)), **args)
    assert bounds.max_error_ratio(y, z, m, **known) <= 1


@pytest.mark.parametrize("layer", ["stem", "c64", "patches"])
def test_faster_float32_is_counted_and_shorter(layer: str) -> None:
    g = geometry(*LAYERS[layer])
    x, w = operands(LAYERS[layer][0])
    with use_target("trn1"):
        for k in list(packings(g))[::9]:
            exact, fast = (
                make_plan(g, Epilogue(), k, on_both=False, fast=fast) for fast in (False, True)
            )
            assert exact is not None
            assert fast is not None
            y, seen = profile(run_plan, fast, x, w, target="trn1")
            np.testing.assert_array_equal(y, run_plan(exact, x, w), err_msg=str(k))
            assert seen.hbm_read_bytes + seen.hbm_write_bytes == fast.hbm_bytes
            assert fast.sbuf_bytes < exact.sbuf_bytes
            costs = [price(plan, hardware()).estimate_us() for plan in (exact, fast)]
            assert costs[1] < costs[0]


def test_phases_without_taps_feed_the_clock() -> None:
    """trn2's array needs some rows in use for its full clock: a packing of few gets more."""
    g = geometry((1, 3, 160, 160, 64, 3, 3), 1, 1, 1)
    x, w = operands((1, 3, 160, 160, 64, 3, 3))
    with use_target("trn2"):
        found = {(k.J, k.G): k for k in packings(g) if (k.P, k.S, k.Q) == (8, 8, 1)}
        times = []
        for J in (10, 11):  # ten rows have taps; 90 and 99 partitions
            plan = make_plan(g, Epilogue(), found[J, 3], on_both=True)
            assert plan is not None
            y, seen = profile(run_plan, plan, x, w, target="trn2")
            np.testing.assert_array_equal(y, reference.conv2d(x, w, padding=1))
            times.append(seen.engine_busy_us["TensorE"])
    assert times[1] < 0.7 * times[0]
    with use_target("trn1"):
        assert max(k.J for k in packings(g) if (k.P, k.S, k.Q) == (8, 8, 1)) == 10


def test_what_is_loaded_twice_stays_below_a_twentieth() -> None:
    seen_shifts = set()
    for sizes in ((1, 3, 224, 224, 64, 7, 7), (1, 3, 96, 96, 64, 3, 3), (2, 16, 64, 64, 32, 3, 3)):
        g = geometry(sizes, 2, 1, 1)
        once = 4 * (
            sizes[0] * sizes[1] * sizes[2] * sizes[3]
            + sizes[1] * sizes[4] * sizes[5] * sizes[6]
            + sizes[0] * sizes[4] * g.rows.outputs * g.cols.outputs
        )
        with use_target("trn2"):
            for k in packings(g):
                plan = make_plan(g, Epilogue(), k, on_both=True)
                if plan is not None:
                    assert plan.hbm_bytes <= 1.05 * once, k
                    seen_shifts.add(min(plan.shifts, 2))
    assert seen_shifts == {0, 1, 2}


def test_every_branch_of_the_plan_is_reached() -> None:
    reached = set()
    with use_target("trn1"):
        for sizes, stride, padding, dilation in LAYERS.values():
            g = geometry(sizes, stride, padding, dilation)
            for k in packings(g):
                plan = make_plan(g, Epilogue(), k, on_both=False)
                if plan is None:
                    continue
                chunks = [c for image in plan.images for s in image for c in s.chunks]
                reached |= {f"shifts {min(plan.shifts, 2)}", f"all direct {min(plan.direct) > 0}"}
                reached |= {f"copies ahead {plan.ahead < len(plan.images[0][0].chunks)}"}
                reached |= {plan.weights, f"joined {plan.joined}", f"buffers {plan.buffers}"}
                reached |= {f"move by engine {m.by_engine}" for c in chunks for m in c.moves}
                reached |= {f"fill by engine {f.by_engine}" for f in plan.fills}
                reached |= {f"rest {c.rest > 0}" for c in chunks}
                reached |= {f"zeros {c.zero_places.size > 0}" for c in chunks}
                reached |= {f"columns cut {len(plan.col_tiles) > 1}"}
                reached |= {f"channels cut {len(plan.c_in_tiles) > 1}"}
                reached |= {f"rows copied {k.extra > 0}", f"places {k.Q > 1}"}
                reached |= {f"abreast {k.B > 1}", f"cleared {plan.cleared}"}
                if k.B > 1:
                    again = sizes[0] < k.B * plan.geometry.N
                    reached |= {f"abreast {plan.weights}", f"images twice {again}"}
                    reached |= {f"abreast, fill by engine {f.by_engine}" for f in plan.fills}
    both = ("joined", "move by engine", "fill by engine", "rest", "zeros", "columns cut",
            "channels cut", "rows copied", "places", "all direct", "copies ahead", "abreast",
            "cleared", "images twice", "abreast, fill by engine")  # fmt: skip
    wanted = {f"{name} {value}" for name in both for value in (True, False)}
    wanted |= {"zeros", "rows", "phases", "shifts 0", "shifts 1", "shifts 2"}
    wanted |= {"abreast zeros", "abreast phases"}
    wanted |= {"buffers 1", "buffers 2", "buffers 3", "buffers 6"}
    assert wanted <= reached, wanted - reached


def test_strips_share_rows_on_the_chip() -> None:
    """An image that does not fit SBUF: x crosses HBM once all the same."""
    sizes = (1, 64, 200, 700, 64, 3, 3)
    x, w = operands(sizes)
    y, seen = profile(conv2d, x, w, padding=1, algorithm="im2col", target="trn1")
    np.testing.assert_array_equal(y, reference.conv2d(x, w, padding=1))
    assert seen.hbm_read_bytes <= x.nbytes + 1.05 * w.nbytes + 0.01 * x.nbytes
    with use_target("trn1"):
        best = min(
            conv2d_im2col.plans(Problem(geometry(sizes, 1, 1, 1), Epilogue(), "float32")),
            key=lambda c: c.price.estimate_us(),
        )
    (strips,) = best.plan.images
    assert len(strips) > 1
    assert any(strip.carry > 0 for strip in strips)


@pytest.mark.parametrize(
    "layer",
    ["c64", "few-out", "patches", "stem", "out-tiles", "abreast", "abreast-rest", "abreast-stem"],
)
@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_epilogue(layer: str, target: str) -> None:
    sizes, stride, padding, dilation = LAYERS[layer]
    x, w = operands(sizes)
    args: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    C_out = w.shape[0]
    args |= {"bias": integers((C_out,), seed=2), "activation": "relu"}
    args["scale"] = np.abs(integers((C_out,), seed=3)) + 1
    args["residual"] = integers(reference.conv2d(x, w, **args).shape, seed=4)
    y = conv2d(x, w, **args, algorithm="im2col", target=target)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, **args))


def test_vectors_of_all_tiles_are_loaded_once() -> None:
    """Single elements load slowly: four rows of y in two tiles share the bias of two rows."""
    sizes, stride, padding, dilation = LAYERS["large-stem"]
    g = geometry(sizes, stride, padding, dilation)
    x, w = operands(sizes)
    bias = integers((64, 1), seed=2)
    expected = reference.conv2d(x, w, bias=bias[:, 0], stride=stride, padding=padding)
    with use_target("trn1"):
        k = next(k for k in packings(g) if (k.P, k.S, k.J) == (4, 8, 13))
        plan = make_plan(g, Epilogue(has_bias=True), k, on_both=False)
        assert plan is not None
        assert len(plan.out_tiles) == 2
        packed = conv2d_im2col.pack(pack_weights(w), plan)
        given = Operands(x=x, w=packed, bias=bias)
        y, seen = profile(conv2d_im2col.run, simulate_kernel, given, plan, target="trn1")
    np.testing.assert_array_equal(y, expected)
    assert seen.hbm_read_bytes + seen.hbm_write_bytes == plan.hbm_bytes
    by_tensor = seen.hbm_read_bytes_by_tensor
    assert by_tensor["bias_hbm"] == 2 * bias.nbytes


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_small_images_of_a_batch_lie_abreast(target: str) -> None:
    """They are quicker than the best packing of one image."""
    sizes = (32, 1, 28, 28, 32, 3, 3)
    g = replace(geometry(sizes, 1, 1, 1), itemsize=2)
    x, w = (v.astype(ml_dtypes.bfloat16) for v in operands(sizes))
    with use_target(target):
        hw = hardware()
        order = list(ranked(g, hw, 2))
        alone = next(k for k in order if k.B == 1)
        assert order[0].B > 1
        times = []
        for k in (order[0], alone):
            plan = make_plan(g, Epilogue(), k, on_both=hw.generation > 2)
            assert plan is not None
            y, seen = profile(run_plan, plan, x, w, target=target)
            np.testing.assert_array_equal(y, reference.conv2d(x, w, padding=1))
            assert seen.hbm_read_bytes + seen.hbm_write_bytes == plan.hbm_bytes
            times.append(seen.body_us)
    assert times[0] < 0.9 * times[1]


def test_the_second_image_of_a_buffer_finds_its_zeros() -> None:
    """The first one loads what others copy: its last place, below the image, was never written."""
    sizes = (10, 32, 5, 5, 128, 3, 3)
    g = geometry(sizes, 1, 1, 1)
    x, w = operands(sizes)
    with use_target("trn2"):
        k = next(k for k in packings(g) if (k.P, k.S, k.J, k.G) == (1, 1, 3, 1))
        plan = make_plan(g, Epilogue(), k, on_both=True)
        assert plan is not None
        assert plan.cleared
        assert plan.shifts == 1
        with use_dma("late"):
            y = run_plan(plan, x, w)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, padding=1))


def test_few_images_are_convolved_twice() -> None:
    """Where no number of images abreast divides the batch."""
    twice = 0
    for N in range(1, 100):
        for k in packings(geometry((N, 3, 8, 8, 8, 3, 3), 1, 1, 1)):
            again = ceil_div(N, k.B) * k.B - N
            assert 0 <= again <= 0.04 * N
            assert k.B * 8 <= 128
            twice += again > 0
    assert twice > 0


def test_sixteen_bits() -> None:
    x = integers((1, 32, 12, 12), ml_dtypes.bfloat16)
    w = integers((32, 32, 3, 3), ml_dtypes.bfloat16)
    y = conv2d(x, w, padding=1, algorithm="im2col", target="trn2")
    np.testing.assert_array_equal(y, reference.conv2d(x, w, padding=1))


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_random_problems(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return int(data.draw(st.integers(low, high)))

    KH, KW = draw(1, 5), draw(1, 5)
    stride, dilation = (draw(1, 3), draw(1, 3)), (draw(1, 2), draw(1, 2))
    padding = ((draw(0, 3), draw(0, 3)), (draw(0, 3), draw(0, 3)))
    H, W = (draw(1, 10) + d * (k - 1) for d, k in zip(dilation, (KH, KW), strict=True))
    N = data.draw(st.sampled_from([1, 2, 9, 25]))
    x = integers((N, draw(1, 40 if N < 9 else 12), H, W))
    w = integers((draw(1, 70), x.shape[1], KH, KW), seed=1)
    target = data.draw(st.sampled_from(TARGETS))
    args: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    wanted = reference.conv2d(x, w, **args)
    reached = (wanted.shape[3] - 1) * stride[1] + (KW - 1) * dilation[1]
    assume(reached >= padding[1][0])  # else it is refused, as the next test shows
    y = conv2d(x, w, **args, algorithm="im2col", target=target)
    np.testing.assert_array_equal(y, wanted)


def test_nothing_but_padding_is_refused_with_the_reason() -> None:
    x, w = integers((1, 1, 1, 1)), integers((1, 1, 1, 1))
    padding = ((0, 0), (1, 0))
    with pytest.raises(ConstraintError, match="every column that the taps reach is padding"):
        conv2d(x, w, stride=(1, 2), padding=padding, algorithm="im2col")
    np.testing.assert_array_equal(conv2d(x, w, stride=(1, 2), padding=padding), [[[[0]]]])


def test_fewer_columns_than_a_matmul_for_each_tap() -> None:
    """64 to 64 channels: three columns a pixel, of which there are nine taps."""
    x = integers((1, 64, 56, 56), ml_dtypes.bfloat16)
    w = integers((64, 64, 3, 3), ml_dtypes.bfloat16)
    for target in ("trn1", "trn2"):
        _, seen = profile(conv2d, x, w, padding=1, algorithm="im2col", target=target)
        columns = seen.instructions["nc_matmul"] * 7 * 56
        assert columns == 3 * 56 * 56
        assert seen.hbm_read_bytes + seen.hbm_write_bytes == 2 * x.nbytes + w.nbytes


def test_refusals() -> None:
    g = geometry(*LAYERS["c64"])
    problem = Problem(g, Epilogue(), "float32")
    for changed, reason in (
        (replace(problem, geometry=replace(g, G=2)), "it has no groups"),
        (replace(problem, padding_mode="reflect"), 'it has no padding_mode "reflect"'),
    ):
        with pytest.raises(NotSuited, match=reason):
            list(conv2d_im2col.plans(changed))
    x, w = integers((1, 2, 3, 40_000)), integers((2, 2, 3, 3))
    with pytest.raises(ConstraintError, match="im2col: no packing of 2 to 2 channels"):
        conv2d(x, w, padding=1, algorithm="im2col")
