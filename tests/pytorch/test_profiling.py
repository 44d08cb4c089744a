"""profile_model: times of layers that add up, and the rest by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nkiconv.kernels import conv2d  # noqa: E402
from nkiconv.pytorch import profile_model, replace_convs, use_backend  # noqa: E402
from nkiconv.simulate import ConstraintError, profile, use_target  # noqa: E402

nn = torch.nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.stem(x))
        x = x + self.twice(self.twice(x))
        return self.head(x.mean((2, 3)))


def test_layers_add_up_and_the_rest_is_named() -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(1, 3, 9, 8)
    replace_convs(model)
    names: list[str] = []
    y, seen = profile_model(model, x, target="trn2", progress=names.append)
    with use_target("trn2"):  # another target may add in another order
        assert torch.equal(y, model(x))
    assert not y.requires_grad
    assert names == [layer.name for layer in seen.layers] == ["stem", "twice", "twice"]
    alone = profile(
        conv2d, x, model.stem.weight.detach(), model.stem.bias.detach(), stride=2, padding=1,
        target="trn2",
    )[1]  # fmt: skip
    assert seen.target == "trn2"
    assert seen.layers[0].modelled_us == alone.latency_us
    assert seen.layers[0].sizes == "3x3 s2 3>8 9x8"
    assert seen.layers[1].sizes == "3x3 s1 g2 8>8 5x4"
    assert seen.modelled_us == sum(layer.modelled_us for layer in seen.layers)
    assert seen.not_modelled == {"add": 1, "addmm": 1, "mean": 1, "relu": 1}
    assert seen.other_flops == 2 * 8 * 5
    assert seen.conv_flops == 2 * (8 * 3 * 9 * 20 + 2 * 8 * 4 * 9 * 20)
    lines = str(seen).splitlines()
    assert lines[-5].split() == ["sum", "3", "calls", f"{seen.modelled_us:.1f}"]
    assert lines[-2] == "Not modelled, so not in the sum: add 1, addmm 1, mean 1, relu 1."
    content = json.loads(json.dumps(seen.to_dict()))
    assert [layer["modelled_us"] for layer in content["layers"]] == [
        layer.modelled_us for layer in seen.layers
    ]


def test_the_model_is_left_as_it_was() -> None:
    model, x = Net(), torch.randn(1, 3, 9, 8)
    replace_convs(model)
    before = [set(vars(module)) for module in model.modules()]
    profile_model(model, x)
    with pytest.raises(RuntimeError, match="mat1"):
        profile_model(nn.Sequential(model, nn.Linear(3, 3)), x)
    assert [set(vars(module)) for module in model.modules()] == before


def test_a_model_without_layers_on_the_kernels() -> None:
    model, x = Net(), torch.randn(1, 3, 9, 8)
    with pytest.raises(ConstraintError, match=r"no layer of Net ran in the simulator; replace_"):
        profile_model(model, x)
    replace_convs(model)
    with use_backend("torch"), pytest.raises(ValueError, match="launched no kernel"):
        profile_model(model, x)
