"""Where an event is drawn: its kernel launch, its engine's lane, and a row within that lane."""

from __future__ import annotations

from heapq import heappop, heappush

from nkiconv.simulate.report._protocol import EventLike

__all__ = ["LAUNCH", "SECOND_CORE", "Launches", "Rows", "lane_rank"]

LAUNCH = "launch"
_END = "end"

# Top to bottom as data flows: in from HBM, through the engines, the engine that limits most first.
_ORDER = (
    LAUNCH,
    "DMA load",
    "DMA store",
    "DMA local",
    "TensorE",
    "VectorE",
    "ScalarE",
    "GpSimdE",
    "SyncE",
)

SECOND_CORE = " (core 1)"
"""Ends the name of a lane of the second core."""


def lane_rank(engine: str) -> int:
    """Place of an engine's lane from the top; engines that are not known come last.

    The lanes of a second core follow those of the first.
    """
    of_second = engine.endswith(SECOND_CORE)
    name = engine.removesuffix(SECOND_CORE)
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER)) + of_second * (len(_ORDER) + 1)


class Launches:
    """Numbers the kernel launches in the order in which their first event appears.

    An event on the ``"launch"`` lane opens a launch of its kernel, unless its opcode is ``"end"``:
    that is the cost after the last instruction.  The first event of a kernel without an open
    launch opens one, too.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._current: dict[str, int] = {}
        self._count: dict[str, int] = {}

    def index(self, event: EventLike) -> int:
        """Index into `names` of the launch that ``event`` belongs to."""
        kernel = event.kernel
        opens = event.engine == LAUNCH and event.opcode != _END
        if not opens and kernel in self._current:
            return self._current[kernel]
        n = self._count[kernel] = self._count.get(kernel, 0) + 1
        name = kernel or "kernel"
        self._current[kernel] = len(self.names)
        self.names.append(name if n == 1 else f"{name} (launch {n})")
        return self._current[kernel]


class Rows:
    """Spreads the events of one lane over rows so that no two events of a row overlap.

    An event lasts until its result is visible, while its engine or DMA ring already works on the
    next one; and viewers drop or misplace events that overlap without nesting.  Events come sorted
    by start; each gets the first free row.
    """

    def __init__(self) -> None:
        self.count = 0
        self._busy: list[tuple[int, int]] = []  # heap of (end, row)
        self._free: list[int] = []  # heap of rows

    def place(self, start: int, end: int) -> int:
        """Row of an event, both times as whole ticks of any one length."""
        while self._busy and self._busy[0][0] <= start:
            heappush(self._free, heappop(self._busy)[1])
        if self._free:
            row = heappop(self._free)
        else:
            row = self.count
            self.count += 1
        heappush(self._busy, (end, row))
        return row
