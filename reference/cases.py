"""The convolutions that every algorithm is tried on: one row per thing that can go wrong.

Ids are written by hand: kernel, s stride, p padding, d dilation, g groups, c C_in, k C_out, image,
n batch (where not 1), then padding_mode, pool and layout (where there are any).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from nkiconv.reference import _arguments
from nkiconv.reference._arguments import Activation, IntOrPair, Padding, Pool
from nkiconv.reference._dtypes import DTYPES, Array, round_once

_ALL = ("float32", "float16", "bfloat16")
_BOTH = ("direct", "naive")
_DIRECT = ("direct",)
_POINTWISE = ("direct", "pointwise")
_IM2COL = ("direct", "im2col")
_PATCHES = ("direct", "patches")
_GROUPED = ("direct", "grouped")
_DEPTHWISE = ("direct", "depthwise")


class Arguments(TypedDict):
    """Keyword arguments that a case hands to conv2d."""

    stride: IntOrPair
    padding: Padding
    dilation: IntOrPair
    groups: int
    activation: Activation
    pool: Pool
    padding_mode: str
    layout: str


class _Added(TypedDict, total=False):
    """Arrays that few cases have."""

    scale: Array
    residual: Array


class Inputs(_Added):
    """Arrays that a case hands to conv2d."""

    x: Array
    w: Array
    bias: Array | None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One convolution.

    Parameters
    ----------
    algorithms
        Those to try: "naive" runs an instruction per output position, so only on tiny results.
    quick
        Part of a check that takes seconds.
    why
        What the row is for.
    """

    id: str
    N: int = 1
    C_in: int
    H: int
    W: int
    C_out: int
    KH: int
    KW: int
    stride: IntOrPair = 1
    padding: Padding = 0
    dilation: IntOrPair = 1
    groups: int = 1
    bias: bool = True
    scale: bool = False
    residual: bool = False
    activation: Activation = None
    pool: Pool = None
    padding_mode: str = "zeros"
    layout: str = "NCHW"
    dtypes: tuple[str, ...] = _ALL
    algorithms: tuple[str, ...] = _DIRECT
    quick: bool = True
    why: str

    @property
    def terms(self) -> int:
        """Products in one output element."""
        return self.KH * self.KW * self.C_in // self.groups

    @property
    def residual_shape(self) -> tuple[int, int, int, int]:
        """(N, C_out, OH, OW): the convolution's result, before a pool."""
        stride = _arguments.pair("stride", self.stride)
        dilation = _arguments.pair("dilation", self.dilation)
        pads = _arguments.padding(self.padding, (self.KH, self.KW), stride, dilation)
        OH, OW = (
            _arguments.output_size(axis, size + sum(pad), taps, step, spread)
            for axis, size, pad, taps, step, spread in zip(
                "HW", (self.H, self.W), pads, (self.KH, self.KW), stride, dilation, strict=True
            )
        )
        return self.N, self.C_out, OH, OW

    def arguments(self) -> Arguments:
        """Return what conv2d takes beside the arrays."""
        return Arguments(
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            activation=self.activation,
            pool=self.pool,
            padding_mode=self.padding_mode,
            layout=self.layout,
        )

    def exact_arguments(self) -> Arguments:
        """Return the arguments without activations and pools that leave the small integers.

        With these a right kernel equals `conv2d` bit for bit on integers.
        """
        arguments = self.arguments()
        if not stays_exact(self.activation):
            arguments["activation"] = None
        if self.pool is not None and self.pool[0] == "avg":
            size = _arguments.pair("pool size", self.pool[1])
            if size[0] * size[1] not in (1, 2, 4, 8):  # the mean divides by it
                arguments["pool"] = None
        return arguments


def stays_exact(activation: Activation) -> bool:
    """Whether an activation of a small integer is exact in float32."""
    if isinstance(activation, tuple):
        return activation[1] in (-1, -0.5, 0.25, 0.5, 2)
    return activation in (None, "relu", "relu6")


def make_inputs(case: Case, dtype: str, seed: int = 0, integers: bool = False) -> Inputs:
    """Return x, w, bias (None where the case has none), scale and residual, rounded to `dtype`.

    Standard normal numbers, w divided by sqrt(terms) so that results are of size 1.  With
    `integers` whole numbers from -3 to 3: every partial sum is then exact in float32, and a right
    kernel equals `conv2d` bit for bit with `Case.exact_arguments`.

    Raises
    ------
    ValueError
        `dtype` is not float32, float16 or bfloat16.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 1.0) -> Array:
        values = rng.integers(-3, 4, shape) if integers else scale * rng.standard_normal(shape)
        return round_once(values, DTYPES[dtype])

    inputs = Inputs(
        x=draw(case.N, case.C_in, case.H, case.W),
        w=draw(
            case.C_out, case.C_in // case.groups, case.KH, case.KW, scale=1 / np.sqrt(case.terms)
        ),
        bias=draw(case.C_out) if case.bias else None,
    )
    if case.scale:
        inputs["scale"] = draw(case.C_out)
    if case.residual:
        inputs["residual"] = draw(*case.residual_shape)
    if case.layout == "NHWC":
        inputs["x"] = np.ascontiguousarray(inputs["x"].transpose(0, 2, 3, 1))
        if case.residual:
            inputs["residual"] = np.ascontiguousarray(inputs["residual"].transpose(0, 2, 3, 1))
    return inputs


# fmt: off
CASES: tuple[Case, ...] = (
    # --- the smallest problems -----------------------------------------------------------------
    Case(id="1x1-s1-p0-c1-k1-1x1", C_in=1, H=1, W=1, C_out=1, KH=1, KW=1, algorithms=_BOTH,
         why="every size is 1"),
    Case(id="3x3-s1-p1-c3-k4-1x1", C_in=3, H=1, W=1, C_out=4, KH=3, KW=3, padding=1,
         bias=False, algorithms=_BOTH, why="one pixel: eight of nine taps see padding alone"),
    Case(id="5x5-s1-p1-c8-k8-3x3", C_in=8, H=3, W=3, C_out=8, KH=5, KW=5, padding=1,
         activation="sigmoid", algorithms=_BOTH, why="kernel as large as the padded input"),
    Case(id="3x3-s1-p4-c6-k5-4x3", C_in=6, H=4, W=3, C_out=5, KH=3, KW=3, padding=4,
         algorithms=_BOTH, why="padding larger than the kernel: results that are the bias alone"),
    Case(id="3x3-s1-p1-c130-k130-3x5", C_in=130, H=3, W=5, C_out=130, KH=3, KW=3, padding=1,
         activation="relu", algorithms=_BOTH, why="two channel tiles on both sides: 128 and 2"),
    Case(id="3x2-s2x1-p1x0-c4-k3-7x6-n2", N=2, C_in=4, H=7, W=6, C_out=3, KH=3, KW=2,
         stride=(2, 1), padding=(1, 0), activation="tanh", algorithms=_BOTH,
         why="everything different along the two axes; a batch for naive"),
    # --- ordinary layers -----------------------------------------------------------------------
    Case(id="3x3-s1-p1-c64-k128-28x28", C_in=64, H=28, W=28, C_out=128, KH=3, KW=3, padding=1,
         activation="relu", why="the common layer of a ResNet"),
    Case(id="1x1-s1-p0-c256-k128-28x28", C_in=256, H=28, W=28, C_out=128, KH=1, KW=1,
         activation="gelu", algorithms=_POINTWISE,
         why="pointwise: a plain matrix product over two full channel tiles"),
    Case(id="1x1-s2-p0-c64-k130-14x14", C_in=64, H=14, W=14, C_out=130, KH=1, KW=1, stride=2,
         bias=False, algorithms=_POINTWISE,
         why="shortcut of a ResNet: reads every second pixel; C_out just over 128"),
    Case(id="7x7-s2-p3-c3-k64-64x64", C_in=3, H=64, W=64, C_out=64, KH=7, KW=7, stride=2,
         padding=3, activation="relu", algorithms=_IM2COL,
         why="stem: three channels, large kernel, stride 2"),
    Case(id="2x2-s2-p0-c100-k64-12x12", C_in=100, H=12, W=12, C_out=64, KH=2, KW=2, stride=2,
         why="patches: stride equal to the kernel, no pixel read twice"),
    Case(id="16x16-s16-p0-c3-k48-64x80-n2", N=2, C_in=3, H=64, W=80, C_out=48, KH=16, KW=16,
         stride=16, algorithms=_PATCHES, why="patch embedding: few channels, many taps"),
    Case(id="3x3-s1-valid-c128-k129-10x10-n3", N=3, C_in=128, H=10, W=10, C_out=129, KH=3, KW=3,
         padding="valid", activation="silu", why="batch of small images; exactly one C_in tile"),
    # --- awkward sizes -------------------------------------------------------------------------
    Case(id="3x3-s1-p1-c200-k1-31x37", C_in=200, H=31, W=37, C_out=1, KH=3, KW=3, padding=1,
         activation="sigmoid", why="one output channel; prime image; C_in not a multiple of 128"),
    Case(id="3x3-s3-p0-c16-k24-20x23", C_in=16, H=20, W=23, C_out=24, KH=3, KW=3, stride=3,
         activation="tanh", why="stride 3, and pixels at the end that no window reaches"),
    Case(id="3x3-s2-asym-c20-k12-14x15", C_in=20, H=14, W=15, C_out=12, KH=3, KW=3, stride=2,
         padding=((0, 2), (1, 0)), why="padding different on all four sides"),
    Case(id="4x4-s1-same-c12-k10-11x13", C_in=12, H=11, W=13, C_out=10, KH=4, KW=4,
         padding="same", activation="relu", why="even kernel: the odd pixel goes bottom and right"),
    Case(id="5x1-s1-p2x0-c48-k40-19x23", C_in=48, H=19, W=23, C_out=40, KH=5, KW=1,
         padding=(2, 0), bias=False, activation="gelu", why="column kernel"),
    Case(id="1x7-s1-p0x3-c40-k48-17x17", C_in=40, H=17, W=17, C_out=48, KH=1, KW=7,
         padding=(0, 3), bias=False, activation="silu", why="row kernel"),
    Case(id="3x3-s1-p2-d2-c32-k48-21x21", C_in=32, H=21, W=21, C_out=48, KH=3, KW=3, padding=2,
         dilation=2, why="dilation"),
    Case(id="3x2-s1-same-d1x3-c9-k11-8x19", C_in=9, H=8, W=19, C_out=11, KH=3, KW=2,
         padding="same", dilation=(1, 3), why="dilation along one axis, with an odd total padding"),
    Case(id="3x3-s1-p1-c16-k8-5x600", C_in=16, H=5, W=600, C_out=8, KH=3, KW=3, padding=1,
         why="a row of results longer than the 512 columns of one matmul"),
    Case(id="3x3-s2-p1-c8-k8-6x1101", C_in=8, H=6, W=1101, C_out=8, KH=3, KW=3, stride=2,
         padding=1, quick=False, why="the same with stride 2: 551 results in a row"),
    # --- what follows the convolution -----------------------------------------------------------
    Case(id="3x3-s1-p1-c32-k64-14x14", C_in=32, H=14, W=14, C_out=64, KH=3, KW=3, padding=1,
         scale=True, activation="relu6", why="a folded batch-norm and MobileNet's activation"),
    Case(id="1x1-s1-p0-c48-k130-9x10-n2", N=2, C_in=48, H=9, W=10, C_out=130, KH=1, KW=1,
         scale=True, residual=True, activation="relu", algorithms=_POINTWISE,
         why="end of a residual block, all at once"),
    Case(id="1x1-s1-p0-c40-k72-13x11", C_in=40, H=13, W=11, C_out=72, KH=1, KW=1, bias=False,
         residual=True, activation="hardswish", why="residual and MobileNetV3's activation"),
    Case(id="3x3-s2-p1-c24-k40-15x14", C_in=24, H=15, W=14, C_out=40, KH=3, KW=3, stride=2,
         padding=1, scale=True, bias=False, activation="hardswish", why="scale alone, hardswish"),
    Case(id="3x3-s1-p1-c20-k33-10x12", C_in=20, H=10, W=12, C_out=33, KH=3, KW=3, padding=1,
         activation="leaky_relu", why="the usual slope"),
    Case(id="3x3-s1-p1-c20-k34-10x12", C_in=20, H=10, W=12, C_out=34, KH=3, KW=3, padding=1,
         scale=True, residual=True, activation=("leaky_relu", 0.25), why="a slope of one's own"),
    Case(id="3x3-s1-p1-c20-k35-10x12", C_in=20, H=10, W=12, C_out=35, KH=3, KW=3, padding=1,
         scale=True, activation="gelu_tanh", why="the approximation of gelu"),
    # --- borders, pools, layouts ------------------------------------------------------------------
    Case(id="3x3-s1-p1-c12-k16-9x11-n2-reflect", N=2, C_in=12, H=9, W=11, C_out=16, KH=3, KW=3,
         padding=1, padding_mode="reflect", why="a border that mirrors the image"),
    Case(id="5x5-s2-p2-c12-k16-9x11-replicate", C_in=12, H=9, W=11, C_out=16, KH=5, KW=5, stride=2,
         padding=2, padding_mode="replicate", activation="relu", why="a border of its edge pixels"),
    Case(id="3x3-s1-same-d2-c12-k16-9x11-circular", C_in=12, H=9, W=11, C_out=16, KH=3, KW=3,
         padding="same", dilation=2, padding_mode="circular", why="a border from the other side"),
    Case(id="3x3-s1-p1-c64-k64-28x28-max2", C_in=64, H=28, W=28, C_out=64, KH=3, KW=3, padding=1,
         activation="relu", pool=("max", 2), why="the common block of a VGG"),
    Case(id="7x7-s2-p3-c3-k64-64x64-max3s2", C_in=3, H=64, W=64, C_out=64, KH=7, KW=7, stride=2,
         padding=3, activation="relu", pool=("max", 3, 2), why="windows that overlap"),
    Case(id="3x3-s1-p1-c16-k32-7x9-n5-avg7x9", N=5, C_in=16, H=7, W=9, C_out=32, KH=3, KW=3,
         padding=1, scale=True, activation="silu", pool=("avg", (7, 9)), why="a global mean"),
    Case(id="3x3-s1-p1-c16-k32-12x10-reflect-avg2", C_in=16, H=12, W=10, C_out=32, KH=3, KW=3,
         padding=1, residual=True, padding_mode="reflect", pool=("avg", 2), why="all of it"),
    Case(id="3x3-s1-p1-c40-k136-14x13-nhwc", C_in=40, H=14, W=13, C_out=136, KH=3, KW=3, padding=1,
         activation="relu", layout="NHWC", why="channels last"),
    Case(id="1x1-s1-p0-c130-k40-9x9-n2-nhwc", N=2, C_in=130, H=9, W=9, C_out=40, KH=1, KW=1,
         residual=True, layout="NHWC", algorithms=_POINTWISE,
         why="channels last, with a residual; two tiles"),
    # --- groups --------------------------------------------------------------------------------
    Case(id="3x3-s1-p1-g2-c64-k96-15x15", C_in=64, H=15, W=15, C_out=96, KH=3, KW=3, padding=1,
         groups=2, activation="relu", algorithms=_GROUPED,
         why="two groups"),
    Case(id="1x1-s1-p0-g2-c260-k264-9x7", C_in=260, H=9, W=7, C_out=264, KH=1, KW=1, groups=2,
         bias=False, quick=False, why="groups that each need two channel tiles"),
    Case(id="3x3-s1-p1-g24-c24-k24-16x16", C_in=24, H=16, W=16, C_out=24, KH=3, KW=3, padding=1,
         groups=24, algorithms=_DEPTHWISE,
         why="depthwise: one channel per group"),
    Case(id="3x3-s2-p1-g6-c6-k12-11x9-n2", N=2, C_in=6, H=11, W=9, C_out=12, KH=3, KW=3, stride=2,
         padding=1, groups=6, quick=False, algorithms=_DEPTHWISE,
         why="depthwise, two results per channel, stride 2"),
    # --- real sizes ----------------------------------------------------------------------------
    Case(id="7x7-s2-p3-c3-k64-224x224", C_in=3, H=224, W=224, C_out=64, KH=7, KW=7, stride=2,
         padding=3, activation="relu", quick=False, algorithms=_IM2COL,
         why="the stem of a ResNet-50"),
    Case(id="3x3-s1-p1-c256-k256-56x56", C_in=256, H=56, W=56, C_out=256, KH=3, KW=3, padding=1,
         bias=False, quick=False, why="the size that the simulator's own speed is measured on"),
    Case(id="3x3-s1-p1-c512-k512-7x7-n4", N=4, C_in=512, H=7, W=7, C_out=512, KH=3, KW=3,
         padding=1, activation="relu", quick=False, why="end of a ResNet: channels, few pixels"),
    Case(id="3x3-s1-p1-c128-k128-224x224", C_in=128, H=224, W=224, C_out=128, KH=3, KW=3,
         padding=1, dtypes=("float32", "bfloat16"), quick=False,
         why="the size at which naive and direct are compared"),
)
# fmt: on
