"""A picture through the NKI kernel, compared with SciPy.

Every colour plane is one image of a batch with one channel, so that one launch filters all of them
and no plane sees another: ``x (P, 1, H, W)``, ``w (R, 1, K, K)``, padding "same".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nkiconv.bench.errors import UserError
from nkiconv.bench.filters import Filter
from nkiconv.bench.images import Picture, with_planes
from nkiconv.kernels import conv2d
from nkiconv.reference import bounds
from nkiconv.simulate import Profile, profile

try:
    from scipy.ndimage import correlate
except ImportError:
    raise UserError("the comparison needs SciPy: pip install 'nkiconv[cli]'") from None

__all__ = ["Filtered", "apply_filter"]


@dataclass(frozen=True)
class Filtered:
    """A filtered picture and how far it is from SciPy's.

    `error_ratio` is the largest error over its allowance (bounds.py), before the host's rounding
    to samples; `samples_off` the number of stored samples that differ from those SciPy's result
    gives, out of `num_samples`.
    """

    picture: Picture
    profile: Profile
    error_ratio: float
    samples_off: int
    num_samples: int

    @property
    def passed(self) -> bool:
        """Whether every response is within its allowance (a NaN is not)."""
        return self.error_ratio <= 1


def apply_filter(picture: Picture, chosen: Filter, dtype: np.dtype[np.generic]) -> Filtered:
    """Run `chosen` over every plane in one launch of the NKI kernel, and compare with SciPy.

    The comparison starts from the planes and taps as rounded to `dtype`: what is judged is the
    kernel, not the input's precision.
    """
    x = picture.planes[:, None].astype(dtype)
    w = chosen.taps[:, None].astype(dtype)
    y, seen = profile(conv2d, x, w, padding="same")
    y64 = np.asarray(y).astype(np.float64)
    wanted = _scipy_correlations(x, w)
    magnitudes = _scipy_correlations(np.abs(x), np.abs(w))
    ours = with_planes(picture, _combine(y64, chosen))
    theirs = with_planes(picture, _combine(wanted, chosen))
    differs = picture.samples(ours.planes) != picture.samples(theirs.planes)
    return Filtered(
        picture=ours,
        profile=seen,
        error_ratio=bounds.max_error_ratio(y, wanted, magnitudes, w[0].size, dtype),
        samples_off=int(np.count_nonzero(differs)),
        num_samples=differs.size,
    )


def _scipy_correlations(x: NDArray[np.generic], w: NDArray[np.generic]) -> NDArray[np.float64]:
    """(P, R, H, W) float64: each plane of `x` (P, 1, H, W) with each of `w` (R, 1, K, K)."""
    planes, taps = x[:, 0].astype(np.float64), w[:, 0].astype(np.float64)
    return np.stack(
        [[correlate(plane, tap, mode="constant", cval=0.0) for tap in taps] for plane in planes]
    )


def _combine(responses: NDArray[np.float64], chosen: Filter) -> NDArray[np.float64]:
    """(P, R, H, W) -> (P, H, W)."""
    if chosen.magnitude:
        length: NDArray[np.float64] = np.sqrt(np.square(responses).sum(axis=1))
        return length
    return responses[:, 0]
