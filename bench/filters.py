"""Named image filters: taps, and how their responses become one plane.

    y[p, r] = sum over (kh, kw) of taps[r, kh, kw] * x[p, h + kh - K//2, w + kw - K//2]

for every colour plane p by itself, with zeros outside the picture.  A filter marked `magnitude`
ends in ``sqrt(sum over r of y[p, r]**2)``: the gradient's length for sobel, the absolute response
for laplacian.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nkiconv.bench.errors import UserError

__all__ = ["FILTERS", "Filter", "find_filter"]


@dataclass(frozen=True)
class Filter:
    """Taps (R, K, K), K odd, of R correlations, and how R results become one plane."""

    taps: NDArray[np.float64]
    magnitude: bool
    summary: str


def _filter(
    *taps: list[list[float]], over: float = 1, magnitude: bool = False, summary: str
) -> Filter:
    return Filter(np.array(taps, dtype=np.float64) / over, magnitude, summary)


_SOBEL_X = [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]
_SOBEL_Y = [[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]]
_BINOMIAL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).tolist()

FILTERS = {
    "sobel": _filter(_SOBEL_X, _SOBEL_Y, magnitude=True, summary="length of the gradient"),
    "sharpen": _filter([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], summary="edges lifted"),
    "gaussian": _filter(_BINOMIAL, over=256, summary="5x5 binomial blur, sigma 1 pixel"),
    "emboss": _filter([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], summary="lit from the upper left"),
    "laplacian": _filter(
        [[0, 1, 0], [1, -4, 1], [0, 1, 0]], magnitude=True, summary="absolute second derivative"
    ),
    "box": _filter([[1.0] * 3] * 3, over=9, summary="3x3 mean"),
    "identity": _filter([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]], summary="the picture itself"),
}


def find_filter(name: str) -> Filter:
    """Return the filter called `name`, or raise `UserError` with the names that exist."""
    if name in FILTERS:
        return FILTERS[name]
    close = difflib.get_close_matches(name.lower(), FILTERS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"no filter {name!r}; {hint}there are: {', '.join(FILTERS)}")
