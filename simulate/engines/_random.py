"""The engines' random number generators: a stream of 32-bit words for each compute lane.

GpSimdE, and VectorE from NeuronCore-v4 on, run XORWOW (Marsaglia, Xorshift RNGs, 2003, section 3),
whose state is six words a lane.  VectorE had a shift register before, of which nothing else is
published: there a counter-based generator stands in for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from nkiconv.simulate.trace import Lane

if TYPE_CHECKING:
    from nkiconv.simulate.hardware import Hardware
    from nkiconv.simulate.program import Program

Words = npt.NDArray[np.uint32]

STATE_WORDS = 6
"""Words of one XORWOW state: x, y, z, w, v and the counter d (A4, XORWOW-based PRNG)."""

_WEYL = np.uint32(362437)
"""What the counter of XORWOW grows by at each word (Marsaglia 2003)."""


class Generator(Protocol):
    """The random number generator of one engine."""

    def draw(self, first: int, lanes: int, count: int) -> Words:
        """Return the next `count` words of lanes `first` to ``first + lanes``, one row a lane."""

    def seed(self, value: int) -> None:
        """Start all lanes anew from one 32-bit value."""


class Xorwow:
    """XORWOW, with `states` (lanes, generators a lane, six words).

    Word i of an instruction comes from the lane's generator ``i % generators``: the state has no
    place to remember where an instruction stopped, so that each starts at the first one.
    """

    def __init__(self, lanes: int, generators: int) -> None:
        self.states: Words = np.zeros((lanes, generators, STATE_WORDS), dtype=np.uint32)

    def draw(self, first: int, lanes: int, count: int) -> Words:
        """Return the next `count` words of lanes `first` to ``first + lanes``, one row a lane."""
        states = self.states[first : first + lanes]
        generators = states.shape[1]
        words = np.empty((lanes, -(-count // generators), generators), dtype=np.uint32)
        for i in range(words.shape[1]):
            # The last round may leave some generators out; these stay where they are.
            part = states[:, : min(generators, count - i * generators)]
            words[:, i, : part.shape[1]] = _xorwow(part)
        return words.reshape(lanes, -1)[:, :count]

    def seed(self, value: int) -> None:
        """Start all lanes anew from one 32-bit value."""
        raw = np.random.Philox(key=value).random_raw(self.states.size)
        self.states[...] = raw.astype(np.uint32).reshape(self.states.shape)


def _xorwow(states: Words) -> Words:
    """Advance states in place by one word each, and return the words."""
    x, v = states[..., 0], states[..., 4]
    t = x ^ (x >> np.uint32(2))
    new = (v ^ (v << np.uint32(4))) ^ (t ^ (t << np.uint32(1)))
    states[..., :4] = states[..., 1:5].copy()
    states[..., 4] = new
    states[..., 5] += _WEYL
    words: Words = new + states[..., 5]
    return words


class Philox:
    """Philox, keyed by seed and lane: stands for VectorE's shift register before NeuronCore-v4."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._streams: list[np.random.Philox] = []

    def draw(self, first: int, lanes: int, count: int) -> Words:
        """Return the next `count` words of lanes `first` to ``first + lanes``, one row a lane."""
        rows = [s.random_raw(count) for s in self._streams[first : first + lanes]]
        return np.stack(rows).astype(np.uint32)

    def seed(self, value: int) -> None:
        """Start all lanes anew from one 32-bit value."""
        self._streams = [np.random.Philox(key=lane << 64 | value) for lane in range(self._lanes)]


def has_state(hw: Hardware, lane: Lane) -> bool:
    """Whether a program can load and store an engine's state."""
    return lane is Lane.GPSIMD or hw.generation >= hw.vector_xorwow_generation


def generators(hw: Hardware, lane: Lane) -> int:
    """Return how many XORWOW states a lane of the engine has."""
    return hw.vector_xorwow_states if lane is Lane.VECTOR else 1


def generator_of(program: Program, lane: Lane) -> Generator:
    """Return the generator of an engine.

    What it holds before this kernel has set it is left over from other programs on the device;
    here it is always the same.
    """
    found = program.random.get(lane)
    if found is None:
        hw = program.hardware
        if has_state(hw, lane):
            found = Xorwow(hw.partitions, generators(hw, lane))
        else:
            found = Philox(hw.partitions)
        found.seed(program.core)  # two cores of one launch draw differently
        program.random[lane] = found
    return found


def xorwow_of(program: Program, lane: Lane) -> Xorwow:
    """Return the generator of an engine whose state a program can load and store.

    Raises
    ------
    TypeError
        The engine has another generator; the sheets' rules refuse such calls first.
    """
    found = generator_of(program, lane)
    if not isinstance(found, Xorwow):
        raise TypeError(f"{lane.label} of {program.hardware.target} has no XORWOW state")
    return found
