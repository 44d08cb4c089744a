"""Convolutions for NeuronCores: NumPy arrays or CPU torch tensors in, the same out.

`conv2d` runs a kernel through `nkiconv.simulate.simulate_kernel`; `pack_weights` brings weights to
the kernels' layout once, so that a layer that is called often need not do it again.
"""

from __future__ import annotations

# First of all: importing the simulator makes ``import nki`` work where no real NKI is installed,
# and the kernel files say ``import nki``.
from nkiconv.simulate import simulate_kernel as _simulate_kernel  # noqa: F401

# isort: split
from nkiconv.kernels._weights import PackedWeights, pack_weights
from nkiconv.kernels.conv2d import conv2d
from nkiconv.kernels.matmul import PackedMatrix, matmul, pack_matrix

__all__ = ["PackedMatrix", "PackedWeights", "conv2d", "matmul", "pack_matrix", "pack_weights"]
