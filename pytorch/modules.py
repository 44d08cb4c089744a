"""Conv2d: an `nn.Conv2d` whose forward pass is `nkiconv.pytorch.conv2d`.

A layer may have a BatchNorm and an activation behind it that it does itself (`Fusion`).  The model
keeps its modules, parameters and state dict: the weights that have the BatchNorm in them are made
when they are needed, and again when the layer's weights or the BatchNorm have changed.  The modules
behind it then hand on what they get.  While the BatchNorm is in training mode everything is as
before: the layer convolves, and the modules behind it do their own work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nkiconv.kernels import _arguments
from nkiconv.kernels._arguments import Activation
from nkiconv.pytorch._packed import Snapshot
from nkiconv.pytorch.backends import check_backend
from nkiconv.pytorch.functional import IntOrPair, conv2d
from nkiconv.simulate import ConstraintError


class LayerOperands(NamedTuple):
    """What a layer's next pass takes beside its input."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    activation: Activation


@dataclass(eq=False)
class Fusion:
    """What a layer does for the modules behind it.

    `between` are dropouts on the way to the activation, which do nothing in eval mode.
    """

    batchnorm: nn.BatchNorm2d | None
    activation: Activation
    between: tuple[nn.Dropout | nn.Dropout2d, ...] = ()

    @property
    def active(self) -> bool:
        """Whether the layer does it now: not while a BatchNorm or a dropout is in training mode."""
        if self.batchnorm is not None and self.batchnorm.training:
            return False
        return not any(module.training and module.p > 0 for module in self.between)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` on the kernels: the same arguments, parameters, state dict and hooks.

    Parameters
    ----------
    activation
        Done in the same pass; as in `nkiconv.kernels.conv2d`.
    backend
        As in `nkiconv.pytorch.conv2d`.

    Raises
    ------
    ConstraintError
        An unknown activation or backend.  What `nn.Conv2d` refuses raises as there.
    """

    # class attributes: a layer that `replace_convs` took has them from here
    activation: Activation = None
    backend: str | None = None
    fusion: Fusion | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair | str = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: Activation = None,
        backend: str | None = None,
    ) -> None:
        check_backend(backend)
        _arguments.activation("Conv2d", activation)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,  # type: ignore[arg-type]  # torch says tuple, and takes lists
            stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            dilation,  # type: ignore[arg-type]
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]  # torch checks the word itself
            device,
            dtype,
        )
        self.activation = activation
        self.backend = backend

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return act(conv(input) + bias + residual)."""
        weight, bias, scale, activation = self.operands()
        return conv2d(
            input,
            weight,
            bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            activation=activation,
            residual=residual,
            scale=scale,
            padding_mode=self.padding_mode,
            backend=self.backend,
        )

    def operands(self) -> LayerOperands:
        """Return weight, bias, scale and activation of the next pass, with what is fused in."""
        fusion = self.fusion
        if fusion is None or not fusion.active:
            return LayerOperands(self.weight, self.bias, None, self.activation)
        if fusion.batchnorm is None:
            return LayerOperands(self.weight, self.bias, None, fusion.activation)
        weight, bias, scale = _folded(self, fusion.batchnorm)
        return LayerOperands(weight, bias, scale, fusion.activation)

    def extra_repr(self) -> str:
        """Return nn.Conv2d's, and what the layer does besides."""
        parts = [super().extra_repr()]  # type: ignore[no-untyped-call]  # torch's
        if self.fusion is not None and self.fusion.batchnorm is not None:
            parts.append("batchnorm folded in eval mode")
        name = self.activation if self.fusion is None else self.fusion.activation
        parts += [f"activation={name}"] if name is not None else []
        parts += [f"backend={self.backend}"] if self.backend is not None else []
        return ", ".join(parts)


# --- BatchNorm ------------------------------------------------------------------------------------

Folded = tuple[Tensor, Tensor, Tensor | None]

_kept: WeakKeyDictionary[nn.Module, tuple[Snapshot, Folded]] = WeakKeyDictionary()


def fold(weight: Tensor, bias: Tensor | None, batchnorm: nn.BatchNorm2d) -> Folded:
    """Return weight, bias and scale of conv2d followed by a BatchNorm in eval mode.

    s = gamma / sqrt(var + eps) is multiplied into a float32 weight, rounded once.  A float16 or
    bfloat16 weight stays as it is, so that nothing is rounded to fewer bits, and s becomes the
    kernel's scale.  The bias is (b - mean)*s + beta, in float32.
    """
    mean, var = batchnorm.running_mean, batchnorm.running_var
    if mean is None or var is None:
        raise ConstraintError(
            "Conv2d: the BatchNorm keeps no running statistics, so it cannot be folded "
            "(track_running_stats of torch.nn.BatchNorm2d)"
        )
    # a NeuronCore has no float64
    wide = torch.float64 if weight.device.type == "cpu" else torch.float32
    scale = torch.rsqrt(var.to(wide) + batchnorm.eps)
    if batchnorm.weight is not None:
        scale = scale * batchnorm.weight.to(wide)
    shift = -mean.to(wide) if bias is None else bias.to(wide) - mean.to(wide)
    shift = shift * scale
    if batchnorm.bias is not None:
        shift = shift + batchnorm.bias.to(wide)
    if weight.dtype in (torch.float16, torch.bfloat16):
        return weight, shift.float(), scale.float()
    folded = weight.to(wide) * scale[:, None, None, None]
    return folded.to(weight.dtype), shift.to(weight.dtype), None


def _folded(layer: Conv2d, batchnorm: nn.BatchNorm2d) -> Folded:
    """Return `fold` of a layer, kept while nothing that goes in changes.

    Made anew whenever it has to be part of a graph: for gradients, or while one is recorded.
    """
    sources = (
        layer.weight,
        layer.bias,
        batchnorm.running_mean,
        batchnorm.running_var,
        batchnorm.weight,
        batchnorm.bias,
    )
    plain = all(source is None or type(source) in (Tensor, nn.Parameter) for source in sources)
    differentiable = torch.is_grad_enabled() and any(
        source is not None and source.requires_grad for source in sources
    )
    if torch.compiler.is_compiling() or not plain or differentiable:
        return fold(layer.weight, layer.bias, batchnorm)
    kept = _kept.get(layer)
    if kept is None or not kept[0].holds(sources):
        kept = (Snapshot(sources), fold(layer.weight, layer.bias, batchnorm))
        _kept[layer] = kept
    return kept[1]


# --- Modules that a layer works for ---------------------------------------------------------------


class _HandsOn(nn.Module):
    """A module whose work a `Conv2d` does while the fusion is active."""

    fusion: Fusion

    def forward(self, input: Tensor) -> Tensor:
        """Return the input, or do the work."""
        return input if self.fusion.active else super().forward(input)


class FusedBatchNorm2d(_HandsOn, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that a `Conv2d` does in eval mode."""


class FusedReLU(_HandsOn, nn.ReLU):
    """`nn.ReLU` that a `Conv2d` does."""


class FusedReLU6(_HandsOn, nn.ReLU6):
    """`nn.ReLU6` that a `Conv2d` does."""


class FusedLeakyReLU(_HandsOn, nn.LeakyReLU):
    """`nn.LeakyReLU` that a `Conv2d` does."""


class FusedHardswish(_HandsOn, nn.Hardswish):
    """`nn.Hardswish` that a `Conv2d` does."""


class FusedGELU(_HandsOn, nn.GELU):
    """`nn.GELU` that a `Conv2d` does."""


class FusedSiLU(_HandsOn, nn.SiLU):
    """`nn.SiLU` that a `Conv2d` does."""


class FusedSigmoid(_HandsOn, nn.Sigmoid):
    """`nn.Sigmoid` that a `Conv2d` does."""


class FusedTanh(_HandsOn, nn.Tanh):
    """`nn.Tanh` that a `Conv2d` does."""


FUSED: dict[type[nn.Module], type[_HandsOn]] = {
    nn.BatchNorm2d: FusedBatchNorm2d,
    nn.ReLU: FusedReLU,
    nn.ReLU6: FusedReLU6,
    nn.LeakyReLU: FusedLeakyReLU,
    nn.Hardswish: FusedHardswish,
    nn.GELU: FusedGELU,
    nn.SiLU: FusedSiLU,
    nn.Sigmoid: FusedSigmoid,
    nn.Tanh: FusedTanh,
}
