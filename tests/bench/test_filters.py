"""`nkiconv filter`: the picture is SciPy's, and every mistake is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from nkiconv.bench import filter_picture
from nkiconv.bench.cli import run
from nkiconv.bench.filter_picture import apply_filter
from nkiconv.bench.filters import FILTERS
from nkiconv.bench.images import Picture, load_picture
from nkiconv.bench.photograph import SHAPE, photograph_path, photograph_rgb
from nkiconv.reference._dtypes import DTYPES

RGB = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)


@pytest.fixture
def rgb_file(tmp_path: Path) -> Path:
    Image.fromarray(RGB).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def scipy_picture(name: str, image: np.ndarray) -> np.ndarray:
    """Filter (H, W, P) plane by plane, by the words of the filter's description."""
    chosen = FILTERS[name]
    planes = []
    for plane in np.moveaxis(image.astype(np.float64), -1, 0):
        results = [scipy.ndimage.correlate(plane, tap, mode="constant") for tap in chosen.taps]
        planes.append(np.hypot.reduce(results) if chosen.magnitude else results[0])
    return np.rint(np.stack(planes, axis=-1)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", FILTERS)
def test_the_picture_is_scipys(name: str, rgb_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    assert run(["filter", str(rgb_file), "--filter", name, "-o", str(out)]) == 0
    picture = np.asarray(Image.open(out)).astype(int)
    # a result that lies on x.5 in float64 can round either way in float32
    assert np.abs(picture - scipy_picture(name, RGB)).max() <= 1
    assert (picture == scipy_picture(name, RGB)).mean() > 0.99
    assert (name == "identity") == np.array_equal(picture, RGB)


def test_sobel_and_laplacian_are_what_scipy_calls_so() -> None:
    image = RGB[..., 0].astype(np.float64)
    sobel, laplacian = FILTERS["sobel"], FILTERS["laplacian"]
    for axis, tap in ((1, sobel.taps[0]), (0, sobel.taps[1])):
        np.testing.assert_allclose(
            scipy.ndimage.correlate(image, tap, mode="constant"),
            scipy.ndimage.sobel(image, axis, mode="constant"),
        )
    np.testing.assert_allclose(
        scipy.ndimage.correlate(image, laplacian.taps[0], mode="constant"),
        scipy.ndimage.laplace(image, mode="constant"),
    )


def test_what_ends_as_a_magnitude() -> None:
    lengths = {name for name, chosen in FILTERS.items() if chosen.magnitude}
    assert lengths == {"sobel", "laplacian"}
    assert all(chosen.magnitude or len(chosen.taps) == 1 for chosen in FILTERS.values())


@pytest.mark.parametrize("name", ["gaussian", "box", "identity", "sharpen", "emboss"])
def test_filters_that_keep_brightness(name: str) -> None:
    assert FILTERS[name].taps.sum() == pytest.approx(1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_stays_within_its_allowance(dtype: str) -> None:
    picture = Picture(np.moveaxis(RGB, -1, 0).astype(np.float32))
    for chosen in FILTERS.values():
        done = apply_filter(picture, chosen, DTYPES[dtype])
        assert done.passed
        assert done.num_samples == RGB.size
        if dtype == "float32":  # in the others a response is rounded by whole samples
            assert done.samples_off <= 0.01 * done.num_samples


def test_alpha_and_depth_stay(tmp_path: Path) -> None:
    alpha = np.arange(13 * 17).reshape(13, 17).astype(np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png")
    deep = np.random.default_rng(1).integers(0, 65536, (9, 8)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    out = tmp_path / "out.png"
    assert run(["filter", str(tmp_path / "rgba.png"), "-f", "box", "-o", str(out)]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(out))[..., 3], alpha)
    for dtype in ("float32", "float16"):  # float16 ends below 65535: samples have to be scaled
        command = ["filter", str(tmp_path / "deep.png"), "-f", "box", "-o", str(out)]
        assert run([*command, "--dtype", dtype]) == 0
        wanted = scipy.ndimage.uniform_filter(deep.astype(np.float64), mode="constant")
        found = np.asarray(Image.open(out)).astype(np.float64)
        np.testing.assert_allclose(found, wanted, atol=1 if dtype == "float32" else 64)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 1100)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    planes = np.random.default_rng(2).integers(0, 256, (1, *size)).astype(np.float32)
    assert apply_filter(Picture(planes), FILTERS["gaussian"], DTYPES["float32"]).passed


def test_without_an_image_it_is_the_photograph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["filter", "--filter", "identity"]) == 0
    assert "grace_hopper.jpg: 512 x 600 RGB" in capsys.readouterr().out
    assert photograph_rgb().shape == SHAPE
    written = np.asarray(Image.open(tmp_path / "filtered.png"))
    np.testing.assert_array_equal(written, np.asarray(Image.open(photograph_path())))


def test_before_after(rgb_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.jpg"
    assert run(["filter", str(rgb_file), "--before-after", "-o", str(out)]) == 0
    assert Image.open(out).width == 1280


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        ("none.png", [], "no such file"),
        (".", [], "is a directory"),
        ("text.png", [], "not an image"),
        ("in.png", ["--filter", "sobl"], "did you mean 'sobel'"),
        ("in.png", ["--filter", "xyz"], ", ".join(FILTERS)),
        ("in.png", ["-o", "in.png"], "is the input image"),
        ("in.png", ["-o", "./link.png"], "is the input image"),
        ("in.png", ["-o", "out.xyz"], "unknown image suffix"),
        ("in.png", ["-o", "none/out.png"], "no directory"),
        ("in.png", ["--dtype", "int8"], "int8"),
        ("in.png", ["--target", "trn9"], "trn9"),
        ("alpha.png", ["-o", "out.jpg"], "RGBA"),
    ],
)
def test_every_mistake_is_one_line(
    image: str,
    options: list[str],
    words: str,
    rgb_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(rgb_file.parent)
    Path("text.png").write_text("not a picture")
    Path("link.png").symlink_to("in.png")
    Image.fromarray(np.dstack([RGB, RGB[..., 0]])).save("alpha.png")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert run(["filter", image, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nkiconv: error: ")
    assert words in line
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize("output", ["out.xyz", "none/out.png", "in.png"])
def test_a_bad_output_is_refused_before_the_work(
    output: str, rgb_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rgb_file.parent)
    monkeypatch.setattr(filter_picture, "apply_filter", lambda *_: pytest.fail("too late"))
    assert run(["filter", "in.png", "-o", output]) == 2


def test_a_wrong_kernel_fails_and_writes_nothing(
    rgb_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = filter_picture.conv2d

    def wrong(*args: object, **kwargs: object) -> np.ndarray:
        y = np.array(right(*args, **kwargs))
        y[-1, -1, -1, -1] += 0.01
        return y

    monkeypatch.setattr(filter_picture, "conv2d", wrong)
    assert run(["filter", str(rgb_file), "-o", str(tmp_path / "out.png")]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert not (tmp_path / "out.png").exists()


def test_a_name_that_is_no_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "caf\udce9.png"
    Image.fromarray(RGB).save(path)
    assert load_picture(path).kind == "RGB"
    assert run(["filter", str(path), "-f", "box", "-o", str(tmp_path / "out.png")]) == 0
