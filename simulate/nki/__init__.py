"""The embedded ``nki``: the vendor's names over nkiconv's simulator.

`simulate` runs a kernel on the simulator; `jit` marks it.
"""

from __future__ import annotations

from nkiconv.simulate.runtime import jit, simulate, simulate_kernel

__all__ = ["jit", "simulate", "simulate_kernel"]

__version__ = "0.6.0+nkiconv"


def __getattr__(name: str) -> object:
    from nkiconv.simulate.coverage import missing

    raise missing("nki", name)
