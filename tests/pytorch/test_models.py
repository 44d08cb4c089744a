"""Models of other libraries: every convolution replaced, within the bounds, and faults found."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nkiconv.pytorch import models  # noqa: E402
from nkiconv.pytorch.models import build, check_model, make_images  # noqa: E402
from nkiconv.simulate import ConstraintError  # noqa: E402

nn = torch.nn
HEAVY = [pytest.param("resnet50", marks=pytest.mark.slow),
         pytest.param("convnext-tiny", marks=pytest.mark.slow)]  # fmt: skip
FUSED = {"resnet18": (20, 20, 9), "resnet50": (53, 53, 33), "convnext-tiny": (22, 0, 0),
         "unet": (22, 18, 18)}  # fmt: skip


def needs_library(name: str) -> None:
    pytest.importorskip(models._MAKERS[name][0])


@pytest.mark.parametrize("name", ["resnet18", "unet", *HEAVY])
def test_every_convolution_is_replaced_and_right(name: str) -> None:
    needs_library(name)
    built = build(name)
    convs = sum(isinstance(module, nn.Conv2d) for module in built.module.modules())
    done = check_model(built.module, make_images(64))
    assert not done.report.left
    assert FUSED[name] == (
        convs,
        sum(bool(layer.batchnorm) for layer in done.report.taken),
        sum(bool(layer.activation) for layer in done.report.taken),
    )
    assert len(done.profile.layers) == convs
    assert done.layer_error <= 1
    assert done.error <= done.allowed
    assert done.passed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(dtype: Any) -> None:
    needs_library("unet")
    done = check_model(build("unet", dtype).module, make_images(32, dtype=dtype))
    assert done.passed
    # the last rounding of a layer takes most of what is allowed: the check is not a loose one
    assert done.layer_error > 0.5
    assert done.error > done.allowed / 20


def test_weights_come_from_a_fixed_seed() -> None:
    needs_library("unet")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = build("unet").module.state_dict(), build("unet").module.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first.values(), second.values()))
    assert any(bool(first[key].ne(0).any()) for key in first if key.endswith("running_mean"))


def small() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 4, 3, stride=2)
    ).eval()


@pytest.mark.parametrize("fault", [1 + 2**-8, 1 + 2**-12])
def test_a_wrong_layer_is_named(fault: float, monkeypatch: pytest.MonkeyPatch) -> None:
    functional = importlib.import_module("nkiconv.pytorch.functional")
    right = functional.kernels.conv2d

    def wrong(x: Any, w: Any, *args: Any, **kwargs: Any) -> Any:
        y = right(x, w, *args, **kwargs)
        return y * fault if w.shape[1] == 6 else y

    assert check_model(small(), make_images(12)).passed
    monkeypatch.setattr(functional.kernels, "conv2d", wrong)
    done = check_model(small(), make_images(12))
    assert not done.passed
    assert done.layer_error > 1
    assert done.worst_layer == "3"


def test_a_fault_between_the_layers_shows_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer is right by itself here: the BatchNorm is folded, and applied once more."""
    modules = importlib.import_module("nkiconv.pytorch.modules")
    monkeypatch.setattr(modules.FusedBatchNorm2d, "forward", nn.BatchNorm2d.forward)
    model = small()
    model[1].running_var.fill_(2.0)
    done = check_model(model, make_images(12))
    assert done.layer_error <= 1
    assert done.error > done.allowed
    assert not done.passed


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConstraintError, match=r"no model 'alexnet'; there are: resnet18"):
        build("alexnet")
    with pytest.raises(ConstraintError, match=r"training mode; model.eval\(\) first"):
        check_model(small().train(), make_images(12))
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(ConstraintError, match=r"unet is built by monai.*pip install 'nkiconv\[mod"):
        build("unet")
    with pytest.raises(ConstraintError, match="no convolution"):
        check_model(nn.Sequential(nn.ReLU()).eval(), make_images(12))
