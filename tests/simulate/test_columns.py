"""Views of columns (NkiTensor.indirect, trn3): every instruction that takes them, and its limits.

What an instruction must do with columns is what it does with a tensor that NumPy cut out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import (
    ConstraintError,
    DtypeError,
    HazardError,
    NkiconvError,
    OutOfBoundsError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.sheet import SHEETS

PICKED = (7, 0, 19, 3, 11)
COUNT = len(PICKED)
E = nisa.engine


@pytest.fixture
def chip(start: Any) -> Iterator[Any]:
    """Run the test inside a program for trn3."""
    with start("trn3") as begun:
        yield begun


def snake(chip: Any, picked: Any, rows: int = 32, group: int = 16, dtype: str = "uint32") -> Any:
    """Return an index tensor: offset i in row i % group of each group, column i // group."""
    held = np.zeros((rows, -(-len(picked) // group)))
    for first in range(0, rows, group):
        for i, offset in enumerate(picked):
            held[first + i % group, i // group] = offset
    return chip.put(held, dtype)


OTHERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "tensor_copy": lambda c: {},
    "tensor_tensor": lambda c: {"op": nl.subtract, "data2": c.put(np.ones((32, COUNT)))},
    "tensor_scalar": lambda c: {"op0": nl.multiply, "operand0": -2.0},
    "tensor_reduce": lambda c: {"op": nl.maximum, "axis": 1},
    "tensor_scalar_cumulative": lambda c: {"op0": nl.add, "op1": nl.add, "imm0": 1.0},
    "tensor_scalar_reduce": lambda c: {"op0": nl.add, "operand0": 1.0, "reduce_op": nl.add},
    "activation": lambda c: {"op": nl.relu},
    "activation_reduce": lambda c: {
        "op": nl.copy, "reduce_op": nl.add, "reduce_res": c.new((32, 1)),
    },
    "activate2": lambda c: {
        "op": nl.copy, "imm0": 2.0, "imm1": 1.0, "op0": nl.multiply, "op1": nl.add,
    },
    "exponential": lambda c: {},
    "tensor_copy_predicated": lambda c: {"src": c.put(np.full((32, COUNT), 9))},
}  # fmt: skip
"""What an instruction needs beside ``dst`` and its input."""


def given(chip: Any, name: str, rng: Any) -> tuple[str, Any]:
    """Return the name of the input that takes columns, and numbers for it."""
    columns = SHEETS[name].columns
    assert columns is not None
    (data,) = columns.inputs
    values = rng.integers(0, 2, (32, 20)) if data == "predicate" else rng.normal(size=(32, 20))
    return data, chip.put(values, "uint8" if data == "predicate" else "float32")


def test_instructions_that_take_columns() -> None:
    """NKI 0.5.0 release notes, New features; nc_matmul has a test of its own."""
    named = {name for name, sheet in SHEETS.items() if sheet.columns is not None}
    assert named - {"nc_matmul_mx"} == {*OTHERS, "nc_matmul"}


@pytest.mark.parametrize("name", OTHERS)
def test_gather(chip: Any, rng: Any, name: str) -> None:
    data, held = given(chip, name, rng)
    width = 1 if name == "tensor_reduce" else COUNT
    results = []
    for source in (
        held.indirect(snake(chip, PICKED), COUNT),
        chip.put(held._array[:, list(PICKED)], held.dtype),
    ):
        dst = chip.put(np.full((32, width), 5))
        SHEETS[name](**OTHERS[name](chip), **{"dst": dst, data: source})
        results.append(dst._array.copy())
    assert not (results[0] == 5).all()
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", OTHERS)
def test_scatter(chip: Any, rng: Any, name: str) -> None:
    data, held = given(chip, name, rng)
    picked = PICKED[:1] if name == "tensor_reduce" else PICKED
    source = chip.put(held._array[:, :COUNT], held.dtype)
    flat, spread = chip.put(np.full((32, len(picked)), 5)), chip.put(np.full((32, 20), 5))
    for dst in (flat, spread.indirect(snake(chip, picked), len(picked))):
        SHEETS[name](**OTHERS[name](chip), **{"dst": dst, data: source})
    expected = np.full((32, 20), 5, np.float32)
    expected[:, list(picked)] = flat._array
    np.testing.assert_array_equal(spread._array, expected)


@pytest.mark.parametrize("which", ["stationary", "moving", "dst"])
def test_matmul(chip: Any, rng: Any, which: str) -> None:
    """Groups have 32 partitions for TensorE."""
    weights, x = rng.integers(-4, 5, (64, 32)), rng.integers(-4, 5, (64, 40))
    picked = [*range(39, 2, -1), 0, 2, 1] if which != "stationary" else rng.permutation(32)
    held = {"stationary": chip.put(weights, "bfloat16"), "moving": chip.put(x, "bfloat16")}
    dst = chip.new((32, 40), "bfloat16", nl.psum)
    index = snake(chip, picked, rows=32 if which == "dst" else 64, group=32)
    expected = (weights.T @ x).astype(float)
    if which == "dst":
        nisa.nc_matmul(dst.indirect(index, 40), **held)
        again = np.empty_like(expected)
        again[:, picked] = expected
        # A second product is added to what is there, column by column.
        nisa.nc_matmul(dst.indirect(index, 40), **held, accumulate=True)
        np.testing.assert_array_equal(dst._array.astype(float), 2 * again)
        return
    held[which] = held[which].indirect(index, len(picked))
    nisa.nc_matmul(dst, **held)
    cut = expected[picked] if which == "stationary" else expected[:, picked]
    np.testing.assert_array_equal(dst._array.astype(float), cut)


def test_matmul_looks_at_the_columns_that_it_takes(chip: Any) -> None:
    """A flag speaks of the elements that are multiplied, not of those that are left out."""
    values = np.tile([[1.0, 0.0, 2.0]], (32, 1))
    weights, moving = chip.put(np.ones((32, 4)), "bfloat16"), chip.put(values, "bfloat16")
    for picked, fits in (((1, 0), True), ((2, 0), False)):
        taken = moving.indirect(snake(chip, picked, group=32), 2)
        call = {"dst": chip.new((4, 2), buffer=nl.psum), "stationary": weights, "moving": taken}
        if fits:
            nisa.nc_matmul(**call, is_moving_onezero=True)
            np.testing.assert_array_equal(call["dst"]._array, np.tile([[0.0, 32.0]], (4, 1)))
            continue
        with pytest.raises(HazardError, match="flagged onezero must hold only ones and zeros"):
            nisa.nc_matmul(**call, is_moving_onezero=True)


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({}, True),
        ({"tile_position": (0, 0)}, True),
        ({"tile_position": (32, 0)}, False),
        ({"is_transpose": True}, False),
    ],
)
def test_matmul_without_tiling(chip: Any, options: dict[str, Any], fits: bool) -> None:
    columns = SHEETS["nc_matmul"].columns
    assert columns is not None
    assert columns.also is not None
    moving = chip.put(np.ones((32, 20)), "bfloat16").indirect(snake(chip, PICKED, group=32), COUNT)
    call: Any = {"is_transpose": False, "tile_position": (), "moving": moving, **options}
    assert columns.also[1](call) == fits


def test_what_is_not_scattered_stays_unwritten(chip: Any) -> None:
    spread = chip.new((32, 20), buffer=nl.psum)
    nisa.tensor_copy(
        dst=spread.indirect(snake(chip, PICKED), COUNT), src=chip.put(np.ones((32, 5)))
    )
    assert spread._storage.count_unwritten(spread, spread._element) == 32 * 15
    assert len(chip.last.accesses) == 3  # the index is one of them
    with pytest.raises(UninitializedReadError, match="data reads through its indices elements"):
        nisa.activation(chip.new((32, 2)), nl.copy, spread.indirect(snake(chip, (7, 8)), 2))


def test_two_columns_of_offsets(chip: Any) -> None:
    x, picked = np.arange(16 * 30).reshape(16, 30), np.arange(29, 9, -1)
    dst = chip.new((16, 20))
    nisa.tensor_copy(dst=dst, src=chip.put(x).indirect(snake(chip, picked, rows=16), 20))
    np.testing.assert_array_equal(dst._array, x[:, 29:9:-1])
    whole = chip.new((16, 32))
    nisa.tensor_copy(dst=whole, src=chip.put(x).indirect(snake(chip, [*range(16)] * 2, rows=16)))
    np.testing.assert_array_equal(whole._array, np.tile(x[:, :16], 2))


def copied(c: Any, **changes: Any) -> dict[str, Any]:
    """Return a copy of columns, with changes."""
    src = c.put(np.ones((32, 20))).indirect(snake(c, PICKED), COUNT)
    return {"name": "tensor_copy", "dst": c.new((32, COUNT)), "src": src, **changes}


def shifted(c: Any, start: int, count: int, buffer: Any = nl.sbuf, width: int = 20) -> Any:
    whole = c.put(np.ones((128, width)), buffer=buffer)
    return whole[start : start + count]


def starting(c: Any, start: int, rows: int = 32) -> Any:
    held = c.put(np.tile(np.arange(16), 8)[:, None], "uint32")
    return held[start : start + rows]


REFUSED: dict[str, tuple[Callable[[Any], dict[str, Any]], type[NkiconvError], str]] = {
    "another operand": (
        lambda c: {"name": "tensor_tensor", "dst": c.new((32, COUNT)), "op": nl.add,
                   "data1": c.put(np.ones((32, COUNT))), "data2": copied(c)["src"]},
        ConstraintError, "data2 cannot be a view made by NkiTensor.indirect",
    ),
    "another instruction": (
        lambda c: {"name": "reciprocal", "dst": c.new((32, COUNT)), "data": copied(c)["src"]},
        ConstraintError, "data cannot be a view made by",
    ),
    "DMA": (
        lambda c: copied(c, name="dma_copy"), ConstraintError, "src cannot be a view made by",
    ),
    "a copy on GpSimdE": (
        lambda c: copied(c, engine=E.gpsimd), ConstraintError, "GpSimdE cannot execute it on",
    ),
    "an index in the middle of a quadrant": (
        lambda c: copied(c, src=shifted(c, 32, 16).indirect(starting(c, 16, 16), 5),
                         dst=c.new((16, 5))),
        ConstraintError, "the index of src starts at partition 16; it must start at a multiple of",
    ),
    "an index elsewhere": (
        lambda c: copied(c, src=shifted(c, 64, 32).indirect(starting(c, 32), 5)),
        ConstraintError, "src starts at partition 64, its index at 32",
    ),
    "a scatter elsewhere than its data": (
        lambda c: copied(c, dst=shifted(c, 32, 32).indirect(starting(c, 64), 5),
                         src=shifted(c, 32, 32, width=5)),
        ConstraintError, "the index of dst starts at partition 64, src at 32",
    ),
    "a scatter elsewhere than the index of PSUM data": (
        lambda c: copied(c, dst=shifted(c, 0, 32).indirect(starting(c, 0), 5),
                         src=shifted(c, 32, 32, nl.psum).indirect(starting(c, 32), 5)),
        ConstraintError, "the index of dst starts at partition 0, src at 32",
    ),
    "a scatter of ScalarE into PSUM": (
        lambda c: copied(c, dst=c.new((32, 20), buffer=nl.psum).indirect(snake(c, PICKED), 5),
                         src=c.put(np.ones((32, 5))), engine=E.scalar),
        ConstraintError, "ScalarE cannot scatter dst into PSUM",
    ),
    "integers that could be addresses": (
        lambda c: {"name": "tensor_scalar", "dst": c.new((32, COUNT), "uint32"), "op0": nl.add,
                   "operand0": 1.0,
                   "data": c.put(np.ones((32, 20)), "int32").indirect(snake(c, PICKED), COUNT)},
        ConstraintError, "dst and data cannot both be 32-bit integers",
    ),
    "float32 on TensorE": (
        lambda c: {"name": "nc_matmul", "dst": c.new((8, 5), buffer=nl.psum),
                   "stationary": c.put(np.ones((32, 8))),
                   "moving": c.put(np.ones((32, 20))).indirect(snake(c, PICKED), 5)},
        DtypeError, "moving is float32; a view made by NkiTensor.indirect must be one of bfloat16",
    ),
    "too many offsets": (
        lambda c: copied(c, src=c.put(np.ones((32, 20))).indirect(snake(c, PICKED)),
                         dst=c.new((32, 32))),
        ShapeError, "src takes 32 offsets, but .* holds 16 in each group of 16 partitions",
    ),
    "a group that is cut short": (
        lambda c: copied(c, src=c.put(np.ones((24, 20))).indirect(
            c.put(np.zeros((24, 1)), "uint16"), 5), dst=c.new((24, 5))),
        ShapeError, "src has 24 partitions, of which the offsets take groups of 16",
    ),
    "groups that differ": (
        lambda c: copied(c, src=c.put(np.ones((32, 20))).indirect(
            c.put(np.arange(32)[:, None] % 20, "uint16"), 5)),
        ConstraintError, "the offsets of src differ between groups of 16 partitions",
    ),
    "an offset outside": (
        lambda c: copied(c, src=c.put(np.ones((32, 20))).indirect(snake(c, (3, 20)), 2),
                         dst=c.new((32, 2))),
        OutOfBoundsError, "offset 20 of src is outside the 20 elements per partition",
    ),
    "a negative offset": (
        lambda c: copied(c, src=c.put(np.ones((32, 20))).indirect(
            snake(c, (3, -1), dtype="int32"), 2), dst=c.new((32, 2))),
        OutOfBoundsError, "offset -1 of src",
    ),
    "an offset that nothing has written": (
        lambda c: copied(c, src=c.put(np.ones((32, 20))).indirect(c.new((32, 1), "uint16"), 5)),
        UninitializedReadError, "the index of src has offsets that nothing has written",
    ),
    "a scatter onto one place": (
        lambda c: copied(c, dst=c.new((32, 20)).indirect(snake(c, (3, 4, 3)), 3),
                         src=c.put(np.ones((32, 3)))),
        HazardError, r"dst repeats offsets, .* got \[3, 4, 3\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(chip: Any, case: str) -> None:
    make, error, words = REFUSED[case]
    call = make(chip)
    with pytest.raises(error, match=rf"nisa\.{call['name']}: {words}"):
        SHEETS[call.pop("name")](**call)
    assert len(chip.program.trace) == 0


def test_starts_that_agree(chip: Any) -> None:
    """The other side of the refusals: everything in the third quadrant."""
    index = starting(chip, 64)
    source, dst = shifted(chip, 64, 32), chip.new((128, 20))[64:96]
    nisa.tensor_copy(dst=dst.indirect(index, 16), src=source.indirect(index, 16))
    assert dst._storage.count_unwritten(dst, dst._element) == 32 * 4


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_earlier_generations(start: Any, target: str) -> None:
    with start(target) as chip:
        call = copied(chip)
        with pytest.raises(ConstraintError, match=f"need trn3; the target is {target}"):
            nisa.tensor_copy(dst=call["dst"], src=call["src"])
