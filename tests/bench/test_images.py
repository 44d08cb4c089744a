"""Image files in and out: every kind gives the right planes or one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nkiconv.bench import images
from nkiconv.bench.errors import UserError
from nkiconv.bench.images import (
    image_format,
    load_picture,
    render,
    save_picture,
    side_by_side,
)

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]
ALPHA = RGB[..., 1]


def stored(tmp_path: Path, image: Image.Image, name: str = "in.png", **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "channels"),
    [
        ("L", GREY[..., None]),
        ("LA", np.dstack([GREY, ALPHA])),
        ("RGB", RGB),
        ("RGBA", np.dstack([RGB, ALPHA])),
    ],
)
def test_8_bit_modes_come_back_as_they_were(
    tmp_path: Path, mode: str, channels: np.ndarray
) -> None:
    picture = load_picture(stored(tmp_path, Image.fromarray(channels.squeeze(), mode)))
    colours = channels[..., : len(mode.rstrip("A"))] if mode != "L" else channels
    np.testing.assert_array_equal(picture.planes, colours.transpose(2, 0, 1))
    back = render(picture)
    assert back.mode == mode
    np.testing.assert_array_equal(np.asarray(back).reshape(channels.shape), channels)


def test_16_bit_grey_comes_back_as_it_was(tmp_path: Path) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (4, 3)).astype(np.uint16)
    picture = load_picture(stored(tmp_path, Image.fromarray(deep)))
    np.testing.assert_array_equal(picture.planes[0] * 256, deep)
    assert picture.kind == "grey 16-bit"
    save_picture(tmp_path / "out.png", render(picture))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), deep)


def test_palette_bilevel_and_cmyk_become_what_they_show(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(8)
    planes = load_picture(stored(tmp_path, palette)).planes
    np.testing.assert_array_equal(planes, np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    bilevel = Image.fromarray(GREY > 99)
    assert bilevel.mode == "1"
    planes = load_picture(stored(tmp_path, bilevel)).planes
    np.testing.assert_array_equal(planes[0], np.where(GREY > 99, 255, 0))
    cmyk = Image.fromarray(RGB).convert("CMYK")
    planes = load_picture(stored(tmp_path, cmyk, "in.tif")).planes
    np.testing.assert_array_equal(planes, np.asarray(cmyk.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("image", "transparent", "mode"),
    [
        (Image.fromarray(RGB).quantize(8), 3, "RGBA"),
        (Image.fromarray(GREY), int(GREY[0, 0]), "LA"),
        (Image.fromarray(RGB), tuple(int(v) for v in RGB[0, 0]), "RGBA"),
    ],
)
def test_a_transparent_colour_becomes_alpha(
    tmp_path: Path, image: Image.Image, transparent: object, mode: str
) -> None:
    path = stored(tmp_path, image, transparency=transparent)
    picture = load_picture(path)
    wanted = np.asarray(Image.open(path).convert("RGBA"))[..., 3]
    assert (wanted == 0).any()
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, wanted)
    assert render(picture).mode == mode


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    picture = load_picture(stored(tmp_path, Image.fromarray(GREY), exif=exif))
    np.testing.assert_array_equal(picture.planes[0], np.rot90(GREY, -1))


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    path = stored(tmp_path, first, "in.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(load_picture(path).planes[0], GREY)


def test_samples_saturate(tmp_path: Path) -> None:
    picture = load_picture(stored(tmp_path, Image.fromarray(GREY)))
    values = np.array([[-3.0, 0.4, 254.6, 1e9, np.inf, -np.inf, np.nan]])
    np.testing.assert_array_equal(picture.samples(values), [[0, 0, 255, 255, 255, 0, 0]])


def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = stored(tmp_path, Image.fromarray(RGB))
    files = {
        "empty.png": b"",
        "text.png": b"this is no image",
        "cut.png": good.read_bytes()[:-40],
        "cut.jpg": stored(tmp_path, Image.fromarray(RGB), "a.jpg").read_bytes()[:200],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_picture(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        load_picture(tmp_path / "none.png")
    with pytest.raises(UserError, match="is a directory"):
        load_picture(tmp_path)
    with pytest.raises(UserError, match="mode 'F'"):
        load_picture(stored(tmp_path, Image.fromarray(GREY.astype(np.float32)), "f.tif"))
    with pytest.raises(UserError, match="32-bit"):
        load_picture(stored(tmp_path, Image.fromarray(GREY.astype(np.int32) * 9999), "i.tif"))
    # 35 pixels: above the limit Pillow warns, above twice the limit it raises
    for limit in (34, 10):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=f"more than {limit} pixels"):
            load_picture(good)
    monkeypatch.undo()
    monkeypatch.setattr(images, "MAX_PIXELS", 34)
    with pytest.raises(UserError, match="7 x 5 pixels; at most 34"):
        load_picture(good)


def test_what_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old.jpg").write_bytes(b"old")
    transparent = Image.fromarray(np.dstack([RGB, ALPHA]))
    with pytest.raises(UserError, match=r"RGBA.*png"):
        save_picture(tmp_path / "old.jpg", transparent)  # JPEG has no alpha
    with pytest.raises(UserError, match="no directory"):
        save_picture(tmp_path / "none" / "x.png", transparent)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        save_picture(tmp_path / "folder.png", transparent)
    for name in ("x.txt", "x", "x.pcd"):  # Pillow reads .pcd but does not write it
        with pytest.raises(UserError, match="unknown image suffix"):
            image_format(tmp_path / name)
    assert (tmp_path / "old.jpg").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "old.jpg"]


def test_a_failed_write_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.png").write_bytes(b"old")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        save_picture(tmp_path / "old.png", Image.fromarray(RGB))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4), (3, 90), (90, 3)])
def test_side_by_side(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 200, np.uint8)
    picture = load_picture(stored(tmp_path, Image.fromarray(pixels)))
    both = side_by_side(picture, picture, ("one", "two"))
    assert both.mode == "RGB"
    assert both.width == 1280
    level = 212 if shape[-1] == 4 else 200  # alpha 200 of 255 over white
    counts = {color: count for count, color in both.getcolors(1 << 20)}
    assert counts[level, level, level] == max(
        count for color, count in counts.items() if color != (255, 255, 255)
    )
