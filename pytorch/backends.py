"""What a convolution runs on: the simulator, PyTorch, or a NeuronCore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from nkiconv.simulate import ConstraintError

BACKENDS = ("simulator", "torch", "neuron")

NEURON_DEVICES = ("xla", "neuron")
"""Device types of torch-xla and of the native back end (vendor's PyTorch guides, read 2026-11)."""

_chosen: ContextVar[str | None] = ContextVar("nkiconv_backend", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run convolutions that name no backend themselves on this one, as long as it lasts.

    A compiled model asks when it runs, not when it is compiled.

    Raises
    ------
    ConstraintError
        `name` is none of `BACKENDS`.
    """
    check_backend(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def backend_for(where: Tensor | torch.device | str, backend: str | None = None) -> str:
    """Return what a convolution of tensors that live there runs on.

    Parameters
    ----------
    where
        A tensor or a device.
    backend
        As `conv2d`'s argument; None asks `use_backend`, and without one the device decides:
        "simulator" on the CPU, "neuron" on a NeuronCore.

    Raises
    ------
    ConstraintError
        An unknown backend, or one that does not take tensors of this device.
    """
    kind = (where.device if isinstance(where, Tensor) else torch.device(where)).type
    check_backend(backend)
    name = backend or _chosen.get()
    on_neuron = kind in NEURON_DEVICES
    if name is None:
        name = "neuron" if on_neuron else "simulator"
    if name == "simulator" and kind != "cpu":
        raise ConstraintError(
            f'conv2d: the tensors are on {kind}; backend "simulator" takes CPU tensors, "neuron" '
            f'those on {" or ".join(NEURON_DEVICES)}, "torch" all (nkiconv.pytorch.BACKENDS)'
        )
    if name == "neuron" and not on_neuron:
        raise ConstraintError(
            f'conv2d: the tensors are on {kind}; backend "neuron" takes those on '
            f"{' or '.join(NEURON_DEVICES)} (nkiconv.pytorch.BACKENDS)"
        )
    return name


def check_backend(name: str | None) -> None:
    """Refuse an unknown name.

    Raises
    ------
    ConstraintError
    """
    if name is not None and name not in BACKENDS:
        known = ", ".join(f'"{each}"' for each in BACKENDS)
        raise ConstraintError(
            f"conv2d: backend is {name!r}; it must be None or one of {known} "
            "(nkiconv.pytorch.BACKENDS)"
        )
