"""pack_weights: the layout, the way back, and what it refuses."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.kernels import PackedWeights, pack_weights
from nkiconv.simulate import ConstraintError, DtypeError, ShapeError


def _weights(*shape: int, dtype: Any = np.float32) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def test_layout_follows_the_definition() -> None:
    w = _weights(6, 5, 2, 3)
    packed = pack_weights(w, groups=2)
    assert packed.array.shape == (2, 5, 6, 3)
    for g, ci, kh, kw, co in np.ndindex(2, 5, 2, 3, 3):
        assert packed.array[g, ci, kh * 3 + kw, co] == w[g * 3 + co, ci, kh, kw]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_unpack_is_the_way_back(dtype: Any, groups: int) -> None:
    w = _weights(6, 5, 2, 3, dtype=dtype)[:, ::-1]
    packed = pack_weights(w, np.int32(groups))  # type: ignore[arg-type]  # NumPy integers are fine
    assert packed.shape == w.shape
    assert packed.groups == groups
    assert packed.kernel_size == (2, 3)
    assert packed.array.flags.c_contiguous
    np.testing.assert_array_equal(packed.unpack(), w)
    assert packed.unpack().dtype == w.dtype


def test_packed_weights_do_not_follow_the_original() -> None:
    w = _weights(1, 1, 1, 4)
    packed = pack_weights(w)
    w[:] = -1
    np.testing.assert_array_equal(packed.unpack(), _weights(1, 1, 1, 4))
    assert not packed.array.flags.writeable


REFUSED = [
    ("rank", _weights(2, 2, 3), 1, ShapeError, r"pack_weights: w has shape \(2, 2, 3\), 3 dim"),
    ("empty", _weights(2, 0, 3, 3), 1, ShapeError, r"w has shape \(2, 0, 3, 3\), so no elements"),
    ("groups", _weights(5, 2, 3, 3), 2, ShapeError, r"5 output channels, .*groups=2 does not"),
    ("zero-groups", _weights(5, 2, 3, 3), 0, ConstraintError, r"groups is 0; .* at least 1"),
    ("dtype", _weights(2, 2, 3, 3, dtype=np.int8), 1, DtypeError, r"w has dtype int8; .*float32"),
    ("list", [[[[1.0]]]], 1, DtypeError, r"w is of type list; it must be a NumPy array"),
]


@pytest.mark.parametrize(
    ("w", "groups", "error", "message"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused(w: Any, groups: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pack_weights(w, groups)


def test_packed_weights_made_by_hand_must_have_the_layout() -> None:
    with pytest.raises(ShapeError, match=r"PackedWeights: array has shape .* for 3x3 taps"):
        PackedWeights(_weights(1, 2, 8, 4), (3, 3))
    with pytest.raises(ShapeError, match=r"PackedWeights: array has shape \(2, 9, 4\)"):
        PackedWeights(_weights(2, 9, 4), (3, 3))
