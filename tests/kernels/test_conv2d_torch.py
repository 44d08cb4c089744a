"""conv2d on CPU torch tensors: torch tensors come back, with PyTorch's own results."""

from __future__ import annotations

import numpy as np
import pytest

from nkiconv.kernels import conv2d, pack_weights
from nkiconv.simulate import ConstraintError, DtypeError

torch = pytest.importorskip("torch")


def _integers(*shape: int, dtype: object = None) -> object:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-3, 4, shape, generator=generator).to(dtype or torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("algorithm", ["direct", "naive"])
def test_equals_torch(dtype: object, algorithm: str) -> None:
    x, w = _integers(2, 6, 9, 8, dtype=dtype), _integers(8, 3, 3, 3, dtype=dtype)
    bias = _integers(8, dtype=dtype)
    arguments = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    y = conv2d(x, w, bias, **arguments, algorithm=algorithm)
    assert isinstance(y, torch.Tensor)
    assert y.dtype == dtype
    # integers in float32 are exact, and so is the one rounding afterwards
    expected = torch.nn.functional.conv2d(x.float(), w.float(), bias.float(), **arguments)
    assert torch.equal(y, expected.to(dtype))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_same_padding_with_an_even_kernel_as_torch() -> None:
    x, w = _integers(1, 2, 5, 6), _integers(3, 2, 4, 2)
    expected = torch.nn.functional.conv2d(x, w, padding="same")
    assert torch.equal(conv2d(x, w, padding="same"), expected)


def test_views_and_packed_weights() -> None:
    x = _integers(9, 8, 6, 2, dtype=torch.bfloat16).permute(3, 2, 0, 1)
    w = _integers(3, 3, 4, 6).to(torch.bfloat16).permute(2, 3, 0, 1)
    y = conv2d(x, pack_weights(w))
    assert torch.equal(y.float(), torch.nn.functional.conv2d(x.float(), w.float()))


def test_the_result_follows_x() -> None:
    x, w = _integers(1, 2, 5, 5), _integers(3, 2, 3, 3)
    assert isinstance(conv2d(x.numpy(), w), np.ndarray)
    assert isinstance(conv2d(x, w.numpy()), torch.Tensor)


def test_gradients_are_refused_unless_switched_off() -> None:
    layer = torch.nn.Conv2d(2, 3, 3)
    x = _integers(1, 2, 5, 5)
    with pytest.raises(ConstraintError, match=r"conv2d: w .* requires a gradient.*no_grad"):
        conv2d(x, layer.weight, layer.bias)
    with pytest.raises(ConstraintError, match=r"pack_weights: w .* requires a gradient"):
        pack_weights(layer.weight)
    with torch.no_grad():
        y = conv2d(x, layer.weight, layer.bias)
        np.testing.assert_allclose(y, layer(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(conv2d(x, layer.weight.detach(), layer.bias.detach()), y)


def test_tensors_elsewhere_are_refused() -> None:
    w = _integers(3, 2, 3, 3)
    with pytest.raises(ConstraintError, match=r"conv2d: x is a tensor on meta; .* CPU"):
        conv2d(torch.empty(1, 2, 5, 5, device="meta"), w)
    with pytest.raises(ConstraintError, match=r"conv2d: x .* layout torch.sparse_coo"):
        conv2d(_integers(1, 2, 5, 5).to_sparse(), w)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.complex64, torch.float8_e5m2])
def test_other_dtypes_are_refused(dtype: object) -> None:
    x, w = torch.zeros(1, 2, 5, 5).to(dtype), torch.zeros(3, 2, 3, 3).to(dtype)
    with pytest.raises(DtypeError, match=rf"x has dtype {dtype}; .* float32, float16, bfloat16"):
        conv2d(x, w)
