"""What kernels of the vendor's library do that no page describes, and what it means here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate import use_target
from nkiconv.simulate.enums import nc_version, oob_mode
from nkiconv.simulate.errors import HazardError, OutOfBoundsError, UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl


def test_results_thrown_away_beside_a_sum(chip: Any, rng: Any) -> None:
    """The squares go to one place of each row, which counts as unwritten; the sum is kept."""
    values = rng.standard_normal((4, 16)).astype(np.float32)
    x, total = chip.put(values), chip.new((4, 1))
    waste = chip.new((4, 1))
    with use_target("trn2"):
        nisa.activation_reduce(
            dst=waste.ap([[1, 4], [0, 16]]), op=nl.square, data=x, reduce_op=nl.add,
            reduce_res=total, bias=chip.put(np.zeros((4, 1))),
        )  # fmt: skip
    squares = (values.astype(np.float64) ** 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(total._array, squares, rtol=1e-6)
    with pytest.raises(UninitializedReadError, match="src reads 4 of 4 elements"):
        nisa.tensor_copy(chip.new((4, 1)), waste)


def test_results_thrown_away_in_part(chip: Any) -> None:
    """Two places of each row would hold something, and nobody says what."""
    x, waste = chip.put(np.ones((4, 16))), chip.new((4, 2))
    with pytest.raises(HazardError, match="dst repeats elements"):
        nisa.activation_reduce(
            dst=waste.ap([[2, 4], [1, 2], [0, 8]]), op=nl.square, data=x, reduce_op=nl.add,
            reduce_res=chip.new((4, 1)), bias=chip.put(np.zeros((4, 1))),
        )  # fmt: skip


def test_a_pattern_beyond_its_tensor_is_refused_where_it_is_used(chip: Any) -> None:
    x = chip.put(np.ones((4, 16)))
    beyond = x.ap([[16, 4], [4, 4]], offset=4)
    assert beyond.shape == (4, 4)
    for use in (
        lambda: nisa.tensor_copy(chip.new((4, 4)), beyond),
        lambda: nisa.memset(beyond, 0.0),
        lambda: beyond[0:1],
        lambda: beyond.reshape((4, 2, 2)),
    ):
        with pytest.raises(OutOfBoundsError, match="reaches partition 3, element 16 of float32"):
            use()


def test_skipping_where_nothing_can_be_out_of_bounds(chip: Any) -> None:
    x = chip.put(np.ones((4, 16)), buffer=nl.shared_hbm)
    tile = chip.new((4, 16))
    nisa.dma_copy(dst=tile, src=x, oob_mode=oob_mode.skip)
    assert (tile._array == 1).all()


def test_later_generations_are_greater() -> None:
    gen2, gen3, gen4 = nc_version
    assert gen2 < gen3 <= gen3 < gen4
    assert gen4 >= gen3 > gen2
    assert not gen3 >= gen4
    with pytest.raises(TypeError):
        assert gen2 < 3  # type: ignore[operator]


def test_the_address_that_a_kernel_chose(chip: Any) -> None:
    assert nl.ndarray((4, 16), nl.float32, address=(32, 1024)).address == (32, 1024)
    assert chip.new((4, 16)).address is None


def test_enumerations_have_a_module_of_their_own() -> None:
    from nkiconv.simulate.nki import isa_constants

    for name in isa_constants.__all__:
        assert getattr(isa_constants, name) is getattr(nisa, name)
