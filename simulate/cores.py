"""The two NeuronCores of a logical one: the same kernel on each, one after the other by turns.

Each core runs until it has to wait for the other one, then the other one runs: an order that is
the same every time.  So what a kernel forgets to order would never show; `Accesses` looks for it
instead: whatever both cores touch in HBM, one of them changing it, needs a barrier between.
Cores that write the same bytes change nothing: the vendor's kernels do so where they have only
work for one.

Sources
-------
NKI 0.6.0: Using Logical Neuron Cores; nki.isa.core_barrier; nki.isa.sendrecv.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nkiconv.simulate.errors import HazardError
from nkiconv.simulate.memory import Storage
from nkiconv.simulate.tensor import NkiTensor

CORES = 2
"""NeuronCores in a logical one, at most (nki.isa.core_barrier: cores 0 and 1)."""


class _Stopped(BaseException):
    """Raised in a core that waits for one that failed."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A core that waits: for what, with what, and where in the kernel."""

    op: str
    key: object
    value: Any  # whatever an instruction exchanges
    line: str


class LogicalCore:
    """Runs one function for each core, one at a time, and lets them meet.

    Parameters
    ----------
    count
        Number of cores.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._changed = threading.Condition()
        self._turn = 0
        self._arrived: dict[int, _Arrival] = {}
        self._released: dict[int, list[Any]] = {}
        self._ended: set[int] = set()
        self._error: BaseException | None = None
        self._shared: list[tuple[tuple[int, ...], str, Storage]] = []
        self._asked = [0] * count

    def run(self, body: Callable[[int], Any]) -> list[Any]:
        """Call ``body(core)`` for every core; return what each returned.

        Raises
        ------
        HazardError
            A core waits for one that has ended, or they wait for different things.
        """
        results: list[Any] = [None] * self.count

        def run_one(core: int) -> None:
            try:
                self._wait_for_turn(core)
                results[core] = body(core)
            except _Stopped:
                pass
            except BaseException as error:  # of another thread: handed to the caller's
                self._error = self._error or error
            self._ended.add(core)
            self._pass_on(core)

        others = []
        for core in range(1, self.count):
            context = contextvars.copy_context()
            others.append(threading.Thread(target=context.run, args=(run_one, core), daemon=True))
            others[-1].start()
        run_one(0)
        for other in others:
            other.join()
        if self._error is not None:
            raise self._error
        return results

    def shared(
        self, core: int, shape: tuple[int, ...], dtype: str, make: Callable[[], Storage]
    ) -> Storage:
        """Return the storage of a core's next tensor in shared HBM; the first core makes it.

        Raises
        ------
        HazardError
            The other core's tensor in this place has another shape or dtype.
        """
        at = self._asked[core]
        self._asked[core] += 1
        if at == len(self._shared):
            self._shared.append((shape, dtype, make()))
        known_shape, known_dtype, storage = self._shared[at]
        if (known_shape, known_dtype) != (shape, dtype):
            raise HazardError(
                f"nl.ndarray(buffer=nl.shared_hbm): core {core} asks for {dtype}{list(shape)} "
                f"where the other core has {storage.describe()}; tensors in shared HBM are one for "
                "both cores, so both must allocate the same ones in the same order (Using Logical "
                "Neuron Cores, Final Notes)",
                code="cores.shared_tensors",
            )
        return storage

    def is_shared(self, storage: Storage) -> bool:
        """Whether both cores have this tensor."""
        return storage.is_input or any(storage is known for _, _, known in self._shared)

    def wait(self, core: int, op: str, key: object, value: Any, line: str) -> list[Any]:
        """Wait until every core has come to the same place; return what each brought along.

        Raises
        ------
        HazardError
            Another core has ended, or waits for something else.
        """
        self._arrived[core] = _Arrival(op, key, value, line)
        if len(self._arrived) == self.count:
            self._release()
        elif self._ended:
            raise HazardError(
                f"{op}: core {core} waits at {line} for core {min(self._ended)}, which has ended "
                "without coming here; on the device this hangs (every core must execute it)",
                code="cores.missing",
            )
        self._pass_on(core)
        self._wait_for_turn(core)
        return self._released.pop(core)

    def _release(self) -> None:
        arrivals = [self._arrived[core] for core in range(self.count)]
        first = arrivals[0]
        for core, other in enumerate(arrivals):
            if (other.op, other.key) != (first.op, first.key):
                raise HazardError(
                    f"{other.op}: core {core} waits for {other.key} at {other.line}, core 0 waits "
                    f"in {first.op} for {first.key} at {first.line}; on the device both hang "
                    "(the cores must come to the same instruction)",
                    code="cores.mismatch",
                )
        self._arrived.clear()
        for core in range(self.count):
            self._released[core] = [arrival.value for arrival in arrivals]

    def _can_run(self, core: int) -> bool:
        return core not in self._ended and core not in self._arrived

    def _pass_on(self, core: int) -> None:
        """Give the turn to the first core that can go on; after a meeting that is core 0."""
        with self._changed:
            order = [*range(core + 1, self.count), *range(core + 1)]
            if self._released:
                order = list(range(self.count))
            ready = [each for each in order if self._can_run(each)]
            if ready:
                self._turn = ready[0]
            elif len(self._ended) < self.count and self._error is None:
                at = next(iter(self._arrived.items()))
                self._error = HazardError(
                    f"{at[1].op}: core {at[0]} waits at {at[1].line} for a core that has ended "
                    "without coming here; on the device this hangs (every core must execute it)",
                    code="cores.missing",
                )
            self._changed.notify_all()

    def _wait_for_turn(self, core: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == core or self._error is not None)
        if self._error is not None:
            raise _Stopped


class Accesses:
    """Who has touched which byte of HBM since the last barrier on its tensor.

    Exact, byte by byte: cores that write alternate columns of one tensor are in order.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]] = {}

    def note(self, op: str, tensor: NkiTensor, core: int, writes: bool) -> None:
        """Note an access of `core` to all elements of `tensor`, which has happened.

        Raises
        ------
        HazardError
            The other core has touched some of them since the last barrier, and this write changed
            them; or it wrote them, and what this core reads is not its own.
        """
        storage = tensor._storage
        number = storage.allocation.number
        if number not in self._seen:
            none = np.zeros(storage.free_bytes, dtype=np.uint8)
            self._seen[number] = none, none.copy()
        marks, values = (_bytes_of(tensor, whole) for whole in self._seen[number])
        now = _bytes_of(tensor, storage.buffer)
        read, wrote = self._bits(core)
        other_read, other_wrote = self._bits(1 - core)
        if writes:
            wrong = ((marks & (other_read | other_wrote)) != 0) & (now != values)
        else:
            wrong = (marks & (other_wrote | wrote)) == other_wrote
        if wrong.any():
            raise HazardError(
                f"nisa.{op}: core {core} {'writes' if writes else 'reads'} elements of "
                f"{storage.describe()} that core {1 - core} touches too, and nothing orders the "
                "two; put nisa.core_barrier(data=the tensor, cores=(0, 1)) between them "
                "(nki.isa.core_barrier)",
                code="cores.race",
            )
        marks |= np.uint8(wrote if writes else read)
        values[...] = now

    def clear(self, tensor: NkiTensor) -> None:
        """Forget what was before a barrier on a tensor."""
        self._seen.pop(tensor._storage.allocation.number, None)

    @staticmethod
    def _bits(core: int) -> tuple[int, int]:
        return 1 << (2 * core), 2 << (2 * core)


def _bytes_of(tensor: NkiTensor, whole: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the bytes of a tensor's elements in an array that is as large as its storage."""
    item = tensor._element.itemsize
    return np.ndarray(
        (*tensor.shape, item),
        np.uint8,
        whole,
        tensor.offset * item,
        (*[stride * item for stride in tensor.strides], 1),
    )
