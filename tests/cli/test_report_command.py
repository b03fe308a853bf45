"""`damlpips report`: the page that it writes, and what it refuses."""

import os
import re
from pathlib import Path

import pytest
from typer.testing import Result

from damlpips.report.page import render_report
from tests.support import commands
from tests.support.commands import refused_output
from tests.support.scored import row, run_score, write_rows


def run(*arguments: object) -> Result:
    return commands.run("report", *arguments)


def refused(message: str, out: Path, *arguments: object) -> None:
    refused_output(message, out, "report", *arguments)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_score(tmp_path_factory.mktemp("run"), noises={"m": 9, "n": 20}, names=["a.png", "b.png"])


class TestPage:
    def test_it_is_the_page_of_python(self, rows: Path, tmp_path: Path) -> None:
        out = tmp_path / "page.html"
        result = run(rows, "-o", out, "--pairs", 1, "--side", 32, "--title", "A & B", "--device", "cpu")
        assert (result.exit_code, result.stderr) == (0, ""), result.exception
        assert re.fullmatch(rf"{re.escape(str(out))}: \d+ kB\n", result.stdout)
        page = out.read_text(encoding="utf-8")
        assert page == render_report([rows], pairs=1, side=32, title="A & B")
        assert page.count('alt="Heat map') == 4

    def test_options(self, rows: Path, tmp_path: Path) -> None:
        moved = tmp_path / "moved.csv"
        moved.write_text(rows.read_text().replace(f"{rows.parent}{os.sep}", ""))
        out = tmp_path / "page.html"
        result = run(moved, "-o", out, "--images", rows.parent, "--no-maps", "-q")
        assert (result.exit_code, result.output) == (0, "")
        page = out.read_text(encoding="utf-8")
        assert page.count('alt="Result') == 4
        assert 'alt="Heat map' not in page

    def test_default_output_and_standard_output(
        self, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run(rows, "--pairs", 0).exit_code == 0
        assert os.listdir(tmp_path) == ["report.html"]
        result = run(rows, "--pairs", 0, "-o", "-")
        assert result.stdout == (tmp_path / "report.html").read_text(encoding="utf-8")

    def test_weights(self, tmp_path: Path, random_nano_weights: Path) -> None:
        rows = run_score(tmp_path, "--weights", str(random_nano_weights), noises={"m": 9}, names=["a.png"])
        out = tmp_path / "page.html"
        assert run(rows, "-o", out).exit_code == 0
        assert 'alt="Heat map' not in out.read_text(encoding="utf-8")
        assert run(rows, "-o", out, "--weights", random_nano_weights).exit_code == 0
        assert 'alt="Heat map' in out.read_text(encoding="utf-8")


class TestRefused:
    def test_rows(self, tmp_path: Path) -> None:
        out = tmp_path / "page.html"
        out.write_text("old")
        refused("none.csv: No such file", out, tmp_path / "none.csv")
        (tmp_path / "b.csv").mkdir()
        refused("Is a directory", out, write_rows(tmp_path / "a.csv", [row()]), tmp_path / "b.csv")
        (tmp_path / "other.csv").write_text("name,value\n1,2\n")
        refused("other.csv: not a table of `damlpips score`: it has no column", out, tmp_path / "other.csv")
        refused("empty.csv: there are no rows in it", out, write_rows(tmp_path / "empty.csv", []))
        refused("report.html: expected rows of scores, as damlpips score writes them", out, tmp_path / "report.html")
        refused("row 1 is damaged", out, write_rows(tmp_path / "bad.csv", [row(score="x")]))
        refused("comes a second time", out, tmp_path / "a.csv", tmp_path / "a.csv")

    def test_outputs(self, rows: Path, tmp_path: Path) -> None:
        refused("no such folder", tmp_path / "none" / "page.html", rows)
        (tmp_path / "d").mkdir()
        refused("is a folder, expected a file", tmp_path / "d", rows)
        refused("is one of the files of rows", rows, rows)

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="for root every folder is writable")
    def test_a_folder_that_cannot_be_written(self, rows: Path, tmp_path: Path) -> None:
        folder = tmp_path / "locked"
        folder.mkdir(0o500)
        refused("Permission denied", folder / "page.html", rows, "--pairs", 0)

    def test_a_full_disk(self, rows: Path) -> None:
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("no /dev/full here")
        refused("No space left", full, rows, "--pairs", 0)

    def test_options(self, rows: Path, tmp_path: Path) -> None:
        out = tmp_path / "page.html"
        refused("--images .*none: no such folder", out, rows, "--images", tmp_path / "none")
        refused("--weights .*none: no such file", out, rows, "--weights", tmp_path / "none")
        refused("--heads .*none: no such file", out, rows, "--heads", tmp_path / "none")
        refused("--pairs", out, rows, "--pairs", -1)
        refused("--device tpu", out, rows, "--device", "tpu")
