"""What each operation means, in float64 NumPy: the results that every kernel is compared with.

`conv2d` has the signature of the kernels' function of that name.  `bounds` says how far a kernel's
result may be away, `cases` lists the problems it is tried on.
"""

from __future__ import annotations

from nkiconv.reference.conv2d import conv2d, conv2d_float64

__all__ = ["conv2d", "conv2d_float64"]
