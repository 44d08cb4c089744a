"""What an instruction needs beside its lane, as one whole number of the record.

TensorE: the cells of its array that work, how long weights load where nothing hides it, and how
busy the array is by the rule of its clock.  VectorE: whether it takes the port that it shares with
GpSimdE.  DMA: who generates the descriptors.  ScalarE's number is that of its activation table.

-1 stands for nothing in particular: all of TensorE's cells, descriptors made beforehand.
"""

from __future__ import annotations

from enum import IntEnum

ARRAY_STEP = 32
"""Rows or columns of TensorE's array that the least tile has: the side of a block of cells."""

BLOCKS = 128 // ARRAY_STEP
ALL_CELLS = (1 << BLOCKS**2) - 1

_FIELD = 16
"""Bits for each of TensorE's numbers."""
_MASK = (1 << _FIELD) - 1


class Descriptors(IntEnum):
    """Who generates the descriptors of a transfer, and triggers it."""

    STATIC = 0
    """The host, before the kernel starts; SyncE and others trigger."""
    HARDWARE = 1
    """A block beside SyncE."""
    HARDWARE_SCALAR = 2
    """A block beside ScalarE, in that engine's program order."""
    SOFTWARE = 3
    """GpSimdE, in its program order."""
    HARDWARE_EITHER = 4
    """A block beside SyncE or ScalarE, whichever is free first: where the compiler chooses."""


SHARED_PORT = 1
"""Of VectorE: an instruction that locks the port to SBUF that it shares with GpSimdE."""


def array_cells(row: int, rows: int, column: int, columns: int) -> int:
    """Return the number that stands for a rectangle of blocks: a bit for each."""
    line = ((1 << columns) - 1) << column
    return sum(line << BLOCKS * at for at in range(row, row + rows))


def tensor_demand(cells: int, load_cycles: int, active_cycles: int) -> int:
    """Return what a matmul needs.

    Parameters
    ----------
    cells
        From `array_cells`.
    load_cycles
        Time to load the weights, at full clock.
    active_cycles
        Columns streamed, times the share of rows in use: what keeps the clock up.
    """
    return cells | load_cycles << _FIELD | active_cycles << 2 * _FIELD


def read_tensor_demand(number: int) -> tuple[int, int, int]:
    """Return cells, load cycles and active cycles."""
    if number < 0:
        return ALL_CELLS, 0, 0
    return number & _MASK, number >> _FIELD & _MASK, number >> 2 * _FIELD
