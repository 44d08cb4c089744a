"""Microscaled (MX) matmuls of NeuronCore-v4: VectorE quantizes, TensorE multiplies.

Groups of 32 numbers along the contraction, 8 partitions of 4 packed numbers each, share one scale,
a power of two: ``x = element * 2 ** (scale - 127)``.  A group's scale lies in the quadrant of 32
partitions that its data is in; a quadrant has four groups, hence four partitions of scales:

    data partitions    0:8  8:16  16:24  24:32 | 32:40 ...
    scale partition      0     1      2      3 | 32    ...      (or 4, 8 or 12 further on)

Four tensors of scales fit side by side into one tile that way.  Operands of up to 32 partitions
need the four partitions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np

from nkiconv.simulate.columns import Columns, same_columns
from nkiconv.simulate.dtypes import Array, packed, unpacked
from nkiconv.simulate.engines._common import elementwise_cost, needs, wide_stride, written
from nkiconv.simulate.engines._matmul import (
    in_the_corner,
    lies_at,
    multiplied,
    resolve_accumulate,
    shape_rules,
    start_partition,
    tensor_cost,
    tile_of,
    tile_rules,
)
from nkiconv.simulate.errors import HazardError, ShapeError
from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.memory import BY_MATMUL
from nkiconv.simulate.sheet import (
    PSUM,
    SBUF,
    Call,
    Cost,
    Fetch,
    Operand,
    Role,
    Rule,
    arch,
    free_elems,
    instruction,
    isa,
    partitions,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_MEMBERS = 4
"""Numbers in a packed element."""

_GROUP_PARTITIONS = 8
"""Partitions that share a scale (isa quantize_mx, Layout)."""

_OFFSETS = (0, 4, 8, 12)
"""Where in a quadrant the scales may begin (MXFP deep dive, Packing Scale Values)."""

_BIAS = 127
"""Exponent bias of float8_e8m0fnu."""

_NAN_SCALE = 255

_MAX_EXPONENTS = {"float8_e5m2_x4": 15, "float8_e4m3fn_x4": 8}
"""Largest unbiased exponent of the members (isa quantize_mx, Scale calculation)."""

_FLOAT32_EXPONENT = 40
"""Scales within 2**-40 to 2**40 keep products and their sums well inside float32's range."""

_SCALES = frozenset({"float8_e8m0fnu", "uint8"})
_PACKED = frozenset({"float8_e5m2_x4", "float8_e4m3fn_x4", "float4_e2m1fn_x4"})


# --- Where scales lie ----------------------------------------------------------------------------


def _scale_rows(tensor: NkiTensor, call: Call) -> NkiTensor:
    """Return the part of a tile that holds scales: four partitions of each quadrant."""
    hw = call.hw
    quadrants = ceil(tensor.shape[0] / hw.quadrant_partitions)
    each = hw.quadrant_partitions // _GROUP_PARTITIONS
    step = tensor._storage.free_bytes // tensor._element.itemsize
    return tensor._view(
        (quadrants, each, *tensor.shape[1:]),
        (hw.quadrant_partitions * step, step, *tensor.strides[1:]),
        tensor.offset,
    )


def _enough_partitions(scale: NkiTensor, data: NkiTensor, hw: Hardware) -> bool:
    count, quadrant = partitions(data), hw.quadrant_partitions
    least = count - quadrant + quadrant // _GROUP_PARTITIONS
    return least <= partitions(scale) <= count


def _beside(scale: NkiTensor, data: NkiTensor, hw: Hardware) -> bool:
    quadrant = hw.quadrant_partitions
    offset = start_partition(scale) % quadrant
    first = start_partition(data) // quadrant * quadrant
    return offset in _OFFSETS and lies_at(scale, first + offset, quadrant)


def _scale_rules(page: str, **pairs: str) -> tuple[Rule, ...]:
    """Return what holds for each tensor of scales and its data, given as ``scale="data"``."""

    def all_pairs(holds: Callable[[NkiTensor, NkiTensor, Hardware], bool]) -> Any:
        return lambda c: all(holds(c[scale], c[data], c.hw) for scale, data in pairs.items())

    def starts(call: Call) -> str:
        both = [name for pair in pairs.items() for name in pair]
        return ", ".join(f"{name} from partition {start_partition(call[name])}" for name in both)

    named = " and ".join(pairs)
    return (
        Rule(
            f"{named} must have an element per partition for each packed element of the data",
            all_pairs(lambda scale, data, hw: free_elems(scale) == free_elems(data)),
            isa(page),
            error=ShapeError,
            code="scale_elements",
        ),
        Rule(
            f"{named} must have four partitions in each quadrant of 32 of the data, and no more "
            "partitions than that",
            all_pairs(_enough_partitions),
            isa("quantize_mx") + "; MXFP deep dive, Scale Tensor",
            error=ShapeError,
            code="scale_partitions",
        ),
        Rule(
            f"{named} must start 0, 4, 8 or 12 partitions into the quadrant of 32 where the data "
            "starts",
            all_pairs(_beside),
            "MXFP deep dive, Packing Scale Values",
            shows=starts,
            dynamic=True,
            code="scale_start",
        ),
    )


def _whole_quadrants(data: str) -> Rule:
    return Rule(
        f"{data} must have a multiple of 32 partitions",
        lambda c: partitions(c[data]) % c.hw.quadrant_partitions == 0,
        isa("quantize_mx") + " and nc_matmul_mx, Tile size",
        error=ShapeError,
    )


# --- Quantization --------------------------------------------------------------------------------


def _name_types(call: Call) -> None:
    call.extra = {"_element": call["dst"].dtype, "_scale": call["dst_scale"]._element.numpy}


def _finite(call: Call) -> bool:
    src = call["src"]
    return not written(src) or bool(np.isfinite(src._float32).all())


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(SBUF, Role.WRITE, dtypes=frozenset(_MAX_EXPONENTS)),
        "src": Operand(SBUF, dtypes=frozenset({"float16", "bfloat16"})),
        "dst_scale": Operand(SBUF, Role.WRITE, dtypes=_SCALES, any_start=True, touches=_scale_rows),
    },
    rules=(
        needs("quantize_mx", 4),
        _whole_quadrants("src"),
        Rule(
            "dst must have the partitions of src, and one packed element for each four of src",
            lambda c: (
                partitions(c["dst"]) == partitions(c["src"])
                and free_elems(c["dst"]) * _MEMBERS == free_elems(c["src"])
            ),
            isa("quantize_mx"),
            error=ShapeError,
            code="dst_shape",
        ),
        *_scale_rules("quantize_mx", dst_scale="dst"),
        Rule(
            "src must be finite: what becomes of a group with NaN or infinity is not documented",
            _finite,
            isa("quantize_mx"),
            error=HazardError,
            dynamic=True,
        ),
    ),
    prepare=_name_types,
    cost=lambda c: elementwise_cost(c, 1 / c.hw.quantize_elems_per_cycle),
    sources=(isa("quantize_mx"), arch("MX data-type Quantization")),
)
def quantize_mx(
    dst: Any,
    src: Any,
    dst_scale: Any,
    name: Any = None,
    *,
    _element: str = "",
    _scale: Any = np.uint8,
) -> tuple[Array, Array]:
    """``dst_scale = X = 2 ** (floor(log2(max |src|)) - (E - 1))`` by groups, ``dst = src / X``.

    E is the largest exponent of dst's members, so that X is twice what OCP's sample algorithm
    takes and nothing saturates.  A group of zeros, or of numbers too small, has X = 2**-127.

    Shapes
    ------
    src (P, 4 F)   dst (P, F) packed   dst_scale (P, F), of which four partitions in 32 are written
    """
    rows = src.shape[0]
    groups = src.reshape(rows // _GROUP_PARTITIONS, _GROUP_PARTITIONS, -1, _MEMBERS)
    largest = np.abs(groups).max(axis=(1, 3), keepdims=True)
    _, exponent = np.frexp(largest)  # largest = m * 2**exponent with m in [0.5, 1)
    shift = np.where(largest > 0, exponent - 1 - (_MAX_EXPONENTS[_element] - 1), -_BIAS)
    shift = np.maximum(shift, -_BIAS)
    members = np.ldexp(groups, -shift).reshape(rows, -1, _MEMBERS)
    codes = (shift + _BIAS).astype(np.uint8)
    return packed(members, _element), codes.view(_scale)


# --- Multiplication ------------------------------------------------------------------------------


def _mx_cost(call: Call) -> Cost:
    """Return the cost of one matmul: that of bfloat16, with four times the contraction (A4)."""
    hw = call.hw
    columns = free_elems(call["moving"])
    if wide_stride(call["moving"], hw.wide_stride_bytes):
        columns *= 2
    cycles = max(columns, hw.matmul_min_cycles) + hw.matmul_gap_cycles
    load = free_elems(call["stationary"]) / hw.weight_load_columns
    return tensor_cost(call, cycles, columns, load)


def _work(call: Call) -> tuple[str, int, int]:
    moving = call["moving"]
    columns = free_elems(moving)
    macs = _MEMBERS * partitions(moving) * free_elems(call["stationary"]) * columns
    return moving.dtype, macs, columns


def _prepare(call: Call) -> None:
    resolve_accumulate(call)
    call.extra = {"_stationary": call["stationary"].dtype, "_moving": call["moving"].dtype}


def _row_tiles_only(call: Call) -> bool:
    tile = tile_of(call)
    return tile.columns == call.hw.stationary_max_columns and tile.column == 0


def _pairs_agree(call: Call) -> bool:
    """Whether data and scales take the same columns: they are one tensor in two parts."""
    for data, scale in (("stationary", "stationary_scale"), ("moving", "moving_scale")):
        pair = (call[data], call[scale])
        if any(view.is_indirect() for view in pair) and not same_columns(*pair):
            return False
    return in_the_corner(call)


_COLUMNS = Columns(
    ("stationary", "moving", "stationary_scale", "moving_scale"),
    also=(
        "tile_position must be unset or (0, 0), and data and its scales must both be ordinary "
        "views or both take columns by the same index",
        _pairs_agree,
    ),
)


def _contracted(values: Array, dtype: str) -> Array:
    """Return the members with the contraction first: ``(P * 4, F)``."""
    rows = values.shape[0]
    return unpacked(values, dtype).reshape(rows, -1, _MEMBERS).swapaxes(1, 2).reshape(
        rows * _MEMBERS, -1
    )  # fmt: skip


def _factors(scale: Array) -> Array:
    """Return the scales' factors in float64, one row for each 32 of the contraction."""
    exponents = scale.view(np.uint8).astype(np.int32).reshape(scale.shape[0] * scale.shape[1], -1)
    factors = np.ldexp(1.0, exponents - _BIAS)
    return np.where(exponents == _NAN_SCALE, np.nan, factors)


@instruction(
    lane=Lane.TENSOR,
    operands={
        "dst": Operand(
            PSUM, Role.WRITE, dtypes=frozenset({"float32", "bfloat16"}), fetch=Fetch.RAW
        ),
        "stationary": Operand(SBUF, dtypes=_PACKED, fetch=Fetch.RAW),
        "moving": Operand(SBUF, dtypes=_PACKED, fetch=Fetch.RAW),
        "stationary_scale": Operand(
            SBUF, dtypes=_SCALES, fetch=Fetch.RAW, any_start=True, touches=_scale_rows
        ),
        "moving_scale": Operand(
            SBUF, dtypes=_SCALES, fetch=Fetch.RAW, any_start=True, touches=_scale_rows
        ),
    },
    rules=(
        needs("nc_matmul_mx", 4),
        *tile_rules("nc_matmul_mx"),
        Rule(
            "nc_matmul_mx has tiles of rows only: of tile_size the columns must be 128, of "
            "tile_position 0",
            _row_tiles_only,
            isa("nc_matmul_mx"),
            shows=lambda c: f"tile_position={c['tile_position']!r}, tile_size={c['tile_size']!r}",
        ),
        *shape_rules(
            "nc_matmul_mx",
            lambda c: free_elems(c["stationary"]),
            lambda c: free_elems(c["moving"]),
        ),
        _whole_quadrants("stationary"),
        Rule(
            "stationary must have an even number of columns",
            lambda c: free_elems(c["stationary"]) % 2 == 0,
            isa("nc_matmul_mx"),
            error=ShapeError,
            code="even_columns",
        ),
        *_scale_rules("nc_matmul_mx", stationary_scale="stationary", moving_scale="moving"),
    ),
    prepare=_prepare,
    work=_work,
    cost=_mx_cost,
    writes_as=BY_MATMUL,
    columns=_COLUMNS,
    sources=(isa("nc_matmul_mx"), arch("Quad-MXFP8/MXFP4 Matmul Performance")),
)
def nc_matmul_mx(
    dst: Any,
    stationary: Any,
    moving: Any,
    stationary_scale: Any,
    moving_scale: Any,
    tile_position: Any = None,
    tile_size: Any = None,
    accumulate: Any = None,
    name: Any = None,
    *,
    _stationary: str = "",
    _moving: str = "",
) -> Array:
    """``dst (+)= (stationary * scales).T @ (moving * scales)`` over partitions and packed members.

    Shapes
    ------
    stationary (K, M) packed   moving (K, N) packed   dst (M, N)   scales (K, M) and (K, N), of
    which four partitions in 32 are read; K a multiple of 32

    Notes
    -----
    Sums are float32, except where scales lie so far out that the product of an element and its
    scale might leave float32's range though the result does not: those are summed in float64.
    """
    sides = [
        (_contracted(stationary, _stationary), _factors(stationary_scale)),
        (_contracted(moving, _moving), _factors(moving_scale)),
    ]
    largest = max(float(np.abs(np.log2(factors)).max()) for _, factors in sides)
    wide = np.float32 if largest <= _FLOAT32_EXPONENT else np.float64
    weights, columns = (
        members * np.repeat(factors.astype(wide), _GROUP_PARTITIONS * _MEMBERS, axis=0)
        for members, factors in sides
    )
    if wide is np.float32:
        return multiplied(dst, weights.T, columns, accumulate)
    product: Array = (weights.T @ columns).astype(np.float32)
    return product + dst.reshape(product.shape).astype(np.float32) if accumulate else product
