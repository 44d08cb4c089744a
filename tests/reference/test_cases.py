"""The table of cases: ids that tell the truth, all arguments reached, a bounded amount of work."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

from nkiconv.reference import conv2d
from nkiconv.reference._activations import ACTIVATIONS
from nkiconv.reference._arguments import PADDING_MODES
from nkiconv.reference._dtypes import DTYPES
from nkiconv.reference.cases import CASES, Case, make_inputs
from nkiconv.reference.conv2d import ALGORITHMS, LAYOUTS

# a simulator on a laptop: 100 GFLOP/s, and 15 microseconds of overhead per instruction
FLOPS_PER_S, INSTRUCTION_S = 100e9, 15e-6

IDS: dict[str, Any] = {"ids": lambda case: case.id}


@cache
def _result_shape(case: Case) -> tuple[int, ...]:
    inputs: dict[str, Any] = {
        "x": np.zeros((1, case.groups, case.H, case.W), np.float32),
        "w": np.zeros((case.groups, 1, case.KH, case.KW), np.float32),
    }
    y = conv2d(**inputs, **case.arguments() | {"pool": None, "layout": "NCHW"})
    assert case.residual_shape[2:] == y.shape[2:]
    return case.residual_shape


def _seconds(case: Case, algorithm: str) -> float:
    """Estimate one run: matmuls of at most 128 channels and 512 results, and as many again."""
    N, C_out, OH, OW = _result_shape(case)
    flops = 2 * math.prod((N, C_out, OH, OW)) * case.terms
    tiles = case.groups * math.ceil(case.C_in / case.groups / 128)
    tiles *= math.ceil(C_out / case.groups / 128) * case.KH * case.KW
    steps = math.ceil(OH / max(1, 512 // OW)) * math.ceil(OW / 512)
    if algorithm == "naive":
        steps = OH * OW
    return flops / FLOPS_PER_S + 2 * N * tiles * steps * INSTRUCTION_S


def _total(cases: list[Case]) -> float:
    return sum(_seconds(c, a) * len(c.dtypes) for c in cases for a in c.algorithms)


def test_the_work_is_bounded() -> None:
    assert _total(list(CASES)) < 60
    assert _total([c for c in CASES if c.quick]) < 5
    naive = [c for c in CASES if "naive" in c.algorithms]
    assert all(math.prod(_result_shape(c)[2:]) <= 130 for c in naive)


def test_ids_are_unique() -> None:
    assert [i for i, count in Counter(c.id for c in CASES).items() if count > 1] == []


@pytest.mark.parametrize("case", CASES, **IDS)
def test_id_says_what_the_case_is(case: Case) -> None:
    def spelt(value: Any) -> str:
        return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)

    if isinstance(case.padding, str):
        padding = case.padding
    elif isinstance(case.padding, tuple) and isinstance(case.padding[0], tuple):
        padding = "asym"
    else:
        padding = "p" + spelt(case.padding)
    parts = [f"{case.KH}x{case.KW}", "s" + spelt(case.stride), padding]
    parts += ["d" + spelt(case.dilation)] if case.dilation != 1 else []
    parts += [f"g{case.groups}"] if case.groups != 1 else []
    parts += [f"c{case.C_in}", f"k{case.C_out}", f"{case.H}x{case.W}"]
    parts += [f"n{case.N}"] if case.N != 1 else []
    parts += [case.padding_mode] if case.padding_mode != "zeros" else []
    if case.pool is not None:
        kind, size, *stride = case.pool
        parts += [f"{kind}{spelt(size)}" + "".join(f"s{spelt(s)}" for s in stride)]
    parts += ["nhwc"] if case.layout == "NHWC" else []
    assert case.id == "-".join(parts)
    assert re.fullmatch(r"[0-9a-z-]+", case.id)
    assert case.why


@pytest.mark.parametrize("case", CASES, **IDS)
def test_case_is_sound(case: Case) -> None:
    assert case.C_in % case.groups == 0
    assert case.C_out % case.groups == 0
    assert min(_result_shape(case)) >= 1
    assert set(case.dtypes) <= set(DTYPES)
    assert set(case.algorithms) <= set(ALGORITHMS) - {"auto"}
    assert "direct" in case.algorithms


def test_everything_is_reached() -> None:
    for algorithm, activations in (("direct", set(ACTIVATIONS)), ("naive", {None, "relu"})):
        rows = [c for c in CASES if algorithm in c.algorithms]
        assert {c.activation for c in rows} >= activations
        assert {c.bias for c in rows} == {True, False}
        if algorithm == "direct":
            assert {(c.scale, c.residual) for c in rows} == {*product((True, False), repeat=2)}
            assert {c.activation for c in rows if c.residual} >= {"relu", "hardswish"}
            assert any(isinstance(c.activation, tuple) for c in rows)
        assert {d for c in rows for d in c.dtypes} == set(DTYPES)
        assert any(c.N > 1 for c in rows)
        assert any(c.C_in > 128 and c.C_in % 128 for c in rows)
        assert any(c.C_out > 128 and c.C_out % 128 for c in rows)
        assert any(c.stride != 1 for c in rows)
    quick = [c for c in CASES if c.quick]
    assert {c.activation for c in quick} > set(ACTIVATIONS)
    assert {c.padding_mode for c in quick} == set(PADDING_MODES)
    assert {c.layout for c in quick} == set(LAYOUTS)
    assert {c.pool[0] for c in quick if c.pool} == {"max", "avg"}
    assert any(c.groups > 1 for c in quick)
    assert any(c.groups == c.C_in > 1 for c in quick)
    assert any(c.dilation != 1 for c in quick)
    assert any(c.stride == 3 for c in quick)
    assert {c.padding for c in quick} >= {0, "same", "valid"}
    assert any(_result_shape(c)[3] > 512 for c in quick)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs(dtype: str) -> None:
    case = next(c for c in CASES if c.id == "3x3-s1-p1-g2-c64-k96-15x15")
    inputs: Any = make_inputs(case, dtype)
    again: Any = make_inputs(case, dtype)
    other: Any = make_inputs(case, dtype, seed=1)
    assert inputs["x"].shape == (1, 64, 15, 15)
    assert inputs["w"].shape == (96, 32, 3, 3)
    assert inputs["bias"].shape == (96,)
    for name in ("x", "w", "bias"):
        assert inputs[name].dtype == DTYPES[dtype]
        np.testing.assert_array_equal(inputs[name], again[name])
        assert not np.array_equal(inputs[name], other[name])
    x, w = inputs["x"].astype(np.float64), inputs["w"].astype(np.float64)
    assert x.mean() == pytest.approx(0, abs=0.05)
    assert x.std() == pytest.approx(1, rel=0.05)
    assert w.std() == pytest.approx(1 / math.sqrt(288), rel=0.05)


def test_inputs_without_bias() -> None:
    case = next(c for c in CASES if not c.bias)
    assert make_inputs(case, "float32")["bias"] is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_integer_inputs(dtype: str) -> None:
    inputs: Any = make_inputs(CASES[6], dtype, integers=True)
    for name in ("x", "w", "bias"):
        assert set(np.unique(inputs[name].astype(np.float64))) == {-3, -2, -1, 0, 1, 2, 3}
        assert inputs[name].dtype == DTYPES[dtype]


@pytest.mark.parametrize("case", CASES, **IDS)
def test_integer_sums_are_exact_in_float32(case: Case) -> None:
    assert 9 * case.terms + 3 < 2**24


def test_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype is 'int8'; it must be one of float32, float16"):
        make_inputs(CASES[0], "int8")
