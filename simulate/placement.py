"""Where every tensor lies in SBUF and PSUM, decided from the live ranges of the whole program.

A tensor is live from its first to its last use in program order, as the compiler's allocator sees
it.  Addresses are handed out round the memory (next fit), so that space is reused as late as
possible and loads can run ahead of computation; that is how far ahead they can run on the device.

PSUM tensors occupy whole banks.  A tensor occupies its bytes in all partitions, whatever its
partition count: two small tensors are never put side by side in different partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nkiconv.simulate.errors import CapacityError
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

    def size(self, tensor: Allocation) -> int:
        return -(-tensor.free_bytes // self.unit) * self.unit

    def gaps(self) -> list[tuple[int, int]]:
        """Return the free byte ranges, in order."""
        result = []
        at = 0
        for first, end, _ in sorted(self.live.values(), key=lambda entry: entry[0]):
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
    """
    start: dict[int, int] = {}
    predecessors: dict[int, tuple[int, ...]] = {}
    peaks: dict[str, int] = {}
    for space in (
        _Space("sbuf", hw.sbuf_usable_bytes, 1),
        _Space("psum", hw.psum_banks * hw.psum_bank_bytes, hw.psum_bank_bytes),
    ):
        used = [s for s in allocations if s.space == space.name and s.first_use >= 0]
        _check_peak(space, used, hw, kernel)
        peaks[space.name] = space.peak
        for strategy in (_Space.next_fit, _Space.best_fit):
            attempt = _Space(space.name, space.capacity, space.unit)
            if _fill(attempt, used, strategy, start, predecessors):
                break
        else:
            raise CapacityError(
                f"{kernel}: at most {space.peak} B per partition are live in {space.name.upper()} "
                f"of {space.capacity}, but no order of addresses was found that avoids "
                "fragmentation; allocate tensors of fewer different sizes"
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
    dead = 0
    for tensor in sorted(used, key=lambda s: (s.first_use, s.number)):
        while dead < len(ending) and ending[dead].last_use < tensor.first_use:
            space.release(ending[dead].number)
            dead += 1
        at = fit(space, space.size(tensor))
        if at is None:
            return False
        start[tensor.number] = at
        predecessors[tensor.number] = space.add(tensor, at)
    return True


def _check_peak(space: _Space, used: Sequence[Allocation], hw: Hardware, kernel: str) -> None:
    """Find the most bytes that are live at once, and refuse more than there are."""
    changes: list[tuple[int, int, int]] = []
    for tensor in used:
        size = space.size(tensor)
        changes.append((tensor.first_use, 1, size))
        changes.append((tensor.last_use + 1, 0, -size))
    total = worst_at = 0
    for when, _, change in sorted(changes):
        total += change
        if total > space.peak:
            space.peak, worst_at = total, when
    if space.peak <= space.capacity:
        return
    live = [s for s in used if s.first_use <= worst_at <= s.last_use]
    live.sort(key=space.size, reverse=True)
    listed = "".join(f"\n  {space.size(s):>8} B  {s.describe()}" for s in live[:_SHOWN])
    more = f"\n  and {len(live) - _SHOWN} more" if len(live) > _SHOWN else ""
    limit = (
        f"{space.capacity} B per partition (nl.tile_size.sbuf_fmax_bytes)"
        if space.name == "sbuf"
        else f"{hw.psum_banks} banks of {hw.psum_bank_bytes} B per partition"
    )
    raise CapacityError(
        f"{kernel}: {space.peak} B per partition are live in {space.name.upper()} at once; "
        f"{hw.target} has {limit}. Live there:{listed}{more}"
    )
