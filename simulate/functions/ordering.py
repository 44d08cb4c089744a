"""What is about the program rather than about values: order of execution, and printing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nkiconv.simulate.errors import ConstraintError, UninitializedReadError
from nkiconv.simulate.functions._common import function, in_psum, page, tile
from nkiconv.simulate.program import current
from nkiconv.simulate.trace import LANES


@contextmanager
def _in_program_order() -> Iterator[None]:
    program = current("nl.no_reorder")
    first = len(program.trace)
    program.no_reorder_depth += 1
    try:
        yield
    finally:
        program.no_reorder_depth -= 1
    if not program.no_reorder_depth:  # the outermost block orders those within it as well
        own = [i for i, words in program.trace.raw(first) if words[1] // LANES == program.core]
        program.trace.edges += zip(own[1:], own, strict=False)


@function
def no_reorder() -> Any:
    """A block in which each instruction starts after the one before it has completed.

    Also for instructions in functions that are called from the block.
    """
    return _in_program_order()


@function
def device_print(print_prefix: Any, tensor: Any) -> None:
    """Print a prefix and the elements of a tensor in SBUF or HBM to standard output.

    On the device the tensor goes to a file of the runtime's debug stream; that costs no time here.
    """
    tensor = tile(tensor, "device_print", "tensor")
    if not isinstance(print_prefix, str):
        raise ConstraintError(
            f"nl.device_print: print_prefix must be a string known at compile time, got "
            f"{print_prefix!r} ({page('device_print')})",
            code="language.print_prefix",
        )
    if in_psum(tensor):
        raise ConstraintError(
            f"nl.device_print: {tensor!r} must be in SBUF or HBM; copy it with nl.copy first "
            f"({page('device_print')})",
            code="language.print_memory",
        )
    current("nl.device_print").settle()
    missing = tensor._storage.count_unwritten(tensor, tensor._kind)
    if missing:
        raise UninitializedReadError(
            f"nl.device_print: {missing} of {tensor.size} elements have not been written, in "
            f"{tensor._storage.describe()}",
            code="operand.unwritten",
        )
    values = np.array2string(np.array(tensor._array), separator=", ")
    sys.stdout.write(f"{print_prefix} {values}\n")
