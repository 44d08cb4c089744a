"""Programs too long to write out: a convolution as on-chip loops over equal parts of it.

A part is a convolution of its own, of some images, groups, output channels and rows of y; an
algorithm plans it as any other.  Equal parts are a `Piece`: one copy in the program, executed as
often as there are such parts.  What is left over (the first and last rows of an image, which
padding makes different, or a rest of the images) makes further pieces.

A view in HBM has one index of run time.  Where parts move along one axis, that is the loop's
counter; along several, the index of each iteration is read from a table, which GpSimdE writes.

Nothing overlaps between iterations, so parts are as large as the limit allows.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-11: nki.language.fori_loop, NkiTensor (ap, select,
is_indirect), isa iota, isa register_load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod
from typing import Any

import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._blocks import conv_outputs
from nkiconv.kernels._plan import Axis, Geometry, Tile, ceil_div, tap_outputs
from nkiconv.kernels._price import Price, Transfers, transfer_ns
from nkiconv.kernels._problem import NotSuited, Problem, TooLong
from nkiconv.simulate import CapacityError
from nkiconv.simulate.hardware import hardware

MAX_INSTRUCTIONS = 20_000
"""That a program writes out, all its loops' bodies together; longer ones take long to compile."""

_TABLE_BYTES = 65_536  # of SBUF per partition at most, for the indices of all iterations
_INDEX_BYTES = 4


@dataclass(frozen=True)
class Box(nl.NKIObject):
    """Part of a tensor in HBM, and how it moves from one iteration to the next.

    Parameters
    ----------
    starts, shape
        Along each dimension, of the first iteration.
    offset, strides
        The same start, and the tensor's strides, in elements.
    unit, most
        Elements that one step of the index moves the part; the last index, 0 where it stays.
    whole
        All but the first dimension are whole, and one step moves by the part's size along it.
    column
        Where its index is in the table.
    """

    starts: tuple[int, ...]
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]
    unit: int
    most: int
    whole: bool
    column: int


@dataclass(frozen=True)
class Piece(nl.NKIObject):
    """Equal parts: `part` is the plan of each, by the algorithm that it belongs to.

    `counts` are the parts along each axis that has several; `columns` what the table's columns
    step by along these; there is no table where the loop's counter is the index of all.
    """

    part: Any
    iterations: int
    counts: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]
    x: Box
    y: Box
    residual: Box
    vector: Box
    w: Box | None  # None: all of it


@dataclass(frozen=True)
class LoopedPlan(nl.NKIObject):
    """Pieces, one after the other; `kept` are loads of weights that all have, before the first."""

    pieces: tuple[Piece, ...]
    y_shape: tuple[int, int, int, int]
    kept: tuple[Any, ...] = ()


# On the device.


def make_table(piece: Piece) -> nl.NkiTensor | None:
    """table_sb (1, iterations, columns) of indices; None where the loop's counter serves."""
    if len(piece.columns) == 0:
        return None
    shape = (1, piece.iterations, len(piece.columns))
    table_sb = nl.ndarray(shape, dtype=nl.int32, buffer=nl.sbuf)
    for i in range(len(piece.columns)):
        pattern = []
        for i_axis in range(len(piece.counts)):
            pattern.append([piece.columns[i][i_axis], piece.counts[i_axis]])
        nisa.iota(dst=table_sb[:, :, i], pattern=pattern)
    return table_sb


def indices(
    table_sb: nl.NkiTensor | None, piece: Piece, i: nl.VirtualRegister
) -> list[nl.VirtualRegister]:
    """Return the index of each column in iteration i."""
    if table_sb is None:
        return [i]
    now_sb = nl.ndarray((1, len(piece.columns)), dtype=nl.int32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=now_sb, src=table_sb.select(1, i), engine=nisa.engine.vector)
    found = []
    for at in range(len(piece.columns)):
        index = nisa.register_alloc()
        nisa.register_load(index, now_sb[:, nl.ds(at, 1)])
        found.append(index)
    return found


def take_part(
    operands: dict[str, Any], piece: Piece, at: list[nl.VirtualRegister]
) -> dict[str, Any]:
    """Return what a part has of each operand, at the indices of an iteration; none: its place."""
    return {
        "x": take(operands["x"], piece.x, at),
        "w": take(operands["w"], piece.w, at),
        "scale": take(operands["scale"], piece.vector, at),
        "bias": take(operands["bias"], piece.vector, at),
        "residual": take(operands["residual"], piece.residual, at),
        "y": take(operands["y"], piece.y, at),
    }


def take(tensor: nl.NkiTensor | None, box: Box | None, at: list[nl.VirtualRegister]) -> Any:
    """View of part of a tensor in HBM, if there is one."""
    if tensor is None or box is None:
        return tensor
    if len(at) == 0 or box.most == 0:
        part = tensor
        for dim in range(len(box.shape)):
            part = part.slice(dim, box.starts[dim], box.starts[dim] + box.shape[dim])
        return part
    index = at[box.column]
    if box.whole:
        num = box.most + 1
        size = box.shape[0]
        parts = tensor[nl.ds(box.starts[0], num * size)].reshape_dim(0, (num, size))
        return parts.select(0, index)
    pattern = [[box.unit, box.most + 1]]
    for dim in range(len(box.shape)):
        pattern.append([box.strides[dim], box.shape[dim]])
    return tensor.ap(pattern, offset=box.offset).select(0, index)


@dataclass(frozen=True)
class Reached(nl.NKIObject):
    """Part of a tensor (n, channels, rows, cols) in HBM, for access patterns of its own.

    `offset` is where the part begins, in elements; `rows` counts those of a plane of the tensor.
    """

    tensor: nl.NkiTensor
    offset: int
    index: nl.VirtualRegister | None
    rows: int


def whole(tensor: nl.NkiTensor | None) -> Any:
    """Return all of a tensor, if there is one."""
    if tensor is None:
        return None
    return Reached(tensor, 0, None, tensor.shape[2])


def reach_part(tensor: nl.NkiTensor | None, box: Box, at: list[nl.VirtualRegister]) -> Any:
    """Return a part of a tensor, if there is one, at the indices of an iteration."""
    if tensor is None:
        return None
    rows = tensor.shape[2]
    if len(at) == 0 or box.most == 0:
        return Reached(tensor, box.offset, None, rows)
    steps = tensor.reshape((tensor.size // box.unit, box.unit))
    return Reached(steps, box.offset, at[box.column], rows)


def reach(part: Reached, pattern: list[list[int]], offset: int) -> nl.NkiTensor:
    """View of a part by a pattern [[stride, count], ...], from an element of the part on."""
    start = part.offset + offset
    if part.index is None:
        return part.tensor.ap(pattern, offset=start)
    return part.tensor.ap(pattern, offset=start, scalar_offset=part.index, indirect_dim=0)


# Plans.


def y_shape(problem: Problem) -> tuple[int, int, int, int]:
    """Return the shape of y: pooled, where the epilogue has a pool."""
    g, pool = problem.geometry, problem.epilogue.pool
    planes = (g.rows, g.cols) if pool is None else (pool.rows, pool.cols)
    return (g.N, g.G * g.C_out, planes[0].outputs, planes[1].outputs)


def packed_shape(plan: Any) -> tuple[int, ...]:
    """Return the shape of a part's weights where they lie as `pack_weights` made them."""
    g = plan.geometry
    return (g.G, g.C_in, g.rows.taps * g.cols.taps, g.C_out)


def least_instructions(problem: Problem) -> int:
    """Return a bound on a program's instructions that takes no planning: full matmuls."""
    g = problem.geometry
    columns = g.N * g.G * y_shape(problem)[2] * y_shape(problem)[3]
    macs = columns * g.C_out * g.C_in * g.rows.taps * g.cols.taps
    return macs // (nl.tile_size.pmax**2 * nl.tile_size.psum_bank_fmax)


def least_matmuls(problem: Problem) -> int:
    """Return a closer bound, where each tap has a matmul of its own and groups have theirs."""
    g, pool = problem.geometry, problem.epilogue.pool
    columns = g.N * g.G * max(1, g.C_in // nl.tile_size.pmax)
    columns *= ceil_div(g.C_out, nl.tile_size.pmax)
    for axis in (g.rows, g.cols):
        every = Tile(0, axis.outputs)
        columns *= sum(tap_outputs(axis, every, tap).size for tap in range(axis.taps))
    if pool is not None:  # fewer outputs may be needed
        needed = y_shape(problem)[2] * y_shape(problem)[3]
        columns = columns * needed // (g.rows.outputs * g.cols.outputs)
    return columns // nl.tile_size.psum_bank_fmax


@dataclass(frozen=True)
class Loops:
    """What an algorithm can loop over, and what its parts are made with.

    Parameters
    ----------
    make
        Plans a part: the problem, and SBUF bytes per partition that others need.  Raises
        CapacityError or NotSuited.
    price
        Returns what a part costs.
    w_shape
        Returns the shape of a part's weights, groups first, output channels last; None where all
        parts have all weights.
    rows
        Whether bands of rows may be parts.
    groups, channels
        Parts have multiples of so many; 0 for all of them.
    equal
        Whether images must be in equal parts.
    least
        Returns a bound on a program's instructions that takes no planning.
    reached
        Parts are reached by `reach`, whose steps divide the tensor.
    turned
        "x" or "y": that one has rows and columns the other way round, with no channels.
    """

    make: Callable[[Problem, int], Any]
    price: Callable[[Any], Price]
    w_shape: Callable[[Any], tuple[int, ...] | None]
    rows: bool = False
    groups: int = 0
    channels: int = 0
    equal: bool = False
    least: Callable[[Problem], int] = least_instructions
    reached: bool = False
    turned: str = ""


@dataclass(frozen=True)
class Cut:
    """Pieces, and what one iteration of each costs."""

    pieces: tuple[Piece, ...]
    prices: tuple[Price, ...]
    why: str

    @property
    def static_instructions(self) -> int:
        """Instructions of the whole program."""
        return sum(
            price.static_instructions + overhead(piece)
            for piece, price in zip(self.pieces, self.prices, strict=True)
        )


def overhead(piece: Piece) -> int:
    """Return the instructions that a piece's loop adds to its part."""
    if piece.iterations == 1:
        return 0
    columns = len(piece.columns)
    return 2 + 2 * columns if columns else 1


def cut_into_parts(problem: Problem, loops: Loops) -> Cut:
    """Return the fastest cut whose program has the length.

    Raises
    ------
    TooLong
        None has.
    CapacityError
        A part does not fit SBUF.
    """
    return _Cutter(problem, loops).best()


def total(cut: Cut, before: Price | None = None) -> Price:
    """Return what all iterations cost together; `before` what is loaded ahead of them."""
    hw = hardware()
    each = [(p.iterations, price) for p, price in zip(cut.pieces, cut.prices, strict=True)]
    start = hw.dma_static_start_ns
    first: tuple[Transfers, ...] = ()
    looped_ns = 0.0
    if before is not None:
        first = before.transfers
        looped_ns = start + sum(t.count * transfer_ns(t, hw) for t in first)
    for n, price in each:
        once = 1000 * price.estimate_us()
        if n > 1:  # addresses of run time: generated on the chip, for loads and for stores
            by_software = hw.generation < 3
            issue = hw.dma_software_issue_ns if by_software else hw.dma_hardware_issue_ns / 2
            later = hw.dma_software_start_ns if by_software else hw.dma_hardware_start_ns
            once = max(once, price.num_transfers * issue) + 2 * (later - start)
            once += hw.loop_iteration_ns
        looped_ns += n * once

    def added(name: str) -> int:
        return sum(n * getattr(price, name) for n, price in each)

    return Price(
        moving_columns=added("moving_columns"),
        matmuls=added("matmuls"),
        tensor_cycles=added("tensor_cycles"),
        transfers=(
            *first,
            *(replace(t, count=n * t.count) for n, price in each for t in price.transfers),
        ),
        scalar_elems=added("scalar_elems"),
        scalar_instructions=added("scalar_instructions"),
        vector_elems=added("vector_elems"),
        vector_instructions=added("vector_instructions"),
        gpsimd_elems=added("gpsimd_elems"),
        gpsimd_instructions=added("gpsimd_instructions"),
        static_instructions=cut.static_instructions
        + (0 if before is None else before.static_instructions),
        looped_ns=looped_ns,
    )


def in_parts_if_long(
    problem: Problem,
    make: Callable[[Problem, int], Any],
    price: Callable[[Any], Price],
    *,
    turned: str = "",
) -> tuple[Any, Price]:
    """Return the plan of a stage's kernel, or that of loops over it; and what it costs.

    Raises
    ------
    TooLong
        The program would be too long all the same.
    """
    plan = make(problem, 0)
    cost = price(plan)
    if cost.static_instructions <= MAX_INSTRUCTIONS:
        return plan, cost
    parts = cut_into_parts(problem, Loops(make, price, lambda _: None, rows=True, turned=turned))
    shape = y_shape(problem)
    if turned == "y":
        shape = (shape[0], 1, shape[3], shape[2])
    return LoopedPlan(parts.pieces, shape), total(parts)


def stage_price(moved_bytes: int, work_ns: float, instructions: int) -> Price:
    """Return what a kernel costs that moves bytes through HBM, and works meanwhile."""
    hw = hardware()
    rate = hw.memory_bytes_per_ns
    ends = 2 * (hw.dma_static_start_ns + hw.dma_complete_ns + hw.dma_fill_ns)
    return Price(
        0, 0, 0, (), static_instructions=instructions,
        looped_ns=ends + max(moved_bytes / rate, work_ns),
    )  # fmt: skip


@dataclass(frozen=True)
class _Span:
    """`count` neighbouring parts of an axis, from `start` on, of `size` each.

    Of rows: `axis` has those of x that each part takes, the first one from `x_start` on.
    """

    start: int
    size: int
    count: int
    axis: Axis | None = None
    x_start: int = 0


_ORDERS = ((1, 3, 2), (1, 2, 3))
"""In which parts of one image become smaller: groups (1), output channels (2), rows (3)."""


def _fastest(cuts: list[Cut]) -> Cut:
    return min(cuts, key=lambda one: total(one).estimate_us())


class _Cutter:
    """Tries sizes of parts: the most images of one, else fewer groups, rows, channels."""

    def __init__(self, problem: Problem, loops: Loops) -> None:
        self.problem, self.loops = problem, loops
        self.g: Geometry = problem.geometry
        self.limit = MAX_INSTRUCTIONS
        self.least = loops.least(problem)
        self.whole = (self.g.N, self.g.G, self.g.C_out, y_shape(problem)[2])
        self.made: dict[Any, tuple[Any, Price]] = {}

    def best(self) -> Cut:
        """Return the cut that is estimated to be the fastest."""
        N = self.g.N
        length = self._length([1, *self.whole[1:]])
        if length <= self.limit:
            numbers = self._images(length) if N > 1 else [1]
            cuts = [self._cut((n, *self.whole[1:])) for n in numbers]
            fits = [one for one in cuts if one.static_instructions <= self.limit]
            return _fastest(fits or [self._cut((1, *self.whole[1:]))])
        found = [self._shorter(order, length) for order in _ORDERS]
        fits = [one for _, one in found if one is not None]
        if fits:
            return _fastest(fits)
        raise TooLong(
            f"the least that it loops over takes {min(length for length, _ in found):,} "
            f"instructions; a program may write out {self.limit:,}, so loops inside that would be "
            "needed"
        )

    def _shorter(self, order: tuple[int, ...], length: int) -> tuple[int, Cut | None]:
        """Make one image's parts smaller, along one axis after the other; return the length.

        Less than a PSUM bank of rows takes as many instructions as all of it.
        """
        sizes = [1, *self.whole[1:]]
        pool = self.problem.epilogue.pool
        row = self.g.cols.outputs * (1 if pool is None else pool.rows.stride)
        bank_rows = nl.tile_size.psum_bank_fmax // row
        least = (0, self.loops.groups, self.loops.channels, max(1, bank_rows) * self.loops.rows)
        grains = (0, self.loops.groups, self.loops.channels, max(1, bank_rows))
        for axis in order:
            while least[axis] and length > self.limit and sizes[axis] > least[axis]:
                share = min(0.95 * self.limit / length, (sizes[axis] - 1) / sizes[axis])
                size = int(sizes[axis] * share) // grains[axis] * grains[axis]
                sizes[axis] = max(least[axis], size)
                length = self._length(sizes)
        return length, self._cut(tuple(sizes)) if length <= self.limit else None

    def _length(self, sizes: list[int]) -> int:
        """Return how long a program of such parts is; what would be much too long is not planned.

        A rest of the images is another copy of the program: one image at a time has none.
        """
        share = prod(size / all_ for size, all_ in zip(sizes, self.whole, strict=True))
        least = int(self.least * share)
        return least if least > 2 * self.limit else self._cut(tuple(sizes)).static_instructions

    def _images(self, length: int) -> list[int]:
        """Return how many images a part may have, if one takes a program of this length."""
        N, most = self.g.N, 1
        for _ in range(4):  # several may share an instruction
            guess = min(N - 1, max(1, most * self.limit // length))
            while guess > most and self._part_length(guess) > self.limit:
                guess = max(most, min(guess - 1, guess * self.limit // self._part_length(guess)))
            if guess == most:
                break
            most, length = guess, self._part_length(guess)
        divisors = [n for n in range(1, most + 1) if N % n == 0]
        if self.loops.equal:
            return divisors[-3:]
        few = ceil_div(N, most)
        evenly = {N // parts for parts in range(few, few + 3) if N // parts}
        return sorted({most, divisors[-1], *(n for n in evenly if n <= most)})

    def _part_length(self, n: int) -> int:
        """Return the instructions of so many images; too many where these do not fit SBUF."""
        sub = replace(self.problem, geometry=replace(self.g, N=n))
        try:
            return self._made(sub, 0)[1].static_instructions
        except (CapacityError, NotSuited):
            return 2 * self.limit

    def _made(self, sub: Problem, reserved: int) -> tuple[Any, Price]:
        key = (sub.geometry, sub.epilogue.pool, reserved)
        if key not in self.made:
            part = self.loops.make(sub, reserved)
            self.made[key] = (part, self.loops.price(part))
        return self.made[key]

    def _cut(self, sizes: tuple[int, ...]) -> Cut:
        """Return the pieces of parts of so many images, groups, channels and rows."""
        counts = [ceil_div(all_, size) for all_, size in zip(self.whole, sizes, strict=True)]
        iterations = prod(counts)
        reserved = 0
        if sum(count > 1 for count in counts) > 1:
            # x and y; where channels or groups move, w and vectors; a residual may differ from y
            columns = 2 + 2 * (counts[1] * counts[2] > 1) + (self.problem.epilogue.pool is not None)
            reserved = _INDEX_BYTES * columns * iterations
        if reserved > _TABLE_BYTES:
            raise TooLong(
                f"the indices of {iterations:,} iterations along several axes take {reserved:,} B "
                f"of SBUF per partition; {_TABLE_BYTES:,} are set aside for them"
            )
        spans = [
            list(_spans(all_, size)) for all_, size in zip(self.whole[:3], sizes, strict=False)
        ]
        pieces, prices = [], []
        for n, group, channel, row in product(*spans, self._bands(sizes[3])):
            sub = self._sub(n, group, channel, row)
            part, price = self._made(sub, reserved)
            pieces.append(self._piece(sub, part, (n, group, channel, row)))
            prices.append(price)
        named = ("images", "groups", "output channels", "rows")
        over = ", ".join(
            f"{size} {name}" for size, all_, name in zip(sizes, self.whole, named, strict=True)
            if size < all_
        )  # fmt: skip
        return Cut(tuple(pieces), tuple(prices), f"an on-chip loop, {over} at a time")

    def _sub(self, n: _Span, group: _Span, channel: _Span, row: _Span) -> Problem:
        e = self.problem.epilogue
        if e.pool is not None:
            e = replace(e, pool=replace(e.pool, rows=replace(e.pool.rows, outputs=row.size)))
        geometry = replace(
            self.g, N=n.size, G=group.size, C_out=channel.size, rows=row.axis or self.g.rows
        )
        return replace(self.problem, geometry=geometry, epilogue=e)

    # Rows.

    def _bands(self, rows: int) -> list[_Span]:
        """Return bands of so many rows of y, equal neighbours together."""
        if rows == self.whole[3]:
            return [_Span(0, rows, 1, self.g.rows)]
        found: list[_Span] = []
        for start in range(0, self.whole[3], rows):
            size = min(rows, self.whole[3] - start)
            axis, x_start = self._band(Tile(start, size))
            last = found[-1] if found else None
            if last is not None and last.axis == axis and last.size == size:
                found[-1] = replace(last, count=last.count + 1)
            else:
                found.append(_Span(start, size, 1, axis, x_start))
        return found

    def _band(self, rows: Tile) -> tuple[Axis, int]:
        """Return the rows of x that some rows of y need, as an axis of their own; and the first."""
        axis, pool = self.g.rows, self.problem.epilogue.pool
        if pool is not None:
            rows = conv_outputs(pool.rows, rows)
        first = rows.start * axis.stride - axis.pad
        last = first + (rows.size - 1) * axis.stride + (axis.taps - 1) * axis.dilation
        start, end = max(0, first), min(axis.size - 1, last)
        mode = self.problem.padding_mode
        if mode == "circular":
            raise NotSuited("what lies above an image of circular padding is at its other end")
        if mode == "reflect":  # the border is made of pixels that the taps may not reach
            start = min(start, axis.size - 1 - max(0, last - axis.size + 1))
            end = max(end, -min(0, first))
        start, end = min(start, axis.size - 1), max(end, 0)
        size = max(1, end - start + 1)
        return replace(axis, size=size, outputs=rows.size, pad=start - first), start

    # Pieces.

    def _piece(self, sub: Problem, part: Any, spans: tuple[_Span, ...]) -> Piece:
        """Return the piece of equal parts along four axes."""
        n, group, channel, row = spans
        whole, own = self.g, sub.geometry
        pool = self.problem.epilogue.pool
        x_rows = row.size * whole.rows.stride
        conv_start, conv_rows = row.start, row.size
        if pool is not None:
            x_rows *= pool.rows.stride
            conv_start *= pool.rows.stride
            conv_rows *= pool.rows.stride
        y_channels = group.start * whole.C_out + channel.start
        moved = tuple(i for i in range(4) if spans[i].count > 1)

        def box(
            shape: tuple[int, ...],
            starts: tuple[int, ...],
            part: tuple[int, ...],
            moves: tuple[tuple[int, int], ...],
            *,
            turned: bool = False,
        ) -> tuple[Box, tuple[int, ...]]:
            if turned:  # of 4 dimensions, the last two
                shape, starts, part = ((*t[:2], t[3], t[2]) for t in (shape, starts, part))
                moves = tuple((3 if dim == 2 else dim, distance) for dim, distance in moves)
            counts = tuple(spans[i].count for i in moved)
            moves = tuple(moves[i] for i in moved)
            return _box(shape, starts, part, moves, counts, self.loops.reached)

        own_y, all_y = y_shape(sub), y_shape(self.problem)
        boxes = {
            "x": box(
                (whole.N, whole.G * whole.C_in, whole.rows.size, whole.cols.size),
                (n.start, group.start * whole.C_in, row.x_start, 0),
                (n.size, group.size * whole.C_in, own.rows.size, whole.cols.size),
                ((0, n.size), (1, group.size * whole.C_in), (0, 0), (2, x_rows)),
                turned=self.loops.turned == "x",
            ),
            "y": box(
                all_y,
                (n.start, y_channels, row.start, 0),
                own_y,
                ((0, n.size), (1, group.size * whole.C_out), (1, channel.size), (2, row.size)),
                turned=self.loops.turned == "y",
            ),
            "residual": box(
                (whole.N, whole.G * whole.C_out, whole.rows.outputs, whole.cols.outputs),
                (n.start, y_channels, conv_start, 0),
                (n.size, own_y[1], own.rows.outputs, whole.cols.outputs),
                ((0, n.size), (1, group.size * whole.C_out), (1, channel.size), (2, conv_rows)),
            ),
            "vector": box(
                (whole.G * whole.C_out, 1),
                (y_channels, 0),
                (own_y[1], 1),
                ((0, 0), (0, group.size * whole.C_out), (0, channel.size), (0, 0)),
            ),
        }
        shape = self.loops.w_shape(part)
        if shape is not None:
            groups, last = shape[0] // group.size, shape[-1] // channel.size
            middle = shape[1:-1]
            at = len(shape) - 1
            boxes["w"] = box(
                (groups * whole.G, *middle, last * whole.C_out),
                (groups * group.start, *(0 for _ in middle), last * channel.start),
                shape,
                ((0, 0), (0, shape[0]), (at, shape[-1]), (0, 0)),
            )
        columns = tuple(dict.fromkeys(steps for made, steps in boxes.values() if made.most))
        if columns == ((1,),):
            columns = ()
        placed = {
            name: replace(made, column=columns.index(steps) if columns and made.most else 0)
            for name, (made, steps) in boxes.items()
        }
        return Piece(
            part=part,
            iterations=prod(spans[i].count for i in moved),
            counts=tuple(spans[i].count for i in moved),
            columns=columns,
            x=placed["x"],
            y=placed["y"],
            residual=placed["residual"],
            vector=placed["vector"],
            w=placed.get("w"),
        )


def _spans(all_: int, size: int) -> Iterator[_Span]:
    """Yield full parts of an axis, and the rest."""
    yield _Span(0, size, all_ // size)
    if all_ % size:
        yield _Span(all_ - all_ % size, all_ % size, 1)


def _box(
    shape: tuple[int, ...],
    starts: tuple[int, ...],
    part: tuple[int, ...],
    moves: tuple[tuple[int, int], ...],
    counts: tuple[int, ...],
    divides: bool,
) -> tuple[Box, tuple[int, ...]]:
    """Return part of a tensor of a `shape`, and the steps of its index along each axis.

    `moves` are the dimension and the distance to the next part, along each axis.
    """
    strides = tuple(prod(shape[dim + 1 :]) for dim in range(len(shape)))
    elems = [strides[dim] * distance for dim, distance in moves]
    unit = gcd(*elems, prod(shape) if divides else 0) if any(elems) else 0
    steps = tuple(each // unit if unit else 0 for each in elems)
    most = sum((count - 1) * step for count, step in zip(counts, steps, strict=True))
    whole = len(moves) == 1 and part[1:] == shape[1:] and unit == strides[0] * part[0]
    offset = sum(at * stride for at, stride in zip(starts, strides, strict=True))
    return Box(starts, part, offset, strides, unit, most, whole, 0), steps
