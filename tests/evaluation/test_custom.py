"""Metrics of one's own, from a file: what they are called with, kept under, and refused for."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, Backbone
from damlpips.evaluation.cache import DistanceCache
from damlpips.evaluation.custom import MetricFileError, split
from damlpips.evaluation.distances import pair_distances
from damlpips.evaluation.named import NamedMetric, UnavailableMetricError, build
from damlpips.scoring.images import ScoringError
from tests.support.commands import refused, run
from tests.support.pictures import image_file

SOURCE = '''
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from damlpips import DAMLPIPS, Backbone

print("made by a file")
runs = []


@dataclass
class Brightness:
    """Of the distorted image less twice that of the reference."""

    factor: float = 2.0

    def __call__(self, distorted, reference):
        return distorted.mean((1, 2, 3)) - self.factor * reference.mean((1, 2, 3))


class Noisy(torch.nn.Module):
    """Random unless it is in eval mode."""

    def __init__(self, start=0.5):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(start))
        self.dropout = torch.nn.Dropout(0.9)

    def forward(self, distorted, reference):
        return self.dropout(self.weight * (distorted - reference).abs()).mean((1, 2, 3))


def from_weights():
    return Noisy(float((Path(__file__).parent / "weights.txt").read_text()))


def wrapped():
    return torch.nn.ModuleDict({"inner": ours()})["inner"]


def backbone():
    return Backbone(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False)), taps=["0"], min_size=3)


ours = DAMLPIPS
mean = lambda: lambda x, y: (x - y).abs().mean()
table = lambda: lambda x, y: (x - y).abs().mean((2, 3))
number = lambda: lambda x, y: 0.5
complex_numbers = lambda: lambda x, y: x.mean((1, 2, 3)) * 1j
makes_none = lambda: 7
needs_more = lambda size: None
constant = 3.0
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my metrics.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, 40, 48), torch.rand(2, 3, 40, 48)


def identity(file: Path, name: str) -> str:
    return build(f"{file}:{name}").identity


class TestBuilt:
    def test_is_called_with_the_distorted_image_first(self, file: Path, pair: tuple[Tensor, Tensor]) -> None:
        metric = build(f"{file}:Brightness")
        reference, distorted = pair
        expected = distorted.mean((1, 2, 3)) - 2 * reference.mean((1, 2, 3))
        assert metric.distances(metric.encode(reference), distorted).tolist() == pytest.approx(expected.tolist())
        assert (metric.name, metric.lower_is_closer) == (f"{file}:Brightness", True)

    def test_a_module_is_in_eval_mode(self, file: Path, pair: tuple[Tensor, Tensor]) -> None:
        metric = build(f"{file}:Noisy")
        expected = 0.5 * (pair[0] - pair[1]).abs().mean((1, 2, 3))
        assert metric.distances(*pair).tolist() == pytest.approx(expected.tolist())

    def test_a_reference_of_this_packages_metrics_is_encoded_once(
        self, file: Path, pair: tuple[Tensor, Tensor]
    ) -> None:
        metric = build(f"{file}:ours")
        encoded = metric.encode(pair[0])
        assert not isinstance(encoded, Tensor)
        assert metric.distances(encoded, pair[1]).tolist() == pytest.approx(DAMLPIPS()(pair[1], pair[0]).tolist())

    def test_a_backbone_is_lpips_with_uniform_heads_on_it(self, file: Path, pair: tuple[Tensor, Tensor]) -> None:
        torch.manual_seed(0)
        metric = build(f"{file}:backbone")
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False))
        x, y = pair
        expected = LPIPS(Backbone(network, taps=["0"], min_size=3), heads="uniform")(x, y)
        assert torch.equal(metric.distances(metric.encode(y), x), expected.double())
        (own,) = json.loads(metric.identity)["options"]["own"]
        assert own["heads"] == "uniform"
        assert identity(file, "backbone") != metric.identity  # another draw

    def test_what_the_file_prints_goes_to_stderr(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        build(f"{file}:Brightness")
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", "made by a file\n")
        build(f"{file}:Noisy")
        assert capsys.readouterr().err == ""  # it was run once

    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("a/b.py:c", (Path("a/b.py"), "c")),
            ("C:/b.py:c", (Path("C:/b.py"), "c")),
            ("b.py", (Path("b.py"), "")),
            ("b.py:", (Path("b.py"), "")),
            ("piq:ssim", None),
            ("damlpips", None),
        ],
    )
    def test_names(self, name: str, parts: tuple[Path, str] | None) -> None:
        assert split(name) == parts


class TestIdentity:
    def test_follows_the_bytes_of_the_file(self, file: Path) -> None:
        before = identity(file, "Brightness")
        assert identity(file, "Brightness") == before
        assert identity(file, "Noisy") != before
        moved = file.rename(file.with_name("moved.py"))
        assert identity(moved, "Brightness") == before
        moved.write_text(SOURCE + "# a comment\n")
        assert identity(moved, "Brightness") != before

    def test_follows_the_weights(self, file: Path) -> None:
        weights = file.with_name("weights.txt")
        weights.write_text("0.5")
        before = identity(file, "from_weights")
        assert identity(file, "from_weights") == before
        weights.write_text("0.25")
        assert identity(file, "from_weights") != before

    def test_has_the_options_of_this_packages_modules(self, file: Path) -> None:
        for name in ("ours", "wrapped"):
            (own,) = json.loads(identity(file, name))["options"]["own"]
            assert own == json.loads(json.dumps(DAMLPIPS().configuration()))

    def test_a_change_of_the_file_is_computed_anew(self, file: Path, tmp_path: Path) -> None:
        files = [image_file(tmp_path / f"{k}.png", k) for k in range(2)]

        def distance() -> float:
            (found,) = pair_distances(build(f"{file}:Brightness"), [(files[0], files[1])], cache=cache)
            return found

        with DistanceCache(tmp_path / "kept") as cache:
            before = distance()
            assert distance() == before
            file.write_text(SOURCE.replace("factor: float = 2.0", "factor: float = 3.0"))
            assert distance() < before


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("my metrics.py:brightness", "no 'brightness' in this file: did you mean Brightness, from_weights?"),
            ("my metrics.py:zzzzz", "no 'zzzzz' in this file: no name is near it"),
            ("my metrics.py:constant", "expected a callable that makes the metric, got float 'constant'"),
            ("my metrics.py:makes_none", "expected it to make a callable of batches of images, it made int"),
            ("my metrics.py:", "expected FILE.py:NAME, got '' for a name"),
            ("my metrics.py", "expected FILE.py:NAME, got '' for a name"),
            ("gone.py:mine", "No such file or directory"),
            ("nul\0.py:mine", "not a file name (embedded null byte)"),
        ],
    )
    def test_what_makes_no_metric(self, file: Path, name: str, message: str) -> None:
        with pytest.raises(MetricFileError) as caught:
            build(str(file.with_name(name)))
        assert str(caught.value) == f"{file.with_name(name)}: {message}"

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("def", "SyntaxError: invalid syntax"),
            ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("def mine():\n    raise RuntimeError('no weights')", "RuntimeError: no weights"),
            (SOURCE.replace("needs_more", "mine"), "TypeError: "),
        ],
    )
    def test_what_the_file_raises(self, source: str, message: str, tmp_path: Path) -> None:
        file = tmp_path / "bad.py"
        file.write_text(source)
        for _ in range(2):
            with pytest.raises(UnavailableMetricError, match=re.escape(f"{file}:mine: cannot be built ({message}")):
                build(f"{file}:mine")

    def test_weights_are_the_files_own(self, file: Path) -> None:
        with pytest.raises(UnavailableMetricError, match=r"Noisy: takes no weights, got 'w.pth'"):
            build(f"{file}:Noisy", weights="w.pth")

    @pytest.mark.parametrize(
        ("name", "got"),
        [
            ("mean", r"() of torch.float32"),
            ("table", r"(1, 3) of torch.float32"),
            ("number", "float"),
            ("complex_numbers", "(1,) of torch.complex64"),
        ],
    )
    def test_what_is_no_distance_a_pair(self, file: Path, name: str, got: str, tmp_path: Path) -> None:
        files = [image_file(tmp_path / f"{k}.png", k) for k in range(2)]
        metric: NamedMetric = build(f"{file}:{name}")
        expected = f"expected a distance a pair, a tensor (1,) of real numbers, got {got}"
        with pytest.raises(ScoringError, match=re.escape(f"{file}:{name}: {expected}")) as caught:
            pair_distances(metric, [(files[0], files[1])])
        assert str(files[1]) in str(caught.value)


class TestCommand:
    @pytest.fixture
    def ratings(self, tmp_path: Path) -> Path:
        rows = [f"{image_file(tmp_path / f'{k}.png', k).name},{k}" for k in range(4)]
        (tmp_path / "mos.csv").write_text("ref,dist,score\n" + "".join(f"0.png,{row}\n" for row in rows))
        return tmp_path / "mos.csv"

    def test_agree_takes_it(self, file: Path, ratings: Path) -> None:
        name = f"{file}:Brightness"
        result = run("agree", ratings, "--metric", name, "--baseline", "mse", "--no-cache", "--samples", 5)
        assert result.exit_code == 0
        assert result.stdout.startswith("Agreement with people")
        assert re.search(rf"^\| {re.escape(name)} +\| +-?\d\.\d{{3}} \|$", result.stdout, re.M)

    def test_agree_refuses_what_is_none(self, file: Path, ratings: Path) -> None:
        file.write_text(SOURCE.replace('print("made by a file")', ""))
        refused("constant: expected a callable", "agree", str(ratings), "--no-cache", "--metric", f"{file}:constant")

    def test_agree_leaves_out_what_gives_no_distance(self, file: Path, ratings: Path) -> None:
        result = run("agree", ratings, "--metric", f"{file}:mean", "--metric", "mse", "--no-cache", "--samples", 5)
        assert result.exit_code == 3
        assert "expected a distance a pair" in result.stderr
