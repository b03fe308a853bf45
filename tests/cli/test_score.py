"""`damlpips score`: what it prints, writes and refuses."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from rich.console import Console

from damlpips import DAMLPIPS, LPIPS, __version__
from damlpips.cli import score
from damlpips.cli.summary import number
from damlpips.nets.table import BACKBONES
from damlpips.scoring import scorer
from tests.support.commands import piped, refused, run
from tests.support.pictures import image_file, image_folders, score_of

DEMO = Path(__file__).resolve().parents[2] / "docs" / "demo"
DEMO_NAMES = ("landscape", "pebbles", "still_life")

LADDERS = (
    ("jpeg_q80.jpg", "jpeg_q30.jpg", "jpeg_q8.jpg"),
    ("blur_0.7.png", "blur_1.5.png", "blur_3.png"),
    ("noise_5.png", "noise_15.png", "noise_40.png"),
)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return image_file(tmp_path / "reference.png", 1), image_file(tmp_path / "distorted.png", 2)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return image_folders(tmp_path, [(40, 48), (40, 48), (36, 36)])


class TestDemo:
    @pytest.mark.parametrize("name", DEMO_NAMES)
    def test_scores_grow_with_every_distortion(self, name: str) -> None:
        result = run("score", DEMO / f"{name}.png", DEMO / name, "--json", "-")
        assert result.exit_code == 0, result.stderr
        scores = {Path(p["distorted"]).name: p["score"] for p in json.loads(result.stdout)["pairs"]}
        assert sorted(scores) == sorted(sum(LADDERS, ()))
        for ladder in LADDERS:
            weak, middle, strong = (scores[n] for n in ladder)
            assert 0 < weak < middle < strong

    def test_one_reference_equals_pair_by_pair(self) -> None:
        reference, folder = DEMO / "pebbles.png", DEMO / "pebbles"
        together = json.loads(run("score", reference, folder, "--json", "-", "--batch-size", 4).stdout)["pairs"]
        model = DAMLPIPS()
        apart = [score_of(model, reference, Path(p["distorted"])) for p in together]
        assert [p["score"] for p in together] == pytest.approx(apart, rel=1e-5)


class TestTable:
    def test_one_pair_has_a_score_and_no_mean(self, pair: tuple[Path, Path]) -> None:
        result = run("score", *pair)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "damlpips (nano), lower is closer" in result.stdout
        (row,) = re.findall(r"distorted\.png +([0-9.]+)", result.stdout)
        assert float(row) == pytest.approx(score_of(DAMLPIPS(), *pair), abs=1e-6)
        assert len(row.replace(".", "").lstrip("0")) >= 4
        assert "mean" not in result.stdout

    def test_several_pairs_end_with_their_mean(self, folders: tuple[Path, Path]) -> None:
        result = run("score", *folders)
        rows = dict(re.findall(r"^ +(\S+) +([0-9.]+) *$", result.stdout, re.MULTILINE))
        assert list(rows) == ["0.png", "1.png", "2.png", "mean"]
        *scores, mean = map(float, rows.values())
        assert mean == pytest.approx(sum(scores) / 3, abs=1e-6)

    def test_identical_images_score_zero(self, pair: tuple[Path, Path]) -> None:
        assert "0.000000" in run("score", pair[0], pair[0]).stdout

    def test_small_scores_keep_their_digits(self) -> None:
        shown = {0.0: "0.000000", 1.5: "1.500000", 0.00123456: "0.001235", 0.000123456: "0.0001235"}
        assert {value: number(value) for value in shown} == shown

    def test_long_and_odd_names_come_whole_without_a_terminal(self, tmp_path: Path, pair: tuple[Path, Path]) -> None:
        name = "x" * 150 + "[bold] :smile: é.png"
        pair[1].rename(tmp_path / name)
        result = run("score", pair[0], tmp_path / name)
        assert re.search(re.escape(name) + r" +[0-9]+\.[0-9]{6}", result.stdout), result.stdout
        assert "\x1b" not in result.stdout

    @pytest.mark.skipif(sys.platform == "win32", reason="no such file names")
    def test_names_cannot_steer_the_terminal(self, tmp_path: Path, pair: tuple[Path, Path]) -> None:
        odd = tmp_path / "a\x1b[31mb\nc.png"
        pair[1].rename(odd)
        result = run("score", pair[0], odd)
        assert r"a\x1b[31mb\x0ac.png" in result.stdout

    def test_quiet_prints_nothing(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        result = run("score", *pair, "--quiet", "--csv", tmp_path / "s.csv")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
        assert (tmp_path / "s.csv").is_file()


class TestFiles:
    def test_json_holds_the_scores_of_the_modules(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        run("score", *pair, "--metric", "lpips", "--backbone", "nano", "--heads", "uniform", "--json", tmp_path / "s")
        expected = score_of(LPIPS("nano", heads="uniform"), *pair)
        assert json.loads((tmp_path / "s").read_text()) == {
            "metric": "lpips",
            "backbone": "nano",
            "version": __version__,
            "mean": expected,
            "pairs": [{"reference": str(pair[0]), "distorted": str(pair[1]), "score": expected}],
        }

    def test_weights_of_the_embedded_backbone(self, pair: tuple[Path, Path], random_nano_weights: Path) -> None:
        result = run("score", *pair, "--weights", random_nano_weights, "--json", "-")
        expected = score_of(DAMLPIPS(weights=random_nano_weights), *pair)
        assert json.loads(result.stdout)["mean"] == expected != score_of(DAMLPIPS(), *pair)

    def test_standard_output_holds_nothing_else(self, folders: tuple[Path, Path]) -> None:
        table = list(csv.reader(io.StringIO(run("score", *folders, "--csv", "-").stdout)))
        assert [row[:3:2] for row in table][:1] == [["reference", "score"]]
        assert [len(row) for row in table] == [len(table[0])] * 4
        assert len(json.loads(run("score", *folders, "--json", "-").stdout)["pairs"]) == 3

    def test_outputs_are_checked_before_anything_is_scored(
        self, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scorer, "read_still", lambda path, **_: pytest.fail("read an image"))
        refused(r"--csv .*gone.*: no such folder", "score", *pair, "--csv", tmp_path / "gone/s.csv")
        refused(r"--json .*: is a folder", "score", *pair, "--json", tmp_path)
        refused("only one of them can be standard output", "score", *pair, "--json", "-", "--csv", "-")

    def test_a_file_that_cannot_be_written(
        self, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(28, "No space left on device")))
        refused(r"--csv .*s\.csv: No space left on device", "score", *pair, "--csv", tmp_path / "s.csv")
        assert not (tmp_path / "s.csv").exists()


class TestOptions:
    def test_weights_and_heads(self, pair: tuple[Path, Path], random_squeeze_weights: Path, tmp_path: Path) -> None:
        for heads in ("v0.1", "uniform"):
            result = run(
                *("score", *pair, "--metric", "lpips", "--backbone", "squeeze", "--json", "-"),
                *("--weights", random_squeeze_weights, "--heads", heads),
            )
            model = LPIPS("squeeze", weights=random_squeeze_weights, heads=heads)
            assert json.loads(result.stdout)["mean"] == pytest.approx(score_of(model, *pair), rel=1e-5)

    def test_resize(self, tmp_path: Path) -> None:
        reference, small = image_file(tmp_path / "r.png", 1), image_file(tmp_path / "d/d.png", 2, (20, 24))
        for option, value in (("reference", "reference"), ("32", 32)):
            result = run("score", reference, small, "--resize", option, "--json", "-")
            expected = score_of(DAMLPIPS(resize=value), reference, small)
            assert json.loads(result.stdout)["mean"] == pytest.approx(expected, rel=1e-5)

    def test_lpips_means_alex(self, pair: tuple[Path, Path], random_alex_weights: Path) -> None:
        result = run("score", *pair, "--metric", "lpips", "--weights", random_alex_weights)
        assert "lpips (alex), lower is closer" in result.stdout

    def test_help_names_every_backbone_and_shows_an_example(self) -> None:
        text = run("score", "--help").stdout
        assert [name for name in BACKBONES if not re.search(rf"\b{name}\b", text)] == []
        text = " ".join(re.sub(r"[^\w<>-]+", " ", text).split())
        assert "damlpips score original png" in text
        assert "Score the pairs of a CSV file in its order a header with the columns reference and distorted" in text
        assert "--pairs pairs csv" in text

    def test_without_a_command_the_help_is_shown(self) -> None:
        result = run()
        assert result.exit_code == 0
        assert "score" in result.stdout


class TestManifest:
    def test_pairs_of_a_list(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        (tmp_path / "pairs.csv").write_text(
            "quality,distorted,reference\n9,1.png,0.png\n8,0.png,1.png\n9,1.png,1.png\n"
        )
        rows = json.loads(run("score", *folders, "--pairs", tmp_path / "pairs.csv", "--json", "-").stdout)["pairs"]
        names = [(Path(r["reference"]).name, Path(r["distorted"]).name) for r in rows]
        assert names == [("0.png", "1.png"), ("1.png", "0.png"), ("1.png", "1.png")]
        model = DAMLPIPS()
        expected = [score_of(model, folders[0] / one, folders[1] / other) for one, other in names]
        assert [r["score"] for r in rows] == pytest.approx(expected, rel=1e-5)

    def test_the_table_shows_the_paths_of_the_list(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        image_file(folders[1] / "deep" / "x.png", 3)
        (tmp_path / "pairs.csv").write_text("reference,distorted\n0.png,deep/x.png\n")
        result = run("score", *folders, "--pairs", tmp_path / "pairs.csv")
        assert (result.exit_code, result.stderr) == (0, "")
        assert re.search(r"^ +deep/x\.png +[0-9.]+ *$", result.stdout, re.MULTILINE)

    def test_refusals(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        rows = tmp_path / "pairs.csv"
        rows.write_text("reference,distorted\n0.png,1.png\n0.png,../secret.png\n")
        refused(
            r"pairs\.csv, line 3: '\.\./secret\.png' leads out of .*d with '\.\.'", "score", *folders, "--pairs", rows
        )
        refused(r"reference '.*0\.png': expected a folder", "score", folders[0] / "0.png", folders[1], "--pairs", rows)
        refused(r"gone\.csv: No such file", "score", *folders, "--pairs", tmp_path / "gone.csv")


class TestRefusals:
    def test_paths(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        refused(r"reference '.*gone\.png': no such file", "score", tmp_path / "gone.png", pair[1])
        refused(r"is a folder, distorted .* a file", "score", tmp_path, pair[1])
        (tmp_path / "empty").mkdir()
        refused("no images in this folder", "score", pair[0], tmp_path / "empty")

    def test_unpaired_folders(self, folders: tuple[Path, Path]) -> None:
        (folders[1] / "1.png").unlink()
        refused(r"r/1\.png: no image of this name", "score", *folders)

    def test_unreadable_images(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("not an image")
        refused(r"text\.png: not an image", "score", pair[0], tmp_path / "text.png")
        Image.new("RGBA", (48, 40)).save(tmp_path / "clear.png")
        refused(r"clear\.png: has transparent pixels: flatten", "score", tmp_path / "clear.png", pair[1])
        os.mkfifo(tmp_path / "pipe.png")
        refused(r"pipe\.png: Not a regular file", "score", pair[0], tmp_path / "pipe.png")

    def test_names_do_not_steer_the_terminal(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        result = run("score", pair[0], tmp_path / "a\x1b[31mb\x9b.png")
        assert result.stderr.endswith("': no such file or folder\n")
        (tmp_path / "a\x1b[31mb\x9b.png").touch()
        result = run("score", pair[0], tmp_path / "a\x1b[31mb\x9b.png")
        assert result.stderr.endswith("a\\x1b[31mb\\xc2\\x9b.png: the file is empty\n")

    def test_different_sizes_say_which_option_helps(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        other = image_file(tmp_path / "other.png", 3, (40, 50))
        refused(r"other\.png: .*one size, got 40 x 50 and 40 x 48: use --resize reference", "score", pair[0], other)

    def test_images_too_small(self, tmp_path: Path, random_alex_weights: Path) -> None:
        r, d = (image_file(tmp_path / f"{k}.png", k, (20, 40)) for k in range(2))
        refused(
            r"1\.png: .*needs at least 31 x 31 pixels, got 20 x 40",
            *("score", r, d, "--metric", "lpips", "--weights", random_alex_weights),
        )

    def test_wrong_usage(self, pair: tuple[Path, Path]) -> None:
        refused("Invalid value for .--batch-size", "score", *pair, "--batch-size", 0)
        refused("No such option.*--colourful", "score", *pair, "--colourful")
        refused(r"Missing argument 'REF' \(see damlpips score --help\)", "score")
        refused("No such command 'scores'", "scores")

    def test_cuda_where_there_is_none(self, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        refused("--device cuda: CUDA is not available", "score", *pair, "--device", "cuda")
        assert run("score", *pair, "--device", "auto").exit_code == 0

    def test_a_cuda_device_beyond_the_last(self, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        refused("--device cuda:7: there is only cuda:0 to cuda:1", "score", *pair, "--device", "cuda:7")

    def test_weights_that_cannot_be_had(
        self, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(torch.hub, "download_url_to_file", Mock(side_effect=OSError("no network")))
        result = run("score", *pair, "--metric", "lpips")
        assert (result.exit_code, result.stdout) == (2, "")
        first, *others = result.stderr.splitlines()
        assert first.startswith("damlpips: no weights for backbone 'alex'")
        assert any("pass --weights" in line for line in others)
        assert "Traceback" not in result.stderr

    def test_an_interruption_exits_with_130(
        self, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(scorer, "read_still", Mock(side_effect=KeyboardInterrupt))
        result = run("score", *pair, "--csv", tmp_path / "s.csv")
        assert result.exit_code == 130
        assert not (tmp_path / "s.csv").exists()

    def test_a_fault_of_the_program_is_not_hidden(
        self, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scorer, "read_still", Mock(side_effect=RuntimeError("a bug")))
        assert isinstance(run("score", *pair).exception, RuntimeError)


class TestProcesses:
    def test_an_encoding_without_the_names_letters(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        pair[1].rename(tmp_path / "naïve.png")
        result = piped("score", pair[0], tmp_path / "naïve.png", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert (result.returncode, result.stderr) == (0, "")
        assert "na\\xefve.png" in result.stdout

    def test_the_installed_script(self) -> None:
        script = Path(sys.executable).with_name("damlpips.exe" if os.name == "nt" else "damlpips")
        if not script.exists():
            pytest.skip("not installed as a script")
        result = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
        assert result.stdout == f"damlpips {__version__}\n"


def test_the_progress_bar_is_for_terminals_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def scores_with(terminal: bool, total: int, shown: bool) -> str:
        monkeypatch.setattr(
            "damlpips.cli.options.Console", lambda **_: Console(file=sys.stderr, force_terminal=terminal)
        )
        assert list(score._Progress(total, shown=shown).along(range(total))) == list(range(total))
        return capsys.readouterr().err

    assert "scoring" in scores_with(True, 40, True)
    assert scores_with(False, 40, True) == ""
    assert scores_with(True, 2, True) == ""
    assert scores_with(True, 40, False) == ""
