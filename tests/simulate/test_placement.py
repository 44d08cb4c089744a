"""Where tensors lie: what is live at once, what does not fit, what is reused, and when."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from nkiconv.simulate import simulate_kernel, use_target
from nkiconv.simulate.errors import CapacityError, ConstraintError, HazardError
from nkiconv.simulate.hardware import HARDWARE, TARGETS, Hardware
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.placement import place

TRN1 = HARDWARE["trn1"]
SBUF_BYTES = TRN1.sbuf_usable_bytes
BANK_BYTES = 2048

Range = tuple[int, int, int]
"""Bytes per partition, first use, last use."""


def storages(ranges: list[Range], space: str = "sbuf") -> list[Allocation]:
    """Return storages with these live ranges."""
    result = []
    for number, (size, first, last) in enumerate(ranges):
        made = Allocation(number, space, (1, size), "uint8", f"t{number}", f"k.py:{number}")
        made.first_use, made.last_use = first, last
        result.append(made)
    return result


def rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


# --- Addresses that the kernel chose -------------------------------------------------------------


def fixed(*rows: tuple[int, int, int, int, int, int]) -> list[Allocation]:
    """Return storages: first partition, partitions, first byte, bytes, first use, last use."""
    result = []
    for number, (partition, count, begin, size, first, last) in enumerate(rows):
        address = None if begin < 0 else (partition, begin)
        made = Allocation(
            number, "sbuf", (count, size), "uint8", f"t{number}", "k.py:1", address=address
        )
        made.first_use, made.last_use = first, last
        result.append(made)
    return result


def test_chosen_addresses_stand() -> None:
    placed = place(fixed((0, 4, 4096, 64, 0, 5), (0, 4, 0, 64, 2, 5)), TRN1, "kernel")
    assert placed.start == {0: 4096, 1: 0}


def test_bytes_that_are_still_needed_are_not_given_away() -> None:
    rows = ((0, 4, 0, 64, 0, 5), (0, 4, 63, 64, 5, 9))
    with pytest.raises(HazardError, match=r"t1 .* at address \(0, 63\) takes bytes that t0 "):
        place(fixed(*rows), TRN1, "kernel")
    later = place(fixed(rows[0], (0, 4, 63, 64, 6, 9)), TRN1, "kernel")
    assert later.predecessors[1] == (0,)  # it waits until the first one is done
    beside = place(fixed(rows[0], (32, 4, 63, 64, 5, 9)), TRN1, "kernel")
    assert beside.start == {0: 0, 1: 63}  # other partitions


def test_the_others_are_placed_round_them() -> None:
    half = SBUF_BYTES // 2
    # t1 has no address, and lives before and while t0 does; t2 comes after t0.
    rows = ((0, 4, 0, half, 3, 5), (0, 4, -1, half, 0, 9), (0, 4, -1, half, 6, 9))
    placed = place(fixed(*rows), TRN1, "kernel")
    assert placed.start == {0: 0, 1: half, 2: 0}
    assert placed.sbuf_peak_bytes == 2 * half
    with pytest.raises(CapacityError, match="are live in SBUF at once"):
        place(fixed(*rows, (0, 4, -1, 64, 4, 4)), TRN1, "kernel")


def test_side_by_side_counts_once() -> None:
    rows = ((0, 32, 0, SBUF_BYTES, 0, 5), (32, 32, 0, SBUF_BYTES, 0, 5))
    assert place(fixed(*rows), TRN1, "kernel").sbuf_peak_bytes == SBUF_BYTES


def test_start_partition_counts_from_the_address() -> None:
    def kernel(x_hbm: Any, first: int) -> Any:
        tile = nl.ndarray((64, 8), nl.float32, address=(32, 0))
        nisa.dma_copy(dst=tile, src=x_hbm)
        nisa.tensor_copy(dst=tile[first : first + 32], src=tile[first : first + 32])
        nisa.dma_copy(dst=x_hbm, src=tile)
        return x_hbm

    x = np.ones((64, 8), np.float32)
    simulate_kernel(kernel, x, 32)
    with pytest.raises(ConstraintError, match="covers 32 partitions from 48"):
        simulate_kernel(kernel, x, 16)


# --- Random live ranges --------------------------------------------------------------------------


@st.composite
def programs(draw: Callable[..., Any]) -> tuple[str, list[Range]]:
    space = draw(st.sampled_from(["sbuf", "psum"]))
    capacity = SBUF_BYTES if space == "sbuf" else 8 * BANK_BYTES
    ranges = []
    for _ in range(draw(st.integers(1, 30))):
        size = capacity // draw(st.integers(2, 9)) - draw(st.integers(0, 99))
        first = draw(st.integers(0, 30))
        ranges.append((size, first, first + draw(st.integers(0, 5))))
    return space, ranges


@settings(max_examples=300)
@given(program=programs())
def test_live_tensors_never_overlap_and_the_peak_is_what_is_live(
    program: tuple[str, list[Range]],
) -> None:
    space, ranges = program
    unit, capacity = (1, SBUF_BYTES) if space == "sbuf" else (BANK_BYTES, 8 * BANK_BYTES)
    peak = max(
        sum(rounded(size, unit) for size, first, last in ranges if first <= when <= last)
        for when in range(40)
    )
    if peak > capacity:
        with pytest.raises(CapacityError, match="are live in"):
            place(storages(ranges, space), TRN1, "kernel")
        return
    try:
        placed = place(storages(ranges, space), TRN1, "kernel")
    except CapacityError:
        event("refused for fragmentation")
        return
    event("placed")
    measured = placed.sbuf_peak_bytes if space == "sbuf" else placed.psum_peak_banks * BANK_BYTES
    assert measured == peak
    spans = {
        n: (placed.start[n], placed.start[n] + rounded(size, unit))
        for n, (size, _, _) in enumerate(ranges)
    }
    for first, end in spans.values():
        assert 0 <= first < end <= capacity
        assert first % unit == 0
    waits = reachable(placed.predecessors)
    for a, b in combinations(range(len(ranges)), 2):
        if spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]:  # they share bytes
            early, late = sorted((a, b), key=lambda n: ranges[n][1])
            assert ranges[early][2] < ranges[late][1], "both are live at once"
            assert early in waits[late], "the later one does not wait for the earlier one"


def reachable(predecessors: dict[int, tuple[int, ...]]) -> dict[int, set[int]]:
    """Follow predecessors of predecessors."""
    waits: dict[int, set[int]] = {}

    def follow(number: int) -> set[int]:
        if number not in waits:
            waits[number] = set(predecessors[number]).union(
                *[follow(earlier) for earlier in predecessors[number]]
            )
        return waits[number]

    for number in predecessors:
        follow(number)
    return waits


@given(program=programs())
def test_only_dead_tensors_in_the_same_place_are_waited_for(
    program: tuple[str, list[Range]],
) -> None:
    space, ranges = program
    unit = 1 if space == "sbuf" else BANK_BYTES
    try:
        placed = place(storages(ranges, space), TRN1, "kernel")
    except CapacityError:
        return
    for number, earlier in placed.predecessors.items():
        for other in earlier:
            assert ranges[other][2] < ranges[number][1]
            a, b = placed.start[number], placed.start[other]
            assert a < b + rounded(ranges[other][0], unit)
            assert b < a + rounded(ranges[number][0], unit)


# --- By hand -------------------------------------------------------------------------------------


def test_next_fit_goes_round_before_it_reuses() -> None:
    third = SBUF_BYTES // 3
    # 0 dies before 1 is needed, 1 before 2, and so on; three fit side by side.
    placed = place(storages([(third, n, n) for n in range(5)]), TRN1, "kernel")
    assert [placed.start[n] for n in range(5)] == [0, third, 2 * third, 0, third]
    assert placed.predecessors == {0: (), 1: (), 2: (), 3: (0,), 4: (1,)}
    assert placed.sbuf_peak_bytes == third


def test_next_fit_skips_what_is_live() -> None:
    quarter = SBUF_BYTES // 4
    # 0 stays for the whole program; 1 to 4 live one after the other in what is left.
    ranges = [(quarter, 0, 9), *[(quarter, n, n) for n in range(1, 5)]]
    placed = place(storages(ranges), TRN1, "kernel")
    assert [placed.start[n] // quarter for n in range(5)] == [0, 1, 2, 3, 1]
    assert placed.predecessors[4] == (1,)


def test_a_successor_over_two_and_a_successor_of_a_rest() -> None:
    half, all_of_it = SBUF_BYTES // 2, SBUF_BYTES
    # 0 and 1 lie side by side, 2 covers both, 3 lies in its first half: it waits for 2 alone.
    ranges = [(half, 0, 0), (half, 0, 1), (all_of_it, 2, 2), (half, 3, 3)]
    placed = place(storages(ranges), TRN1, "kernel")
    assert placed.predecessors == {0: (), 1: (), 2: (0, 1), 3: (2,)}


def test_what_is_never_used_takes_no_room() -> None:
    placed = place(storages([(SBUF_BYTES, 0, 5), (SBUF_BYTES, -1, -1)]), TRN1, "kernel")
    assert placed.start == {0: 0}
    assert placed.sbuf_peak_bytes == SBUF_BYTES


def test_psum_tensors_take_whole_banks() -> None:
    placed = place(storages([(4, 0, 9), (2049, 1, 9), (2048, 2, 9)], "psum"), TRN1, "kernel")
    assert [placed.start[n] // BANK_BYTES for n in range(3)] == [0, 1, 3]
    assert placed.psum_peak_banks == 4


def test_fragmentation_has_a_message_of_its_own() -> None:
    # Eight tensors of one bank, of which every second one dies: four banks are free, but no two of
    # them side by side.
    ranges = [(BANK_BYTES, n, 20 if n % 2 else 9) for n in range(8)]
    with pytest.raises(CapacityError, match=r"no order of addresses was found .* fragmentation"):
        place(storages([*ranges, (2 * BANK_BYTES, 10, 20)], "psum"), TRN1, "kernel")


# --- Exactly full, and one more ------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_sbuf_may_be_exactly_full(target: str) -> None:
    hw: Hardware = HARDWARE[target]
    limit = hw.sbuf_usable_bytes
    ranges = [(1000, 0, 9), (limit - 1000, 3, 5)]
    assert place(storages(ranges), hw, "kernel").sbuf_peak_bytes == limit
    ranges[1] = (limit - 999, 3, 5)
    words = (
        f"kernel: {limit + 1} B per partition are live in SBUF at once; {target} has {limit} B "
        "per partition (nl.tile_size.sbuf_fmax_bytes). Live there:\n"
        f"  {limit - 999:>8} B  t1 uint8[1, {limit - 999}] in SBUF (k.py:1)\n"
        "      1000 B  t0 uint8[1, 1000] in SBUF (k.py:0)"
    )
    with pytest.raises(CapacityError, match=f"^{re.escape(words)}\n  Cure: "):
        # What dies before or comes later is not listed.
        place(storages([*ranges, (9, 0, 2), (limit, 10, 10)]), hw, "kernel")


def test_a_long_list_is_cut() -> None:
    ranges = [(SBUF_BYTES // 13, 0, 1)] * 14
    with pytest.raises(
        CapacityError, match=r"(?s)Live there:(\n[^\n]*t\d+[^\n]*){12}\n  and 2 more\n  Cure: "
    ):
        place(storages(ranges), TRN1, "kernel")


def _banks(x_hbm: Any, count: int) -> Any:
    """Write to `count` PSUM tensors before any of them is read."""
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    x_sb = nl.ndarray(x_hbm.shape, x_hbm.dtype)
    nisa.dma_copy(dst=x_sb, src=x_hbm)
    sums = []
    for i in range(count):
        acc_ps = nl.ndarray((8, 8), nl.float32, buffer=nl.psum, name=f"acc{i}")
        nisa.nc_matmul(dst=acc_ps, stationary=x_sb, moving=x_sb)
        sums.append(acc_ps)
    for i in range(count):
        nisa.tensor_copy(dst=x_sb, src=sums[i])
    nisa.dma_copy(dst=y_hbm, src=x_sb)
    return y_hbm


@pytest.mark.parametrize("target", TARGETS)
def test_nine_live_banks_are_refused(target: str) -> None:
    x = np.eye(8, dtype=np.float32)
    with use_target(target):
        assert simulate_kernel(_banks, x, 8).tolist() == x.tolist()
        line = _banks.__code__.co_firstlineno + 7
        with pytest.raises(CapacityError) as refusal:
            simulate_kernel(_banks, x, 9)
    message = str(refusal.value)
    assert message.startswith(
        f"_banks: 18432 B per partition are live in PSUM at once; {target} has 8 banks of 2048 B "
        "per partition. Live there:\n"
    )
    for i in range(9):
        assert f"    2048 B  acc{i} float32[8, 8] in PSUM (test_placement.py:{line})" in message
