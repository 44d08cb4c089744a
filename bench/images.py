"""Image files to planes of numbers and back.

A picture is P planes of float32 values: one for greyscale, three for colour.  An alpha channel is
carried beside them, untouched.  8-bit samples stand as 0 to 255, which all three dtypes of the
kernels hold exactly; 16-bit samples are divided by 256 (exact in float32), because float16 ends
at 65504.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nkiconv.bench.errors import UserError
from nkiconv.bench.output import write_bytes

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError:
    raise UserError("images need Pillow: pip install 'nkiconv[cli]'") from None

__all__ = [
    "Picture",
    "image_format",
    "load_picture",
    "render",
    "save_picture",
    "side_by_side",
]

MAX_PIXELS = 16_000_000
"""Largest picture: the simulation takes about 10 s and 300 MB for each million (measured)."""

# Pillow's modes, by what they become here. 16-bit greyscale is treated apart.
_MODES = {
    **dict.fromkeys(("1", "L"), "L"),
    **dict.fromkeys(("LA", "La"), "LA"),
    **dict.fromkeys(("P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"), "RGB"),
    **dict.fromkeys(("PA", "RGBA", "RGBa"), "RGBA"),
}
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}


@dataclass(frozen=True)
class Picture:
    """Planes (P, H, W) float32, P = 1 or 3, and how to write them back.

    `scale` is what a stored sample was divided by; `top` the largest stored sample.
    """

    planes: NDArray[np.float32]
    alpha: NDArray[np.uint8] | None = None
    scale: float = 1.0
    top: int = 255

    @property
    def kind(self) -> str:
        """What a person would call it: ``RGB``, ``grey``, with ``+alpha`` or ``16-bit``."""
        name = "RGB" if len(self.planes) == 3 else "grey"
        return (
            name
            + ("+alpha" if self.alpha is not None else "")
            + (" 16-bit" if self.top > 255 else "")
        )

    def samples(self, planes: NDArray[np.floating]) -> NDArray[np.uint16]:
        """Round `planes` to the samples a file stores; outside values saturate, NaN becomes 0."""
        stored = np.nan_to_num(planes.astype(np.float64) * self.scale, nan=0.0)
        return np.rint(stored).clip(0, self.top).astype(np.uint16)


def load_picture(path: Path) -> Picture:
    """Read an image file, upright (EXIF orientation applied); of an animation the first frame.

    Raises
    ------
    UserError
        No such file, not an image, damaged, larger than `MAX_PIXELS` or Pillow's own limit, or
        samples that are neither 8-bit nor 16-bit greyscale.
    """
    if not path.exists():
        raise UserError(f"no such file: {str(path)!r}")
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a directory, not an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{str(path)!r} has {image.width} x {image.height} pixels; at most "
                        f"{MAX_PIXELS} in all are simulated, for the time it takes"
                    )
                image.load()
                upright = ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{str(path)!r} has more than {Image.MAX_IMAGE_PIXELS} pixels, the limit of Pillow "
            "against decompression bombs"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"{str(path)!r} is not an image that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow's readers raise
        raise UserError(f"cannot read {str(path)!r}: {error}") from error
    return _picture(upright, path)


def _picture(image: Image.Image, path: Path) -> Picture:
    if image.mode.startswith("I"):
        return _picture_16_bit(np.asarray(image), path)
    mode = _MODES.get(image.mode)
    if mode is None:
        raise UserError(
            f"{str(path)!r} has Pillow mode {image.mode!r}; supported are 8-bit greyscale, "
            "palette, RGB and CMYK, each with or without alpha, and 16-bit greyscale"
        )
    if "transparency" in image.info:  # a palette entry or one colour stands for "transparent"
        mode = _WITH_ALPHA.get(mode, mode)
    channels = np.asarray(image.convert(mode))
    channels = channels.reshape(*channels.shape[:2], -1).transpose(2, 0, 1)
    alpha = channels[-1].copy() if mode.endswith("A") else None
    planes = channels[:1] if mode.startswith("L") else channels[:3]
    return Picture(planes.astype(np.float32, order="C"), alpha)


def _picture_16_bit(samples: NDArray[np.integer], path: Path) -> Picture:
    # Pillow gives 16-bit greyscale as mode "I;16" or, from some formats, as 32-bit "I".
    if samples.min() < 0 or samples.max() > 65535:
        raise UserError(f"{str(path)!r} holds 32-bit samples; 8 and 16 bits are supported")
    return Picture(samples[None].astype(np.float32) / np.float32(256), scale=256.0, top=65535)


def render(picture: Picture) -> Image.Image:
    """Return the picture as a Pillow image of the mode it came from."""
    samples = picture.samples(picture.planes)
    if picture.top > 255:
        return Image.fromarray(samples[0])  # uint16 becomes "I;16"
    layers = [*samples.astype(np.uint8)]
    if picture.alpha is not None:
        layers.append(picture.alpha)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(layers)]
    return Image.merge(mode, [Image.fromarray(layer) for layer in layers])


def image_format(path: Path) -> str:
    """Return the name of the format that the suffix of `path` stands for.

    Raises
    ------
    UserError
        Pillow writes no format with that suffix.
    """
    name = Image.registered_extensions().get(path.suffix.lower())
    if name is None or name not in Image.SAVE:
        raise UserError(
            f"cannot write {str(path)!r}: unknown image suffix {path.suffix!r} (try .png)"
        )
    return name


def save_picture(path: Path, image: Image.Image) -> None:
    """Encode `image` by the suffix of `path`, then write it whole or not at all."""
    encoded = io.BytesIO()
    try:
        image.save(encoded, format=image_format(path))
    except (OSError, ValueError, KeyError) as error:  # for one: JPEG has no alpha
        raise UserError(f"cannot write {str(path)!r}: {error} (.png takes every mode)") from error
    write_bytes(path, encoded.getvalue())


def side_by_side(before: Picture, after: Picture, captions: tuple[str, str]) -> Image.Image:
    """Return both pictures next to each other, each under its caption, as one RGB image.

    Raises
    ------
    UserError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("--before-after needs matplotlib: pip install 'nkiconv[cli]'") from None
    height, width = before.planes.shape[1:]
    # 8 inches wide at 160 dots per inch: twice the width at which a README is usually shown
    figure = Figure(figsize=(8, 4 * min(max(height / width, 0.2), 4) + 0.3), dpi=160)
    for position, (picture, caption) in enumerate(zip((before, after), captions, strict=True)):
        axes = figure.add_axes((0.005 + 0.5 * position, 0.005, 0.49, 0.92))
        shown = np.asarray(_for_screen(picture))
        axes.imshow(shown, interpolation="antialiased")
        axes.set_title(caption, fontsize=11)
        axes.set_axis_off()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn).convert("RGB")


def _for_screen(picture: Picture) -> Image.Image:
    if picture.top > 255:  # 16 bits do not show on a screen
        picture = replace(picture, scale=1.0, top=255)
    shown = render(picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
