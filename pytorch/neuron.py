"""The kernels on a NeuronCore: all that touches torch-xla and torch-neuronx.

No line of this file has run on a device yet.  What it rests on, read 2026-11 in the vendor's
documentation:

- "NKI Kernel as a Framework Custom Operator": with torch-xla, a function under ``@nki.jit`` is
  called with tensors on the XLA device like any other operation.
- "Native PyTorch for AWS Trainium": tensors live on the device ``neuron``, autograd is added with
  ``register_autograd``; vLLM Neuron's "NKI CPU Simulator" page: ``wrap_nki(kernel)`` from
  ``torch_neuronx`` makes the kernel callable there.

The plan is made from sizes alone.  Weights are packed on the host, once, and again when their
version counter says that they changed: each change costs a round trip to the host.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

from torch import Tensor

from nkiconv.kernels import pack_weights
from nkiconv.kernels._algorithm import Candidate, Operands, Problem
from nkiconv.kernels._choice import ALGORITHMS, choose, run
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.pytorch._options import Options
from nkiconv.pytorch._packed import PerTensor
from nkiconv.simulate import ConstraintError, current_target
from nkiconv.simulate.arrays import like
from nkiconv.simulate.embedded import is_embedded_kernel

_packed = PerTensor()


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    options: Options,
    sizes: list[int],
) -> Tensor:
    """Call the kernels on tensors of a NeuronCore; all is checked, `sizes` is y's shape.

    Raises
    ------
    ConstraintError
        No kernel can do this, or there is no NKI but the embedded simulator.
    """
    (N, C_in, H, W), (C_out, _, KH, KW) = x.shape, weight.shape
    groups = options.groups
    (s_h, s_w), (d_h, d_w) = options.stride, options.dilation
    problem = Problem(
        Geometry(
            N=N,
            G=groups,
            C_in=C_in // groups,
            C_out=C_out // groups,
            rows=Axis(H, KH, sizes[2], s_h, d_h, options.padding[0]),
            cols=Axis(W, KW, sizes[3], s_w, d_w, options.padding[2]),
            itemsize=x.element_size(),
        ),
        Epilogue(
            activation=options.activation,
            has_scale=scale is not None,
            has_bias=bias is not None,
            has_residual=residual is not None,
            slope=options.slope,
        ),
        str(x.dtype).removeprefix("torch."),
        padding_mode=options.padding_mode,
    )
    best = _best(problem, current_target())
    arrays: dict[str, Any] = {  # Operands declares arrays of the host
        "x": x.contiguous(),
        "w": _weights_on_device(weight, groups, best),
        "scale": None if scale is None else scale.float().reshape(-1, 1),
        "bias": None if bias is None else bias.float().reshape(-1, 1),
        "residual": None if residual is None else residual.contiguous(),
    }
    launch = _launch_native if x.device.type == "neuron" else _launch_xla
    y: Tensor = run(launch, best, Operands(**arrays))
    return y


@lru_cache(maxsize=256)
def _best(problem: Problem, target: str) -> Candidate:
    """Return the choice for the target in force, whose name is part of the cache's key."""
    return choose(problem).candidates[0]


def _weights_on_device(weight: Tensor, groups: int, best: Candidate) -> Tensor:
    """Return the weights as the plan's kernel loads them, on the weight's device."""

    def make() -> Tensor:
        host = weight.detach().cpu()
        packed = ALGORITHMS[best.algorithm].pack(pack_weights(host, groups), best.plan)
        on_host: Tensor = like(packed.copy(), host)  # packed arrays are read-only
        return on_host.to(weight.device)

    return _packed.get(weight, (best.algorithm, best.plan), make)


def _launch_xla(kernel: Any, *args: Any) -> Any:
    _check_real(kernel)
    return kernel(*args)


def _launch_native(kernel: Any, *args: Any) -> Any:
    _check_real(kernel)
    try:
        wrap_nki = importlib.import_module("torch_neuronx").wrap_nki
    except (ImportError, AttributeError) as error:
        raise ConstraintError(
            f"conv2d: tensors on the device neuron need wrap_nki of torch_neuronx, which failed "
            f"to import: {error} (Native PyTorch for AWS Trainium)"
        ) from error
    return wrap_nki(kernel)(*args)


def _check_real(kernel: Any) -> None:
    """Refuse to hand device tensors to the simulator."""
    if is_embedded_kernel(kernel):
        raise ConstraintError(
            "conv2d: the tensors are on a NeuronCore, but the NKI in use is the embedded simulator;"
            " install the vendor's nki, or unset NKICONV_SIMULATOR (nkiconv doctor)"
        )
