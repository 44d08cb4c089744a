"""The embedded ``nki.language``: dtypes, memories, ranges, operators, and functions on tiles."""

# ruff: noqa: F401 - most names are only passed on

from __future__ import annotations

from typing import Any

from nkiconv.simulate import program as _program
from nkiconv.simulate.functions.creation import (
    empty_like,
    full,
    ndarray,
    ones,
    shared_constant,
    shared_identity_matrix,
    zeros,
    zeros_like,
)
from nkiconv.simulate.functions.elementwise import divide, fmod, logical_not, mod, where
from nkiconv.simulate.functions.movement import (
    broadcast_to,
    expand_dims,
    gather_flattened,
    load,
    load_transpose2d,
    matmul,
    store,
    transpose,
)
from nkiconv.simulate.functions.normalisation import rms_norm, softmax
from nkiconv.simulate.functions.ordering import device_print, no_reorder
from nkiconv.simulate.functions.random import dropout, rand, random_seed
from nkiconv.simulate.functions.reductions import all, max, mean, min, prod, sum, var
from nkiconv.simulate.functions.unary import ceil, cos, floor, negative, tan, trunc
from nkiconv.simulate.hardware import Hardware as _Hardware
from nkiconv.simulate.hardware import hardware as _hardware
from nkiconv.simulate.loops import dynamic_range, fori_loop, while_loop
from nkiconv.simulate.ops import OPS as _OPS
from nkiconv.simulate.tensor import DynamicSlice as _DynamicSlice
from nkiconv.simulate.tensor import MemoryRegion, NKIObject, NkiTensor

DType = str

bool_: DType = "bool_"
int8: DType = "int8"
int16: DType = "int16"
int32: DType = "int32"
uint8: DType = "uint8"
uint16: DType = "uint16"
uint32: DType = "uint32"
float16: DType = "float16"
float32: DType = "float32"
bfloat16: DType = "bfloat16"
tfloat32: DType = "tfloat32"
float8_e4m3: DType = "float8_e4m3"
float8_e4m3fn: DType = "float8_e4m3fn"
float8_e5m2: DType = "float8_e5m2"
float8_e8m0fnu: DType = "float8_e8m0fnu"
float8_e5m2_x4: DType = "float8_e5m2_x4"
float8_e4m3fn_x4: DType = "float8_e4m3fn_x4"
float4_e2m1fn_x4: DType = "float4_e2m1fn_x4"

sbuf = MemoryRegion.sbuf
psum = MemoryRegion.psum
private_hbm = MemoryRegion.private_hbm
shared_hbm = MemoryRegion.shared_hbm
hbm = private_hbm

globals().update(_OPS)


class _TileSize(NKIObject):
    """Sizes of the target in force, under the vendor's names."""

    @property
    def _hw(self) -> _Hardware:
        return _hardware()

    @property
    def pmax(self) -> int:
        """Partitions of a tile."""
        return self._hw.partitions

    @property
    def psum_bank_fmax_bytes(self) -> int:
        """Bytes per partition of a PSUM bank."""
        return self._hw.psum_bank_bytes

    @property
    def psum_bank_fmax(self) -> int:
        """Float32 elements per partition of a PSUM bank."""
        return self.psum_bank_fmax_bytes // 4

    @property
    def psum_fmax(self) -> int:
        """Deprecated by the vendor: `psum_bank_fmax`."""
        return self.psum_bank_fmax

    @property
    def psum_num_banks(self) -> int:
        """PSUM banks per partition."""
        return self._hw.psum_banks

    @property
    def gemm_stationary_fmax(self) -> int:
        """Columns of a matmul's stationary operand."""
        return self._hw.stationary_max_columns

    @property
    def gemm_moving_fmax(self) -> int:
        """Columns of a matmul's moving operand."""
        return self._hw.moving_max_columns

    @property
    def bn_stats_fmax(self) -> int:
        """Elements per partition of bn_stats."""
        return self._hw.bn_stats_max_elems

    @property
    def psum_min_align(self) -> int:
        """Alignment in PSUM, bytes."""
        return self._hw.psum_align_bytes

    @property
    def sbuf_min_align(self) -> int:
        """Alignment in SBUF, bytes."""
        return self._hw.sbuf_align_bytes

    @property
    def sbuf_size_bytes(self) -> int:
        """Bytes of the whole SBUF."""
        return self._hw.partitions * self._hw.sbuf_partition_bytes

    @property
    def sbuf_fmax_bytes(self) -> int:
        """Usable SBUF bytes per partition."""
        return self._hw.sbuf_usable_bytes

    @property
    def sbuf_fmax(self) -> int:
        """Usable SBUF float32 elements per partition."""
        return self.sbuf_fmax_bytes // 4

    @property
    def total_available_sbuf_size(self) -> int:
        """Deprecated by the vendor: `sbuf_fmax_bytes`."""
        return self.sbuf_fmax_bytes


tile_size = _TileSize()


def ds(start: int, size: int) -> _DynamicSlice:
    """Slice `size` elements from `start`."""
    return _DynamicSlice(start, size)


def static_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """Return Python's ``range``: the loop is unrolled."""
    return range(start) if stop is None else range(start, stop, step)


def affine_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """Return Python's ``range``; deprecated by the vendor."""
    return static_range(start, stop, step)


def sequential_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """Return Python's ``range``; deprecated by the vendor."""
    return static_range(start, stop, step)


def program_id(axis: int = 0) -> int:
    """Return which core of the launch grid this is: 0 or 1, and 0 without a grid."""
    program = _program.current("nl.program_id")
    _check_axis("nl.program_id", axis)
    return program.core


def num_programs(axes: int | tuple[int, ...] = 0) -> int:
    """Return the cores of the launch grid: 1 without one."""
    program = _program.current("nl.num_programs")
    for axis in axes if isinstance(axes, (tuple, list)) else (axes,):
        _check_axis("nl.num_programs", axis)
    return program.grid[0] if program.grid else 1


def program_ndim() -> int:
    """Return the dimensions of the launch grid: 0 without one."""
    return len(_program.current("nl.program_ndim").grid)


def _check_axis(op: str, axis: object) -> None:
    from nkiconv.simulate.errors import ConstraintError

    if type(axis) is not int or axis != 0:
        raise ConstraintError(
            f"{op}: a launch grid has one axis, 0; got {axis!r} (Using Logical Neuron Cores)",
            code="launch.axis",
        )


def is_hbm(buffer: MemoryRegion) -> bool:
    """Whether this is HBM."""
    return buffer in (private_hbm, shared_hbm)


def is_sbuf(buffer: MemoryRegion) -> bool:
    """Whether this is SBUF."""
    return buffer is sbuf


def is_psum(buffer: MemoryRegion) -> bool:
    """Whether this is PSUM."""
    return buffer is psum


def is_on_chip(buffer: MemoryRegion) -> bool:
    """Whether this is SBUF or PSUM."""
    return buffer in (sbuf, psum)


def __getattr__(name: str) -> Any:  # what the registries add is not visible to a type checker
    from nkiconv.simulate.coverage import missing

    raise missing("nki.language", name)
