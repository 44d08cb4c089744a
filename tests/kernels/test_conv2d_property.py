"""conv2d on random legal arguments: every kind of padding, epilogue, pool, layout and algorithm.

The data are small integers, so results are exact wherever the activation and the pool keep them so;
they then equal both the reference and PyTorch bit for bit.  The others are inside the bound.
`pytest --hypothesis-profile nightly` tries thousands.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv.kernels import conv2d, pack_weights
from nkiconv.kernels._arguments import PADDING_MODES
from nkiconv.kernels._choice import ALGORITHMS
from nkiconv.reference import bounds, conv2d_float64
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.reference._arguments import Activation
from nkiconv.reference.cases import stays_exact
from nkiconv.reference.conv2d import magnitude
from nkiconv.simulate import ConstraintError, use_dma

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
ACTIVATIONS: tuple[Activation, ...] = (
    *(None, None, None, "relu", "relu", "relu6"),
    *(("leaky_relu", slope) for slope in (0.25, 2.0, -0.5, 0.3)),
    *("leaky_relu", "gelu", "gelu_tanh", "silu", "hardswish", "sigmoid", "tanh"),
)
POOLS = any(getattr(module, "POOLS", False) for module in ALGORITHMS.values())
NUM_EXAMPLES = max(250, settings().max_examples)  # of each test; a profile can ask for more
EXACT_MEANS = (1, 2, 4, 8)  # windows by whose size a small integer can be divided


@dataclass(frozen=True)
class Problem:
    """Operands, what the reference takes beside them, and what only the kernels know."""

    operands: dict[str, Any]
    arguments: dict[str, Any]
    algorithm: str
    packed: bool
    late: bool
    precision: str = field(default="exact")

    @property
    def exact(self) -> bool:
        """Whether the result on integers has no rounding but the last."""
        pool = self.arguments["pool"]
        mean = 1
        if pool is not None and pool[0] == "avg":
            size = pool[1]
            mean = size[0] * size[1]
        return stays_exact(self.arguments["activation"]) and mean in EXACT_MEANS


def _sizes(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def _axis(draw: st.DrawFn, mode: str) -> dict[str, int]:
    """One axis with at least one output, and padding that the mode allows."""
    taps, stride, dilation = (draw(st.integers(1, most)) for most in (4, 4, 3))
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    reach = dilation * (taps - 1) + 1
    least = max(1, reach - before - after)
    if mode in ("reflect", "circular"):
        least = max(least, max(before, after) + (mode == "reflect"))
    size = draw(st.integers(least, least + 8))
    outputs = (before + size + after - reach) // stride + 1
    return {
        "size": size, "taps": taps, "stride": stride, "dilation": dilation, "before": before,
        "after": after, "outputs": outputs,
    }  # fmt: skip


@st.composite
def _pool(draw: st.DrawFn, outputs: tuple[int, int]) -> Any:
    kind = draw(st.sampled_from(["max", "avg"]))
    size = tuple(draw(st.integers(1, min(4, n))) for n in outputs)
    return draw(st.sampled_from([(kind, size), (kind, size, draw(_sizes(1, 3)))]))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Any legal call of conv2d on small integers."""
    mode = draw(st.sampled_from(("zeros", *PADDING_MODES)))
    rows, cols = draw(_axis(mode)), draw(_axis(mode))
    axes = (rows, cols)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    few = st.integers(1, 5)
    C_in, C_out = (draw(st.one_of(few, few, st.sampled_from([16, 33, 64, 130]))) for _ in range(2))
    if draw(st.integers(0, 5)) == 0:  # depthwise, with a multiplier
        groups, C_in, C_out = draw(st.integers(2, 9)), 1, draw(st.integers(1, 3))
    N = draw(st.integers(1, 3))
    dtype = DTYPES[draw(st.sampled_from(list(DTYPES)))]
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def integers(*shape: int, kind: Any = dtype) -> Any:
        return rng.integers(-3, 4, shape).astype(kind)

    layout = draw(st.sampled_from(["NCHW", "NCHW", "NHWC"]))
    x = integers(N, groups * C_in, rows["size"], cols["size"])
    operands = {"x": x, "w": integers(groups * C_out, C_in, rows["taps"], cols["taps"])}
    for name in ("bias", "scale"):
        kind = draw(st.sampled_from([None, np.float32, dtype]))
        operands[name] = None if kind is None else integers(groups * C_out, kind=kind)
    y_shape = (N, groups * C_out, rows["outputs"], cols["outputs"])
    operands["residual"] = integers(*y_shape) if draw(st.booleans()) else None
    if layout == "NHWC":
        for name in ("x", "residual"):
            if operands[name] is not None:
                operands[name] = np.ascontiguousarray(operands[name].transpose(0, 2, 3, 1))
    outputs = (rows["outputs"], cols["outputs"])
    arguments = {
        "stride": tuple(a["stride"] for a in axes),
        "padding": tuple((a["before"], a["after"]) for a in axes),
        "dilation": tuple(a["dilation"] for a in axes),
        "groups": groups,
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "pool": draw(st.one_of(st.none(), _pool(outputs))) if POOLS else None,
        "padding_mode": mode,
        "layout": layout,
    }
    return Problem(
        operands,
        arguments,
        algorithm=draw(st.sampled_from(["auto", *ALGORITHMS])),
        packed=draw(st.booleans()),
        late=draw(st.booleans()),
        precision=draw(st.sampled_from(["exact", "fast"])) if dtype is np.float32 else "exact",
    )


def _run(problem: Problem, target: str) -> Any:
    operands = dict(problem.operands)
    if problem.packed:
        operands["w"] = pack_weights(operands["w"], problem.arguments["groups"])
    call = functools.partial(
        conv2d, **operands, **problem.arguments, precision=problem.precision, target=target
    )
    with use_dma("late" if problem.late else "eager"):
        try:
            return call(algorithm=problem.algorithm)
        except ConstraintError as error:
            if problem.algorithm == "auto" or "no algorithm can do this" not in str(error):
                raise
            return call(algorithm="auto")  # which takes everything


def _check(y: Any, problem: Problem) -> None:
    arguments = problem.operands | problem.arguments
    expected = conv2d_ref(**arguments)
    assert y.dtype == expected.dtype
    if problem.exact:
        np.testing.assert_array_equal(y, expected)
        return
    ratio = bounds.max_error_ratio(
        y,
        conv2d_float64(**arguments),
        magnitude(**arguments),
        int(np.prod(problem.operands["w"].shape[1:])) + 16,  # and the additions of a mean
        y.dtype,
        activation=arguments["activation"],
        precision=problem.precision,
    )
    assert ratio <= 1


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@settings(deadline=None, max_examples=NUM_EXAMPLES)
@given(problem=problems())
def test_any_legal_call_equals_the_reference(target: str, problem: Problem) -> None:
    _check(_run(problem, target), problem)


def _torch_result(problem: Problem) -> Any:
    """Return PyTorch's composition in float64, rounded once; of exact problems alone."""
    import torch
    from torch.nn import functional as F

    arguments = problem.arguments
    last = arguments["layout"] == "NHWC"

    def tensor(name: str) -> Any:
        values = problem.operands[name]
        if values is None:
            return None
        values = torch.from_numpy(values.astype(np.float64))
        return values.permute(0, 3, 1, 2) if last and values.dim() == 4 and name != "w" else values

    (top, bottom), (left, right) = arguments["padding"]
    mode = arguments["padding_mode"]
    padded = F.pad(
        tensor("x"), (left, right, top, bottom), mode="constant" if mode == "zeros" else mode
    )
    keys = ("stride", "dilation", "groups")
    z = F.conv2d(padded, tensor("w"), **{key: arguments[key] for key in keys})
    if problem.operands["scale"] is not None:
        z = z * tensor("scale")[:, None, None]
    if problem.operands["bias"] is not None:
        z = z + tensor("bias")[:, None, None]
    if problem.operands["residual"] is not None:
        z = z + tensor("residual")
    activation = arguments["activation"]
    if isinstance(activation, tuple):
        z = F.leaky_relu(z, activation[1])
    elif activation is not None:
        z = getattr(F, activation)(z)
    if arguments["pool"] is not None:
        kind, *size_and_stride = arguments["pool"]
        z = {"max": F.max_pool2d, "avg": F.avg_pool2d}[kind](z, *size_and_stride)
    y = z.numpy().astype(problem.operands["x"].dtype)
    return y.transpose(0, 2, 3, 1) if last else y


@settings(deadline=None, max_examples=NUM_EXAMPLES)
@given(problem=problems().filter(lambda p: p.exact))
def test_any_legal_call_equals_torch(problem: Problem) -> None:
    pytest.importorskip("torch")
    np.testing.assert_array_equal(_run(problem, "trn2"), _torch_result(problem))
