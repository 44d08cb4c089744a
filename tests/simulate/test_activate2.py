"""ScalarE's activate2 of trn3 against float64 NumPy: its stages, its registers, its cost."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.simulate.engines.scalar import ActivationRangeWarning
from nkiconv.simulate.errors import ConstraintError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.ops import OPS

CMD = nisa.reduce_cmd
PAIRS = {  # op0, op1: what they make of x, a and b; the same with both reversed
    ("multiply", "add"): (lambda x, a, b: x * a + b, lambda x, a, b: b + a * x),
    ("multiply", "subtract"): (lambda x, a, b: x * a - b, lambda x, a, b: b - a * x),
    ("multiply", "bypass"): (lambda x, a, b: x * a, lambda x, a, b: a * x),
    ("add", "bypass"): (lambda x, a, b: x + a, lambda x, a, b: a + x),
    ("subtract", "bypass"): (lambda x, a, b: x - a, lambda x, a, b: a - x),
    ("bypass", "bypass"): (lambda x, a, b: x, lambda x, a, b: x),
}  # fmt: skip


@pytest.mark.parametrize("tensors", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reversed"])
@pytest.mark.parametrize("pair", PAIRS)
def test_stages(start: Any, rng: Any, pair: Any, reverse: bool, tensors: bool) -> None:
    data = rng.integers(-8, 9, (32, 12)) / 4
    a, b = rng.integers(-4, 5, (2, 32, 1)) / 2
    if not tensors:
        a, b = 1.5, -0.5
    with start("trn3") as chip:
        dst, ops = chip.new((32, 3, 4)), [OPS[name] for name in pair]
        imms = [
            chip.put(v) if tensors and op is not nl.bypass else 1.5 if v is a else -0.5
            for v, op in zip((a, b), ops, strict=True)
        ]
        flags = [reverse and op is not nl.bypass for op in ops]
        nisa.activate2(
            dst, nl.relu, chip.put(data), *imms, *ops, reverse0=flags[0], reverse1=flags[1]
        )
        found = dst._array.reshape(32, 12)
        assert chip.last.lane.label == "ScalarE"
    np.testing.assert_array_equal(found, np.maximum(PAIRS[pair][reverse](data, a, b), 0))


def test_the_result_is_rounded_once(start: Any) -> None:
    """Both stages and the function are in float32, whatever the types of the tensors."""
    with start("trn3") as chip:
        dst = chip.new((1, 1), "bfloat16")
        call = {"imm0": 1.0, "imm1": 1.0, "op0": nl.subtract, "op1": nl.bypass}
        nisa.activate2(dst, nl.square, chip.put([[1 + 2.0**-7]], "bfloat16"), **call)
        assert dst._array[0, 0] == ml_dtypes.bfloat16(2.0**-14)
        nisa.activate2(dst, nl.exp, chip.put([[3.0]], "bfloat16"), **call)
        assert dst._array[0, 0] == ml_dtypes.bfloat16(np.exp(2.0))
        wide, fine = chip.new((1, 1)), 1 + 2.0**-12  # the product takes 20 bits
        x = chip.put([[1 + 2.0**-7]], "bfloat16")
        nisa.activate2(wide, nl.copy, x, fine, 1.0, nl.multiply, nl.subtract)
        assert wide._array[0, 0] == 2.0**-7 + 2.0**-12 + 2.0**-19


def test_each_stage_is_reversed_by_its_own_flag(start: Any) -> None:
    with start("trn3") as chip:
        dst, x = chip.new((1, 1)), chip.put([[3.0]])
        found = []
        for op0, op1, flags in (
            (nl.multiply, nl.subtract, {"reverse1": True}),  # 1 - 3 * 2
            (nl.multiply, nl.subtract, {"reverse0": True}),  # 2 * 3 - 1
            (nl.subtract, nl.bypass, {"reverse0": True}),  # 2 - 3
        ):
            nisa.activate2(dst, nl.copy, x, 2.0, 1.0, op0, op1, **flags)
            found.append(float(dst._array[0, 0]))
        assert found == [-5, 5, -1]


@pytest.mark.parametrize(
    "name", sorted(n for n, op in OPS.items() if op.scalar and not op.scalar.parametric)
)
def test_every_function_is_activations(start: Any, rng: Any, name: str) -> None:
    low, high = (-8, 9) if name in ("sin", "arctan") else (1, 40)
    data = rng.integers(low, high, (4, 8)) / (16 if low < 0 else 8)
    with start("trn3") as chip:
        x, one, two = chip.put(data), chip.new((4, 8)), chip.new((4, 8))
        nisa.activation(one, OPS[name], x, bias=0.5, scale=2.0)
        nisa.activate2(two, OPS[name], x, 2.0, 0.5, nl.multiply, nl.add)
        np.testing.assert_array_equal(one._array, two._array)


def test_sums_share_the_registers_of_activation(start: Any, rng: Any) -> None:
    data = rng.integers(-8, 9, (64, 12))
    with start("trn3") as chip:
        x, dst, res = chip.put(data), chip.new((64, 12)), chip.new((64, 1))
        stages = (2.0, 0.0, nl.multiply, nl.bypass)
        nisa.activation(dst, nl.copy, x, reduce_op=nl.add, reduce_cmd=CMD.reset_reduce)
        nisa.activate2(dst, nl.copy, x, *stages, reduce_op=nl.add, reduce_cmd=CMD.reduce)
        nisa.activate2(dst, nl.copy, x, *stages, reduce_res=res)  # idle: reads them alone
        total = data.sum(1, keepdims=True)
        np.testing.assert_array_equal(res._array, 3 * total)
        half = slice(32, 64)
        nisa.activate2(dst[half], nl.copy, x[half], *stages, reduce_cmd=CMD.reset)
        nisa.activate2(dst, nl.copy, x, *stages, 0.0, False, False, nl.add, res, CMD.reduce)
        np.testing.assert_array_equal(res._array, np.r_[5 * total[:32], 2 * total[half]])
        nisa.activate2(dst, nl.copy, x, *stages, 0.0, False, False, nl.add, res, CMD.reset_reduce)
        np.testing.assert_array_equal(res._array, 2 * total)


def test_outside_the_range_of_a_function(start: Any) -> None:
    with start("trn3") as chip:
        dst, x = chip.new((1, 2)), chip.put([[1.0, 2.0]])
        with pytest.warns(ActivationRangeWarning, match=r"nisa\.activate2: nl\.sqrt receives"):
            nisa.activate2(dst, nl.sqrt, x, 1.5, 0.0, nl.subtract, nl.bypass)


@pytest.mark.parametrize(
    "changes",
    [
        {"op0": nl.bypass},
        {"op0": None},
        {"op1": None},
        {"op0": nl.subtract, "op1": nl.add},
        {"op0": nl.bypass, "op1": nl.bypass, "reverse0": True},
        {"reduce_op": nl.add},
        {"reduce_op": None, "reduce_cmd": CMD.reduce},
        {"reduce_op": nl.add, "reduce_cmd": CMD.reset},
        {"reduce_op": nl.multiply, "reduce_cmd": CMD.reduce},
        {"relu_param": 0.5},
    ],
)
def test_what_is_refused(start: Any, changes: dict[str, Any]) -> None:
    with start("trn3") as chip:
        call = {"dst": chip.new((4, 4)), "op": nl.copy, "data": chip.put(np.ones((4, 4)))}
        call |= {"imm0": 1.0, "imm1": 1.0, "op0": nl.multiply, "op1": nl.add}
        with pytest.raises(ConstraintError):
            nisa.activate2(**call | changes)
        column = chip.put(np.ones((4, 1)))
        with pytest.raises(ConstraintError, match=r"nl\.bypass takes a number"):
            nisa.activate2(**call | {"op1": nl.bypass, "imm1": column})


def test_prelu_takes_its_slope_from_relu_param(start: Any, rng: Any) -> None:
    """Negative inputs are multiplied by it, a number or one of each partition."""
    data, slope = rng.integers(-8, 9, (32, 12)) / 4, rng.integers(-4, 5, (32, 1)) / 2
    with start("trn3") as chip:
        x, dst = chip.put(data), chip.new((32, 12))
        stages = (1.0, 0.0, nl.multiply, nl.bypass)
        for given, wanted in ((0.25, 0.25), (chip.put(slope), slope), (0.0, 0.0)):
            nisa.activate2(dst, nl.prelu, x, *stages, relu_param=given)
            np.testing.assert_array_equal(dst._array, np.where(data >= 0, data, wanted * data))


SIGNED = np.array([[3.0, -7, 7, 2, -2], [-1, 5, 5, -5, 4]])


@pytest.mark.parametrize(
    ("op", "first", "second"),  # of SIGNED alone, then with SIGNED / 2 after it
    [
        (nl.maximum, [7, 5], [7, 5]),
        (nl.minimum, [-7, -5], [-7, -5]),
        (nl.abs_max, [7, -5], [7, -5]),  # of equal magnitudes the later one
        (nl.abs_min, [-2, -1], [-1, -0.5]),
    ],
)
def test_other_reductions(start: Any, op: Any, first: Any, second: Any) -> None:
    with start("trn3") as chip:
        x, dst, res = chip.put(SIGNED), chip.new((2, 5)), chip.new((2, 1))
        for scale, command, expected in ((1.0, CMD.reset_reduce, first), (0.5, CMD.reduce, second)):
            nisa.activate2(
                dst, nl.copy, x, scale, 0.0, nl.multiply, nl.bypass,
                reduce_op=op, reduce_res=res, reduce_cmd=command,
            )  # fmt: skip
            np.testing.assert_array_equal(res._array[:, 0], expected)


@pytest.mark.parametrize(("op", "fixed"), [(nl.copy, 60), (nl.exp, 180)])
def test_occupancy(start: Any, op: Any, fixed: int) -> None:
    """N cycles at 1.2 GHz, 60 to issue, 180 with a table, 25 ns more from SBUF."""
    with start("trn3") as chip:
        x = chip.put(np.ones((4, 512)))
        nisa.activate2(chip.new((4, 512)), op, x, 1.0, 1.0, nl.multiply, nl.add)
        assert chip.last.occupancy_ps == round(1000 * ((512 + fixed) / 1.2 + 25))
