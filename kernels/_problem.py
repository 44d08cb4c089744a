"""The problem that an algorithm plans, and the refusal of one that it cannot do."""

from __future__ import annotations

from dataclasses import dataclass

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Geometry


class NotSuited(Exception):
    """An algorithm cannot do a problem; the message is the reason, without a full stop."""


class TooLong(NotSuited):
    """Its program would have too many instructions, with on-chip loops too."""


@dataclass(frozen=True)
class Problem:
    """A checked convolution and what follows it.

    Parameters
    ----------
    padding_mode
        "zeros", "reflect", "replicate" or "circular": what lies outside the image.
    precision
        Of float32: "exact", or "fast": x and w rounded to bfloat16 on their way to SBUF (a transfer
        casts), products summed in float32, so one pass of TensorE instead of four.  Not by
        ``.view(nl.tfloat32)``: nki 0.6.0 with neuronx-cc 2.27 is reported not to compile matmuls
        of tfloat32 operands, although the vendor's page lists them.
    layout
        "NCHW", or "NHWC" of x, residual and y.
    """

    geometry: Geometry
    epilogue: Epilogue
    dtype: str
    padding_mode: str = "zeros"
    precision: str = "exact"
    layout: str = "NCHW"
