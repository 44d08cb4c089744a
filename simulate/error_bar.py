"""How far a modelled time may be off: what calibration found, and whether it speaks for a profile.

``calibrated.json`` is what ``nkiconv calibrate --markdown`` kept of the published kernels that
count: by target how many there are, their mean and largest relative error, the times between which
they lie, what bound them, and which instructions they executed.

A profile lies outside the calibrated region where nothing like it was measured.  The error is
stated all the same; the reasons stand beside it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["FILE", "ErrorBar", "Region", "error_bar", "regions"]

FILE = Path(__file__).with_name("calibrated.json")

_SHARE = 0.1
"""Share of the critical path that instructions which no calibrated kernel has may take."""

_BEYOND = 2.0
"""Factor by which a time may lie outside the calibrated ones."""


@dataclass(frozen=True)
class Region:
    """Published kernels of one target that a time was compared with."""

    kernels: int
    mean: float
    worst: float
    shortest_us: float
    longest_us: float
    bounds: tuple[str, ...]
    opcodes: tuple[str, ...]


@dataclass(frozen=True)
class ErrorBar:
    """What calibration says about one modelled time.

    Attributes
    ----------
    mean, worst
        Relative errors over the published kernels of this target, or of all if it has none.
    kernels
        How many these are.
    outside
        Why the profile is unlike all of them; empty inside the calibrated region.
    """

    mean: float
    worst: float
    kernels: int
    outside: tuple[str, ...]

    def __str__(self) -> str:
        """The error bar in a few words."""
        return (
            f"{self.mean:.0%} (mean error over {self.kernels} published kernels; "
            f"worst {self.worst:.0%})"
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "mean": self.mean,
            "worst": self.worst,
            "kernels": self.kernels,
            "outside": list(self.outside),
        }


@cache
def regions() -> Mapping[str, Region]:
    """Return what the file holds, by target."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    found = {}
    for target, entry in content.items():
        names = {key: tuple(entry[key]) for key in ("bounds", "opcodes")}
        found[target] = Region(**{**entry, **names})
    return found


def error_bar(
    target: str,
    latency_us: float,
    bound: str,
    path_us: Mapping[str, float],
    *,
    cores: int,
    loops: bool,
    known: Mapping[str, Region] | None = None,
) -> ErrorBar:
    """Return the error bar of a modelled time.

    Parameters
    ----------
    path_us
        Time on the critical path by opcode.
    cores
        Cores that the launches ran on at most.
    loops
        Whether on-chip loops ran.
    known
        Calibrated kernels by target; None for those of the file.
    """
    known = regions() if known is None else known
    own = known.get(target)
    if own is None:
        total = sum(region.kernels for region in known.values())
        mean = sum(region.kernels * region.mean for region in known.values()) / total
        worst = max(region.worst for region in known.values())
        return ErrorBar(mean, worst, total, (f"no kernel was measured on {target}",))
    return ErrorBar(
        own.mean, own.worst, own.kernels,
        tuple(_reasons(own, target, latency_us, bound, path_us, cores, loops)),
    )  # fmt: skip


def _reasons(
    own: Region,
    target: str,
    latency_us: float,
    bound: str,
    path_us: Mapping[str, float],
    cores: int,
    loops: bool,
) -> list[str]:
    found = []
    if latency_us * _BEYOND < own.shortest_us or latency_us > own.longest_us * _BEYOND:
        found.append(
            f"the kernels measured on {target} take {own.shortest_us:,.0f} to "
            f"{own.longest_us:,.0f} µs"
        )
    if bound not in own.bounds:
        found.append(f"no kernel measured on {target} is bound by {bound}")
    unmeasured = _unmeasured(own.opcodes, path_us)
    whole = sum(path_us.values())
    if whole and sum(unmeasured.values()) > _SHARE * whole:
        names = ", ".join(sorted(unmeasured, key=lambda name: (-unmeasured[name], name))[:3])
        found.append(
            f"{sum(unmeasured.values()) / whole:.0%} of the path is in instructions that no kernel "
            f"measured on {target} has ({names})"
        )
    if cores > 1:
        found.append("no kernel on two cores was measured")
    if loops:
        found.append("no kernel with on-chip loops was measured")
    return found


def _unmeasured(measured: Collection[str], path_us: Mapping[str, float]) -> dict[str, float]:
    return {name: us for name, us in path_us.items() if name not in measured}
