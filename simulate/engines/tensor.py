"""TensorE: the 128x128 systolic array.

``nc_matmul`` streams the moving operand through the stationary one, a column a cycle, and adds the
products in float32 in PSUM.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.columns import Columns
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import (
    busy_until_done,
    chosen_lane,
    elementwise_cost,
    picoseconds,
    wide_stride,
)
from nkiconv.simulate.enums import engine, matmul_perf_mode
from nkiconv.simulate.errors import (
    DtypeError,
    HazardError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.memory import BY_ENGINE, BY_MATMUL, UNWRITTEN
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
_NARROW = frozenset({"bfloat16", "float16", "float8_e4m3", "float8_e5m2"})
MATMUL_INPUTS = _WIDE | _NARROW | {"float8_e4m3fn"}
"""Element types that TensorE multiplies (isa nc_matmul); float8_e4m3fn on trn3 only."""


def _matmul_cost(call: Call) -> Cost:
    """Return the cost of one matmul; the weights of the next one load behind it (A2)."""
    hw = call.hw
    columns, weights = free_elems(call["moving"]), free_elems(call["stationary"])
    if wide_stride(call["moving"], hw.wide_stride_bytes):
        columns *= 2
    streamed = max(columns, hw.matmul_min_cycles)
    if call["moving"].dtype == "float32":
        onezero = call["is_stationary_onezero"] or call["is_moving_onezero"]
        passes = 1 if onezero else hw.float32_matmul_passes
        rows = hw.float32_matmul_row_cycles * columns
        load = hw.float32_weight_load_cycles * weights
        cycles = passes * (max(rows, load, hw.matmul_min_cycles) + hw.matmul_gap_cycles)
    else:
        cycles = streamed + hw.matmul_gap_cycles
    busy = picoseconds(cycles, hw.tensor_ghz)
    return busy_until_done(busy, hw.tensor_latency_ns)


def _count_matmul(call: Call) -> None:
    program = call.program
    moving = call["moving"]
    columns = free_elems(moving)
    macs = partitions(moving) * free_elems(call["stationary"]) * columns
    program.macs += macs
    program.macs_by_type[moving.dtype] += macs
    program.moving_columns += columns


def _resolve_accumulate(call: Call) -> None:
    """Decide whether the matmul overwrites or adds, and refuse what PSUM would not add up."""
    dst = call["dst"]
    low, high = dst._storage.writers(dst, dst._element)
    wish = call["accumulate"]
    if wish is None:
        if low == UNWRITTEN and high == BY_MATMUL:
            raise HazardError(
                "nisa.nc_matmul: with accumulate=None, part of dst already holds a matmul's "
                f"result and part does not ({call.describe()}); an instruction has one accumulate "
                "flag, so cover the region with one accumulate=False matmul first "
                f"({isa('nc_matmul')}, Accumulation mode)",
                code="nc_matmul.mixed_accumulate",
            )
        wish = high != UNWRITTEN
    if wish and low == UNWRITTEN:
        raise UninitializedReadError(
            "nisa.nc_matmul: accumulates onto elements of dst that no matmul has written "
            f"({call.describe()}); start with accumulate=False ({isa('nc_matmul')}, "
            "Accumulation mode)",
            code="nc_matmul.accumulate_unwritten",
        )
    if wish and low == BY_ENGINE and call.hw.generation < 4:
        raise HazardError(
            "nisa.nc_matmul: accumulates onto elements of dst that another instruction than a "
            f"matmul wrote ({call.describe()}), which is undefined on {call.hw.target}; start "
            f"with accumulate=False ({isa('nc_matmul')}, Accumulation mode)",
            code="nc_matmul.accumulate_foreign",
        )
    call.args["accumulate"] = bool(wish)
    call.also_read = ("dst",)


def _one_bank(call: Call) -> bool:
    bank = call.hw.psum_bank_bytes
    first, end, _, _ = call["dst"]._region()
    return bool(call.hw.generation >= 4 or first // bank == (end - 1) // bank)


def _pairs(call: Call) -> bool:
    return (call["stationary"].dtype in _WIDE) == (call["moving"].dtype in _WIDE)


def _fp8_kinds(call: Call) -> bool:
    kinds = {call["stationary"].dtype, call["moving"].dtype}
    return not {"float8_e4m3", "float8_e4m3fn"} <= kinds


def _fp8_generation(call: Call) -> bool:
    kinds = {call["stationary"].dtype, call["moving"].dtype}
    return "float8_e4m3fn" not in kinds or call.hw.generation >= 4


def _result_type(call: Call) -> bool:
    allowed = ("float32",) if call.hw.generation < 4 else ("float32", "bfloat16")
    return call["dst"].dtype in allowed


def _only_ones_and_zeros(call: Call) -> bool:
    for flag, name in (("is_stationary_onezero", "stationary"), ("is_moving_onezero", "moving")):
        if call[flag]:
            values = call[name]._float32
            if not np.all((values == 0) | (values == 1)):
                return False
    return True


def _untiled(call: Call) -> bool:
    turned = call["is_transpose"] and call["moving"].is_indirect()
    return not turned and tuple(call["tile_position"]) in ((), (0, 0))


_UNTILED = (
    "tile_position must be unset or (0, 0), and moving an ordinary view where is_transpose is set",
    _untiled,
)


@instruction(
    lane=Lane.TENSOR,
    operands={
        "dst": Operand(PSUM, Role.WRITE, fetch=Fetch.RAW),
        "stationary": Operand(
            SBUF, dtypes=MATMUL_INPUTS, max_free_elems=lambda hw: hw.stationary_max_columns
        ),
        "moving": Operand(
            SBUF, dtypes=MATMUL_INPUTS, max_free_elems=lambda hw: hw.moving_max_columns
        ),
    },
    rules=(
        Rule(
            "stationary and moving must share the contracted partitions",
            lambda c: partitions(c["stationary"]) == partitions(c["moving"]),
            isa("nc_matmul"),
            error=ShapeError,
        ),
        Rule(
            "dst must have a partition for each column of stationary",
            lambda c: partitions(c["dst"]) == free_elems(c["stationary"]),
            isa("nc_matmul"),
            error=ShapeError,
        ),
        Rule(
            "dst must have an element per partition for each column of moving",
            lambda c: free_elems(c["dst"]) == free_elems(c["moving"]),
            isa("nc_matmul"),
            error=ShapeError,
        ),
        Rule("float32 pairs only with float32", _pairs, isa("nc_matmul"), error=DtypeError),
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
            "dst must lie in one PSUM bank of 2 KiB",
            _one_bank,
            arch("PSUM accumulation"),
            dynamic=True,
        ),
        Rule(
            "an operand flagged onezero must hold only ones and zeros",
            _only_ones_and_zeros,
            isa("nc_matmul"),
            error=HazardError,
            dynamic=True,
        ),
    ),
    only={
        "is_transpose": (False, "the embedded NKI transposes with nisa.nc_transpose"),
        "tile_position": ((), "row and column tiling of TensorE is not modelled yet"),
        "tile_size": ((), "row and column tiling of TensorE is not modelled yet"),
        "perf_mode": (matmul_perf_mode.none, "double_row is not modelled yet"),
    },
    prepare=_resolve_accumulate,
    count=_count_matmul,
    cost=_matmul_cost,
    writes_as=BY_MATMUL,
    columns=Columns(("stationary", "moving"), also=_UNTILED),
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
) -> Array:
    """``dst (+)= stationary.T @ moving``, products summed in float32.

    Shapes
    ------
    stationary (K, M)   moving (K, N)   dst (M, N); K, M <= 128; free dimensions may be several
    """
    contracted = stationary.shape[0]
    weights = stationary.reshape(contracted, -1).T
    columns = moving.reshape(contracted, -1)
    in_place = dst.dtype == np.float32 and (dst.ndim == 2 or dst.flags.c_contiguous)
    if in_place and not accumulate:
        np.matmul(weights, columns, out=dst.reshape(len(weights), -1))
        return dst  # type: ignore[no-any-return]  # the array that was handed in
    product: Array = weights @ columns
    if in_place:
        total = dst.reshape(product.shape)
        np.add(total, product, out=total)
        return dst  # type: ignore[no-any-return]  # the array that was handed in
    return product + dst.reshape(product.shape).astype(np.float32) if accumulate else product


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
    busy = picoseconds(rows * per_row + hw.matmul_gap_cycles, hw.tensor_ghz)
    return busy_until_done(busy, hw.tensor_latency_ns)


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
        Rule(
            "dst must have the dtype of data",
            lambda c: c["dst"].dtype == c["data"].dtype,
            isa("nc_transpose"),
            error=DtypeError,
        ),
        Rule(
            "dst must have the transposed shape of data",
            lambda c: (
                partitions(c["dst"]) == free_elems(c["data"])
                and free_elems(c["dst"]) == partitions(c["data"])
            ),
            isa("nc_transpose"),
            error=ShapeError,
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
