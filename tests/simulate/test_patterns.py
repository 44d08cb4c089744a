"""Which bytes a strided view touches, as the timeline sees it: against sets of bytes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.schedule import _covers, _joined, _share, schedule
from nkiconv.simulate.trace import pattern_of, read_pattern

Dims = list[tuple[int, int]]
"""Stride in bytes and size of each dimension."""

ITEM = 2
DIMS = st.lists(
    st.tuples(st.integers(0, 12).map(lambda n: n * ITEM), st.integers(1, 4)), max_size=3
)
VIEWS = st.tuples(st.integers(0, 20).map(lambda n: n * ITEM), DIMS)


def touched(first: int, dims: Dims) -> set[int]:
    """All bytes of a view."""
    starts = (
        first + sum(n * stride for n, (stride, _) in zip(at, dims, strict=True))
        for at in product(*(range(size) for _, size in dims))
    )
    return {start + byte for start in starts for byte in range(ITEM)}


def area(first: int, dims: Dims) -> Any:
    return first, max(touched(first, dims)) + 1, 0, 1, pattern_of(dims, ITEM)


@settings(max_examples=1000)
@given(a=VIEWS, b=VIEWS)
def test_no_shared_byte_is_missed_and_nothing_is_thought_covered(a: Any, b: Any) -> None:
    one, other = touched(*a), touched(*b)
    if one & other:
        assert _share(area(*a), area(*b))
    if _covers(area(*a), area(*b)):
        assert other <= one
    joined = _joined(area(*a), area(*b))
    if joined is not None:
        for view in (a, b):
            assert _share(joined, area(*view))


def test_interleaved_views_are_apart() -> None:
    taps = [(4 * tap, [(36, 128)]) for tap in range(9)]  # w[:, :, kh, kw], float32
    for a, b in product(taps, taps):
        areas = [(f, f + 36 * 127 + 4, 0, 1, pattern_of(d, 4)) for f, d in (a, b)]
        assert _share(*areas) == (a is b)
    assert read_pattern(pattern_of([(36, 128)], 4)) == (36, 4)
    assert read_pattern(pattern_of([(4, 5), (64, 3)], 4)) == (64, 20)
    assert pattern_of([(4, 5), (20, 3)], 4) == 0


def test_copies_to_interleaved_places_do_not_wait_for_each_other(start: Any) -> None:
    with start("trn2") as chip:
        x = chip.put(np.ones((128, 64)))
        w = chip.new((128, 64, 2))
        nisa.tensor_copy(dst=w[:, :, 0], src=x, engine=nisa.engine.vector)
        nisa.tensor_copy(dst=w[:, :, 1], src=x, engine=nisa.engine.scalar)
        nisa.tensor_copy(dst=x, src=w[:, :, 1], engine=nisa.engine.gpsimd)
        program = chip.program
        line = schedule(
            program.trace, program.allocations, Placement({}, {}, 0, 0), program.hardware
        )
    assert line.start_ps[0] == line.start_ps[1] == 0
    assert line.blocker[2] == 1
