"""A picture through the NKI kernel, compared with SciPy.

Every colour plane is one image of a batch with one channel, so that one launch filters all of them
and no plane sees another: ``x (P, 1, H, W)``, ``w (R, 1, K, K)``, padding "same".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nkiconv.bench.errors import UserError
from nkiconv.bench.filters import Filter
from nkiconv.bench.images import Picture
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
    ours = np.empty_like(picture.planes)
    worst, samples_off = 0.0, 0
    # plane by plane: in float64 a whole picture would take ten times the memory of the simulation
    for x_plane, responses, our_plane in zip(x[:, 0], y, ours, strict=True):
        wanted = _correlations(x_plane, w[:, 0])
        sizes = _correlations(np.abs(x_plane), np.abs(w[:, 0]))
        ratio = bounds.max_error_ratio(responses, wanted, sizes, w[0].size, dtype)
        worst = float(np.maximum(worst, ratio))  # unlike max(), keeps a NaN
        our_plane[:] = _combine(responses.astype(np.float64), chosen)
        theirs = _combine(wanted, chosen).astype(np.float32)
        samples_off += int(np.count_nonzero(picture.samples(our_plane) != picture.samples(theirs)))
    return Filtered(
        picture=replace(picture, planes=ours),
        profile=seen,
        error_ratio=worst,
        samples_off=samples_off,
        num_samples=ours.size,
    )


def _correlations(plane: NDArray[np.generic], taps: NDArray[np.generic]) -> NDArray[np.float64]:
    """(R, H, W) float64: SciPy's correlation of `plane` (H, W) with each of `taps` (R, K, K)."""
    plane64 = plane.astype(np.float64)
    responses: NDArray[np.float64] = np.stack(
        [correlate(plane64, tap.astype(np.float64), mode="constant", cval=0.0) for tap in taps]
    )
    return responses


def _combine(responses: NDArray[np.float64], chosen: Filter) -> NDArray[np.float64]:
    """(R, H, W) -> (H, W)."""
    plane: NDArray[np.float64] = responses[0]
    if chosen.magnitude:
        plane = np.sqrt(np.square(responses).sum(axis=0))
    return plane
