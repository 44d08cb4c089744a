"""What each operation means, in float64 NumPy: the results that every kernel is compared with.

`conv2d` and `matmul` have the signatures of the kernels' functions of these names.  `bounds` says
how far a kernel's result may be away, `cases` lists the problems it is tried on.
"""

from __future__ import annotations

from nkiconv.reference.conv2d import conv2d, conv2d_float64
from nkiconv.reference.matmul import matmul, matmul_float64

__all__ = ["conv2d", "conv2d_float64", "matmul", "matmul_float64"]
