"""FID and KID of whole sets: the formulas, what is read, kept and resumed, and what is shown of them."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from damlpips.evaluation import features
from damlpips.evaluation.custom import MetricFileError
from damlpips.evaluation.named import UnavailableMetricError
from damlpips.report.page import render_report
from damlpips.report.table import render_table
from damlpips.scoring import sets
from damlpips.scoring.images import ScoringError, read_image
from damlpips.scoring.sets import frechet_distance, kernel_distance, read_sets, sets_of
from tests.support import commands
from tests.support.commands import csv_rows, refused
from tests.support.pictures import image_file

NETWORK = """
import torch

CALLS = []

def means():
    def network(images):
        CALLS.append(len(images))
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)
    return network

def flat():
    return lambda images: images.mean((1, 2, 3))

def number():
    return 3

def fussy():
    def network(images):
        raise RuntimeError("expected 299 x 299")
    return network
"""
SIZES = [(40, 48)] * 5 + [(32, 48)] * 4


def drawn(n: int, seed: int, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, count, generator=generator, dtype=torch.float64) @ torch.rand(
        count, count, generator=generator, dtype=torch.float64
    )


class TestFormulas:
    def test_fid_is_scipys(self) -> None:
        real, fake = drawn(40, 0), drawn(30, 1) + 0.5
        means = [x.numpy().mean(0) for x in (real, fake)]
        covariances = [np.cov(x.numpy(), rowvar=False) for x in (real, fake)]
        root = np.real(sqrtm(covariances[0] @ covariances[1]))
        expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
        # a root of a matrix in float64, by two ways
        assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-8)
        assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)

    def test_kid_is_its_sum(self) -> None:
        real, fake = drawn(12, 2), drawn(12, 3) + 0.3

        def kernel(a: Tensor, b: Tensor) -> np.ndarray:
            return ((a @ b.T / a.shape[1] + 1) ** 3).numpy()

        def different(x: Tensor) -> float:
            k = kernel(x, x)
            return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

        expected = different(real) + different(fake) - 2 * kernel(real, fake).mean()
        assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-9)

    def test_subsets_of_kid_are_the_same_each_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sets, "SUBSET", 8)
        monkeypatch.setattr(sets, "SUBSETS", 5)
        real, fake = drawn(20, 4), drawn(25, 5)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = kernel_distance(real, fake)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert kernel_distance(real, fake) == first


@pytest.fixture
def network(tmp_path: Path) -> Path:
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    return file


def images(folder: Path, seed: int, sizes: Iterable[tuple[int, int]] = SIZES) -> Path:
    for k, size in enumerate(sizes):
        image_file(folder / f"{k}.png", seed + k, size)
    return folder


@pytest.fixture
def arguments(tmp_path: Path, network: Path) -> list[object]:
    reference = images(tmp_path / "r", 0)
    methods = [f"--method={name}={images(tmp_path / name, seed)}" for name, seed in (("a", 100), ("b", 200))]
    wanted = ["--metric", "damlpips", "--metric", "fid", "--metric", "kid", "--fid-features", f"{network}:means"]
    return ["score", reference, *methods, *wanted, "-o", tmp_path / "s.csv", "--batch-size", 2]


def expected(folder: Path, name: str) -> float:
    found = []
    for each in ("r", name):
        pixels = [read_image(folder / each / f"{k}.png").double() / 255 for k in range(len(SIZES))]
        found.append(torch.stack([torch.cat([x.mean((1, 2)), x.std((1, 2))]) for x in pixels]))
    return frechet_distance(*found)


class TestCommand:
    def test_a_value_a_method_beside_the_rows(self, arguments: list[object], tmp_path: Path) -> None:
        result = commands.run(*arguments, "--json", tmp_path / "s.json")
        assert result.exit_code == 0, result.output
        rows = csv_rows(tmp_path / "s.csv")
        assert "fid" not in rows[0]
        found = read_sets(sets_of(tmp_path / "s.csv"))
        assert [(score.method, score.metric) for score in found] == [(m, n) for m in "ab" for n in ("fid", "kid")]
        for score in found:
            assert (score.images, score.references, score.error) == (9, 9, "")
            if score.metric == "fid":
                # float32 means of some thousand pixels
                assert score.score == pytest.approx(expected(tmp_path, score.method), rel=1e-3)
        said = json.loads((tmp_path / "s.json").read_text())["sets"]
        assert [(each["method"], each["metric"], each["score"]) for each in said] == [
            (score.method, score.metric, score.score) for score in found
        ]
        for score in found:
            assert f"{score.method}: {score.metric} \u2193" in result.stdout

    def test_what_was_kept_is_not_computed_again(
        self, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert commands.run(*arguments).exit_code == 0
        file = sets_of(tmp_path / "s.csv")
        whole = file.read_bytes()
        # as a run leaves it that was killed after the first method
        file.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
        computed = []

        def counted(real: Tensor, fake: Tensor) -> float:
            computed.append(len(real))
            return frechet_distance(real, fake)

        monkeypatch.setattr(sets, "VALUES", {"fid": counted, "kid": kernel_distance})
        assert commands.run(*arguments).exit_code == 0
        assert (len(computed), file.read_bytes()) == (1, whole)
        assert commands.run(*arguments).exit_code == 0
        assert len(computed) == 1
        image_file(tmp_path / "b/0.png", 999)
        assert commands.run(*arguments, "--overwrite").exit_code == 0
        assert len(computed) == 3
        assert file.read_bytes() != whole

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
    def test_torchscript(self, arguments: list[object], tmp_path: Path) -> None:
        class Linear(torch.nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images.mean((2, 3))

        torch.jit.trace(Linear(), torch.rand(2, 3, 8, 8)).save(tmp_path / "net.pt")
        arguments[arguments.index("--fid-features") + 1] = tmp_path / "net.pt"
        assert commands.run(*arguments).exit_code == 0
        first, *_ = read_sets(sets_of(tmp_path / "s.csv"))
        assert re.fullmatch(r"FID \(features of net\.pt, [0-9a-f]{8}\)", first.said.description)

    def test_sets_that_are_too_small_or_damaged(self, arguments: list[object], tmp_path: Path) -> None:
        (tmp_path / "b/3.png").write_bytes(b"nonsense")
        result = commands.run(*arguments)
        assert result.exit_code == 3
        a, _, b, _ = read_sets(sets_of(tmp_path / "s.csv"))
        assert a.score is not None
        assert b.score is None
        assert "3.png" in b.error
        assert "fid of b could not be computed: " in result.stderr
        for name in "rab":
            for k in range(1, 9):
                (tmp_path / name / f"{k}.png").unlink()
        assert commands.run(*arguments, "--overwrite").exit_code == 3
        small, *_ = read_sets(sets_of(tmp_path / "s.csv"))
        assert "expected 2 images and references or more, got 1 and 1" in small.error

    @pytest.mark.parametrize("name", ["fid", "kid"])
    def test_without_inception_nothing_is_scored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
        monkeypatch.setattr(features, "find_spec", lambda _: None)
        image = image_file(tmp_path / "a.png")
        result = commands.run("score", image, image, "--metric", name, "-o", tmp_path / "s.csv")
        assert (result.exit_code, result.stdout) == (2, "")
        first, *ways = result.stderr.splitlines()
        assert first.startswith(f"damlpips: --metric {name}: needs Inception, which is not here (")
        place = tmp_path / "hub/hub/checkpoints" / features.INCEPTION
        for text in ("Three ways out", str(place), "--fid-features FILE.py:NAME", f"leave {name} out"):
            assert text in "\n".join(ways)
        assert not (tmp_path / "s.csv").exists()

    @pytest.mark.parametrize(
        ("message", "name"),
        [
            ("net.txt: expected FILE.py:NAME, or TorchScript", "net.txt"),
            ("gone.pt: No such file", "gone.pt"),
            ("bad.pt: expected TorchScript", "bad.pt"),
            ("no 'other' in this file", "net.py:other"),
            ("expected it to make a callable", "net.py:number"),
        ],
    )
    def test_networks_that_are_none(self, tmp_path: Path, network: Path, message: str, name: str) -> None:
        (tmp_path / "bad.pt").write_bytes(b"nonsense")
        image = image_file(tmp_path / "a.png")
        refused(message, "score", image, image, "--metric", "fid", "--fid-features", tmp_path / name)
        with pytest.raises((MetricFileError, UnavailableMetricError)):
            features.build(str(tmp_path / name))

    def test_options_that_mean_nothing(self, arguments: list[object], tmp_path: Path, network: Path) -> None:
        image = image_file(tmp_path / "x.png")
        refused("only --metric fid and kid have features", "score", image, image, "--fid-features", f"{network}:means")
        frames = ("--metric", "fid", "--fid-features", f"{network}:means", "--frames")
        refused("--metric fid: compares whole images, not videos", "score", tmp_path / "r", tmp_path / "a", *frames)
        for name, message in (
            ("flat", "expected features (2, F) of as many images, got (2,)"),
            ("fussy", "fails on images of 48 x 40 pixels (expected 299 x 299)"),
        ):
            arguments[arguments.index("--fid-features") + 1] = f"{network}:{name}"
            result = commands.run(*arguments)
            assert result.exit_code == 3
            assert f"net.py:{name}, " in result.stderr
            assert message in result.stderr


class TestShown:
    def test_in_table_and_report(self, arguments: list[object], tmp_path: Path) -> None:
        assert commands.run(*arguments).exit_code == 0
        found = {(s.method, s.metric): s for s in read_sets(sets_of(tmp_path / "s.csv"))}
        text = render_table([tmp_path / "s.csv"], digits=4)
        assert "| method | DAMLPIPS-nano \u2193 | FID \u2193 | KID \u2193 |" in text
        best = min("ab", key=lambda name: found[name, "fid"].score)
        assert f"**{found[best, 'fid'].score:.4f}**" in text
        assert "FID is of whole sets of 9 images, on whose number it depends." in text
        assert f"FID: {found['a', 'fid'].said.description}." in text
        page = render_report([tmp_path / "s.csv"], samples=20, maps=False)
        assert f"<strong>{found[best, 'fid'].score:.4f}</strong>" in page
        assert "FID \u2193</button>" in page

    def test_of_other_images(self, arguments: list[object], tmp_path: Path) -> None:
        assert commands.run(*arguments).exit_code == 0
        lines = (tmp_path / "s.csv").read_text().splitlines(keepends=True)
        (tmp_path / "s.csv").write_text("".join(lines[:-1]))
        with pytest.raises(ScoringError, match=r"s\.sets\.csv: fid of b is not that of the images in"):
            render_table([tmp_path / "s.csv"])
        sets_of(tmp_path / "s.csv").write_text("a,b\n")
        with pytest.raises(ScoringError, match=r"s\.sets\.csv: expected the columns method, metric"):
            render_table([tmp_path / "s.csv"])
