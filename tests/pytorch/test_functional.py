"""conv2d as an operator: PyTorch's results, on any kind of tensor, eager, compiled and exported."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nkiconv.pytorch import backend_for, conv2d, use_backend  # noqa: E402
from nkiconv.reference import bounds, conv2d_float64  # noqa: E402
from nkiconv.reference.conv2d import magnitude  # noqa: E402
from nkiconv.simulate import ConstraintError, DtypeError, ShapeError, profile  # noqa: E402

F = torch.nn.functional
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def integers(*shape: int, dtype: Any = torch.float32, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).to(dtype)


def exact(x: Any, w: Any, b: Any = None, **arguments: Any) -> Any:
    """Small integers are exact in float32, and rounded to x's dtype once."""
    b = None if b is None else b.float()
    return F.conv2d(x.float(), w.float(), b, **arguments).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
        {"padding": "same", "groups": 2},
        {"padding": "valid", "groups": 4},
    ],
    ids=str,
)
def test_equals_torch(dtype: Any, arguments: dict[str, Any]) -> None:
    groups = arguments.get("groups", 1)
    x, w = integers(2, 4, 9, 8, dtype=dtype), integers(8, 4 // groups, 3, 3, dtype=dtype, seed=1)
    b = integers(8, dtype=dtype, seed=2)
    y = conv2d(x, w, b, **arguments)
    assert y.dtype == dtype
    assert torch.equal(y, exact(x, w, b, **arguments))


def test_asymmetric_padding_residual_and_activation() -> None:
    x, w, b = integers(1, 2, 5, 6), integers(3, 2, 3, 3, seed=1), integers(3, seed=2)
    z = exact(F.pad(x, (0, 2, 1, 0)), w, b)
    residual = integers(*z.shape, seed=3)
    arguments = {"padding": ((1, 0), (0, 2)), "activation": "relu", "residual": residual}
    expected = torch.relu(z + residual)
    assert torch.equal(conv2d(x, w, b, **arguments), expected)
    assert torch.equal(conv2d(x, w, b, backend="torch", **arguments), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "activation", ["gelu", "gelu_tanh", "silu", "hardswish", "sigmoid", "tanh", ("leaky_relu", 0.3)]
)
def test_activations_within_the_bounds(dtype: Any, activation: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(s, generator=generator).to(dtype) for s in ((1, 6, 7, 7), (5, 6, 3, 3)))
    with torch.no_grad():
        y = conv2d(x, w, activation=activation)
    wide = (x.double().numpy(), w.double().numpy())
    ratio = bounds.max_error_ratio(
        y.double().numpy(),
        conv2d_float64(*wide, activation=activation),
        magnitude(*wide, activation=activation),
        6 * 9,
        str(dtype).removeprefix("torch."),
        activation=activation,
    )
    assert ratio <= 1


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_scale_and_what_lies_around_the_image(mode: str) -> None:
    x, w, b = integers(1, 2, 5, 6), integers(3, 2, 3, 3, seed=1), integers(3, seed=2)
    scale = torch.tensor([0.5, -2.0, 4.0])
    around = F.pad(x, (2, 0, 1, 3), mode=mode)
    expected = F.conv2d(around, w) * scale[:, None, None] + b[:, None, None]
    arguments = {"padding": ((1, 3), (2, 0)), "padding_mode": mode, "scale": scale}
    assert torch.equal(conv2d(x, w, b, **arguments), expected)
    assert torch.equal(conv2d(x, w, b, backend="torch", **arguments), expected)
    leaky = F.leaky_relu(expected, 0.25)
    assert torch.equal(conv2d(x, w, b, activation=("leaky_relu", 0.25), **arguments), leaky)
    with pytest.raises(ConstraintError, match=r"padding_mode is 'mirror'"):
        conv2d(x, w, padding_mode="mirror")
    with pytest.raises(ShapeError, match=r"scale has shape \(2,\); weight has 3 output"):
        conv2d(x, w, scale=scale[:2])


def test_an_image_without_a_batch() -> None:
    x, w = integers(2, 5, 5), integers(3, 2, 3, 3, seed=1)
    residual = integers(3, 3, 3, seed=2)
    y = conv2d(x, w, residual=residual)
    assert torch.equal(y, F.conv2d(x, w) + residual)


def test_views_and_memory_formats_come_out_as_torch_has_them() -> None:
    x = integers(2, 6, 5, 4).permute(0, 3, 1, 2)  # channels_last by its strides
    w = integers(3, 3, 4, 6, seed=1).permute(3, 2, 0, 1)[::2]
    assert not w.is_contiguous()
    for each in (x, x.contiguous(), x[:, :, ::2], x.contiguous(memory_format=torch.channels_last)):
        expected = F.conv2d(each, w, padding=1)
        y = conv2d(each, w, padding=1)
        assert torch.equal(y, expected)
        assert y.stride() == expected.stride()
        compiled = torch.compile(
            lambda t: conv2d(t, w, padding=1), backend="aot_eager", fullgraph=True
        )
        assert compiled(each).stride() == expected.stride()
        torch._dynamo.reset()


# --- Backends -------------------------------------------------------------------------------------


def launches(**arguments: Any) -> int:
    """How many kernels a call launches in the simulator."""
    x, w = integers(1, 2, 5, 5), integers(3, 2, 3, 3)
    try:
        return len(profile(conv2d, x, w, **arguments)[1].kernels)
    except ValueError:
        return 0


def test_the_backend_that_is_named_is_the_one_that_runs() -> None:
    assert launches() == launches(backend="simulator") == 1
    assert launches(backend="torch") == 0
    with use_backend("torch"):
        assert launches() == 0
        assert backend_for("cpu") == "torch"
        assert launches(backend="simulator") == 1
    assert backend_for(torch.zeros(1)) == backend_for("cpu") == "simulator"
    assert backend_for("xla") == "neuron"
    assert backend_for("xla", "torch") == "torch"


def test_a_compiled_function_asks_for_the_backend_when_it_runs() -> None:
    x, w = integers(1, 2, 5, 5), integers(3, 2, 3, 3)
    compiled = torch.compile(lambda t: conv2d(t, w), backend="aot_eager", fullgraph=True)
    assert torch.equal(profile(compiled, x)[0], F.conv2d(x, w))
    with use_backend("torch"), pytest.raises(ValueError, match="launched no kernel"):
        profile(compiled, x)


def test_backends_are_refused_in_one_line() -> None:
    x, w = integers(1, 2, 5, 5), integers(3, 2, 3, 3)
    with pytest.raises(ConstraintError, match=r'backend is \'cuda\'; .*"simulator", "torch"'):
        conv2d(x, w, backend="cuda")
    with pytest.raises(ConstraintError, match=r"backend is 'gpu'"), use_backend("gpu"):
        pass
    with pytest.raises(ConstraintError, match=r'on cpu; backend "neuron" takes .* xla or neuron'):
        conv2d(x, w, backend="neuron")
    with pytest.raises(ConstraintError, match=r"the tensors are on cuda; backend \"simulator\""):
        backend_for("cuda")


def test_torch_takes_float64_and_the_simulator_does_not() -> None:
    x, w = integers(1, 2, 5, 5, dtype=torch.float64), integers(3, 2, 3, 3, dtype=torch.float64)
    assert torch.equal(conv2d(x, w, backend="torch"), F.conv2d(x, w))
    with pytest.raises(DtypeError, match=r"x has dtype float64; the kernels take float32"):
        conv2d(x, w)


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["simulator", "torch"])
@pytest.mark.parametrize(
    ("x", "w", "arguments", "error", "words"),
    [
        ((0, 2, 5, 5), (3, 2, 3, 3), {}, ShapeError, r"x has shape \(0, 2, 5, 5\), so no elements"),
        ((1, 2, 5, 5), (0, 2, 3, 3), {}, ShapeError, r"weight has shape \(0, 2, 3, 3\)"),
        ((5, 5), (3, 2, 3, 3), {}, ShapeError, r"x has shape \(5, 5\), 2 dimensions"),
        ((1, 2, 5, 5), (3, 2, 3), {}, ShapeError, r"weight has shape \(3, 2, 3\), 3 dimensions"),
        ((1, 2, 5, 5), (3, 4, 3, 3), {}, ShapeError, "x has 2 channels, but weight"),
        ((1, 4, 5, 5), (3, 2, 3, 3), {"groups": 2}, ShapeError, "3 output channels"),
        (
            (1, 2, 2, 5),
            (3, 2, 3, 3),
            {},
            ShapeError,
            "3 taps with dilation 1 span 3 pixels along H",
        ),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"stride": 0}, ConstraintError, "stride is 0"),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"groups": 0}, ConstraintError, "groups is 0"),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"padding": "full"}, ConstraintError, "padding is 'full'"),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"activation": "elu"}, ConstraintError, "activation is 'elu'"),
    ],
)
def test_bad_sizes_and_arguments(
    backend: str, x: Any, w: Any, arguments: Any, error: Any, words: str
) -> None:
    with pytest.raises(error, match=f"conv2d: .*{words}"):
        conv2d(torch.zeros(x), torch.zeros(w), backend=backend, **arguments)


def test_operands_that_do_not_fit() -> None:
    x, w = integers(1, 2, 5, 5), integers(3, 2, 3, 3)
    with pytest.raises(ShapeError, match=r"bias has shape \(2,\); weight has 3 output channels"):
        conv2d(x, w, torch.zeros(2))
    with pytest.raises(ShapeError, match=r"residual has shape \(1, 3, 1, 1\).* \(1, 3, 3, 3\)"):
        conv2d(x, w, residual=torch.zeros(1, 3, 1, 1))
    with pytest.raises(DtypeError, match=r"weight has dtype torch.float16, x has torch.float32"):
        conv2d(x, w.half())
    with pytest.raises(DtypeError, match=r"x has dtype int64"):
        conv2d(x.long(), w.long())
    with pytest.raises(ConstraintError, match=r"weight is on meta, x is on cpu"):
        conv2d(x, w.to("meta"))


# --- Compiled, exported, cast ---------------------------------------------------------------------


def test_the_operator_keeps_the_dispatchers_rules() -> None:
    x, w = integers(1, 2, 5, 5).requires_grad_(), integers(3, 2, 3, 3).requires_grad_()
    b = integers(3).requires_grad_()
    for scale, mode, activation in ((None, "zeros", "relu"), (b.detach(), "reflect", "gelu")):
        geometry = ([1, 1], [1, 0, 0, 1], [1, 1], 1)
        arguments = (x, w, b, scale, None, *geometry, mode, activation, 0.0, None)
        results = torch.library.opcheck(torch.ops.nkiconv.conv2d.default, arguments)
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_into_one_graph_with_gradients(backend: str) -> None:
    x, w, b = integers(2, 2, 6, 6), integers(3, 2, 3, 3, seed=1), integers(3, seed=2)
    leaves = [t.requires_grad_() for t in (x, w, b)]

    def function(x: Any, w: Any, b: Any) -> Any:
        return conv2d(x * 2, w, b, stride=2, padding=1, activation="relu") + 1

    compiled = torch.compile(function, backend=backend, fullgraph=True)
    y = compiled(*leaves)
    expected = torch.relu(F.conv2d(x * 2, w, b, stride=2, padding=1)) + 1
    assert torch.equal(y, expected)
    ours = torch.autograd.grad(y.sum(), leaves)
    theirs = torch.autograd.grad(expected.sum(), leaves)
    assert all(map(torch.equal, ours, theirs))
    torch._dynamo.reset()


def test_export_keeps_one_node_and_leaves_sizes_open() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Any, w: Any) -> Any:
            return conv2d(x, w, stride=2, padding="valid", activation="relu")

    x, w = integers(2, 2, 9, 8), integers(3, 2, 3, 3, seed=1)
    sizes = {"x": {0: torch.export.Dim("n", min=1), 2: torch.export.Dim("h", min=5)}, "w": None}
    program = torch.export.export(Layer(), (x, w), dynamic_shapes=sizes)
    names = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert names.count("nkiconv.conv2d.default") == 1
    other = integers(3, 2, 12, 8, seed=3)
    expected = torch.relu(F.conv2d(other, w, stride=2))
    assert torch.equal(program.module()(other, w), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_casts_as_for_torch(dtype: Any, compiled: bool) -> None:
    x, w, b = integers(1, 2, 5, 5), integers(3, 2, 3, 3, seed=1), integers(3, seed=2)
    w.requires_grad_()
    function = torch.compile(conv2d, backend="aot_eager", fullgraph=True) if compiled else conv2d
    with torch.autocast("cpu", dtype=dtype):
        y, expected = function(x, w, b), F.conv2d(x, w, b)
    assert y.dtype == expected.dtype == dtype
    assert torch.equal(y, expected)
    (grad,) = torch.autograd.grad(y.sum(), w)
    assert grad.dtype == torch.float32
    torch._dynamo.reset()


def test_autocast_leaves_float64_alone() -> None:
    x, w = integers(1, 2, 5, 5, dtype=torch.float64), integers(3, 2, 3, 3, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv2d(x, w, backend="torch").dtype == F.conv2d(x, w).dtype == torch.float64


def test_inference_mode_and_no_grad() -> None:
    x, w = integers(1, 2, 5, 5), integers(3, 2, 3, 3).requires_grad_()
    with torch.inference_mode():
        assert torch.equal(conv2d(x, w), F.conv2d(x, w))
        fresh = w.clone()
        first = conv2d(x, fresh)
        fresh.mul_(2)
        assert torch.equal(conv2d(x, fresh), 2 * first)
    with torch.no_grad():
        assert not conv2d(x, w).requires_grad
    assert conv2d(x, w).requires_grad
