"""Models of other libraries on the kernels, compared with PyTorch, and timed layer by layer.

Nothing is downloaded: a model has its library's architecture and weights from a fixed seed, its
BatchNorms statistics from the same seed.

Three results are compared, with r the model in float64 by PyTorch, as it came from its library:

    ours    convolutions by the kernels, the rest by PyTorch
    theirs  all by PyTorch, in the same dtype

1. Each call of a layer by itself: |y - conv(x)| <= allowance, element by element, with the x that
   the layer got and the allowance of `nkiconv.reference.bounds`.
2. The model: rms(ours - r) <= D + rms(theirs - r).

D is what errors within the allowances make of the result.  The model as it came from its library
runs in float64 once more, each output of each layer moved by its whole allowance, up or down at
random, and each weight and bias that a BatchNorm was folded into by the rounding which that cost.
To first order the errors of a result are sums over the layers' errors, so that D bounds what the
kernels contribute, and the last term what the other operations do, which run in the same dtype in
both models.  Averages over the result (rms) are compared, because the direction of a single error
is a matter of chance.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nkiconv.kernels import _arguments
from nkiconv.pytorch._activations import activate
from nkiconv.pytorch.modules import Conv2d, LayerOperands
from nkiconv.pytorch.profiling import ModelProfile, profile_model
from nkiconv.pytorch.rewrite import Layer, Report, replace_convs
from nkiconv.reference import bounds
from nkiconv.reference.bounds import U32
from nkiconv.simulate import ConstraintError
from nkiconv.simulate.arrays import as_numpy

SEED = 0


class _Logits(nn.Module):
    """A classifier of transformers whose result is the tensor of class scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        scores: Tensor = self.model(pixel_values).logits
        return scores


def _resnet(library: Any, **settings: Any) -> nn.Module:
    config = library.ResNetConfig(num_labels=1000, **settings)
    return _Logits(library.ResNetForImageClassification(config))


def _resnet18(library: Any) -> nn.Module:
    return _resnet(
        library, layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512]
    )


def _convnext_tiny(library: Any) -> nn.Module:
    # an untrained model scales its blocks by 1e-6: nothing of their convolutions would be seen
    config = library.ConvNextConfig(num_labels=1000, layer_scale_init_value=1.0)
    return _Logits(library.ConvNextForImageClassification(config))


def _unet(library: Any) -> nn.Module:
    unet: nn.Module = library.BasicUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=2,
        act="relu",
        norm="batch",
        upsample="nontrainable",  # interpolation and a convolution, not a transposed one
    )
    return unet


_MAKERS: dict[str, tuple[str, str, Callable[[Any], nn.Module]]] = {
    "resnet18": ("transformers", "transformers", _resnet18),
    "resnet50": ("transformers", "transformers", _resnet),
    "convnext-tiny": ("transformers", "transformers", _convnext_tiny),
    "unet": ("monai", "monai.networks.nets", _unet),
}

MODELS = tuple(_MAKERS)


@dataclass(frozen=True)
class Built:
    """A model in eval mode, and the library that it comes from."""

    name: str
    library: str
    module: nn.Module


def build(name: str, dtype: torch.dtype = torch.float32) -> Built:
    """Return a library's model with weights from a fixed seed.

    Raises
    ------
    ConstraintError
        No model of `MODELS`, or its library is not installed.
    """
    if name not in _MAKERS:
        raise ConstraintError(f"no model {name!r}; there are: {', '.join(MODELS)}")
    package, module, make = _MAKERS[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' own, about what is deprecated in them
            library = importlib.import_module(module)
    except ImportError as error:
        raise ConstraintError(
            f"model {name} is built by {package}, which does not import: {error}; "
            "pip install 'nkiconv[models]'"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = make(library)
        _fill_batchnorms(model)
    model = model.eval().to(dtype)
    return Built(name, f"{package} {metadata.version(package)}", model)


def _fill_batchnorms(model: nn.Module) -> None:
    """Give BatchNorms statistics as after training: fresh ones do nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                if values is not None:
                    nn.init.normal_(values, std=0.1)
            for values in (module.running_var, module.weight):
                if values is not None:
                    nn.init.uniform_(values, 0.5, 1.5)


def make_images(size: int, batch: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return images (N, 3, size, size) from a fixed seed, of mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(batch, 3, size, size, generator=generator).to(dtype)


@dataclass(frozen=True)
class Check:
    """A rewritten model against PyTorch.

    Attributes
    ----------
    layer_error, worst_layer
        Largest error of a layer as a share of its allowance, and where.
    error
        rms(ours - r).
    torch_error
        rms(theirs - r).
    allowed
        D + rms(theirs - r).
    scale
        rms(r).
    """

    report: Report
    profile: ModelProfile
    layer_error: float
    worst_layer: str
    error: float
    torch_error: float
    allowed: float
    scale: float

    @property
    def passed(self) -> bool:
        """Whether every layer and the result are within their bounds."""
        return self.layer_error <= 1 and self.error <= self.allowed

    def to_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON."""
        return {
            "passed": self.passed,
            "layer_error": self.layer_error,
            "worst_layer": self.worst_layer,
            "error": self.error,
            "torch_error": self.torch_error,
            "allowed": self.allowed,
            "scale": self.scale,
            "replaced": self.report.to_dict(),
            "profile": self.profile.to_dict(),
        }


def check_model(
    model: nn.Module,
    images: Tensor,
    *,
    target: str | None = None,
    progress: Callable[[str], None] | None = None,
    **replace: Any,
) -> Check:
    """Rewrite a model in place, run it through the simulator, compare with PyTorch.

    Parameters
    ----------
    model
        In eval mode; called with `images`, it returns a tensor.
    target, progress
        As in `profile_model`.
    **replace
        Further arguments of `replace_convs`.

    Raises
    ------
    ConstraintError
        The model is in training mode, or what `replace_convs` raises.
    """
    if model.training:
        raise ConstraintError("check_model: the model is in training mode; model.eval() first")
    with torch.no_grad():
        wide = copy.deepcopy(model).double()
        reference = wide(images.double())
        theirs = model(images)
        report = replace_convs(model, **replace)
        calls: list[_Call] = []
        ours, profile = profile_model(
            model,
            images,
            target=target,
            progress=progress,
            observe=lambda name, layer, x, y: calls.append(
                _Call(name, layer, x.clone(), y.clone())
            ),
        )
        ratios = [_error_ratio(call) for call in calls]
        moved = _moved(wide, model, report, images)
    worst = ratios.index(max(ratios))
    torch_error = _rms(theirs - reference)
    return Check(
        report=report,
        profile=profile,
        layer_error=ratios[worst],
        worst_layer=calls[worst].name,
        error=_rms(ours - reference),
        torch_error=torch_error,
        allowed=_rms(moved - reference) + torch_error,
        scale=_rms(reference),
    )


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


@dataclass(frozen=True)
class _Call:
    """What went into a layer and came out; copies, since what follows may work in place."""

    name: str
    layer: Conv2d
    x: Tensor
    y: Tensor


def _error_ratio(call: _Call) -> float:
    """Return the largest error of a layer's call as a share of its allowance."""
    r, magnitude = _wide(call.layer, call.x.double(), call.layer.operands())
    y = as_numpy(call.y.contiguous())
    return bounds.max_error_ratio(
        y,
        r.numpy(),
        magnitude.numpy(),
        _terms(call.layer),
        y.dtype,
        activation=call.layer.operands().activation,
    )


def _terms(layer: Conv2d) -> int:
    KH, KW = layer.kernel_size
    return KH * KW * layer.in_channels // layer.groups


def _wide(layer: Conv2d, x: Tensor, operands: LayerOperands) -> tuple[Tensor, Tensor]:
    """Return a layer's result in float64 by PyTorch, and the magnitude of its sums."""
    padding: Any = layer.padding
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = 0
    w = operands.weight.double()
    b, s = (None if t is None else t.double() for t in (operands.bias, operands.scale))
    geometry = (layer.stride, padding, layer.dilation, layer.groups)
    z, magnitude = F.conv2d(x, w, None, *geometry), F.conv2d(x.abs(), w.abs(), None, *geometry)
    if s is not None:
        z, magnitude = z * s[:, None, None], magnitude * s.abs()[:, None, None]
    if b is not None:
        z, magnitude = z + b[:, None, None], magnitude + b.abs()[:, None, None]
    name, slope = _arguments.activation("check_model", operands.activation)
    return activate(name, slope, z), magnitude


def _moved(wide: nn.Module, model: nn.Module, report: Report, images: Tensor) -> Tensor:
    """Return the result of the model in float64 where all is moved by what may be wrong with it.

    `wide` is the model as it came from its library, so that a fault of the rewriting does not hide
    in its own bound; `model`, rewritten, says how large the moves are.
    """
    plain, ours = dict(wide.named_modules()), dict(model.named_modules())
    generator = np.random.default_rng(SEED)
    dtype = as_numpy(images).dtype

    def signs(*shape: int) -> Tensor:
        return torch.from_numpy(generator.choice((-1.0, 1.0), size=shape))

    def move(taken: Layer) -> None:
        conv: Any = plain[taken.name]
        layer: Any = ours[taken.name]
        operands = layer.operands()
        allowed: list[Tensor] = []

        def measure(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            y, magnitude = _wide(layer, inputs[0], operands)
            allowance = bounds.allowance(
                y.numpy(),
                magnitude.numpy(),
                _terms(layer),
                dtype,
                activation=operands.activation,
            )
            allowed.append(torch.from_numpy(allowance))

        def shift(_: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> Tensor:
            rounded: Tensor = U32 * operands.bias.double().abs()
            moved: Tensor = y + (signs(*rounded.shape) * rounded)[:, None, None]
            return moved

        def shake(_: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> Tensor:
            return y + signs(*y.shape) * allowed.pop()

        conv.register_forward_hook(measure)
        if taken.batchnorm:  # the folded weight, or the scale, and the bias were rounded
            conv.weight.mul_(1 + U32 * signs(*conv.weight.shape))
            plain[taken.batchnorm].register_forward_hook(shift)
        plain[taken.activation or taken.batchnorm or taken.name].register_forward_hook(shake)

    for taken in report.taken:
        move(taken)
    result: Tensor = wide(images.double())
    return result
