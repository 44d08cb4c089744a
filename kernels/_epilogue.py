"""From PSUM to SBUF: y = act(scale*acc + bias + residual), rounded once.

`Epilogue` says which of these there are; `evict` does them for one PSUM tile:

    None, relu, gelu, gelu_tanh,   ScalarE's function of scale*acc + bias, one instruction;
    silu, sigmoid, tanh            None and relu also on VectorE
    relu6                          min(relu(z), 6): the minimum after rounding, which keeps order
    leaky_relu                     z = scale*acc + bias in float32, then max(slope*z, z)
    hardswish                      z = scale*acc + bias in float32, then z * min(relu(z + 3), 6) / 6

A residual is added before, in one instruction of VectorE.  Pools follow in _blocks.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._activations import activation_op
from nkiconv.kernels._blocks import Pool


@dataclass(frozen=True)
class Epilogue(nl.NKIObject):
    """What follows the sum over taps and channels; all of it happens in float32.

    `slope` is that of leaky_relu.  A `pool` takes windows of the activation's results.
    """

    activation: str | None = None
    has_scale: bool = False
    has_bias: bool = False
    has_residual: bool = False
    slope: float = 0.0
    pool: Pool | None = None

    @property
    def instructions(self) -> int:
        """The most instructions that `evict` takes."""
        more = {"relu": 1, "relu6": 1, "leaky_relu": 1, "hardswish": 3}
        return 1 + self.has_residual + more.get(self.activation or "", 0)

    @property
    def scratch_bytes(self) -> int:
        """SBUF bytes per partition that `evict` needs beside its operands: two banks' float32."""
        in_float32 = self.activation in ("leaky_relu", "hardswish")
        return 2 * 4 * nl.tile_size.psum_bank_fmax if in_float32 else 0


def evict(
    dst_sb: nl.NkiTensor,
    acc_ps: nl.NkiTensor,
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    residual_sb: nl.NkiTensor | None,
    epilogue: Epilogue,
    on_vector: bool,
) -> None:
    """dst_sb = act(scale_sb*acc_ps + bias_sb + residual_sb).

    Shapes
    ------
    dst_sb, residual_sb   (co, rows, cols)  as y, SBUF; dst_sb may be f32
    acc_ps                (co, rows, cols)  f32, PSUM; its values are lost
    scale_sb, bias_sb     (co, 1)           f32, SBUF, or None

    Parameters
    ----------
    on_vector
        VectorE does it where it can (None, relu and relu6 without a residual); else ScalarE.
        Taking turns empties PSUM faster.
    """
    if residual_sb is not None:
        _add_residual(acc_ps, scale_sb, residual_sb)
        scale_sb = None
        on_vector = False
    if epilogue.activation == "leaky_relu":
        _leaky_relu(dst_sb, acc_ps, scale_sb, bias_sb, epilogue.slope)
    elif epilogue.activation == "hardswish":
        _hardswish(dst_sb, acc_ps, scale_sb, bias_sb)
    elif on_vector and epilogue.activation is None:
        _affine_by_vector(dst_sb, acc_ps, scale_sb, bias_sb)
    elif on_vector and (epilogue.activation == "relu" or epilogue.activation == "relu6"):
        _relu_by_vector(dst_sb, acc_ps, scale_sb, bias_sb, epilogue.activation)
    else:
        _activate(dst_sb, acc_ps, epilogue.activation, scale_sb, bias_sb)
        if epilogue.activation == "relu6":
            nisa.tensor_scalar(dst=dst_sb, data=dst_sb, op0=nl.minimum, operand0=6.0)


def load_table(epilogue: Epilogue) -> None:
    """Have ScalarE load its table of functions at once, while the first operands are loaded."""
    one_sb = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=one_sb, value=0.0)
    nisa.activation(dst=one_sb, op=activation_op(epilogue.activation), data=one_sb)


def _add_residual(
    acc_ps: nl.NkiTensor, scale_sb: nl.NkiTensor | None, residual_sb: nl.NkiTensor
) -> None:
    """acc_ps = scale_sb*acc_ps + residual_sb."""
    if scale_sb is not None:
        nisa.scalar_tensor_tensor(
            dst=acc_ps, data=acc_ps, op0=nl.multiply, operand0=scale_sb, op1=nl.add,
            operand1=residual_sb,
        )  # fmt: skip
    else:
        nisa.tensor_tensor(dst=acc_ps, data1=acc_ps, data2=residual_sb, op=nl.add)


def _activate(
    dst_sb: nl.NkiTensor,
    acc_ps: nl.NkiTensor,
    activation: str | None,
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
) -> None:
    """dst_sb = act(scale_sb*acc_ps + bias_sb) by one function of ScalarE."""
    op = activation_op(activation)
    if scale_sb is not None:
        nisa.activation(dst=dst_sb, op=op, data=acc_ps, scale=scale_sb, bias=bias_sb)
    else:
        nisa.activation(dst=dst_sb, op=op, data=acc_ps, bias=bias_sb)


def _affine_by_vector(
    dst_sb: nl.NkiTensor,
    acc_ps: nl.NkiTensor,
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
) -> None:
    """dst_sb = scale_sb*acc_ps + bias_sb."""
    if scale_sb is not None and bias_sb is not None:
        nisa.tensor_scalar(
            dst=dst_sb, data=acc_ps, op0=nl.multiply, operand0=scale_sb, op1=nl.add,
            operand1=bias_sb,
        )  # fmt: skip
    elif scale_sb is not None:
        nisa.tensor_scalar(dst=dst_sb, data=acc_ps, op0=nl.multiply, operand0=scale_sb)
    elif bias_sb is not None:
        nisa.tensor_scalar(dst=dst_sb, data=acc_ps, op0=nl.add, operand0=bias_sb)
    else:
        nisa.tensor_copy(dst=dst_sb, src=acc_ps, engine=nisa.engine.vector)


def _relu_by_vector(
    dst_sb: nl.NkiTensor,
    acc_ps: nl.NkiTensor,
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    activation: str,
) -> None:
    """dst_sb = max(scale_sb*acc_ps + bias_sb, 0), for relu6 at most 6.

    Two operators fit one instruction; what is over follows on the rounded values in SBUF, where
    VectorE is faster and which are the same.
    """
    clipped = activation == "relu6"
    if scale_sb is None and bias_sb is None and clipped:
        nisa.tensor_scalar(
            dst=dst_sb, data=acc_ps, op0=nl.maximum, operand0=0.0, op1=nl.minimum, operand1=6.0
        )
    elif scale_sb is None and bias_sb is None:
        nisa.tensor_scalar(dst=dst_sb, data=acc_ps, op0=nl.maximum, operand0=0.0)
    elif scale_sb is not None and bias_sb is not None:
        _affine_by_vector(dst_sb, acc_ps, scale_sb, bias_sb)
        if clipped:
            nisa.tensor_scalar(
                dst=dst_sb, data=dst_sb, op0=nl.maximum, operand0=0.0, op1=nl.minimum, operand1=6.0
            )
        else:
            nisa.tensor_scalar(dst=dst_sb, data=dst_sb, op0=nl.maximum, operand0=0.0)
    else:
        if scale_sb is not None:
            nisa.tensor_scalar(
                dst=dst_sb, data=acc_ps, op0=nl.multiply, operand0=scale_sb, op1=nl.maximum,
                operand1=0.0,
            )  # fmt: skip
        else:
            nisa.tensor_scalar(
                dst=dst_sb, data=acc_ps, op0=nl.add, operand0=bias_sb, op1=nl.maximum, operand1=0.0
            )
        if clipped:
            nisa.tensor_scalar(dst=dst_sb, data=dst_sb, op0=nl.minimum, operand0=6.0)


def _leaky_relu(
    dst_sb: nl.NkiTensor,
    acc_ps: nl.NkiTensor,
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    slope: float,
) -> None:
    """dst_sb = the larger of z and slope*z (the smaller where slope > 1), z = scale*acc + bias."""
    z_sb = nl.ndarray(acc_ps.shape, dtype=nl.float32, buffer=nl.sbuf)
    _activate(z_sb, acc_ps, None, scale_sb, bias_sb)
    choose = nl.maximum
    if slope > 1:
        choose = nl.minimum
    nisa.scalar_tensor_tensor(
        dst=dst_sb, data=z_sb, op0=nl.multiply, operand0=slope, op1=choose, operand1=z_sb
    )


def _hardswish(
    dst_sb: nl.NkiTensor,
    acc_ps: nl.NkiTensor,
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
) -> None:
    """dst_sb = z * min(max(z + 3, 0), 6) / 6, z = scale*acc + bias; acc_ps holds what is between.

    Two instructions on ScalarE and two on VectorE, so that tiles keep both busy.
    """
    z_sb = nl.ndarray(acc_ps.shape, dtype=nl.float32, buffer=nl.sbuf)
    _activate(z_sb, acc_ps, None, scale_sb, bias_sb)
    nisa.tensor_scalar(
        dst=acc_ps, data=z_sb, op0=nl.add, operand0=3.0, op1=nl.maximum, operand1=0.0
    )
    nisa.scalar_tensor_tensor(
        dst=acc_ps, data=acc_ps, op0=nl.minimum, operand0=6.0, op1=nl.multiply, operand1=z_sb
    )
    nisa.activation(dst=dst_sb, op=nl.copy, data=acc_ps, scale=1.0 / 6.0)
