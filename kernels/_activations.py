"""Names of the activations, and the scalar engine's function for each."""

from __future__ import annotations

from typing import Any

import nki.language as nl

ACTIVATIONS = (None, "relu", "gelu", "silu", "sigmoid", "tanh")


def activation_op(name: str | None) -> Any:  # whatever the NKI in use has for functions
    """Return the `op` of nisa.activation; called inside kernels, so plain comparisons only."""
    op = nl.copy
    if name == "relu":
        op = nl.relu
    elif name == "gelu":
        op = nl.gelu
    elif name == "silu":
        op = nl.silu
    elif name == "sigmoid":
        op = nl.sigmoid
    elif name == "tanh":
        op = nl.tanh
    return op
