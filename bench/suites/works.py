"""The convolutions of `nkiconv bench`, by suite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nkiconv.bench.errors import UserError
from nkiconv.bench.filters import FILTERS
from nkiconv.bench.layers import Layer, known_layers
from nkiconv.bench.photograph import SHAPE

__all__ = ["ALL", "SUITES", "Work", "select_works"]

ALL = "all"


@dataclass(frozen=True)
class Work:
    """One convolution of a suite.

    `series` and `value` say what grows in the suite scaling, and how large it is here; `filter`
    names the image filter whose taps and photograph are the operands, else they are whole numbers.
    """

    suite: str
    layer: Layer
    bias: bool = False
    series: str = ""
    value: int = 0
    filter: str = ""

    @property
    def name(self) -> str:
        """Name within the suite."""
        return self.layer.name


def _layers() -> list[Work]:
    return [Work("layers", layer) for layer in known_layers()]


_SHAPE = "8x64x32x32 to 128"
_CONV2D = Layer(
    id=0, name=f"{_SHAPE}, 3x3", N=8, C_in=64, size=(32, 32), C_out=128, kernel=(3, 3),
    padding=(1, 1),
)  # fmt: skip


def _classic() -> list[Work]:
    pair = (2, 2)
    layers = (
        _CONV2D,
        replace(_CONV2D, name=f"{_SHAPE}, 1x1", kernel=(1, 1), padding=(0, 0)),
        replace(_CONV2D, name=f"{_SHAPE}, 5x5", kernel=(5, 5), padding=pair),
        replace(_CONV2D, name=f"{_SHAPE}, 3x3, stride 2", stride=pair),
        replace(_CONV2D, name=f"{_SHAPE}, 3x3, dilation 2", dilation=pair, padding=pair),
    )
    return [Work("classic", layer, bias=True) for layer in layers]


def _grouped() -> list[Work]:
    groups = [
        replace(_CONV2D, name=f"{_CONV2D.name}, {count} groups", groups=count)
        for count in (2, 4, 8, 16, 64)
    ]
    depthwise = replace(_CONV2D, name="8x64x32x32, 3x3 depthwise", C_out=64, groups=64)
    return [Work("grouped", layer, bias=True) for layer in (*groups, depthwise)]


def _small() -> list[Work]:
    sizes = (("tiny", 4), ("small", 8), ("medium", 16))
    return [
        Work(
            "small",
            replace(
                _CONV2D, name=f"{name}, {side}x{side}{f', {groups} groups' * (groups > 1)}",
                N=1, C_out=64, size=(side, side), groups=groups,
            ),
            bias=True,
        )
        for name, side in sizes
        for groups in (1, 8)
    ]  # fmt: skip


def _filters() -> list[Work]:
    planes, height, width = SHAPE
    return [
        Work(
            "filters",
            Layer(
                id=0, name=name, N=planes, C_in=1, size=(height, width), C_out=len(chosen.taps),
                kernel=(chosen.taps.shape[1], chosen.taps.shape[2]),
                padding=(chosen.taps.shape[1] // 2, chosen.taps.shape[2] // 2),
            ),
            filter=name,
        )
        for name, chosen in FILTERS.items()
    ]  # fmt: skip


def _scaling() -> list[Work]:
    base = replace(_CONV2D, N=1, C_out=64)
    works = [
        Work("scaling", replace(base, name=f"image {s}x{s}", size=(s, s)), True, "image side", s)
        for s in (4, 8, 16, 32, 64, 128, 256)
    ]
    works += [
        Work("scaling", replace(base, name=f"{c} channels", C_in=c, C_out=c), True, "channels", c)
        for c in (4, 8, 16, 32, 64, 128, 256, 512)
    ]
    works += [
        Work("scaling", replace(base, name=f"batch {n}", size=(14, 14), N=n), True, "batch", n)
        for n in (1, 2, 4, 8, 16, 32, 64)
    ]
    return works


SUITES = {
    "classic": _classic,
    "grouped": _grouped,
    "small": _small,
    "filters": _filters,
    "scaling": _scaling,
    "layers": _layers,
}
"""What makes each suite, in the order in which they run."""


def select_works(suites: Iterable[str], only: str = "") -> list[Work]:
    """Return the convolutions of these suites that have `only` in their name.

    Raises
    ------
    UserError
        Nothing is left.
    """
    names: Sequence[str] = list(dict.fromkeys(suites))
    if ALL in names:
        names = list(SUITES)
    works = [
        work
        for name in SUITES
        if name in names
        for work in SUITES[name]()
        if only.lower() in f"{work.suite} {work.name}".lower()
    ]
    if not works:
        raise UserError(f"nothing in {', '.join(names)} has {only!r} in its name")
    return works
