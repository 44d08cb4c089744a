"""`nkiconv plan`: what conv2d chooses for a layer, why, and what else could be done.

A layer is named as in layers.json, by any part of its name that tells it apart, or written in the
words of reference/cases.py: ``3x3-s1-p1-c64-k128-56x56``, where ``-d2`` (dilation), ``-g4``
(groups) and ``-n8`` (images) may follow the padding, and ``s2x1`` stands for (2, 1).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nkiconv.bench.errors import UserError
from nkiconv.bench.layers import Layer, LayerData, known_layers
from nkiconv.kernels import pack_weights
from nkiconv.kernels._algorithm import Candidate, Operands, Problem
from nkiconv.kernels._choice import ALGORITHMS, Choice, choose, run
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Geometry, make_axis
from nkiconv.reference._dtypes import DTYPES
from nkiconv.simulate import profile, simulate_kernel, use_target

__all__ = [
    "Chosen",
    "chosen_plan",
    "find_layer",
    "modelled_us",
    "numbers",
    "problem_of",
    "ranks",
]

_LETTERS = {
    "s": "stride",
    "p": "padding",
    "d": "dilation",
    "g": "groups",
    "c": "C_in",
    "k": "C_out",
    "n": "N",
}
_SPELT = "3x3-s1-p1-c64-k128-56x56"


def find_layer(text: str) -> Layer:
    """Return the layer of that name, or with these sizes.

    Raises
    ------
    UserError
        No layer, or several, have `text` in their name; sizes that do not fit together.
    """
    if not text.strip():
        raise UserError(
            f"a layer has a name, which `nkiconv layers` shows, or sizes, written {_SPELT}"
        )
    spelt = _spelt_layer(text)
    if spelt is not None:
        return spelt
    known = known_layers()
    wanted = text.lower()
    exact = [layer for layer in known if layer.name.lower() == wanted]
    found = exact or [layer for layer in known if wanted in layer.name.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(repr(layer.name) for layer in found)
        raise UserError(f"layer {text!r} may be {names}")
    close = difflib.get_close_matches(text, [layer.name for layer in known], n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else "`nkiconv layers` shows the names;"
    raise UserError(f"no layer {text!r}; {hint} sizes are written {_SPELT}")


def _spelt_layer(text: str) -> Layer | None:
    """Return the layer of these sizes; None if `text` does not look like sizes."""
    parts = text.split("-")
    if not re.fullmatch(r"\d+x\d+", parts[0]):
        return None
    values: dict[str, tuple[int, int]] = {}
    sizes: list[tuple[int, int]] = []
    for part in parts:
        match = re.fullmatch(r"([a-z]?)(\d+)(?:x(\d+))?", part)
        if match is None or (match[1] and match[1] not in _LETTERS):
            raise UserError(f"layer {text!r}: {part!r} is no size; write {_SPELT}")
        pair = int(match[2]), int(match[3] or match[2])
        if not match[1]:
            sizes.append(pair)
        elif _LETTERS[match[1]] in values:
            raise UserError(f"layer {text!r} says {match[1]!r} twice")
        else:
            values[_LETTERS[match[1]]] = pair
    missing = [letter for letter in "ck" if _LETTERS[letter] not in values]
    if missing or len(sizes) != 2:
        raise UserError(f"layer {text!r} lacks sizes; write {_SPELT}")
    single = {name: values.pop(name, (1, 1)) for name in ("C_in", "C_out", "N", "groups")}
    for name, (value, other) in single.items():
        if value != other or value < 1:
            raise UserError(f"layer {text!r}: {name} must be one number of at least 1")
    layer = Layer(
        id=0,
        name=text,
        N=single["N"][0],
        C_in=single["C_in"][0],
        C_out=single["C_out"][0],
        groups=single["groups"][0],
        kernel=sizes[0],
        size=sizes[1],
        **values,
    )
    _check_sizes(layer)
    return layer


def _check_sizes(layer: Layer) -> None:
    if 0 in (*layer.kernel, *layer.size, *layer.stride, *layer.dilation):
        raise UserError(f"layer {layer.name!r}: sizes must be at least 1")
    if layer.C_in % layer.groups or layer.C_out % layer.groups:
        raise UserError(f"layer {layer.name!r}: {layer.groups} groups do not divide the channels")
    if min(layer.out) < 1:
        raise UserError(f"layer {layer.name!r}: the kernel is larger than the padded image")


def problem_of(
    layer: Layer, dtype: str, *, bias: bool = False, activation: str | None = None
) -> Problem:
    """Return the layer as conv2d's algorithms take it."""
    rows, cols = (
        make_axis(size, taps, outputs, stride, dilation, (pad, pad))
        for size, taps, outputs, stride, dilation, pad in zip(
            layer.size, layer.kernel, layer.out, layer.stride, layer.dilation, layer.padding,
            strict=True,
        )
    )  # fmt: skip
    return Problem(
        Geometry(
            N=layer.N,
            G=layer.groups,
            C_in=layer.C_in // layer.groups,
            C_out=layer.C_out // layer.groups,
            rows=rows,
            cols=cols,
            itemsize=DTYPES[dtype].itemsize,
        ),
        Epilogue(activation=activation, has_bias=bias),
        dtype,
    )


@dataclass(frozen=True)
class Chosen:
    """What conv2d chooses for a layer, and how long that took."""

    layer: Layer
    dtype: str
    target: str
    choice: Choice
    seconds: float
    bias: bool = False

    @property
    def best(self) -> Candidate:
        """The candidate that conv2d runs."""
        return self.choice.candidates[0]

    def estimates_us(self) -> list[float]:
        """Estimated times of the candidates, without launch."""
        with use_target(self.target):
            return [candidate.estimate_us() for candidate in self.choice.candidates]

    def to_dict(self, modelled: Sequence[float] = ()) -> dict[str, object]:
        """Return plain values for JSON; `modelled` has the candidates' modelled times, if any."""
        times = [
            {"modelled_us": us, "rank": n} for us, n in zip(modelled, ranks(modelled), strict=True)
        ]
        return {
            "layer": self.layer.name,
            "dtype": self.dtype,
            "target": self.target,
            "algorithm": self.best.algorithm,
            "why": self.best.why,
            "seconds": self.seconds,
            "plan": dataclasses.asdict(self.best.plan),
            "price": dataclasses.asdict(self.best.price),
            "candidates": [
                {
                    "algorithm": candidate.algorithm,
                    "why": candidate.why,
                    "estimate_us": us,
                    "price": dataclasses.asdict(candidate.price),
                    **(times[place] if times else {}),
                }
                for place, (candidate, us) in enumerate(
                    zip(self.choice.candidates, self.estimates_us(), strict=True)
                )
            ],
            "not_suited": self.choice.refusals,
        }


def chosen_plan(
    layer: Layer,
    dtype: str,
    target: str,
    *,
    algorithm: str = "auto",
    bias: bool = False,
    activation: str | None = None,
) -> Chosen:
    """Return what conv2d chooses.

    Raises
    ------
    ConstraintError
        No algorithm can do the layer.
    """
    problem = problem_of(layer, dtype, bias=bias, activation=activation)
    with use_target(target):
        started = time.perf_counter()
        choice = choose(problem, algorithm)
        seconds = time.perf_counter() - started
    return Chosen(layer, dtype, target, choice, seconds, bias)


def modelled_us(
    chosen: Chosen, announce: Callable[[str], None] = lambda name: None
) -> tuple[float, ...]:
    """Return each candidate's modelled time without launch; `nkiconv tune` checks results, too."""
    data = LayerData(chosen.layer, bias=chosen.bias)
    dtype = DTYPES[chosen.dtype]
    packed = pack_weights(data.w.astype(dtype), chosen.layer.groups)
    bias = None if data.bias is None else data.bias.reshape(-1, 1)
    times = []
    for candidate in chosen.choice.candidates:
        announce(f"{chosen.layer.name} {candidate.algorithm}")
        w = ALGORITHMS[candidate.algorithm].pack(packed, candidate.plan)
        operands = Operands(x=data.x.astype(dtype), w=w, bias=bias)
        _, seen = profile(run, simulate_kernel, candidate, operands, target=chosen.target)
        times.append(seen.body_us)
    return tuple(times)


def ranks(times: Sequence[float]) -> list[int]:
    """Return the rank of each time, 1 for the shortest; equal ones share one."""
    return [1 + sum(other < time for other in times) for time in times]


def numbers(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the whole numbers of a plan, named as in Python; of many alike how many, and the first.

    The whole of it is in the JSON.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        if name and not any(_nested(inner) for _, inner in fields):
            yield name, ", ".join(f"{field} {inner}" for field, inner in fields)
            return
        for field, inner in fields:
            yield from numbers(inner, f"{name}.{field}" if name else field)
    elif isinstance(value, (tuple, list)) and any(map(_holds_objects, value)):
        yield f"{name}", f"{len(value)}" + (", the first:" if len(value) > 1 else ":")
        yield from numbers(value[0], f"{name}[0]")
    else:
        yield name, str(value)


def _nested(value: object) -> bool:
    return dataclasses.is_dataclass(value) or isinstance(value, (tuple, list))


def _holds_objects(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_objects, value))
    return dataclasses.is_dataclass(value)
