"""replace_convs: make every `nn.Conv2d` of a model a `Conv2d`; restore_convs: undo it.

The module objects stay: only their class changes, and back.  Names, parameters, hooks, optimizers
and whatever else refers to a module go on working, and undoing leaves the model that there was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from nkiconv.kernels._arguments import DTYPES
from nkiconv.pytorch._activations import activation_of
from nkiconv.pytorch._order import Order, find_order
from nkiconv.pytorch.backends import check_backend
from nkiconv.pytorch.modules import FUSED, Conv2d, Fusion
from nkiconv.simulate import ConstraintError

Filter = Callable[[str, nn.Conv2d], bool]

_REPLACED = "_nkiconv_replaced"


@dataclass(frozen=True)
class Layer:
    """What became of one convolution.

    Attributes
    ----------
    name
        In the model; a module with several names has the first.
    kind
        Its class, before.
    taken
        Whether it runs on the kernels now.
    reason
        Why it does not; empty if it does.
    batchnorm, activation
        Names of the modules whose work it does too, or empty.
    notes
        Why a BatchNorm or an activation behind it stays as it is, and what costs time.
    """

    name: str
    kind: str
    taken: bool
    reason: str = ""
    batchnorm: str = ""
    activation: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Every convolution of a model, taken or not."""

    model: str
    layers: tuple[Layer, ...]
    untraced: dict[str, str] = field(default_factory=dict)

    @property
    def taken(self) -> tuple[Layer, ...]:
        """The layers that run on the kernels now."""
        return tuple(layer for layer in self.layers if layer.taken)

    @property
    def left(self) -> tuple[Layer, ...]:
        """The layers that are as they were."""
        return tuple(layer for layer in self.layers if not layer.taken)

    def table(self) -> str:
        """Return the report as text, a line for each layer."""
        rows = [("layer", "was", "now", "BatchNorm", "activation", "why")]
        for layer in self.layers:
            why = "; ".join(filter(None, (layer.reason, *layer.notes)))
            now = "kernel" if layer.taken else "as before"
            rows.append((layer.name, layer.kind, now, layer.batchnorm, layer.activation, why))
        used = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
        widths = {i: max(len(row[i]) for row in rows) for i in used}
        lines = ["  ".join(row[i].ljust(widths[i]) for i in used).rstrip() for row in rows]
        lines.insert(1, "-" * max(len(line) for line in lines[:1]))
        folded = sum(bool(layer.batchnorm) for layer in self.layers)
        fused = sum(bool(layer.activation) for layer in self.layers)
        lines.append("")
        lines.append(
            f"{self.model}: {len(self.taken)} of {len(self.layers)} convolutions on the kernels, "
            f"{folded} with their BatchNorm, {fused} with their activation"
        )
        if self.untraced:
            where = ", ".join(name or self.model for name in self.untraced)
            lines.append(
                f"torch.fx cannot record the forward pass of {where}: what lies between their own "
                "layers stays as it is"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON."""
        content: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return content

    def __str__(self) -> str:
        return self.table()


@dataclass(frozen=True)
class _Step:
    """What is to be done with one convolution."""

    conv: nn.Conv2d
    fusion: Fusion | None
    batchnorm: nn.Module | None
    activation: nn.Module | None


def replace_convs(
    model: nn.Module,
    filter: Filter | None = None,
    *,
    fold_batchnorm: bool = True,
    fuse_activation: bool = True,
    backend: str | None = None,
) -> Report:
    """Make every `nn.Conv2d` of a model a `Conv2d`, in place; say which, which not, and why.

    Parameters
    ----------
    filter
        Called with name and module; layers for which it is false stay as they are.
    fold_batchnorm, fuse_activation
        Let a layer do a BatchNorm (while that is in eval mode) and an activation behind it, where
        nothing else uses what lies between.
    backend
        As in `nkiconv.pytorch.conv2d`, for all layers.

    Raises
    ------
    ConstraintError
        `model` is no module, has no convolution, or has them on the meta device alone.

    Notes
    -----
    Weights, buffers and the state dict stay as they are: a folded weight is made when a forward
    pass needs it.  What a hook sees behind a layer includes what the layer does besides, so layers
    and modules that have hooks are not fused.
    """
    check_backend(backend)
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise ConstraintError(f"replace_convs: the model is a {kind}, not a torch.nn.Module")
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    convs = [module for module in names if isinstance(module, _ConvNd)]
    if not convs:
        raise ConstraintError(f"replace_convs: {kind} has no convolution (torch.nn.modules.conv)")
    if all(conv.weight.device.type == "meta" for conv in convs):
        raise ConstraintError(
            f"replace_convs: the convolutions of {kind} are on the meta device, without values; "
            "give them some first (model.to_empty, load_state_dict)"
        )
    order = find_order(model) if fold_batchnorm or fuse_activation else Order()
    layers, steps = [], []
    for conv in convs:
        name, others = names[conv][0], names[conv][1:]
        reason = _why_not(name, conv, filter)
        if reason or not isinstance(conv, nn.Conv2d):  # which has a reason
            layers.append(Layer(name, type(conv).__name__, False, reason))
            continue
        step, notes = _plan(conv, order, names, fold_batchnorm, fuse_activation)
        steps.append(step)
        if others:
            notes.append(f"shared: also {', '.join(others)}")
        if conv.padding_mode != "zeros":
            notes.append(f"{conv.padding_mode} padding takes a copy of the image first")
        layers.append(
            Layer(
                name,
                type(conv).__name__,
                True,
                batchnorm=names[step.batchnorm][0] if step.batchnorm else "",
                activation=names[step.activation][0] if step.activation else "",
                notes=tuple(notes),
            )
        )
    for step in steps:
        _carry_out(step, backend)
    return Report(kind, tuple(layers), dict(order.failures))


def restore_convs(model: nn.Module) -> int:
    """Undo `replace_convs`: every module is of its former class; return how many layers were taken.

    Layers that were made as `Conv2d` stay what they are.
    """
    restored = 0
    for module in model.modules():
        if isinstance(module, Conv2d) and module.__dict__.pop(_REPLACED, False):
            for name in ("fusion", "backend"):
                module.__dict__.pop(name, None)
            _become(module, nn.Conv2d)
            restored += 1
        elif type(module) in _UNFUSED:
            module.__dict__.pop("fusion", None)
            _become(module, _UNFUSED[type(module)])
    return restored


_UNFUSED: dict[type[nn.Module], type[nn.Module]] = {ours: plain for plain, ours in FUSED.items()}


def _why_not(name: str, conv: _ConvNd, filter: Filter | None) -> str:
    """Return why a convolution is not taken, or nothing."""
    if isinstance(conv, Conv2d):
        return "runs on the kernels already"
    if isinstance(conv, nn.modules.conv._ConvTransposeNd):
        return "transposed"
    if not isinstance(conv, nn.Conv2d):
        return f"has {len(conv.kernel_size)} dimensions, not 2"
    if isinstance(conv, nn.modules.lazy.LazyModuleMixin):
        return "has no weights yet (lazy)"
    if type(conv) is not nn.Conv2d:
        return f"{type(conv).__name__} may compute something else than Conv2d"
    if "forward" in vars(conv):
        return "its forward was replaced"
    if conv.weight.device.type == "meta":
        return "on the meta device, without values"
    dtype = str(conv.weight.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        return f"{dtype}; the kernels take {', '.join(DTYPES)}"
    if filter is not None and not filter(name, conv):
        return "filtered out"
    return ""


def _plan(
    conv: nn.Conv2d,
    order: Order,
    names: dict[nn.Module, list[str]],
    fold_batchnorm: bool,
    fuse_activation: bool,
) -> tuple[_Step, list[str]]:
    """Return what a layer takes over, and remarks about what it does not."""
    last: nn.Module = conv
    notes: list[str] = []
    batchnorm, activation = None, None
    user = _only_user(last, order, notes)
    if isinstance(user, nn.BatchNorm2d) and fold_batchnorm:
        problem = _why_not_folded(conv, user, order)
        if problem:
            notes.append(f"{names[user][0]} not folded: {problem}")
        else:
            batchnorm = last = user
            user = _only_user(last, order, notes)
    between: list[nn.Dropout | nn.Dropout2d] = []
    while (
        isinstance(user, _DROPOUTS)
        and type(user) in _DROPOUTS
        and not _why_not_fused(last, user, order)
    ):
        between.append(user)
        last = user
        user = _only_user(last, order, notes)
    if user is not None and fuse_activation and activation_of(user) is not None:
        problem = _why_not_fused(last, user, order)
        if problem:
            notes.append(f"{names[user][0]} not fused: {problem}")
        else:
            activation = user
    fusion = None
    if batchnorm is not None or activation is not None:
        fusion = Fusion(
            batchnorm=batchnorm if isinstance(batchnorm, nn.BatchNorm2d) else None,
            activation=None if activation is None else activation_of(activation),
            between=tuple(between) if activation is not None else (),
        )
    return _Step(conv, fusion, batchnorm, activation), notes


def _only_user(module: nn.Module, order: Order, notes: list[str]) -> nn.Module | None:
    """Return the module that is the only user of a module's results, at every call."""
    calls = order.calls.get(module, [])
    if not calls:
        return None
    if len({call.user for call in calls}) > 1:
        return None
    if calls[0].user is None and calls[0].use in _FUNCTIONS:
        notes.append(f"{calls[0].use} is called as a function, not a module")
    return calls[0].user


_DROPOUTS = (nn.Dropout, nn.Dropout2d)

_FUNCTIONS = frozenset(
    ("relu", "relu_", "gelu", "silu", "sigmoid", "tanh", "leaky_relu", "hardswish", "relu6",
     "batch_norm")
)  # fmt: skip


def _why_not_folded(conv: nn.Conv2d, batchnorm: nn.BatchNorm2d, order: Order) -> str:
    if type(batchnorm) is not nn.BatchNorm2d:
        return f"{type(batchnorm).__name__} may compute something else"
    if batchnorm.running_mean is None or batchnorm.running_var is None:
        return "it keeps no running statistics"
    if batchnorm.num_features != conv.out_channels:
        return f"it has {batchnorm.num_features} channels, the layer {conv.out_channels}"
    values = (batchnorm.running_mean, batchnorm.running_var, batchnorm.weight, batchnorm.bias)
    for value in values:
        if value is not None and value.device != conv.weight.device:
            return f"it is on {value.device}, the layer on {conv.weight.device}"
    if batchnorm.running_mean.dtype != conv.weight.dtype:
        return f"it is in {batchnorm.running_mean.dtype}, the layer in {conv.weight.dtype}"
    return _why_not_fused(conv, batchnorm, order)


def _why_not_fused(before: nn.Module, after: nn.Module, order: Order) -> str:
    """Return why `before` cannot do the work of `after`, which is its only user, or nothing."""
    if any(call.source is not before for call in order.calls.get(after, [])):
        return "it is called on other values too"
    if before._forward_hooks or before._backward_hooks or before._backward_pre_hooks:
        return "there is a hook in front of it"
    if _has_hooks(after):
        return "it has a hook"
    if "forward" in vars(after):
        return "its forward was replaced"
    return ""


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _become(module: Any, kind: type[nn.Module]) -> None:
    """Change a module's class: a function, since type checkers hold on to the former one."""
    module.__class__ = kind


def _carry_out(step: _Step, backend: str | None) -> None:
    conv = step.conv
    _become(conv, Conv2d)
    conv.__dict__[_REPLACED] = True
    if backend is not None:
        conv.__dict__["backend"] = backend
    if step.fusion is None:
        return
    conv.__dict__["fusion"] = step.fusion
    for module in (step.batchnorm, step.activation):
        if module is not None:
            _become(module, FUSED[type(module)])
            module.__dict__["fusion"] = step.fusion
