"""Whether what a kernel returned is right, by the rule of the vendor's own tests.

max |y - r|  <=  atol + rtol * max |r|
"""

from __future__ import annotations

import numpy as np

from nkiconv.bench.compat.case import Array

__all__ = ["Judge", "error_ratio"]


class Judge:
    """Compares results and remembers the worst.

    Attributes
    ----------
    launches, returned
        Kernels that began and that returned.
    right
        None until something was compared.
    """

    def __init__(self) -> None:
        self.launches = 0
        self.returned = 0
        self.right: bool | None = None
        self.ratio: float | None = None
        self.problem = ""

    @property
    def complete(self) -> bool:
        """Whether at least one kernel was launched, and all that were have returned."""
        return self.launches > 0 and self.launches == self.returned

    def compare(self, name: str, found: object, expected: Array, rtol: float, atol: float) -> None:
        """Compare one result with the vendor's rule: the range of `expected` scales `rtol`."""
        array = np.asarray(found)
        if array.shape != expected.shape:
            self.fail(f"{name}: shape {array.shape}, the reference has {expected.shape}")
            return
        ratio = error_ratio(array, expected, rtol, atol)
        self.ratio = ratio if self.ratio is None else max(self.ratio, ratio)
        if not ratio <= 1:
            self.fail(f"{name}: largest error is {ratio:.3g} times its allowance")
        elif self.right is None:
            self.right = True

    def fail(self, problem: str) -> None:
        """Note a wrong result; the first one is kept."""
        self.right = False
        self.problem = self.problem or problem


def error_ratio(found: Array, expected: Array, rtol: float, atol: float) -> float:
    """``max |found - expected| / (atol + rtol * max |expected|)``; infinities must agree."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite):
        return float("inf")
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    largest = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    allowance = atol + rtol * float(np.abs(b[finite]).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    return largest / allowance if allowance else float("inf")
