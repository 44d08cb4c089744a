"""DMA that moves data as late as the dependencies allow, to show where one is missing.

In this mode a transfer is only noted when it is issued.  It reads its source and writes its
destination when an instruction comes along that has to wait for it by the rule of `schedule` (it
touches the same bytes of the same tensor, and one of the two writes), or when the kernel ends.
What does not wait then sees memory that was never written, or that was overwritten too early, as it
may on the device.  A kernel whose tensors are what they seem gives the same results in both modes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from nkiconv.simulate.errors import ConstraintError
from nkiconv.simulate.schedule import Box, overlap

__all__ = ["DMA_VARIABLE", "LateTransfers", "Touch", "dma_is_late", "use_dma"]

DMA_VARIABLE = "NKICONV_DMA"
_MODES = ("eager", "late")

Touch = tuple[int, bool, Box]
"""Number of the allocation, whether it is written, and which bytes of which partitions."""

_chosen: ContextVar[str | None] = ContextVar("nkiconv_dma", default=None)


class LateTransfers:
    """Transfers of one program that have been issued and not carried out."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Sequence[Touch], Callable[[], None]]] = {}
        self._by_tensor: dict[int, dict[int, list[tuple[bool, Box]]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, index: int, touches: Sequence[Touch], carry_out: Callable[[], None]) -> None:
        """Note the transfer that is instruction `index`."""
        self._waiting[index] = touches, carry_out
        for number, writes, box in touches:
            self._by_tensor.setdefault(number, {}).setdefault(index, []).append((writes, box))

    def settle(self, touches: Sequence[Touch]) -> None:
        """Carry out what an instruction with these accesses has to wait for, in program order."""
        due = {
            index
            for number, writes, box in touches
            for index, accesses in self._by_tensor.get(number, {}).items()
            if any((writes or wrote) and overlap(box, other) for wrote, other in accesses)
        }
        for index in sorted(due):
            self.finish(index)

    def finish(self, index: int) -> None:
        """Carry out one transfer, if it still waits."""
        touches, carry_out = self._waiting.pop(index, ((), _nothing))
        for number, _, _ in touches:
            self._by_tensor[number].pop(index, None)
        carry_out()

    def settle_all(self) -> None:
        """Carry out everything, in program order."""
        for index in list(self._waiting):
            self.finish(index)


def _nothing() -> None:
    return


def _mode(value: str, op: str) -> str:
    if value not in _MODES:
        raise ConstraintError(f"{op}: {value!r} is not eager or late", code="dma.mode")
    return value


def dma_is_late() -> bool:
    """Whether kernels run with late DMA: by `use_dma`, else by the environment."""
    mode = _chosen.get()
    if mode is None:
        mode = _mode(os.environ.get(DMA_VARIABLE) or "eager", DMA_VARIABLE)
    return mode == "late"


@contextmanager
def use_dma(mode: str | None) -> Iterator[None]:
    """Run the kernels inside the block with ``"eager"`` or ``"late"`` DMA; None changes nothing.

    Raises
    ------
    ConstraintError
        The mode is another one.
    """
    if mode is None:
        yield
        return
    token = _chosen.set(_mode(mode, "use_dma"))
    try:
        yield
    finally:
        _chosen.reset(token)
