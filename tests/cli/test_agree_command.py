"""`damlpips agree`: what it prints, writes and refuses."""

import io
import json
import re
import sys
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import Result

from damlpips.cli.agree import _fitting, _progress
from damlpips.evaluation import agreement, figures, named
from damlpips.evaluation import views as module
from damlpips.evaluation.figures import SetFigures
from damlpips.evaluation.tables import Table
from tests.support import commands
from tests.support.commands import csv_rows, refused

STRENGTHS = (5, 15, 40)


@pytest.fixture(autouse=True)
def _cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A folder with a set of ratings, of four contents and three strengths of noise, and a set of choices."""
    folder = tmp_path / "judged"
    folder.mkdir()
    ratings, choices = ["set,ref,dist,score,group,kind"], ["set,ref,a,b,votes_a,votes_b,group"]
    for content in range(4):
        base = np.random.default_rng(content).integers(60, 190, (36, 36, 3))
        Image.fromarray(base.astype(np.uint8)).save(folder / f"{content}.png")
        for k, strength in enumerate(STRENGTHS):
            noise = np.random.default_rng(9).integers(-strength, strength + 1, base.shape)
            Image.fromarray((base + noise).astype(np.uint8)).save(folder / f"{content}_{k}.png")
            ratings.append(f"noisy,{content}.png,{content}_{k}.png,{5 - k},{content},{'weak' if k < 2 else 'strong'}")
        choices.append(f"pairs,{content}.png,{content}_0.png,{content}_2.png,{5 + content},1,{content}")
    (folder / "mos.csv").write_text("\n".join(ratings) + "\n")
    (folder / "pairs.csv").write_text("\n".join(choices) + "\n")
    return folder


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    """The least challenge set: one image of each kind."""
    folder = tmp_path / "challenge"
    names = [f"ref/ref_{c}" for c in ("black", "blue", "gray", "green", "random", "red", "white")]
    names += ["invert/dog", "invert/dog_invert", "translate/dog", "translate/dog_translate"]
    names += ["rotate/dog", *(f"rotate/dog_{k}" for k in (22, 45, 67, 90, 180))]
    names += ["color_stain/dog", "color_stain/dog_ref", "color_stain/dog_stain"]
    for k, name in enumerate(names):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (36, 36, 3), np.uint8)).save(file)
    return folder


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """What scales images down to what metrics are shown, and knows which ones it was given."""
    seen = Mock(wraps=module.scaled_down)
    monkeypatch.setattr(module, "scaled_down", seen)
    return seen


def run(*arguments: object) -> Result:
    return commands.run("agree", *arguments)


class TestTables:
    def test_a_row_a_metric_and_a_column_a_set(self, judged: Path) -> None:
        result = run(judged, "--metric", "mse", "--metric", "damlpips", "--samples", 50)
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert re.fullmatch(r"\| metric +\| +noisy \(SRCC\) \| +pairs \(2AFC\) \| +mean \|", lines[2])
        assert re.match(r"\| mse +\| +0\.\d{3} \(0\.\d\d to [01]\.\d\d\) \|", lines[4])
        assert [line.split("|")[1].strip() for line in lines[4:8]] == [
            *("mse", "damlpips", "one observer", "most observers"),
        ]

    def test_the_figures_are_right(self, judged: Path) -> None:
        read = json.loads(run(judged, "--metric", "mse", "--samples", 20, "--json", "-").stdout)
        values = {(row["set"], row["figure"]): row["value"] for row in read["figures"]}
        # each content's order is right, and noise of one strength is as far from every image
        assert values["noisy", "SRCC"] == pytest.approx(1, abs=0.06)
        # the least noisy image is nearer; 5/6, 6/7, 7/8 and 8/9 of the votes are for it
        assert values["pairs", "2AFC"] == pytest.approx(np.mean([5 / 6, 6 / 7, 7 / 8, 8 / 9]))

    def test_the_baseline_is_one_of_the_metrics(self, judged: Path) -> None:
        result = run(judged, "--metric", "damlpips", "--baseline", "mse", "--samples", 20)
        assert "Difference to mse" in result.stdout
        assert re.search(r"^\| damlpips +\| +[+-]\d\.\d{3} \(.* to .*\), p [01]\.\d{3} \|", result.stdout, re.M)
        assert re.search(r"^\| mse ", result.stdout, re.M)

    def test_all_figures_by_kind(self, judged: Path, tmp_path: Path) -> None:
        file = tmp_path / "f.csv"
        result = run(judged / "mos.csv", "--metric", "mse", "--samples", 20, "--by", "kind", "--csv", file)
        assert "noisy: 12 judgements of 4 contents" in result.stdout
        assert re.search(r"^\| mse +\| weak +\| +8 \|", result.stdout, re.M)
        parts = {row["part"] for row in csv_rows(file)}
        assert parts == {"", "weak", "strong"}

    @pytest.mark.parametrize(
        ("options", "intervals"),
        [
            ((), {"2AFC", "SRCC"}),
            (("--by", "kind"), {"2AFC", "SRCC"}),
            (("--by", "set"), {"2AFC", "SRCC", "KRCC", "PLCC"}),
            (("--csv", "f"), {"2AFC", "SRCC", "KRCC", "PLCC"}),
            (("--json", "f"), {"2AFC", "SRCC", "KRCC", "PLCC"}),
            (("--plot", "f"), {"2AFC", "SRCC", "KRCC", "PLCC"}),
        ],
    )
    def test_intervals_that_nobody_sees_are_not_computed(
        self,
        judged: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        options: tuple[str, ...],
        intervals: set[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        found = []

        def evaluate(*arguments: object, **options: object) -> SetFigures:
            found.append(figures.evaluate(*arguments, **options))
            return found[-1]

        monkeypatch.setattr(agreement, "evaluate", evaluate)
        assert run(judged, "--metric", "mse", "--samples", 5, *options).exit_code == 0
        assert {name for of_set in found for name in of_set.figures} == intervals

    def test_sets_of_one_name_are_told_apart(self, judged: Path, tmp_path: Path) -> None:
        other = tmp_path / "judged" / "again.csv"
        other.write_text((judged / "mos.csv").read_text())
        result = run(judged / "mos.csv", other, "--metric", "mse", "--samples", 5)
        assert "mos.csv: noisy (SRCC)" in result.stdout
        assert "again.csv: noisy (SRCC)" in result.stdout

    def test_ratings_and_comparisons_of_one_name_in_one_folder(self, judged: Path) -> None:
        rows = [f"noisy,{c}.png,{c}_2.png,{c}.png,{c}_0.png,3,1,noise" for c in range(4)]
        header = "set,p1,p2,q1,q2,votes_p,votes_q,group"
        (judged / "pairs.csv").write_text("\n".join([header, *rows]) + "\n")
        result = run(judged, "--metric", "mse", "--baseline", "damlpips", "--samples", 20, "--plot", judged / "plots")
        assert result.exit_code == 0
        assert "noisy, ratings (SRCC)" in result.stdout
        assert "noisy, choices (2AFC)" in result.stdout
        assert re.search(r"^\| mse +\| .* \| +0.750 \(0.75 to 0.75\) \| ", result.stdout, re.M)
        assert re.search(r"^\| one observer +\| +- \| +0.625 \|", result.stdout, re.M)
        assert len(list((judged / "plots").iterdir())) == 2

    def test_a_set_of_one_content_says_that_it_has_no_interval(self, judged: Path) -> None:
        rows = ["0.png,0_2.png,0.png,0_0.png,3,1", "0_0.png,0_1.png,0_0.png,0_2.png,0,4"]
        (judged / "quads.csv").write_text("\n".join(["p1,p2,q1,q2,votes_p,votes_q", *rows]) + "\n")
        result = run(judged / "quads.csv", "--metric", "mse", "--shorter-side", 24)
        assert re.search(r"^\| mse +\| +0.875 \|", result.stdout, re.M)
        assert "\n\nNo interval for quads: all images are of one content, an interval needs two.\n" in result.stdout

    def test_the_challenge_alone(self, challenge: Path) -> None:
        result = run("--challenge", challenge, "--metric", "mse")
        assert result.exit_code == 0
        assert re.search(
            r"^\| mse +\| +\d of 1 \| +\d of 5 \| +\d of 1 \| +\d of 1 \| +\d of 8 \|", result.stdout, re.M
        )
        assert "Agreement with people" not in result.stdout

    def test_shorter_side_is_what_metrics_see(self, judged: Path, views: Mock) -> None:
        run(judged, "--metric", "mse", "--samples", 5, "--shorter-side", 18)
        assert {call.args[1] for call in views.call_args_list} == {18}

    def test_default_metrics(self, judged: Path, random_alex_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def names() -> list[str]:
            found = json.loads(run(judged, "--samples", 5, "--json", "-").stdout)
            return [metric["name"] for metric in found["metrics"]]

        assert names() == ["damlpips"]
        folder = random_alex_weights.parent / "named"
        folder.mkdir(exist_ok=True)
        link = folder / "alexnet-owt-7be5be79.pth"
        if not link.exists():
            link.symlink_to(random_alex_weights)
        monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(folder))
        result = run(judged, "--samples", 5)
        # other weights under the name of the published ones are found, and refused
        assert result.exit_code == 3
        assert re.search("left out: lpips-alex: cannot be built", result.stderr)

    def test_names_are_listed(self) -> None:
        names = run("--list").stdout.splitlines()
        assert {"mse", "damlpips", "lpips-alex", "torchmetrics:psnr"} <= set(names)
        assert len(names) == len(set(names))

    def test_help_says_the_exit_codes(self) -> None:
        assert "130 when interrupted" in " ".join(re.sub(r"[^\w]+", " ", run("--help").stdout).split())


class TestFiles:
    def test_quiet_writes_files_only(self, judged: Path, tmp_path: Path) -> None:
        out = tmp_path / "figures.csv", tmp_path / "figures.json"
        result = run(judged, "--metric", "mse", "--samples", 5, "-q", "--csv", out[0], "--json", out[1])
        assert (result.exit_code, result.output) == (0, "")
        assert len(csv_rows(out[0])) == len(json.loads(out[1].read_text())["figures"])

    def test_plots(self, judged: Path, tmp_path: Path) -> None:
        result = run(judged, "--metric", "mse", "--samples", 5, "--plot", tmp_path / "a/b", "--plot-format", "svg")
        assert result.exit_code == 0, result.output
        assert sorted(file.name for file in (tmp_path / "a/b").iterdir()) == ["noisy.svg", "pairs.svg"]

    def test_names_of_sets_cannot_lead_out_of_the_folder(self, judged: Path, tmp_path: Path) -> None:
        file = judged / "mos.csv"
        file.write_text(file.read_text().replace("noisy,", "../../x y,"))
        run(file, "--metric", "mse", "--samples", 5, "--plot", tmp_path / "plots")
        assert [f.name for f in (tmp_path / "plots").iterdir()] == ["x-y.pdf"]

    def test_distances_are_kept(self, judged: Path, tmp_path: Path, views: Mock) -> None:
        first = run(judged, "--metric", "mse", "--samples", 5, "--cache", tmp_path / "kept")
        # four references and twelve distorted images; the choices are between images that have been seen
        assert views.call_count == 16
        second = run(judged, "--metric", "mse", "--samples", 5, "--cache", tmp_path / "kept")
        assert (second.exit_code, second.stdout) == (0, first.stdout)
        assert views.call_count == 16
        run(judged / "mos.csv", "--metric", "mse", "--samples", 5, "--no-cache")
        assert views.call_count == 32

    def test_the_cache_is_the_users(self, judged: Path, tmp_path: Path) -> None:
        run(judged, "--metric", "mse", "--samples", 5, "--no-cache")
        assert not (tmp_path / "cache").exists()
        run(judged, "--metric", "mse", "--samples", 5)
        assert (tmp_path / "cache" / "damlpips").is_dir()

    def test_an_interrupted_run_keeps_what_it_has(self, judged: Path, tmp_path: Path, views: Mock) -> None:
        arguments = (judged, "--metric", "mse", "--samples", 5, "--cache", tmp_path / "kept")
        # in the middle of the third content
        views.side_effect = [*[DEFAULT] * 10, KeyboardInterrupt]
        assert run(*arguments, "--csv", tmp_path / "f.csv").exit_code == 130
        assert not (tmp_path / "f.csv").exists()
        views.reset_mock(side_effect=True)
        assert run(*arguments).exit_code == 0
        assert views.call_count == (1 + 2) + (1 + 3)


class TestRefusals:
    def test_what_cannot_be_built_is_left_out(self, judged: Path) -> None:
        result = run(judged, "--metric", "lpips-alex", "--metric", "mse", "--samples", 5)
        assert result.exit_code == 3
        assert result.stderr.startswith("damlpips: left out: lpips-alex: cannot be built")
        assert "| mse" in result.stdout
        assert "lpips-alex" not in result.stdout

    def test_what_cannot_be_computed_is_left_out(self, judged: Path) -> None:
        result = run(judged, "--metric", "torchmetrics:ms-ssim", "--metric", "mse", "--samples", 5)
        assert result.exit_code == 3
        assert re.search(r"torchmetrics:ms-ssim is left out of noisy: .*0_0\.png against", result.stderr)
        assert re.search(r"^\| torchmetrics:ms-ssim +\| +- \| +- \| +- \|", result.stdout, re.M)

    @pytest.mark.parametrize(("message", "metric"), [("built", "lpips-alex"), ("computed", "torchmetrics:ms-ssim")])
    def test_nothing_left(self, judged: Path, message: str, metric: str) -> None:
        result = run(judged, "--metric", metric)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.splitlines()[-1] == f"damlpips: no metric could be {message}"

    def test_a_library_that_is_not_installed(self, judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(named, "find_spec", lambda name: None)
        result = run(judged, "--metric", "piq:ssim")
        assert result.exit_code == 2
        assert "left out: piq:ssim: piq is not installed: pip install 'damlpips[piq]'\n" in result.stderr

    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            ("expected a judged set, or --challenge", []),
            ("unknown metric 'damlpip': did you mean damlpips", ["mos.csv", "--metric", "damlpip"]),
            ("--layout tid: expected auto, bapps-2afc", ["mos.csv", "--layout", "tid"]),
            ("--cache and --no-cache", ["mos.csv", "--cache", "c", "--no-cache"]),
            ("--plot mos.csv: is a file", ["mos.csv", "--plot", "mos.csv"]),
            ("--csv .*: is a folder", ["mos.csv", "--csv", ".."]),
            ("--device tpu", ["mos.csv", "--device", "tpu"]),
            ("Invalid value for '--by'", ["mos.csv", "--by", "colour"]),
            ("gone: No such file", ["gone"]),
            (r"0_1\.png", ["lacking.csv"]),
            ("c: a damaged cache", ["mos.csv", "--cache", "c"]),
        ],
    )
    def test_one_line_says_what_is_wrong(
        self, judged: Path, monkeypatch: pytest.MonkeyPatch, message: str, arguments: list[str]
    ) -> None:
        monkeypatch.chdir(judged)
        Path("lacking.csv").write_text(Path("mos.csv").read_text().replace("0_1.png", "folder/0_1.png"))
        Path("c").write_bytes(b"not a database" * 100)
        refused(message, "agree", "--metric", "mse", *arguments)


class TestTerminal:
    def test_a_wide_table_comes_in_parts_that_fit(self) -> None:
        columns = ("metric", *(f"set number {k}" for k in range(6)))
        table = Table("Title", columns, (("damlpips", *("0.544 (0.45 to 0.63)",) * 6),))
        for width, parts in ((200, 1), (100, 2), (40, 6)):
            console = Console(width=width, file=io.StringIO(), force_terminal=True)
            found = _fitting(table, console)
            assert len(found) == parts
            for part in found:
                console.print(part)
            text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
            assert max(map(len, text.splitlines())) <= width
            assert text.count("0.544 (0.45 to 0.63)") == 6

    def test_names_are_text(self) -> None:
        table = Table("[bold]T", ("metric", "[red]set"), (("a\x1b[31mb", "1"),))
        console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
        console.print(*_fitting(table, console))
        assert "[bold]T" in console.file.getvalue()
        assert "[red]set" in console.file.getvalue()
        assert "a\\x1b[31mb" in console.file.getvalue()

    def test_the_bar_is_for_terminals_only(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def shown(terminal: bool, wanted: bool) -> str:
            monkeypatch.setattr(
                "damlpips.cli.options.Console", lambda **_: Console(file=sys.stderr, force_terminal=terminal)
            )
            with _progress(shown=wanted) as move:
                for k in range(1, 4):
                    move("mse on noisy", k, 3)
            return capsys.readouterr().err

        assert "mse on noisy" in shown(True, True)
        assert shown(False, True) == ""
        assert shown(True, False) == ""


def test_a_fault_of_the_program_is_not_hidden(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "evaluate", Mock(side_effect=RuntimeError("a bug")))
    assert isinstance(run(judged, "--metric", "mse").exception, RuntimeError)
