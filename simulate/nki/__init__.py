"""The embedded ``nki``: the vendor's names over nkiconv's simulator.

`simulate` runs a kernel on the simulator; `jit` marks it.
"""

from __future__ import annotations

from collections.abc import Callable as _Callable
from typing import Any as _Any

from nkiconv.simulate import runtime as _runtime
from nkiconv.simulate.runtime import jit, simulate_kernel

__all__ = ["jit", "simulate", "simulate_kernel"]

__version__ = "0.6.0+nkiconv"


def simulate(kernel: _Callable[..., _Any]) -> _Callable[..., _Any]:
    """Return a function that runs `kernel` on the simulator: ``simulate(kernel)(*args)``."""
    return _runtime.simulate(kernel)


def __getattr__(name: str) -> object:
    from nkiconv.simulate.coverage import missing

    raise missing("nki", name)
