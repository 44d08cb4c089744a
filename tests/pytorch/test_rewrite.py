"""replace_convs and restore_convs: what is taken, what is folded, and that it can be undone."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nkiconv.kernels._activations import ACTIVATIONS  # noqa: E402
from nkiconv.pytorch import Conv2d, Report, replace_convs, restore_convs  # noqa: E402
from nkiconv.pytorch._activations import FUNCTIONS  # noqa: E402
from nkiconv.pytorch.modules import FUSED  # noqa: E402
from nkiconv.simulate import ConstraintError, profile  # noqa: E402

nn, F = torch.nn, torch.nn.functional


def layer(report: Report, name: str) -> Any:
    (found,) = [each for each in report.layers if each.name == name]
    return found


class Block(nn.Module):
    """conv, BatchNorm and one shared ReLU, as in a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


def whole(model: Any) -> Any:
    """Fill a model with small whole numbers, of which every sum is exact; in eval mode."""
    generator = torch.Generator().manual_seed(0)

    def fill(values: Any, least: int, most: int) -> None:
        if values is not None:
            values.copy_(torch.randint(least, most + 1, values.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fill(module.weight, -1, 1)
                fill(module.bias, -3, 3)
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
                fill(module.running_mean, -3, 3)
                fill(module.bias, -3, 3)
                fill(module.weight, -2, 2)
                if module.running_var is not None:
                    module.running_var.copy_(module.weight.square().clamp_min(1))
    return model.eval()


def block() -> Any:
    return whole(Block())


X = torch.randint(-3, 4, (1, 4, 6, 6), generator=torch.Generator().manual_seed(1)).float()


def test_takes_every_conv_and_undoes_it() -> None:
    model = block()
    before, modules, expected = model.state_dict(), list(model.modules()), model(X)
    classes = [type(module) for module in modules]
    variables = [set(vars(module)) for module in modules]
    report = replace_convs(model)
    assert [each.name for each in report.taken] == ["conv1", "conv2"]
    assert not report.left
    assert type(model.conv1) is Conv2d
    assert len(profile(model, X)[1].kernels) == 2
    assert torch.equal(model(X), expected)
    assert restore_convs(model) == 2
    assert list(model.modules()) == modules
    assert [type(module) for module in model.modules()] == classes
    assert [set(vars(module)) for module in model.modules()] == variables
    assert list(model.state_dict()) == list(before)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert torch.equal(model(X), expected)
    assert restore_convs(model) == 0


def test_folds_the_batchnorms_but_not_a_shared_relu() -> None:
    report = replace_convs(block())
    assert [each.batchnorm for each in report.taken] == ["bn1", "bn2"]
    assert [each.activation for each in report.taken] == ["", ""]
    assert layer(report, "conv1").notes == ("relu not fused: it is called on other values too",)


def test_folding_and_fusing_can_be_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    full = replace_convs(copy.deepcopy(model)).taken[0]
    assert (full.batchnorm, full.activation) == ("1", "2")
    half = replace_convs(copy.deepcopy(model), fuse_activation=False).taken[0]
    assert (half.batchnorm, half.activation) == ("1", "")
    # the BatchNorm stays between, so the activation does too
    none = replace_convs(copy.deepcopy(model), fold_batchnorm=False).taken[0]
    assert (none.batchnorm, none.activation) == ("", "")


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.LeakyReLU(0.3), nn.GELU(), nn.GELU("tanh"),
        nn.SiLU(), nn.Hardswish(), nn.Sigmoid(), nn.Tanh(),
    ],
    ids=str,
)  # fmt: skip
def test_activations(activation: Any) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), activation)
    expected = model(X)
    assert replace_convs(model, backend="torch").taken[0].activation == "1"
    assert torch.equal(model(X), expected)
    assert torch.equal(model[0](X), model(X))
    restore_convs(model)
    assert model[1] is activation
    assert torch.equal(model(X), expected)


def test_every_activation_has_a_module() -> None:
    # two kinds of gelu are one module; there is a BatchNorm besides, and no function for leaky_relu
    assert len(FUSED) == len(FUNCTIONS) - 1 + 2
    assert set(FUNCTIONS) | {None, "leaky_relu"} == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", [nn.ELU(), type("MyReLU", (nn.ReLU,), {})()], ids=str)
def test_other_activations_stay(activation: Any) -> None:
    model = whole(nn.Sequential(nn.Conv2d(4, 4, 3), activation))
    expected = model(X)
    assert replace_convs(model).taken[0].activation == ""
    assert torch.equal(model(X), expected)


def test_dropout_on_the_way_hands_on_in_eval_mode_alone() -> None:
    model = whole(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU()))
    plain = copy.deepcopy(model)
    assert replace_convs(model).taken[0].activation == "3"
    assert torch.equal(model(X), plain(X))
    assert torch.equal(model[0](X), model(X))
    for each in (model, plain):
        each.train()[1].eps = 1e-5  # PyTorch refuses 0 in training
    torch.manual_seed(1)
    expected = plain(X)
    torch.manual_seed(1)
    assert torch.equal(model(X), expected)


# --- The order of modules -------------------------------------------------------------------------


class Twice(nn.Module):
    """The convolution's result has two users."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        return self.act(self.bn(y)) + y


class OutOfOrder(Twice):
    """The BatchNorm stands behind the convolution in the class, and before it in the pass."""

    def forward(self, x: Any) -> Any:
        return self.act(self.conv(self.bn(x)))


class Loops(Twice):
    """The convolution is called twice, with another module behind it each time."""

    def forward(self, x: Any) -> Any:
        return self.conv(self.bn(self.conv(x)))


class Flag(Twice):
    """What is behind the convolution depends on an argument."""

    def forward(self, x: Any, plain: Any = False) -> Any:
        y = self.conv(x)
        return y if plain else self.act(self.bn(y))


class Functional(Twice):
    """The activation is a function."""

    def forward(self, x: Any) -> Any:
        return F.relu(self.bn(self.conv(x)))


class Wrapped(nn.Module):
    """Cannot be recorded itself; its children can."""

    def __init__(self, *blocks: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Any) -> Any:
        for each in self.blocks:
            x = each(x) if float(x.detach().mean()) < 1e9 else x
        return x


@pytest.mark.parametrize(
    ("make", "batchnorm", "activation"),
    [(Twice, "", ""), (OutOfOrder, "", "act"), (Loops, "", ""), (Flag, "", ""),
     (Functional, "bn", "")],
)  # fmt: skip
def test_nothing_is_guessed(make: Any, batchnorm: str, activation: str) -> None:
    model = whole(make())
    expected = model(X)
    taken = replace_convs(model).taken[0]
    assert (taken.batchnorm, taken.activation) == (batchnorm, activation)
    assert torch.equal(model(X), expected)
    if make is Functional:
        assert taken.notes == ("relu is called as a function, not a module",)


def test_parts_are_recorded_where_the_whole_cannot_be() -> None:
    sequence = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(4, 4, 1),
            bn=nn.BatchNorm2d(4),
            inner=Wrapped(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)),
            act=nn.ReLU(),
        )
    )
    model = whole(Wrapped(Block(), sequence))
    expected = model(X)
    report = replace_convs(model)
    assert layer(report, "blocks.0.conv1").batchnorm == "blocks.0.bn1"
    assert layer(report, "blocks.1.conv").batchnorm == "blocks.1.bn"
    assert layer(report, "blocks.1.inner.blocks.1").activation == ""
    assert set(report.untraced) == {"", "blocks.1", "blocks.1.inner"}
    assert "torch.fx cannot record the forward pass of Wrapped, blocks.1" in report.table()
    assert torch.equal(model(X), expected)


def test_modules_with_hooks_keep_their_work() -> None:
    for hooked in (0, 1, 2):
        model = whole(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
        model[hooked].register_forward_hook(lambda module, args, y: 2 * y)
        expected = model(X)
        taken = replace_convs(model).taken[0]
        assert (taken.batchnorm, taken.activation) == (("1", "") if hooked == 2 else ("", ""))
        assert "hook" in taken.notes[0]
        assert torch.equal(model(X), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m[1], "running_mean", None), "keeps no running statistics"),
        (lambda m: m[1].double(), "in torch.float64, the layer in torch.float32"),
        (lambda m: m[1].to("meta"), "on meta, the layer on cpu"),
        (lambda m: m.__setitem__(1, nn.BatchNorm2d(5)), "has 5 channels, the layer 4"),
        (lambda m: setattr(m[1], "forward", lambda x: x), "forward was replaced"),
        (lambda m: m.__setitem__(1, type("MyNorm", (nn.BatchNorm2d,), {})(4)), "MyNorm may"),
    ],
)
def test_batchnorms_that_cannot_be_folded(change: Any, words: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    change(model)
    taken = replace_convs(model).taken[0]
    assert taken.batchnorm == taken.activation == ""
    assert words in taken.notes[0]


def test_a_shared_layer_is_taken_once() -> None:
    conv = whole(nn.Conv2d(4, 4, 1))
    model = nn.ModuleDict({"a": nn.Sequential(conv, nn.ReLU()), "b": nn.Sequential(conv, nn.ELU())})
    expected = [model[name](X) for name in "ab"]
    report = replace_convs(model)
    assert [(each.name, each.notes) for each in report.taken] == [("a.0", ("shared: also b.0",))]
    assert report.taken[0].activation == ""
    assert all(torch.equal(model[name](X), y) for name, y in zip("ab", expected, strict=True))


# --- What is left, and bad input ------------------------------------------------------------------


def test_reasons() -> None:
    class Other(nn.Conv2d):
        pass

    patched = nn.Conv2d(1, 1, 1)
    patched.forward = lambda x: x
    model = nn.ModuleDict(
        {
            "taken": nn.Conv2d(1, 1, 1),
            "ours": Conv2d(1, 1, 1),
            "up": nn.ConvTranspose2d(1, 1, 1),
            "line": nn.Conv1d(1, 1, 1),
            "space": nn.Conv3d(1, 1, 1),
            "lazy": nn.LazyConv2d(1, 1),
            "other": Other(1, 1, 1),
            "patched": patched,
            "empty": nn.Conv2d(1, 1, 1, device="meta"),
            "wide": nn.Conv2d(1, 1, 1, dtype=torch.float64),
            "not_wanted": nn.Conv2d(1, 1, 1),
            "mirror": nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        }
    )
    report = replace_convs(model, filter=lambda name, conv: name != "not_wanted")
    reasons = {each.name: each.reason for each in report.left}
    assert reasons == {
        "ours": "runs on the kernels already",
        "up": "transposed",
        "line": "has 1 dimensions, not 2",
        "space": "has 3 dimensions, not 2",
        "lazy": "has no weights yet (lazy)",
        "other": "Other may compute something else than Conv2d",
        "patched": "its forward was replaced",
        "empty": "on the meta device, without values",
        "wide": "float64; the kernels take float32, float16, bfloat16",
        "not_wanted": "filtered out",
    }
    assert [each.name for each in report.taken] == ["taken", "mirror"]
    assert layer(report, "mirror").notes == ("reflect padding takes a copy of the image first",)
    restore_convs(model)
    assert type(model["ours"]) is Conv2d
    assert type(model["taken"]) is nn.Conv2d


def test_the_report_as_text_and_as_json() -> None:
    report = replace_convs(block(), filter=lambda name, conv: name == "conv1")
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "was", "now", "BatchNorm", "why"]
    assert lines[2].split()[:4] == ["conv1", "Conv2d", "kernel", "bn1"]
    assert lines[3].endswith("filtered out")
    assert lines[-1] == (
        "Block: 1 of 2 convolutions on the kernels, 1 with their BatchNorm, 0 with their activation"
    )
    content = json.loads(json.dumps(report.to_dict()))
    assert content["layers"][1] == {
        "name": "conv2",
        "kind": "Conv2d",
        "taken": False,
        "reason": "filtered out",
        "batchnorm": "",
        "activation": "",
        "notes": [],
    }


def test_a_single_layer_and_a_backend_for_all() -> None:
    conv = nn.Conv2d(4, 4, 1)
    expected = conv(X)
    assert replace_convs(conv, backend="torch").taken[0].name == ""
    assert torch.equal(conv(X), expected)
    assert conv.backend == "torch"
    restore_convs(conv)
    assert "backend" not in vars(conv)


def test_taking_twice_changes_nothing() -> None:
    model = block()
    replace_convs(model)
    y = model(X)
    report = replace_convs(model)
    assert {each.reason for each in report.layers} == {"runs on the kernels already"}
    assert torch.equal(model(X), y)


def test_models_that_are_refused_in_one_line() -> None:
    with pytest.raises(ConstraintError, match=r"^replace_convs: Sequential has no convolution"):
        replace_convs(nn.Sequential(nn.Linear(1, 1)))
    with torch.device("meta"):
        model = Block()
    with pytest.raises(ConstraintError, match=r"convolutions of Block are on the meta device"):
        replace_convs(model)
    assert type(model.conv1) is nn.Conv2d
    with pytest.raises(ConstraintError, match=r"the model is a dict, not a torch.nn.Module"):
        replace_convs({})
    with pytest.raises(ConstraintError, match=r"backend is 'gpu'"):
        replace_convs(Block(), backend="gpu")
