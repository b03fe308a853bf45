"""Distortion ladders, the count of wrong orders on them, and the two benchmarks that print tables of them."""

import importlib
import math
import re
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from rich.progress import Progress
from torch import Tensor

from damlpips.evaluation.ladders import FARTHEST, LADDERS, Ladder, Violations, centre, margin, violations
from damlpips.evaluation.named import NamedMetric, build
from damlpips.scoring.images import ScoringError, read_image
from tests.support.pictures import image_file, pixels

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS, DEMO = ROOT / "benchmarks", ROOT / "docs" / "demo"
MOTIONS = ["shift", "rotation", "zoom"]
NAMES = ["noise", "blur", "jpeg", "contrast", "saturation", *MOTIONS]
QUIET = Progress(disable=True)
GREY = Ladder("grey", "step", (1, 2, 3), (0, 9), lambda x, level, seed: x + 0.1 * level)


def picture(seed: int = 0, height: int = 40, width: int = 48) -> Tensor:
    return torch.from_numpy(pixels(seed, height, width)).permute(2, 0, 1)


def smooth(seed: int) -> Tensor:
    """Return a picture of 120 x 120 pixels without texture."""
    coarse = torch.rand((1, 3, 3, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (120, 120), mode="bilinear")[0]


def places(height: int, width: int) -> list[Tensor]:
    """Return how far each pixel is to the right of an image's middle, and below it, each (H, W)."""
    across, down = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (width, height))
    return list(torch.meshgrid(across, down, indexing="xy"))


def waves(across: Tensor, down: Tensor) -> Tensor:
    return torch.stack([0.5 + 0.4 * torch.sin(t / 9) for t in (across, down, across + down)])


def mse(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() - y.double()).square().mean((1, 2, 3))


def by_rung(*distances: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a metric that gives these distances to the rungs of any image."""
    return lambda x, y: torch.tensor(distances)


def as_double(x: Tensor) -> Tensor:
    return x.double() / 255 if x.dtype == torch.uint8 else x.double()


@pytest.fixture(params=NAMES)
def ladder(request: pytest.FixtureRequest) -> Ladder:
    return LADDERS[request.param]


class TestLadders:
    def test_table(self) -> None:
        assert list(LADDERS) == NAMES
        for name, ladder in LADDERS.items():
            assert ladder.name == name
            assert len(set(ladder.levels)) == len(ladder.levels) >= 5
            assert ladder.moves == (name in MOTIONS)
            assert all(ladder.bounds[0] <= level <= ladder.bounds[1] for level in ladder.levels)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
    def test_rungs(self, ladder: Ladder, dtype: torch.dtype) -> None:
        image = picture() if dtype == torch.uint8 else (picture().double() / 255).to(dtype)
        before = image.clone()
        rungs = ladder.rungs(image)
        assert torch.equal(image, before)
        assert torch.equal(rungs[0], centre(image) if ladder.moves else image)
        height, width = (8, 16) if ladder.moves else (40, 48)
        assert torch.equal(rungs[0], ladder.first(image))
        assert rungs.shape == (1 + len(ladder.levels), 3, height, width)
        assert rungs.dtype == dtype
        assert 0 <= rungs.min() <= rungs.max() <= (255 if dtype == torch.uint8 else 1)
        for level, rung in zip(ladder.levels, rungs[1:], strict=True):
            assert torch.equal(ladder.apply(image, level), rung)

    @given(seed=st.integers(0, 2**32), height=st.integers(8, 40), width=st.integers(8, 40), as_floats=st.booleans())
    def test_error_grows(self, seed: int, height: int, width: int, as_floats: bool) -> None:
        image = picture(seed, height, width)
        # JPEG and shifts are not monotone on every picture
        for name in ("noise", "blur", "contrast", "saturation"):
            rungs = as_double(LADDERS[name].rungs(image.float() / 255 if as_floats else image, seed=seed))
            errors = mse(rungs[:1].expand_as(rungs), rungs)
            assert errors[0] == 0
            assert (errors[1:] > errors[:-1]).all(), (name, errors)

    @pytest.mark.parametrize("seed", range(4))
    def test_error_grows_on_all(self, ladder: Ladder, seed: int) -> None:
        # of a picture's texture nothing is left in place by a shift of a pixel: what grows is the error of its colours
        rungs = as_double(ladder.rungs(smooth(seed) if ladder.moves else picture(seed)))
        errors = [float(((rung - rungs[0]) ** 2).sum() / rung.numel()) for rung in rungs]
        assert errors[0] == 0
        assert errors == sorted(set(errors))

    def test_neighbours_can_be_told_apart(self, ladder: Ladder) -> None:
        rungs = as_double(ladder.rungs(picture(0, 80, 90)))
        steps = (rungs[1:] - rungs[:-1]).square().mean((1, 2, 3)).sqrt() * 255
        assert (steps > 1).all(), steps

    def test_deterministic(self, ladder: Ladder) -> None:
        first = ladder.rungs(picture(), seed=3)
        torch.rand(7)  # nobody else's draws matter, nor are they moved
        state = torch.get_rng_state()
        assert torch.equal(ladder.rungs(picture(), seed=3), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(ladder.rungs(picture(), seed=4), first) is (ladder.name != "noise")

    def test_one_pattern_of_noise_scaled(self) -> None:
        image = torch.full((3, 64, 64), 0.5)
        weak, strong = (LADDERS["noise"].apply(image, sigma, seed=5) - 0.5 for sigma in (5, 15))
        assert torch.allclose(3 * weak, strong, atol=1e-6)
        assert weak.std() * 255 == pytest.approx(5, rel=0.03)
        assert weak.mean() * 255 == pytest.approx(0, abs=0.2)

    def test_noise_is_clamped(self) -> None:
        rung = LADDERS["noise"].apply(torch.ones(3, 16, 16), 60.0)
        assert (rung.max(), (rung == 1).float().mean() > 0.3) == (1, True)

    def test_blur_is_a_gaussian(self) -> None:
        dot = torch.zeros(3, 41, 41, dtype=torch.float64)
        dot[:, 20, 20] = 1
        blurred = LADDERS["blur"].apply(dot, 2.5)[0]
        assert float(blurred.sum()) == pytest.approx(1)
        assert torch.allclose(blurred, blurred.T)
        assert torch.allclose(blurred, blurred.flip(0))
        places = torch.arange(-20, 21, dtype=torch.float64)
        assert float((blurred.sum(0) * places**2).sum().sqrt()) == pytest.approx(2.5, rel=0.01)
        assert float(blurred[20, 25] / blurred[20, 20]) == pytest.approx(math.exp(-2))

    def test_blur_repeats_edges(self) -> None:
        rung = LADDERS["blur"].apply(torch.full((3, 4, 5), 0.3), 6)
        assert torch.allclose(rung, torch.full((3, 4, 5), 0.3))

    def test_contrast_and_saturation(self) -> None:
        image = picture().double() / 255
        luma = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        assert torch.allclose(LADDERS["contrast"].apply(image, 0.25), 0.75 * luma.mean() + 0.25 * image)
        assert torch.allclose(LADDERS["saturation"].apply(image, 0.25), 0.75 * luma + 0.25 * image)
        for name in ("contrast", "saturation"):
            assert torch.allclose(LADDERS[name].apply(image, 1), image)

    def test_jpeg_is_pillows(self, tmp_path: Path) -> None:
        from PIL import Image

        Image.fromarray(pixels(0)).save(tmp_path / "a.jpg", quality=25)
        with Image.open(tmp_path / "a.jpg") as file:
            expected = torch.from_numpy(np.array(file)).permute(2, 0, 1)
        assert torch.equal(LADDERS["jpeg"].apply(picture(), 25), expected)
        of_floats = LADDERS["jpeg"].apply(picture().double() / 255, 25)
        assert torch.allclose(of_floats, expected.double() / 255)

    @pytest.mark.parametrize("pixels", [0, 1, 4, 16])
    def test_shift(self, pixels: int) -> None:
        image = picture()
        rung = LADDERS["shift"].apply(image, pixels)
        assert torch.equal(rung, image[:, 16 + pixels : 24 + pixels, 16 + pixels : 32 + pixels])

    @pytest.mark.parametrize(("name", "level"), [("rotation", 1), ("rotation", 16), ("zoom", 1), ("zoom", 16)])
    def test_motion_draws_the_photograph_elsewhere(self, name: str, level: float) -> None:
        """Of waves, bicubic resampling gives what they are where it looks."""
        angle, scale = math.radians(level if name == "rotation" else 0), 1 + (level if name == "zoom" else 0) / 100
        across, down = (centre(c) for c in places(90, 120))
        right = (math.cos(angle) * across + math.sin(angle) * down) / scale
        below = (math.cos(angle) * down - math.sin(angle) * across) / scale
        rung = LADDERS[name].apply(waves(*places(90, 120)), level)
        assert rung.shape == (3, *across.shape)
        # as good as the places are to about a tenth of a pixel
        assert torch.allclose(rung, waves(right, below), atol=0.005)

    @pytest.mark.parametrize("name", MOTIONS)
    @given(height=st.integers(38, 150), width=st.integers(38, 150))
    def test_nothing_comes_from_beyond_the_edges(self, name: str, height: int, width: int) -> None:
        # at the edge, where a place beyond it would be looked up, is another colour
        image = torch.full((3, height, width), 0.2, dtype=torch.float64)
        assume(min(height, width) > 2 * margin(height, width))
        image[:, [0, -1]] = image[:, :, [0, -1]] = 0.9
        rung = LADDERS[name].apply(image, FARTHEST)
        touched = 1 if name == "shift" else 0  # the last pixel itself, where the margin is no more than the shift
        rung = rung[:, : rung.shape[1] - touched, : rung.shape[2] - touched]
        assert torch.allclose(rung, torch.full_like(rung, 0.2))

    @pytest.mark.parametrize(("size", "expected"), [((240, 240), 25), ((321, 481), 51), ((60, 60), 16)])
    def test_margin(self, size: tuple[int, int], expected: int) -> None:
        assert margin(*size) == margin(*size[::-1]) == expected
        assert centre(torch.zeros(3, *size)).shape == (3, *(side - 2 * expected for side in size))

    @pytest.mark.parametrize(
        ("image", "error", "message"),
        [
            (np.zeros((3, 40, 40)), TypeError, "image: expected a torch.Tensor (3, H, W), got ndarray"),
            (torch.zeros(1, 3, 40, 40), ValueError, "image: expected (3, H, W), got (1, 3, 40, 40)"),
            (torch.zeros(40, 40, 3), ValueError, "image: expected (3, H, W), got (40, 40, 3)"),
            (torch.zeros(3, 40, 0), ValueError, "pixels a side, got (40, 0)"),
            (torch.zeros(3, 40, 40).long(), TypeError, "image: expected uint8 or floats in [0, 1], got torch.int64"),
            (torch.full((3, 40, 40), 1.5), ValueError, "image: expected floats in [0, 1], got 1.5 to 1.5"),
            (torch.full((3, 40, 40), -0.1), ValueError, "image: expected floats in [0, 1], got -0.1 to -0.1"),
            (torch.full((3, 40, 40), math.nan), ValueError, "image: expected floats in [0, 1], got nan to nan"),
        ],
    )
    def test_bad_image(self, ladder: Ladder, image: Tensor, error: type[Exception], message: str) -> None:
        for call in (ladder.first, ladder.rungs, lambda x: ladder.apply(x, ladder.levels[0])):
            with pytest.raises(error, match=re.escape(message)):
                call(image)

    @pytest.mark.parametrize("name", MOTIONS)
    @pytest.mark.parametrize("size", [(32, 40), (40, 32)])
    def test_no_room_to_move(self, name: str, size: tuple[int, int]) -> None:
        message = re.escape(f"image: {name} needs more than 32 pixels a side, got {size}")
        with pytest.raises(ValueError, match=message):
            LADDERS[name].first(torch.zeros(3, *size))
        rungs = LADDERS[name].rungs(torch.zeros(3, 33, 33))
        assert rungs.shape == (1 + len(LADDERS[name].levels), 3, 1, 1)

    @pytest.mark.parametrize(
        ("name", "level", "message"),
        [
            ("noise", -1, "noise: expected a finite level from 0 to inf (sigma, of 255), got -1"),
            ("noise", math.inf, "noise: expected a finite level from 0 to inf (sigma, of 255), got inf"),
            ("noise", math.nan, "got nan"),
            ("blur", 0, "blur: expected a finite level from 0.1 to inf (sigma, px), got 0"),
            ("jpeg", 0, "jpeg: expected a whole level from 1 to 100 (quality), got 0"),
            ("jpeg", 50.5, "jpeg: expected a whole level from 1 to 100 (quality), got 50.5"),
            ("contrast", 1.1, "contrast: expected a finite level from 0 to 1 (share kept), got 1.1"),
            ("saturation", -0.1, "saturation: expected a finite level from 0 to 1 (share kept), got -0.1"),
            ("shift", 17, "shift: expected a whole level from 0 to 16 (px each way), got 17"),
            ("shift", 0.5, "shift: expected a whole level from 0 to 16 (px each way), got 0.5"),
            ("rotation", 17, "rotation: expected a finite level from 0 to 16 (degrees), got 17"),
            ("zoom", -1, "zoom: expected a finite level from 0 to 16 (% larger), got -1"),
        ],
    )
    def test_bad_level(self, name: str, level: float, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            LADDERS[name].apply(picture(), level)

    def test_without_pillow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image = picture()
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(ScoringError, match=re.escape("JPEG needs Pillow: pip install 'damlpips[cli]'")):
            LADDERS["jpeg"].rungs(image)


class TestViolations:
    @pytest.mark.parametrize(
        ("metric", "share"),
        [
            (lambda x, y: torch.arange(len(y)), 0),
            (lambda x, y: torch.zeros(len(y)), 1),
            (lambda x, y: torch.full((len(y),), 2.0), 1),
            (lambda x, y: -torch.arange(len(y)), 1),
        ],
        ids=["growing", "zero", "constant", "falling"],
    )
    def test_none_or_all(self, ladder: Ladder, metric: Callable[[Tensor, Tensor], Tensor], share: int) -> None:
        found = violations(metric, [picture(0), picture(1, 36, 50)], ladder)
        neighbours = 2 * len(ladder.levels)
        assert (found, found.share) == (Violations(neighbours, share * neighbours), share)

    @given(st.lists(st.sampled_from([-math.inf, *range(-3, 4), math.inf]), min_size=4, max_size=4))
    @example([0, 1, 1, 3])  # equal neighbours
    @example([0, 0, 1, 2])  # the weakest is not told from the image
    @example([-math.inf, -30, -20, -10])  # negated similarities
    @example([0, math.inf, math.inf, math.inf])
    def test_counts_by_hand(self, distances: list[float]) -> None:
        expected, image = sum(not b > a for a, b in pairwise(distances)), torch.full((3, 8, 8), 0.5)
        found = violations(by_rung(*distances), [image], GREY)
        assert (found.neighbours, found.violated, found.share) == (3, expected, expected / 3)
        assert violations(by_rung(*distances), [image, image], GREY) == Violations(6, 2 * expected)

    def test_what_the_metric_is_given(self, ladder: Ladder) -> None:
        seen = []

        def metric(x: Tensor, y: Tensor) -> Tensor:
            seen.append((x, y))
            return mse(x, y)

        images = [(255 * smooth(k)).to(torch.uint8) for k in (0, 1)]
        assert violations(metric, images, ladder, seed=7).violated == 0
        for k, (x, y) in enumerate(seen):
            rungs = ladder.rungs(images[k], seed=7 + k).float() / 255
            assert (x.dtype, y.dtype) == (torch.float32, torch.float32)
            assert torch.equal(y, rungs)
            assert all(torch.equal(reference, rungs[0]) for reference in x)
        floats = [image.double() / 255 for image in images]
        assert violations(metric, floats, ladder).violated == 0
        assert seen[-1][1].dtype == torch.float64

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_equal_neighbours_are_not_counted(self, dtype: torch.dtype) -> None:
        grey = picture()[:1].expand(3, -1, -1)
        image = grey if dtype == torch.uint8 else grey.to(dtype) / 255
        found = violations(mse, [image], LADDERS["saturation"])
        assert found == Violations(0, 0)
        assert math.isnan(found.share)
        assert violations(mse, [image, picture()], LADDERS["saturation"]) == Violations(5, 0)

    def test_no_images(self) -> None:
        with pytest.raises(ValueError, match="images: expected at least one, got none"):
            violations(mse, iter([]), GREY)

    def test_bad_metric(self) -> None:
        image = torch.full((3, 8, 8), 0.5)
        with pytest.raises(ValueError, match=re.escape("image 0, grey: expected 4 distances, (4,), got ()")):
            violations(lambda x, y: mse(x, y).mean(), [image], GREY)
        with pytest.raises(ValueError, match=re.escape("image 0, grey: the metric gives NaN, not a number")):
            violations(by_rung(0, 1, math.nan, 2), [image], GREY)

    def test_with_this_packages_metric(self, ladder: Ladder) -> None:
        photograph = read_image(DEMO / "landscape.png")
        found = violations(build("damlpips").distances, [photograph], ladder)
        assert found == Violations(len(ladder.levels), 0)


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the benchmark that a class tests as if it were run: its folder comes first in the path."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module(request.cls.name)
    del sys.modules[request.cls.name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(3):
        image_file(tmp_path / f"{k}.png", k, (80, 90))
    image_file(tmp_path / "small.png", 9, (30, 200))
    (tmp_path / "README.md").write_text("no image")
    return tmp_path


def rows_of(markdown: str) -> list[list[list[str]]]:
    """Return the rows of cells of each table, less the rule below the header."""
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, re.M)
    return [
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines() if not line.startswith("| -")]
        for block in blocks
    ]


class TestLaddersBenchmark:
    name = "ladders"

    def test_table(self, script: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        script.main([str(folder), "--count", "3", "--side", "48", "--metric", "mse", "damlpips"])
        printed = capsys.readouterr()
        assert printed.err == ""
        assert "3 photographs, seed 0" in printed.out
        ((header, *rows),) = rows_of(printed.out)
        assert header == ["metric", *NAMES, "all"]
        assert [row[0] for row in rows] == ["mse", "damlpips"]
        assert all(0 <= float(cell) <= 100 for row in rows for cell in row[1:])
        assert rows[0][1:6] == ["0.00"] * 5

    def test_shares(self, script: ModuleType) -> None:
        flat = NamedMetric("flat", True, "", torch.device("cpu"), lambda x, y: torch.zeros(len(x)), lambda x: x)
        grey = picture()[:1].expand(3, -1, -1)
        found = script.table([flat, build("mse")], [grey], seed=0, progress=QUIET)
        assert found.rows[0] == ("flat", *("100.00",) * 4, "-", *("100.00",) * 4)
        assert found.rows[1][5] == "-"

    def test_photographs(self, script: ModuleType, folder: Path) -> None:
        photographs = script.photographs
        found = photographs(folder, count=3, seed=0, side=48)
        assert {image.shape for image in found} == {(3, 48, 48)}
        # 4 pixels off the grid of blocks of 8
        expected = [picture(k, 80, 90)[:, 20:68, 20:68] for k in range(3)]
        assert sorted(image.sum().item() for image in found) == sorted(image.sum().item() for image in expected)
        again = photographs(folder, count=2, seed=0, side=48)
        assert all(torch.equal(a, b) for a, b in zip(again, found[:2], strict=True))
        orders = {tuple(i.sum().item() for i in photographs(folder, count=3, seed=s, side=48)) for s in range(8)}
        assert len(orders) > 1

    def test_too_few(self, script: ModuleType, folder: Path, tmp_path: Path) -> None:
        message = re.escape(f"error: {folder}: expected 4 images of 60 x 60 pixels or more, found 3")
        with pytest.raises(SystemExit, match=message):
            script.main([str(folder), "--count", "4", "--side", "48", "--metric", "mse"])

    def test_unknown_metric(self, script: ModuleType, folder: Path) -> None:
        with pytest.raises(SystemExit, match="error: unknown metric 'msee'"):
            script.main([str(folder), "--metric", "msee"])

    def test_encoded_once_is_the_same(self, script: ModuleType) -> None:
        metric = build("damlpips")
        rungs = LADDERS["noise"].rungs(picture(0, 64, 64)).float() / 255
        references = rungs[:1].expand_as(rungs)
        found = script.against_one(metric)(references, rungs)
        assert torch.allclose(found, metric.distances(references, rungs), rtol=1e-5, atol=1e-7)


class TestScaleBenchmark:
    name = "scale"

    def test_tables(self, script: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        counts = ["--count", "3", "--enlarged", "1", "--side", "48"]
        script.main([str(folder), *counts, "--metric", "mse", "damlpips"])
        printed = capsys.readouterr()
        assert printed.err == ""
        scores, sizes = rows_of(printed.out)
        assert scores[0] == ["distortion", "mse", "damlpips"]
        assert [row[0] for row in scores[1:]] == list(script.DISTORTIONS)
        assert len(scores) == 1 + 6 + 5 + 4 + 3 + 4
        assert sizes[0][1:] == ["mse, 2 times", "mse, 4 times", "damlpips, 2 times", "damlpips, 4 times"]
        assert len(sizes) == 1 + 8 + 4
        cell = re.compile(r"\d+\.\d{3} \(\d+\.\d{3} to \d+\.\d{3}\)")
        assert all(cell.fullmatch(text) for row in (*scores[1:], *sizes[1:]) for text in row[1:])

    def test_scores(self, script: ModuleType) -> None:
        first, second = (picture(k, 52, 56).float() / 255 for k in (0, 1))
        pairs = [(first, second), (second, first)]
        found = script.scores(build("mse"), pairs, seed=3, progress=QUIET)
        by_name = dict(zip(script.DISTORTIONS, found.T, strict=True))
        x, y = first[:, :48, :52], second[:, :48, :52]

        def expected(other: Tensor) -> float:
            return float(((x.double() - other.double()) ** 2).mean())

        assert by_name["another photograph"].tolist() == pytest.approx([expected(y)] * 2)
        assert float(by_name["mirrored"][0]) == pytest.approx(expected(x.flip(2)))
        assert float(by_name["shift, 2 px each way"][0]) == pytest.approx(expected(first[:, 2:50, 2:54]))
        assert float(by_name["JPEG, quality 30"][0]) == pytest.approx(expected(LADDERS["jpeg"].apply(x, 30)))
        noisy = LADDERS["noise"].apply(y, 10, seed=4)
        assert float(by_name["noise, sigma 10 of 255"][1]) == pytest.approx(float((noisy - y).square().mean()))

    def test_sizes(self, script: ModuleType) -> None:
        """One picture at another size: MSE hardly changes with what is not finer than the pixels."""
        first, second = (picture(k, 68, 68).float() / 255 for k in (0, 1))
        found = script.ratios(build("mse"), [(first, second)], seed=0, progress=QUIET)
        assert [values.shape for values in found.values()] == [(1, 2)] * 12
        for name in ("saturation 0", "contrast 0.5"):
            assert found[f"{name}; after"].tolist()[0] == pytest.approx([1, 1], abs=0.05)
        for name in script.BEFORE:
            after, before = (found[f"{name}; {when}"] for when in ("after", "before"))
            assert torch.allclose(after, before, rtol=0.1), name

    def test_nothing_to_compare(self, script: ModuleType) -> None:
        grey = (picture(0, 52, 52)[:1].float() / 255).expand(3, -1, -1)
        pairs = [(grey, picture(1, 52, 52).float() / 255)]
        found = script.ratios(build("mse"), pairs, seed=0, progress=QUIET)
        assert found["saturation 0; after"].isnan().all()
        assert not found["contrast 0.5; after"].isnan().any()

    def test_cell(self, script: ModuleType) -> None:
        values = torch.arange(101, dtype=torch.float64) ** 2 / 10000
        assert script._cell(torch.cat([values, torch.tensor([math.nan])])) == "0.250 (0.010 to 0.810)"

    def test_one_photograph_is_too_few(
        self, script: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            script.main([str(folder), "--count", "1"])
        assert "--count: expected at least 2 photographs" in capsys.readouterr().err
