"""profile_model: the modelled time of every convolution of a model, and what it leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nkiconv.pytorch.modules import Conv2d
from nkiconv.simulate import ConstraintError, Profile, current_target, profile, use_target

Observer = Callable[[str, Conv2d, Tensor, Tensor], None]


@dataclass(frozen=True)
class LayerTime:
    """One call of a layer.

    Attributes
    ----------
    name
        Of the layer, in the model.
    sizes
        ``kernel stride channels in>out, rows x columns of the input``, for people.
    modelled_us
        Modelled latency on the target, launch included.
    flops
        Multiplications and additions, those with padding included.
    profile
        Everything else that the timing model says.
    """

    name: str
    sizes: str
    modelled_us: float
    flops: int
    profile: Profile = field(repr=False)

    def to_dict(self) -> dict[str, object]:
        """Return the figures, ready for JSON."""
        return {
            "name": self.name,
            "sizes": self.sizes,
            "modelled_us": self.modelled_us,
            "mfu": self.profile.mfu,
            "bound": self.profile.bound,
            "flops": self.flops,
            "hbm_read_bytes": self.profile.hbm_read_bytes,
            "hbm_write_bytes": self.profile.hbm_write_bytes,
        }


@dataclass(frozen=True)
class ModelProfile:
    """The modelled time of a model's convolutions, and a list of what is not modelled.

    Attributes
    ----------
    target
        ``trn1``, ``trn2`` or ``trn3``.
    layers
        The calls of layers, in order.
    not_modelled
        Every other operation that ran, with how often; views and the like are left out.
    other_flops, conv_flops
        Floating point operations of matrix products outside the layers, and of the layers.
    """

    target: str
    layers: tuple[LayerTime, ...]
    not_modelled: dict[str, int]
    conv_flops: int
    other_flops: int

    @property
    def modelled_us(self) -> float:
        """Sum over the layers, each launched by itself: an upper bound for one compiled graph."""
        return sum(layer.modelled_us for layer in self.layers)

    def table(self) -> str:
        """Return a line for each layer, their sum, and what is not in it."""
        rows = [("layer", "sizes", "modelled µs", "share", "MFU", "bound")]
        total = self.modelled_us
        for layer in self.layers:
            seen = layer.profile
            rows.append(
                (
                    layer.name,
                    layer.sizes,
                    f"{layer.modelled_us:.1f}",
                    f"{layer.modelled_us / total:.1%}",
                    f"{seen.mfu:.1%}",
                    seen.bound,
                )
            )
        rows.append(("sum", f"{len(self.layers)} calls", f"{total:.1f}", "", "", ""))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = []
        for row in rows:
            cells = [
                cell.rjust(widths[i]) if 2 <= i <= 4 else cell.ljust(widths[i])
                for i, cell in enumerate(row)
            ]
            lines.append("  ".join(cells).rstrip())
        rule = "-" * max(len(line) for line in lines)
        lines = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
        lines += ["", *self.remarks()]
        return "\n".join(lines)

    def remarks(self) -> list[str]:
        """Return what has to be said beside the sum."""
        others = ", ".join(f"{name} {count}" for name, count in self.not_modelled.items())
        share = self.other_flops / max(self.other_flops + self.conv_flops, 1)
        return [
            f"Modelled on {self.target}; every layer is launched by itself.",
            f"Not modelled, so not in the sum: {others or 'nothing'}.",
            f"Of the multiplications and additions in matrix products, {share:.1%} are outside the"
            " layers.",
        ]

    def to_dict(self) -> dict[str, object]:
        """Return everything but the timelines, ready for JSON."""
        return {
            "target": self.target,
            "modelled_us": self.modelled_us,
            "layers": [layer.to_dict() for layer in self.layers],
            "not_modelled": dict(self.not_modelled),
            "conv_flops": self.conv_flops,
            "other_flops": self.other_flops,
        }

    def __str__(self) -> str:
        return self.table()


def profile_model(
    model: nn.Module,
    *args: Any,
    target: str | None = None,
    progress: Callable[[str], None] | None = None,
    observe: Observer | None = None,
    **kwargs: Any,
) -> tuple[Any, ModelProfile]:
    """Run a model through the simulator; return its result and the modelled time of its layers.

    Parameters
    ----------
    *args, **kwargs
        Of the model.
    target
        ``trn1``, ``trn2`` or ``trn3``; None for the target in force.
    progress
        Called with a layer's name before it runs.
    observe
        Called with each layer's name, the layer, its input and its result.

    Raises
    ------
    ConstraintError
        No `Conv2d` ran in the simulator: `replace_convs` comes first.

    Notes
    -----
    Runs without gradients.
    """
    times: list[LayerTime] = []
    others = _Operations()
    flops = FlopCounterMode(display=False)
    with use_target(target), torch.no_grad():
        name = current_target()
        with _timing(model, times, others, progress, observe), flops, others:
            result = model(*args, **kwargs)
    if not times:
        raise ConstraintError(
            f"profile_model: no layer of {type(model).__name__} ran in the simulator; "
            "replace_convs(model) first, with CPU tensors"
        )
    return result, ModelProfile(
        target=name,
        layers=tuple(times),
        not_modelled=dict(sorted(others.counts.items(), key=lambda item: (-item[1], item[0]))),
        conv_flops=sum(layer.flops for layer in times),
        other_flops=int(flops.get_total_flops()),
    )


class _Operations(TorchDispatchMode):
    """Counts the operations that do work, outside the layers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.counts: Counter[str] = Counter()
        self.inside_layer = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation, and do it."""
        if not self.inside_layer and _works(func):
            self.counts[str(func.overloadpacket.__name__).rstrip("_")] += 1
        return func(*args, **(kwargs or {}))


def _works(func: Any) -> bool:
    """Whether an operation touches every element: views do not, nor do empty tensors."""
    name = func.overloadpacket.__name__
    return not (
        func.is_view
        or name in ("detach", "empty", "empty_like", "empty_strided", "_unsafe_view", "sym_size")
    )


@contextmanager
def _timing(
    model: nn.Module,
    times: list[LayerTime],
    others: _Operations,
    progress: Callable[[str], None] | None,
    observe: Observer | None,
) -> Iterator[None]:
    """Have every layer's forward run under `profile`, for as long as this lasts."""
    layers = {module: name for name, module in model.named_modules() if isinstance(module, Conv2d)}

    def timed(layer: Conv2d, name: str) -> Callable[..., Tensor]:
        def forward(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if progress is not None:
                progress(name)
            others.inside_layer = True
            try:
                y, seen = profile(Conv2d.forward, layer, input, *args, **kwargs)
                if observe is not None:
                    observe(name, layer, input, y)
            finally:
                others.inside_layer = False
            KH, KW = layer.kernel_size
            flops = 2 * y.numel() * KH * KW * layer.in_channels // layer.groups
            times.append(LayerTime(name, _sizes(layer, input), seen.latency_us, flops, seen))
            return y

        return forward

    try:
        for layer, name in layers.items():
            # in the instance's dict: nn.Module finds it before the class's
            layer.__dict__["forward"] = timed(layer, name)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _sizes(layer: Conv2d, x: Tensor) -> str:
    KH, KW = layer.kernel_size
    groups = f" g{layer.groups}" if layer.groups > 1 else ""
    return (
        f"{KH}x{KW} s{layer.stride[0]}{groups} {layer.in_channels}>{layer.out_channels} "
        f"{x.shape[-2]}x{x.shape[-1]}"
    )
