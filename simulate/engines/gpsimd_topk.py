"""GpSimdE, topk: the K largest of up to 65535 elements that lie over sixteen partitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import busy_until_done, picoseconds
from nkiconv.simulate.engines.gpsimd_gather import same_start
from nkiconv.simulate.errors import ShapeError
from nkiconv.simulate.memory import UNWRITTEN
from nkiconv.simulate.sheet import (
    SBUF,
    Call,
    Cost,
    Operand,
    Role,
    Rule,
    free_elems,
    instruction,
    isa,
    partitions,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_N_MIN, _N_END = 8, 65536
_K_END = 32768
_NO_INDEX = 0xFFFF_FFFF


def _columns(elems: int, call: Call) -> int:
    return -(-elems // call.hw.gpsimd_core_partitions)


def _active_columns(src: NkiTensor, call: Call) -> NkiTensor:
    """Return the columns that hold the `n` active elements."""
    return src[:, 0 : _columns(call["n"], call)]


def _result_columns(dst: NkiTensor, call: Call) -> NkiTensor:
    """Return the columns that the K results of a core fill."""
    return dst[:, 0 : _columns(free_elems(dst), call)]


def _is_count(call: Call) -> bool:
    n = call["n"]
    return type(n) is int and _N_MIN <= n < _N_END


def _k_fits(call: Call) -> bool:
    k = free_elems(call["val_dst"])
    return free_elems(call["idx_dst"]) == k and 1 <= k < _K_END and k <= call["n"]


def _forget_padding(call: Call) -> None:
    """Mark as unwritten what the last column of results has beyond the K-th."""
    lanes = call.hw.gpsimd_core_partitions
    for name in ("val_dst", "idx_dst"):
        dst = call[name]
        column, used = divmod(free_elems(dst), lanes)
        for core in range(0, partitions(dst) if used else 0, lanes):
            padding = dst[core + used : core + lanes, column]
            padding._storage.mark(padding, padding._kind, UNWRITTEN)


def _topk_cost(call: Call) -> Cost:
    hw = call.hw
    cycles = hw.topk_elem_cycles * call["n"] + free_elems(call["val_dst"])
    return busy_until_done(picoseconds(cycles, hw.gpsimd_ghz), hw.vector_latency_ns)


def _lanes_of_core(call: Call) -> None:
    call.extra = {
        "_lanes": call.hw.gpsimd_core_partitions,
        "_k": free_elems(call["val_dst"]),
    }


@instruction(
    lane=Lane.GPSIMD,
    operands={
        "val_dst": Operand(
            SBUF, Role.WRITE, dtypes=frozenset({"bfloat16"}), touches=_result_columns
        ),
        "idx_dst": Operand(SBUF, Role.WRITE, dtypes=frozenset({"uint32"}), touches=_result_columns),
        "src": Operand(SBUF, dtypes=frozenset({"bfloat16"}), touches=_active_columns),
    },
    rules=(
        Rule(
            "val_dst, idx_dst and src must have two dimensions and the same partitions, a multiple "
            "of 16",
            lambda c: (
                all(c[n].ndim == 2 for n in ("val_dst", "idx_dst", "src"))
                and len({partitions(c[n]) for n in ("val_dst", "idx_dst", "src")}) == 1
                and partitions(c["src"]) % c.hw.gpsimd_core_partitions == 0
            ),
            isa("topk"),
            error=ShapeError,
            code="whole_cores",
        ),
        same_start("val_dst", "idx_dst", "src"),
        Rule(
            "n must be an integer from 8 to 65535",
            _is_count,
            isa("topk"),
            shows=lambda c: f"{c['n']!r}",
        ),
        Rule(
            "src must have an element per partition for each 16 of n",
            lambda c: free_elems(c["src"]) >= _columns(c["n"], c),
            isa("topk"),
            shows=lambda c: f"n={c['n']} for {c['src']!r}",
            error=ShapeError,
            code="enough_elements",
        ),
        Rule(
            "val_dst and idx_dst must have K elements per partition each, K from 1 to 32767 and at "
            "most n",
            _k_fits,
            isa("topk"),
            error=ShapeError,
        ),
    ),
    prepare=_lanes_of_core,
    count=_forget_padding,
    cost=_topk_cost,
    sources=(
        isa("topk"),
        "aws-neuron/nki-library 2.32, kernels around nisa.topk: results lie in a snake too",
    ),
)
def topk(
    val_dst: Any,
    idx_dst: Any,
    src: Any,
    n: Any,
    name: Any = None,
    *,
    _lanes: Any = None,
    _k: Any = None,
) -> tuple[Array, Array]:
    """The K largest of each core's `n` elements, ascending, and where they are.

    Element i of a core lies in partition ``i % 16`` and column ``i // 16`` of `src`, and result j
    in partition ``j % 16`` and column ``j // 16`` of the outputs.  K is the number of columns that
    the outputs have; the results fill the first ``ceil(K / 16)`` of them, and leave the rest alone.

    Shapes
    ------
    src (P, X) bfloat16, X at least n / 16   val_dst (P, K) bfloat16   idx_dst (P, K) uint32
    """
    snakes = src.reshape(-1, _lanes, src.shape[1]).transpose(0, 2, 1)
    elements = snakes.reshape(len(snakes), -1)[:, :n]
    # Back to front, so that of equal elements the first is taken last, and never left out first.
    order = n - 1 - np.argsort(elements[:, ::-1], axis=1, kind="stable")
    chosen = order[:, n - _k :]
    values = np.take_along_axis(elements, chosen, axis=1)
    return _in_snakes(values, np.nan, _lanes), _in_snakes(chosen, _NO_INDEX, _lanes)


def _in_snakes(results: Array, filler: float, lanes: int) -> Array:
    """Lay the K results of each core out over its partitions."""
    cores, k = results.shape
    padded = np.full((cores, -(-k // lanes) * lanes), filler, dtype=results.dtype)
    padded[:, :k] = results
    snakes: Array = padded.reshape(cores, -1, lanes).transpose(0, 2, 1)
    return snakes.reshape(cores * lanes, -1)
