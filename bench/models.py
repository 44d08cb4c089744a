"""`nkiconv model`: a model of another library, its convolutions by the kernels."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nkiconv.bench.errors import UserError
from nkiconv.bench.output import (
    cell,
    check_writable,
    counter,
    new_table,
    say,
    say_table,
    write_json,
)
from nkiconv.bench.tables import SHORT_BOUND, Captioned

if TYPE_CHECKING:
    from nkiconv.pytorch.models import Check

__all__ = ["model"]


class _Dtype(str, Enum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def model(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="resnet18, resnet50, convnext-tiny or unet.")
    ],
    size: Annotated[int, typer.Option(min=32, help="Height and width of the images.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 1,
    dtype: Annotated[_Dtype, typer.Option(help="Of weights and images.")] = _Dtype.float32,
    fuse: Annotated[
        bool,
        typer.Option("--fuse/--no-fuse", help="Do BatchNorms and activations in the same pass."),
    ] = True,
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="NeuronCore to model: trn1 (also inf2), trn2 or trn3."),
    ] = None,
    json: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", metavar="FILE", help="Write the same numbers as JSON."),
    ] = None,
) -> None:
    """Run a whole model with its convolutions on the kernels; compare with PyTorch, and time it.

    The architecture is that of transformers or monai, the weights are made from a fixed seed. Exit
    code 1 if a layer or the result is outside its bound, or a convolution was not replaced.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("models need torch: pip install 'nkiconv[models]'") from error
    from nkiconv.pytorch.models import build, check_model, make_images
    from nkiconv.simulate import current_target, use_target

    if json is not None:
        check_writable(json)
    kind = getattr(torch, dtype.value)
    with use_target(target):
        target_name = current_target()
        built = build(name, kind)
        images = make_images(size, batch, kind)
        convs = sum(isinstance(module, torch.nn.Conv2d) for module in built.module.modules())
        with counter(convs, name) as announce:
            done = check_model(
                built.module,
                images,
                progress=announce,
                fold_batchnorm=fuse,
                fuse_activation=fuse,
            )
    say(f"{name} of {built.library}, {batch} x 3 x {size} x {size}, {dtype.value}")
    say("")
    say_table(*_table(done, target_name))
    say("")
    for line in _summary(done):
        say(line)
    if json is not None:
        about = {
            "model": name,
            "library": built.library,
            "size": size,
            "batch": batch,
            "dtype": dtype.value,
        }
        write_json(json, about | done.to_dict())
    raise typer.Exit(0 if done.passed and not done.report.left else 1)


def _table(done: Check, target: str) -> Captioned:
    """One line for each call of a layer, and their sum."""
    table = new_table(
        "layer", "sizes", "µs", "share", "MFU", "bound", numbers=frozenset(("µs", "share", "MFU"))
    )
    total = done.profile.modelled_us
    for layer in done.profile.layers:
        seen = layer.profile
        table.add_row(
            cell(layer.name),
            cell(layer.sizes),
            cell(f"{layer.modelled_us:.1f}"),
            cell(f"{layer.modelled_us / total:.1%}"),
            cell(f"{seen.mfu:.1%}"),
            cell(SHORT_BOUND.get(seen.bound, seen.bound)),
        )
    table.add_section()
    table.add_row(cell("sum"), cell(f"{len(done.profile.layers)} calls"), cell(f"{total:.1f}"))
    return table, (
        f"sizes: kernel, stride, groups, channels, image. µs: modelled on {target}, each layer"
        " launched by itself. share: of the sum. MFU: share of TensorE's peak."
    )


def _summary(done: Check) -> list[str]:
    taken = done.report.taken
    folded = sum(bool(layer.batchnorm) for layer in taken)
    fused = sum(bool(layer.activation) for layer in taken)
    lines = [
        f"replaced  {len(taken)} of {len(done.report.layers)} convolutions, {folded} with their"
        f" BatchNorm, {fused} with their activation",
        *(f"left      {layer.name}: {layer.reason}" for layer in done.report.left),
        f"layers    largest error {done.layer_error:.2f} of its allowance, at {done.worst_layer}",
        f"result    rms error {done.error:.2g}, allowed {done.allowed:.2g}; PyTorch's own"
        f" {done.torch_error:.2g}; rms of the result {done.scale:.3g}",
        *done.profile.remarks()[1:],
    ]
    return lines if done.passed else [*lines, "FAILED    an error is larger than allowed"]
