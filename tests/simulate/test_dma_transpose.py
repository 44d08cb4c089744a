"""Transposes by hardware descriptors, and of rows that an index gathers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import OutOfBoundsError, ShapeError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

HBM = nl.shared_hbm
AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}
HWDGE = nisa.dge_mode.hwdge


def numbered(*shape: int) -> Any:
    return np.arange(np.prod(shape)).reshape(shape) % 251


def transposed(chip: Any, x: Any, **options: Any) -> Any:
    expected = x.transpose(AXES[x.ndim])
    dst = chip.new(expected.shape, "uint16")
    nisa.dma_transpose(dst, chip.put(x, "uint16", HBM), **options)
    np.testing.assert_array_equal(dst._array, expected)
    return dst


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((16, 128), True),
        ((16, 40), True),
        ((8, 128), False),
        ((32, 128), False),
        *[((rows, 16 // rows, 64), True) for rows in (1, 2, 4, 8, 16)],
        ((2, 4, 64), False),  # 2 * 4 is no multiple of 16
        ((32, 4, 64), False),
        ((3, 16, 64), False),
        ((4, 3, 8, 32), True),
        ((4, 8, 3, 32), False),  # the last size but one counts
    ],
)
def test_shapes_of_hardware_transposes(start: Any, shape: tuple[int, ...], fits: bool) -> None:
    with start("trn2") as chip:
        if fits:
            transposed(chip, numbered(*shape), dge_mode=HWDGE)
        else:
            with pytest.raises(ShapeError, match=r"dge_mode.hwdge takes 16 rows of a src of two"):
                transposed(chip, numbered(*shape), dge_mode=HWDGE)
        transposed(chip, numbered(*shape))  # whoever generates descriptors


def test_static_descriptors(start: Any) -> None:
    for target in ("trn1", "trn2", "trn3"):
        with start(target) as chip:
            transposed(chip, numbered(12, 20), dge_mode=nisa.dge_mode.none)


def test_transpose_of_a_batch_at_an_index(start: Any) -> None:
    x = numbered(4, 16, 24)
    with start("trn2") as chip:
        source, dst = chip.put(x, "float16", HBM), chip.put(np.zeros((24, 16)), "float16")
        src = source.select(0, chip.put([[3]], "int32"))
        nisa.dma_transpose(dst, src, dge_mode=HWDGE)
        np.testing.assert_array_equal(dst._array, x[3].T)


GATHERS: list[tuple[tuple[int, ...], int, tuple[int, int]]] = [
    ((40, 128), 32, (32, 1)),
    ((40, 24), 16, (64, 1)),  # the first indices of more
    ((300, 16), 256, (128, 2)),
    ((300, 16), 144, (128, 2)),
    ((40, 4, 32), 16, (16, 1)),
    ((40, 1, 5, 8), 48, (48, 1)),
    ((40, 5, 1, 8), 128, (128, 3)),
]


@pytest.mark.parametrize(("shape", "count", "index"), GATHERS)
@pytest.mark.parametrize("mode", [nisa.dge_mode.unknown, nisa.dge_mode.swdge])
def test_gather(
    start: Any, rng: Any, shape: tuple[int, ...], count: int, index: tuple[int, int], mode: Any
) -> None:
    """dst = src[index.T.flatten()[:count]] transposed, in the words of the vendor's page."""
    x, picked = numbered(*shape), rng.integers(0, shape[0], index)
    with start("trn2") as chip:
        source = chip.put(x, "bfloat16", HBM)
        pattern = [[stride, size] for stride, size in zip(source.strides, shape, strict=True)]
        src = source.ap(
            [[pattern[0][0], count], *pattern[1:]], vector_offset=chip.put(picked, "uint32")
        )
        expected = x[picked.T.flatten()[:count]].transpose(AXES[x.ndim])
        dst = chip.new(expected.shape, "bfloat16")
        nisa.dma_transpose(dst=dst, src=src, axes=AXES[x.ndim], dge_mode=mode)
        np.testing.assert_array_equal(dst._array.astype(int), expected)
        assert chip.program.hbm_read_bytes == 2 * expected.size


def test_gather_into_a_view(start: Any) -> None:
    """A cache block of a folded attention kernel: the rank of dst is that of src."""
    x = numbered(20, 2, 8)
    with start("trn2") as chip:
        held, index = chip.new((8, 3, 2, 16), "bfloat16"), chip.put(numbered(16, 1), "uint32")
        src = chip.put(x, "bfloat16", HBM).reshape((20, 1, 2, 8)).vector_select(0, index)
        nisa.dma_transpose(dst=held.select(1, 1).expand_dim(1), src=src, axes=(3, 1, 2, 0))
        expected = x[:16].reshape(16, 1, 2, 8).transpose(3, 1, 2, 0)
        np.testing.assert_array_equal(held[:, 1:2]._array.astype(int), expected)
        assert held._storage.count_unwritten(held, held._element) == 8 * 2 * 2 * 16


def test_gather_out_of_bounds(start: Any) -> None:
    with start("trn2") as chip:
        src = chip.put(numbered(15, 8), "bfloat16", HBM).vector_select(
            0, chip.put(numbered(16, 1), "uint32")
        )
        with pytest.raises(OutOfBoundsError, match="an index of src is 15, outside the 15 rows"):
            nisa.dma_transpose(dst=chip.new((8, 16), "bfloat16"), src=src)
