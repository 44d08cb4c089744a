"""VectorE's scans and reductions against float64 loops, and its accumulation registers.

Data are small multiples of powers of two, so that float32 holds every result exactly.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

R = nisa.reduce_cmd
PAIRS: dict[str, Callable[[float, float], float]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "maximum": max,
    "minimum": min,
    "less": lambda x, y: float(x < y),
}
START = {"add": 0, "subtract": 0, "multiply": 1, "maximum": -np.inf, "minimum": np.inf}


def values(rng: Any, *shape: int) -> Any:
    return rng.integers(-4, 5, shape) / 2


def scanned(
    first: Any, second: Any, initial: Any, op0: str, op1: str, turns: tuple[bool, bool]
) -> Any:
    """Follow the page's recurrence, element by element, in Python's float64."""
    result = np.zeros(first.shape)
    for p, row in enumerate(first):
        state = float(initial[p])
        for i, x in enumerate(row):
            inner = PAIRS[op0](state, x) if turns[0] else PAIRS[op0](x, state)
            y = second[p, i]
            state = PAIRS[op1](y, inner) if turns[1] else PAIRS[op1](inner, y)
            result[p, i] = state
    return result


@pytest.mark.parametrize("turns", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("op1", ["add", "subtract", "maximum"])
@pytest.mark.parametrize("op0", ["multiply", "subtract", "minimum", "less"])
def test_scan(chip: Any, rng: Any, op0: str, op1: str, turns: tuple[bool, bool]) -> None:
    x, y, initial = values(rng, 4, 6), values(rng, 4, 6), values(rng, 4, 1)
    dst = chip.new((4, 2, 3))
    nisa.tensor_tensor_scan(
        dst, chip.put(x.reshape(4, 3, 2), "bfloat16"), chip.put(y, "float16", nl.psum),
        chip.put(initial), getattr(nl, op0), getattr(nl, op1), *turns,
    )  # fmt: skip
    expected = scanned(x, y, initial[:, 0], op0, op1, turns)
    np.testing.assert_array_equal(dst._array.reshape(4, 6), expected)


def test_scan_from_a_number_carries_float32(chip: Any) -> None:
    """What is carried is not what was written: dst rounds, the state does not."""
    ones, dst = chip.put(np.ones((2, 5))), chip.new((2, 5), "int8")
    nisa.tensor_tensor_scan(dst, ones, chip.put(np.full((2, 5), 0.25)), 0.25, nl.multiply, nl.add)
    np.testing.assert_array_equal(dst._array, [np.rint(np.arange(2, 7) / 4)] * 2)


def cumulative(
    chip: Any, x: Any, op0: str, op1: str, imm0: Any, imm1: Any = None, cmd: Any = R.reset_reduce
) -> Any:
    dst = chip.new(x.shape)
    ops = getattr(nl, op0), getattr(nl, op1)
    nisa.tensor_scalar_cumulative(dst, chip.put(x), *ops, imm0, imm1, reduce_cmd=cmd)
    return dst._array


def accumulated(x: Any, op0: str, op1: str, imm0: Any, start: Any) -> Any:
    result = np.zeros(x.shape)
    for p, row in enumerate(x):
        state = float(start[p])
        for i, value in enumerate(row):
            state = result[p, i] = PAIRS[op1](PAIRS[op0](value, imm0[p]), state)
    return result


@pytest.mark.parametrize("op1", START)
@pytest.mark.parametrize("op0", ["add", "multiply", "maximum"])
def test_cumulative(chip: Any, rng: Any, op0: str, op1: str) -> None:
    """Reset, go on, load: each from what the page says that it starts from."""
    x, imm0, imm1 = values(rng, 3, 4), values(rng, 3, 1), values(rng, 3, 1)
    one = [imm0[p, 0] for p in range(3)]
    first = accumulated(x, op0, op1, one, [START[op1]] * 3)
    on_chip = chip.put(imm0)
    np.testing.assert_array_equal(cumulative(chip, x, op0, op1, on_chip), first)
    on = cumulative(chip, x, op0, op1, on_chip, cmd=R.reduce)
    np.testing.assert_array_equal(on, accumulated(x, op0, op1, one, first[:, -1]))
    loaded = cumulative(chip, x, op0, op1, on_chip, chip.put(imm1), R.load_reduce)
    np.testing.assert_array_equal(loaded, accumulated(x, op0, op1, one, imm1[:, 0]))
    number = cumulative(chip, x, op0, op1, 1.5, 2, R.load_reduce)
    np.testing.assert_array_equal(number, accumulated(x, op0, op1, [1.5] * 3, [2] * 3))


REDUCE: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: x.sum(1),
    "multiply": lambda x: x.prod(1),
    "maximum": lambda x: x.max(1),
    "minimum": lambda x: x.min(1),
}


@pytest.mark.parametrize("op", REDUCE)
@pytest.mark.parametrize("space", [nl.sbuf, nl.psum])
def test_tensor_scalar_reduce(chip: Any, rng: Any, op: str, space: Any) -> None:
    x, operand, initial = values(rng, 4, 6), values(rng, 4, 1), values(rng, 4, 1)
    dst, total = chip.new((4, 2, 3), "float16"), chip.new((4, 1), "float32", space)
    data, reduce_op = chip.put(x.reshape(4, 2, 3), "bfloat16", space), getattr(nl, op)
    result = x - operand
    one = REDUCE[op](result)

    def call(res: Any, **options: Any) -> None:
        nisa.tensor_scalar_reduce(
            dst, data, nl.subtract, chip.put(operand), reduce_op, res, **options
        )

    call(total)
    np.testing.assert_array_equal(dst._array.reshape(4, 6), result)
    np.testing.assert_array_equal(total._array[:, 0], one)
    call(total, reduce_res_negate=True)
    np.testing.assert_array_equal(total._array[:, 0], -one)
    call(None, reduce_cmd=R.load_reduce, reduce_init=chip.put(initial))
    call(total, reduce_cmd=R.reduce)  # negation left the registers alone
    both = np.stack([initial[:, 0], one, one], axis=1)
    np.testing.assert_array_equal(total._array[:, 0], REDUCE[op](both))


def test_reduction_takes_results_before_they_are_rounded(chip: Any) -> None:
    dst, total = chip.new((2, 8), "int8"), chip.new((2, 1))
    data = chip.put(np.full((2, 8), 0.25))
    nisa.tensor_scalar_reduce(dst, data, nl.multiply, 1, nl.add, total)
    assert np.all(dst._array == 0)
    np.testing.assert_array_equal(total._array, [[2], [2]])
    nisa.tensor_scalar_reduce(dst, chip.put(-np.ones((2, 8))), nl.abs, 0.0, nl.add, total)
    np.testing.assert_array_equal(total._array, [[8], [8]])


def test_registers_are_shared_between_instructions(chip: Any) -> None:
    x, total = chip.put([[1.0, 2, 3]] * 4), chip.new((4, 1))
    dst = chip.new((4, 3))
    nisa.tensor_scalar_cumulative(dst, x, nl.add, nl.add, 0.0)  # leaves 6
    nisa.tensor_scalar_reduce(dst, x, nl.add, 0, nl.add, total, reduce_cmd=R.reduce)
    np.testing.assert_array_equal(total._array, [[12]] * 4)
    chosen = chip.put(np.ones((4, 3)), "uint8")
    nisa.select_reduce(dst, chosen, x, 0.0, total, R.reduce)
    np.testing.assert_array_equal(total._array, [[12]] * 4)
    nisa.tensor_scalar_cumulative(dst, x, nl.add, nl.add, 0.0, reduce_cmd=R.reduce)
    np.testing.assert_array_equal(dst._array, [[13, 15, 18]] * 4)


def test_registers_that_hold_nothing_known(chip: Any) -> None:
    """Not set in these partitions, or left by an idle select_reduce, which may change them."""
    x, total = chip.put(np.ones((128, 3))), chip.new((128, 1))
    dst = chip.new((128, 3))

    def go_on(rows: slice) -> None:
        nisa.tensor_scalar_reduce(
            dst[rows], x[rows], nl.add, 0, nl.add, total[rows], reduce_cmd=R.reduce
        )

    half = slice(64, 128)
    nisa.tensor_scalar_reduce(dst[half], x[half], nl.add, 0, nl.add)
    go_on(half)
    np.testing.assert_array_equal(total[half]._array, [[6]] * 64)
    with pytest.raises(UninitializedReadError, match=r"nisa\.tensor_scalar_reduce: reduce_cmd"):
        go_on(slice(0, 128))
    chosen = chip.put(np.ones((128, 3)), "uint8")
    nisa.select_reduce(dst, chosen, x, 0.0)
    with pytest.raises(UninitializedReadError, match="reset or loaded"):
        go_on(half)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_reciprocal(chip: Any, rng: Any, dtype: str) -> None:
    x = rng.choice([1.0, 2, 4, 16], (4, 6)) * (1 if dtype == "uint8" else -1)
    dst = chip.new((4, 2, 3), "bfloat16", nl.psum)
    nisa.reciprocal(dst=dst, data=chip.put(x, dtype))
    np.testing.assert_array_equal(dst._array.astype(np.float64).reshape(4, 6), 1 / x)


def test_reciprocal_rounds_once(chip: Any) -> None:
    x, dst, halves = chip.put([[3.0, 0, 0.4]]), chip.new((1, 3)), chip.new((1, 3), "int8")
    nisa.reciprocal(dst, x)
    np.testing.assert_array_equal(dst._array, np.float32([[1 / 3, np.inf, 1 / np.float32(0.4)]]))
    nisa.reciprocal(halves, x)
    np.testing.assert_array_equal(halves._array, [[0, 127, 2]])
