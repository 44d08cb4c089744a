"""What TensorE's matmuls share: tiles of the array, limits of results, accumulation, and costs.

TensorE is an array of 128x128 cells.  A matmul may use a part of it (a *tile*, by ``tile_position``
and ``tile_size``), so that matmuls on different tiles run side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nkiconv.simulate.demand import ARRAY_STEP, array_cells, tensor_demand
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import busy_until_done, picoseconds
from nkiconv.simulate.errors import HazardError, ShapeError, UninitializedReadError
from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.memory import BY_ENGINE, BY_MATMUL, UNWRITTEN
from nkiconv.simulate.sheet import Call, Cost, Rule, arch, free_elems, isa, partitions
from nkiconv.simulate.tensor import NkiTensor


@dataclass(frozen=True, slots=True)
class Tile:
    """The part of the array that a matmul uses, in rows and columns of cells."""

    row: int
    column: int
    rows: int
    columns: int


def _unset(value: Any) -> bool:
    return value is None or value == ()


def _pair(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in value)
    )


def _both_or_none(call: Call) -> bool:
    position, size = call["tile_position"], call["tile_size"]
    if _unset(position) or _unset(size):
        return _unset(position) and _unset(size)
    return _pair(position) and _pair(size)


def tile_of(call: Call) -> Tile:
    """Return the tile that a call asks for, all of the array where it does not."""
    hw = call.hw
    if _unset(call["tile_size"]):
        return Tile(0, 0, hw.partitions, hw.stationary_max_columns)
    return Tile(*map(int, call["tile_position"]), *map(int, call["tile_size"]))


def _sizes(hw: Hardware) -> list[int]:
    """Return the sizes that a tile may have: the array halved, from trn2 on also in quarters."""
    size, sizes = hw.partitions, []
    while size >= hw.tile_min_size:
        sizes.append(size)
        size //= 2
    return sizes


def in_the_corner(call: Call) -> bool:
    """Whether a call uses the array from its first row and column on."""
    position = call["tile_position"]
    return _unset(position) or tuple(position) == (0, 0)


def _size_exists(call: Call) -> bool:
    tile = tile_of(call)
    return {tile.rows, tile.columns} <= set(_sizes(call.hw))


def _on_the_grid(call: Call) -> bool:
    tile, hw = tile_of(call), call.hw
    return (
        tile.row % tile.rows == 0
        and tile.column % tile.columns == 0
        and 0 <= tile.row < hw.partitions
        and 0 <= tile.column < hw.stationary_max_columns
    )


def _shown(call: Call) -> str:
    return (
        f"tile_position={call['tile_position']!r}, tile_size={call['tile_size']!r} "
        f"on {call.hw.target}"
    )


def start_partition(tensor: NkiTensor) -> int:
    """Return where a view starts; a tensor without an address is taken to start at 0."""
    return tensor._region()[2] + tensor._storage.first_partition


def lies_at(tensor: NkiTensor, partition: int, room: int) -> bool:
    """Whether a view can start at a partition.

    The compiler chooses where a tensor of at most `room` partitions lies, unless the kernel gave it
    an address; the views of a larger one are where they are.
    """
    storage = tensor._storage
    free = storage.partitions <= room and storage.allocation.address is None
    return free or start_partition(tensor) == partition


def _lies_by_the_tile(call: Call) -> bool:
    tile = tile_of(call)
    return lies_at(call["dst"], tile.column, tile.columns) and all(
        lies_at(call[name], tile.row, tile.rows) for name in ("stationary", "moving")
    )


def _shown_starts(call: Call) -> str:
    starts = [f"{n} from {start_partition(call[n])}" for n in ("dst", "stationary", "moving")]
    return f"{', '.join(starts)} with {_shown(call)}"


def tile_rules(page: str) -> tuple[Rule, ...]:
    """Return what holds for ``tile_position`` and ``tile_size`` of a matmul."""
    return (
        Rule(
            "tile_position and tile_size must both be left out, or both be two whole numbers",
            _both_or_none,
            isa(page),
            shows=_shown,
        ),
        Rule(
            "tile_size must be 128 or 64 rows and columns each, from trn2 on also 32",
            _size_exists,
            isa(page),
            shows=_shown,
        ),
        Rule(
            "tile_position must be multiples of tile_size below 128",
            _on_the_grid,
            isa(page),
            shows=_shown,
        ),
        Rule(
            "stationary and moving of a tile must start at the partition of its first row, dst at "
            "that of its first column",
            _lies_by_the_tile,
            arch("Tensor Engine: a partition feeds a row of the array")
            if page == "nc_matmul"
            else isa(page),
            shows=_shown_starts,
            dynamic=True,
            applies=lambda c: not _unset(c["tile_size"]),
        ),
    )


def one_bank(call: Call) -> bool:
    """Whether the result stays within one PSUM bank, where the generation asks for that."""
    dst, bank = call["dst"], call.hw.psum_bank_bytes
    if dst._storage.free_bytes <= bank or call.hw.matmul_result_banks > 1:
        return True
    first, end, _, _ = dst._region()
    return bool(first // bank == (end - 1) // bank)


def most_moving_columns(call: Call) -> int:
    """Return how many columns of results fit the banks that a matmul may write to."""
    hw = call.hw
    return hw.matmul_result_banks * hw.psum_bank_bytes // int(call["dst"]._element.itemsize)


def shape_rules(
    page: str, weights: Callable[[Call], int], streamed: Callable[[Call], int]
) -> tuple[Rule, ...]:
    """Return what holds for the shapes of a matmul.

    Parameters
    ----------
    page
        The instruction, for its sources.
    weights, streamed
        How many columns of stationary and moving a call multiplies.
    """
    return (
        Rule(
            "stationary and moving must share the contracted partitions",
            lambda c: partitions(c["stationary"]) == partitions(c["moving"]),
            isa(page),
            error=ShapeError,
            code="contracted_partitions",
        ),
        Rule(
            "stationary must fit the tile: at most 128 partitions and columns, or tile_size",
            lambda c: (
                partitions(c["stationary"]) <= tile_of(c).rows and weights(c) <= tile_of(c).columns
            ),
            isa(page),
            shows=lambda c: (
                f"{partitions(c['stationary'])} partitions and {weights(c)} columns for "
                f"{tile_of(c).rows} and {tile_of(c).columns}"
            ),
            error=ShapeError,
            code="stationary_size",
        ),
        Rule(
            "moving must have at most 512 columns, on trn3 4096 with a float32 dst and 8192 with "
            "a bfloat16 one",
            lambda c: streamed(c) <= most_moving_columns(c),
            isa(page),
            shows=lambda c: f"{streamed(c)} columns for {most_moving_columns(c)} on {c.hw.target}",
            error=ShapeError,
            code="moving_size",
        ),
        Rule(
            "dst must have a partition for each column of stationary",
            lambda c: partitions(c["dst"]) == weights(c),
            isa(page),
            error=ShapeError,
            code="dst_partitions",
        ),
        Rule(
            "dst must have an element per partition for each column of moving",
            lambda c: free_elems(c["dst"]) == streamed(c),
            isa(page),
            error=ShapeError,
            code="dst_columns",
        ),
    )


def resolve_accumulate(call: Call) -> None:
    """Decide whether the matmul overwrites or adds, and refuse what PSUM would not add up."""
    args, name = call.args, call.sheet.name
    dst, wish = args["dst"], args["accumulate"]
    low, high = dst._storage.writers(dst, dst._kind)
    if wish is None:
        if low == UNWRITTEN and high == BY_MATMUL:
            raise HazardError(
                f"nisa.{name}: with accumulate=None, part of dst already holds a matmul's "
                f"result and part does not ({call.describe()}); an instruction has one accumulate "
                "flag, so cover the region with one accumulate=False matmul first "
                f"({isa(name)}, Accumulation mode)",
                code="psum.accumulate_mixed",
            )
        wish = high != UNWRITTEN
    if wish and low == UNWRITTEN:
        raise UninitializedReadError(
            f"nisa.{name}: accumulates onto elements of dst that no matmul has written "
            f"({call.describe()}); start with accumulate=False ({isa(name)}, "
            "Accumulation mode)",
            code="psum.accumulate_unwritten",
        )
    if wish and low == BY_ENGINE and call.hw.generation < 4:
        raise HazardError(
            f"nisa.{name}: accumulates onto elements of dst that another instruction than a "
            f"matmul wrote ({call.describe()}), which is undefined on {call.hw.target}; start "
            f"with accumulate=False ({isa(name)}, Accumulation mode)",
            code="psum.accumulate_foreign",
        )
    args["accumulate"] = bool(wish)
    if wish:
        call.also_read = ("dst",)
    else:
        call.works_in = ("dst",)


def multiplied(dst: Array, weights: Array, columns: Array, accumulate: bool) -> Array:
    """Return ``dst (+)= weights @ columns`` in float32; in dst's own memory where that is possible.

    Shapes
    ------
    weights (M, K)   columns (K, N)   dst (M, N), the free dimension may be several
    """
    if dst.dtype != np.float32 or (dst.ndim != 2 and not dst.flags.c_contiguous):
        product: Array = weights @ columns
        return product + dst.reshape(product.shape).astype(np.float32) if accumulate else product
    total = dst if dst.ndim == 2 else dst.reshape(len(dst), -1)
    if accumulate:
        np.add(total, weights @ columns, out=total)
    else:
        np.matmul(weights, columns, out=total)
    return dst


def tensor_cost(
    call: Call, cycles: float, streamed: float, load_cycles: float, tile: Tile | None = None
) -> Cost:
    """Return the cost of a matmul.

    Parameters
    ----------
    cycles
        Until the next one may start.
    streamed
        Cycles of those in which columns stream: what keeps TensorE's clock up, by the rows in use.
    load_cycles
        To load the weights, where no earlier matmul hides it.
    tile
        The cells; None for those that the call asks for.
    """
    hw = call.hw
    cost = busy_until_done(picoseconds(cycles, hw.tensor_ghz), hw.tensor_latency_ns)
    tile = tile_of(call) if tile is None else tile
    spans = (tile.row, tile.rows, tile.column, tile.columns)
    rows = partitions(call["moving"] if "moving" in call.args else call["data"])
    demand = tensor_demand(
        array_cells(*(n // ARRAY_STEP for n in spans)),
        round(load_cycles),
        round(streamed * rows / hw.partitions),
    )
    return Cost(cost.occupancy_ps, cost.latency_ps, demand)
