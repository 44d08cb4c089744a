"""One run of one kernel: its tensors, its trace, its counters, and which run is active.

Instructions find the program they belong to through `current`; everything that a kernel allocates
or executes is recorded here and nowhere else.
"""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nkiconv.simulate.dtypes import ELEMENT_TYPES, Array
from nkiconv.simulate.errors import CapacityError, ConstraintError, ShapeError
from nkiconv.simulate.hardware import HARDWARE, Hardware, current_target
from nkiconv.simulate.late import LateTransfers
from nkiconv.simulate.memory import Allocation, Storage
from nkiconv.simulate.tensor import SPACE, MemoryRegion, NkiTensor
from nkiconv.simulate.trace import LANES, Lane, Trace

if TYPE_CHECKING:
    from nkiconv.simulate.engines._random import Generator

_HERE = str(Path(__file__).resolve().parent) + os.sep

_SHOWN_LINES = 3
"""Lines of the kernel named where a program is too large."""

_current: ContextVar[Program | None] = ContextVar("nkiconv_program", default=None)


class Cores(Protocol):
    """What the cores of a logical one share; see `cores`."""

    count: int

    def shared(
        self, core: int, shape: tuple[int, ...], dtype: str, make: Callable[[], Storage]
    ) -> Storage:
        """Return the storage of a core's next tensor in shared HBM; the first core makes it."""

    def wait(self, core: int, op: str, key: object, value: Any, line: str) -> list[Any]:
        """Wait until every core has come to the same place; return what each brought along."""


class Race(Protocol):
    """Notes which core of a logical one touches what in HBM, and refuses what is not ordered."""

    def note(self, op: str, tensor: NkiTensor, core: int, writes: bool) -> None:
        """Note an access of `core`; raise HazardError where another core's is not ordered."""

    def clear(self, tensor: NkiTensor) -> None:
        """Forget what was before a barrier on a tensor."""


class Program:
    """Everything that one kernel launch allocates and executes on one NeuronCore.

    Attributes
    ----------
    kernel
        Name of the kernel.
    hardware
        Facts of the target that the run is for.
    grid
        The launch grid, ``(2,)`` for both cores of a logical one; empty where none was given.
    core, cores, race
        Which core this is, what it shares with the other one, and who has touched what.
    repeated
        Instructions of `trace` that an on-chip loop executed again: the program has them once.
    loops, no_reorder_depth
        On-chip loops, and ``nl.no_reorder`` blocks, that execution is inside of.
    trace, allocations
        Instructions and tensors, in program order, of all cores.  A tensor's bytes go with its
        last view, so that memory grows with the number of instructions and not with the bytes
        that they move.
    hbm_read_bytes, hbm_write_bytes, dma_transfers, macs, moving_columns
        Counters that instructions add to.
    hbm_read_bytes_by_tensor
        `hbm_read_bytes` by name of the tensor: of the kernel's parameter, or as allocated.
    macs_by_type
        Multiply-accumulates by dtype of the moving operand.
    late
        Transfers that wait for a reason to happen; None where DMA is eager.
    scalar_registers
        ScalarE's accumulation registers, one for each partition.
    vector_registers, vector_registers_known
        VectorE's accumulation registers, one for each partition, and whether an instruction of
        this program has left a documented value in them.
    random
        The engines' random number generators, by engine, made when first used.
    identities
        Constants that nl.shared_identity_matrix has made, by size and dtype.
    """

    def __init__(self, kernel: str, target: str | None = None) -> None:
        self.kernel = kernel
        self.hardware: Hardware = HARDWARE[target or current_target()]
        self.grid: tuple[int, ...] = ()
        self.core = 0
        self.lane_base = 0
        self.cores: Cores | None = None
        self.race: Race | None = None
        self.repeated = 0
        self.loops: list[Any] = []  # of `loops`
        self.no_reorder_depth = 0
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
        self.late: LateTransfers | None = None
        self.random: dict[Lane, Generator] = {}
        self.identities: dict[tuple[int, str], NkiTensor] = {}
        self._lines: dict[tuple[CodeType, int], int] = {}
        self._places: dict[tuple[int, int], int] = {}

    @property
    def core_count(self) -> int:
        """NeuronCores that the launch is for."""
        return self.grid[0] if self.grid else 1

    def sibling(self, core: int) -> Program:
        """Return the program of another core of the same launch: one record, other memories."""
        made = Program(self.kernel, self.hardware.target)
        made.grid, made.core, made.lane_base = self.grid, core, core * LANES
        made.trace, made.allocations = self.trace, self.allocations
        return made

    def join(self, other: Program) -> None:
        """Add the counters of another core's program to this one's."""
        self.hbm_read_bytes += other.hbm_read_bytes
        self.hbm_write_bytes += other.hbm_write_bytes
        self.hbm_read_bytes_by_tensor += other.hbm_read_bytes_by_tensor
        self.dma_transfers += other.dma_transfers
        self.macs += other.macs
        self.moving_columns += other.moving_columns
        self.macs_by_type += other.macs_by_type
        self.repeated += other.repeated

    def add_work(self, kind: str, macs: int, columns: int) -> None:
        """Count a matmul: dtype of moving, multiply-accumulates, columns streamed."""
        self.macs += macs
        self.macs_by_type[kind] += macs
        self.moving_columns += columns

    def source_number(self, skip: int) -> int:
        """Return the trace's number for the line that the kernel executes.

        `skip` is how many of the caller's callers are known to be the simulator's.
        """
        frame = sys._getframe(1 + skip)
        # Where in its code a frame is costs less to ask than the line that this belongs to.  The
        # code's id stays its own: `_lines` holds on to the code.
        place = (id(frame.f_code), frame.f_lasti)
        found = self._places.get(place)
        if found is None:
            outside = kernel_frame(frame)
            found = self.line_number(outside.f_code, outside.f_lineno)
            if outside is frame:  # else it depends on more than this place
                self._places[place] = found
        return found

    def line_number(self, code: CodeType, line: int) -> int:
        """Return the trace's number for a source line of the kernel."""
        found = self._lines.get((code, line))
        if found is None:
            place = f"{_base_name(code.co_filename)}:{line}"
            found = self._lines[code, line] = self.trace.number(place)
        return found

    def allocate(
        self,
        shape: tuple[int, ...],
        dtype: str,
        region: MemoryRegion,
        name: str,
        address: tuple[int, int] | None = None,
    ) -> NkiTensor:
        """Allocate a tensor with fresh, poisoned memory.

        `address` is the first partition and the first byte in it; None leaves both to `placement`.

        Raises
        ------
        ShapeError, CapacityError, ConstraintError
            More partitions than the memory has, more bytes a partition than fit, or an address
            that does not exist or is not aligned.
        HazardError
            The cores of a logical one ask for different shared tensors.
        """
        space = SPACE[region]
        if space != "hbm":
            self._check_extent(shape, dtype, space)
        if address is not None:
            address = self._checked_address(shape, dtype, space, address)

        def make() -> Storage:
            made = Allocation(
                len(self.allocations),
                space,
                shape,
                dtype,
                name,
                kernel_line(),
                core=self.core,
                address=address,
            )
            self.allocations.append(made)
            return Storage(made)

        if region is MemoryRegion.shared_hbm and self.cores is not None:
            storage = self.cores.shared(self.core, shape, dtype, make)
        else:
            storage = make()
        return NkiTensor(shape, dtype, storage, region, name)

    def _checked_address(
        self, shape: tuple[int, ...], dtype: str, space: str, address: object
    ) -> tuple[int, int]:
        hw = self.hardware
        op = f"nl.ndarray(address={address!r})"
        if space == "hbm":
            raise ConstraintError(
                f"{op}: a tensor in HBM has no address that a kernel can choose",
                code="tensor.address",
            )
        numbers = address if isinstance(address, (tuple, list)) else ()
        if len(numbers) != 2 or not all(type(n) is int and n >= 0 for n in numbers):
            raise ConstraintError(
                f"{op}: must be (first partition, first byte), two integers from 0 on "
                "(nki.language.ndarray)",
                code="tensor.address",
            )
        first, begin = numbers
        unit, source = (
            (hw.psum_bank_bytes, "a PSUM tensor starts at a bank; migration guide")
            if space == "psum"
            else (hw.sbuf_align_bytes, "nl.tile_size.sbuf_min_align")
        )
        if begin % unit:
            raise ConstraintError(
                f"{op}: byte {begin} is no multiple of {unit} ({source})", code="tensor.address"
            )
        if first % hw.quadrant_partitions or first + shape[0] > hw.partitions:
            raise ConstraintError(
                f"{op}: {shape[0]} partitions from {first}; they start at a multiple of "
                f"{hw.quadrant_partitions} and end within {hw.partitions} "
                "(architecture guides, Accessing SBUF/PSUM tensors)",
                code="tensor.address",
            )
        limit = hw.sbuf_usable_bytes if space == "sbuf" else hw.psum_banks * hw.psum_bank_bytes
        end = begin + prod(shape[1:]) * ELEMENT_TYPES[dtype].itemsize
        if end > limit:
            raise CapacityError(
                f"{op}: {dtype}{list(shape)} would end at byte {end} of each partition; "
                f"{space.upper()} of {hw.target} has {limit}",
                code=f"{space}.tensor_size",
            )
        return first, begin

    def wrap_input(
        self, values: Array, dtype: str, name: str, *, read_only: bool = False
    ) -> NkiTensor:
        """Make a kernel argument out of a host array (C order), without a copy."""
        flat = values.reshape(-1).view("u1")
        shape = values.shape or (1,)
        made = Allocation(len(self.allocations), "hbm", shape, dtype, name, "kernel argument")
        self.allocations.append(made)
        storage = Storage(made, buffer=flat, read_only=read_only)
        # Kernels may look: as the vendor's simulator hands arguments in (its page, Execution).
        region = MemoryRegion.shared_hbm if self.core_count > 1 else MemoryRegion.private_hbm
        return NkiTensor(shape, dtype, storage, region, name)

    def settle(self) -> None:
        """Let all transfers that still wait happen, as at the end of the kernel."""
        if self.late is not None:
            self.late.settle_all()

    def too_large(self) -> CapacityError:
        """Return the refusal of one instruction more than a program may have."""
        count = len(self.trace) - self.repeated
        lines = "".join(
            f"\n  {number:>9,} of them at {place}"
            for place, number in self.trace.sources().most_common(_SHOWN_LINES)
        )
        return CapacityError(
            f"{self.kernel}: more than {count:,} instructions, every loop unrolled; the limit is "
            f"{self.hardware.program_max_instructions:,} (compiler errors NCC_EBVF030 and "
            f"NCC_EVRF007){lines}",
            code="program.instructions",
        )

    def _check_extent(self, shape: tuple[int, ...], dtype: str, space: str) -> None:
        hw = self.hardware
        op = f"nl.ndarray(buffer=nl.{space})"
        if len(shape) < 2:
            raise ShapeError(
                f"{op}: an on-chip tensor needs a partition and a free dimension, got {shape} "
                "(vendor language guide, Tensor Values)",
                code="tensor.free_dimension",
            )
        if shape[0] > hw.partitions:
            raise ShapeError(
                f"{op}: {shape[0]} partitions in {shape}; {space.upper()} has {hw.partitions} "
                "(nl.tile_size.pmax)",
                code="tensor.partitions",
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
                f"of {hw.target} has {limit} ({source})",
                code=f"{space}.tensor_size",
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
            "nkiconv.simulate.simulate_kernel(kernel, ...)",
            code="program.outside",
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


def kernel_frame(frame: FrameType | None = None) -> FrameType:
    """Return the innermost frame outside the simulator, from `frame` or here on outwards."""
    if frame is None:
        frame = sys._getframe(1)
    while is_simulator(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def kernel_line() -> str:
    """Return ``file.py:line`` of the innermost frame outside the simulator."""
    frame = kernel_frame()
    return f"{_base_name(frame.f_code.co_filename)}:{frame.f_lineno}"


@functools.cache
def _base_name(filename: str) -> str:
    return Path(filename).name
