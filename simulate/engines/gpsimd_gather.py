"""GpSimdE's gathers: elements picked by indices that lie in SBUF.

`nc_n_gather` picks within each partition.  `local_gather` shares indices: each of the eight cores
sees sixteen neighbouring partitions, reads one list of indices from them, and picks the same places
in all sixteen.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import (
    busy_until_done,
    elementwise_cost,
    picoseconds,
    same_dtype,
    written,
)
from nkiconv.simulate.errors import OutOfBoundsError, ShapeError
from nkiconv.simulate.sheet import (
    SBUF,
    Call,
    Cost,
    Fetch,
    Operand,
    Role,
    Rule,
    assumed,
    free_elems,
    instruction,
    isa,
    partitions,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_MOST_INDICES = 4096
"""Indices of one core in a local_gather (isa local_gather)."""

_RUNS = (1, 2, 4, 8, 16, 32)
"""Elements that local_gather may take at each index (isa local_gather)."""


def start_partition(tensor: NkiTensor) -> int:
    """Return the partition in which an on-chip operand starts."""
    return tensor._region()[2]


def same_start(*names: str) -> Rule:
    """Require operands to start in the same partition, as a core sees its own sixteen only."""
    return Rule(
        f"{', '.join(names)} must start in the same partition, for each core sees its own only",
        lambda c: len({start_partition(c[n]) for n in names}) == 1,
        "NKI 0.6.0, page of the instruction: eight cores with 16 partitions each",
        shows=lambda c: ", ".join(f"{n} from {start_partition(c[n])}" for n in names),
        code="same_start",
    )


def _equal(attribute: Callable[[NkiTensor], int], *names: str) -> Callable[[Call], bool]:
    return lambda c: len({attribute(c[n]) for n in names}) == 1


def _n_gather_inside(call: Call) -> bool:
    indices = call["indices"]
    return not written(indices) or int(indices._array.max()) < free_elems(call["data"])


def _n_gather_cost(call: Call) -> Cost:
    hw = call.hw
    cost = elementwise_cost(call, 1.0)
    groups = ceil(free_elems(call["dst"]) / hw.n_gather_group_elems)
    more = picoseconds((groups - 1) * hw.gpsimd_issue_cycles, hw.gpsimd_ghz)
    return cost.longer(more)


@instruction(
    lane=Lane.GPSIMD,
    operands={
        "dst": Operand(SBUF, Role.WRITE),
        "data": Operand(SBUF, fetch=Fetch.RAW),
        "indices": Operand(SBUF, dtypes=frozenset({"uint32"}), fetch=Fetch.RAW),
    },
    rules=(
        same_dtype("dst", "data"),
        Rule(
            "dst, data and indices must have the same partitions",
            _equal(partitions, "dst", "data", "indices"),
            isa("nc_n_gather"),
            error=ShapeError,
            code="same_partitions",
        ),
        Rule(
            "dst must have as many elements per partition as indices",
            _equal(free_elems, "dst", "indices"),
            isa("nc_n_gather"),
            error=ShapeError,
            code="dst_elements",
        ),
        Rule(
            "every index must lie within the elements per partition of data",
            _n_gather_inside,
            isa("nc_n_gather"),
            shows=lambda c: f"{int(c['indices']._array.max())} for {c['data']!r}",
            error=OutOfBoundsError,
            dynamic=True,
            code="index_bounds",
        ),
    ),
    cost=_n_gather_cost,
    sources=(
        isa("nc_n_gather"),
        assumed("an element a cycle; the page gives the groups of 512 and no cycles"),
    ),
)
def nc_n_gather(dst: Any, data: Any, indices: Any, name: Any = None) -> Array:
    """``dst[p, i] = data[p, indices[p, i]]``, free dimensions flattened.

    Shapes
    ------
    data (P, N)   indices (P, F) uint32   dst (P, F)
    """
    count = len(data)
    where = indices.reshape(count, -1).astype(np.int64)
    return np.take_along_axis(data.reshape(count, -1), where, axis=1)


def _valid(call: Call) -> int:
    """Return how many indices each core takes."""
    given = call["num_valid_indices"]
    return _offered(call) if given is None else int(given)


def _offered(call: Call) -> int:
    return free_elems(call["index"]) * call.hw.gpsimd_core_partitions


def _valid_number(call: Call) -> bool:
    given = call["num_valid_indices"]
    return given is None or (type(given) is int and 1 <= given <= _offered(call))


def _core_indices(index: Array, valid: int, lanes: int) -> Array:
    """Return one list of indices for each core, running down its partitions first."""
    cores = index.reshape(len(index) // lanes, lanes, -1)
    lists: Array = cores.transpose(0, 2, 1).reshape(len(cores), -1)[:, :valid].astype(np.int64)
    return lists


def _greatest(call: Call) -> int:
    lists = _core_indices(call["index"]._array, _valid(call), call.hw.gpsimd_core_partitions)
    return int(lists.max())


def _local_gather_inside(call: Call) -> bool:
    last = free_elems(call["src_buffer"]) - call["num_elem_per_idx"]
    return not written(call["index"]) or _greatest(call) <= last


def _local_gather_cost(call: Call) -> Cost:
    """Return ``150 + elements / C`` cycles, C as on the page of local_gather."""
    hw = call.hw
    elems = call["num_elem_per_idx"]
    index_cycles, word = hw.gather_index_cycles, hw.gather_word_bytes
    rate = (index_cycles + word * elems) / (word * elems)
    rate /= min(word / call["src_buffer"]._element.itemsize, elems)
    cycles = hw.gpsimd_issue_cycles + _valid(call) * elems / rate
    busy = picoseconds(cycles, hw.gpsimd_ghz)
    return busy_until_done(busy, hw.vector_latency_ns)


def _gather_counts(call: Call) -> None:
    call.extra = {"_lanes": call.hw.gpsimd_core_partitions, "_valid": _valid(call)}


@instruction(
    lane=Lane.GPSIMD,
    operands={
        "dst": Operand(SBUF, Role.WRITE),
        "src_buffer": Operand(SBUF, fetch=Fetch.RAW),
        "index": Operand(SBUF, dtypes=frozenset({"uint16"}), fetch=Fetch.RAW),
    },
    rules=(
        same_dtype("dst", "src_buffer"),
        Rule(
            "dst, src_buffer and index must have the same partitions, a multiple of 16",
            lambda c: (
                _equal(partitions, "dst", "src_buffer", "index")(c)
                and partitions(c["index"]) % c.hw.gpsimd_core_partitions == 0
            ),
            isa("local_gather"),
            error=ShapeError,
            code="whole_cores",
        ),
        same_start("dst", "src_buffer", "index"),
        Rule(
            "num_elem_per_idx must be 1, 2, 4, 8, 16 or 32",
            lambda c: type(c["num_elem_per_idx"]) is int and c["num_elem_per_idx"] in _RUNS,
            isa("local_gather"),
            shows=lambda c: f"{c['num_elem_per_idx']!r}",
            code="elements_per_index",
        ),
        Rule(
            "num_valid_indices must lie between 1 and the indices that each core is given",
            _valid_number,
            isa("local_gather"),
            shows=lambda c: f"{c['num_valid_indices']!r} of {_offered(c)}",
            code="valid_indices",
        ),
        Rule(
            f"a core takes at most {_MOST_INDICES} indices",
            lambda c: _valid(c) <= _MOST_INDICES,
            isa("local_gather"),
            shows=lambda c: f"{_valid(c)}",
            code="most_indices",
        ),
        Rule(
            "src_buffer must have more than one element per partition",
            lambda c: free_elems(c["src_buffer"]) > 1,
            "aws-neuron/nki-library, moe_tkg_utils",
            error=ShapeError,
            code="source_elements",
        ),
        Rule(
            "dst must have num_valid_indices * num_elem_per_idx elements per partition",
            lambda c: free_elems(c["dst"]) == _valid(c) * c["num_elem_per_idx"],
            "NKI 0.6.0 release notes, known issues: else num_elem_per_idx is ignored",
            shows=lambda c: f"{_valid(c)} * {c['num_elem_per_idx']} for {c['dst']!r}",
            error=ShapeError,
            code="dst_elements",
        ),
        Rule(
            "every index must leave num_elem_per_idx elements in src_buffer",
            _local_gather_inside,
            isa("local_gather"),
            shows=lambda c: f"{_greatest(c)} for {c['src_buffer']!r}",
            error=OutOfBoundsError,
            dynamic=True,
            code="index_bounds",
        ),
    ),
    prepare=_gather_counts,
    cost=_local_gather_cost,
    sources=(isa("local_gather"),),
)
def local_gather(
    dst: Any,
    src_buffer: Any,
    index: Any,
    num_elem_per_idx: Any = 1,
    num_valid_indices: Any = None,
    name: Any = None,
    *,
    _lanes: Any = None,
    _valid: Any = None,
) -> Array:
    """``dst[p, i, e] = src_buffer[p, list[i] + e]``, with one list for 16 partitions.

    The list of a core runs down the sixteen partitions of `index` first, then along it.

    Shapes
    ------
    src_buffer (P, N)   index (P, F) uint16   dst (P, num_valid_indices * num_elem_per_idx)
    """
    starts = _core_indices(index, _valid, _lanes)
    where = starts[:, :, None] + np.arange(num_elem_per_idx)
    by_partition = np.repeat(where.reshape(len(starts), -1), _lanes, axis=0)
    return np.take_along_axis(src_buffer.reshape(len(src_buffer), -1), by_partition, axis=1)
