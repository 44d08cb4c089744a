"""Which module follows which in a model, where that can be known.

`torch.fx` records a model's forward pass without values.  Where it fails, because the code looks at
values or at a flag, the model's children are tried by themselves.  What no recorded pass calls has
no order: nothing is guessed from names or from the order of definition, except in a plain
`nn.Sequential`, whose order is its meaning.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from torch import fx, nn

from nkiconv.pytorch.modules import FUSED, Conv2d

_FUSED = tuple(FUSED.values())


@dataclass(frozen=True)
class Call:
    """A call of a module: what it is called on, and what uses its result.

    `source` is the module whose result is the only argument, `user` the module that is the only
    user, if these are modules; `users` counts every use.
    """

    source: nn.Module | None
    user: nn.Module | None
    users: int
    use: str  # of the only user, for people


@dataclass
class Order:
    """The recorded calls by module, and why parts were not recorded."""

    calls: dict[nn.Module, list[Call]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[str, str] = field(default_factory=dict)  # by a module's name


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (Conv2d, *_FUSED)):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def find_order(model: nn.Module) -> Order:
    """Return what can be known about the order of a model's modules."""
    order = Order()
    _visit(model, "", order)
    return order


def _visit(module: nn.Module, name: str, order: Order) -> None:
    if not any(module.children()):
        return
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # whatever a stranger's forward does with a value that is none
        if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):  # which have no forward
            order.failures[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        if type(module) is nn.Sequential:
            _record_sequence(module, order)
        for child_name, child in module.named_children():
            _visit(child, f"{name}.{child_name}" if name else child_name, order)
        return
    _record_graph(graph, dict(module.named_modules(remove_duplicate=False)), order)


def _record_graph(graph: fx.Graph, modules: dict[str, nn.Module], order: Order) -> None:
    def called(node: object) -> nn.Module | None:
        if isinstance(node, fx.Node) and node.op == "call_module":
            return modules[str(node.target)]
        return None

    for node in graph.nodes:
        module = called(node)
        if module is None:
            continue
        users = list(node.users)
        single = len(users) == 1
        alone = len(node.args) == 1 and not node.kwargs
        order.calls[module].append(
            Call(
                source=called(node.args[0]) if alone else None,
                user=called(users[0]) if single and len(users[0].args) == 1 else None,
                users=len(users),
                use=_words(users[0]) if single else "",
            )
        )


def _words(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", None) or str(node.target)
    return "the result" if node.op == "output" else name


def _record_sequence(module: nn.Sequential, order: Order) -> None:
    """Record the leaves of a sequence of which another child cannot be traced."""
    children = list(module)
    for i, child in enumerate(children):
        if any(child.children()):
            continue
        before = children[i - 1] if i else None
        after = children[i + 1] if i + 1 < len(children) else None
        order.calls[child].append(
            Call(
                source=before if before is not None and not any(before.children()) else None,
                user=after if after is not None and not any(after.children()) else None,
                users=1,
                use=type(after).__name__ if after is not None else "the result",
            )
        )
