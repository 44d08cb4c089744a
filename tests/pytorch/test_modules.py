"""Conv2d the layer: nn.Conv2d's state dict and manners, packed weights, folded BatchNorms."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nkiconv.pytorch import Conv2d, _packed, modules, replace_convs, use_backend  # noqa: E402
from nkiconv.simulate import ConstraintError  # noqa: E402

nn, F = torch.nn, torch.nn.functional


def integers(*shape: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).float()


def pair(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Return ours and PyTorch's, with the same small integers for weights."""
    ours, theirs = Conv2d(*args, **kwargs), nn.Conv2d(*args, **kwargs)
    with torch.no_grad():
        for i, values in enumerate(theirs.parameters()):
            values.copy_(integers(*values.shape, seed=i))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((2, 3, 3), {}),
        ((4, 6, (3, 2)), {"stride": (2, 1), "padding": (0, 1), "dilation": 2, "groups": 2}),
        ((2, 3, 2), {"padding": "same", "bias": False}),
        ((2, 3, 3), {"padding": 1, "padding_mode": "reflect"}),
        ((2, 3, 2), {"padding": "same", "padding_mode": "circular"}),
        ((2, 3, 3), {"padding": (2, 1), "padding_mode": "replicate"}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_is_a_drop_in(args: Any, kwargs: Any) -> None:
    ours, theirs = pair(*args, **kwargs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = integers(2, args[0], 9, 8)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours(x[0]), theirs(x[0]))
    assert isinstance(ours, nn.Conv2d)


def test_dtypes_devices_and_arguments() -> None:
    ours, theirs = pair(2, 3, 3)
    x = integers(1, 2, 5, 5)
    assert torch.equal(ours.bfloat16()(x.bfloat16()), theirs.bfloat16()(x.bfloat16()))
    assert Conv2d(2, 3, 3, dtype=torch.float16, device="meta").weight.dtype == torch.float16
    with pytest.raises(ConstraintError, match=r"Conv2d: activation is 'elu'; .*\"relu\""):
        Conv2d(2, 3, 3, activation="elu")
    with pytest.raises(ConstraintError, match=r"backend is 'gpu'"):
        Conv2d(2, 3, 3, backend="gpu")
    with pytest.raises(ValueError, match="divisible by groups"):
        Conv2d(2, 3, 3, groups=2)


def test_activation_residual_and_description() -> None:
    ours, theirs = pair(2, 3, 3)
    ours.activation, ours.backend = "relu", "simulator"
    x, residual = integers(1, 2, 5, 5), integers(1, 3, 3, 3, seed=9)
    assert torch.equal(ours(x, residual), torch.relu(theirs(x) + residual))
    assert "activation=relu, backend=simulator" in repr(ours)


def test_pickling_copying_hooks_and_saving() -> None:
    ours, theirs = pair(2, 3, 3)
    ours.activation = "relu"
    x = integers(1, 2, 5, 5)
    expected = torch.relu(theirs(x))
    assert torch.equal(ours(x), expected)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x), expected)
        assert other.weight is not ours.weight
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)
    seen: list[str] = []
    handles = [
        ours.register_forward_pre_hook(lambda m, args: seen.append("before")),
        ours.register_forward_hook(lambda m, args, y: seen.append("after") or y + 1),
        ours.register_full_backward_hook(lambda m, i, o: seen.append("backward")),
    ]
    y = ours(x.clone().requires_grad_())
    assert torch.equal(y, expected + 1)
    y.sum().backward()
    assert seen == ["before", "after", "backward"]
    for handle in handles:
        handle.remove()
    assert torch.equal(ours(x), expected)


# --- Packed weights -------------------------------------------------------------------------------


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the shapes of the weights that are packed from now on."""
    packed: list[Any] = []
    pack = _packed.pack_weights

    def counting(w: Any, groups: int) -> Any:
        packed.append(tuple(w.shape))
        return pack(w, groups)

    monkeypatch.setattr(_packed, "pack_weights", counting)
    return packed


def test_weights_are_packed_once(packs: list[Any]) -> None:
    ours, _ = pair(2, 3, 3)
    for x in (integers(1, 2, 5, 5), integers(2, 2, 9, 6)):
        ours(x)
        with torch.no_grad():
            ours(x)
        with use_backend("torch"):
            ours(x)
    assert packs == [(3, 2, 3, 3)]


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.data.mul_(2),  # not seen by the version counter
        lambda layer: layer.weight.detach().numpy().__imul__(2),  # nor is this
        lambda layer: torch.no_grad()(layer.weight.mul_)(2),
        lambda layer: setattr(layer, "weight", nn.Parameter(2 * layer.weight.detach())),
        lambda layer: setattr(layer.weight, "data", 2 * layer.weight.detach()),
        lambda layer: layer.load_state_dict({"weight": 2 * layer.weight, "bias": layer.bias}),
    ],
)
def test_weights_are_packed_again_when_they_change(packs: list[Any], change: Any) -> None:
    ours, theirs = pair(2, 3, 3)
    x = integers(1, 2, 5, 5)
    assert torch.equal(ours(x), theirs(x))
    change(ours)
    theirs.weight.data.mul_(2)
    assert torch.equal(ours(x), theirs(x))
    assert len(packs) == 2


def test_one_step_of_an_optimizer() -> None:
    ours, theirs = pair(2, 3, 3)
    x = integers(1, 2, 5, 5)
    for layer in (ours, theirs):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        layer(x).sum().backward()
        optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours(x), theirs(x))


def test_packed_weights_go_with_the_layer() -> None:
    gc.collect()
    before = len(_packed._weights._kept)
    ours, _ = pair(2, 3, 3)
    ours(integers(1, 2, 5, 5))
    assert len(_packed._weights._kept) == before + 1
    del ours
    gc.collect()
    assert len(_packed._weights._kept) == before


# --- BatchNorm ------------------------------------------------------------------------------------


def normed(**kwargs: Any) -> Any:
    """A layer, a BatchNorm and ReLU; numbers whose folding is exact in float32."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, eps=0.0, **kwargs), nn.ReLU())
    with torch.no_grad():
        for i, values in enumerate(model[0].parameters()):
            values.copy_(integers(*values.shape, seed=i))
        model[1].running_mean.copy_(torch.tensor([1.0, -2.0, 3.0]))
        model[1].running_var.copy_(torch.tensor([0.25, 1.0, 4.0]))
        if model[1].affine:
            model[1].weight.copy_(torch.tensor([2.0, -1.0, 0.5]))
            model[1].bias.copy_(torch.tensor([1.0, 0.5, -4.0]))
    return model.eval()


@pytest.mark.parametrize("affine", [True, False])
def test_folding_is_what_the_batchnorm_did(affine: bool) -> None:
    model, x = normed(affine=affine), integers(1, 2, 5, 5)
    expected, keys = model(x), list(model.state_dict())
    replace_convs(model)
    assert torch.equal(model[0](x), expected)  # the layer does all of it
    assert torch.equal(model(x), expected)
    assert list(model.state_dict()) == keys


def test_low_precision_weights_are_not_rounded_again() -> None:
    model, x = normed().bfloat16(), integers(1, 2, 5, 5).bfloat16()
    model[1].weight.data.mul_(1 + 2**-7)  # an odd factor: w times it needs more bits
    with torch.no_grad():
        z = F.conv2d(x.float(), model[0].weight.float(), model[0].bias.float())
        expected = model.float()[1:](z).bfloat16()
        replace_convs(model.bfloat16())
        assert torch.equal(model(x), expected)
        weight, bias, scale, _ = model[0].operands()
    assert weight is model[0].weight
    assert bias.dtype == scale.dtype == torch.float32


@pytest.mark.parametrize("source", ["0.weight", "0.bias", "1.running_mean", "1.bias", "1.weight"])
def test_folded_weights_follow_what_they_are_made_of(source: str) -> None:
    model, plain, x = normed(), normed(), integers(1, 2, 5, 5)
    replace_convs(model)
    with torch.no_grad():
        before = model(x)
        kept = modules._kept[model[0]][1]
        model(x)
        assert modules._kept[model[0]][1] is kept
        for each in (model, plain):
            each.state_dict()[source].mul_(-2)  # detached: not seen by a parameter's identity
        assert torch.equal(model(x), plain(x))
        assert not torch.equal(model(x), before)


def test_training_goes_on_as_before_and_eval_folds_again() -> None:
    model, plain, x = normed(), normed(), integers(2, 2, 5, 5)
    replace_convs(model)
    for each in (model, plain):
        each.train()
        each[1].eps = 1e-5  # PyTorch refuses 0 in training
        optimizer = torch.optim.SGD(each.parameters(), lr=0.5)
        each(x).sum().backward()
        optimizer.step()
    assert torch.equal(model[1].running_var, plain[1].running_var)
    assert int(model[1].num_batches_tracked) == 1
    assert torch.equal(model[0].weight.grad, plain[0].weight.grad)
    model.eval()
    assert torch.equal(model[0](x), model(x))


def test_gradients_pass_through_the_folding() -> None:
    model, plain, x = normed(), normed(), integers(1, 2, 5, 5)
    replace_convs(model)
    for each in (model, plain):
        each(x).sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_a_folded_model_is_copied_and_pickled_as_a_whole() -> None:
    model, x = normed(), integers(1, 2, 5, 5)
    expected = model(x)
    replace_convs(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
        assert other[0].fusion is other[1].fusion is other[2].fusion
        assert other[0].fusion.batchnorm is other[1]
        other.train()
        assert model[0].fusion.active


def test_a_folded_model_compiles_and_exports() -> None:
    model, x = normed(), integers(1, 2, 5, 5)
    expected = model(x)
    replace_convs(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    program = torch.export.export(model, (x,))
    called = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert called.count("nkiconv.conv2d.default") == 1
    assert not [name for name in called if "batch_norm" in name or "relu" in name]
    assert torch.equal(program.module()(x), expected)
    torch._dynamo.reset()


def test_statistics_that_are_gone() -> None:
    model, x = normed(), integers(1, 2, 5, 5)
    replace_convs(model)
    model[1].running_mean = None
    with pytest.raises(ConstraintError, match=r"BatchNorm keeps no running statistics"):
        model(x)
