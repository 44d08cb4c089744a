"""Settings that have to stand before NumPy is imported."""

from __future__ import annotations

import os

# The simulator's matmuls are small: several BLAS threads gain little on an idle machine, and on a
# busy one they wait for each other, tens of times longer than the product takes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings

# `pytest --hypothesis-profile nightly`: thousands of random problems instead of hundreds
settings.register_profile("nightly", max_examples=3000, deadline=None)
