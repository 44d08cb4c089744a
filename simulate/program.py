"""One run of one kernel: its tensors, its trace, its counters, and which run is active.

Instructions find the program they belong to through `current`; everything that a kernel allocates
or executes is recorded here and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FrameType

import numpy as np

from nkiconv.simulate.dtypes import ELEMENT_TYPES, Array
from nkiconv.simulate.errors import CapacityError, ConstraintError, ShapeError
from nkiconv.simulate.hardware import HARDWARE, Hardware, current_target
from nkiconv.simulate.memory import Allocation, Storage
from nkiconv.simulate.tensor import SPACE, MemoryRegion, NkiTensor
from nkiconv.simulate.trace import Trace

_HERE = str(Path(__file__).resolve().parent) + os.sep

_current: ContextVar[Program | None] = ContextVar("nkiconv_program", default=None)


class Program:
    """Everything that one kernel launch allocates and executes.

    Attributes
    ----------
    kernel
        Name of the kernel.
    hardware
        Facts of the target that the run is for.
    trace, allocations
        Instructions and tensors, in program order.  A tensor's bytes go with its last view, so that
        memory grows with the number of instructions and not with the bytes that they move.
    hbm_read_bytes, hbm_write_bytes, dma_transfers, macs, moving_columns
        Counters that instructions add to.
    hbm_read_bytes_by_tensor
        `hbm_read_bytes` by name of the tensor: of the kernel's parameter, or as allocated.
    macs_by_type
        Multiply-accumulates by dtype of the moving operand.
    scalar_registers
        ScalarE's accumulation registers, one for each partition.
    vector_registers, vector_registers_known
        VectorE's accumulation registers, one for each partition, and whether an instruction of
        this program has left a documented value in them.
    """

    def __init__(self, kernel: str, target: str | None = None) -> None:
        self.kernel = kernel
        self.hardware: Hardware = HARDWARE[target or current_target()]
        self.trace = Trace()
        self.allocations: list[Allocation] = []
        self.hbm_read_bytes = 0
        self.hbm_write_bytes = 0
        self.hbm_read_bytes_by_tensor: Counter[str] = Counter()
        self.dma_transfers = 0
        self.macs = 0
        self.moving_columns = 0
        self.macs_by_type: Counter[str] = Counter()
        self.scalar_registers = np.zeros(self.hardware.partitions, dtype=np.float32)
        self.vector_registers = np.full(self.hardware.partitions, np.nan, dtype=np.float32)
        self.vector_registers_known = np.zeros(self.hardware.partitions, dtype=np.bool_)
        self._lines: dict[tuple[CodeType, int], int] = {}

    def line_number(self, code: CodeType, line: int) -> int:
        """Return the trace's number for a source line of the kernel."""
        found = self._lines.get((code, line))
        if found is None:
            place = f"{Path(code.co_filename).name}:{line}"
            found = self._lines[code, line] = self.trace.number(place)
        return found

    def allocate(
        self, shape: tuple[int, ...], dtype: str, region: MemoryRegion, name: str
    ) -> NkiTensor:
        """Allocate a tensor with fresh, poisoned memory.

        Raises
        ------
        ShapeError, CapacityError
            More partitions than the memory has, or more bytes a partition than fit at all.
        """
        space = SPACE[region]
        if space != "hbm":
            self._check_extent(shape, dtype, space)
        made = Allocation(len(self.allocations), space, shape, dtype, name, kernel_line())
        self.allocations.append(made)
        return NkiTensor(shape, dtype, Storage(made), region, name)

    def wrap_input(
        self, values: Array, dtype: str, name: str, *, read_only: bool = False
    ) -> NkiTensor:
        """Make a kernel argument out of a host array (C order), without a copy."""
        flat = values.reshape(-1).view("u1")
        shape = values.shape or (1,)
        made = Allocation(len(self.allocations), "hbm", shape, dtype, name, "kernel argument")
        self.allocations.append(made)
        storage = Storage(made, buffer=flat, read_only=read_only)
        return NkiTensor(shape, dtype, storage, MemoryRegion.shared_hbm, name)

    def _check_extent(self, shape: tuple[int, ...], dtype: str, space: str) -> None:
        hw = self.hardware
        op = f"nl.ndarray(buffer=nl.{space})"
        if len(shape) < 2:
            raise ShapeError(
                f"{op}: an on-chip tensor needs a partition and a free dimension, got {shape} "
                "(vendor language guide, Tensor Values)"
            )
        if shape[0] > hw.partitions:
            raise ShapeError(
                f"{op}: {shape[0]} partitions in {shape}; {space.upper()} has {hw.partitions} "
                "(nl.tile_size.pmax)"
            )
        free_bytes = ELEMENT_TYPES[dtype].itemsize
        for size in shape[1:]:
            free_bytes *= size
        limit, source = (
            (hw.sbuf_usable_bytes, "nl.tile_size.sbuf_fmax_bytes")
            if space == "sbuf"
            else (hw.psum_banks * hw.psum_bank_bytes, "8 banks of 2 KiB, architecture guide")
        )
        if free_bytes > limit:
            raise CapacityError(
                f"{op}: {dtype}{list(shape)} takes {free_bytes} B per partition; {space.upper()} "
                f"of {hw.target} has {limit} ({source})"
            )


def current(op: str) -> Program:
    """Return the active program.

    Raises
    ------
    ConstraintError
        No kernel is running.
    """
    program = _current.get()
    if program is None:
        raise ConstraintError(
            f"{op}: only works inside a kernel; run it with nki.simulate(kernel)(...) or "
            "nkiconv.simulate.simulate_kernel(kernel, ...)"
        )
    return program


def active() -> Program | None:
    """Return the active program, or None."""
    return _current.get()


@contextmanager
def running(program: Program) -> Iterator[Program]:
    """Make `program` the active one inside the block."""
    token = _current.set(program)
    try:
        yield program
    finally:
        _current.reset(token)


def is_simulator(filename: str) -> bool:
    """Whether code of this file belongs to the simulator, not to a kernel."""
    return filename.startswith(_HERE)


def kernel_frame(skip: int = 0) -> FrameType:
    """Return the innermost frame outside the simulator.

    `skip` is how many of the caller's callers are known to be the simulator's.
    """
    frame = sys._getframe(1 + skip)
    while is_simulator(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def kernel_line() -> str:
    """Return ``file.py:line`` of the innermost frame outside the simulator."""
    frame = kernel_frame()
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
