"""Registers of the engines' sequencers: set, copied, and moved from and to memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.engines._common import INTEGERS
from nkiconv.simulate.errors import ConstraintError, ShapeError
from nkiconv.simulate.program import current
from nkiconv.simulate.registers import VirtualRegister
from nkiconv.simulate.sheet import (
    OFF_PSUM,
    Call,
    Cost,
    Fetch,
    Operand,
    Role,
    Rule,
    assumed,
    instruction,
    isa,
)
from nkiconv.simulate.trace import Lane

_NO_FIGURE = assumed("no public figure")


def _cost(call: Call) -> Cost:
    busy = round(call.hw.register_access_ns * 1000)
    return Cost(busy, busy)


def _move_cost(call: Call) -> Cost:
    cycles = call.hw.engine_issue_cycles
    busy = round(cycles / call.hw.vector_ghz * 1000)
    return Cost(busy, busy)


def _is_register(name: str) -> Rule:
    return Rule(
        f"{name} must be a VirtualRegister of nisa.register_alloc",
        lambda c: isinstance(c[name], VirtualRegister),
        "NKI 0.6.0, page of the instruction",
        shows=lambda c: f"{c[name]!r}",
    )


def _one_element(name: str) -> Rule:
    return Rule(
        f"{name} must have one element, in shape [1] or [1, 1]",
        lambda c: c[name].shape in ((1,), (1, 1)),
        "NKI 0.6.0, page of the instruction",
        error=ShapeError,
    )


def register_alloc(x: int | None = None) -> VirtualRegister:
    """Allocate a register of 32 bits, empty or with a number known at compile time."""
    current("nisa.register_alloc")
    register = VirtualRegister()
    if x is not None:
        register_move(register, x)
    return register


@instruction(
    lane=Lane.SYNC,
    operands={},
    rules=(
        _is_register("dst"),
        Rule(
            "src must be an integer known at compile time, or a VirtualRegister",
            lambda c: type(c["src"]) is int or isinstance(c["src"], VirtualRegister),
            isa("register_move"),
            shows=lambda c: f"{c['src']!r}",
            code="integer_or_register",
        ),
    ),
    cost=_move_cost,
    sources=(isa("register_move"), _NO_FIGURE),
)
def register_move(dst: Any, src: Any) -> Any:
    """``dst = src``, a number or another register."""
    op = "nisa.register_move"
    dst._write(src._read(op) if isinstance(src, VirtualRegister) else src, op)
    return ()


@instruction(
    lane=Lane.SYNC,
    operands={"src": Operand(OFF_PSUM, dtypes=INTEGERS, fetch=Fetch.RAW)},
    rules=(_is_register("dst"), _one_element("src")),
    cost=_cost,
    sources=(isa("register_load"), _NO_FIGURE),
)
def register_load(dst: Any, src: Any) -> Any:
    """``dst = src``: one integer out of SBUF or HBM."""
    dst._write(int(src.reshape(-1)[0]), "nisa.register_load")
    return ()


def _fits(call: Call) -> None:
    op = "nisa.register_store"
    value = call["src"]._read(op)
    kind = call["dst"]._element.numpy
    bits = 8 * kind.itemsize
    low, high = (0, 2**bits - 1) if kind.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if not low <= value <= high:
        raise ConstraintError(
            f"{op}: the register holds {value}, which {call['dst'].dtype} cannot "
            f"({isa('register_store')})",
            code="register.store_range",
        )


@instruction(
    lane=Lane.SYNC,
    operands={"dst": Operand(OFF_PSUM, Role.WRITE, dtypes=INTEGERS, fetch=Fetch.RAW)},
    rules=(_is_register("src"), _one_element("dst")),
    prepare=_fits,
    cost=_cost,
    sources=(isa("register_store"), _NO_FIGURE),
)
def register_store(dst: Any, src: Any) -> Any:
    """``dst = src``: a register's integer into SBUF or HBM."""
    return np.array(src._read("nisa.register_store"), dtype=np.int64)
