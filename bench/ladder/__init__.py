"""From the naive conv2d to the library's, a fault at a time: what docs/kernels/conv2d.md shows."""

from __future__ import annotations

import nkiconv.simulate  # noqa: F401  makes `import nki` of the steps work where no real one is
