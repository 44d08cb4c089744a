"""Functions of one tile against float64: activations, angles, whole numbers; engines, refusals."""

from __future__ import annotations

import linecache
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.engines.scalar import ActivationRangeWarning
from nkiconv.simulate.errors import ConstraintError
from nkiconv.simulate.nki import language as nl

torch = pytest.importorskip("torch")
F = torch.nn.functional


def derivative(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Differentiate a torch function, for what torch has no name for."""

    def slope(x: Any) -> Any:
        x = x.clone().requires_grad_()
        function(x).sum().backward()
        return x.grad

    return slope


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": torch.exp,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_apprx_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_apprx_sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu_apprx_sigmoid_dx": derivative(lambda x: x * torch.sigmoid(1.702 * x)),
    "gelu_dx": derivative(F.gelu),
    "silu": F.silu,
    "silu_dx": derivative(F.silu),
    "softplus": F.softplus,
    "mish": F.mish,
    "erf": torch.erf,
    "erf_dx": derivative(torch.erf),
    "sin": torch.sin,
    "cos": torch.cos,
    "sign": torch.sign,
    "abs": torch.abs,
    "square": torch.square,
    "negative": torch.neg,
}
POSITIVE: dict[str, Callable[[Any], Any]] = {
    "log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "reciprocal": torch.reciprocal,
}  # fmt: skip
ENGINES = {
    **dict.fromkeys(FUNCTIONS, "ScalarE"),
    **dict.fromkeys(("log", "sqrt"), "ScalarE"),
    **dict.fromkeys(("abs", "negative", "reciprocal", "copy"), "VectorE"),
    "rsqrt": "GpSimdE",  # NKI 0.5.0
}


def of(function: Callable[[Any], Any], x: Any) -> Any:
    return function(torch.tensor(x, dtype=torch.float64)).numpy()


@pytest.mark.parametrize("name", FUNCTIONS | POSITIVE)
def test_values_and_engine(chip: Any, name: str) -> None:
    low, high = (2.0**-6, 20) if name in POSITIVE else (-8, 8)
    x = np.linspace(low, high, 240, dtype=np.float32).reshape(8, 5, 6)
    result = getattr(nl, name)(chip.put(x))
    assert (result.dtype, result.buffer, result.shape) == ("float32", nl.sbuf, (8, 5, 6))
    expected = of((FUNCTIONS | POSITIVE)[name], x)
    np.testing.assert_allclose(result._array, expected, rtol=1e-6, atol=4e-7)
    assert chip.last.lane.label == ENGINES[name]


def test_every_function_of_one_tile_is_tested() -> None:
    from nkiconv.simulate.functions import unary
    from nkiconv.simulate.ops import FUNCTIONS as ALL

    tested = FUNCTIONS.keys() | POSITIVE.keys() | {"arctan", "ceil", "copy", "floor", "invert"}
    found = {name for name, made in ALL.items() if made.__wrapped__.__module__ == unary.__name__}
    assert found == tested | {"tan", "trunc"}


@pytest.mark.parametrize("name", ["exp", "abs", "negative", "floor", "sin", "tan", "copy"])
def test_dtypes(chip: Any, name: str) -> None:
    x = np.array([[-1.25, 0.5, 1.75]])
    exact = {"negative": np.negative, "copy": np.asarray}.get(name) or getattr(np, name)
    low = getattr(nl, name)(chip.put(x, "bfloat16", nl.psum))
    assert low.dtype == "bfloat16"
    np.testing.assert_allclose(low._array.astype(np.float64), exact(x), rtol=2.0**-8)
    whole = getattr(nl, name)(chip.put(x), dtype=nl.int32)
    assert whole.dtype == "int32"
    np.testing.assert_array_equal(whole._array, np.rint(exact(x)))


def test_arctan_warns_outside_its_range(chip: Any) -> None:
    x = np.linspace(-1.5, 1.5, 31, dtype=np.float32).reshape(1, 31)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(nl.arctan(chip.put(x))._array, np.arctan(x), rtol=2e-7)
    with pytest.warns(ActivationRangeWarning, match=r"nl\.arctan receives values outside") as told:
        nl.arctan(chip.put([[2.0]]))
    # The kernel's line, not one of the simulator.
    assert told[0].filename == __file__
    assert "nl.arctan(chip.put([[2.0]]))" in linecache.getline(__file__, told[0].lineno)


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
@pytest.mark.parametrize("turns", [0.5, 3, 100, 10_000])
def test_angles_of_many_turns(chip: Any, rng: Any, name: str, turns: float) -> None:
    """Over the full domain, as the page of the activation table promises; without a warning."""
    x = rng.uniform(-turns, turns, (16, 250)) * 2 * math.pi
    x[0, :9] = (np.arange(9) - 4) * math.pi / 2  # where the turns are counted one way or the other
    x = x.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = getattr(nl, name)(chip.put(x))._array
    exact = getattr(np, name)(x.astype(np.float64))
    if name == "tan":  # its error grows with its square, towards the poles
        keep = np.abs(exact) < 20
        np.testing.assert_allclose(result[keep], exact[keep], rtol=1e-4, atol=2e-6)
    else:
        np.testing.assert_allclose(result, exact, atol=2e-6)


def test_angles_of_the_vendors_note(chip: Any) -> None:
    """ScalarE alone makes 27.65 of 9.0; the function on tiles takes a turn away first."""
    np.testing.assert_allclose(nl.sin(chip.put([[9.0, -9.0]]))._array, [[0.41212, -0.41212]], 1e-4)
    opcodes = [step.opcode for step in chip.program.trace.steps()]
    assert opcodes.count("activation") == 1
    assert len(opcodes) > 1


def test_angles_that_cannot_be_counted_are_warned_of(chip: Any) -> None:
    """The turns are counted in int32: of 1e15 too many, of infinity there is no number."""
    for x in (1e15, np.inf):
        with pytest.warns(ActivationRangeWarning, match=r"nl\.sin receives values outside"):
            nl.sin(chip.put([[x]]))


WHOLE = [
    -3.7, -2.5, -0.5, -0.2, 0.0, 0.2, 0.5, 1.5, 2.5, 3.7, 7.0, -7.0, 2.0**22 + 0.5, 2.0**23 - 0.5,
    2.0**24 + 2, 3e9, -3e9, 1e30, -1e30, np.inf, -np.inf, np.nan,
]  # fmt: skip


@pytest.mark.parametrize("name", ["floor", "ceil", "trunc"])
def test_whole_numbers(chip: Any, name: str) -> None:
    """Also where int32 ends: large floats are whole already."""
    x = np.array([WHOLE], dtype=np.float32)
    np.testing.assert_array_equal(getattr(nl, name)(chip.put(x))._array, getattr(np, name)(x))
    cast = getattr(nl, name)(chip.put(x[:, :12]), dtype=nl.int16)
    np.testing.assert_array_equal(cast._array, getattr(np, name)(x[:, :12]))
    whole = chip.put([[2**31 - 1, -5]], "int32")
    np.testing.assert_array_equal(getattr(nl, name)(whole)._array, whole._array)


def test_copy_of_large_integers_is_exact(chip: Any) -> None:
    x = chip.put([[2**31 - 1, 2**24 + 1, -(2**30) - 1]], "int32")
    copied = nl.copy(x)
    np.testing.assert_array_equal(copied._array, x._array)
    assert copied._storage is not x._storage


@pytest.mark.parametrize("name", ["exp", "copy", "floor", "sin", "invert", "rsqrt", "reciprocal"])
def test_numbers_are_refused(chip: Any, name: str) -> None:
    with pytest.raises(ConstraintError, match=rf"nl\.{name}: x must be a tile, got 1\.0"):
        getattr(nl, name)(1.0)
