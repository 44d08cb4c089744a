"""Modelled occupancy of every instruction, worked by hand from the documented formulas.

An engine is occupied for the cycles that it streams and the cycles that it takes to issue; the
numbers stand here once more, apart from `hardware.py`, so that a change there is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.sheet import SHEETS

E = nisa.engine

# Each makes one call with n elements per partition (or columns).


def matmul(c: Any, n: int, dtype: str = "bfloat16", m: int = 64, k: int = 128, **flags: Any) -> Any:
    weights, moving = c.put(np.ones((k, m)), dtype), c.put(np.ones((k, n)), dtype)
    return nisa.nc_matmul(c.new((m, n), buffer=nl.psum), weights, moving, **flags)


def turn(c: Any, n: int, dtype: str = "float32", space: Any = nl.psum, m: int = 128) -> Any:
    return nisa.nc_transpose(dst=c.new((m, n), dtype, space), data=c.put(np.ones((n, m)), dtype))


def double(c: Any, n: int, dtype: str = "float8_e4m3", m: int = 64) -> Any:
    weights, moving = c.put(np.ones((128, 2, m)), dtype), c.put(np.ones((128, 2, n)), dtype)
    mode = nisa.matmul_perf_mode.double_row
    return nisa.nc_matmul(c.new((m, n), buffer=nl.psum), weights, moving, perf_mode=mode)


def turned(c: Any, n: int, dtype: str = "float32") -> Any:
    weights, moving = c.put(np.ones((n, 128)), dtype), c.put(np.eye(n), dtype)
    return nisa.nc_matmul(c.new((128, n), dtype, nl.psum), weights, moving, is_transpose=True)


def multiply_mx(c: Any, n: int, dtype: str = "float8_e5m2_x4") -> Any:
    sides = [c.put(np.zeros((128, size)), kind) for size in (64, n) for kind in (dtype, "uint8")]
    weights, weight_scale, moving, scale = sides
    return nisa.nc_matmul_mx(c.new((64, n), buffer=nl.psum), weights, moving, weight_scale, scale)


def quantize(c: Any, n: int, dtype: str = "bfloat16") -> Any:
    x, dst = c.put(np.ones((32, 4 * n)), dtype), c.new((32, n), "float8_e4m3fn_x4")
    return nisa.quantize_mx(dst, x, c.new((4, n), "uint8"))


def activate(c: Any, n: int, dtype: str = "float32", op: Any = nl.copy) -> Any:
    return nisa.activation(dst=c.new((4, n), dtype), op=op, data=c.put(np.ones((4, n)), dtype))


def copy(c: Any, n: int, dtype: str = "float32", space: Any = nl.sbuf, **wish: Any) -> Any:
    x = c.put(np.ones((4, n)), dtype, space)
    return nisa.tensor_copy(dst=c.new((4, n), dtype), src=x, **wish)


def pair(c: Any, n: int, dtype: str = "float32", space: Any = nl.sbuf, **wish: Any) -> Any:
    x, y = c.put(np.ones((4, n)), dtype, space), c.put(np.ones((4, n)), dtype)
    return nisa.tensor_tensor(dst=c.new((4, n), dtype), data1=x, data2=y, op=nl.add, **wish)


def scale(c: Any, n: int, dtype: str = "float32", op: Any = nl.add, **wish: Any) -> Any:
    x = c.put(np.ones((4, n)), dtype)
    operand = None if op is nl.rsqrt else 2
    return nisa.tensor_scalar(dst=c.new((4, n), dtype), data=x, op0=op, operand0=operand, **wish)


def fused(c: Any, n: int, dtype: str = "float32") -> Any:
    x, y = c.put(np.ones((4, n)), dtype), c.put(np.ones((4, n)), dtype)
    return nisa.scalar_tensor_tensor(c.new((4, n), dtype), x, nl.add, 1.0, nl.add, y)


def fill(c: Any, n: int, dtype: str = "float32", value: float = 0, **wish: Any) -> Any:
    return nisa.memset(dst=c.new((4, n), dtype), value=value, **wish)


def total(c: Any, n: int, dtype: str = "float32") -> Any:
    x = c.put(np.ones((4, n)), dtype)
    return nisa.tensor_reduce(dst=c.new((4, 1)), op=nl.add, data=x, axis=1)


def load(c: Any, n: int, dtype: str = "float32", rows: int = 128, **options: Any) -> Any:
    source, step = options.get("source", nl.shared_hbm), options.get("step", 1)
    x = c.put(np.ones((rows, n * step)), dtype, source)
    return nisa.dma_copy(dst=c.new((rows, n), options.get("to", dtype)), src=x[:, ::step])


def move(c: Any, n: int, dtype: str = "float32") -> Any:
    x = c.put(np.ones(n), dtype, nl.shared_hbm)
    return nisa.dma_copy(dst=c.new((n,), dtype, nl.shared_hbm), src=x)


def load_turned(
    c: Any, n: int, dtype: str = "float32", source: Any = nl.shared_hbm, **options: Any
) -> Any:
    x = c.put(np.ones((n, 128)), dtype, source)
    return nisa.dma_transpose(dst=c.new((128, n), dtype), src=x, **options)


def invert(c: Any, n: int, dtype: str = "float32") -> Any:
    return nisa.reciprocal(dst=c.new((4, n), dtype), data=c.put(np.ones((4, n)), dtype))


def activate_sum(c: Any, n: int, dtype: str = "float32", op: Any = nl.copy) -> Any:
    x = c.put(np.ones((4, n)), dtype)
    return nisa.activation_reduce(c.new((4, n), dtype), op, x, nl.add, c.new((4, 1)))


def scan(c: Any, n: int, dtype: str = "float32") -> Any:
    x, y = c.put(np.ones((4, n)), dtype), c.put(np.ones((4, n)), dtype)
    return nisa.tensor_tensor_scan(c.new((4, n), dtype), x, y, 0, nl.multiply, nl.add)


def running(c: Any, n: int, dtype: str = "float32") -> Any:
    x = c.put(np.ones((4, n)), dtype)
    return nisa.tensor_scalar_cumulative(c.new((4, n), dtype), x, nl.multiply, nl.add, 1)


def scale_sum(c: Any, n: int, dtype: str = "float32") -> Any:
    x = c.put(np.ones((4, n)), dtype)
    return nisa.tensor_scalar_reduce(c.new((4, n), dtype), x, nl.add, 1, nl.add)


def where(c: Any, n: int, dtype: str = "float32", space: Any = nl.sbuf) -> Any:
    x, chosen = c.put(np.ones((4, n)), dtype), c.put(np.ones((4, n)), "uint8", space)
    return nisa.tensor_copy_predicated(c.new((4, n), dtype), x, chosen)


def where_max(c: Any, n: int, dtype: str = "float32") -> Any:
    x, chosen = c.put(np.ones((4, n)), dtype), c.put(np.ones((4, n)), "uint8")
    return nisa.select_reduce(c.new((4, n), dtype), chosen, x, 0.0)


def between(c: Any, n: int, dtype: str = "float32") -> Any:
    x, bound = c.put(np.ones((4, n)), dtype), c.put(np.ones((4, 1)))
    return nisa.range_select(c.new((4, n), dtype), x, nl.less, nl.less, bound, bound)


def shuffle(c: Any, n: int, dtype: str = "float32") -> Any:
    x = c.put(np.ones((32, n)), dtype)
    return nisa.nc_stream_shuffle(c.new((32, n), dtype), x, [0] * 32)


def statistics(c: Any, n: int, dtype: str = "float32") -> Any:
    return nisa.bn_stats(dst=c.new((4, 6)), data=c.put(np.ones((4, n)), dtype))


def aggregate(c: Any, n: int, dtype: str = "float32") -> Any:  # n tuples of 3 elements
    return nisa.bn_aggr(dst=c.new((4, 2)), data=c.put(np.ones((4, 3 * n)), dtype))


def largest(c: Any, n: int, dtype: str = "float32") -> Any:
    return nisa.max8(dst=c.new((4, 8), dtype), src=c.put(np.ones((4, n)), dtype))


def find(c: Any, n: int, dtype: str = "float32") -> Any:
    x, vals = c.put(np.ones((4, n)), dtype), c.put(np.ones((4, 8)), dtype)
    return nisa.nc_find_index8(dst=c.new((4, 8), "uint32"), data=x, vals=vals)


def replace(c: Any, n: int, dtype: str = "float32") -> Any:
    x, vals = c.put(np.ones((4, n)), dtype), c.put(np.ones((4, 8)), dtype)
    return nisa.nc_match_replace8(c.new((4, n), dtype), x, vals, 0.0)


COSTS: list[tuple[Any, int, dict[str, Any], str, float]] = [
    # call, n, options, target, nanoseconds
    # TensorE at 2.4 GHz (2.45 sustained on trn1): max(N, 64) cycles, 6 between matmuls.
    (matmul, 512, {}, "trn2", (512 + 6) / 2.4),
    (matmul, 512, {}, "trn1", (512 + 6) / 2.45),
    (matmul, 10, {"dtype": "float16"}, "trn2", (64 + 6) / 2.4),
    (matmul, 512, {"dtype": "tfloat32"}, "trn2", (512 + 6) / 2.4),
    (matmul, 512, {"dtype": "float8_e4m3"}, "trn3", (512 + 6) / 2.4),
    (matmul, 512, {"is_moving_onezero": True}, "trn2", (512 + 6) / 2.4),
    # float32: two passes, two cycles a column, of either operand (weights are loaded at that rate)
    (matmul, 512, {"dtype": "float32"}, "trn2", 2 * (2 * 512 + 6) / 2.4),
    (matmul, 512, {"dtype": "float32", "is_moving_onezero": True}, "trn2", (2 * 512 + 6) / 2.4),
    (matmul, 512, {"dtype": "float32", "is_stationary_onezero": True}, "trn2", (1024 + 6) / 2.4),
    (matmul, 8, {"dtype": "float32"}, "trn2", 2 * (2 * 64 + 6) / 2.4),
    (matmul, 8, {"dtype": "float32", "m": 8}, "trn2", 2 * (64 + 6) / 2.4),
    (turn, 128, {"dtype": "bfloat16"}, "trn2", (128 + 6) / 2.4),
    (turn, 128, {}, "trn2", (2 * 128 + 6) / 2.4),
    (turn, 10, {"dtype": "bfloat16"}, "trn2", (64 + 6) / 2.4),
    (turn, 32, {"m": 32, "space": nl.sbuf}, "trn1", (32 + 60) / 1.12),  # on VectorE
    # Flags of TensorE: two rows of float8 at once, transposes in one pass, a tile as all cells.
    (double, 512, {}, "trn2", (512 + 6) / 2.4),
    (double, 512, {}, "trn3", (512 + 6) / 2.4),
    (double, 16, {}, "trn2", (64 + 6) / 2.4),
    (turned, 128, {}, "trn2", (2 * 128 + 6) / 2.4),
    (turned, 128, {}, "trn1", 2 * (2 * 128 + 6) / 2.45),
    (
        matmul,
        512,
        {"m": 32, "k": 32, "tile_position": (32, 96), "tile_size": (32, 32)},
        "trn2",
        (512 + 6) / 2.4,
    ),
    # MX: 512 contracted in the time of 128; VectorE quantizes four a cycle.
    (multiply_mx, 512, {}, "trn3", (512 + 6) / 2.4),
    (multiply_mx, 8, {}, "trn3", (64 + 6) / 2.4),
    (quantize, 512, {}, "trn3", (4 * 512 / 4 + 60) / 1.2),  # n packed elements of four
    # ScalarE: N cycles, 60 to issue, 180 with a table, 25 ns more from SBUF.
    (activate, 512, {}, "trn1", (512 + 60) / 1.4 + 25),
    (activate, 512, {"op": nl.relu, "dtype": "bfloat16"}, "trn2", (512 + 60) / 1.2 + 25),
    (activate, 512, {"op": nl.exp}, "trn1", (512 + 180) / 1.4 + 25),
    (activate, 512, {"op": nl.silu}, "trn3", (512 + 180) / 1.2 + 25),
    # VectorE at 1.12, 0.96 and 1.2 GHz: N cycles, 60 to issue; GpSimdE at 1.4 and 1.2 GHz: 150.
    (copy, 512, {}, "trn1", (512 + 60) / 1.12),
    (copy, 512, {"engine": E.gpsimd}, "trn1", (512 + 150) / 1.4),
    (copy, 512, {}, "trn2", (512 / 2 + 60) / 0.96),  # float32 in SBUF at twice the rate
    (copy, 512, {"dtype": "bfloat16"}, "trn2", (512 / 4 + 60) / 0.96),  # four times
    (copy, 512, {"dtype": "bfloat16", "space": nl.psum}, "trn2", (512 / 2 + 60) / 0.96),
    (copy, 512, {"space": nl.psum}, "trn2", (512 + 60) / 0.96),
    (copy, 512, {"engine": E.scalar}, "trn2", (512 + 60) / 1.2 + 25),
    (copy, 512, {"engine": E.gpsimd}, "trn2", (512 + 150) / 1.2),
    (copy, 512, {"dtype": "bfloat16"}, "trn3", (512 / 4 + 60) / 1.2),
    (copy, 512, {"dtype": "bfloat16", "engine": E.scalar}, "trn3", (512 / 2 + 60) / 1.2 + 25),
    (copy, 512, {"dtype": "float8_e4m3"}, "trn3", (512 / 4 + 60) / 1.2),
    (copy, 512, {"dtype": "float8_e4m3"}, "trn2", (512 / 2 + 60) / 0.96),
    (pair, 512, {}, "trn1", (2.02 * 512 + 60) / 1.12),  # 2 N for two inputs from one memory
    (pair, 512, {"space": nl.psum}, "trn1", (512 + 60) / 1.12),
    (pair, 512, {"dtype": "bfloat16"}, "trn1", (512 + 60) / 1.12),
    (pair, 512, {}, "trn2", (512 + 60) / 0.96),
    (pair, 512, {"dtype": "float16"}, "trn2", (512 / 2 + 60) / 0.96),
    (pair, 512, {"dtype": "int32"}, "trn2", (512 + 150) / 1.2),  # exact, on GpSimdE
    (scale, 512, {}, "trn1", (512 + 60 + 60) / 1.12),
    (scale, 512, {"dtype": "bfloat16"}, "trn2", (512 / 4 + 60 + 60) / 0.96),
    (scale, 512, {"engine": E.scalar}, "trn2", (512 + 60) / 1.2 + 25),
    (scale, 512, {"op": nl.rsqrt}, "trn2", (512 + 150) / 1.2),
    (fused, 512, {}, "trn1", (2.02 * 512 + 60) / 1.12),
    (fused, 512, {"dtype": "bfloat16"}, "trn2", (512 / 2 + 60) / 0.96),
    (fill, 512, {}, "trn1", (512 + 60) / 1.12),
    (fill, 512, {"dtype": "bfloat16"}, "trn1", (512 / 2 + 60) / 1.12),  # zeros, two at a time
    (fill, 512, {"dtype": "bfloat16", "value": 1}, "trn1", (512 + 60) / 1.12),
    (fill, 512, {"engine": E.gpsimd}, "trn1", (512 + 150) / 1.4),
    (total, 512, {}, "trn1", (512 + 60) / 1.12),
    (total, 512, {"dtype": "bfloat16"}, "trn2", (512 + 60) / 0.96),
    (invert, 512, {}, "trn1", (2.5 * 512 + 60) / 1.12),
    (activate_sum, 512, {}, "trn2", (512 + 60 + 64) / 1.2 + 25),  # 64 to read the registers
    (activate_sum, 512, {"op": nl.exp}, "trn2", (512 + 180 + 64) / 1.2 + 25),
    (scale_sum, 512, {"dtype": "bfloat16"}, "trn2", (512 + 60 + 64) / 0.96),
    (scan, 512, {}, "trn2", (2 * 512 + 60) / 0.96),
    (running, 512, {}, "trn3", (2 * 512 + 60) / 1.2),
    (where, 512, {}, "trn1", (2 * 512 + 60) / 1.12),
    (where, 512, {"space": nl.psum}, "trn1", (512 + 60) / 1.12),
    (where_max, 512, {}, "trn2", (2 * 512 + 60) / 0.96),
    (between, 512, {}, "trn2", (512 + 60) / 0.96),
    (shuffle, 512, {}, "trn1", (512 + 60) / 1.12),
    (statistics, 512, {}, "trn1", (512 + 60) / 1.12),
    (aggregate, 30, {}, "trn1", (13 * 30 + 60) / 1.12),
    (largest, 512, {}, "trn1", (512 + 60) / 1.12),
    (find, 512, {}, "trn2", (512 + 60) / 0.96),
    (replace, 512, {}, "trn2", (512 + 60) / 0.96),
    # DMA: 40 ns, and 16 engines share the rows, 4.8 ns each and 27.2 B/ns (20.2 on trn1)...
    (load, 128, {"dtype": "bfloat16"}, "trn2", 40 + 128 / 16 * (4.8 + 256 / 27.2)),
    (load, 64, {"dtype": "bfloat16"}, "trn1", 40 + 128 / 16 * (4.8 + 128 / 20.2)),
    (load, 64, {"rows": 17}, "trn2", 40 + 17 / 16 * (4.8 + 256 / 27.2)),
    (load, 64, {"dtype": "bfloat16", "to": "float32"}, "trn2", 40 + 128 / 16 * (4.8 + 256 / 27.2)),
    # ... within what all can do together, 375 B/ns, 272 on trn1, 528 on trn3
    (load, 512, {"source": nl.sbuf}, "trn2", 128 * 2048 / 375),
    (load, 512, {}, "trn2", 128 * 2048 / 375),
    (load, 512, {}, "trn1", 128 * 2048 / 272),
    (load, 4096, {}, "trn3", 128 * 16384 / 528),
    (load, 64, {"dtype": "bfloat16"}, "trn2", 40 + 128 / 16 * 10),  # no run takes less than 10 ns
    (load, 7, {}, "trn2", 40 + 128 / 16 * 10),
    (load, 1, {}, "trn2", 40 + 128 / 16 * 50),  # and a single word, 50 ns
    (load, 64, {"step": 2}, "trn2", 40 + 128 * 64 / 16 * 50),  # a run for each element
    # Few rows are the work of few engines, and leave the others free.
    (load, 4096, {"rows": 1}, "trn2", 40 + (4.8 + 16384 / 27.2) / 16),
    (load, 12288, {"rows": 1}, "trn1", 40 + (4.8 + 12288 * 4 / 20.2) / 16),
    (load, 1024, {"rows": 9, "source": nl.sbuf}, "trn2", 40 + 9 / 16 * (4.8 + 4096 / 27.2)),
    # Within HBM long runs are shared out, both sides count, and less than 512 B are written slowly.
    (move, 64 * 1024, {}, "trn2", 2 * 64 * 4096 / 375),
    (move, 64, {}, "trn2", 40 + (4.8 + 512 / 27.2) / 16),
    # Transposes: blocks of 128 partitions and 16 elements at 0.9 of the rate; on trn1, and with
    # descriptors made beforehand, element by element.
    (load_turned, 128, {"dtype": "bfloat16"}, "trn2", 40 + 128 * 256 / 375 / 0.9),
    (load_turned, 17, {"dtype": "bfloat16"}, "trn2", 40 + 32 * 256 / 375 / 0.9),
    (load_turned, 128, {"source": nl.sbuf}, "trn2", 40 + 128 * 512 / 375 / 0.5),
    (load_turned, 64, {}, "trn1", 40 + 64 * 128 / 16 * 50),
    (load_turned, 64, {"dge_mode": nisa.dge_mode.none}, "trn2", 40 + 64 * 128 / 16 * 50),
]


@pytest.mark.parametrize(("call", "n", "options", "target", "nanoseconds"), COSTS)
def test_occupancy(
    start: Any, call: Any, n: int, options: Any, target: str, nanoseconds: float
) -> None:
    with start(target) as chip:
        call(chip, n, **options)
        assert chip.last.occupancy_ps == round(1000 * nanoseconds)


CALLS = (
    *(matmul, turn, activate, copy, pair, scale, fused, fill, total, load, load_turned, invert),
    *(activate_sum, scan, running, scale_sum, where, where_max, between, shuffle, statistics),
    *(aggregate, largest, find, replace),
)
CEILINGS = {matmul: 512, turn: 128, load_turned: 2000, statistics: 512}
FLOORS = {
    load: 4,  # a single word costs more than a short run (test_occupancy)
    **{largest: 8, find: 8, replace: 8},
}


ELSEWHERE = {  # of trn3 (above), or in files of their own: test_gpsimd_costs.py and others
    "activate2", "affine_select", "core_barrier", "dma_compute", "dropout", "exponential",
    "iota", "local_gather", "nc_matmul_mx", "nc_n_gather", "nonzero_with_count", "quantize_mx",
    "rand2", "rand_get_state",
    "rand_set_state", "register_load", "register_move", "register_store", "rng", "sendrecv",
    "sequence_bounds", "set_rng_seed", "tensor_partition_reduce", "topk",
}  # fmt: skip


def test_every_instruction_is_in_the_table(start: Any) -> None:
    with start("trn2") as chip:
        for call in CALLS:
            call(chip, 16)
        assert {step.opcode for step in chip.program.trace.steps()} == SHEETS.keys() - ELSEWHERE
    assert {row[0] for row in COSTS} == {*CALLS, double, turned, multiply_mx, quantize, move}


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("call", CALLS)
def test_cost_never_falls_when_a_dimension_grows(
    start: Any, call: Any, dtype: str, target: str
) -> None:
    sizes: tuple[int, ...] = (
        1,
        2,
        3,
        15,
        16,
        17,
        63,
        64,
        65,
        100,
        128,
        511,
        512,
        513,
        1023,
        1025,
        3000,
        4097,
        9000,
    )
    if call is between and target == "trn1":
        pytest.skip("range_select comes with NeuronCore-v3")
    sizes = tuple(n for n in sizes if n >= FLOORS.get(call, 1))
    costs = []
    with start(target) as chip:
        for n in sizes:
            if n <= CEILINGS.get(call, 9000):
                call(chip, n, dtype)
                costs.append(chip.last.occupancy_ps)
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cost_never_falls_in_the_other_dimensions(start: Any, dtype: str) -> None:
    with start("trn2") as chip:
        for n in (8, 64, 512):
            for name in ("m", "k"):
                costs = []
                for size in (1, 2, 31, 32, 33, 63, 64, 65, 127, 128):
                    matmul(chip, n, dtype, **{name: size})
                    costs.append(chip.last.occupancy_ps)
                assert costs == sorted(costs), (n, name)
        costs = []
        for n in (16, 500, 512, 513, 767, 1023, 1024, 1025, 2047, 2048, 8191, 8192, 8193, 20000):
            load(chip, n, dtype, rows=1)
            costs.append(chip.last.occupancy_ps)
        assert costs == sorted(costs)
        for n in (1, 16, 1024, 1500, 3000, 10000):
            costs = []
            for rows in (1, 2, 3, 7, 8, 9, 15, 16, 17, 32, 33, 128):
                load(chip, n, dtype, rows=rows)
                costs.append(chip.last.occupancy_ps)
            assert costs == sorted(costs), n


def test_wide_strides_halve_the_rate(start: Any) -> None:
    """Neighbours up to 16 B apart stream at full rate (A2, Performance Consideration)."""
    with start("trn2") as chip:
        weights, held = (
            chip.put(np.ones((8, 8)), "float16"),
            chip.put(np.ones((8, 2304)), "float16"),
        )
        for step, cycles in ((8, 256), (9, 2 * 256)):  # 16 B and 18 B
            moving = held.ap([[2304, 8], [step, 256]])
            nisa.nc_matmul(chip.new((8, 256), buffer=nl.psum), weights, moving)
            assert chip.last.occupancy_ps == round((cycles + 6) / 2.4e-3)
            nisa.tensor_reduce(chip.new((8, 1)), nl.add, moving, 1)
            assert chip.last.occupancy_ps == round((cycles + 60) / 0.96e-3)


def test_short_elements_written_far_apart_take_longest(start: Any) -> None:
    with start("trn2") as chip:
        for dtype, step, ns in (
            ("float16", 9, 4.4),
            ("float16", 8, 1 / 1.2),
            ("float32", 9, 2 / 1.2),
        ):
            dst = chip.new((4, 100 * step), dtype)
            nisa.activation(dst[:, ::step], nl.copy, chip.put(np.ones((4, 100)), dtype))
            assert chip.last.occupancy_ps == round(1000 * (100 * ns + 60 / 1.2 + 25))


def test_one_element_that_stands_for_many_takes_no_faster_mode(start: Any) -> None:
    with start("trn2") as chip:
        x, y = chip.put(np.ones((4, 96)), "float16"), chip.put(np.ones((4, 1)), "float16")
        nisa.tensor_tensor(chip.new((4, 96), "float16"), x, y.broadcast(1, 96), nl.add)
        assert chip.last.occupancy_ps == round(1000 * (96 + 60) / 0.96)


def test_a_transfer_alone_goes_through_the_engines_of_its_partitions(start: Any) -> None:
    with start("trn2") as chip:
        for rows, columns, lines in ((4, 2048, 4), (128, 2048, 8), (9, 64, 8)):
            load(chip, columns, rows=rows)  # an engine for eight partitions
            alone = 130 + 40 + lines * (4.8 + 4 * columns / 27.2)
            assert chip.last.latency_ps == round(1000 * max(alone, rows * 4 * columns / 375))
        # Rows of 256 B take as long to HBM as those of 512 B do.
        x, y = chip.put(np.ones((8, 64))), chip.new((8, 64), buffer=nl.shared_hbm)
        nisa.dma_copy(dst=y, src=x)
        assert chip.last.latency_ps == round(1000 * (130 + 40 + 8 * (4.8 + 512 / 27.2)))


@pytest.mark.parametrize(
    ("call", "nanoseconds"),
    [
        (matmul, (512 + 6) / 2.45 + 133),
        (turn, None),
        (copy, 512 / 1.12 + 214),
        (activate, 512 / 1.4 + 133 + 25),
        (load, 130 + 40 + 128 / 16 * (4.8 + 2048 / 20.2)),
    ],
)
def test_latency_until_the_result_is_visible(
    chip: Any, call: Any, nanoseconds: float | None
) -> None:
    """The engine is free earlier: the last result is still on its way."""
    call(chip, 512 if nanoseconds else 128)
    expected = nanoseconds or (2 * 128 + 6) / 2.45 + 133
    assert chip.last.latency_ps == pytest.approx(1000 * expected, abs=1)
