"""DMA: what arrives where, in which type and order, and the traffic that is counted."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkiconv.simulate.errors import HazardError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

HBM = nl.shared_hbm
TYPES = ("float32", "bfloat16", "float16", "int32", "int8", "uint8")


def numbered(*shape: int) -> Any:
    """Return values that tell their places, within what int8 holds."""
    return np.arange(prod(shape)).reshape(shape) % 127


# dma_copy.


@pytest.mark.parametrize(
    ("source", "target", "lane"),
    [
        ("shared_hbm", "sbuf", "DMA load"),
        ("sbuf", "private_hbm", "DMA store"),
        ("sbuf", "sbuf", "DMA local"),
        ("shared_hbm", "shared_hbm", "DMA local"),
    ],
)
def test_copy_between_memories(chip: Any, source: str, target: str, lane: str) -> None:
    x = numbered(6, 10)
    dst = chip.new((6, 10), "int16", getattr(nl, target))
    nisa.dma_copy(dst=dst, src=chip.put(x, "int16", getattr(nl, source)))
    np.testing.assert_array_equal(dst._array, x)
    assert chip.last.lane.label == lane


@pytest.mark.parametrize("target", TYPES)
@pytest.mark.parametrize("source", TYPES)
def test_cast(chip: Any, source: str, target: str) -> None:
    x = np.arange(0 if source == "uint8" else -128, 128).reshape(16, -1)
    limits = {"int8": (-128, 127), "uint8": (0, 255)}.get(target, (-1000, 1000))
    dst = chip.new(x.shape, target)
    nisa.dma_copy(dst=dst, src=chip.put(x, source, HBM))
    np.testing.assert_array_equal(dst._array.astype(np.int64), np.clip(x, *limits))


def test_cast_goes_through_float32_and_rounds_to_even(chip: Any) -> None:
    dst = chip.new((1, 3), "uint32")
    nisa.dma_copy(dst=dst, src=chip.put([[2**24 + 1, 2**31 - 1, -5]], "int32", HBM))
    np.testing.assert_array_equal(dst._array, [[2**24, 2**31, 0]])
    dst = chip.new((1, 3), "bfloat16", HBM)
    nisa.dma_copy(dst=dst, src=chip.put([[1 + 2.0**-8, 1 + 3 * 2.0**-8, 3.4e38]]))
    np.testing.assert_array_equal(dst._array.astype(np.float64), [[1, 1 + 2.0**-6, np.inf]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2", "int32", "uint16"])
def test_copy_within_a_type_keeps_every_bit(chip: Any, rng: Any, dtype: str) -> None:
    bits = np.frombuffer(rng.bytes(480), np.uint8).reshape(5, 96)
    dst = chip.new((480,), "uint8", HBM)
    nisa.dma_copy(dst=dst.view(dtype), src=chip.put(bits, "uint8").view(dtype))
    np.testing.assert_array_equal(dst._array, bits.reshape(-1))


def test_any_partition_and_shape(chip: Any) -> None:
    """Elements go in row-major order of both sides; partitions may start anywhere."""
    x = numbered(7, 3, 4)
    held, back = chip.new((128, 12)), chip.new((2, 6, 7), buffer=HBM)
    nisa.dma_copy(dst=held[5:12], src=chip.put(x, buffer=HBM))
    np.testing.assert_array_equal(held[5:12]._array, x.reshape(7, 12))
    assert held._storage.count_unwritten(held, held._element) == 121 * 12
    nisa.dma_copy(dst=back, src=held[5:12])
    np.testing.assert_array_equal(back._array, x.reshape(2, 6, 7))


def test_strided_on_both_sides(chip: Any) -> None:
    image, strip = numbered(2, 5, 9, 8), chip.new((5, 6, 10), "int8")
    nisa.memset(dst=strip, value=-1)
    window = chip.put(image, "int8", HBM)[1, :, 2:8:2, ::3]
    nisa.dma_copy(dst=strip[:, ::2, 1:10:3], src=window)
    expected = np.full((5, 6, 10), -1)
    expected[:, ::2, 1:10:3] = image[1, :, 2:8:2, ::3]
    np.testing.assert_array_equal(strip._array, expected)


def test_permuted_and_repeated_sources(chip: Any) -> None:
    x = numbered(4, 5, 6)
    held = chip.put(x, buffer=HBM)
    turned = chip.new((6, 20))
    nisa.dma_copy(dst=turned, src=held.permute((2, 0, 1)))
    np.testing.assert_array_equal(turned._array, x.transpose(2, 0, 1).reshape(6, 20))
    everywhere = chip.new((128, 6))
    nisa.dma_copy(dst=everywhere, src=held[0, 0:1].broadcast(0, 128))
    np.testing.assert_array_equal(everywhere._array, np.tile(x[0, 0], (128, 1)))


@given(data=st.data())
def test_any_views(start: Any, data: st.DataObject) -> None:
    """A random box of one tensor to a random box of another, of the same sizes."""
    source_cut: list[slice] = []
    target_cut: list[slice] = []
    source_shape: list[int] = []
    target_shape: list[int] = []
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.integers(1, 4))
        for cut, shape in ((source_cut, source_shape), (target_cut, target_shape)):
            begin, step = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
            end = begin + (count - 1) * step + 1
            cut.append(slice(begin, end, step))
            shape.append(end + data.draw(st.integers(0, 2)))
    x = numbered(*source_shape)
    with start("trn2") as chip:
        dst = chip.put(np.full(target_shape, -1), "int32", HBM)
        nisa.dma_copy(dst=dst[tuple(target_cut)], src=chip.put(x, "int32", HBM)[tuple(source_cut)])
        expected = np.full(target_shape, -1)
        expected[tuple(target_cut)] = x[tuple(source_cut)]
        np.testing.assert_array_equal(dst._array, expected)


def test_destination_that_repeats_is_refused(chip: Any) -> None:
    with pytest.raises(HazardError, match="dst repeats elements"):
        nisa.dma_copy(dst=chip.new((8, 1)).broadcast(1, 4), src=chip.put(numbered(8, 4)))


# dma_transpose.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int16", "float32", "int32"])
@pytest.mark.parametrize(
    ("shape", "axes"), [((16, 20), (1, 0)), ((6, 5, 8), (2, 1, 0)), ((3, 4, 5, 6), (3, 1, 2, 0))]
)
@pytest.mark.parametrize("named", [True, False])
def test_transpose(
    chip: Any, dtype: str, shape: tuple[int, ...], axes: tuple[int, ...], named: bool
) -> None:
    x = numbered(*shape)
    expected = x.transpose(axes)
    dst = chip.new(expected.shape, dtype)
    nisa.dma_transpose(dst, chip.put(x, dtype, HBM), axes=axes if named else None)
    np.testing.assert_array_equal(dst._array, expected)
    assert chip.last.lane.label == "DMA load"


def test_transpose_within_sbuf_keeps_every_bit(chip: Any, rng: Any) -> None:
    bits = np.frombuffer(rng.bytes(2 * 64 * 48), np.uint16).reshape(64, 48)
    dst = chip.new((24, 64), "bfloat16")
    nisa.dma_transpose(dst=dst, src=chip.put(bits, "uint16").view("bfloat16")[:, ::2])
    np.testing.assert_array_equal(dst._array.view(np.uint16), bits[:, ::2].T)
    assert chip.last.lane.label == "DMA local"


def test_transpose_of_a_view_into_a_view(chip: Any) -> None:
    x = numbered(4, 9, 10)
    dst = chip.new((20, 3, 8), "int32")
    source = chip.put(x, "int32", HBM)[:, ::3, 5:]
    nisa.dma_transpose(dst=dst[7:12, :, ::2], src=source, axes=[2, 1, 0])
    np.testing.assert_array_equal(dst[7:12, :, ::2]._array, x[:, ::3, 5:].transpose(2, 1, 0))
    assert dst._storage.count_unwritten(dst, dst._element) == 20 * 24 - 5 * 3 * 4


# Traffic.


def test_traffic_is_counted_at_hbm(chip: Any) -> None:
    """Bytes are those that HBM gives or takes, in its own element type."""
    x, low, high = numbered(4, 6), chip.new((4, 6), "bfloat16"), chip.new((4, 6))
    nisa.dma_copy(dst=low, src=chip.put(x, "float32", HBM))
    assert (chip.program.hbm_read_bytes, chip.program.hbm_write_bytes) == (4 * 24, 0)
    nisa.dma_copy(dst=chip.new((24,), buffer=HBM), src=low)
    assert (chip.program.hbm_read_bytes, chip.program.hbm_write_bytes) == (96, 4 * 24)
    nisa.dma_copy(dst=high, src=low)
    assert (chip.program.hbm_read_bytes, chip.program.hbm_write_bytes) == (96, 96)
    nisa.dma_transpose(dst=chip.new((6, 4), "int16"), src=chip.put(x, "int16", HBM))
    assert (chip.program.hbm_read_bytes, chip.program.hbm_write_bytes) == (96 + 48, 96)
    assert chip.program.dma_transfers == 4
