"""nl.sum and its like, softmax and RMS normalisation, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from nkiconv.simulate.errors import ConstraintError, DtypeError, ShapeError, UninitializedReadError
from nkiconv.simulate.nki import language as nl

NUMPY = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min, "mean": np.mean}


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("axis", [3, -1, (2, 3), [3, 2, 1], (-2, -1)])
def test_reductions(chip: Any, rng: Any, name: str, axis: Any) -> None:
    x = rng.choice([-2.0, -1, 0.5, 1, 2], (16, 2, 3, 4))
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else axis
    function, expected = getattr(nl, name), NUMPY[name](x, axis=axes)
    flat, kept = function(chip.put(x), axis), function(chip.put(x), axis, keepdims=True)
    assert flat.shape == (expected.shape if expected.ndim > 1 else (16, 1))
    assert kept.shape == NUMPY[name](x, axis=axes, keepdims=True).shape
    for result in (flat, kept):
        assert (result.dtype, result.buffer) == ("float32", nl.sbuf)
        np.testing.assert_allclose(result._array.ravel(), expected.ravel(), rtol=1e-6)


@pytest.mark.parametrize("name", NUMPY)
def test_dtypes_of_reductions(chip: Any, name: str) -> None:
    """In float32 whatever the types, and rounded once."""
    x = np.array([[2.0, 3, 4, 1]])
    function = getattr(nl, name)
    for dtype in ("bfloat16", "int32", "float32"):
        given = function(chip.put(x, dtype, nl.psum), axis=1)
        assert given.dtype == dtype
        np.testing.assert_array_equal(given._array.astype(float), np.rint(NUMPY[name](x))
                                      if dtype == "int32" else [[NUMPY[name](x)]])  # fmt: skip
    assert function(chip.put(x, "bfloat16"), axis=1, dtype=nl.float32).dtype == "float32"
    many = chip.put(np.full((1, 512), 1.0), "bfloat16")  # a sum in bfloat16 would stop at 256
    assert float(nl.sum(many, axis=1)._array[0, 0]) == 512
    whole = chip.put([[100, 101]], "int8")  # their sum is not one
    assert nl.mean(whole, axis=1)._array[0, 0] == 100  # 100.5 to even


@pytest.mark.parametrize("axis", [1, -1, (1, 2), (2,)])
def test_variance(chip: Any, rng: Any, axis: Any) -> None:
    """Dimensions stay whatever keepdims says, as the vendor's page has it."""
    x = rng.standard_normal((8, 3, 40)) + 100
    if axis == 1:
        x = x[:, 0]
    expected = np.var(x.astype(np.float32).astype(np.float64), axis=axis, keepdims=True)
    for keepdims in (False, True):
        result = nl.var(chip.put(x), axis, keepdims=keepdims)
        assert result.shape == expected.shape
        np.testing.assert_allclose(result._array, expected, rtol=1e-4)  # of distances from 100
    assert nl.var(chip.put(x), axis, dtype=nl.bfloat16).dtype == "bfloat16"


def test_all(chip: Any) -> None:
    x = chip.put([[1.0, 2, 3], [1, 0, 3]])
    np.testing.assert_array_equal(nl.all(x, axis=1)._array, [[1], [0]])
    assert nl.all(x, axis=1, dtype=nl.uint8).dtype == "uint8"


@pytest.mark.parametrize("name", ["sum", "mean", "var", "all", "softmax"])
@pytest.mark.parametrize(
    "axis", [0, (0, 1), (0, 1, 2, 3), 1, (1, 3), 4, -5, (), "x", True, None, 1.0]
)
def test_axes_that_are_refused(chip: Any, name: str, axis: Any) -> None:
    x = chip.put(np.ones((4, 2, 2, 2)))
    with pytest.raises(ShapeError, match=rf"nl\.{name}: axis=.* must name the last free dim"):
        getattr(nl, name)(x, axis)


@pytest.mark.parametrize("axis", [-1, 2, (1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_softmax(chip: Any, rng: Any, axis: Any, dtype: str) -> None:
    """Also where exp of the input itself would overflow."""
    x = rng.integers(-40, 41, (32, 4, 25)) / 8 + 100
    exact = softmax(x, axis=axis)
    result = nl.softmax(chip.put(x, "float32", nl.psum), axis=axis, dtype=dtype)
    assert (result.dtype, result.shape) == (dtype, x.shape)
    found = result._array.astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=2.0**-8 if dtype == "bfloat16" else 1e-6)
    assert nl.softmax(chip.put(np.ones((4, 8)), "float16")).dtype == "float16"


def test_softmax_of_distant_values(chip: Any) -> None:
    """The largest is taken away first: exp(300) is none of float32."""
    found = nl.softmax(chip.put([[0.0, 300.0, 300.0]]))
    np.testing.assert_array_equal(found._array, [[0, 0.5, 0.5]])


def test_softmax_of_one_dimension_needs_no_wide_operand(chip: Any) -> None:
    """One value for each partition goes through tensor_scalar, which is faster."""
    nl.softmax(chip.put(np.ones((4, 8))))
    assert [step.opcode for step in chip.program.trace.steps()] == [
        "tensor_reduce", "tensor_scalar", "activation", "tensor_reduce", "reciprocal",
        "tensor_scalar",
    ]  # fmt: skip


@pytest.mark.parametrize("axis", [1, 2, (1, 2)])
@pytest.mark.parametrize("compute_dtype", [None, "float32", "bfloat16"])
def test_rms_norm(chip: Any, rng: Any, axis: Any, compute_dtype: Any) -> None:
    shape = (16, 48) if axis == 1 else (16, 4, 48)
    x, w = rng.standard_normal(shape), rng.standard_normal(shape)
    count = x[0].size if axis == (1, 2) else 48
    mean = np.mean(x**2, axis=axis, keepdims=True)
    result = nl.rms_norm(
        chip.put(x), chip.put(w), axis, count, epsilon=0.5, compute_dtype=compute_dtype
    )
    tolerance = 2.0**-6 if compute_dtype == "bfloat16" else 2e-6
    np.testing.assert_allclose(result._array, x / np.sqrt(mean + 0.5) * w, rtol=tolerance)
    low = nl.rms_norm(chip.put(x), chip.put(w), axis, count, dtype=nl.bfloat16)
    assert low.dtype == "bfloat16"


def test_rms_norm_refuses(chip: Any) -> None:
    x = chip.put(np.ones((4, 8)))
    with pytest.raises(ShapeError, match=r"nl\.rms_norm: the tiles have the shapes"):
        nl.rms_norm(x, chip.put(np.ones((1, 8))), 1, 8)
    for options in ({"n": 0}, {"n": "8"}, {"n": 8, "epsilon": -1.0}, {"n": 8, "epsilon": None}):
        with pytest.raises(ConstraintError, match="must be a number of at least"):
            nl.rms_norm(x, x, 1, **options)
    with pytest.raises(DtypeError, match=r"nl\.rms_norm: 'half' is not an NKI dtype"):
        nl.rms_norm(x, x, 1, 8, compute_dtype="half")


@pytest.mark.parametrize("name", ["sum", "mean", "var", "softmax"])
def test_what_is_reduced_must_be_a_written_tile(chip: Any, name: str) -> None:
    with pytest.raises(ConstraintError, match=rf"nl\.{name}: x must be a tile"):
        getattr(nl, name)([1.0, 2.0], 1)
    with pytest.raises(UninitializedReadError, match=rf"nl\.{name}, by nisa\.tensor_reduce: data"):
        getattr(nl, name)(chip.new((4, 8)), 1)
