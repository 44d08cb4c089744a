"""Every limit that a sheet states has an example that breaks it and is refused in its words.

An example is what changes in a `VALID` call.  Most checks run before anything is read, so that
examples need no data: ``t(c, 4, 6)`` is a fresh tensor of 4 partitions and 6 elements each.
The tables are long because the rules are many; the tests below them are short.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from nkiconv.simulate.advice import advice_on
from nkiconv.simulate.errors import (
    ConstraintError,
    DtypeError,
    HazardError,
    NkiconvError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.memory import BY_ENGINE
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.registers import VirtualRegister
from nkiconv.simulate.sheet import SHEETS, Role, Rule

Changes = Callable[[Any], dict[str, Any]]
E = nisa.engine
DGE = nisa.dge_mode
X4 = "float8_e4m3fn_x4"
DOUBLE = {"perf_mode": nisa.matmul_perf_mode.double_row}
ADDING = {"reduce_cmd": nisa.reduce_cmd.reduce}


def t(c: Any, *shape: int, dtype: str = "float32") -> Any:
    return c.new(shape or (4, 8), dtype)


def p(c: Any, *shape: int, dtype: str = "float32") -> Any:
    return c.new(shape or (4, 8), dtype, nl.psum)


def h(c: Any, *shape: int, dtype: str = "float32") -> Any:
    return c.new(shape or (4, 8), dtype, nl.shared_hbm)


def full(tensor: Any, value: float) -> Any:
    tensor._array[...] = value
    tensor._storage.mark(tensor, tensor._element, BY_ENGINE)
    return tensor


class Mirror:
    """The other core of a logical one, which does the same as this one."""

    count = 2

    def wait(self, core: int, op: str, key: object, value: Any, line: str) -> list[Any]:
        return [value, value]

    def shared(self, core: int, shape: Any, dtype: str, make: Callable[[], Any]) -> Any:
        return make()


def paired(c: Any, **call: Any) -> dict[str, Any]:
    """Run the call on one core of two."""
    c.program.grid, c.program.cores = (2,), Mirror()
    return call


def alone(c: Any) -> dict[str, Any]:
    c.program.grid, c.program.cores = (), None
    return {}


OTHER = {"send_to_rank": 1, "recv_from_rank": 1, "pipe_id": 0}
GPSIMD_DMA = {"dma_engine": nisa.dma_engine.gpsimd_dma}


def rows(c: Any, count: int = 4, *rest: int, index: Any = None, dtype: str = "float32") -> Any:
    """Return rows of a tensor in HBM, each at an index of its own."""
    index = t(c, count, 1, dtype="uint32") if index is None else index
    base = h(c, 64, *(rest or (8,)), dtype=dtype)
    pattern = [[stride, size] for stride, size in zip(base.strides, base.shape, strict=True)]
    return base.ap([[pattern[0][0], count], *pattern[1:]], vector_offset=index)


def gathered(c: Any, count: int, *rest: int, index: tuple[int, ...] = (), **types: str) -> Any:
    """Return what changes in a transpose that gathers `count` rows."""
    lines = t(c, *(index or (count, 1)), dtype=types.get("indices", "uint32"))
    src = rows(c, count, *rest, index=lines, dtype=types.get("dtype", "bfloat16"))
    axes = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}[src.ndim]
    return {"dst": t(c, *[src.shape[a] for a in axes], dtype=src.dtype), "src": src}


def turned(c: Any, *shape: int, dtype: str = "bfloat16") -> dict[str, Any]:
    """Return what changes in a transpose by hardware descriptors."""
    axes = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}[len(shape)]
    dst = t(c, *[shape[a] for a in axes], dtype=dtype)
    return {"dst": dst, "src": h(c, *shape, dtype=dtype), "dge_mode": nisa.dge_mode.hwdge}


def each(c: Any, dtype: str, *names: str) -> dict[str, Any]:
    return {name: t(c, dtype=dtype) for name in names}


def doubled(c: Any, dtype: str = "float8_e5m2") -> dict[str, Any]:
    return {
        "stationary": t(c, 4, 2, 8, dtype=dtype),
        "moving": t(c, 4, 2, 6, dtype=dtype),
        **DOUBLE,
    }


def wide(c: Any, columns: int, dtype: str = "float32") -> dict[str, Any]:
    return {"dst": p(c, 8, columns, dtype=dtype), "moving": t(c, 4, columns)}


VALID: dict[str, Changes] = {
    "core_barrier": lambda c: paired(c, data=h(c), cores=(0, 1)),
    "sendrecv": lambda c: paired(c, src=t(c), dst=t(c), **OTHER),
    "register_move": lambda c: {"dst": VirtualRegister(), "src": 3},
    "register_load": lambda c: {"dst": VirtualRegister(), "src": t(c, 1, 1, dtype="int32")},
    "register_store": lambda c: {"dst": t(c, 1, 1, dtype="int32"), "src": VirtualRegister(3)},
    "nc_matmul": lambda c: {"dst": p(c, 8, 6), "stationary": t(c), "moving": t(c, 4, 6)},
    "nc_matmul_mx": lambda c: {
        "dst": p(c, 8, 6), "stationary": t(c, 32, 8, dtype=X4), "moving": t(c, 32, 6, dtype=X4),
        "stationary_scale": t(c, 4, 8, dtype="uint8"), "moving_scale": t(c, 4, 6, dtype="uint8"),
    },
    "quantize_mx": lambda c: {
        "dst": t(c, 64, 8, dtype=X4), "src": t(c, 64, 32, dtype="bfloat16"),
        "dst_scale": t(c, 64, 8, dtype="uint8"),
    },
    "nc_transpose": lambda c: {"dst": p(c, 8, 4), "data": t(c)},
    "activation": lambda c: {"dst": t(c), "op": nl.copy, "data": t(c)},
    "tensor_copy": lambda c: {"dst": t(c), "src": t(c)},
    "memset": lambda c: {"dst": t(c), "value": 0},
    "tensor_tensor": lambda c: {"dst": t(c), "data1": t(c), "data2": t(c), "op": nl.add},
    "tensor_scalar": lambda c: {"dst": t(c), "data": t(c), "op0": nl.add, "operand0": 1.0},
    "scalar_tensor_tensor": lambda c: (
        {"dst": t(c), "data": t(c), "op0": nl.add, "operand0": 1.0}
        | {"op1": nl.add, "operand1": t(c)}
    ),
    "tensor_reduce": lambda c: {"dst": t(c, 4, 1), "op": nl.add, "data": t(c), "axis": 1},
    "reciprocal": lambda c: {"dst": t(c), "data": t(c)},
    "activation_reduce": lambda c: (
        {"dst": t(c), "op": nl.copy, "data": t(c), "reduce_op": nl.add, "reduce_res": t(c, 4, 1)}
    ),
    "tensor_tensor_scan": lambda c: (
        {"dst": t(c), "data0": t(c), "data1": t(c), "initial": 0, "op0": nl.add, "op1": nl.add}
    ),
    "tensor_scalar_cumulative": lambda c: (
        {"dst": t(c), "src": t(c), "op0": nl.add, "op1": nl.add, "imm0": 1.0}
    ),
    "tensor_scalar_reduce": lambda c: (
        {"dst": t(c), "data": t(c), "op0": nl.add, "operand0": 1.0, "reduce_op": nl.add}
    ),
    "tensor_copy_predicated": lambda c: (
        {"dst": t(c), "src": t(c), "predicate": t(c, dtype="uint8")}
    ),
    "select_reduce": lambda c: (
        {"dst": t(c), "predicate": t(c, dtype="uint8"), "on_true": t(c), "on_false": 0.0}
    ),
    "range_select": lambda c: (
        {"dst": t(c), "on_true_tile": t(c), "comp_op0": nl.greater_equal, "comp_op1": nl.less}
        | {"bound0": t(c, 4, 1), "bound1": t(c, 4, 1)}
    ),
    "nc_stream_shuffle": lambda c: {"dst": t(c), "src": t(c), "shuffle_mask": list(range(32))},
    "bn_stats": lambda c: {"dst": t(c, 4, 6), "data": t(c)},
    "bn_aggr": lambda c: {"dst": t(c, 4, 2), "data": t(c, 4, 6)},
    "max8": lambda c: {"dst": t(c), "src": t(c, 4, 20)},
    "nc_find_index8": lambda c: {"dst": t(c, dtype="uint32"), "data": t(c, 4, 20), "vals": t(c)},
    "nc_match_replace8": lambda c: (
        {"dst": t(c, 4, 20), "data": t(c, 4, 20), "vals": t(c), "imm": 0.0}
    ),
    "dma_copy": lambda c: {"dst": t(c), "src": h(c)},
    "dma_transpose": lambda c: {"dst": t(c, 8, 4), "src": h(c)},
    "iota": lambda c: {"dst": t(c), "pattern": [[4, 2], [1, 4]]},
    "affine_select": lambda c: (
        {"dst": t(c), "pattern": [[-1, 8]], "channel_multiplier": 1, "on_true_tile": t(c)}
        | {"on_false_value": 0.0}
    ),
    "tensor_partition_reduce": lambda c: {"dst": t(c, 1, 8), "op": nl.add, "data": t(c)},
    "nc_n_gather": lambda c: {"dst": t(c), "data": t(c, 4, 9), "indices": t(c, dtype="uint32")},
    "local_gather": lambda c: (
        {"dst": t(c, 16, 32), "src_buffer": t(c, 16, 9), "index": t(c, 16, 2, dtype="uint16")}
    ),
    "sequence_bounds": lambda c: {"dst": t(c, 1, 2, 8), "segment_ids": t(c, 1, 8)},
    "nonzero_with_count": lambda c: {"dst": t(c, 4, 9, dtype="int32"), "src": t(c)},
    "exponential": lambda c: {"dst": t(c), "src": t(c)},
    "dma_compute": lambda c: (
        {"dst": t(c), "srcs": [full(h(c), 1), full(t(c), 2)], "reduce_op": nl.add}
    ),
    "rng": lambda c: {"dst": t(c, dtype="int32")},
    "dropout": lambda c: {"dst": t(c), "data": t(c), "prob": 0.5},
    "set_rng_seed": lambda c: {"src_seeds": t(c, 1, 1, dtype="int32")},
    "rand_set_state": lambda c: {"src_seeds": t(c, 4, 6, dtype="uint32")},
    "rand_get_state": lambda c: {"dst": t(c, 4, 6, dtype="uint32")},
    "rand2": lambda c: {"dst": t(c), "min": 0.0, "max": 1.0},
    "topk": lambda c: (
        {"val_dst": t(c, 16, 8, dtype="bfloat16"), "idx_dst": t(c, 16, 8, dtype="uint32")}
        | {"src": t(c, 16, 3, dtype="bfloat16"), "n": 42}
    ),
    "activate2": lambda c: (
        {"dst": t(c), "op": nl.copy, "data": t(c), "imm0": 2.0, "imm1": 1.0}
        | {"op0": nl.multiply, "op1": nl.add}
    ),
}  # fmt: skip

SINCE = {
    "core_barrier": 3,
    "sendrecv": 3,
    "range_select": 3,
    "nonzero_with_count": 3,
    "exponential": 4,
    "activate2": 4,
    "rand_set_state": 3,
    "rand_get_state": 3,
    "rand2": 4,
    "quantize_mx": 4,
    "nc_matmul_mx": 4,
}
"""First NeuronCore version of instructions that not all have."""

# instruction: (beginning of the rule's sentence, changes[, target, where it is not trn1]).
FAILING: dict[str, list[tuple[Any, ...]]] = {
    "nc_matmul": [
        ("stationary and moving must share", lambda c: {"stationary": t(c, 5, 8)}),
        ("dst must have a partition", lambda c: {"dst": p(c, 7, 6)}),
        ("dst must have an element", lambda c: {"dst": p(c, 8, 5)}),
        ("float32 pairs", lambda c: {"moving": t(c, 4, 6, dtype="bfloat16")}),
        ("float8_e4m3 and float8_e4m3fn", lambda c: {
            "stationary": t(c, dtype="float8_e4m3"), "moving": t(c, 4, 6, dtype="float8_e4m3fn"),
        }, "trn3"),
        ("float8_e4m3fn needs trn3", lambda c: {
            "stationary": t(c, dtype="bfloat16"), "moving": t(c, 4, 6, dtype="float8_e4m3fn"),
        }, "trn2"),
        ("dst must be float32", lambda c: {"dst": p(c, 8, 6, dtype="bfloat16")}, "trn2"),
        ("dst must lie in one", lambda c: {"dst": p(c, 8, 1024)[:, 508:514]}),
        ("an operand flagged onezero", lambda c: {
            "stationary": full(t(c), 2), "is_stationary_onezero": True,
        }),
        ("stationary must fit the tile", lambda c: {
            "stationary": t(c, 4, 65), "tile_position": (0, 0), "tile_size": (64, 64),
        }),
        ("moving must have at most", lambda c: wide(c, 513)),
        ("tile_position and tile_size must", lambda c: {"tile_size": (64, 64)}),
        ("tile_size must be", lambda c: {"tile_position": (0, 0), "tile_size": (32, 64)}),
        ("tile_position must be multiples", lambda c: {
            "tile_position": (32, 0), "tile_size": (64, 64),
        }),
        ("stationary and moving of a tile", lambda c: {
            "dst": p(c, 128, 6)[:8], "tile_position": (0, 64), "tile_size": (128, 64),
        }),
        ("perf_mode must be", lambda c: {"perf_mode": 1}, "trn2"),
        ("perf_mode double_row needs", lambda c: doubled(c)),
        ("perf_mode double_row takes", lambda c: doubled(c, "bfloat16"), "trn2"),
        ("perf_mode double_row splits", lambda c: {
            **doubled(c), "moving": t(c, 4, 3, 4, dtype="float8_e4m3"),
        }, "trn2"),
        ("perf_mode double_row cannot", lambda c: {
            **doubled(c), "tile_position": (0, 0), "tile_size": (128, 64),
        }, "trn2"),
        ("from trn2 on a transpose", lambda c: {
            **each(c, "bfloat16", "stationary"), "moving": t(c, 4, 4, dtype="bfloat16"),
            "dst": p(c, 8, 4), "is_transpose": True,
        }, "trn2"),
        ("moving of a transpose must", lambda c: {
            "dst": p(c, 8, 4), "moving": full(t(c, 4, 4), 1), "is_transpose": True,
        }),
    ],
    "nc_matmul_mx": [
        ("nc_matmul_mx needs trn3", lambda c: {}, "trn2"),
        ("tile_position and tile_size must", lambda c: {"tile_position": (0, 0)}, "trn3"),
        ("tile_size must be", lambda c: {
            "tile_position": (0, 0), "tile_size": (96, 128),
        }, "trn3"),
        ("tile_position must be multiples", lambda c: {
            "tile_position": (128, 0), "tile_size": (64, 128),
        }, "trn3"),
        ("stationary and moving of a tile", lambda c: {
            "moving": t(c, 128, 6, dtype=X4)[32:64], "tile_position": (64, 0),
            "tile_size": (32, 128), "moving_scale": t(c, 128, 6, dtype="uint8")[32:36],
        }, "trn3"),
        ("nc_matmul_mx has tiles of rows", lambda c: {
            "tile_position": (0, 64), "tile_size": (128, 64),
        }, "trn3"),
        ("stationary and moving must share", lambda c: {
            "moving": t(c, 64, 6, dtype=X4), "moving_scale": t(c, 64, 6, dtype="uint8"),
        }, "trn3"),
        ("stationary must fit the tile", lambda c: {
            "stationary": t(c, 32, 130, dtype=X4),
            "stationary_scale": t(c, 4, 130, dtype="uint8"),
        }, "trn3"),
        ("moving must have at most", lambda c: {
            "dst": p(c, 8, 4096), "moving": t(c, 32, 4098, dtype=X4),
            "moving_scale": t(c, 4, 4098, dtype="uint8"),
        }, "trn3"),
        ("dst must have a partition", lambda c: {"dst": p(c, 7, 6)}, "trn3"),
        ("dst must have an element", lambda c: {"dst": p(c, 8, 5)}, "trn3"),
        ("stationary must have a multiple", lambda c: {
            "stationary": t(c, 40, 8, dtype=X4), "moving": t(c, 40, 6, dtype=X4),
        }, "trn3"),
        ("stationary must have an even", lambda c: {
            "dst": p(c, 7, 6), "stationary": t(c, 32, 7, dtype=X4),
            "stationary_scale": t(c, 4, 7, dtype="uint8"),
        }, "trn3"),
        ("stationary_scale and moving_scale must have an", lambda c: {
            "moving_scale": t(c, 4, 8, dtype="uint8"),
        }, "trn3"),
        ("stationary_scale and moving_scale must have four", lambda c: {
            "stationary_scale": t(c, 3, 8, dtype="uint8"),
        }, "trn3"),
        ("stationary_scale and moving_scale must start", lambda c: {
            "stationary_scale": t(c, 32, 8, dtype="uint8")[16:20],
        }, "trn3"),
    ],
    "quantize_mx": [
        ("quantize_mx needs trn3", lambda c: {}, "trn2"),
        ("src must have a multiple", lambda c: {
            "dst": t(c, 16, 8, dtype=X4), "src": t(c, 16, 32, dtype="bfloat16"),
        }, "trn3"),
        ("dst must have the partitions", lambda c: {"dst": t(c, 64, 32, dtype=X4)}, "trn3"),
        ("dst_scale must have an", lambda c: {"dst_scale": t(c, 64, 2, dtype="uint8")}, "trn3"),
        ("dst_scale must have four", lambda c: {"dst_scale": t(c, 35, 8, dtype="uint8")}, "trn3"),
        ("dst_scale must start", lambda c: {
            "dst_scale": t(c, 128, 8, dtype="uint8")[32:96],
        }, "trn3"),
        ("src must be finite", lambda c: {
            "src": full(t(c, 64, 32, dtype="float16"), float("inf")),
        }, "trn3"),
    ],
    "nc_transpose": [
        ("dst must have the dtype", lambda c: {"data": t(c, dtype="int32")}),
        ("dst must have the transposed", lambda c: {"dst": p(c, 4, 8)}),
        ("TensorE reads data from SBUF", lambda c: {"dst": t(c, 8, 4), "engine": E.tensor}),
        ("TensorE transposes at most", lambda c: {"dst": t(c, 33, 4), "data": t(c, 4, 33)}),
        ("TensorE transposes floating", lambda c: {
            "dst": p(c, 8, 4, dtype="int32"), "data": t(c, dtype="int32"),
        }),
    ],
    "activation": [
        ("op must be", lambda c: {"op": nl.maximum}),
        ("nl.prelu takes its slope", lambda c: {"op": nl.prelu}),
        ("op is obligatory", lambda c: {"op": None}),
        ("dst, data must have the same", lambda c: {"data": t(c, 4, 7)}),
        ("bias, scale, reduce_res must", lambda c: {"bias": t(c, 3, 1)}),
        ("on NeuronCore-v2 bias", lambda c: {"bias": 1.0}),
        ("scale must be float32", lambda c: {"scale": t(c, 4, 1, dtype="bfloat16")}),
        ("bias cannot be tfloat32", lambda c: {"bias": t(c, 4, 1, dtype="tfloat32")}),
        ("reciprocal takes no bias", lambda c: {"op": nl.reciprocal, "bias": t(c, 4, 1)}),
        ("reduce_cmd must be", lambda c: {"reduce_cmd": nisa.reduce_cmd.load_reduce}),
        ("reduce_op must be", lambda c: {"reduce_op": nl.maximum, **ADDING}),
        ("a reduce_cmd that accumulates", lambda c: {"reduce_op": None, **ADDING}),
        ("reduce_op without", lambda c: {"reduce_op": nl.add}),
    ],
    "tensor_copy": [
        ("packed elements move", lambda c: {"dst": t(c, dtype=X4)}, "trn3"),
        ("dst, src must have the same", lambda c: {"src": t(c, 4, 7)}),
        ("GpSimdE cannot", lambda c: {"dst": p(c), "engine": E.gpsimd}),
        ("ScalarE of NeuronCore-v2", lambda c: {"engine": E.scalar}),
    ],
    "memset": [
        ("packed types take", lambda c: {"dst": t(c, dtype=X4), "value": 1}, "trn3"),
        ("GpSimdE cannot", lambda c: {"dst": p(c), "engine": E.gpsimd}),
        ("value must be a number", lambda c: {"value": "0"}),
        ("value must be an integer", lambda c: {"dst": t(c, dtype="uint8"), "value": 2.0}),
        ("value must be representable", lambda c: {"dst": t(c, dtype="uint8"), "value": 256}),
    ],
    "tensor_tensor": [
        ("op must be a binary", lambda c: {"op": nl.exp}),
        ("op is obligatory", lambda c: {"op": None}),
        ("the operator does not exist", lambda c: {"op": nl.abs_max}, "trn2"),
        ("bitvec operators take", lambda c: {"op": nl.bitwise_and}),
        ("dst, data1, data2 must have", lambda c: {"data2": t(c, 4, 7)}),
        ("data1 and data2 cannot both", lambda c: {"data1": p(c), "data2": p(c)}),
        ("GpSimdE cannot", lambda c: {"data1": p(c), "engine": E.gpsimd}),
        ("power runs on GpSimdE", lambda c: {"op": nl.power, "engine": E.vector}),
        ("bitvec operators run", lambda c: {
            **each(c, "int32", "dst", "data1", "data2"), "op": nl.bitwise_or, "engine": E.gpsimd,
        }),
    ],
    "tensor_scalar": [
        ("op0 must be an", lambda c: {"op0": nl.exp}),
        ("op0 is obligatory", lambda c: {"op0": None}),
        ("op1 must be an", lambda c: {"op1": nl.tanh}),
        ("the operator does not exist", lambda c: {"op0": nl.relu, "operand0": 0}, "trn2"),
        ("op0 and op1 must both", lambda c: {"op1": nl.invert}),
        ("bitvec operators take", lambda c: {"op0": nl.bitwise_and, "operand0": 1}),
        ("each binary operator needs", lambda c: {"op1": nl.add}),
        ("operands must be float32", lambda c: {"operand0": t(c, 4, 1, dtype="bfloat16")}),
        ("dst, data must have the same", lambda c: {"data": t(c, 4, 7)}),
        ("operand0, operand1 must have", lambda c: {"operand0": t(c, 3, 1)}),
        ("GpSimdE cannot", lambda c: {"op0": nl.rsqrt, "operand0": 0, "data": p(c)}),
        ("ScalarE takes", lambda c: {"op0": nl.subtract, "engine": E.scalar}, "trn2"),
        ("GpSimdE executes", lambda c: {"engine": E.gpsimd}),
    ],
    "scalar_tensor_tensor": [
        ("op0 must be binary", lambda c: {"op0": nl.bitwise_and}),
        ("op1 must be binary", lambda c: {"op1": nl.abs}),
        ("op0 and op1 are obligatory", lambda c: {"op1": None}),
        ("the operator does not exist", lambda c: {"op1": nl.abs_min}),
        ("dst, data, operand1 must", lambda c: {"operand1": t(c, 4, 7)}),
        ("operand0 must have one", lambda c: {"operand0": t(c, 3, 1)}),
        ("data and operand1 cannot both", lambda c: {"data": p(c), "operand1": p(c)}),
    ],
    "tensor_reduce": [
        ("op must be a legal", lambda c: {"op": nl.power}),
        ("op is obligatory", lambda c: {"op": None}),
        ("bitvec operators take", lambda c: {"op": nl.bitwise_or}),
        ("axis must be the last", lambda c: {"axis": (0, 1)}),
        ("dst must have the partitions", lambda c: {"dst": t(c, 4, 2)}),
        ("with keepdims", lambda c: {"dst": t(c, 4, 1, 1), "keepdims": True}),
        ("negate needs", lambda c: {
            "dst": t(c, 4, 1, dtype="int8"), "data": t(c, dtype="int8"), "op": nl.bitwise_or,
            "negate": True,
        }),
    ],
    "reciprocal": [("dst, data must have the same", lambda c: {"data": t(c, 4, 7)})],
    "activation_reduce": [
        ("op must be", lambda c: {"op": nl.maximum}),
        ("nl.prelu takes its slope", lambda c: {"op": nl.prelu}),
        ("op is obligatory", lambda c: {"op": None}),
        ("dst, data must have the same", lambda c: {"data": t(c, 4, 7)}),
        ("bias, scale, reduce_res must", lambda c: {"reduce_res": t(c, 3, 1)}),
        ("on NeuronCore-v2 bias", lambda c: {"bias": 1.0}),
        ("scale must be float32", lambda c: {"scale": t(c, 4, 1, dtype="bfloat16")}),
        ("bias cannot be tfloat32", lambda c: {"bias": t(c, 4, 1, dtype="tfloat32")}),
        ("reciprocal takes no bias", lambda c: {"op": nl.reciprocal, "bias": t(c, 4, 1)}),
        ("reduce_op must be", lambda c: {"reduce_op": nl.maximum}, "trn3"),
    ],
    "tensor_tensor_scan": [
        ("op0 must be binary", lambda c: {"op0": nl.abs}),
        ("op1 must be binary", lambda c: {"op1": nl.bitwise_or}),
        ("op0 and op1 are obligatory", lambda c: {"op1": None}),
        ("the operator does not exist", lambda c: {"op0": nl.abs_max}, "trn2"),
        ("dst, data0, data1 must", lambda c: {"data1": t(c, 4, 7)}),
        ("initial must have one", lambda c: {"initial": t(c, 3, 1)}),
        ("data0 and data1 cannot both", lambda c: {"data0": p(c), "data1": p(c)}),
    ],
    "tensor_scalar_cumulative": [
        ("op0 must be binary", lambda c: {"op0": nl.abs}),
        ("op0 is obligatory", lambda c: {"op0": None}),
        ("the operator does not exist", lambda c: {"op0": nl.abs_min}, "trn2"),
        ("op1 must be one of nl.add, nl.sub", lambda c: {"op1": nl.power}),
        ("reduce_cmd must be one of reset_reduce", lambda c: {"reduce_cmd": nisa.reduce_cmd.idle}),
        ("imm1 is needed with", lambda c: {"imm1": 1.0}),
        ("dst, src must have the same", lambda c: {"src": t(c, 4, 7)}),
        ("imm0, imm1 must have one", lambda c: {"imm0": t(c, 3, 1)}),
        ("reduce_cmd.reduce goes on", lambda c: ADDING),
    ],
    "tensor_scalar_reduce": [
        ("op0 must be arithmetic", lambda c: {"op0": nl.rsqrt, "operand0": None}),
        ("op0 is obligatory", lambda c: {"op0": None}),
        ("the operator does not exist", lambda c: {"op0": nl.square, "operand0": 0}, "trn2"),
        ("a binary op0 needs", lambda c: {"operand0": None}),
        ("reduce_op must be one of nl.add", lambda c: {"reduce_op": nl.subtract}),
        ("reduce_cmd must be one of", lambda c: {"reduce_cmd": nisa.reduce_cmd.reset}),
        ("reduce_init is needed with", lambda c: {"reduce_cmd": nisa.reduce_cmd.load_reduce}),
        ("reduce_res_negate without", lambda c: {"reduce_res_negate": True}),
        ("dst, data must have the same", lambda c: {"data": t(c, 4, 7)}),
        ("operand0, reduce_res, reduce_init", lambda c: {"reduce_res": t(c, 3, 1)}),
        ("reduce_cmd.reduce goes on", lambda c: ADDING),
    ],
    "tensor_copy_predicated": [
        ("src and predicate must have dst's", lambda c: {"src": t(c, 4, 7)}),
        ("src must have dst's dtype", lambda c: {"src": t(c, dtype="bfloat16")}),
        ("src must be representable", lambda c: {"dst": t(c, dtype="int8"), "src": 128}),
        ("src and predicate cannot both", lambda c: {
            "src": p(c), "predicate": p(c, dtype="uint8"),
        }),
        ("dst must have been written", lambda c: {"predicate": full(t(c, dtype="uint8"), 0)}),
    ],
    "select_reduce": [
        ("dst, predicate, on_true must", lambda c: {"on_true": t(c, 4, 7)}),
        ("on_false, reduce_res must", lambda c: {"on_false": t(c, 3, 1)}),
        ("on_true and predicate cannot both", lambda c: {
            "on_true": p(c), "predicate": p(c, dtype="uint8"),
        }),
        ("reduce_op must be one of nl.maximum", lambda c: {"reduce_op": nl.minimum}),
        ("reduce_cmd must be one of idle", lambda c: {"reduce_cmd": nisa.reduce_cmd.load_reduce}),
        ("reduce_res needs", lambda c: {"reduce_res": t(c, 4, 1)}),
        ("reduce_cmd.reduce goes on", lambda c: ADDING),
    ],
    "range_select": [
        ("range_select needs trn2 or trn3", lambda c: {}),
        ("dst, on_true_tile must", lambda c: {"on_true_tile": t(c, 4, 7)}, "trn2"),
        ("bound0, bound1, reduce_res must", lambda c: {"bound1": t(c, 3, 1)}, "trn2"),
        ("comp_op0 must be one of", lambda c: {"comp_op0": nl.not_equal}, "trn2"),
        ("comp_op1 must be one of", lambda c: {"comp_op1": None}, "trn2"),
        ("reduce_op must be one of", lambda c: {"reduce_op": nl.add}, "trn2"),
        ("reduce_cmd must be one of", lambda c: {"reduce_cmd": nisa.reduce_cmd.idle}, "trn2"),
        ("on_false_value must be", lambda c: {"on_false_value": float("-inf")}, "trn2"),
        ("range_start must be an integer", lambda c: {"range_start": 1.0}, "trn2"),
        ("range_start plus", lambda c: {"range_start": 2**24 - 6}, "trn2"),
        ("reduce_cmd.reduce goes on", lambda c: ADDING, "trn2"),
    ],
    "core_barrier": [
        ("core_barrier needs trn2", lambda c: {}, "trn1"),
        ("needs a launch on both", alone, "trn2"),
        ("data must be a tensor", lambda c: {"data": t(c)}, "trn2"),
        ("cores must be (0, 1)", lambda c: {"cores": (1, 0)}, "trn2"),
    ],
    "sendrecv": [
        ("sendrecv needs trn2", lambda c: {}, "trn1"),
        ("needs a launch on both", alone, "trn2"),
        ("src and dst must have the same dtype", lambda c: {"dst": t(c, dtype="int32")}, "trn2"),
        ("src and dst must have the same shape", lambda c: {"dst": t(c, 4, 2, 4)}, "trn2"),
        ("send_to_rank and recv_from_rank", lambda c: {"recv_from_rank": 0}, "trn2"),
        ("pipe_id must be an integer", lambda c: {"pipe_id": "a"}, "trn2"),
        ("dma_engine must be one of", lambda c: {"dma_engine": "dma"}, "trn2"),
        (
            "GpSimdE's own DMA takes",
            lambda c: GPSIMD_DMA | {"src": t(c, 4, 257), "dst": t(c, 4, 257)},
            "trn2",
        ),
    ],
    "register_move": [
        ("dst must be a VirtualRegister", lambda c: {"dst": 3}),
        ("src must be an integer known", lambda c: {"src": 3.0}),
    ],
    "register_load": [
        ("dst must be a VirtualRegister", lambda c: {"dst": t(c, 1, 1)}),
        ("src must have one element", lambda c: {"src": t(c, 1, 2, dtype="int32")}),
    ],
    "register_store": [
        ("src must be a VirtualRegister", lambda c: {"src": 3}),
        ("dst must have one element", lambda c: {"dst": t(c, 2, 1, dtype="int32")}),
    ],
    "nc_stream_shuffle": [
        ("dst must have the dtype", lambda c: {"src": t(c, dtype="int32")}),
        ("dst must have as many", lambda c: {"src": t(c, 4, 7)}),
        ("the larger of src and dst", lambda c: {"dst": t(c, 64, 8), "src": t(c, 96, 8)[32:64]}),
        ("shuffle_mask must be a list", lambda c: {"shuffle_mask": [0] * 31 + [32]}),
        ("shuffle_mask must select", lambda c: {"shuffle_mask": [4] * 32}),
        ("partitions that the mask leaves", lambda c: {"shuffle_mask": [0, 255] * 16}),
    ],
    "bn_stats": [("dst must have the partitions", lambda c: {"dst": t(c, 4, 5)})],
    "bn_aggr": [
        ("data must hold whole", lambda c: {"data": t(c, 4, 7)}),
        ("dst must have the partitions", lambda c: {"dst": t(c, 3, 2)}),
    ],
    "max8": [
        ("src must have at most", lambda c: {"src": t(c, 4, 7)}),
        ("dst must have the partitions", lambda c: {"dst": t(c, 4, 9)}),
        ("dst must have two", lambda c: {"dst": t(c, 4, 2, 4)}),
    ],
    "nc_find_index8": [
        ("data must have at most", lambda c: {"data": t(c, 4, 2, 2, 8)}),
        ("dst and vals must have", lambda c: {"vals": t(c, 4, 7)}),
        ("dst must have two", lambda c: {"dst": t(c, 4, 2, 4, dtype="uint16")}),
        ("vals must have at most", lambda c: {"vals": t(c, 4, 2, 2, 2)}),
    ],
    "nc_match_replace8": [
        ("dst, data must have the same", lambda c: {"dst": t(c, 4, 21)}),
        ("data must have at most", lambda c: {"dst": t(c, 4, 16385), "data": t(c, 4, 16385)}),
        ("vals and dst_idx must have", lambda c: {"dst_idx": t(c, 3, 8, dtype="uint32")}),
        ("dst_idx must have two", lambda c: {"dst_idx": t(c, 4, 2, 4, dtype="uint32")}),
        ("vals must have at most", lambda c: {"vals": t(c, 4, 2, 2, 2)}),
        ("imm must be a number", lambda c: {"imm": t(c, 4, 1)}),
        ("dst_idx needs NeuronCore-v3", lambda c: {"dst_idx": t(c, dtype="uint32")}),
    ],
    "dma_copy": [
        ("dst and src must have", lambda c: {"src": h(c, 4, 7)}),
        ("priority must be None or", lambda c: {"priority": 4}, "trn3"),
        ("priority needs trn3", lambda c: {"priority": 0}, "trn2"),
        ("dge_mode must be a member", lambda c: {"dge_mode": 3}),
        ("dge_mode.hwdge needs trn2", lambda c: {"dge_mode": DGE.hwdge}),
        ("dge_mode.none cannot", lambda c: {"src": rows(c), "dge_mode": DGE.none}, "trn2"),
        ("dge_mode.hwdge moves", lambda c: {
            "src": h(c, dtype="bfloat16"), "dge_mode": DGE.hwdge,
        }, "trn2"),
        ("engine must be engine.unknown", lambda c: {"engine": E.scalar}, "trn2"),
        ("oob_mode must be a member", lambda c: {"oob_mode": 1}),
        ("a vector offset needs trn2", lambda c: {"src": rows(c)}),
        ("a vector offset takes", lambda c: {"src": rows(c), "dge_mode": DGE.hwdge}, "trn2"),
        ("the indices of a vector offset", lambda c: {
            "src": rows(c, index=t(c, 2, 2, dtype="uint32")),
        }, "trn2"),
        ("dst and src cannot both", lambda c: {"dst": rows(c), "src": rows(c)}, "trn2"),
        ("packed elements move", lambda c: {"src": h(c, dtype="float4_e2m1fn_x4")}, "trn3"),
    ],
    "dma_transpose": [
        ("axes must be", lambda c: {"axes": (0, 1)}),
        ("dst must have the dtype", lambda c: {"src": h(c, dtype="int32")}),
        ("elements must have 2 or 4", lambda c: {
            "dst": t(c, 8, 4, dtype="int8"), "src": h(c, dtype="int8"),
        }),
        ("dst must have the transposed", lambda c: {"dst": t(c, 4, 8)}),
        ("priority must be None or", lambda c: {"priority": True}, "trn3"),
        ("priority needs trn3", lambda c: {"priority": 3}),
        ("dge_mode must be a member", lambda c: {"dge_mode": "hwdge"}, "trn2"),
        ("dge_mode.hwdge needs trn2", lambda c: {"dge_mode": DGE.hwdge}),
        ("dge_mode.none cannot", lambda c: {
            **gathered(c, 16), "dge_mode": DGE.none,
        }, "trn2"),
        ("oob_mode must be a member", lambda c: {"oob_mode": None}),
        ("oob_mode.skip needs", lambda c: {"oob_mode": nisa.oob_mode.skip}),
        ("a vector offset needs trn2", lambda c: gathered(c, 16)),
        ("a vector offset takes", lambda c: {**gathered(c, 16), "dge_mode": DGE.hwdge}, "trn2"),
        ("dge_mode.swdge transposes", lambda c: {"dge_mode": DGE.swdge}, "trn2"),
        ("dge_mode.hwdge transposes", lambda c: turned(c, 16, 8, dtype="int32"), "trn2"),
        ("dge_mode.hwdge takes 16 rows", lambda c: turned(c, 8, 128), "trn2"),
        ("a gather transpose takes elements", lambda c: gathered(c, 16, dtype="int32"), "trn2"),
        ("a gather transpose takes a first", lambda c: gathered(c, 8, index=(16, 1)), "trn2"),
        ("dimension 1 or 2 of the four", lambda c: gathered(c, 16, 2, 2, 8), "trn2"),
        ("the indices of a gather transpose must be", lambda c: gathered(
            c, 16, indices="int32",
        ), "trn2"),
        ("the indices of a gather transpose must have", lambda c: gathered(
            c, 32, index=(32, 2),
        ), "trn2"),
        ("a gather transpose needs at least", lambda c: gathered(c, 32, index=(16, 1)), "trn2"),
    ],
    "iota": [
        ("pattern must be one to four", lambda c: {"pattern": [[1, 1]] * 4 + [[1, 8]]}),
        ("offset must be an int32", lambda c: {"offset": 1.0}),
        ("pattern must have as many", lambda c: {"pattern": [[1, 7]]}),
        ("the pattern's values must fit", lambda c: {"offset": 2**31 - 7}),
        ("the pattern's values must be", lambda c: {
            "dst": t(c, dtype="uint8"), "channel_multiplier": -1,
        }),
    ],
    "affine_select": [
        ("pattern must be one to four", lambda c: {"pattern": [[1, 0]]}),
        ("offset must be an int32", lambda c: {"channel_multiplier": 2**31}),
        ("pattern must have as many", lambda c: {"pattern": [[1, 4], [1, 3]]}),
        ("the pattern's values must fit", lambda c: {"pattern": [[-(2**31), 8]]}),
        ("dst, on_true_tile must have", lambda c: {"on_true_tile": t(c, 5, 8)}),
        ("cmp_op must be", lambda c: {"cmp_op": nl.add}),
        ("on_false_value must be a float", lambda c: {"on_false_value": 0}),
        ("on_false_value must be rep", lambda c: {
            **each(c, "int8", "dst", "on_true_tile"), "on_false_value": 128.0,
        }),
    ],
    "tensor_partition_reduce": [
        ("op must be", lambda c: {"op": nl.minimum}),
        ("op is obligatory", lambda c: {"op": None}),
        ("bitvec operators take", lambda c: {"op": nl.bitwise_or}),
        ("bitvec operators need", lambda c: {
            "op": nl.bitwise_or, "dst": t(c, 1, 8, dtype="int8"), "data": t(c, dtype="int32"),
        }),
        ("dst must have one partition", lambda c: {"dst": t(c, 2, 8)}),
    ],
    "nc_n_gather": [
        ("dst must have the dtype", lambda c: {"dst": t(c, dtype="int32")}),
        ("dst, data and indices must", lambda c: {"data": t(c, 5, 9)}),
        ("dst must have as many", lambda c: {"dst": t(c, 4, 7)}),
        ("every index must lie", lambda c: {"indices": full(t(c, dtype="uint32"), 9)}),
    ],
    "local_gather": [
        ("dst must have the dtype", lambda c: {"src_buffer": t(c, 16, 9, dtype="int32")}),
        ("dst, src_buffer and index must have", lambda c: {
            "dst": t(c, 8, 32), "src_buffer": t(c, 8, 9), "index": t(c, 8, 2, dtype="uint16"),
        }),
        ("dst, src_buffer, index must start", lambda c: {"dst": t(c, 128, 32)[32:48]}),
        ("num_elem_per_idx must be", lambda c: {"num_elem_per_idx": 3}),
        ("num_valid_indices must lie", lambda c: {"num_valid_indices": 33}),
        ("a core takes at most 4096", lambda c: {"index": t(c, 16, 257, dtype="uint16")}),
        ("src_buffer must have more", lambda c: {"src_buffer": t(c, 16, 1)}),
        ("dst must have num_valid", lambda c: {"num_elem_per_idx": 2}),
        ("every index must leave", lambda c: {"index": full(t(c, 16, 2, dtype="uint16"), 9)}),
    ],
    "sequence_bounds": [
        ("segment_ids must have one", lambda c: {"segment_ids": t(c, 2, 8)}),
        ("dst must have the shape", lambda c: {"dst": t(c, 1, 16)}),
        ("segment IDs must be whole", lambda c: {"segment_ids": full(t(c, 1, 8), 0.5)}),
    ],
    "nonzero_with_count": [
        ("nonzero_with_count needs", lambda c: {}),
        ("dst and src must have", lambda c: {"dst": t(c, 4, 8, dtype="int32")}, "trn2"),
        ("dst, src must start", lambda c: {"src": t(c, 128, 8)[32:36]}, "trn2"),
        ("index_offset and padding_val", lambda c: {"padding_val": -1.0}, "trn2"),
        ("the greatest index", lambda c: {"index_offset": 2**31 - 7}, "trn3"),
    ],
    "exponential": [
        ("exponential needs trn3", lambda c: {}, "trn2"),
        ("dst, src must have the same", lambda c: {"src": t(c, 4, 7)}, "trn3"),
        ("dst and src have at most", lambda c: {"dst": t(c, 4, 2, 2, 2, 1)}, "trn3"),
        ("max_value, reduce_res, reduce_init must", lambda c: {"max_value": t(c, 3, 1)}, "trn3"),
        ("reduce_cmd must be", lambda c: {"reduce_cmd": nisa.reduce_cmd.reset}, "trn3"),
        ("reduce_res needs", lambda c: {"reduce_res": t(c, 4, 1)}, "trn3"),
        ("reduce_init needs", lambda c: {"reduce_init": 1.0}, "trn3"),
        ("reduce_cmd.reduce goes on", lambda c: ADDING, "trn3"),
    ],
    "dma_compute": [
        ("reduce_op must be", lambda c: {"reduce_op": nl.maximum}),
        ("scales must be", lambda c: {"scales": [1.0, 2.0]}),
        ("dst and each of srcs", lambda c: {"srcs": [h(c), h(c, 4, 7)]}),
        ("unique_indices must be True", lambda c: {"unique_indices": False}),
        ("oob_mode must be a member", lambda c: {"oob_mode": True}),
        ("oob_mode.skip needs", lambda c: {"oob_mode": nisa.oob_mode.skip}),
        ("a vector offset needs trn2", lambda c: {"srcs": [rows(c), t(c)]}),
        ("the indices of a vector offset", lambda c: {
            "srcs": [rows(c, index=t(c, 5, 1, dtype="int32")), t(c)],
        }, "trn2"),
        ("with a vector offset srcs", lambda c: {"srcs": [rows(c), t(c)]}, "trn2"),
    ],
    "activate2": [
        ("activate2 needs trn3", lambda c: {}, "trn2"),
        ("op must be an activation", lambda c: {"op": nl.maximum}, "trn3"),
        ("op is obligatory", lambda c: {"op": None}, "trn3"),
        ("op0 and op1 must be", lambda c: {"op0": nl.add}, "trn3"),
        ("nl.bypass takes", lambda c: {"op1": nl.bypass, "reverse1": True}, "trn3"),
        ("imm0 and imm1 must have", lambda c: {
            "imm0": t(c, 4, 1), "imm1": t(c, 4, 1, dtype="bfloat16"),
        }, "trn3"),
        ("dst, data must have the same", lambda c: {"data": t(c, 4, 7)}, "trn3"),
        ("imm0, imm1, relu_param, reduce_res must", lambda c: {"imm1": t(c, 3, 1)}, "trn3"),
        ("relu_param is for nl.prelu", lambda c: {"relu_param": 0.1}, "trn3"),
        ("reduce_cmd must be", lambda c: {"reduce_cmd": nisa.reduce_cmd.load_reduce}, "trn3"),
        ("reduce_op must be nl.add", lambda c: {"reduce_op": nl.multiply, **ADDING}, "trn3"),
    ],
    "rng": [
        ("engine must be", lambda c: {"engine": E.unknown}),
        ("GpSimdE generates", lambda c: {"engine": E.gpsimd}),
        ("GpSimdE cannot", lambda c: {"dst": p(c, dtype="int32"), "engine": E.gpsimd}, "trn2"),
    ],
    "dropout": [
        ("dst, data must have the same", lambda c: {"data": t(c, 4, 7)}),
        ("prob must have one", lambda c: {"prob": t(c, 3, 1)}),
        ("dst must have the dtype", lambda c: {"data": t(c, dtype="bfloat16")}),
        ("prob must be float32", lambda c: {
            **each(c, "int32", "dst", "data"), "prob": t(c, 4, 1, dtype="bfloat16"),
        }),
        ("prob must lie", lambda c: {"prob": full(t(c, 4, 1), 1.5)}),
    ],
    "set_rng_seed": [
        ("src_seeds must have the shape", lambda c: {"src_seeds": t(c, 2, 1, dtype="int32")}),
    ],
    "rand_set_state": [
        ("engine must be", lambda c: {"engine": E.unknown}, "trn2"),
        ("rand_set_state needs trn2", lambda c: {}),
        ("VectorE's state can", lambda c: {
            "engine": E.vector, "src_seeds": t(c, 4, 24, dtype="uint32"),
        }, "trn2"),
        ("src_seeds must have two", lambda c: {"engine": E.vector}, "trn3"),
    ],
    "rand_get_state": [
        ("engine must be", lambda c: {"engine": E.unknown}, "trn2"),
        ("rand_get_state needs trn2", lambda c: {}),
        ("VectorE's state can", lambda c: {
            "engine": E.vector, "dst": t(c, 4, 24, dtype="uint32"),
        }, "trn2"),
        ("dst must have two", lambda c: {"dst": t(c, 4, 24, dtype="uint32")}, "trn3"),
        ("GpSimdE cannot", lambda c: {"dst": p(c, 4, 6, dtype="uint32")}, "trn3"),
    ],
    "rand2": [
        ("rand2 needs trn3", lambda c: {}, "trn2"),
        ("min, max must have one", lambda c: {"max": t(c, 3, 1)}, "trn3"),
        ("min and max must be finite", lambda c: {"min": full(t(c, 4, 1), 1)}, "trn3"),
    ],
    "topk": [
        ("val_dst, idx_dst and src must have", lambda c: {"src": t(c, 32, 3, dtype="bfloat16")}),
        ("val_dst, idx_dst, src must start", lambda c: {
            "src": t(c, 128, 3, dtype="bfloat16")[32:48],
        }),
        ("n must be an integer", lambda c: {"n": 7}),
        ("src must have an element", lambda c: {"n": 49}),
        ("val_dst and idx_dst must have K", lambda c: {"n": 8, "idx_dst": t(
            c, 16, 9, dtype="uint32"), "val_dst": t(c, 16, 9, dtype="bfloat16")}),
    ],
}  # fmt: skip

ROWS = [(name, *row, "trn1")[:4] for name, rows in FAILING.items() for row in rows]
OPERANDS = [  # test_dma_compute.py has what is said of lists
    (name, operand)
    for name, sheet in SHEETS.items()
    for operand, limits in sheet.operands.items()
    if not limits.most
]
ONLY = [(name, option) for name, sheet in SHEETS.items() for option in sheet.only]
UNMODELLED = {
    "reverse0": True,
}


def refusal(start: Any, name: str, changes: Changes, target: str = "trn1") -> NkiconvError:
    with start(target) as chip, pytest.raises(NkiconvError) as caught:
        SHEETS[name](**VALID[name](chip) | changes(chip))
    assert len(chip.program.trace) == 0  # a refused instruction leaves no trace
    return caught.value


def rule_of(name: str, beginning: str) -> Rule:
    found = [r for r in SHEETS[name].rules if r.sentence.startswith(beginning)]
    assert len(found) == 1, (name, beginning, found)
    return found[0]


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("name", SHEETS)
def test_unchanged_calls_are_accepted(start: Any, name: str, target: str) -> None:
    if HARDWARE[target].generation < SINCE.get(name, 0):
        assert f"nisa.{name}: {name} needs trn" in str(refusal(start, name, lambda c: {}, target))
        return
    with start(target) as chip:
        call = VALID[name](chip)
        for operand, limits in SHEETS[name].operands.items():
            if limits.role is Role.READ and hasattr(call.get(operand), "shape"):
                full(call[operand], 1)
        SHEETS[name](**call)
        assert chip.last.opcode == name


def test_every_rule_has_an_example() -> None:
    stated = [(name, rule.sentence) for name, sheet in SHEETS.items() for rule in sheet.rules]
    shown = [(name, rule_of(name, beginning).sentence) for name, beginning, *_ in ROWS]
    assert sorted(shown) == sorted(stated)


@pytest.mark.parametrize(
    ("name", "beginning", "changes", "target"), ROWS, ids=[f"{r[0]}: {r[1]}" for r in ROWS]
)
def test_rule(start: Any, name: str, beginning: str, changes: Changes, target: str) -> None:
    error = refusal(start, name, changes, target)
    rule = rule_of(name, beginning)
    assert type(error) is rule.error
    sentence, source = re.escape(rule.sentence), re.escape(rule.source)
    words = rf"test_sheets\.py:\d+: nisa\.{name}: {sentence}; got .+ \({source}\)"
    code = SHEETS[name].codes[SHEETS[name].rules.index(rule)]
    assert error.code == code
    cure = re.escape(advice_on(code).cure)
    ending = rf"\n  Cure: {cure} \[{code}\]" if cure else rf" \[{code}\]"
    assert re.fullmatch(words + ending, str(error)), error


def test_message_names_the_line_that_calls(chip: Any) -> None:
    def kernel() -> None:
        nisa.tensor_copy(dst=t(chip), src=t(chip, 4, 7))

    line = kernel.__code__.co_firstlineno + 1
    with pytest.raises(ShapeError, match=rf"^test_sheets\.py:{line}: nisa\.tensor_copy: "):
        kernel()


@pytest.mark.parametrize(("name", "option"), ONLY)
def test_unmodelled_option(start: Any, name: str, option: str) -> None:
    error = refusal(start, name, lambda c: {option: UNMODELLED[option]})
    value, why = UNMODELLED[option], SHEETS[name].only[option][1]
    assert type(error) is ConstraintError
    assert f": nisa.{name}: {option}={value!r} is refused: {why}\n" in str(error)
    assert "not modelled" in why


@pytest.mark.parametrize(("name", "operand"), OPERANDS)
def test_operand_in_wrong_memory(start: Any, name: str, operand: str) -> None:
    spaces = SHEETS[name].operands[operand].spaces
    make = {"sbuf": t, "psum": p, "hbm": h}
    for space in make.keys() - spaces:
        error = refusal(start, name, lambda c, space=space: {operand: make[space](c)})  # type: ignore[misc]
        allowed = " or ".join(sorted(s.upper() for s in spaces))
        got = re.escape(f"got <NkiTensor float32[4, 8] {space.upper()}>")
        words = rf"test_sheets\.py:\d+: nisa\.{name}: {operand} must be in {allowed}, {got} \(.+\)"
        assert re.match(words, str(error)), error


@pytest.mark.parametrize(("name", "operand"), OPERANDS)
def test_operand_that_is_no_tensor(start: Any, name: str, operand: str) -> None:
    limits = SHEETS[name].operands[operand]
    what = "a tensor or a number" if limits.number else "a tensor"
    wrong = ["tile", True] + ([] if limits.number else [1.5]) + ([] if limits.optional else [None])
    for value in wrong:
        error = refusal(start, name, lambda c, value=value: {operand: value})  # type: ignore[misc]
        assert f": nisa.{name}: {operand} must be {what}, got {value!r} (" in str(error)


PER_PARTITION = [(n, o) for n, o in OPERANDS if SHEETS[n].operands[o].per_partition]


@pytest.mark.parametrize(("name", "operand"), PER_PARTITION)
def test_operand_of_one_element_per_partition(start: Any, name: str, operand: str) -> None:
    error = refusal(start, name, lambda c: {operand: t(c, 4, 2)})
    assert type(error) is ShapeError
    assert f"{operand} must have one element per partition, got <NkiTensor float32[4, 2]" in str(
        error
    )


# What is refused, and the words for it: limits of operands that hold for many sheets.
LIMITS: dict[str, tuple[str, Changes, str, type[NkiconvError], str]] = {
    "int8 weights": (
        "nc_matmul", lambda c: {"stationary": t(c, dtype="int8")}, "trn1", DtypeError,
        "stationary must be one of bfloat16, float16, float32, float8_e4m3, float8_e4m3fn, "
        "float8_e5m2, tfloat32, got int8 (nki.isa.nc_matmul, NKI 0.6.0)",
    ),
    "129 stationary columns": (
        "nc_matmul", lambda c: {"stationary": t(c, 4, 129)}, "trn3", ShapeError,
        "stationary must fit the tile: at most 128 partitions and columns, or tile_size; got 4 "
        "partitions and 129 columns for 128 and 128 (",
    ),
    "513 moving columns": (
        "nc_matmul", lambda c: wide(c, 513), "trn2", ShapeError,
        "moving must have at most 512 columns, on trn3 4096 with a float32 dst and 8192 with a "
        "bfloat16 one; got 513 columns for 512 on trn2 (",
    ),
    "4097 moving columns": (
        "nc_matmul", lambda c: {"moving": t(c, 4, 4097)}, "trn3", ShapeError,
        "moving must have at most 512 columns, on trn3 4096 with a float32 dst and 8192 with a "
        "bfloat16 one; got 4097 columns for 4096 on trn3 (",
    ),
    "8193 moving columns": (
        "nc_matmul", lambda c: {
            "dst": p(c, 8, 6, dtype="bfloat16"), "moving": t(c, 4, 8193),
        }, "trn3", ShapeError,
        "moving must have at most 512 columns, on trn3 4096 with a float32 dst and 8192 with a "
        "bfloat16 one; got 8193 columns for 8192 on trn3 (",
    ),
    "arithmetic on packed elements": (
        "tensor_scalar", lambda c: {"data": t(c, dtype=X4)}, "trn3", DtypeError,
        "data is float8_e4m3fn_x4, whose elements hold four numbers; nc_matmul_mx and ",
    ),
    "packed elements on trn2": (
        "memset", lambda c: {"dst": t(c, dtype="float4_e2m1fn_x4")}, "trn2", DtypeError,
        "dst is float4_e2m1fn_x4, which needs trn3; the target is trn2 (",
    ),
    "fp4 from quantize_mx": (
        "quantize_mx", lambda c: {"dst": t(c, 64, 8, dtype="float4_e2m1fn_x4")}, "trn3",
        DtypeError, "dst must be one of float8_e4m3fn_x4, float8_e5m2_x4, got float4_e2m1fn_x4 (",
    ),
    "float32 to quantize": (
        "quantize_mx", lambda c: {"src": t(c, 64, 32)}, "trn3", DtypeError,
        "src must be one of bfloat16, float16, got float32 (",
    ),
    "float32 scales": (
        "nc_matmul_mx", lambda c: {"moving_scale": t(c, 4, 6)}, "trn3", DtypeError,
        "moving_scale must be one of float8_e8m0fnu, uint8, got float32 (",
    ),
    "513 elements of bn_stats": (
        "bn_stats", lambda c: {"data": t(c, 4, 513)}, "trn3", ShapeError,
        "data has 513 elements per partition, the limit on trn3 is 512 (",
    ),
    "32-bit integers in a cumulative scan": (
        "tensor_scalar_cumulative", lambda c: {"src": t(c, dtype="int32")}, "trn1", DtypeError,
        "src must be one of bfloat16, float16, float32, float8_e4m3, float8_e4m3fn, float8_e5m2, "
        "int16, int8, uint16, uint8, got int32 (",
    ),
    "float32 predicate": (
        "tensor_copy_predicated", lambda c: {"predicate": t(c)}, "trn1", DtypeError,
        "predicate must be one of uint16, uint32, uint8, got float32 (",
    ),
    "uint32 predicate of select_reduce": (
        "select_reduce", lambda c: {"predicate": t(c, dtype="uint32")}, "trn1", DtypeError,
        "predicate must be one of int16, int8, uint16, uint8, got uint32 (",
    ),
    "tfloat32 to select from": (
        "select_reduce", lambda c: {"on_true": t(c, dtype="tfloat32")}, "trn1", DtypeError,
        "on_true must be one of ",
    ),
    "bfloat16 bound": (
        "range_select", lambda c: {"bound0": t(c, 4, 1, dtype="bfloat16")}, "trn2", DtypeError,
        "bound0 must be one of float32, got bfloat16 (",
    ),
    "int32 indices": (
        "nc_find_index8", lambda c: {"dst": t(c, dtype="int32")}, "trn1", DtypeError,
        "dst must be one of uint16, uint32, got int32 (",
    ),
    "4 partitions from 16": (
        "tensor_copy", lambda c: {"src": t(c, 128, 8)[16:20]}, "trn1", ConstraintError,
        "src covers 4 partitions from 16; an engine can start such an operand at 0 or 32 or 64 "
        "or 96 only (",
    ),
    "40 partitions from 32": (
        "tensor_copy", lambda c: {"dst": p(c, 128, 8)[32:72], "src": t(c, 40, 8)}, "trn1",
        ConstraintError, "dst covers 40 partitions from 32; an engine can start such an operand "
        "at 0 or 64 only (",
    ),
    "65 partitions from 63": (
        "memset", lambda c: {"dst": t(c, 128, 8)[63:128]}, "trn1", ConstraintError,
        "dst covers 65 partitions from 63; an engine can start such an operand at 0 only (",
    ),
    "5 free dimensions": (
        "memset", lambda c: {"dst": t(c, 4, 2, 2, 2, 2, 2)}, "trn1", ConstraintError,
        "dst has 5 free dimensions, an access pattern has at most 4 (",
    ),
    "stride 32768": (
        "memset", lambda c: {"dst": t(c, 4, 2, 32768, dtype="int8")[:, :, :1]}, "trn1",
        ConstraintError, "dst has a free dimension of size 2 and stride 32768 elements; the limits "
        "are 65535 (uint16) and 32767 (int16) (",
    ),
    "size 65536": (
        "memset", lambda c: {"dst": t(c, 4, 65536, dtype="int8")}, "trn1", ConstraintError,
        "dst has a free dimension of size 65536 and stride 1 elements; the limits are 65535 (",
    ),
    "stride 0 in dst": (
        "tensor_copy", lambda c: {"dst": t(c, 4, 1).broadcast(1, 8)}, "trn1", HazardError,
        "dst repeats elements, so that several results would land on one place; got <NkiTensor "
        "float32[4, 8] SBUF> with strides (1, 0)",
    ),
    "overlapping dst": (
        "memset", lambda c: {"dst": t(c).ap([[8, 4], [1, 4], [1, 2]])}, "trn1", HazardError,
        "dst repeats elements, so that several results would land on one place; got <NkiTensor "
        "float32[4, 4, 2] SBUF> with strides (8, 1, 1)",
    ),
    "stride 0 in HBM": (
        "dma_copy", lambda c: {"dst": h(c, 4, 1).broadcast(1, 8), "src": t(c)}, "trn1",
        HazardError, "dst repeats elements, ",
    ),
    "an engine that cannot": (
        "tensor_copy", lambda c: {"engine": E.tensor}, "trn1", ConstraintError,
        "engine=<engine.tensor: 1> cannot execute it; engine.vector, engine.scalar, engine.gpsimd "
        "can (nki.isa.tensor_copy, NKI 0.6.0)",
    ),
    "an engine by its name": (
        "memset", lambda c: {"engine": "vector"}, "trn1", ConstraintError,
        "engine='vector' cannot execute it; engine.vector, engine.gpsimd can (",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITS)
def test_limit_of_an_operand(start: Any, case: str) -> None:
    name, changes, target, kind, words = LIMITS[case]
    error = refusal(start, name, changes, target)
    assert type(error) is kind
    assert re.match(rf"test_sheets\.py:\d+: nisa\.{name}: {re.escape(words)}", str(error)), error


# What is just allowed: the other side of the limits above.
ALLOWED: dict[str, tuple[str, Changes, str]] = {
    "512 moving columns": ("nc_matmul", lambda c: wide(c, 512), "trn2"),
    "4096 moving columns": ("nc_matmul", lambda c: wide(c, 4096), "trn3"),
    "8192 moving columns": ("nc_matmul", lambda c: wide(c, 8192, "bfloat16"), "trn3"),
    "a quarter of the array": (
        "nc_matmul", lambda c: {"tile_position": (96, 32), "tile_size": (32, 32)}, "trn2",
    ),
    "the whole array as a tile": (
        "nc_matmul", lambda c: {"tile_position": (0, 0), "tile_size": (128, 128)}, "trn1",
    ),
    "a row tile of two rows of float8": (
        "nc_matmul", lambda c: {
            **doubled(c), "tile_position": (64, 0), "tile_size": (64, 128),
        }, "trn3",
    ),
    "a mode by its value": (
        "nc_matmul", lambda c: {**doubled(c), "perf_mode": "double_row"}, "trn2",
    ),
    "scales in quadrant 1": (
        "nc_matmul_mx", lambda c: {
            "moving": t(c, 128, 6, dtype=X4)[32:64],
            "moving_scale": t(c, 128, 6, dtype="uint8")[44:48],
        }, "trn3",
    ),
    "32 partitions from 96": ("memset", lambda c: {"dst": t(c, 128, 8)[96:128]}, "trn1"),
    "64 partitions from 64": ("memset", lambda c: {"dst": t(c, 128, 8)[64:128]}, "trn1"),
    "4 free dimensions": ("memset", lambda c: {"dst": t(c, 4, 2, 2, 2, 2)}, "trn1"),
    "stride 32767": (
        "memset", lambda c: {"dst": t(c, 4, 2, 32767, dtype="int8")[:, :, :1]}, "trn1",
    ),
    "size 65535": ("memset", lambda c: {"dst": t(c, 4, 65535, dtype="int8")}, "trn1"),
    "DMA to partition 5": ("dma_copy", lambda c: {"dst": t(c, 128, 8)[5:9]}, "trn1"),
    "5 free dimensions by DMA": (
        "dma_copy", lambda c: {"dst": t(c, 1, 1, 2, 2, 2, 4), "src": h(c, 1, 32)}, "trn1",
    ),
    "ScalarE copies": ("tensor_copy", lambda c: {"engine": E.scalar}, "trn2"),
    "bias is a number": ("activation", lambda c: {"bias": 1.0}, "trn2"),
    "bias of reciprocal": (
        "activation", lambda c: {"op": nl.reciprocal, "bias": t(c, 4, 1)}, "trn2",
    ),
    "relu on VectorE": ("tensor_scalar", lambda c: {"op0": nl.relu, "operand0": None}, "trn3"),
    "square on VectorE": ("tensor_scalar", lambda c: {"op0": nl.square, "operand0": 0}, "trn3"),
    "abs_max": ("tensor_tensor", lambda c: {"op": nl.abs_max}, "trn3"),
    "abs_min": ("scalar_tensor_tensor", lambda c: {"op1": nl.abs_min}, "trn3"),
    "float8_e4m3fn": (
        "nc_matmul", lambda c: {
            "stationary": t(c, dtype="bfloat16"), "moving": t(c, 4, 6, dtype="float8_e4m3fn"),
        }, "trn3",
    ),
    "512 elements of bn_stats": ("bn_stats", lambda c: {"data": t(c, 4, 512)}, "trn1"),
    "16384 elements of max8": ("max8", lambda c: {"src": t(c, 4, 128, 128)}, "trn1"),
    "8 elements of max8": ("max8", lambda c: {"src": t(c, 4, 8)}, "trn1"),
    "index 2**24": ("range_select", lambda c: {"range_start": 2**24 - 7}, "trn2"),
    "least float32": ("range_select", lambda c: {"on_false_value": -3.4028235e38}, "trn2"),
    "places of matches": (
        "nc_match_replace8", lambda c: {"dst_idx": t(c, dtype="uint16")}, "trn2",
    ),
    "one partition for all": (
        "nc_stream_shuffle", lambda c: {
            "dst": t(c, 128, 8)[96:128], "src": t(c, 1, 8), "shuffle_mask": [0] * 32,
        }, "trn1",
    ),
    "a number where selected": ("tensor_copy_predicated", lambda c: {"src": 1.5}, "trn1"),
    "initial value": (
        "tensor_scalar_reduce", lambda c: {
            "reduce_cmd": nisa.reduce_cmd.load_reduce, "reduce_init": t(c, 4, 1),
        }, "trn1",
    ),
    "square and sum": (
        "tensor_scalar_reduce", lambda c: {"op0": nl.square, "operand0": None}, "trn3",
    ),
    "bfloat16 result": ("nc_matmul", lambda c: {"dst": p(c, 8, 6, dtype="bfloat16")}, "trn3"),
    "result over two banks": ("nc_matmul", lambda c: {"dst": p(c, 8, 1024)[:, 508:514]}, "trn3"),
}  # fmt: skip


@pytest.mark.parametrize("case", ALLOWED)
def test_just_allowed(start: Any, case: str) -> None:
    name, changes, target = ALLOWED[case]
    with start(target) as chip:
        call = VALID[name](chip) | changes(chip)
        reads = [o for o, limits in SHEETS[name].operands.items() if limits.role is Role.READ]
        for operand in reads:
            if hasattr(call.get(operand), "shape"):
                full(call[operand], 1)
        SHEETS[name](**call)
        assert chip.last.opcode == name


@pytest.mark.parametrize("gone", [nl.relu, nl.square, nl.abs_max, nl.abs_min])
@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_operators_of_trn3(start: Any, gone: Any, target: str) -> None:
    operand = None if gone.unary else 1.0
    error = refusal(start, "tensor_scalar", lambda c: {"op0": gone, "operand0": operand}, target)
    assert f"got [{gone!r}] on {target} (" in str(error)


def test_bit_patterns_take_whole_numbers_only(start: Any) -> None:
    words = "operands must be float32 tensors or numbers, of bitvec operators integers; got "
    changes = {"op0": nl.bitwise_or, "operand0": 1.5}
    error = refusal(
        start, "tensor_scalar", lambda c: {**each(c, "int32", "dst", "data"), **changes}
    )
    assert f"{words}1.5, None (" in str(error)


def test_a_check_that_passed_does_not_stand_for_a_different_call(start: Any) -> None:
    """Calls that look alike are checked once; these differ in what a check looks at."""
    with start("trn2") as chip:
        rows = full(t(chip, 128, 8), 1)
        nisa.tensor_copy(dst=t(chip), src=rows[32:36], engine=E.scalar)
        with pytest.raises(ConstraintError, match="from 33"):
            nisa.tensor_copy(dst=t(chip), src=rows[33:37], engine=E.scalar)
        with pytest.raises(ConstraintError, match="GpSimdE cannot access PSUM"):
            nisa.tensor_copy(dst=p(chip), src=rows[32:36], engine=E.gpsimd)
        with pytest.raises(ShapeError, match="elements per partition"):
            nisa.tensor_copy(dst=t(chip), src=rows[32:36, :7], engine=E.scalar)
        with pytest.raises(UninitializedReadError, match="reads 32 of 32 elements"):
            nisa.tensor_copy(dst=t(chip), src=t(chip), engine=E.scalar)
    with start("trn1") as chip, pytest.raises(ConstraintError, match="ScalarE of NeuronCore-v2"):
        nisa.tensor_copy(dst=t(chip), src=full(t(chip), 1), engine=E.scalar)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dst": 1, "sr": 2}, "src"),
        ({"dst": 1}, "src"),
        ({"dst": 1, "src": 2, "engin": 3}, "engin"),
    ],
)
def test_arguments_that_do_not_fit(chip: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        nisa.tensor_copy(**arguments)
    with pytest.raises(TypeError, match="multiple values"):
        nisa.tensor_copy(t(chip), dst=t(chip), src=t(chip))


def test_outside_a_kernel() -> None:
    with pytest.raises(ConstraintError, match=r"^nisa\.memset: only works inside a kernel"):
        nisa.memset(dst=None, value=0)
