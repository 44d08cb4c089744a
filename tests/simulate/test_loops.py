"""On-chip loops and registers: what they compute, what they cost, and what they refuse."""

from __future__ import annotations

from typing import Any

import nki
import numpy as np
import pytest

from nkiconv.simulate import Profile, profile, simulate_kernel
from nkiconv.simulate.errors import (
    CapacityError,
    ConstraintError,
    HazardError,
    NkiconvError,
    UninitializedReadError,
)
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.registers import VirtualRegister

ONES = np.ones((4, 8), np.float32)


def store(tile: Any) -> Any:
    y_hbm = nl.ndarray(tile.shape, tile.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=y_hbm, src=tile)
    return y_hbm


def load(x_hbm: Any) -> Any:
    tile = nl.ndarray(x_hbm.shape, x_hbm.dtype)
    nisa.dma_copy(dst=tile, src=x_hbm)
    return tile


def add_up(x_hbm: Any, n_hbm: Any) -> Any:
    """``n * x``, the number of iterations read from memory."""
    x, total = load(x_hbm), nl.zeros(x_hbm.shape, nl.float32)
    bound = nisa.register_alloc()
    nisa.register_load(bound, load(n_hbm))

    def body(i: Any) -> None:
        nisa.tensor_tensor(dst=total, data1=total, data2=x, op=nl.add)

    nl.fori_loop(0, bound, body)
    return store(total)


def count_down(x_hbm: Any, n_hbm: Any) -> Any:
    """``n * x``, by a condition that the body counts down."""
    x, total, left = load(x_hbm), nl.zeros(x_hbm.shape, nl.float32), load(n_hbm)
    condition = nisa.register_alloc()
    nisa.register_load(condition, left)

    def body(r: Any) -> Any:
        nisa.tensor_tensor(dst=total, data1=total, data2=x, op=nl.add)
        nisa.tensor_scalar(dst=left, data=left, op0=nl.subtract, operand0=1.0)
        nisa.register_load(r, left)
        return r

    nl.while_loop(condition, body)
    return store(total)


def old_style(x_hbm: Any, n_hbm: Any) -> Any:
    x, total = load(x_hbm), nl.zeros(x_hbm.shape, nl.float32)
    bound = nisa.register_alloc()
    nisa.register_load(bound, load(n_hbm))
    for _ in nl.dynamic_range(bound):
        nisa.tensor_tensor(dst=total, data1=total, data2=x, op=nl.add)
    return store(total)


@pytest.mark.filterwarnings("ignore:nl.dynamic_range is deprecated")
@pytest.mark.parametrize("kernel", [add_up, count_down, old_style])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_as_many_iterations_as_the_register_says(kernel: Any, n: int) -> None:
    y = simulate_kernel(kernel, ONES, np.full((1, 1), n, np.int32))
    assert (y == n).all()


def test_dynamic_range_warns_that_it_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match=r"nl\.dynamic_range is deprecated since NKI 0\.6"):
        simulate_kernel(old_style, ONES, np.ones((1, 1), np.int32))


def test_counter_runs_as_range_does() -> None:
    seen: list[int] = []

    def kernel(x_hbm: Any) -> Any:
        last = nl.ndarray((1, 1), nl.int32)

        def body(i: Any) -> None:
            nisa.register_store(last, i)
            seen.append(int(last._array[0, 0]))

        nl.fori_loop(nisa.register_alloc(3), 12, body, step=4)
        return store(last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nkiconv.simulate.runtime.check_kernel", lambda fn: None)  # it looks inside
        assert simulate_kernel(kernel, ONES).tolist() == [[11]]
    assert seen == [3, 7, 11]


# --- What a compiler sees, and when things happen ------------------------------------------------


def run(kernel: Any, n: int) -> Profile:
    _, seen = profile(nki.jit(kernel), ONES, np.full((1, 1), n, np.int32))
    return seen


def test_the_body_counts_once() -> None:
    few, many = run(add_up, 1), run(add_up, 9)
    assert many.static_instructions == few.static_instructions
    assert many.instructions["tensor_tensor"] == 9


def nested(x_hbm: Any, n_hbm: Any) -> Any:
    total = nl.zeros(x_hbm.shape, nl.float32)
    bound = nisa.register_alloc()
    nisa.register_load(bound, load(n_hbm))

    def inner(i: Any) -> None:
        nisa.tensor_scalar(dst=total, data=total, op0=nl.add, operand0=1.0)

    def outer(i: Any) -> None:
        nl.fori_loop(0, 3, inner)
        nisa.tensor_scalar(dst=total, data=total, op0=nl.multiply, operand0=2.0)

    nl.fori_loop(0, bound, outer)
    return store(total)


def test_nested_loops() -> None:
    y, seen = profile(nki.jit(nested), ONES, np.full((1, 1), 2, np.int32))
    assert (y == ((0 + 3) * 2 + 3) * 2).all()
    # memset, two loads, register_load, inner and outer tensor_scalar, two loop ends, store
    assert seen.static_instructions == 1 + 1 + 1 + 2 + 2 + 1
    assert seen.instructions["tensor_scalar"] == 2 * (3 + 1)


def test_iterations_do_not_overlap() -> None:
    _, seen = profile(nki.jit(add_up), ONES, np.full((1, 1), 4, np.int32))
    ends = [event for event in seen.events if event.opcode == "loop"]
    adds = [event for event in seen.events if event.opcode == "tensor_tensor"]
    assert len(ends) == len(adds) == 4
    for add, end, later in zip(adds, ends, adds[1:], strict=False):
        assert add.end_us <= end.start_us
        assert end.end_us <= later.start_us
    spent_us = HARDWARE["trn1"].loop_iteration_ns / 1e3
    assert ends[0].end_us - ends[0].start_us == pytest.approx(spent_us)


def test_what_the_loop_uses_stays_until_it_ends() -> None:
    size = HARDWARE["trn1"].sbuf_usable_bytes // 4 - 100

    def kernel(x_hbm: Any) -> Any:
        first = nl.zeros((4, size // 2), nl.float32)

        def body(i: Any) -> None:
            nisa.tensor_copy(dst=nl.ndarray((4, 8), nl.float32), src=first[:, 0:8])
            late = nl.zeros((4, size - size // 4), nl.float32)
            nisa.tensor_copy(dst=nl.ndarray((4, 8), nl.float32), src=late[:, 0:8])

        nl.fori_loop(0, 1, body)
        nisa.dma_copy(dst=x_hbm, src=first[:, 0:8])
        return x_hbm

    with pytest.raises(CapacityError, match="are live in SBUF at once"):
        simulate_kernel(kernel, ONES)


# --- What is refused -----------------------------------------------------------------------------


def nothing(i: Any) -> None:
    pass


REFUSED = [
    (lambda: nl.fori_loop(0, 4, nothing, step=0), ConstraintError, "step must be a positive int"),
    (
        lambda: nl.fori_loop(0, 4, nothing, step=VirtualRegister(1)),
        ConstraintError,
        "step must be a positive integer known at compile time",
    ),
    (lambda: nl.fori_loop(0, 4.0, nothing), ConstraintError, "the upper bound must be an integer"),
    (lambda: nl.fori_loop(0, 4, 5), ConstraintError, "body_fun must be a function, got 5"),
    (lambda: nl.fori_loop(0, 2, lambda i: i), ConstraintError, "body_fun returned <VirtualReg"),
    (
        lambda: nl.fori_loop(0, nisa.register_alloc(), nothing),
        UninitializedReadError,
        "the register holds nothing",
    ),
    (lambda: nl.while_loop(1, nothing), ConstraintError, "init must be a VirtualRegister, got 1"),
    (
        lambda: nl.while_loop(VirtualRegister(1), nothing),
        ConstraintError,
        "the result of body_fun must be a VirtualRegister, got None",
    ),
    (lambda: list(nl.dynamic_range(0, 4, 0)), ConstraintError, "step must be a positive integer"),
    (lambda: nisa.register_alloc(2**32), ConstraintError, "4294967296 does not fit a register"),
    (
        lambda: nisa.register_move(next(nl.dynamic_range(3)), 4),
        ConstraintError,
        "the counter of a loop cannot be written",
    ),
    (
        lambda: nisa.register_store(nl.ndarray((1, 1), nl.uint8), VirtualRegister(256)),
        ConstraintError,
        "the register holds 256, which uint8 cannot",
    ),
    (
        lambda: nisa.register_store(nl.ndarray((1, 1), nl.int8), VirtualRegister()),
        UninitializedReadError,
        "the register holds nothing yet",
    ),
]


@pytest.mark.filterwarnings("ignore:nl.dynamic_range is deprecated")
@pytest.mark.parametrize(("use", "error", "words"), REFUSED)
def test_refused(chip: Any, use: Any, error: type[NkiconvError], words: str) -> None:
    with pytest.raises(error, match=words):
        use()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint32", "int32"])
def test_the_largest_and_least_that_a_tensor_holds(chip: Any, dtype: str) -> None:
    limits = np.iinfo(dtype)
    for value in (int(limits.min), int(limits.max)):
        place = chip.new((1, 1), dtype)
        nisa.register_store(place, VirtualRegister(value))
        back = nisa.register_alloc()
        nisa.register_load(back, place)
        assert back._read("test") == value


def test_no_loop_inside_no_reorder(chip: Any) -> None:
    chip.program.no_reorder_depth = 1
    with pytest.raises(ConstraintError, match=r"cannot stand inside nl\.no_reorder"):
        nl.fori_loop(0, 4, nothing)


def test_iterations_must_execute_the_same(chip: Any) -> None:
    tile, turns = chip.put(ONES), []

    def body(i: Any) -> None:
        turns.append(1)
        if len(turns) < 3:
            nisa.tensor_copy(dst=chip.new((4, 8)), src=tile)
        else:
            nisa.reciprocal(dst=chip.new((4, 8)), data=tile)

    with pytest.raises(HazardError, match=r"this one executes reciprocal \(.*executes tensor_copy"):
        nl.fori_loop(0, 4, body)


def test_an_iteration_with_fewer_instructions(chip: Any) -> None:
    tile, turns = chip.put(ONES), []

    def body(i: Any) -> None:
        turns.append(1)
        for _ in range(3 - len(turns)):
            nisa.tensor_copy(dst=chip.new((4, 8)), src=tile)

    with pytest.raises(HazardError, match="this one has no more instructions, the first one exec"):
        nl.fori_loop(0, 2, body)


@pytest.mark.filterwarnings("ignore:nl.dynamic_range is deprecated")
def test_leaving_a_loop_is_refused() -> None:
    def kernel(x_hbm: Any) -> Any:
        for _ in nl.dynamic_range(4):
            break
        return x_hbm

    with pytest.raises(ConstraintError, match="an on-chip loop was left by break or return"):
        simulate_kernel(kernel, ONES)


def test_an_endless_loop_ends(monkeypatch: pytest.MonkeyPatch, chip: Any) -> None:
    monkeypatch.setattr("nkiconv.simulate.loops._MOST_ITERATIONS", 7)
    with pytest.raises(HazardError, match="7 iterations and the condition is still 1"):
        nl.while_loop(VirtualRegister(1), lambda r: r)


@pytest.mark.parametrize("ask", [
    bool, int, float, list(range(3)).__getitem__, lambda r: r + 1, lambda r: 2 * r,
    lambda r: r == 5, lambda r: r < 5, lambda r: range(r),
])  # fmt: skip
def test_python_cannot_ask_for_the_value(ask: Any) -> None:
    with pytest.raises(TypeError, match="has no value while the kernel is compiled"):
        ask(VirtualRegister(1))


def test_a_register_is_not_none() -> None:
    assert not VirtualRegister(0) == None  # noqa: E711, SIM201 - as kernels for the compiler ask
