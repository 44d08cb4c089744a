"""On-chip loops: one copy of the body in the program, executed by the engines' sequencers.

The simulator runs the body once for each iteration, with the counter in a register whose value
Python cannot see.  What the device shares between iterations is held to that: every iteration must
execute the same instructions, the next one starts when all engines are done with the last, and
tensors from outside stay where they are until the loop has ended.

Sources
-------
NKI 0.6.0: nki.language.fori_loop, while_loop, dynamic_range; dynamic loops deep dive.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nkiconv.simulate.errors import ConstraintError, HazardError
from nkiconv.simulate.program import Program, current, kernel_frame
from nkiconv.simulate.registers import VirtualRegister
from nkiconv.simulate.trace import HEADER, LANES, OPERAND, Lane

_MOST_ITERATIONS = 1_000_000
"""Iterations after which a while loop counts as endless."""

Bound = int | VirtualRegister


def fori_loop(
    lower: Bound, upper: Bound, body_fun: Callable[[VirtualRegister], object], step: int = 1
) -> None:
    """Execute ``body_fun(i)`` on the device for i = lower, lower + step, ... below upper.

    Parameters
    ----------
    lower, upper
        Integers, or registers that are read when the loop begins.
    body_fun
        Takes the counter as a register, which is a copy: writing it has no effect.
    step
        Positive, known at compile time.

    Raises
    ------
    ConstraintError, HazardError
        Bounds or step of another type, a loop inside ``nl.no_reorder``, or a body that is not the
        same for every iteration.
    """
    op = "nl.fori_loop"
    program = _checked(op, body_fun)
    for i in _counts(op, lower, upper, step):
        with _iteration(program, op):
            returned = body_fun(VirtualRegister(i))
        if returned is not None:  # the vendor's body returns None
            raise ConstraintError(
                f"{op}: body_fun returned {returned!r}; results of an on-chip loop go into tensors "
                "(nki.language.fori_loop)",
                code="loop.result",
            )
    _close(program)


def while_loop(
    init: VirtualRegister, body_fun: Callable[[VirtualRegister], VirtualRegister]
) -> None:
    """Execute ``r = body_fun(r)`` on the device as long as register r is not 0, `init` first.

    Raises
    ------
    ConstraintError, HazardError
        A condition that is no register, a loop inside ``nl.no_reorder``, a body that is not the
        same for every iteration, or a million iterations.
    """
    op = "nl.while_loop"
    program = _checked(op, body_fun)
    condition = _condition(op, "init", init)
    count = 0
    while condition:
        if count == _MOST_ITERATIONS:
            raise HazardError(
                f"{op}: {count} iterations and the condition is still {condition}",
                code="loop.endless",
            )
        count += 1
        with _iteration(program, op):
            returned = body_fun(VirtualRegister(condition))
            condition = _condition(op, "the result of body_fun", returned)
    _close(program)


def dynamic_range(
    start: Bound, stop: Bound | None = None, step: int = 1
) -> Iterator[VirtualRegister]:
    """Yield the counter of an on-chip loop, as a register that nothing can write.

    Deprecated by the vendor in 0.6.0: `fori_loop` replaces it.

    Raises
    ------
    ConstraintError, HazardError
        As for `fori_loop`.
    """
    op = "nl.dynamic_range"
    program = _checked(op, None)
    warnings.warn(
        f"{op} is deprecated since NKI 0.6.0; use nl.fori_loop", DeprecationWarning, stacklevel=2
    )
    bounds = (0, start) if stop is None else (start, stop)
    return _iterate(program, op, _counts(op, *bounds, step))


def _iterate(program: Program, op: str, counts: range) -> Iterator[VirtualRegister]:
    for i in counts:
        with _iteration(program, op):
            yield VirtualRegister(i, frozen=True)
    _close(program)


def _checked(op: str, body: Callable[..., object] | None) -> Program:
    """Return the running program, and open a loop in it."""
    program = current(op)
    if body is not None and not callable(body):
        raise ConstraintError(f"{op}: body_fun must be a function, got {body!r}", code="loop.body")
    if program.no_reorder_depth:
        raise ConstraintError(
            f"{op}: an on-chip loop cannot stand inside nl.no_reorder(); put no_reorder inside the "
            "body (nki.language.no_reorder)",
            code="loop.no_reorder",
        )
    program.loops.append(_Loop(len(program.trace)))
    return program


def _counts(op: str, lower: Bound, upper: Bound, step: object) -> range:
    if type(step) is not int or step < 1:
        raise ConstraintError(
            f"{op}: step must be a positive integer known at compile time, got {step!r} "
            "(dynamic loops deep dive, Parameter Constraints)",
            code="loop.step",
        )
    limits = []
    for what, bound in (("lower", lower), ("upper", upper)):
        if isinstance(bound, VirtualRegister):
            limits.append(bound._read(f"{op}({what})"))
        elif type(bound) is int:
            limits.append(bound)
        else:
            raise ConstraintError(
                f"{op}: the {what} bound must be an integer or a VirtualRegister, got {bound!r}",
                code="loop.bounds",
            )
    return range(limits[0], limits[1], step)


def _condition(op: str, what: str, value: object) -> int:
    if not isinstance(value, VirtualRegister):
        raise ConstraintError(
            f"{op}: {what} must be a VirtualRegister, got {value!r} (nki.language.{op[3:]})",
            code="loop.condition",
        )
    return value._read(f"{op}({what})")


class _Loop:
    """An on-chip loop that is being executed.

    Attributes
    ----------
    first
        Index of the first instruction that it executed.
    body
        What its first iteration executed, or None before that has ended.
    inner
        Instructions of the present iteration that belong to loops inside, as ranges of indices.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.body: list[tuple[int, int, int]] | None = None
        self.inner: list[range] = []


@contextmanager
def _iteration(program: Program, op: str) -> Iterator[None]:
    """Execute one iteration: between barriers, and compared with the first one."""
    trace = program.trace
    loop = program.loops[-1]
    begin, repeated = len(trace), program.repeated
    loop.inner = []
    yield
    if program.loops[-1] is not loop:
        raise ConstraintError(
            f"{op}: a loop inside its body was left by break or return", code="loop.left"
        )
    executed = _instructions(program, begin, loop.inner)
    _end_iteration(program)
    if loop.body is None:
        loop.body = executed
        return
    program.repeated = repeated + len(trace) - begin
    if executed != loop.body:
        at = next(
            (i for i, (a, b) in enumerate(zip(executed, loop.body, strict=False)) if a != b),
            min(len(executed), len(loop.body)),
        )
        now, first = _name(program, executed, at), _name(program, loop.body, at)
        raise HazardError(
            f"{op}: iterations execute different programs: this one {now}, the first one {first}; "
            "the device has one copy of the body, so nothing in it may depend on what Python "
            "counts (dynamic loops deep dive)",
            code="loop.iterations_differ",
        )


def _instructions(program: Program, begin: int, inner: list[range]) -> list[tuple[int, int, int]]:
    """Return opcode, lane and line of the instructions from `begin` on, without loops inside."""
    skipped = {index for each in inner for index in each}
    return [
        (words[0], words[1], words[2])
        for index, words in program.trace.raw(begin)
        if index not in skipped and words[1] // LANES == program.core
    ]


def _name(program: Program, body: list[tuple[int, int, int]], at: int) -> str:
    if at >= len(body):
        return "has no more instructions"
    opcode, _, line = body[at]
    return f"executes {program.trace.name(opcode)} ({program.trace.name(line)})"


def _end_iteration(program: Program) -> None:
    """Leave a mark in the record at which all engines of the core meet."""
    program.settle()
    trace = program.trace
    frame = kernel_frame()
    spent = round(program.hardware.loop_iteration_ns * 1000)
    trace.barriers.append(
        trace.add(
            trace.number("loop"),
            Lane.SYNC + program.lane_base,
            program.line_number(frame.f_code, frame.f_lineno),
            trace.number(""),
            spent,
            spent,
            -1,
            [],
        )
    )


def _close(program: Program) -> None:
    """End the innermost loop: what it used of the tensors from outside stays in place till here."""
    loop = program.loops.pop()
    end = len(program.trace)
    if end > loop.first:
        used = {
            words[at]
            for _, words in program.trace.raw(loop.first)
            for at in range(HEADER, len(words), OPERAND)
        }
        for number in used:
            made = program.allocations[number]
            if 0 <= made.first_use < loop.first:
                made.last_use = end - 1
    if program.loops:
        program.loops[-1].inner.append(range(loop.first, end))
