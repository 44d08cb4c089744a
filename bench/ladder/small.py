"""Small images, plain and grouped: what limits them, and what is gained over the naive kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nkiconv.bench.errors import UserError
from nkiconv.kernels import conv2d
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.reference._dtypes import DTYPES
from nkiconv.simulate import Profile, profile, use_target

__all__ = ["SMALL", "SmallRow", "measure_small"]


@dataclass(frozen=True)
class SmallSize:
    """A 3x3 convolution with padding 1 of a square image, as many channels out as in."""

    size: int
    channels: int
    groups: int

    @property
    def name(self) -> str:
        """Size, channels and groups."""
        kind = "plain" if self.groups == 1 else f"{self.groups} groups"
        return f"{self.size}x{self.size}, {self.channels} channels, {kind}"


SMALL = tuple(
    SmallSize(size, 32, groups) for groups in (1, 4) for size in (4, 8, 16)
)  # 32: naive takes an instruction for every output and tap

_DTYPE = "bfloat16"
_TARGETS = ("trn1", "trn2")


@dataclass(frozen=True)
class SmallRow:
    """Both kernels on one size."""

    case: SmallSize
    target: str
    naive: Profile
    best: Profile

    @property
    def limits(self) -> str:
        """What the time of the library's kernel goes to, without launch, the largest two."""
        parts = {k: v for k, v in self.best.time_us.items() if k != "launch" and v > 0}
        largest = sorted(parts, key=lambda name: -parts[name])[:2]
        return ", ".join(f"{name} {parts[name] / self.best.body_us:.0%}" for name in largest)


def measure_small(announce: Callable[[str], None] = lambda name: None) -> Iterator[SmallRow]:
    """Run every size on every target.

    Raises
    ------
    UserError
        A result is not the reference's, bit for bit.
    """
    rng = np.random.default_rng(0)
    for case in SMALL:
        C, G = case.channels, case.groups
        x = rng.integers(-3, 4, (1, C, case.size, case.size)).astype(DTYPES[_DTYPE])
        w = rng.integers(-3, 4, (C, C // G, 3, 3)).astype(DTYPES[_DTYPE])
        wanted = conv2d_ref(x, w, padding=1, groups=G)
        for target in _TARGETS:
            announce(f"{case.name} {target}")
            seen = []
            for algorithm in ("naive", "auto"):
                with use_target(target):
                    y, profiled = profile(conv2d, x, w, padding=1, groups=G, algorithm=algorithm)
                if not np.array_equal(y, wanted):
                    raise UserError(f"{case.name}: {algorithm} is wrong on {target}")
                seen.append(profiled)
            yield SmallRow(case, target, *seen)
