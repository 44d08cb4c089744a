"""Gradients: PyTorch's, for every operand and activation; and the place for other functions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nkiconv.kernels._activations import ACTIVATIONS  # noqa: E402
from nkiconv.pytorch import (  # noqa: E402
    Gradients,
    conv2d,
    register_gradients,
    use_backend,
    use_gradients,
)
from nkiconv.simulate import ConstraintError  # noqa: E402

F = torch.nn.functional


def integers(*shape: int, seed: int = 0, dtype: Any = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).to(dtype).requires_grad_()


@pytest.mark.parametrize(
    ("padding", "pads"),
    [(1, (1, 1, 1, 1)), ("same", (0, 1, 0, 1)), (((0, 2), (1, 0)), (1, 0, 0, 2))],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_torchs_on_integers(padding: Any, pads: Any, dtype: Any) -> None:
    k = 2 if padding == "same" else 3
    x, w = integers(2, 4, 6, 5, dtype=dtype), integers(6, 2, k, k, seed=1, dtype=dtype)
    b = integers(6, seed=2, dtype=dtype)
    y = conv2d(x, w, b, padding=padding, groups=2, activation="relu")
    expected = torch.relu(F.conv2d(F.pad(x, pads), w, b, groups=2))
    assert torch.equal(y, expected)
    ours = torch.autograd.grad(y.sum(), (x, w, b))
    theirs = torch.autograd.grad(expected.sum(), (x, w, b))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype == dtype
        assert torch.equal(mine, other)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, ("leaky_relu", 0.3)], ids=str)
def test_first_and_second_derivatives(activation: Any, mode: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Any:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    leaves = (values(1, 2, 4, 3), values(2, 2, 3, 2), values(2), values(2), values(1, 2, 2, 2))

    def function(x: Any, w: Any, b: Any, scale: Any, residual: Any) -> Any:
        return conv2d(
            x, w, b, scale=scale, residual=residual, activation=activation, stride=(2, 1),
            padding=((1, 0), (0, 0)), padding_mode=mode, backend="torch",
        )  # fmt: skip

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_borders_give_their_gradient_back(mode: str) -> None:
    x, w = integers(2, 2, 5, 4), integers(3, 2, 3, 3, seed=1)
    y = conv2d(x, w, padding=((2, 1), (0, 3)), padding_mode=mode)
    expected = F.conv2d(F.pad(x, (0, 3, 2, 1), mode=mode), w)
    assert torch.equal(y, expected)
    ours = torch.autograd.grad(y.square().sum(), (x, w))
    theirs = torch.autograd.grad(expected.square().sum(), (x, w))
    assert all(map(torch.equal, ours, theirs))


def test_only_what_is_needed_has_a_gradient() -> None:
    x, w = integers(1, 2, 5, 5), integers(3, 2, 3, 3, seed=1)
    for needs in itertools.product((True, False), repeat=2):
        operands = [t.detach().requires_grad_(n) for t, n in zip((x, w), needs, strict=True)]
        y = conv2d(*operands)
        assert y.requires_grad == any(needs)
        if any(needs):
            y.sum().backward()
        assert [t.grad is not None for t in operands] == list(needs)


def test_bias_of_another_dtype_gets_its_own() -> None:
    x, w, b = integers(1, 2, 5, 5, dtype=torch.bfloat16), integers(3, 2, 3, 3), integers(3)
    y = conv2d(x, w.detach().bfloat16(), b)
    y.sum().backward()
    assert b.grad.dtype == torch.float32
    assert b.grad.tolist() == [9, 9, 9]


def test_registered_functions_are_used() -> None:
    seen = []

    def gradient(name: str) -> Any:
        def function(grad_y: Any, x: Any, weight: Any, **geometry: Any) -> Any:
            seen.append((name, geometry))
            return torch.full_like(x if name == "input" else weight, 7)

        return function

    register_gradients("sevens", Gradients(gradient("input"), gradient("weight")))
    x, w = integers(1, 2, 5, 5), integers(3, 2, 3, 3)
    with use_gradients("sevens"):
        y = conv2d(x, w, padding=((1, 0), (0, 2)))
    y.sum().backward()  # chosen by the forward pass
    assert bool((x.grad == 7).all())
    assert bool((w.grad == 7).all())
    geometry = {"stride": [1, 1], "padding": [1, 0, 0, 2], "dilation": [1, 1], "groups": 1}
    assert seen == [("input", geometry), ("weight", geometry)]
    with pytest.raises(ConstraintError, match=r"use_gradients: 'none' is not registered.*torch"):
        use_gradients("none").__enter__()


def test_training_takes_the_same_steps_as_torch() -> None:
    """Integers and a step of 1/2: every sum is exact, so the weights are the same."""
    start = integers(3, 2, 3, 3, seed=1).detach()
    x, steps = integers(1, 2, 5, 5).detach(), []
    for function in (conv2d, F.conv2d):
        w = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([w], lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            torch.relu(function(x, w)).sum().backward()
            optimizer.step()
        steps.append(w.detach())
    assert torch.equal(*steps)
    assert not torch.equal(steps[0], start)
    with use_backend("torch"):
        assert torch.equal(conv2d(x, steps[0]), F.conv2d(x, steps[0]))
