"""Names of the activations, and the scalar engine's function for each."""

from __future__ import annotations

from typing import Any

import nki.language as nl

ACTIVATIONS = (
    None,
    "relu",
    "relu6",
    "leaky_relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "hardswish",
    "sigmoid",
    "tanh",
)

LEAKY_SLOPE = 0.01  # of "leaky_relu" without a slope of its own, as in PyTorch

IN_ONE_STEP = (None, "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")
"""Those that ScalarE has a function for; the others take more instructions."""


def activation_op(name: str | None) -> Any:  # whatever the NKI in use has for functions
    """Return the `op` of nisa.activation; called inside kernels, so plain comparisons only.

    For what takes more than one step this is the function of the first: relu6 begins as relu.
    """
    op = nl.copy
    if name == "relu" or name == "relu6":
        op = nl.relu
    elif name == "gelu":
        op = nl.gelu
    elif name == "gelu_tanh":
        op = nl.gelu_apprx_tanh
    elif name == "silu":
        op = nl.silu
    elif name == "sigmoid":
        op = nl.sigmoid
    elif name == "tanh":
        op = nl.tanh
    return op
