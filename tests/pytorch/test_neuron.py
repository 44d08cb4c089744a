"""The way to a NeuronCore, with stand-ins for the vendor's packages: none of it ran on a device."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nkiconv.pytorch import neuron  # noqa: E402
from nkiconv.pytorch._options import Options  # noqa: E402
from nkiconv.simulate import ConstraintError, simulate_kernel  # noqa: E402

F = torch.nn.functional


def integers(*shape: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).float()


OPTIONS = Options([2, 1], [1, 0, 0, 2], [1, 1], 2, "zeros", "relu", 0.0)


def call(x: Any, w: Any, b: Any, residual: Any) -> Any:
    return neuron.conv2d(x, w, b, None, residual, OPTIONS, list(residual.shape))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let the simulator answer where a device would; return the kernels that were called."""
    called: list[Any] = []

    def run(kernel: Any, *args: Any) -> Any:
        called.append(kernel)
        assert all(isinstance(arg, torch.Tensor) for arg in args[:2])
        return simulate_kernel(kernel, *args)

    monkeypatch.setattr(neuron, "_launch_xla", run)
    return called


def operands() -> tuple[Any, Any, Any, Any, Any]:
    x, w, b = integers(2, 4, 6, 5), integers(6, 2, 3, 3, seed=1), integers(6, seed=2)
    z = F.conv2d(F.pad(x, (0, 2, 1, 0)), w, b, stride=(2, 1), groups=2)
    residual = integers(*z.shape, seed=3)
    return x, w, b, residual, torch.relu(z + residual)


def test_plans_packs_and_calls_one_kernel(device: list[Any]) -> None:
    x, w, b, residual, expected = operands()
    assert torch.equal(call(x, w, b, residual), expected)
    assert len(device) == 1


def test_borders_and_scales_arrive(device: list[Any]) -> None:
    x, w, scale = integers(1, 2, 5, 4), integers(3, 2, 3, 3, seed=1), torch.tensor([0.5, 2, -1])
    options = OPTIONS._replace(stride=[1, 1], groups=1, padding_mode="reflect", activation=None)
    y = neuron.conv2d(x, w, None, scale, None, options, [1, 3, 4, 4])
    expected = F.conv2d(F.pad(x, (0, 2, 1, 0), mode="reflect"), w) * scale[:, None, None]
    assert torch.equal(y, expected)
    assert device


def test_weights_are_packed_once_and_again_when_they_change(
    device: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[Any] = []
    pack = neuron.pack_weights

    def counting(w: Any, groups: int) -> Any:
        packed.append(groups)
        return pack(w, groups)

    monkeypatch.setattr(neuron, "pack_weights", counting)
    x, w, b, residual, expected = operands()
    for _ in range(2):
        assert torch.equal(call(x, w, b, residual), expected)
    assert packed == [2]
    w.neg_()
    assert not torch.equal(call(x, w, b, residual), expected)
    assert packed == [2, 2]


def test_the_native_back_end_wraps_the_kernel(
    device: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel(*args: Any) -> Any:
        raise AssertionError("called without wrap_nki")

    wrapped: list[Any] = []

    def wrap_nki(kernel: Any) -> Any:
        wrapped.append(kernel)
        return lambda *args: args

    monkeypatch.setitem(sys.modules, "torch_neuronx", SimpleNamespace(wrap_nki=wrap_nki))
    assert neuron._launch_native(kernel, 1, 2) == (1, 2)
    assert wrapped == [kernel]
    monkeypatch.setitem(sys.modules, "torch_neuronx", None)
    with pytest.raises(ConstraintError, match=r"device neuron need wrap_nki of torch_neuronx"):
        neuron._launch_native(kernel, 1, 2)


def test_torch_xla_calls_the_kernel_itself() -> None:
    assert neuron._launch_xla(lambda *args: args, 1, 2) == (1, 2)


def test_device_tensors_do_not_reach_the_simulator() -> None:
    from nkiconv.kernels.conv2d_direct import conv2d_direct

    for launch in (neuron._launch_xla, neuron._launch_native):
        with pytest.raises(ConstraintError, match=r"embedded simulator; install the vendor's nki"):
            launch(conv2d_direct)
