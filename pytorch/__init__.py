"""PyTorch models on the kernels of nkiconv: a function, a layer, and whole models rewritten.

`conv2d` is a custom operator with a gradient, `Conv2d` a layer that takes the state dict of
`nn.Conv2d`, `replace_convs` makes every `nn.Conv2d` of a model one and `restore_convs` undoes it.
CPU tensors go through the simulator, or through PyTorch where that is asked for (`use_backend`);
tensors on a NeuronCore go to the kernel itself.  Needs torch: ``pip install 'nkiconv[torch]'``.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "nkiconv.pytorch needs torch, which is not installed: pip install 'nkiconv[torch]'"
    ) from error

from nkiconv.pytorch.backends import BACKENDS, backend_for, use_backend
from nkiconv.pytorch.functional import conv2d
from nkiconv.pytorch.gradients import Gradients, register_gradients, use_gradients
from nkiconv.pytorch.modules import Conv2d
from nkiconv.pytorch.profiling import LayerTime, ModelProfile, profile_model
from nkiconv.pytorch.rewrite import Layer, Report, replace_convs, restore_convs

__all__ = [
    "BACKENDS",
    "Conv2d",
    "Gradients",
    "Layer",
    "LayerTime",
    "ModelProfile",
    "Report",
    "backend_for",
    "conv2d",
    "profile_model",
    "register_gradients",
    "replace_convs",
    "restore_convs",
    "use_backend",
    "use_gradients",
]
