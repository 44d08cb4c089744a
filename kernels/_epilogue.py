"""From PSUM to HBM: y = act(scale*acc + bias + residual), rounded once.

`Epilogue` says which of these there are; `evict` does them for one PSUM tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._activations import activation_op


@dataclass(frozen=True)
class Epilogue(nl.NKIObject):
    """What follows the sum over taps and channels; all of it happens in float32."""

    activation: str | None = None
    has_scale: bool = False
    has_bias: bool = False
    has_residual: bool = False


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
    dst_sb, residual_sb   (co, rows, cols)  as y, SBUF
    acc_ps                (co, rows, cols)  f32, PSUM; overwritten where there is a residual
    scale_sb, bias_sb     (co, 1)           f32, SBUF, or None

    Parameters
    ----------
    on_vector
        VectorE does it where it can (None and "relu" without a residual); else ScalarE.  Taking
        turns empties PSUM faster.
    """
    simple = epilogue.activation is None or epilogue.activation == "relu"
    if residual_sb is not None:
        if scale_sb is not None:
            nisa.scalar_tensor_tensor(
                dst=acc_ps, data=acc_ps, op0=nl.multiply, operand0=scale_sb, op1=nl.add,
                operand1=residual_sb,
            )  # fmt: skip
        else:
            nisa.tensor_tensor(dst=acc_ps, data1=acc_ps, data2=residual_sb, op=nl.add)
        nisa.activation(
            dst=dst_sb, op=activation_op(epilogue.activation), data=acc_ps, bias=bias_sb
        )
    elif on_vector and simple and scale_sb is None:
        _evict_by_vector(dst_sb, acc_ps, bias_sb, epilogue)
    elif scale_sb is not None:
        nisa.activation(
            dst=dst_sb, op=activation_op(epilogue.activation), data=acc_ps, scale=scale_sb,
            bias=bias_sb,
        )  # fmt: skip
    else:
        nisa.activation(
            dst=dst_sb, op=activation_op(epilogue.activation), data=acc_ps, bias=bias_sb
        )


def _evict_by_vector(
    dst_sb: nl.NkiTensor, acc_ps: nl.NkiTensor, bias_sb: nl.NkiTensor | None, epilogue: Epilogue
) -> None:
    """dst_sb = acc_ps + bias_sb, or the larger of that and 0."""
    relu = epilogue.activation == "relu"
    if bias_sb is not None and relu:
        nisa.tensor_scalar(
            dst=dst_sb, data=acc_ps, op0=nl.add, operand0=bias_sb, op1=nl.maximum, operand1=0.0
        )
    elif bias_sb is not None:
        nisa.tensor_scalar(dst=dst_sb, data=acc_ps, op0=nl.add, operand0=bias_sb)
    elif relu:
        nisa.tensor_scalar(dst=dst_sb, data=acc_ps, op0=nl.maximum, operand0=0.0)
    else:
        nisa.tensor_copy(dst=dst_sb, src=acc_ps, engine=nisa.engine.vector)
