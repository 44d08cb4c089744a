"""Where every tensor lies in SBUF and PSUM, decided from the live ranges of the whole program.

A tensor is live from its first to its last use in program order, as the compiler's allocator sees
it.  Addresses are handed out round the memory (next fit), so that space is reused as late as
possible and loads can run ahead of computation; that is how far ahead they can run on the device.

PSUM tensors occupy whole banks.  A tensor occupies its bytes in all partitions, whatever its
partition count: two small tensors are never put side by side in different partitions.

A kernel may choose addresses itself.  Such tensors stay where they are, the others are placed
round them, and two of them must not hold the same bytes while both are live.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from nkiconv.simulate.errors import CapacityError, HazardError
from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.memory import Allocation

_SHOWN = 12
"""Live tensors named in a message."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Addresses of one program's tensors and what they need at most.

    Attributes
    ----------
    start
        First byte (per partition) by number of the allocation.
    predecessors
        By number: tensors that held some of the same bytes before, and are dead now.
    sbuf_peak_bytes, psum_peak_banks
        Most that is live at once.
    """

    start: dict[int, int]
    predecessors: dict[int, tuple[int, ...]]
    sbuf_peak_bytes: int
    psum_peak_banks: int


@dataclass(slots=True)
class _Space:
    """One memory while it is being filled."""

    name: str
    capacity: int
    unit: int
    cursor: int = 0
    live: dict[int, tuple[int, int, Allocation]] = field(default_factory=dict)
    past: list[tuple[int, int, int]] = field(default_factory=list)
    peak: int = 0
    kept: tuple[tuple[int, int], ...] = ()
    """Bytes that tensors with addresses of their own will hold while the next tensor lives."""

    def size(self, tensor: Allocation) -> int:
        return -(-tensor.free_bytes // self.unit) * self.unit

    def extent(self, tensor: Allocation) -> tuple[int, int]:
        """Return the bytes of a tensor whose address the kernel chose."""
        begin = 0 if tensor.address is None else tensor.address[1]
        return begin, begin + self.size(tensor)

    def gaps(self) -> list[tuple[int, int]]:
        """Return the free byte ranges, in order."""
        result = []
        at = 0
        held = [(first, end) for first, end, _ in self.live.values()]
        for first, end in sorted([*held, *self.kept]):
            if first > at:
                result.append((at, first))
            at = max(at, end)
        if at < self.capacity:
            result.append((at, self.capacity))
        return result

    def next_fit(self, size: int) -> int | None:
        """Return the first free address at or after the cursor, else from the beginning."""
        gaps = self.gaps()
        for first, end in gaps:
            at = max(first, self.cursor)
            if end - at >= size:
                return at
        return self.best_fit(size)

    def best_fit(self, size: int) -> int | None:
        """Return the beginning of the smallest gap that is large enough."""
        fitting = [(end - first, first) for first, end in self.gaps() if end - first >= size]
        return min(fitting)[1] if fitting else None

    def add(self, tensor: Allocation, start: int) -> tuple[int, ...]:
        """Occupy bytes from `start`; return the dead tensors that lay there."""
        end = start + self.size(tensor)
        self.live[tensor.number] = (start, end, tensor)
        self.cursor = end % self.capacity
        earlier, rest = [], []
        for first, last, number in self.past:
            if first < end and start < last:
                earlier.append(number)
                # What the new tensor does not cover can still delay a later one.
                if first < start:
                    rest.append((first, start, number))
                if end < last:
                    rest.append((end, last, number))
            else:
                rest.append((first, last, number))
        self.past = rest
        return tuple(earlier)

    def release(self, number: int) -> None:
        first, end, _ = self.live.pop(number)
        self.past.append((first, end, number))


def place(allocations: Sequence[Allocation], hw: Hardware, kernel: str) -> Placement:
    """Place all on-chip tensors.

    Raises
    ------
    CapacityError
        More is live at once than the memory holds; the message lists the largest tensors.
    HazardError
        Two tensors whose addresses the kernel chose hold the same bytes while both are in use.
    """
    start: dict[int, int] = {}
    predecessors: dict[int, tuple[int, ...]] = {}
    peaks = {"sbuf": 0, "psum": 0}
    spaces = [
        (core, space)
        for core in sorted({a.core for a in allocations if a.space != "hbm"})
        for space in (
            _Space("sbuf", hw.sbuf_usable_bytes, 1),
            _Space("psum", hw.psum_banks * hw.psum_bank_bytes, hw.psum_bank_bytes),
        )
    ]
    for core, space in spaces:
        used = [
            s for s in allocations if s.space == space.name and s.first_use >= 0 and s.core == core
        ]
        _check_fixed(space, used, kernel)
        _check_peak(space, used, hw, kernel)
        peaks[space.name] = max(peaks[space.name], space.peak)
        for strategy in (_Space.next_fit, _Space.best_fit):
            attempt = _Space(space.name, space.capacity, space.unit)
            if _fill(attempt, used, strategy, start, predecessors):
                break
        else:
            raise CapacityError(
                f"{kernel}: at most {space.peak} B per partition are live in {space.name.upper()} "
                f"of {space.capacity}, but no order of addresses was found that avoids "
                "fragmentation; allocate tensors of fewer different sizes",
                code=f"{space.name}.fragmentation",
            )
    return Placement(start, predecessors, peaks["sbuf"], -(-peaks["psum"] // hw.psum_bank_bytes))


def _fill(
    space: _Space,
    used: Sequence[Allocation],
    fit: Callable[[_Space, int], int | None],
    start: dict[int, int],
    predecessors: dict[int, tuple[int, ...]],
) -> bool:
    """Give every tensor an address in order of first use; False where one does not fit."""
    ending = sorted(used, key=lambda s: s.last_use)
    fixed = [s for s in used if s.address is not None]
    dead = 0
    for tensor in sorted(used, key=lambda s: (s.first_use, s.number)):
        while dead < len(ending) and ending[dead].last_use < tensor.first_use:
            space.release(ending[dead].number)
            dead += 1
        space.kept = tuple([space.extent(s) for s in fixed if _live_together(s, tensor)])
        at = fit(space, space.size(tensor)) if tensor.address is None else tensor.address[1]
        if at is None:
            return False
        start[tensor.number] = at
        predecessors[tensor.number] = space.add(tensor, at)
    return True


def _live_together(a: Allocation, b: Allocation) -> bool:
    return a.first_use <= b.last_use and b.first_use <= a.last_use


def _check_fixed(space: _Space, used: Sequence[Allocation], kernel: str) -> None:
    """Refuse addresses that give two tensors the same bytes while both are in use."""
    fixed = sorted((s for s in used if s.address is not None), key=lambda s: s.first_use)
    live: list[Allocation] = []
    for tensor in fixed:
        live = [other for other in live if other.last_use >= tensor.first_use]
        for other in live:
            if _share_bytes(space, tensor, other):
                raise HazardError(
                    f"{kernel}: {tensor.describe()} at address {tensor.address} takes bytes that "
                    f"{other.describe()} at address {other.address} still needs: the one is first "
                    f"used before the last use of the other (instructions {tensor.first_use} and "
                    f"{other.last_use}); use addresses that are free by then",
                    code="tensor.address_overlap",
                )
        live.append(tensor)


def _share_bytes(space: _Space, a: Allocation, b: Allocation) -> bool:
    a_begin, a_end = space.extent(a)
    b_begin, b_end = space.extent(b)
    a_first, b_first = (0 if t.address is None else t.address[0] for t in (a, b))
    partitions = a_first < b_first + b.partitions and b_first < a_first + a.partitions
    return partitions and a_begin < b_end and b_begin < a_end


def _union(ranges: Iterable[tuple[int, int]]) -> int:
    """Return the bytes that ranges cover; some may lie side by side in different partitions."""
    total = reached = 0
    for begin, end in sorted(ranges):
        total += max(0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _check_peak(space: _Space, used: Sequence[Allocation], hw: Hardware, kernel: str) -> None:
    """Find the most bytes that are live at once, and refuse more than there are."""
    changes: list[tuple[int, int, int, Allocation]] = []
    for tensor in used:
        changes.append((tensor.first_use, 1, tensor.number, tensor))
        changes.append((tensor.last_use + 1, 0, tensor.number, tensor))
    free_bytes = fixed_bytes = worst_at = 0
    fixed: dict[int, tuple[int, int]] = {}
    for when, begins, number, tensor in sorted(changes, key=lambda change: change[:3]):
        if tensor.address is None:
            free_bytes += space.size(tensor) if begins else -space.size(tensor)
        else:
            if begins:
                fixed[number] = space.extent(tensor)
            else:
                del fixed[number]
            fixed_bytes = _union(fixed.values())
        if free_bytes + fixed_bytes > space.peak:
            space.peak, worst_at = free_bytes + fixed_bytes, when
    if space.peak <= space.capacity:
        return
    live = [s for s in used if s.first_use <= worst_at <= s.last_use]
    live.sort(key=space.size, reverse=True)
    alike = Counter((space.size(s), s.describe()) for s in live)  # a line in a loop gives many
    listed = "".join(
        f"\n  {size:>8} B  {what}{f', {count} times' if count > 1 else ''}"
        for (size, what), count in list(alike.items())[:_SHOWN]
    )
    more = f"\n  and {len(alike) - _SHOWN} more" if len(alike) > _SHOWN else ""
    limit = (
        f"{space.capacity} B per partition (nl.tile_size.sbuf_fmax_bytes)"
        if space.name == "sbuf"
        else f"{hw.psum_banks} banks of {hw.psum_bank_bytes} B per partition"
    )
    raise CapacityError(
        f"{kernel}: {space.peak} B per partition are live in {space.name.upper()} at once; "
        f"{hw.target} has {limit}. Live there:{listed}{more}",
        code=f"{space.name}.capacity",
    )
