"""What conv2d refuses: the class and the message, and that nothing was computed before."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest

import nkiconv.kernels.conv2d_direct
import nkiconv.kernels.conv2d_naive
from nkiconv.kernels import conv2d, pack_weights
from nkiconv.simulate import CapacityError, ConstraintError, DtypeError, ShapeError


def zeros(*shape: int, dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


X, W = zeros(2, 4, 8, 9), zeros(6, 4, 3, 3)

# id, what differs from conv2d(X, W), class, message
REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    # arrays
    ("x-list", {"x": [[1.0]]}, DtypeError, r"x is of type list; it must be a NumPy array or a CPU"),
    ("x-none", {"x": None}, DtypeError, r"x is of type NoneType"),
    ("w-none", {"w": None}, DtypeError, r"w is of type NoneType"),
    ("masked", {"x": np.ma.masked_equal(X, 1)}, DtypeError, r"x is of type MaskedArray"),
    ("bias-number", {"bias": 1.0}, DtypeError, r"bias is of type float"),
    ("residual-text", {"residual": "x"}, DtypeError, r"residual is of type str"),
    # dtypes
    ("float64", {"x": X.astype(float)}, DtypeError, r"float64; .* float32, float16, bfloat16 \("),
    ("int32", {"x": X.astype(np.int32)}, DtypeError, r"x has dtype int32; the kernels take float"),
    ("bool", {"w": W.astype(bool)}, DtypeError, r"w has dtype bool"),
    ("complex", {"x": X.astype(np.complex64)}, DtypeError, r"x has dtype complex64"),
    ("objects", {"x": X.astype(object)}, DtypeError, r"x has dtype object"),
    ("big-endian", {"x": X.astype(">f4")}, DtypeError, r"x has dtype >f4"),
    ("bias-int", {"bias": np.zeros(6, int)}, DtypeError, r"bias has dtype int64"),
    ("mixed", {"w": W.astype(np.float16)}, DtypeError, r"w has dtype float16, x has float32"),
    ("mixed-packed", {"w": pack_weights(W.astype(np.float16))}, DtypeError, r"float16, x"),
    ("mixed-residual", {"residual": zeros(2, 6, 6, 7, dtype=np.float16)}, DtypeError,
     r"residual has dtype float16, x has float32"),
    # shapes
    ("x-rank", {"x": X[0]}, ShapeError, r"x has shape \(4, 8, 9\), 3 dimensions; .* 4: \(N"),
    ("w-rank", {"w": W[..., None]}, ShapeError, r"w has shape \(6, 4, 3, 3, 1\), 5 dimensions"),
    ("no-images", {"x": X[:0]}, ShapeError, r"x has shape \(0, 4, 8, 9\), so no elements"),
    ("no-rows", {"x": X[:, :, :0]}, ShapeError, r"x has shape \(2, 4, 0, 9\), so no elements"),
    ("no-taps", {"w": W[..., :0]}, ShapeError, r"w has shape \(6, 4, 3, 0\), so no elements"),
    ("no-outputs", {"w": W[:0]}, ShapeError, r"w has shape \(0, 4, 3, 3\), so no elements"),
    ("channels", {"w": W[:, :3]}, ShapeError, r"4 channels, but w of shape \(6, 3, 3, 3\) with"),
    ("channels-packed", {"w": pack_weights(W[:, :3])}, ShapeError, r"x has 4 channels, but w of"),
    ("bias-size", {"bias": zeros(5)}, ShapeError, r"bias has shape \(5,\); w has 6 output"),
    ("bias-rank", {"bias": zeros(6, 1)}, ShapeError, r"bias has shape \(6, 1\)"),
    ("residual-size", {"residual": zeros(2, 6, 6, 6)}, ShapeError,
     r"residual has shape \(2, 6, 6, 6\); the convolution's result has \(2, 6, 6, 7\)"),
    ("kernel-too-large", {"w": zeros(6, 4, 9, 3)}, ShapeError,
     r"9 taps with dilation 1 span 9 pixels along H, but x has 8 there \(8 and padding \(0, 0\)\)"),
    ("kernel-too-large-padded", {"w": zeros(6, 4, 1, 12), "padding": 1}, ShapeError,
     r"12 pixels along W, but x has 11 there \(9 and padding \(1, 1\)\); .* no elements"),
    ("dilated-too-large", {"dilation": (1, 5)}, ShapeError, r"3 taps with dilation 5 span 11 pix"),
    # groups
    ("groups-input", {"groups": 3}, ShapeError, r"x has 4 input channels, which groups=3 does not"),
    ("groups-output", {"groups": 4}, ShapeError, r"w has 6 output channels, which groups=4"),
    ("groups-channels", {"groups": 2}, ShapeError, r"x has 4 channels, but w .* groups=2 takes 8"),
    ("groups-zero", {"groups": 0}, ConstraintError, r"groups is 0; it must be at least 1"),
    ("groups-float", {"groups": 1.0}, ConstraintError, r"groups is 1\.0; it must be an integer"),
    ("groups-packed", {"w": pack_weights(W[:, :2], 2)}, ShapeError,
     r"groups is 1, but w was packed for 2 groups \(pack_weights"),
    # stride, dilation
    ("stride-zero", {"stride": 0}, ConstraintError, r"stride is 0; it must be at least 1"),
    ("stride-negative", {"stride": (1, -2)}, ConstraintError, r"stride is -2; it must be at least"),
    ("stride-float", {"stride": 2.0}, ConstraintError, r"stride is 2\.0; it must be an integer"),
    ("stride-bool", {"stride": True}, ConstraintError, r"stride is True; it must be an integer"),
    ("stride-text", {"stride": "2"}, ConstraintError, r"stride is '2'; it must be an integer"),
    ("stride-array", {"stride": np.ones(2)}, ConstraintError, r"stride is array\(.*an integer"),
    ("stride-none", {"stride": None}, ConstraintError, r"stride is None; it must be an integer"),
    ("stride-three", {"stride": (1, 1, 1)}, ConstraintError, r"stride is \(1, 1, 1\); .* a pair"),
    ("dilation-zero", {"dilation": (0, 1)}, ConstraintError, r"dilation is 0; .* at least 1"),
    ("dilation-bool", {"dilation": np.True_}, ConstraintError, r"dilation is .*True.*; .*integer"),
    # padding
    ("padding-negative", {"padding": -1}, ConstraintError, r"padding is -1; it must be at least 0"),
    ("padding-negative-side", {"padding": ((0, 0), (1, -3))}, ConstraintError, r"padding is -3;"),
    ("padding-float", {"padding": (0.5, 1)}, ConstraintError, r"padding is 0\.5; .* an integer"),
    ("padding-word", {"padding": "full"}, ConstraintError, r"padding is 'full'; words are"),
    ("padding-mixed", {"padding": (1, (1, 1))}, ConstraintError, r"pairs must be \(\(top, bo"),
    ("padding-three", {"padding": (1, 1, 1)}, ConstraintError, r"padding is \(1, 1, 1\); .*pair"),
    ("padding-triple", {"padding": ((1, 1, 1), (1, 1))}, ConstraintError, r"pairs must be \(\(top"),
    ("same-stride", {"padding": "same", "stride": (1, 2)}, ConstraintError,
     r'padding is "same" with stride \(1, 2\); "same" needs stride 1'),
    # names and features
    ("activation", {"activation": "swish"}, ConstraintError,
     r'activation is \'swish\'; it must be one of None, "relu", "relu6", "leaky_relu", "gelu", '),
    ("activation-function", {"activation": np.tanh}, ConstraintError, r"activation is <ufunc"),
    ("activation-list", {"activation": ["relu"]}, ConstraintError, r"activation is \['relu'\]"),
    ("slope-other", {"activation": ("relu", 1)}, ConstraintError,
     r"activation is \('relu', 1\); the one that takes a number is \(\"leaky_relu\", slope\)"),
    ("slope-text", {"activation": ("leaky_relu", "1")}, ConstraintError,
     r"the slope of activation \('leaky_relu', '1'\) is '1'; it must be a number"),
    ("slope-bool", {"activation": ("leaky_relu", True)}, ConstraintError, r"is True; .* a number"),
    ("slope-nan", {"activation": ("leaky_relu", float("nan"))}, ConstraintError,
     r"the slope of activation \('leaky_relu', nan\) must be finite"),
    ("algorithm", {"algorithm": "winograd"}, ConstraintError,
     r'algorithm is \'winograd\'; it must be one of "auto", "direct", .*"naive"'),
    ("algorithm-none", {"algorithm": None}, ConstraintError, r"algorithm is None; .* \"auto\""),
    ("depthwise", {"algorithm": "depthwise"}, ConstraintError,
     r"no algorithm can do this \(depthwise: "),
    ("pointwise", {"algorithm": "pointwise"}, ConstraintError,
     r"no algorithm can do this \(pointwise: "),
    ("pointwise-pool", {"algorithm": "pointwise", "pool": ("avg", 2), "w": W[:, :, :1, :1].astype(
        np.float16), "x": X.astype(np.float16)}, ConstraintError,
     r"no fused pooling; means of float16 would be rounded twice"),
    ("pool-number", {"pool": 2}, ConstraintError, r"pool is 2; it must be None, \(\"max\" or"),
    ("pool-short", {"pool": ("max",)}, ConstraintError, r"pool is \('max',\); it must be None,"),
    ("pool-kind", {"pool": ("min", 2)}, ConstraintError, r"pool's kind is 'min'; it must be one"),
    ("pool-zero", {"pool": ("max", (2, 0))}, ConstraintError, r"pool's size is 0; .* at least 1"),
    ("pool-stride", {"pool": ("max", 2, 0.5)}, ConstraintError, r"pool's stride is 0\.5; .*int"),
    ("pool-size", {"pool": ("avg", (2, 8))}, ShapeError,
     r"pool is \('avg', \(2, 8\)\), but the convolution's result has 7 along W; .*avg_pool2d\)"),
    ("scale-size", {"scale": zeros(5)}, ShapeError, r"scale has shape \(5,\); w has 6 output"),
    ("scale-number", {"scale": 2.0}, DtypeError, r"scale is of type float"),
    ("mode", {"padding_mode": "edge"}, ConstraintError, r"padding_mode is 'edge'; .*\"reflect\""),
    ("mode-none", {"padding_mode": None}, ConstraintError, r"padding_mode is None; .*\"zeros\""),
    ("mode-reflect", {"padding_mode": "reflect", "padding": (8, 0)}, ConstraintError,
     r'padding is \(8, 8\) along H with padding_mode "reflect"; it must be less than the 8 pixels'),
    ("mode-circular", {"padding_mode": "circular", "padding": ((0, 0), (0, 10))}, ConstraintError,
     r'padding is \(0, 10\) along W with padding_mode "circular"; it must be at most the 9 pixels'),
    ("layout", {"layout": "CHWN"}, ConstraintError, r"layout is 'CHWN'; .*\"NCHW\", \"NHWC\""),
    ("layout-rank", {"x": X[0], "layout": "NHWC"}, ShapeError, r"3 dim.* 4: \(N, H, W, C_in\)"),
    ("layout-channels", {"layout": "NHWC"}, ShapeError, r"x has 9 channels, but w of shape"),
    ("layout-residual", {"x": zeros(2, 8, 9, 4), "layout": "NHWC", "residual": zeros(2, 6, 6, 7)},
     ShapeError, r"residual has shape \(2, 6, 6, 7\); the convolution's result has \(2, 6, 7, 6\)"),
    ("layout-naive", {"x": zeros(2, 8, 9, 4), "layout": "NHWC", "algorithm": "naive"},
     ConstraintError, r'layout "NHWC" is given, but algorithm "naive" takes none'),
    ("precision", {"precision": "tf32"}, ConstraintError, r"precision is 'tf32'; .*\"exact\", "),
    ("precision-half", {"x": X.astype(np.float16), "w": W.astype(np.float16), "precision": "fast"},
     ConstraintError, r'precision is "fast" and x has dtype float16; it is a choice for float32'),
    ("precision-naive", {"precision": "fast", "algorithm": "naive"}, ConstraintError,
     r'precision "fast" is given, but algorithm "naive" takes none'),
    ("residual-naive", {"residual": zeros(2, 6, 6, 7), "algorithm": "naive"}, ConstraintError,
     r'residual is given, but algorithm "naive" takes none; use "auto"'),
    ("scale-naive", {"scale": zeros(6), "algorithm": "naive"}, ConstraintError,
     r'scale is given, but algorithm "naive" takes none'),
    ("pool-naive", {"pool": ("max", 2), "algorithm": "naive"}, ConstraintError,
     r'pool is given, but algorithm "naive" takes none'),
    ("mode-naive", {"padding_mode": "reflect", "padding": 1, "algorithm": "naive"},
     ConstraintError,
     r'padding_mode "reflect" is given, but algorithm "naive" takes none'),
    ("activation-naive", {"activation": "relu6", "algorithm": "naive"}, ConstraintError,
     r'activation "relu6" is given, but algorithm "naive" takes none'),
    ("target", {"target": "trn9"}, ConstraintError, r"'trn9' is not a target; use one of trn1"),
    ("target-number", {"target": 2}, ConstraintError, r"2 is not a target"),
    # naive alone: a plane of 4 B * 224 * 224 = 200,704 B beside 180,224 B of SBUF
    ("naive-plane", {"x": zeros(1, 4, 224, 224), "algorithm": "naive", "target": "trn1"},
     CapacityError, r'algorithm "naive" .* 224x224 of 4 B = 200704 B .* SBUF has 180224'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused_before_any_work(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def launch(*_: object) -> None:
        raise AssertionError("the kernel was launched")

    module = sys.modules["nkiconv.kernels.conv2d"]  # the name in the package is the function
    monkeypatch.setattr(module, "simulate_kernel", launch)
    monkeypatch.setattr(nkiconv.kernels.conv2d_naive, "simulate_kernel", launch)
    arguments = {"x": X, "w": W} | changes
    with pytest.raises(error, match=rf"^conv2d: .*{message}") as caught:
        conv2d(**arguments)
    assert type(caught.value) is error
    assert re.search(r"\)( \[[a-z.]+\])?$", str(caught.value))  # where the limit comes from


def test_unknown_keywords_and_missing_arguments_are_python_errors() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'strides'"):
        conv2d(X, W, strides=2)
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'w'"):
        conv2d(X)
    with pytest.raises(TypeError, match=r"positional arguments"):
        conv2d(X, W, None, 2)
