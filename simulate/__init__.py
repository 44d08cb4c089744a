"""The embedded NKI simulator: arithmetic as on the device, the device's limits, and modelled time.

Importing it makes ``import nki`` work: with the real NKI where one is installed, else with the
embedded one.
"""

from __future__ import annotations

from nkiconv.simulate import embedded as _embedded

_embedded.install()

from nkiconv.simulate.errors import (  # noqa: E402 - the finder has to be in place first
    CapacityError,
    ConstraintError,
    DtypeError,
    HazardError,
    NkiconvError,
    OutOfBoundsError,
    ShapeError,
    UninitializedReadError,
    UnsupportedPythonError,
)
from nkiconv.simulate.hardware import (  # noqa: E402
    TARGETS,
    current_target,
    resolve_target,
    use_target,
)
from nkiconv.simulate.late import use_dma  # noqa: E402
from nkiconv.simulate.profile import Event, Profile, profile  # noqa: E402
from nkiconv.simulate.runtime import simulate, simulate_kernel  # noqa: E402

__all__ = [
    "TARGETS",
    "CapacityError",
    "ConstraintError",
    "DtypeError",
    "Event",
    "HazardError",
    "NkiconvError",
    "OutOfBoundsError",
    "Profile",
    "ShapeError",
    "UninitializedReadError",
    "UnsupportedPythonError",
    "current_target",
    "profile",
    "resolve_target",
    "simulate",
    "simulate_kernel",
    "use_dma",
    "use_target",
]
