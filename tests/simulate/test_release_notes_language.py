"""What the vendor's release notes of NKI 0.4.0, 0.5.0 and 0.6.0 say of nki.language, one test each.

A known issue of 0.4.0 holds as long as no later notes lift it: both 0.5.0 and 0.6.0 carry the
known issues forward.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import ConstraintError, DtypeError, ShapeError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl


@pytest.mark.parametrize("function", [nl.abs_max, nl.abs_min])
def test_abs_max_and_abs_min_are_functions_and_operators_of_trn3(start: Any, function: Any) -> None:
    """0.4.0, New Features: callable, on VectorE, op0 of tensor_scalar and tensor_scalar_reduce."""
    assert list(inspect.signature(function).parameters) == ["x", "y", "dtype"]
    with start("trn3") as chip:
        x = chip.put([[1.0, -4.0]])
        assert function(x, 2.0).shape == (1, 2)
        assert chip.last.lane.label == "VectorE"
        nisa.tensor_scalar(chip.new((1, 2)), x, function, 2.0)
        nisa.tensor_scalar_reduce(chip.new((1, 2)), x, function, 2.0, nl.add)
    for target in ("trn1", "trn2"):
        with start(target) as chip, pytest.raises(ConstraintError, match="abs_max, abs_min"):
            function(chip.put([[1.0]]), 2.0)


@pytest.mark.parametrize("op", [nl.square, nl.relu])
def test_square_and_relu_are_op0_on_trn3(start: Any, op: Any) -> None:
    """0.4.0, New Features: new opcodes for tensor_scalar; as functions they run on ScalarE."""
    for target in ("trn1", "trn2", "trn3"):
        with start(target) as chip:
            x, dst = chip.put([[3.0]]), chip.new((1, 1))
            assert op(x)._array[0, 0] == (9 if op is nl.square else 3)
            assert chip.last.lane.label == "ScalarE"
            if target == "trn3":
                nisa.tensor_scalar(dst, x, op, None)
            else:
                with pytest.raises(ConstraintError, match="on trn3 only"):
                    nisa.tensor_scalar(dst, x, op, None)


def test_prelu_and_bypass_are_operators_of_activate2(start: Any) -> None:
    """0.4.0, New Features: nl.prelu as op, nl.bypass as a stage that passes data on."""
    with start("trn3") as chip:
        x, dst = chip.put([[-2.0, 2.0]]), chip.new((1, 2))
        nisa.activate2(dst, nl.prelu, x, 0.0, 0.0, nl.bypass, nl.bypass, relu_param=0.5)
        np.testing.assert_array_equal(dst._array, [[-1, 2]])
        with pytest.raises(ConstraintError, match=r"nl\.prelu takes its slope from relu_param"):
            nisa.activation(dst, nl.prelu, x)


def test_logical_and_gives_correct_results(chip: Any) -> None:
    """0.4.0, Bug Fixes, nki.simulate: nl.logical_and."""
    x, y = chip.put([[0.0, 0, 1, 1]]), chip.put([[0.0, 1, 0, 1]])
    np.testing.assert_array_equal(nl.logical_and(x, y)._array, [[0, 0, 0, 1]])


def test_device_print_takes_any_rank(chip: Any, capsys: Any) -> None:
    """0.4.0, Bug Fixes: device_print of 1-D tensors in HBM."""
    nl.device_print("flat", chip.put([1.0, 2.0], "float32", nl.shared_hbm))
    nl.device_print("deep", chip.put(np.ones((1, 1, 1, 1, 2))))
    assert capsys.readouterr().out == "flat [1., 2.]\ndeep [[[[[1., 1.]]]]]\n"


@pytest.mark.parametrize("function", [nl.divide, nl.fmod, nl.mod])
def test_divide_and_remainders_do_not_exist_on_the_device(chip: Any, function: Any) -> None:
    """0.4.0, Known Issues: work in the vendor's simulation and fail when compiled."""
    x = chip.put([[4.0]])
    for y in (x, 2.0):
        with pytest.raises(ConstraintError, match=r"on the device.*nl\.reciprocal\(y\)"):
            function(x, y)


def test_power_takes_no_scalar_exponent(chip: Any) -> None:
    """0.4.0, Known Issues; as an operator of an instruction it does."""
    x = chip.put([[4.0]])
    with pytest.raises(ConstraintError, match="x and y must both be tiles"):
        nl.power(x, 2.0)
    assert nl.power(x, nl.full((1, 1), 2.0, nl.float32))._array[0, 0] == 16
    nisa.tensor_scalar(x, x, nl.power, 0.5)
    assert x._array[0, 0] == 2


@pytest.mark.parametrize("function", [nl.add, nl.equal, nl.logical_or, nl.bitwise_and, nl.power])
def test_binary_functions_do_not_broadcast(chip: Any, function: Any) -> None:
    """0.4.0, Known Issues: both operands have the same shape."""
    dtype = "int32" if function is nl.bitwise_and else "float32"
    wide, column = chip.put(np.ones((128, 16)), dtype), chip.put(np.ones((128, 1)), dtype)
    for pair in ((wide, column), (column, wide)):
        with pytest.raises(ShapeError, match="binary functions do not broadcast on the device"):
            function(*pair)


def test_matmul_needs_transpose_x(chip: Any) -> None:
    """0.4.0, Known Issues: fails without transpose_x=True."""
    x = chip.put(np.eye(4))
    with pytest.raises(ConstraintError, match="say transpose_x=True"):
        nl.matmul(x, x)
    nl.matmul(x, x, transpose_x=True)


def test_no_float_fills_integers(chip: Any) -> None:
    """0.3.0, Breaking Changes, memset: no float for an integer tensor, so for nl.full neither."""
    with pytest.raises(DtypeError, match=r"2 instead of 2\.0"):
        nl.full((4, 4), 2.0, nl.int32)


def test_rsqrt_runs_on_gpsimd_and_takes_no_psum(chip: Any) -> None:
    """0.5.0, Improvements: higher precision on GpSimdE; activation for PSUM or throughput."""
    assert nl.rsqrt(chip.put([[4.0]]))._array[0, 0] == 0.5
    assert chip.last.lane.label == "GpSimdE"
    in_psum = chip.put([[4.0]], "float32", nl.psum)
    with pytest.raises(ConstraintError, match=r"nisa\.activation with op=nl\.rsqrt"):
        nl.rsqrt(in_psum)
    dst = chip.new((1, 1))
    nisa.activation(dst, nl.rsqrt, in_psum)
    assert dst._array[0, 0] == 0.5


def test_copy_is_exact_and_leaves_psum(chip: Any) -> None:
    """0.6.0, New Features: tensor_copy on VectorE; lifts a known issue of 0.4.0."""
    large = chip.put([[2**31 - 1, 2**24 + 1]], "int32", nl.psum)
    copied = nl.copy(large)
    assert (copied.buffer, chip.last.opcode, chip.last.lane.label) == (
        nl.sbuf, "tensor_copy", "VectorE",
    )  # fmt: skip
    np.testing.assert_array_equal(copied._array, large._array)


def test_the_partition_limit_is_named(chip: Any) -> None:
    """0.6.0, Improvements: a clear error for more than 128 partitions."""
    with pytest.raises(ShapeError, match=r"129 partitions in \(129, 4\); SBUF has 128"):
        nl.zeros((129, 4), nl.float32)
