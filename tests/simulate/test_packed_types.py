"""Packed MX types as memory: across the border, through copies and views, between cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nkiconv.simulate.nki as nki
from nkiconv.simulate import simulate_kernel, use_target
from nkiconv.simulate.errors import DtypeError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

E5, E4, F4 = "float8_e5m2_x4", "float8_e4m3fn_x4", "float4_e2m1fn_x4"
BITS = {E5: "uint32", E4: "uint32", F4: "uint16"}


@pytest.fixture
def chip(start: Any) -> Any:
    with start("trn3") as begun:
        yield begun


@pytest.mark.parametrize("dtype", [E5, E4, F4])
def test_host_bits_through_memory_and_back(rng: Any, dtype: str) -> None:
    """Unsigned integers on the host, views of them in the kernel, integers as a result."""

    def kernel(bits: Any) -> Any:
        held = nl.ndarray((8, 6), dtype, buffer=nl.sbuf)
        copied = nl.ndarray((8, 6), dtype, buffer=nl.sbuf)
        result = nl.ndarray((8, 6), dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=held, src=bits.view(dtype))
        nisa.tensor_copy(dst=copied, src=held)
        nisa.memset(dst=copied[:, 5:], value=0)
        nisa.dma_copy(dst=result, src=copied)
        return result

    whole = np.dtype(BITS[dtype])
    bits = np.frombuffer(rng.bytes(8 * 6 * whole.itemsize), whole).reshape(8, 6)
    wanted = bits.copy()
    wanted[:, 5] = 0
    with use_target("trn3"):
        for given in (bits, bits.view(np.uint8)):
            found = simulate_kernel(kernel, given)
            assert found.dtype == whole
            np.testing.assert_array_equal(found, wanted)


@nki.jit
def exchanged(bits: Any) -> Any:
    """The rows of the two cores, each with the other's, as packed elements."""
    result = nl.ndarray(bits.shape, E4, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    held = nl.ndarray((1, bits.shape[1]), E4, buffer=nl.sbuf)
    got = nl.ndarray((1, bits.shape[1]), E4, buffer=nl.sbuf)
    nisa.dma_copy(dst=held, src=bits.view(E4)[core])
    nisa.sendrecv(src=held, dst=got, send_to_rank=1 - core, recv_from_rank=1 - core, pipe_id=0)
    nisa.dma_copy(dst=result[core], src=got)
    return result


def test_packed_elements_between_cores(rng: Any) -> None:
    """As the vendor's kernels share what they have quantized."""
    bits = rng.integers(0, 2**32, (2, 6), dtype=np.uint32)
    with use_target("trn3"):
        np.testing.assert_array_equal(exchanged[2](bits), bits[::-1])


def test_named_host_arrays_are_packed_already(rng: Any) -> None:
    """A structure of one integer under the type's name goes in as it is, and can be written to."""

    def kernel(given: Any, written: Any) -> Any:
        nisa.dma_copy(dst=written, src=given)
        return written

    named = np.dtype([(F4, "u2")])
    bits = rng.integers(0, 2**16, (3, 5), dtype=np.uint16)
    other = np.zeros((3, 5), named)
    with use_target("trn3"):
        found = simulate_kernel(kernel, bits.view(named), other)
    np.testing.assert_array_equal(found, bits)
    np.testing.assert_array_equal(other.view(np.uint16), bits)


def test_views_between_packed_and_plain(chip: Any) -> None:
    held = chip.put(np.arange(32).reshape(2, 16), "uint8")
    fours = held.view(E5)
    assert (fours.shape, fours.dtype) == ((2, 4), E5)
    assert fours.view("float8_e5m2").shape == (2, 16)
    assert held.view(F4).shape == (2, 8)
    assert held.ap([[4, 2], [1, 2]], 2, dtype=E4).view("uint8").shape == (2, 8)
    np.testing.assert_array_equal(
        held.ap([[4, 2], [1, 2]], 2, dtype=E4).view("uint8")._array, held._array[:, 8:]
    )
    with pytest.raises(AssertionError, match="does not divide into float8_e5m2_x4 elements"):
        held[:, 2:].view(E5)


def test_packed_elements_are_not_cast(chip: Any) -> None:
    bits, dst = chip.put(np.ones((4, 8)), "uint32"), chip.new((4, 8), E4)
    for move in (nisa.dma_copy, nisa.tensor_copy):
        with pytest.raises(DtypeError, match=r"between equal dtypes; use view\(\) to see them"):
            move(dst=dst, src=bits)
        move(dst=dst, src=bits.view(E4))
    with pytest.raises(DtypeError, match="packed types take no other value than 0; got 1 for"):
        nisa.memset(dst=dst, value=1)
    with pytest.raises(DtypeError, match="data1 is float8_e4m3fn_x4, whose elements hold four"):
        nisa.tensor_tensor(dst=chip.new((4, 8)), data1=dst, data2=dst, op=nl.add)
