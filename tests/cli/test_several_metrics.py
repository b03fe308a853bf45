"""Several metrics in one run of `damlpips score`: a column each, as of each alone, from images that are read once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import piq
import pyarrow.parquet as pq
import pytest
import torch
import torchmetrics.functional.image as functional
from PIL import Image
from torch import Tensor
from typer.testing import Result

from damlpips.evaluation.others import build, luma
from damlpips.files import spelled
from damlpips.nets.backbone import Backbone
from damlpips.scoring import scorer
from damlpips.scoring.several import Said, as_text, difference, from_text
from tests.support import commands
from tests.support.commands import csv_rows, json_rows, refused
from tests.support.pictures import image_file, image_folders

# MS-SSIM needs more than 160 pixels
LARGE = (176, 192)


def run(*arguments: object) -> Result:
    return commands.run("score", *arguments)


def of(*names: str) -> list[str]:
    return [part for name in names for part in ("--metric", name)]


def read(path: Path | str) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float() / 255


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return image_folders(tmp_path, [LARGE] * 3)


NAMES = ("damlpips", "damlpips:1", "psnr", "ssim", "ms-ssim", "piq:gmsd", "torchmetrics:uqi", "mse")


class TestScores:
    def test_a_column_each_as_its_library_says(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        assert run(*folders, *of(*NAMES), "-o", tmp_path / "s.jsonl", "-q").exit_code == 0
        rows = json_rows(tmp_path / "s.jsonl")
        assert len(rows) == 3
        for row in rows:
            x, y = read(row["distorted"]), read(row["reference"])
            expected = {
                "psnr": functional.peak_signal_noise_ratio(x, y, data_range=1.0),
                "ssim": functional.structural_similarity_index_measure(x, y, data_range=1.0),
                "ms-ssim": functional.multiscale_structural_similarity_index_measure(x, y, data_range=1.0),
                "piq:gmsd": piq.gmsd(x, y, data_range=1.0),
                "torchmetrics:uqi": functional.universal_image_quality_index(x, y),
                "mse": ((x.double() - y.double()) ** 2).mean(),
            }
            for name, value in expected.items():
                # the same operations on a pair at a time: only float32's printing lies between
                assert row[name] == pytest.approx(value.item(), rel=1e-6), name
            assert row["error"] == ""

    def test_modules_of_this_package_as_each_alone(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        names = ("damlpips", "damlpips:1", "lpips-nano")
        heads = ["--heads", "uniform"]
        assert run(*folders, *of(*names), *heads, "-o", tmp_path / "s.jsonl", "-q").exit_code == 0
        together = json_rows(tmp_path / "s.jsonl")
        for name in names:
            options = heads if name.startswith("lpips") else []
            assert run(*folders, *of(name), *options, "-o", tmp_path / f"{name}.jsonl", "-q").exit_code == 0
            alone = [row["score"] for row in json_rows(tmp_path / f"{name}.jsonl")]
            # the batch that goes through the network at once decides the last digits
            column = "score" if name == names[0] else name
            assert [row[column] for row in together] == pytest.approx(alone, rel=1e-5)

    def test_one_metric_writes_the_rows_that_it_always_did(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        rows = []
        for k, options in enumerate(([], of("damlpips"), of("damlpips-nano"), of("damlpips:2"), of("damlpips-nano:2"))):
            assert run(*folders, *options, "-o", tmp_path / f"{k}.csv", "-q").exit_code == 0
            rows.append((tmp_path / f"{k}.csv").read_bytes())
        assert set(rows) == {rows[0]}
        assert "metrics" not in csv_rows(tmp_path / "0.csv")[0]

    @pytest.mark.parametrize(("names", "first"), [(("psnr",), "damlpips"), (("psnr", "damlpips:1"), "damlpips:1")])
    def test_the_score_is_that_of_this_packages_first(
        self, folders: tuple[Path, Path], tmp_path: Path, names: tuple[str, ...], first: str
    ) -> None:
        assert run(*folders, *of(*names), "-o", tmp_path / "s.jsonl", "-q").exit_code == 0
        row, *_ = json_rows(tmp_path / "s.jsonl")
        said = from_text(row["metrics"])
        assert [metric.name for metric in said] == [first, "psnr"]
        assert [(metric.lower_is_closer, metric.unit) for metric in said] == [(True, ""), (False, "dB")]
        assert list(row)[2:4] == ["score", "psnr"]

    def test_luma_is_that_of_the_restoration_literature(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        import pyiqa
        from pyiqa.utils.color_util import to_y_channel

        arguments = (*folders, *of("psnr", "ssim"), "-o", tmp_path / "s.jsonl", "-q")
        assert run(*arguments, "--channels", "y").exit_code == 0
        metric = pyiqa.create_metric("psnr", device=torch.device("cpu"), test_y_channel=True, color_space="ycbcr")
        for row in json_rows(tmp_path / "s.jsonl"):
            x, y = read(row["distorted"]), read(row["reference"])
            # pyiqa rounds luma to 255 steps: 1e-3 of a channel's noise, here below .01 dB
            assert row["psnr"] == pytest.approx(metric(x, y).item(), abs=0.01)
            # its float32 constants are sums in another order
            assert torch.allclose(luma(x) * 255, to_y_channel(x, 255, "ycbcr"), atol=0.51)
            assert "Y of BT.601" in from_text(row["metrics"])[1].description
        refused("was scored with PSNR .*Y of BT.601.*this run has PSNR .*RGB", "score", *arguments)

    def test_videos_have_the_mean_over_frames(self, tmp_path: Path) -> None:
        for k in range(3):
            image_file(tmp_path / f"r/{k}.png", k)
            image_file(tmp_path / f"d/{k}.png", k + 50)
        files = ("-o", tmp_path / "s.jsonl", "--frames-csv", tmp_path / "f.csv")
        assert run(tmp_path / "r", tmp_path / "d", "--frames", *of("psnr", "damlpips:1"), *files).exit_code == 0
        (row,) = json_rows(tmp_path / "s.jsonl")
        frames = [
            functional.peak_signal_noise_ratio(
                read(tmp_path / f"d/{k}.png"), read(tmp_path / f"r/{k}.png"), data_range=1.0
            ).item()
            for k in range(3)
        ]
        assert row["psnr"] == pytest.approx(sum(frames) / 3, rel=1e-6)
        assert [float(frame["psnr"]) for frame in csv_rows(tmp_path / "f.csv")] == pytest.approx(frames, rel=1e-6)


class TestOnePass:
    def test_images_are_decoded_once(
        self, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read_files: list[Path] = []
        original = scorer.read_picture
        monkeypatch.setattr(
            scorer, "read_picture", lambda path, reading: (read_files.append(path), original(path, reading))[1]
        )
        assert run(*folders, *of(*NAMES), "-o", tmp_path / "s.csv", "-q").exit_code == 0
        assert sorted(read_files) == sorted(path for folder in folders for path in folder.iterdir())

    @pytest.mark.parametrize("shared", [False, True], ids=["a reference each", "one reference"])
    def test_modules_with_one_network_share_a_pass(
        self, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
    ) -> None:
        seen: list[int] = []
        forward = Backbone.forward

        def counting(self: Backbone, *images: Tensor, **options: Any) -> Any:
            seen.append(sum(map(len, images)))
            return forward(self, *images, **options)

        monkeypatch.setattr(Backbone, "forward", counting)
        # nothing moves between an image and the same with some noise, so that version 2 aligns nothing
        for path in folders[1].iterdir():
            pixels = np.array(Image.open(folders[0] / path.name))
            Image.fromarray(pixels ^ 1).save(path)
        reference = folders[0] / "0.png" if shared else folders[0]
        counts = []
        for number, names in enumerate((("damlpips:1",), ("damlpips:1", "lpips-nano"))):
            seen.clear()
            options = ["--heads", "uniform"] if len(names) > 1 else []
            arguments = (reference, folders[1], *of(*names), *options, "-o", tmp_path / f"{number}.csv", "-q")
            assert run(*arguments).exit_code == 0
            counts.append(sum(seen))
        assert counts[0] == counts[1]


class TestFailures:
    def test_a_metric_that_refuses_a_pair_leaves_the_others(self, tmp_path: Path) -> None:
        reference, distorted = image_folders(tmp_path, [LARGE, (64, 64), LARGE])
        Image.open(reference / "2.png").save(distorted / "2.png")
        result = run(reference, distorted, *of("damlpips", "ms-ssim", "psnr"), "-o", tmp_path / "s.jsonl")
        assert result.exit_code == 3
        one, small, equal = json_rows(tmp_path / "s.jsonl")
        assert one["error"] == ""
        assert small["ms-ssim"] is None
        assert small["psnr"] > 0
        assert small["score"] > 0
        assert "1.png: ms-ssim: " in small["error"]
        assert (equal["score"], equal["psnr"], equal["ms-ssim"]) == (0, None, pytest.approx(1))
        assert "2.png: psnr: infinite, the images are equal" in equal["error"]
        assert "2 of 3 pairs could not be scored by every metric" in result.stderr
        assert "failed" in result.stdout
        # what is whole is kept
        again = run(reference, distorted, *of("damlpips", "ms-ssim", "psnr"), "-o", tmp_path / "s.jsonl")
        assert (again.exit_code, "3 of 3 pairs were scored before" in again.stderr) == (3, True)

    def test_the_others_have_a_score_where_the_first_has_none(self, tmp_path: Path, random_alex_weights: Path) -> None:
        reference, distorted = image_folders(tmp_path, [(8, 8), (40, 40)])
        options = ("--weights", random_alex_weights, "-o", tmp_path / "s.jsonl", "-q")
        assert run(reference, distorted, *of("damlpips-alex", "mse"), *options).exit_code == 3
        small, large = json_rows(tmp_path / "s.jsonl")
        assert small["score"] is None
        assert small["mse"] > 0
        assert "8 x 8" in small["error"]
        assert large["error"] == ""

    def test_sizes_that_differ(self, tmp_path: Path) -> None:
        one, other = image_file(tmp_path / "a.png", 1, (40, 48)), image_file(tmp_path / "b.png", 2, (50, 60))
        folder = image_file(tmp_path / "d/b.png", 2, (50, 60)).parent
        assert run(one, folder, *of("psnr"), "--resize", "reference", "--jsonl", tmp_path / "s").exit_code == 3
        (row,) = json_rows(tmp_path / "s")
        assert row["score"] > 0
        assert "psnr: expected images of one size, got 60 x 50 and 48 x 40" in row["error"]
        refused("psnr: expected images of one size", "score", one, other, *of("psnr"), "--resize", "reference")

    @pytest.mark.parametrize(
        ("message", "options"),
        [
            ("unknown metric 'ssimm': did you mean .*ssim", of("ssimm")),
            ("unknown metric 'lpips-nano:1'", of("lpips-nano:1")),
            ("--metric psnr: was given twice", of("psnr", "damlpips", "psnr")),
            ("--metric nowhere.py:metric: No such file", of("nowhere.py:metric")),
            ("--backbone nano: damlpips-nano says its backbone already", [*of("damlpips-nano"), "--backbone", "nano"]),
            ("--version 1: damlpips:2 says its version already", [*of("damlpips:2"), "--version", "1"]),
            ("--version 3: expected one of 1, 2", of("damlpips:3")),
            ("--heads uniform: only --metric lpips has heads", [*of("damlpips", "psnr"), "--heads", "uniform"]),
        ],
    )
    def test_names_that_mean_nothing(self, tmp_path: Path, message: str, options: list[str]) -> None:
        image = image_file(tmp_path / "a.png")
        refused(message, "score", image, image, *options)


class TestFiles:
    def test_the_same_in_every_format(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        files, options = commands.outputs(tmp_path)
        assert run(*folders, *of("damlpips", "psnr", "mse"), *options).exit_code == 0
        rows = json_rows(files["jsonl"])
        assert pq.read_table(files["parquet"]).to_pylist() == rows
        assert csv_rows(files["csv"]) == [{k: str(v) for k, v in row.items()} for row in rows]
        whole = json.loads(files["json"].read_text())
        names = ("reference", "distorted", "score", "psnr", "mse")
        assert whole["pairs"] == [{name: row[name] for name in names} for row in rows]
        assert whole["metrics"] == json.loads(rows[0]["metrics"])
        assert whole["means"] == {
            name: pytest.approx(sum(row[name] for row in rows) / 3, rel=1e-12) for name in ("psnr", "mse")
        }

    def test_a_killed_run_goes_on(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        arguments = (*folders, *of("damlpips", "damlpips:1", "psnr"), "--batch-size", 2, "-o", tmp_path / "s.csv", "-q")
        assert run(*arguments).exit_code == 0
        whole = (tmp_path / "s.csv").read_bytes()
        (tmp_path / "s.csv").write_bytes(whole[:-40])
        assert run(*arguments).exit_code == 0
        assert (tmp_path / "s.csv").read_bytes() == whole
        lacking = (*folders, *of("damlpips", "psnr"), "-o", tmp_path / "s.csv", "-q")
        refused("it has damlpips:1 besides; --overwrite starts anew", "score", *lacking)
        more = (*folders, *of("damlpips", "damlpips:1", "psnr", "mse"), "-o", tmp_path / "s.csv", "-q")
        refused("it lacks mse; --overwrite starts anew", "score", *more)

    def test_shards_of_several_processes_are_the_same(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        arguments = (*folders, *of("damlpips", "psnr"), "--batch-size", 2, "-q")
        assert run(*arguments, "-o", tmp_path / "one.csv").exit_code == 0
        team = commands.ranks(2, "score", *arguments, "-o", tmp_path / "two.csv", folder=tmp_path / "ranks")
        assert [each.wait() for each in team] == [0, 0]
        assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


class TestSaid:
    METRICS = (Said.of("a,b", 'x "y" \\x41 ü', {"of": 1}, lower_is_closer=True), Said("psnr", False, "PSNR", "d", "dB"))

    def test_it_comes_back(self) -> None:
        text = as_text(self.METRICS)
        assert text.isascii()
        assert spelled(text) == text
        assert from_text(text) == list(self.METRICS)
        assert from_text("") == []

    @pytest.mark.parametrize("text", ["x", "{}", "[1]", '[{"name":"a"}]', '[{"name":"a","closer":"up"}]'])
    def test_it_is_damaged(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"^metrics: expected a list of metrics as JSON, got "):
            from_text(text if text != "{}" else '{"a":1}')

    def test_what_differs(self) -> None:
        one, other = self.METRICS
        changed = Said(other.name, False, other.description, "e", "dB")
        assert "has the metrics a,b, this run a,b, psnr" in difference(as_text([one]), as_text([one, other]))
        found = difference(as_text([one, other]), as_text([one, changed]))
        assert found == "was scored with PSNR of other settings (digest d, this run's is e)"


def test_what_a_metric_is_built_of() -> None:
    with pytest.raises(ValueError, match="channels: expected one of rgb, y, got 'x'"):
        build("psnr", channels="x")
    assert build("psnr").said.digest != build("psnr", channels="y").said.digest
    assert build("psnr").said == build("psnr").said
