"""What a convolution is told beside its tensors, and what that means in PyTorch's own functions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Options(NamedTuple):
    """Checked arguments as the operator passes them on; `padding` is (top, bottom, left, right)."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    padding_mode: str
    activation: str | None
    slope: float


def is_even(options: Options) -> bool:
    """Whether PyTorch's convolution can pad by itself: zeros, alike on both sides."""
    top, bottom, left, right = options.padding
    return options.padding_mode == "zeros" and top == bottom and left == right


def padded(x: Tensor, options: Options) -> Tensor:
    """Return x with its border."""
    top, bottom, left, right = options.padding
    mode = "constant" if options.padding_mode == "zeros" else options.padding_mode
    if mode != "constant" and not any(options.padding):
        return x
    return F.pad(x, (left, right, top, bottom), mode=mode)


def unpadded(grad: Tensor, x: Tensor, options: Options) -> Tensor:
    """Return the gradient of x from that of `padded`: what a border repeats adds up."""
    top, bottom, left, right = options.padding
    H, W = x.shape[2:]
    if options.padding_mode == "zeros":
        return grad[:, :, top : top + H, left : left + W]
    rows = _sources(H, (top, bottom), options.padding_mode, x.device)
    cols = _sources(W, (left, right), options.padding_mode, x.device)
    shape = (*grad.shape[:2], H, grad.shape[3])
    grad = grad.new_zeros(shape).index_add(2, rows, grad)
    return grad.new_zeros(x.shape).index_add(3, cols, grad)


def _sources(size: int, pads: tuple[int, int], mode: str, device: torch.device) -> Tensor:
    """Return which pixel of the image each pixel of the padded one is."""
    if not any(pads):
        return torch.arange(size, device=device)
    pixels = torch.arange(size, dtype=torch.float32, device=device)[None, None]
    return F.pad(pixels, pads, mode=mode)[0, 0].long()


def convolved(x: Tensor, weight: Tensor, options: Options, bias: Tensor | None = None) -> Tensor:
    """conv(x, weight) + bias, by PyTorch."""
    even = is_even(options)
    return F.conv2d(
        x if even else padded(x, options),
        weight,
        None if bias is None else bias.to(x.dtype),
        options.stride,
        [options.padding[0], options.padding[2]] if even else [0, 0],
        options.dilation,
        options.groups,
    )


def preactivation(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    options: Options,
) -> Tensor:
    """scale * conv(x, weight) + bias + residual, by PyTorch; in x's dtype from step to step."""
    z = convolved(x, weight, options, bias if scale is None else None)
    if scale is not None:
        z = z * scale.to(z.dtype)[:, None, None]
        z = z if bias is None else z + bias.to(z.dtype)[:, None, None]
    return z if residual is None else z + residual
