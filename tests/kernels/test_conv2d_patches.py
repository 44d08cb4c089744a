"""The patches kernel: exact on integers, in every way that its plans have, and counted by them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv import reference
from nkiconv.kernels import _looped, conv2d, conv2d_patches, pack_weights
from nkiconv.kernels._algorithm import NotSuited, Operands, Problem
from nkiconv.kernels._choice import choose
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._looped import LoopedPlan
from nkiconv.kernels._patches_plan import PatchesPlan, _sizes, make_plan, make_plans, turns_due
from nkiconv.kernels._plan import Axis, Geometry, Tile
from nkiconv.simulate import ConstraintError, profile, simulate_kernel, use_dma, use_target
from nkiconv.simulate.hardware import HARDWARE

TARGETS = ("trn1", "trn2", "trn3")
BF16 = ml_dtypes.bfloat16

# (N, C_in, H, W, C_out, KH, KW)
LAYERS = {
    "vit": (3, 3, 64, 64, 201, 16, 16),
    "vit-image": (1, 3, 112, 112, 256, 16, 16),
    "large-patches": (9, 3, 64, 96, 130, 32, 32),
    "ragged-k": (2, 3, 42, 70, 40, 14, 14),
    "stem": (1, 3, 48, 52, 96, 4, 4),
    "pixels-left-over": (2, 2, 23, 31, 24, 5, 3),
    "prime": (1, 3, 26, 74, 33, 2, 2),
    "tall": (1, 1, 300, 12, 8, 2, 2),
    "wide-taps": (1, 2, 3, 130, 5, 1, 65),
    "many-out": (1, 4, 16, 32, 1000, 8, 8),
    "many-patches": (1, 2, 80, 84, 10, 1, 2),
    "one-patch": (1, 1, 2, 1, 1, 2, 1),
}


def integers(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def geometry(sizes: tuple[int, ...], itemsize: int = 4) -> Geometry:
    N, C_in, H, W, C_out, KH, KW = sizes
    rows, cols = (Axis(n, k, n // k, k, 1, 0) for n, k in ((H, KH), (W, KW)))
    return Geometry(N=N, G=1, C_in=C_in, C_out=C_out, rows=rows, cols=cols, itemsize=itemsize)


def operands(sizes: tuple[int, ...], dtype: Any = np.float32) -> tuple[Any, Any]:
    N, C_in, H, W, C_out, KH, KW = sizes
    return integers((N, C_in, H, W), dtype), integers((C_out, C_in, KH, KW), dtype, seed=1)


def run_plan(plan: PatchesPlan, x: Any, w: Any) -> Any:
    packed = conv2d_patches.pack(pack_weights(w), plan)
    return conv2d_patches.run(simulate_kernel, Operands(x=x, w=packed), plan)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", LAYERS)
def test_exact_on_integers(layer: str, target: str) -> None:
    sizes = LAYERS[layer]
    x, w = operands(sizes)
    with use_dma("late"):
        y = conv2d(x, w, stride=sizes[5:], algorithm="patches", target=target)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, stride=sizes[5:]))


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_plan_is_exact_and_counted(layer: str, target: str) -> None:
    """Whatever the price prefers."""
    sizes = LAYERS[layer]
    x, w = operands(sizes, BF16)
    expected = reference.conv2d(x, w, stride=sizes[5:])
    with use_target(target):
        found = list(make_plans(geometry(sizes, 2), Epilogue(), "bfloat16"))
    assert found
    for plan, price in found:
        y, seen = profile(run_plan, plan, x, w, target=target)
        np.testing.assert_array_equal(y, expected)
        counts = seen.instructions
        assert counts["nc_matmul"] == plan.num_matmuls
        assert counts["nc_transpose"] == plan.num_transposes + plan.warm_up
        assert seen.hbm_read_bytes + seen.hbm_write_bytes == plan.hbm_bytes
        assert seen.sbuf_peak_bytes <= plan.sbuf_bytes
        assert price.matmuls == plan.num_matmuls
        assert 0 <= price.static_instructions - seen.static_instructions <= 10
        if target == "trn1":  # whose clock is steady
            tensor_us = price.tensor_cycles / HARDWARE[target].tensor_ghz / 1000
            assert 0.97 * seen.engine_busy_us["TensorE"] <= tensor_us <= 1.3 * seen.body_us


def test_columns_are_those_of_full_tiles() -> None:
    """16x16 taps of three channels fill six tiles of 128: a column for each, patch and tile."""
    x, w = operands((8, 3, 224, 224, 768, 16, 16), BF16)
    y, seen = profile(conv2d, x, w, stride=16, algorithm="patches", target="trn1")
    assert seen.macs == y.size * 768
    with use_target("trn1"):
        problem = Problem(geometry((8, 3, 224, 224, 768, 16, 16), 2), Epilogue(), "bfloat16")
        plan = next(iter(conv2d_patches.plans(problem))).plan
    assert plan.moving_columns == 8 * 14 * 14 * 6 * 6
    assert seen.hbm_read_bytes + seen.hbm_write_bytes == x.nbytes + w.nbytes + y.nbytes


def test_every_branch_of_the_plan_is_reached() -> None:
    reached = set()
    for target in ("trn1", "trn2"):
        with use_target(target):
            for sizes in LAYERS.values():
                for plan, _ in make_plans(geometry(sizes), Epilogue(), "float32"):
                    blocks = plan.blocks
                    turns = [t for b in blocks for t in b.turns]
                    reached |= {f"blocks {len(blocks) > 1}", f"warm {plan.warm_up > 0}"}
                    reached |= {f"pieces {b.pieces > 1}" for b in blocks}
                    reached |= {f"first {len(b.first) > 0}" for b in blocks[:1]}
                    reached |= {f"others {len(b.visits) > 0}" for b in blocks[:1]}
                    reached |= {f"short last piece {t.rest > 0}" for t in turns}
                    reached |= {f"pieces before it {t.full > 0}" for t in turns}
                    reached |= {f"loads of a tile {len(k) > 1}" for b in blocks for k in b.loads}
                    reached |= {f"ragged channels {plan.m.rest > 0}"}
                    reached |= {f"all streamed {plan.stream == plan.m.tiles}"}
                    reached |= {f"rows of an image {b.rows.size < plan.y_shape[2]}" for b in blocks}
                    reached |= {f"images {b.images.size > 1}" for b in blocks}
    names = {name.rsplit(" ", 1)[0] for name in reached} - {"pieces before it"}
    wanted = {f"{name} {value}" for name in names for value in (True, False)}
    assert wanted <= reached, wanted - reached
    assert len(names) == 11


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("k_tiles", [1, 2])
def test_the_next_block_is_turned_in_time(k_tiles: int, is_first: bool) -> None:
    with use_target("trn1"):
        block = make_plan(geometry(LAYERS["vit"]), Epilogue(), "float32", 1, 4, 1).blocks[1]
    for tiles in range(1, 12):
        cut = replace(block, visits=tuple(replace(block.visits[0], part=Tile(0, 1))
                                          for _ in range(tiles)))  # fmt: skip
        due = [turns_due(i, cut, 7, k_tiles, is_first) for i in range(tiles)]
        assert due == sorted(due)
        assert due[-1] == 7 or (is_first and tiles < 3)  # what is left follows
        assert k_tiles == 1 or due[0] < 7 or tiles == 1


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_the_price_ranks_as_the_timeline_does(target: str) -> None:
    for sizes in ((4, 3, 112, 112, 512, 16, 16), (1, 3, 96, 96, 96, 4, 4)):
        x, w = operands(sizes, BF16)
        with use_target(target):
            found = list(make_plans(geometry(sizes, 2), Epilogue(), "bfloat16"))
            estimates = [price.estimate_us() for _, price in found]
        times = [profile(run_plan, plan, x, w, target=target)[1].body_us for plan, _ in found]
        chosen = times[int(np.argmin(estimates))]
        assert chosen <= 1.15 * min(times) + 0.5, (sizes, estimates, times)
        assert 0.6 * chosen <= min(estimates) <= 1.4 * chosen


def test_auto_takes_it_for_patches() -> None:
    for target in ("trn1", "trn2"):
        with use_target(target):
            problem = Problem(geometry((8, 3, 224, 224, 768, 16, 16), 2), Epilogue(), "bfloat16")
            assert choose(problem).candidates[0].algorithm == "patches"


@pytest.mark.parametrize("layer", ["vit", "stem", "prime", "many-out"])
@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_epilogue(layer: str, target: str) -> None:
    sizes = LAYERS[layer]
    x, w = operands(sizes)
    args: dict[str, Any] = {"stride": sizes[5:], "activation": "relu"}
    args["bias"] = integers((sizes[4],), seed=2)
    args["scale"] = np.abs(integers((sizes[4],), seed=3)) + 1
    args["residual"] = integers(reference.conv2d(x, w, **args).shape, seed=4)
    y, seen = profile(conv2d, x, w, **args, algorithm="patches", target=target)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, **args))
    epilogue = Epilogue("relu", has_scale=True, has_bias=True, has_residual=True)
    with use_target(target):
        problem = Problem(geometry(sizes), epilogue, "float32")
        plan = next(iter(conv2d_patches.plans(problem))).plan
    assert seen.hbm_read_bytes + seen.hbm_write_bytes == plan.hbm_bytes
    assert seen.sbuf_peak_bytes <= plan.sbuf_bytes


@pytest.mark.parametrize("dtype", [BF16, np.float16])
@pytest.mark.parametrize("target", TARGETS)
def test_sixteen_bits(dtype: Any, target: str) -> None:
    x, w = operands(LAYERS["vit"], dtype)
    y = conv2d(x, w, stride=16, algorithm="patches", target=target)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, stride=16))


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("sizes", [(48, 3, 64, 64, 201, 16, 16), (60, 2, 24, 40, 33, 2, 4)])
def test_images_that_are_too_many_to_write_out(
    sizes: tuple[int, ...], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On-chip loops over equal parts."""
    monkeypatch.setattr(_looped, "MAX_INSTRUCTIONS", 120)
    x, w = operands(sizes)
    args: dict[str, Any] = {"activation": "relu", "bias": integers((sizes[4],), seed=2)}
    args["stride"] = sizes[5:]
    args["residual"] = integers(reference.conv2d(x, w, **args).shape, seed=4)
    epilogue = Epilogue("relu", has_bias=True, has_residual=True)
    with use_target(target):
        (found,) = conv2d_patches.plans(Problem(geometry(sizes), epilogue, "float32"))
    assert isinstance(found.plan, LoopedPlan)
    (piece,) = found.plan.pieces
    assert piece.iterations > 1
    packed = conv2d_patches.pack(pack_weights(w), found.plan)
    given = Operands(x, packed, bias=args["bias"].reshape(-1, 1), residual=args["residual"])
    with use_dma("late"):
        y, seen = profile(conv2d_patches.run, simulate_kernel, given, found.plan, target=target)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, **args))
    assert seen.static_instructions <= 120
    assert seen.instructions["nc_matmul"] == piece.iterations * piece.part.num_matmuls


def test_a_thousand_images_are_planned() -> None:
    problem = Problem(geometry((1000, 3, 224, 224, 768, 16, 16), 2), Epilogue(), "bfloat16")
    (found,) = conv2d_patches.plans(problem)
    assert isinstance(found.plan, LoopedPlan)
    assert found.price.static_instructions <= _looped.MAX_INSTRUCTIONS


def test_float32_in_one_pass() -> None:
    x, w = operands(LAYERS["vit"])
    args: dict[str, Any] = {"stride": 16, "algorithm": "patches", "target": "trn2"}
    y, fast = profile(conv2d, x, w, precision="fast", **args)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, stride=16))
    _, exact = profile(conv2d, x, w, **args)
    assert fast.body_us < exact.body_us


def test_what_is_not_finite_stays_in_its_patch_where_bits_are_moved() -> None:
    x, w = operands(LAYERS["vit"])
    x[1, 2, 17, 40] = np.nan
    wanted = reference.conv2d(x, w, stride=16)
    y = conv2d(x, w, stride=16, algorithm="patches", target="trn2")
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
    y = conv2d(x, w, stride=16, algorithm="patches", target="trn1")
    assert np.isnan(y[1, :, 1, 2]).all()  # and others, as the module says


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_random_problems(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return int(data.draw(st.integers(low, high)))

    KH, KW = draw(1, 9), draw(1, 9)
    H, W = KH * draw(1, 12) + draw(0, KH - 1), KW * draw(1, 12) + draw(0, KW - 1)
    sizes = (draw(1, 6), draw(1, 5), H, W, draw(1, 300), KH, KW)
    x, w = operands(sizes)
    target = data.draw(st.sampled_from(TARGETS))
    with use_target(target):
        chosen = data.draw(st.sampled_from(_sizes(geometry(sizes))))
        plan = make_plan(geometry(sizes), Epilogue(), "float32", *chosen)
        y = run_plan(plan, x, w)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, stride=(KH, KW)))


def test_refusals() -> None:
    g = geometry(LAYERS["stem"])
    problem = Problem(g, Epilogue(), "float32")
    for changed, reason in (
        (replace(g, G=2), "it has no groups"),
        (replace(g, rows=replace(g.rows, stride=3)), "not 4 taps, stride 3, dilation 1"),
        (replace(g, cols=replace(g.cols, dilation=2)), "not 4 taps, stride 4, dilation 2"),
        (replace(g, rows=replace(g.rows, pad=1)), "it takes no padding"),
        (replace(g, rows=replace(g.rows, outputs=13)), "it takes no padding"),
        (geometry((1, 3, 8, 8, 4, 1, 1)), "one tap leaves nothing to turn"),
        (replace(g, C_in=33), "33 channels fill partitions as they lie"),
        (geometry((1, 1, 1, 129, 1, 1, 129)), "at most 128 columns of taps, not 129"),
        (geometry((1, 16, 64, 64, 4000, 64, 64)), "do not fit SBUF"),
    ):
        with pytest.raises(NotSuited, match=reason):
            list(conv2d_patches.plans(replace(problem, geometry=changed)))
    x, w = operands(LAYERS["stem"])
    with pytest.raises(ConstraintError, match="patches: it takes strides equal to the taps"):
        conv2d(x, w, stride=2, algorithm="patches")
