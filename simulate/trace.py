"""The record of an executed program: what ran, what it touched, what it cost.

One instruction is one run of 64-bit integers in a flat array: a header of `HEADER` fields and
`OPERAND` fields for each tensor that it touches, about 200 bytes for an instruction of three
operands.  Meaning is left to `schedule`; this module only packs and unpacks.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import gcd

UNNAMED = 0
"""Number of the empty string."""

HEADER = 8
OPERAND = 6
"""Number of the storage, how it is accessed, first and end byte, first and end partition."""

_FIELD = 30
_LONGEST = 1 << _FIELD
_HOLES = 1 << 2 * _FIELD
SCATTERED = _HOLES | 1 << _FIELD | 1
"""Pattern of bytes about which no more is known than where they begin and end."""


def pattern_of(dims: Iterable[tuple[int, int]], item_bytes: int) -> int:
    """Return which of the bytes between its first and last a view touches, as one number.

    Runs of bytes that repeat with a period; 0 where there is no gap, `SCATTERED` where no period
    is longer than a run.

    Parameters
    ----------
    dims
        Stride in bytes and size of each dimension.
    """
    run, period, reach, holes = item_bytes, 0, 0, 0
    for stride, size in sorted(dims):
        if size == 1 or stride == 0:
            continue
        if period == 0 and stride <= run:
            run += stride * (size - 1)
            continue
        if period and stride != reach:
            holes = _HOLES
        period = gcd(period, stride)
        reach = stride * size
    if period == 0:
        return 0
    if period <= run or period >= _LONGEST:
        return SCATTERED
    return holes | period << _FIELD | run


def read_pattern(number: int) -> tuple[int, int]:
    """Return period and run of a pattern that is not 0."""
    return number >> _FIELD & _LONGEST - 1, number & _LONGEST - 1


def is_regular(number: int) -> bool:
    """Whether a pattern that is not 0 has every run between its first byte and its last."""
    return not number & _HOLES


class Lane(IntEnum):
    """What executes an instruction: a compute engine, or a ring of DMA queues."""

    TENSOR = 0
    VECTOR = 1
    SCALAR = 2
    GPSIMD = 3
    SYNC = 4
    DMA_LOAD = 5
    DMA_STORE = 6
    DMA_LOCAL = 7

    @property
    def label(self) -> str:
        """Name as printed."""
        return _LABELS[self]

    @property
    def is_dma(self) -> bool:
        """Whether this is a DMA ring."""
        return self >= Lane.DMA_LOAD


_LABELS = {
    Lane.TENSOR: "TensorE",
    Lane.VECTOR: "VectorE",
    Lane.SCALAR: "ScalarE",
    Lane.GPSIMD: "GpSimdE",
    Lane.SYNC: "SyncE",
    Lane.DMA_LOAD: "DMA load",
    Lane.DMA_STORE: "DMA store",
    Lane.DMA_LOCAL: "DMA local",
}

LANES = len(Lane)


@dataclass(frozen=True, slots=True)
class Access:
    """One operand: a box of bytes in one storage."""

    storage: int
    write: bool
    first_byte: int
    end_byte: int
    first_partition: int
    end_partition: int


@dataclass(frozen=True, slots=True)
class Step:
    """One executed instruction, unpacked."""

    index: int
    opcode: str
    lane: Lane
    source: str
    label: str
    occupancy_ps: int
    latency_ps: int
    table: int
    accesses: tuple[Access, ...]
    core: int = 0
    """Which NeuronCore of a logical one executed it."""


class Trace:
    """A program's instructions in program order.

    `add` is on the hot path of the simulator; everything else is for afterwards.
    """

    def __init__(self) -> None:
        self._words = array("q")
        self._starts = array("q")
        self._names: list[str] = [""]
        self._name_numbers: dict[str, int] = {"": UNNAMED}
        self.edges: list[tuple[int, int]] = []
        """Explicit orders (consumer, producer) from ``NkiInstruction.depends_on``."""
        self.barriers: list[int] = []
        """Instructions that wait for everything before them on their core, and hold up the rest."""
        self._hbm = array("q")

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def memory_bytes(self) -> int:
        """Bytes that the records occupy."""
        return 8 * (len(self._words) + len(self._starts) + len(self._hbm))

    def number(self, name: str) -> int:
        """Return the number that stands for a string in the record."""
        found = self._name_numbers.get(name)
        if found is None:
            found = self._name_numbers[name] = len(self._names)
            self._names.append(name)
        return found

    def find(self, name: str) -> int:
        """Return the number of a string, or -1 where no record has it."""
        return self._name_numbers.get(name, -1)

    def name(self, number: int) -> str:
        """Return the string behind a number."""
        return self._names[number]

    def add(
        self,
        opcode: int,
        lane: int,
        source: int,
        label: int,
        occupancy_ps: int,
        latency_ps: int,
        table: int,
        operands: list[int],
    ) -> int:
        """Append an instruction; `operands` holds `OPERAND` integers for each.  Return its index.

        How an operand is accessed: 1 if it is written, plus twice its `pattern_of`.

        `lane` is that of core 0, `LANES` more for core 1.  `table` is the number of the activation
        table that ScalarE needs, or -1; of other lanes what `demand` says.  A transfer's occupancy
        is the time that all DMA engines together need for it, its latency what it takes alone.
        """
        index = len(self._starts)
        self._starts.append(len(self._words))
        self._words.fromlist(
            [opcode, lane, source, label, occupancy_ps, latency_ps, table, len(operands), *operands]
        )
        return index

    def note_hbm(self, moved_bytes: int) -> None:
        """Note that the instruction added last moved these bytes from or to HBM."""
        self._hbm.extend((len(self._starts) - 1, moved_bytes))

    def hbm_moves(self) -> Iterator[tuple[int, int]]:
        """Yield (index, bytes) of each instruction that moved bytes from or to HBM."""
        return zip(self._hbm[::2], self._hbm[1::2], strict=True)

    def words(self, index: int) -> array[int]:
        """Return the header of one instruction."""
        begin = self._starts[index]
        return self._words[begin : begin + HEADER]

    def sources(self) -> Counter[str]:
        """Return how many instructions each source line gave."""
        words = self._words
        counts = Counter(words[begin + 2] for begin in self._starts)
        return Counter({self._names[number]: count for number, count in counts.items()})

    def raw(self, first: int = 0) -> Iterator[tuple[int, list[int]]]:
        """Yield (index, words) of each instruction from `first` on, without unpacking."""
        words = self._words
        starts = self._starts
        for index in range(first, len(starts)):
            begin = starts[index]
            yield index, words[begin : begin + HEADER + words[begin + 7]].tolist()

    def lanes(self) -> set[int]:
        """Return the lanes of all instructions, as `add` takes them."""
        words = self._words
        return {words[begin + 1] for begin in self._starts}

    def steps(self) -> Iterator[Step]:
        """Yield every instruction, unpacked."""
        for index, words in self.raw():
            accesses = tuple(
                Access(words[i], bool(words[i + 1] & 1), *words[i + 2 : i + 6])
                for i in range(HEADER, len(words), OPERAND)
            )
            yield Step(
                index,
                self._names[words[0]],
                Lane(words[1] % LANES),
                self._names[words[2]],
                self._names[words[3]],
                words[4],
                words[5],
                words[6],
                accesses,
                words[1] // LANES,
            )
