"""Loads, stores, TensorE, gathers and broadcasts of nki.language, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import ConstraintError, DtypeError, OutOfBoundsError, ShapeError
from nkiconv.simulate.nki import language as nl


def opcodes(chip: Any) -> list[str]:
    return [step.opcode for step in chip.program.trace.steps()]


def in_hbm(chip: Any, values: Any, dtype: str = "float32") -> Any:
    return chip.put(values, dtype, nl.shared_hbm)


def test_load_and_store(chip: Any, rng: Any) -> None:
    x = rng.integers(-9, 9, (64, 3, 10))
    there, back = in_hbm(chip, x, "int32"), chip.new((64, 3, 10), "int32", nl.shared_hbm)
    tile = nl.load(there[:, 1])
    assert (tile.shape, tile.dtype, tile.buffer) == ((64, 10), "int32", nl.sbuf)
    np.testing.assert_array_equal(tile._array, x[:, 1])
    assert nl.load(there, dtype=nl.float16).dtype == "float16"
    assert nl.store(back[:, 2], tile) is None
    nl.store(back[:, 0], value=nl.load(there[:, 0], dtype=nl.bfloat16))
    np.testing.assert_array_equal(back[:, 2]._array, x[:, 1])
    np.testing.assert_array_equal(back[:, 0]._array, x[:, 0])
    assert set(opcodes(chip)) == {"dma_copy"}


def test_a_column_is_stored_to_a_vector(chip: Any) -> None:
    """As many elements will do, as for the DMA that it is."""
    out = chip.new((8,), "float32", nl.shared_hbm)
    nl.store(out, chip.put(np.arange(8.0).reshape(8, 1)))
    np.testing.assert_array_equal(out._array, np.arange(8))
    with pytest.raises(ShapeError, match=r"nl\.store, by nisa\.dma_copy: dst and src must have"):
        nl.store(out, chip.put(np.ones((8, 2))))


def test_what_load_and_store_refuse(chip: Any) -> None:
    on_chip, there = chip.put(np.ones((4, 8))), in_hbm(chip, np.ones((4, 8)))
    for function in (nl.load, nl.load_transpose2d):
        with pytest.raises(ConstraintError, match=r"src must be in HBM, got .* nl\.copy"):
            function(on_chip)
    with pytest.raises(ConstraintError, match=r"nl\.store: dst must be in HBM"):
        nl.store(on_chip, on_chip)
    with pytest.raises(ConstraintError, match=r"nl\.store: value must be in SBUF"):
        nl.store(there, there)
    in_psum = chip.put(np.ones((4, 8)), "float32", nl.psum)
    with pytest.raises(ConstraintError, match=r"is in PSUM, which DMA cannot read; .* nl\.copy"):
        nl.store(there, in_psum)
    nl.store(there, nl.copy(in_psum))
    with pytest.raises(ShapeError, match="129 partitions"):
        nl.load(in_hbm(chip, np.ones((129, 8))))
    with pytest.raises(ShapeError, match="needs a partition and a free dimension"):
        nl.load(in_hbm(chip, np.ones(8)))


@pytest.mark.parametrize(("dtype", "wish"), [("float32", None), ("bfloat16", nl.float32)])
def test_load_transposed(chip: Any, rng: Any, dtype: str, wish: Any) -> None:
    x = rng.integers(-9, 9, (200, 96))
    tile = nl.load_transpose2d(in_hbm(chip, x, dtype), wish)
    assert (tile.dtype, tile.buffer) == ("float32", nl.sbuf)
    np.testing.assert_array_equal(tile._array, x.T)
    assert opcodes(chip) == ["dma_transpose"] + ["tensor_copy"] * (wish is not None)
    with pytest.raises(ShapeError, match="must have two dimensions"):
        nl.load_transpose2d(in_hbm(chip, np.ones((2, 3, 4))))
    with pytest.raises(DtypeError, match="elements must have 2 or 4 bytes"):
        nl.load_transpose2d(in_hbm(chip, np.ones((4, 8)), "int8"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transpose(chip: Any, rng: Any, dtype: str) -> None:
    x = rng.integers(-9, 9, (96, 128))
    tile = nl.transpose(chip.put(x, dtype))
    assert (tile.dtype, tile.buffer, chip.last.lane.label) == (dtype, nl.psum, "TensorE")
    np.testing.assert_array_equal(tile._array.astype(float), x.T)
    assert nl.transpose(chip.put(x, dtype), dtype=nl.float16).dtype == "float16"
    with pytest.raises(ShapeError, match=r"nl\.transpose: .* must have two dimensions"):
        nl.transpose(chip.put(np.ones((2, 3, 4))))
    with pytest.raises(DtypeError, match="TensorE transposes floating-point tiles only"):
        nl.transpose(chip.put(x, "int32"))


def test_matmul(chip: Any, rng: Any) -> None:
    x, y = rng.integers(-4, 5, (96, 64)), rng.integers(-4, 5, (96, 512))
    result = nl.matmul(chip.put(x, "bfloat16"), chip.put(y, "bfloat16"), transpose_x=True)
    assert (result.dtype, result.buffer) == ("float32", nl.psum)
    np.testing.assert_array_equal(result._array, x.T @ y)
    assert chip.program.macs == 96 * 64 * 512
    again = nl.matmul(chip.put(x), chip.put(y), transpose_x=True)  # a new tile, not a sum
    np.testing.assert_array_equal(again._array, x.T @ y)


def test_what_matmul_refuses(chip: Any) -> None:
    x, y = chip.put(np.ones((64, 64))), chip.put(np.ones((64, 600)))
    for options in ({}, {"transpose_x": False}, {"transpose_x": 1}):
        with pytest.raises(ConstraintError, match=r"transpose_x=.* fails on the device; .* Known"):
            nl.matmul(x, x, **options)
    with pytest.raises(
        ShapeError, match=r"nl\.matmul, by nisa\.nc_matmul: moving must have .* got 600"
    ):
        nl.matmul(x, y, transpose_x=True)
    with pytest.raises(ShapeError, match="must share the contracted partitions"):
        nl.matmul(x, x[:32], transpose_x=True)
    with pytest.raises(ShapeError, match="must have two dimensions"):
        nl.matmul(x.reshape((64, 8, 8)), x, transpose_x=True)


def test_gather(chip: Any, rng: Any) -> None:
    data, where = rng.standard_normal((32, 4, 16)), rng.integers(0, 64, (32, 2, 5))
    result = nl.gather_flattened(chip.put(data), chip.put(where, "uint32"))
    expected = np.take_along_axis(data.reshape(32, 64), where.reshape(32, 10), axis=1)
    assert (result.shape, result.dtype) == ((32, 2, 5), "float32")
    np.testing.assert_array_equal(result._array.reshape(32, 10), expected.astype(np.float32))
    low = nl.gather_flattened(chip.put(data), chip.put(where, "uint32"), dtype=nl.bfloat16)
    assert low.dtype == "bfloat16"
    for axis in (1, -1, True, False):
        with pytest.raises(ConstraintError, match=r"nl\.gather_flattened: axis="):
            nl.gather_flattened(chip.put(data), chip.put(where, "uint32"), axis=axis)
    with pytest.raises(DtypeError, match="indices must be one of uint32"):
        nl.gather_flattened(chip.put(data), chip.put(where, "int32"))
    with pytest.raises(OutOfBoundsError, match="every index must lie within"):
        nl.gather_flattened(chip.put(data), chip.put(where + 64, "uint32"))


# Shapes.


def test_expand_dims(chip: Any) -> None:
    x = chip.put(np.arange(24.0).reshape(2, 3, 4))
    shapes = {1: (2, 1, 3, 4), 2: (2, 3, 1, 4), 3: (2, 3, 4, 1), -1: (2, 3, 4, 1), -2: (2, 3, 1, 4)}
    for axis, shape in shapes.items():
        view = nl.expand_dims(x, axis)
        assert view.shape == shape
        assert view._storage is x._storage  # nothing is copied
        np.testing.assert_array_equal(view._array.ravel(), np.arange(24))
    for axis in (4, -5, 1.0, True):
        with pytest.raises(ShapeError, match=r"nl\.expand_dims: axis="):
            nl.expand_dims(x, axis)
    for axis in (0, -4):
        with pytest.raises(ConstraintError, match="the partition dimension"):
            nl.expand_dims(x, axis)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize("space", ["sbuf", "psum"])
@pytest.mark.parametrize(
    ("have", "want"),
    [
        ((8, 1), (8, 5)),
        ((8, 3, 1, 2), (8, 3, 4, 2)),
        ((1, 6), (128, 6)),
        ((1, 700), (70, 700)),
        ((1, 1, 5), (33, 2, 5)),
        ((1, 1), (3, 3)),
    ],
)
def test_broadcast(chip: Any, rng: Any, have: Any, want: Any, space: str, dtype: str) -> None:
    x = rng.integers(0, 99, have)
    result = nl.broadcast_to(chip.put(x, dtype, getattr(nl, space)), want)
    assert (result.shape, result.dtype, result.buffer) == (want, dtype, nl.sbuf)
    np.testing.assert_array_equal(result._array.astype(float), np.broadcast_to(x, want))


def test_partitions_are_repeated_by_tensore(chip: Any) -> None:
    """As the vendor's Mamba tutorial says; integers, which TensorE does not take, by shuffles."""
    nl.broadcast_to(chip.put(np.ones((1, 600))), (128, 600))
    assert opcodes(chip) == ["memset"] + ["nc_matmul", "tensor_copy"] * 2
    nl.broadcast_to(chip.put(np.ones((1, 6)), "int32"), (70, 6))
    assert opcodes(chip)[5:] == ["nc_stream_shuffle"] * 3


def test_broadcast_of_a_strided_view(chip: Any) -> None:
    x = chip.put(np.arange(24.0).reshape(1, 3, 8))
    for view in (x[:, :, ::2], x.permute((0, 2, 1)), x[:, 1:]):
        wanted = (64, *view.shape[1:])
        found = nl.broadcast_to(view, wanted)
        np.testing.assert_array_equal(found._array, np.broadcast_to(view._array, wanted))


def test_broadcast_of_the_same_shape(chip: Any) -> None:
    x = chip.put([[1.5, 2.0]])
    assert nl.broadcast_to(x, (1, 2)) is x
    cast = nl.broadcast_to(x, (1, 2), dtype=nl.int8)
    np.testing.assert_array_equal(cast._array, [[2, 2]])
    assert nl.broadcast_to(x, (64, 2), dtype=nl.float16).dtype == "float16"


@pytest.mark.parametrize("shape", [(4, 8), (4, 3, 8), (2, 4, 1), (8, 1), (4, 5, 2), (64, 1, 8), 4])
def test_broadcasts_that_are_refused(chip: Any, shape: Any) -> None:
    x = chip.put(np.ones((2, 4)))
    with pytest.raises(ShapeError, match=r"nl\.broadcast_to: "):
        nl.broadcast_to(x, shape)
    with pytest.raises(ConstraintError, match="x must be in SBUF or PSUM"):
        nl.broadcast_to(in_hbm(chip, np.ones((2, 1))), (2, 8))
