"""`assert_similar`: every kind of image is the same image, and a failure says and shows what is wrong."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from damlpips import DAMLPIPS, LPIPS, Backbone
from damlpips.testing import assert_similar
from tests.support.pictures import pixels

X, Y = pixels(1), pixels(2)
NEAR = np.clip(X.astype(int) + 6, 0, 255).astype(np.uint8)


def chw(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "reference.png"
    Image.fromarray(X).save(path)
    return path


KINDS: dict[str, Any] = {
    "array": lambda image: image,
    "array of floats": lambda image: image / 255,
    "array of float32": lambda image: (image / 255).astype(np.float32),
    "tensor": chw,
    "batch of one": lambda image: chw(image)[None],
    "tensor of floats": lambda image: chw(image) / 255,
    "tensor with a graph": lambda image: (chw(image) / 255).requires_grad_(),
    "PIL": Image.fromarray,
    "PIL with alpha": lambda image: Image.fromarray(image).convert("RGBA"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_the_same_image(kind: str, file: Path) -> None:
    expected = float(DAMLPIPS()(chw(NEAR)[None], chw(X)[None]))
    assert 0 < expected < 0.05
    near = KINDS[kind](NEAR)
    # floats are rounded otherwise than levels
    assert assert_similar(near, file) == pytest.approx(expected, rel=1e-4)
    assert assert_similar(str(file), near) == pytest.approx(expected, rel=1e-3)
    assert assert_similar(KINDS[kind](X), file, max=1e-6) <= 1e-6


def test_grey_images_become_colours(tmp_path: Path) -> None:
    grey = X[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    colours = np.repeat(grey[..., None], 3, 2)
    for image in (grey, grey[..., None], torch.from_numpy(grey)[None], Image.fromarray(grey), tmp_path / "grey.png"):
        assert assert_similar(image, colours, max=1e-6) <= 1e-6


def test_more_than_8_bits_are_kept(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 40 * 48).reshape(40, 48).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    floats = torch.from_numpy(deep.astype(np.float32) / 65535)[None]
    for image in (tmp_path / "deep.png", Image.fromarray(deep)):
        assert assert_similar(image, floats, max=1e-7) <= 1e-7
        module = DAMLPIPS(value_range=(-1, 1))
        assert assert_similar(image, 2 * floats - 1, max=1e-6, metric=module) <= 1e-6


def test_the_limit_itself_passes() -> None:
    score = assert_similar(Y, X, max=10)
    assert assert_similar(Y, X, max=score) == score
    with pytest.raises(AssertionError):
        assert_similar(Y, X, max=score * (1 - 1e-6))


METRICS: dict[str, Any] = {
    "damlpips": DAMLPIPS,
    "damlpips-nano:1": lambda: DAMLPIPS(version=1),
    "lpips-nano:spatial": lambda: LPIPS("nano", heads="uniform"),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_by_name_and_as_modules(name: str) -> None:
    module = METRICS[name]()
    expected = float(module(chw(Y)[None], chw(X)[None]))
    assert assert_similar(Y, X, max=99, metric=name) == pytest.approx(expected, rel=1e-5)
    assert assert_similar(Y, X, max=99, metric=module) == pytest.approx(expected, rel=1e-5)


def test_a_failure_tells_score_limit_metric_and_where_the_pictures_are(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "failures" / "one"
    score = float(DAMLPIPS()(chw(Y)[None], chw(X)[None]))
    with pytest.raises(AssertionError) as failure:
        assert_similar(Y, file, max=0.1, save_to=folder)
    told = str(failure.value).splitlines()
    assert told == [
        f"images are not similar: their distance is {score:.4g}, above max=0.1",
        f"metric: {DAMLPIPS().describe()}",
        "image: ndarray (40, 48, 3)",
        f"reference: {file}",
        f"saved in: {folder}",
        f"heat map: {folder / 'difference.png'}",
    ]
    assert np.array_equal(np.asarray(Image.open(folder / "image.png")), Y)
    assert np.array_equal(np.asarray(Image.open(folder / "reference.png")), X)
    assert Image.open(folder / "difference.png").size[0] > 500


def test_pictures_go_to_a_new_folder_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = set()
    for _ in range(2):
        with pytest.raises(AssertionError) as failure:
            assert_similar(Y, X)
        found.add(Path(re.search(r"saved in: (.*)", str(failure.value))[1]))
    assert len(found) == 2
    assert all(folder.parent == tmp_path and (folder / "difference.png").is_file() for folder in found)


def test_without_matplotlib_the_images_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(AssertionError, match=r"no heat map: drawing pictures needs matplotlib: pip install"):
        assert_similar(Y, X, save_to=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["image.png", "reference.png"]


def test_different_sizes_are_a_failure_unless_the_metric_resizes(tmp_path: Path) -> None:
    with pytest.raises(
        AssertionError, match=r"one size were expected, got 40 x 48 and 40 x 47\nimage: .*\n.*\nsaved in: "
    ):
        assert_similar(X, X[:, 1:], save_to=tmp_path)
    assert Image.open(tmp_path / "reference.png").size == (47, 40)
    assert assert_similar(X, X[:, 1:], max=1, metric=DAMLPIPS(resize="reference")) < 1


def test_nan_is_not_similar(tmp_path: Path) -> None:
    image = X / 255
    image[3, 4, 0] = np.nan
    with pytest.warns(UserWarning, match="NaN"), pytest.raises(AssertionError, match="their distance is nan, above"):
        assert_similar(image, X, metric=DAMLPIPS(), save_to=tmp_path)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "a list": (
        [[1]],
        TypeError,
        "image: expected a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), got list",
    ),
    "no file": ("none.png", ValueError, "none.png: "),
    "two images": (torch.zeros(2, 3, 40, 48), ValueError, "expected a tensor (3, H, W) or (1, H, W), or an array"),
    "channels first": (np.zeros((3, 40, 48)), ValueError, "got (3, 40, 48)"),
    "one dimension": (np.zeros(9), ValueError, "got (9,) of float64"),
    "whole numbers": (np.zeros((40, 48, 3), int), ValueError, "uint8 or floats, got (40, 48, 3) of int64"),
    "a tensor of whole numbers": (torch.zeros(3, 40, 48).long(), TypeError, "uint8 in 0..255, got torch.int64"),
    "no pixel": (np.zeros((0, 48, 3)), ValueError, "there is no pixel"),
    "transparent": (Image.new("RGBA", (48, 40)), ValueError, "image, a PIL image: has transparent pixels"),
    "CMYK": (Image.new("CMYK", (48, 40)), ValueError, "expected a PIL image that PNG can hold, got mode 'CMYK'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_image_is_refused(case: str) -> None:
    image, kind, message = BAD[case]
    with pytest.raises(kind, match=re.escape(message)):
        assert_similar(image, X)
    with pytest.raises(kind):
        assert_similar(X, image)


@pytest.mark.parametrize("limit", [-1, float("nan"), float("inf"), True, "0.1", None])
def test_limits_that_are_none_are_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match="max: expected a finite number of at least 0"):
        assert_similar(X, X, max=limit)


def test_metrics_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown metric 'psnr'"):
        assert_similar(X, X, metric="psnr")
    with pytest.raises(TypeError, match="metric: expected a name or a module of this package, got Conv2d"):
        assert_similar(X, X, metric=torch.nn.Conv2d(3, 3, 1))
    grey = Backbone(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1)), ["0"], channels=1)
    for module in (DAMLPIPS(video=True), DAMLPIPS(grey)):
        with pytest.raises(ValueError, match="metric: expected one of images in colour"):
            assert_similar(X, X, metric=module)
