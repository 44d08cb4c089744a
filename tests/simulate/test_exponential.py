"""VectorE's exponential of trn3 against float64 NumPy, its registers, and its cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import DtypeError, UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

CMD = nisa.reduce_cmd
RELATIVE = {"float32": 3e-7, "float16": 5e-4, "bfloat16": 4e-3}  # half a unit in the last place


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("space", [nl.sbuf, nl.psum])
@pytest.mark.parametrize("top", ["none", "number", "tensor"])
def test_values(start: Any, rng: Any, top: str, space: Any, dtype: str) -> None:
    data, highest = rng.integers(-32, 8, (32, 24)) / 8, rng.integers(-8, 8, (32, 1)) / 4
    with start("trn3") as chip:
        dst = chip.new((32, 4, 6), dtype, space)
        given: dict[str, Any] = {
            "none": {}, "number": {"max_value": 1.5}, "tensor": {"max_value": chip.put(highest)},
        }[top]  # fmt: skip
        nisa.exponential(dst, chip.put(data, dtype, space), **given)
        found = dst._array.astype(np.float64).reshape(32, 24)
        assert chip.last.lane.label == "VectorE"
    shift: Any = {"none": 0, "number": 1.5, "tensor": highest}[top]
    np.testing.assert_allclose(found, np.exp(data - shift), rtol=RELATIVE[dtype])


def sums(data: Any, top: float = 0.0) -> Any:
    return np.exp(np.asarray(data, dtype=np.float64) - top).sum(axis=1, keepdims=True)


def test_sums_are_kept_between_instructions(start: Any, rng: Any) -> None:
    first, second = rng.integers(-16, 4, (2, 32, 8)) / 4
    with start("trn3") as chip:
        dst, res = chip.new((32, 8)), chip.new((32, 1))
        nisa.exponential(dst, chip.put(first), 1.0, reduce_cmd=CMD.reset_reduce)
        nisa.exponential(dst, chip.put(second), 1.0, reduce_res=res, reduce_cmd=CMD.reduce)
        np.testing.assert_allclose(res._array, sums(first, 1) + sums(second, 1), rtol=1e-6)
        nisa.exponential(dst, chip.put(first), 1.0, reduce_res=res, reduce_cmd=CMD.reset_reduce)
        np.testing.assert_allclose(res._array, sums(first, 1), rtol=1e-6)


def test_sums_start_from_what_is_loaded(start: Any, rng: Any) -> None:
    data, before = rng.integers(-16, 4, (32, 8)) / 4, rng.integers(0, 99, (32, 1))
    with start("trn3") as chip:
        dst, res = chip.new((32, 8)), chip.new((32, 1))
        x = chip.put(data)
        for init, expected in ((chip.put(before), before), (2.5, 2.5)):
            nisa.exponential(dst, x, 0.0, res, CMD.load_reduce, init)
            np.testing.assert_allclose(res._array, sums(data) + expected, rtol=1e-6)
        nisa.exponential(dst, x, 0.0, res, CMD.reduce)
        np.testing.assert_allclose(res._array, 2 * sums(data) + 2.5, rtol=1e-6)


def test_registers_of_other_partitions_are_others(start: Any) -> None:
    with start("trn3") as chip:
        x, res = chip.put(np.zeros((128, 4))), chip.new((32, 1))
        dst = chip.new((128, 4))
        nisa.exponential(dst, x, reduce_cmd=CMD.reset_reduce)
        nisa.exponential(dst[32:64], x[32:64], reduce_cmd=CMD.reduce)
        for begin, total in ((0, 8), (32, 12), (64, 8)):
            part = slice(begin, begin + 32)
            nisa.exponential(dst[part], x[part], 0.0, res, CMD.reduce)
            assert res._array.tolist() == [[total]] * 32


def test_idle_leaves_the_registers_unknown(start: Any) -> None:
    with start("trn3") as chip:
        x, dst, res = chip.put(np.zeros((64, 4))), chip.new((64, 4)), chip.new((64, 1))
        nisa.exponential(dst, x, reduce_cmd=CMD.reset_reduce)
        nisa.exponential(dst[0:32], x[0:32])
        with pytest.raises(UninitializedReadError, match="goes on from registers that an earlier"):
            nisa.exponential(dst, x, 0.0, res, CMD.reduce)
        nisa.exponential(dst[32:64], x[32:64], 0.0, res[32:64], CMD.reduce)  # not idle there
        assert res._array[32:].tolist() == [[8]] * 32


@pytest.mark.parametrize(
    ("operand", "dtype"),
    [("dst", "uint32"), ("src", "tfloat32"), ("max_value", "bfloat16"), ("reduce_res", "int32")],
)
def test_types_that_the_page_does_not_list(start: Any, operand: str, dtype: str) -> None:
    with start("trn3") as chip:
        call: dict[str, Any] = {"dst": chip.new((4, 4)), "src": chip.put(np.ones((4, 4)))}
        call["reduce_cmd"] = CMD.reset_reduce
        call[operand] = chip.new((4, 1 if "_" in operand else 4), dtype)
        with pytest.raises(DtypeError, match=f"{operand} must be one of .*, got {dtype}"):
            nisa.exponential(**call)


@pytest.mark.parametrize("n", [8, 512, 4096])
def test_occupancy(start: Any, n: int) -> None:
    """Four elements a cycle at 1.2 GHz, 60 cycles to issue."""
    with start("trn3") as chip:
        nisa.exponential(chip.new((4, n)), chip.put(np.ones((4, n))))
        assert chip.last.occupancy_ps == round(1000 * (n / 4 + 60) / 1.2)


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_sub_version(start: Any, target: str) -> None:
    with start(target):
        assert nisa.get_nc_sub_version() == 0
