"""What several of these test files need: a clean environment, and tensors without a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from nkiconv.simulate.dtypes import ELEMENT_TYPES
from nkiconv.simulate.hardware import TARGET_VARIABLE, use_target
from nkiconv.simulate.memory import BY_ENGINE, Allocation, Storage
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.program import Program, running
from nkiconv.simulate.tensor import SPACE, MemoryRegion, NkiTensor
from nkiconv.simulate.trace import Step

# Other work on the machine must not fail an example that is merely slow.
settings.register_profile("simulate", deadline=None, derandomize=True)
settings.load_profile("simulate")


@pytest.fixture(autouse=True)
def _default_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts on trn1 with the embedded NKI, whatever the developer's shell says."""
    monkeypatch.delenv(TARGET_VARIABLE, raising=False)
    monkeypatch.delenv("NKICONV_SIMULATOR", raising=False)


@dataclass(frozen=True)
class Chip:
    """A running program whose tensors and instructions a test makes one by one."""

    program: Program

    def new(
        self, shape: tuple[int, ...], dtype: str = "float32", buffer: MemoryRegion = nl.sbuf
    ) -> NkiTensor:
        return nl.ndarray(shape, dtype, buffer)

    def put(
        self, values: npt.ArrayLike, dtype: str = "float32", buffer: MemoryRegion = nl.sbuf
    ) -> NkiTensor:
        """Allocate a tensor with these elements, without an instruction."""
        given = np.asarray(values)
        tensor = nl.ndarray(given.shape, dtype, buffer)
        tensor._array[...] = given.astype(tensor._element.numpy)
        tensor._storage.mark(tensor, tensor._element, BY_ENGINE)
        return tensor

    @property
    def last(self) -> Step:
        """The instruction that was executed last."""
        *_, step = self.program.trace.steps()
        return step


@pytest.fixture(scope="session")
def start() -> Callable[[str], AbstractContextManager[Chip]]:
    """Start a program for a target: ``with start("trn2") as chip``."""

    @contextmanager
    def begin(target: str) -> Iterator[Chip]:
        # Infinity and NaN pass without remark, as inside a kernel.
        quiet = np.errstate(all="ignore")
        with use_target(target), quiet, running(Program("kernel", target)) as program:
            yield Chip(program)

    return begin


@pytest.fixture
def chip(start: Callable[[str], AbstractContextManager[Chip]]) -> Iterator[Chip]:
    """Run the test inside a program for trn1."""
    with start("trn1") as begun:
        yield begun


@pytest.fixture(scope="session")
def fresh() -> Callable[..., NkiTensor]:
    """Make a tensor with poisoned memory, as nl.ndarray does, without a running kernel."""

    def make(
        shape: tuple[int, ...],
        dtype: str = "float32",
        region: MemoryRegion = MemoryRegion.sbuf,
        number: int = 0,
    ) -> NkiTensor:
        storage = Storage(Allocation(number, SPACE[region], shape, dtype, "t", "test.py:1"))
        return NkiTensor(shape, dtype, storage, region, "t")

    return make


@pytest.fixture(scope="session")
def counted(fresh: Callable[..., NkiTensor]) -> Callable[..., tuple[NkiTensor, npt.NDArray[Any]]]:
    """Make a tensor that holds 0, 1, 2, …, and the NumPy array over the same bytes."""

    def make(
        shape: tuple[int, ...], dtype: str = "int32", region: MemoryRegion = MemoryRegion.sbuf
    ) -> tuple[NkiTensor, npt.NDArray[Any]]:
        tensor = fresh(shape, dtype, region)
        values = tensor._storage.buffer.view(ELEMENT_TYPES[dtype].numpy).reshape(shape)
        values[...] = np.arange(values.size).reshape(shape)
        tensor._storage.mark(tensor, tensor._element, 1)
        return tensor, values

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same ones in every run."""
    return np.random.default_rng(7)
