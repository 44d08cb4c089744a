"""TensorE: the 128x128 systolic array.

``nc_matmul`` streams the moving operand through the stationary one, a column a cycle, and adds the
products in float32 in PSUM.  ``nc_matmul_mx`` is in `tensor_mx`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.columns import MATMUL_DTYPES, Columns
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import (
    chosen_lane,
    elementwise_cost,
    same_dtype,
    wide_stride,
    written,
)
from nkiconv.simulate.engines._matmul import (
    Tile,
    in_the_corner,
    multiplied,
    one_bank,
    resolve_accumulate,
    shape_rules,
    tensor_cost,
    tile_of,
    tile_rules,
)
from nkiconv.simulate.enums import engine, matmul_perf_mode
from nkiconv.simulate.errors import DtypeError, HazardError, ShapeError
from nkiconv.simulate.memory import BY_MATMUL, UNWRITTEN
from nkiconv.simulate.sheet import (
    ON_CHIP,
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
from nkiconv.simulate.trace import Lane

_WIDE = frozenset({"float32", "tfloat32"})
_FLOAT8 = frozenset({"float8_e4m3", "float8_e5m2", "float8_e4m3fn"})
MATMUL_INPUTS = _WIDE | _FLOAT8 | {"bfloat16", "float16"}
"""Element types that TensorE multiplies (isa nc_matmul); float8_e4m3fn on trn3 only."""

_DOUBLE = (matmul_perf_mode.double_row, matmul_perf_mode.double_row.value)
_MODES = (*_DOUBLE, matmul_perf_mode.none, matmul_perf_mode.none.value)
"""Modes, and their values, which the vendor's kernel library passes as well."""


def _double(call: Call) -> bool:
    return call["perf_mode"] in _DOUBLE


def _columns(call: Call, name: str) -> int:
    """Return the columns of an operand; ``double_row`` has two elements for each."""
    elems = free_elems(call[name])
    return elems // 2 if _double(call) else elems


def _passes_bits(call: Call) -> bool:
    """Whether TensorE's transpose mode moves bits; NeuronCore-v2 multiplies all the same."""
    return bool(call["is_transpose"]) and call.hw.generation > 2


def _matmul_cost(call: Call) -> Cost:
    """Return the cost of one matmul; the weights of the next one load behind it (A2)."""
    hw = call.hw
    columns, weights = _columns(call, "moving"), _columns(call, "stationary")
    if wide_stride(call["moving"], hw.wide_stride_bytes):
        columns *= 2
    if call["moving"].dtype != "float32":
        cycles = max(columns, hw.matmul_min_cycles) + hw.matmul_gap_cycles
        return tensor_cost(call, cycles, columns, weights / hw.weight_load_columns)
    once = call["is_stationary_onezero"] or call["is_moving_onezero"] or _passes_bits(call)
    passes = 1 if once else hw.float32_matmul_passes
    rows = hw.float32_matmul_row_cycles * columns
    load = hw.float32_weight_load_cycles * weights
    each = max(rows, load, hw.matmul_min_cycles) + hw.matmul_gap_cycles
    return tensor_cost(call, passes * each, passes * rows, load)


def _work(call: Call) -> tuple[str, int, int] | None:
    if call["is_transpose"]:
        return None
    moving = call["moving"]
    # Two elements of moving meet two of stationary in each cell of double_row.
    macs = partitions(moving) * _columns(call, "stationary") * free_elems(moving)
    return moving.dtype, macs, _columns(call, "moving")


def _prepare_matmul(call: Call) -> None:
    if not _passes_bits(call):
        resolve_accumulate(call)
        return
    _, latest = call["dst"]._storage.writers(call["dst"], call["dst"]._element)
    if call["accumulate"] or (call["accumulate"] is None and latest != UNWRITTEN):
        raise HazardError(
            "nisa.nc_matmul: a transpose passes bits on and cannot add them to what dst holds "
            f"({call.describe()}); set accumulate=False, or use a fresh tensor "
            f"({arch('Built-in Transpose Support')})",
            code="nc_matmul.transpose_adds",
        )
    call.args["accumulate"] = False
    call.extra = {"_bits": True}


def _pairs(call: Call) -> bool:
    return (call["stationary"].dtype in _WIDE) == (call["moving"].dtype in _WIDE)


def _fp8_kinds(call: Call) -> bool:
    kinds = {call["stationary"].dtype, call["moving"].dtype}
    return not {"float8_e4m3", "float8_e4m3fn"} <= kinds


def _fp8_generation(call: Call) -> bool:
    kinds = {call["stationary"].dtype, call["moving"].dtype}
    return "float8_e4m3fn" not in kinds or call.hw.generation >= 4


def _result_type(call: Call) -> bool:
    if _passes_bits(call):
        return True  # the next rule
    allowed = ("float32",) if call.hw.generation < 4 else ("float32", "bfloat16")
    return call["dst"].dtype in allowed


def _transposed_type(call: Call) -> bool:
    if not _passes_bits(call):
        return True
    kind = call["stationary"].dtype
    return bool(call["dst"].dtype == ("uint16" if kind in _FLOAT8 else kind))


def _only_ones_and_zeros(call: Call) -> bool:
    for flag, name in (("is_stationary_onezero", "stationary"), ("is_moving_onezero", "moving")):
        if call[flag] and written(call[name]):
            values = call[name]._float32
            if not np.all((values == 0) | (values == 1)):
                return False
    return True


def _by_the_identity(call: Call) -> bool:
    moving = call["moving"]
    size = partitions(moving)
    if free_elems(moving) != size:
        return False
    if not written(moving):
        return True  # the check of reads refuses it in its own words
    return np.array_equal(moving._float32.reshape(size, size), np.eye(size, dtype=np.float32))


def _double_layout(call: Call) -> bool:
    both = (call["stationary"], call["moving"])
    return not _double(call) or all(t.ndim > 2 and t.shape[1] == 2 for t in both)


def _double_types(call: Call) -> bool:
    return not _double(call) or {call["stationary"].dtype, call["moving"].dtype} <= _FLOAT8


def _double_alone(call: Call) -> bool:
    whole = tile_of(call).columns == call.hw.stationary_max_columns
    return not _double(call) or (whole and not call["is_transpose"])


def _untiled(call: Call) -> bool:
    turned = call["is_transpose"] and call["moving"].is_indirect()
    return not turned and in_the_corner(call)


_UNTILED = (
    "tile_position must be unset or (0, 0), and moving an ordinary view where is_transpose is set",
    _untiled,
)


@instruction(
    lane=Lane.TENSOR,
    operands={
        "dst": Operand(PSUM, Role.WRITE, fetch=Fetch.RAW),
        "stationary": Operand(
            SBUF,
            dtypes=MATMUL_INPUTS,
            fetch=lambda call: Fetch.RAW if _passes_bits(call) else Fetch.FLOAT32,
        ),
        "moving": Operand(SBUF, dtypes=MATMUL_INPUTS),
    },
    rules=(
        Rule(
            "perf_mode must be matmul_perf_mode.none or matmul_perf_mode.double_row",
            lambda c: c["perf_mode"] in _MODES,
            isa("nc_matmul"),
            shows=lambda c: f"{c['perf_mode']!r}",
            code="perf_mode",
        ),
        Rule(
            "perf_mode double_row needs trn2 or newer",
            lambda c: not _double(c) or c.hw.double_row_products > 1,
            isa("nc_matmul"),
            shows=lambda c: c.hw.target,
            code="double_generation",
        ),
        Rule(
            "perf_mode double_row takes float8 operands only",
            _double_types,
            isa("nc_matmul"),
            error=DtypeError,
        ),
        Rule(
            "perf_mode double_row splits the contraction over the partitions and a first free "
            "dimension of 2, in stationary and moving",
            _double_layout,
            isa("nc_matmul") + ", Layout",
            error=ShapeError,
        ),
        *tile_rules("nc_matmul"),
        Rule(
            "perf_mode double_row cannot be combined with column tiles or is_transpose",
            _double_alone,
            arch("Double FP8 Matmul Performance"),
            shows=lambda c: (
                f"is_transpose={c['is_transpose']!r}, tile_position={c['tile_position']!r}, "
                f"tile_size={c['tile_size']!r}"
            ),
        ),
        *shape_rules(
            "nc_matmul", lambda c: _columns(c, "stationary"), lambda c: _columns(c, "moving")
        ),
        Rule(
            "float32 pairs only with float32",
            _pairs,
            isa("nc_matmul"),
            error=DtypeError,
            code="float32_pairs",
        ),
        Rule(
            "float8_e4m3 and float8_e4m3fn cannot be mixed",
            _fp8_kinds,
            isa("nc_matmul"),
            error=DtypeError,
        ),
        Rule("float8_e4m3fn needs trn3", _fp8_generation, isa("nc_matmul"), error=DtypeError),
        Rule(
            "dst must be float32 (or bfloat16 on trn3)",
            _result_type,
            isa("nc_matmul"),
            error=DtypeError,
        ),
        Rule(
            "from trn2 on a transpose writes the dtype of stationary, and float8 as uint16 with "
            "zeros in the upper half",
            _transposed_type,
            arch("Built-in Transpose Support"),
            error=DtypeError,
        ),
        Rule(
            "dst must lie in one PSUM bank of 2 KiB",
            one_bank,
            arch("PSUM accumulation"),
            dynamic=True,
        ),
        Rule(
            "an operand flagged onezero must hold only ones and zeros",
            _only_ones_and_zeros,
            isa("nc_matmul"),
            error=HazardError,
            dynamic=True,
            applies=lambda c: c["is_stationary_onezero"] or c["is_moving_onezero"],
        ),
        Rule(
            "moving of a transpose must be the identity matrix",
            _by_the_identity,
            isa("nc_matmul") + ", Transpose mode",
            error=HazardError,
            dynamic=True,
            applies=lambda c: bool(c["is_transpose"]),
        ),
    ),
    prepare=_prepare_matmul,
    work=_work,
    cost=_matmul_cost,
    writes_as=BY_MATMUL,
    columns=Columns(("stationary", "moving"), also=_UNTILED, dtypes=MATMUL_DTYPES),
    sources=(isa("nc_matmul"), arch("Tensor Engine, cost model")),
)
def nc_matmul(
    dst: Any,
    stationary: Any,
    moving: Any,
    is_stationary_onezero: Any = False,
    is_moving_onezero: Any = False,
    is_transpose: Any = False,
    accumulate: Any = None,
    tile_position: Any = (),
    tile_size: Any = (),
    perf_mode: Any = matmul_perf_mode.none,
    name: Any = None,
    *,
    _bits: bool = False,
) -> Array:
    """``dst (+)= stationary.T @ moving``, products summed in float32; or ``dst = stationary.T``.

    Shapes
    ------
    stationary (K, M)   moving (K, N)   dst (M, N); K, M <= 128; free dimensions may be several
    With ``perf_mode=double_row`` stationary is (K, 2, M) and moving (K, 2, N).
    """
    if _bits:
        turned: Array = stationary.reshape(stationary.shape[0], -1).T
        return turned if turned.itemsize > 1 else turned.view(np.uint8).astype(np.uint16)
    if stationary.ndim != 2 or moving.ndim != 2:
        contracted = stationary.shape[0] * (2 if perf_mode in _DOUBLE else 1)
        stationary = stationary.reshape(contracted, -1)
        moving = moving.reshape(contracted, -1)
    return multiplied(dst, stationary.T, moving, accumulate)


def _transpose_lane(call: Call) -> Lane:
    by_matmul = call["data"]._storage.space == "sbuf" and call["dst"]._storage.space == "psum"
    default = Lane.TENSOR if by_matmul else Lane.VECTOR
    return chosen_lane(call, (Lane.TENSOR, Lane.VECTOR), default)


def _transpose_spaces(call: Call) -> bool:
    return call.lane is not Lane.TENSOR or (
        call["data"]._storage.space == "sbuf" and call["dst"]._storage.space == "psum"
    )


def _transpose_size(call: Call) -> bool:
    most = 128 if call.lane is Lane.TENSOR else 32
    return partitions(call["data"]) <= most and free_elems(call["data"]) <= most


def _transpose_cost(call: Call) -> Cost:
    if call.lane is Lane.VECTOR:
        return elementwise_cost(call, 1.0)
    hw = call.hw
    data = call["data"]
    rows = max(partitions(data), min(hw.matmul_min_cycles, free_elems(data)))
    per_row = hw.float32_matmul_row_cycles if data.dtype == "float32" else 1
    wide = data.dtype == "float32"
    load = hw.float32_weight_load_cycles if wide else 1 / hw.weight_load_columns
    return tensor_cost(
        call,
        rows * per_row + hw.matmul_gap_cycles,
        rows * per_row,
        load * free_elems(data),
        Tile(0, 0, hw.partitions, hw.stationary_max_columns),
    )


def _note_generation(call: Call) -> None:
    call.extra = {
        "_by_matmul": call.lane is Lane.TENSOR and call.hw.generation < 3,
    }


@instruction(
    lane=_transpose_lane,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP, fetch=Fetch.RAW),
    },
    rules=(
        same_dtype("dst", "data", "nc_transpose"),
        Rule(
            "dst must have the transposed shape of data",
            lambda c: (
                partitions(c["dst"]) == free_elems(c["data"])
                and free_elems(c["dst"]) == partitions(c["data"])
            ),
            isa("nc_transpose"),
            error=ShapeError,
            code="transposed_shape",
        ),
        Rule(
            "TensorE reads data from SBUF and writes dst to PSUM",
            _transpose_spaces,
            isa("nc_transpose"),
        ),
        Rule(
            "TensorE transposes at most 128x128, VectorE at most 32x32",
            _transpose_size,
            isa("nc_transpose"),
            error=ShapeError,
        ),
        Rule(
            "TensorE transposes floating-point tiles only",
            lambda c: c.lane is not Lane.TENSOR or c["data"].dtype in MATMUL_INPUTS,
            isa("nc_matmul") + ", Data types",
            error=DtypeError,
            code="float_only",
        ),
    ),
    prepare=_note_generation,
    cost=_transpose_cost,
    sources=(isa("nc_transpose"), arch("Tensor Engine, transpose")),
)
def nc_transpose(
    dst: Any, data: Any, engine: Any = engine.unknown, name: Any = None, *, _by_matmul: bool = False
) -> Array:
    """``dst = data.T`` between partitions and the flattened free dimensions.

    On NeuronCore-v2 TensorE multiplies by the identity, so that one NaN or Inf spoils its column.
    """
    flat = data.reshape(data.shape[0], -1)
    if _by_matmul:
        values = flat.astype(np.float32)
        if not np.isfinite(values).all():
            product: Array = values.T @ np.eye(values.shape[0], dtype=np.float32)
            return product
    transposed: Array = flat.T
    return transposed
