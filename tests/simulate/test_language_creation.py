"""Tensors that a kernel makes: filled, like another, constants; and order, and printing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.simulate.errors import (
    ConstraintError,
    DtypeError,
    HazardError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.placement import place
from nkiconv.simulate.program import running
from nkiconv.simulate.schedule import schedule

REGIONS = [nl.sbuf, nl.psum, nl.private_hbm, nl.shared_hbm]


@pytest.mark.parametrize("buffer", REGIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_filled(chip: Any, buffer: Any, dtype: str) -> None:
    made = {
        7: nl.full((6, 5, 4), 7, dtype, buffer, "seven"),
        0: nl.zeros((6, 5, 4), dtype, buffer),
        1: nl.ones((6, 5, 4), dtype, buffer),
    }
    for value, tensor in made.items():
        assert (tensor.shape, tensor.dtype, tensor.buffer) == ((6, 5, 4), dtype, buffer)
        np.testing.assert_array_equal(tensor._array.astype(float), value)
    assert made[7].name == "seven"
    opcodes = [step.opcode for step in chip.program.trace.steps()]
    assert opcodes == (["memset"] if nl.is_on_chip(buffer) else ["memset", "dma_copy"]) * 3


@pytest.mark.parametrize("shape", [(3,), (1000, 7), (128, 5000), (8209, 3)])
def test_filled_in_hbm(chip: Any, shape: tuple[int, ...]) -> None:
    """Of any shape and size: dimensions do not matter there."""
    tensor = nl.full(shape, 2.5, nl.float32, nl.shared_hbm)
    assert np.all(tensor._array == 2.5)
    assert chip.program.hbm_write_bytes == 4 * tensor.size


def test_fill_values(chip: Any) -> None:
    with pytest.raises(ConstraintError, match=r"nl\.full: fill_value must be a number"):
        nl.full((4, 4), chip.put([[1.0]]), nl.float32)
    with pytest.raises(DtypeError, match=r"nl\.full, by nisa\.memset: value must be an integer"):
        nl.full((4, 4), 2.0, nl.int32)
    with pytest.raises(DtypeError, match="value must be representable"):
        nl.full((4, 4), 300, nl.uint8)
    with pytest.raises(ConstraintError, match="buffer must be"):
        nl.ones((4, 4), nl.float32, "sbuf")  # type: ignore[arg-type]


@pytest.mark.parametrize("buffer", REGIONS)
def test_like_another(chip: Any, buffer: Any) -> None:
    """Unless told otherwise zeros are in SBUF, as their page says; empty ones stay where x is."""
    x = nl.ndarray((4, 6), nl.bfloat16, buffer)
    for made, where in ((nl.zeros_like(x), nl.sbuf), (nl.empty_like(x), buffer)):
        assert (made.shape, made.dtype, made.buffer) == ((4, 6), "bfloat16", where)
    other = {"dtype": nl.int8, "buffer": nl.psum, "name": "other"}
    for made in (nl.zeros_like(x, **other), nl.empty_like(x, **other)):
        assert (made.dtype, made.buffer, made.name) == ("int8", nl.psum, "other")
    assert np.all(nl.zeros_like(x)._array == 0)
    assert nl.empty_like(x)._storage.count_unwritten(made, made._kind)
    with pytest.raises(ConstraintError, match=r"nl\.empty_like: x must be a tile, got \(4, 6\)"):
        nl.empty_like((4, 6))


# Constants.


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int16, np.uint8])
def test_constant(chip: Any, rng: Any, dtype: Any) -> None:
    values = rng.integers(0, 9, (3, 4, 5)).astype(dtype)
    made = nl.shared_constant(values)
    values_before = values.copy()
    values[...] = 0  # the constant is the program's own
    assert (made.shape, made.buffer, made._array.dtype) == ((3, 4, 5), nl.shared_hbm, dtype)
    np.testing.assert_array_equal(made._array, values_before)
    assert len(chip.program.trace) == 0
    np.testing.assert_array_equal(nl.load(made)._array, values_before)


def test_constant_without_dimensions(chip: Any) -> None:
    assert nl.shared_constant(np.array(3, np.int32)).shape == (1,)


def test_constant_from_a_file(chip: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.int32).reshape(2, 3))
    made = nl.shared_constant(str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(made._array, [[0, 1, 2], [3, 4, 5]])
    (tmp_path / "x.txt").write_text("1 2")
    for name in ("y.npy", "x.txt"):
        with pytest.raises(ConstraintError, match=r"is not the path of a \.npy file that exists"):
            nl.shared_constant(str(tmp_path / name))


def test_constants_that_are_refused(chip: Any) -> None:
    with pytest.raises(DtypeError, match="has no float64 elements"):
        nl.shared_constant(np.ones(3))
    for dtype in (np.bool_, ml_dtypes.float8_e4m3):
        with pytest.raises(DtypeError, match=r"nl\.shared_constant: no constants of"):
            nl.shared_constant(np.zeros(3, dtype))
    for value in (3.0, chip.put([[1.0]]), None):
        with pytest.raises(ConstraintError, match="must be an array of the host or the path"):
            nl.shared_constant(value)
    with pytest.raises(ShapeError, match="has no elements"):
        nl.shared_constant(np.zeros((0, 3), np.float32))
    constant = nl.shared_constant(np.ones((4, 4), np.float32))
    with pytest.raises(HazardError, match=r"but a constant is read-only"):
        nisa.dma_copy(constant, chip.put(np.ones((4, 4))))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16", "float8_e5m2"])
def test_identity(chip: Any, dtype: str) -> None:
    made = nl.shared_identity_matrix(96, dtype)
    assert (made.buffer, made.dtype) == (nl.sbuf, dtype)
    np.testing.assert_array_equal(made._array.astype(float), np.eye(96))
    given = chip.new((128, 96), dtype)[:96]
    assert nl.shared_identity_matrix(n=96, dtype=dtype, dst=given) is given
    np.testing.assert_array_equal(given._array.astype(float), np.eye(96))
    constants = [a for a in chip.program.allocations if a.space == "hbm"]
    assert len(constants) == 1  # of one size and dtype there is one in the program
    assert nl.shared_identity_matrix(8).dtype == "uint8"


def test_identities_that_are_refused(chip: Any) -> None:
    for n in (0, 129, 8.0, True):
        with pytest.raises(ShapeError, match=r"nl\.shared_identity_matrix: n=.* from 1 to 128"):
            nl.shared_identity_matrix(n)
    for shape, dtype, buffer in (
        ((8, 9), "uint8", nl.sbuf), ((4, 16), "uint8", nl.sbuf), ((8, 8), "int8", nl.sbuf),
        ((8, 8), "uint8", nl.psum), ((8, 8), "uint8", nl.shared_hbm),
    ):  # fmt: skip
        with pytest.raises(ConstraintError, match=r"dst must be a uint8 tile of shape \(8, 8\)"):
            nl.shared_identity_matrix(8, dst=chip.new(shape, dtype, buffer))


# Order.


def busy(chip: Any, ordered: bool) -> list[tuple[int, int]]:
    """Start and end of two instructions of two engines that have nothing to do with each other."""

    def both() -> None:
        nisa.activation(chip.new((128, 512)), nl.exp, x)
        nisa.tensor_copy(chip.new((128, 512)), y)

    x, y = chip.put(np.ones((128, 512))), chip.put(np.ones((128, 512)))
    if ordered:
        with nl.no_reorder():
            both()
    else:
        both()
    program = chip.program
    placed = place(program.allocations, program.hardware, "kernel")
    times = schedule(program.trace, program.allocations, placed, program.hardware)
    return [(times.start_ps[i], times.end_ps[i]) for i in range(2)]


def test_no_reorder(start: Any) -> None:
    """Instructions in the block wait for the one before, also those of functions it calls."""
    with start("trn1") as chip:
        (_, first_end), (second_start, _) = busy(chip, ordered=False)
        assert second_start < first_end
    with start("trn1") as chip:
        (_, first_end), (second_start, _) = busy(chip, ordered=True)
        assert second_start >= first_end


def test_no_reorder_covers_its_block_alone(chip: Any) -> None:
    x = chip.put([[1.0]])
    nl.copy(x)
    with nl.no_reorder():
        nl.copy(x)
        with nl.no_reorder():
            nl.copy(x)
        assert chip.program.no_reorder_depth == 1
        nl.copy(x)
    nl.copy(x)
    assert sorted(chip.program.trace.edges) == [(2, 1), (3, 2)]
    assert chip.program.no_reorder_depth == 0


def test_no_reorder_is_of_its_own_core(chip: Any) -> None:
    """The record of a launch holds both cores; one does not wait for the other."""
    other = chip.program.sibling(1)
    x = chip.put([[1.0]])
    with nl.no_reorder():
        nl.copy(x)
        with running(other):
            nl.copy(x)
        nl.copy(x)
    assert chip.program.trace.edges == [(2, 0)]


def test_no_on_chip_loops_in_no_reorder(chip: Any) -> None:
    def body(i: Any) -> None:
        nl.zeros((1, 4), nl.float32)

    with nl.no_reorder(), pytest.raises(ConstraintError, match="cannot stand inside nl"):
        nl.fori_loop(0, 2, body)
    nl.fori_loop(0, 2, body)


# Printing.


def test_device_print(chip: Any, capsys: Any) -> None:
    nl.device_print("x =", chip.put([[1.5, -2.0]], "bfloat16"))
    nl.device_print("y:", chip.put(np.arange(3), "int32", nl.shared_hbm))
    assert capsys.readouterr().out == "x = [[1.5, -2]]\ny: [0, 1, 2]\n"
    assert len(chip.program.trace) == 0


def test_device_print_refuses(chip: Any) -> None:
    with pytest.raises(ConstraintError, match=r"must be in SBUF or HBM; .* nl\.copy"):
        nl.device_print("x", chip.put([[1.0]], "float32", nl.psum))
    with pytest.raises(ConstraintError, match="print_prefix must be a string"):
        nl.device_print(3, chip.put([[1.0]]))
    with pytest.raises(ConstraintError, match="tensor must be a tile, got 3"):
        nl.device_print("x", 3)
    with pytest.raises(UninitializedReadError, match="4 of 4 elements have not been written"):
        nl.device_print("x", chip.new((2, 2)))
