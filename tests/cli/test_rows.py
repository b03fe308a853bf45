"""`damlpips score` writes a row for each pair as it comes, and goes on where a killed run stopped."""

import hashlib
import json
import os
import random
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import Result

from damlpips import DAMLPIPS
from damlpips.adapters.ray import ScorePairs
from damlpips.files import unspelled
from damlpips.report.page import render_report
from damlpips.scoring import scorer
from damlpips.scoring.images import read_image
from damlpips.scoring.rows import Table
from tests.support import commands
from tests.support.commands import SLOWLY, Command, csv_rows, json_rows, outputs, refused
from tests.support.pictures import image_file, image_folders


def run(*arguments: object) -> Result:
    return commands.run("score", *arguments)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return image_folders(tmp_path, [(36, 50) if k == 3 else (40, 48) for k in range(7)])


LPIPS = ["--metric", "lpips", "--backbone", "nano", "--heads", "uniform"]


class TestColumns:
    def test_the_same_rows_in_every_format(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        files, options = outputs(tmp_path)
        assert run(*folders, *options).exit_code == 0
        rows = json_rows(files["jsonl"])
        assert [list(row) for row in rows] == [list(Table({}, 5).types)] * 7
        assert pq.read_table(files["parquet"]).to_pylist() == rows
        text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
        assert csv_rows(files["csv"]) == text
        brief = [{k: row[k] for k in ("reference", "distorted", "score")} for row in rows]
        assert json.loads(files["json"].read_text())["pairs"] == brief
        assert sorted(os.listdir(tmp_path)) == ["d", "r", *sorted(f.name for f in files.values())]

    def test_what_a_row_says(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        assert run(*folders, "--jsonl", tmp_path / "s", "--batch-size", 1, "--resize", "reference").exit_code == 0
        row = json_rows(tmp_path / "s")[3]
        assert [row["reference"], row["distorted"]] == [str(folder / "3.png") for folder in folders]
        assert (row["metric"], row["backbone"]) == ("damlpips", "nano")
        images = [read_image(folder / "3.png")[None] for folder in (folders[1], folders[0])]
        with torch.no_grad():
            layers = DAMLPIPS(resize="reference").per_layer(*images)
        assert [row[f"layer_{k}"] for k in range(layers.shape[1])] == layers[0].tolist()
        assert row["score"] == layers.sum(1).item()
        assert (row["width"], row["height"], row["error"]) == (50, 36, "")
        sums = [hashlib.sha256((folder / "3.png").read_bytes()).hexdigest() for folder in (folders[1], folders[0])]
        assert [row["sha256"], row["reference_sha256"]] == sums
        assert row["weights"] == DAMLPIPS().source.identity()
        assert row["options"] == "alpha=error colour=convert orientation=apply resize=reference tile=none version=2"

    def test_the_ending_tells_the_format(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        starts = {"csv": b"reference,", "JSONL": b'{"reference"', "parquet": b"PAR1", "json": b"{\n"}
        for ending, start in starts.items():
            file = tmp_path / f"s.{ending}"
            assert run(*folders, "-o", file, "-q").exit_code == 0
            assert file.read_bytes().startswith(start)
        refused(r"s\.txt: expected a name that ends in \.csv", "score", *folders, "--output", tmp_path / "s.txt")
        file = tmp_path / "s.csv"
        refused("expected different files", "score", *folders, "--csv", file, "--output", file)

    @pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are text there")
    def test_odd_names_come_back(self, tmp_path: Path) -> None:
        reference = image_file(tmp_path / "r.png", 0)
        # the third looks like what the second is spelled as
        names = ["a\nb.png", os.fsdecode(b"f\xff.png"), r"f\xff.png", 'c "d", e.png', "g\r\x1b[1m.png", "ü.png"]
        for name in names:
            image_file(tmp_path / "d/x.png", 1).rename(tmp_path / "d" / name)
        files, options = outputs(tmp_path)
        assert run(reference, tmp_path / "d", *options).exit_code == 0
        of_json = json.loads(files["json"].read_text())["pairs"]
        in_parquet = pq.read_table(files["parquet"]).to_pylist()
        for rows in (csv_rows(files["csv"]), json_rows(files["jsonl"]), of_json, in_parquet):
            spelling = [Path(row["distorted"]).name for row in rows]
            assert sorted(map(unspelled, spelling)) == sorted(names)
            assert {r"f\xff.png", r"f\x5cxff.png", r"a\x0ab.png", "ü.png"} < set(spelling)
        written = [file.read_bytes() for file in files.values()]
        again = run(reference, tmp_path / "d", *options)
        assert (again.exit_code, [file.read_bytes() for file in files.values()]) == (0, written)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are text there")
class TestNamesThatAreNotUtf8:
    @pytest.fixture
    def odd(self, tmp_path: Path) -> tuple[Path, Path]:
        """Return folders with two names, of which one looks like what the other is spelled as."""
        for side in "rd":
            for k, name in enumerate((os.fsdecode(b"f\xff.png"), r"f\xff.png")):
                image_file(tmp_path / side / "x.png", k + ord(side)).rename(tmp_path / side / name)
        return tmp_path / "r", tmp_path / "d"

    def test_errors_and_report_and_ray_tell_them_apart(self, odd: tuple[Path, Path], tmp_path: Path) -> None:
        files, options = outputs(tmp_path, "csv", "jsonl", "parquet")
        assert run(*odd, *options).exit_code == 0
        expected = [row["score"] for row in json_rows(files["jsonl"])]
        for file in files.values():
            page = render_report([file], maps=False)
            assert page.count("data:image/") >= 4
            page.encode()
        rows = pq.read_table(files["parquet"]).to_pydict()
        batch = {name: np.array(rows[name], dtype=object) for name in ("reference", "distorted")}
        assert ScorePairs()(batch)["score"].tolist() == expected
        for file in odd[1].iterdir():
            file.write_bytes(b"damaged")
        result = run(*odd, "--csv", tmp_path / "e.csv")
        names = [rf"{odd[1]}/f{middle}xff.png" for middle in ("\\", "\\x5c")]
        for lines in (result.stderr.splitlines()[1:], [row["error"] for row in csv_rows(tmp_path / "e.csv")]):
            assert sorted(line.strip().partition(": ")[0] for line in lines) == sorted(names)
        gone = ScorePairs()({name: np.array([r"gone\xff.png"], dtype=object) for name in batch})
        assert gone["error"][0].startswith(r"gone\xff.png: ")

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_rows_of_older_versions_are_refused(self, odd: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
        files, options = outputs(tmp_path, kind)
        assert run(*odd, *options).exit_code == 0
        new, old = (rb"f\xff.png", b"f\xff.png") if kind == "csv" else (rb"f\\xff.png", rb"f\udcff.png")
        files[kind].write_bytes(files[kind].read_bytes().replace(new, old))
        refused("not UTF-8, as older versions wrote it.*--overwrite starts anew", "score", *odd, *options)
        assert render_report([files[kind]], maps=False).count("data:image/") >= 4

    def test_rows_of_older_versions_with_line_ends_go_on(self, tmp_path: Path) -> None:
        image_file(tmp_path / "d/x.png", 1).rename(tmp_path / "d/a\nb.png")
        image_file(tmp_path / "d/c.png", 2)
        arguments = (image_file(tmp_path / "r.png"), tmp_path / "d", "--csv", tmp_path / "s.csv")
        assert run(*arguments).exit_code == 0
        old = (tmp_path / "s.csv").read_text().replace(f"{tmp_path}/d/a\\x0ab.png", f'"{tmp_path}/d/a\nb.png"')
        (tmp_path / "s.csv").write_text(old)
        assert "2 of 2 pairs were scored before" in run(*arguments).stderr


def watched_reading(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Return what stands in for `read_still` from here on, and knows what it has read."""
    reading = Mock(wraps=scorer.read_still)
    monkeypatch.setattr(scorer, "read_still", reading)
    return reading


class TestGoingOn:
    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_a_file_cut_off_anywhere(
        self, folders: tuple[Path, Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folders[1] / "5.png").write_bytes(b"no image")
        (folders[0] / "6.png").rename(folders[0] / 'z "6"\n.png')
        (folders[1] / "6.png").rename(folders[1] / 'z "6"\n.png')
        file = tmp_path / "s"
        command = (*folders, f"--{kind}", file, "--batch-size", 2, "-q")
        assert run(*command).exit_code == 3
        whole = file.read_bytes()
        # the header is never cut off; random places after it
        header = whole.index(b"\n") + 1 if kind == "csv" else 0
        cuts = [header, len(whole) - 1, *random.Random(0).sample(range(header, len(whole)), 12)]
        cuts += [whole.rindex(b"z ") + 5]  # after the line feed in a quoted name, or in its escape
        for cut in cuts:
            file.write_bytes(whole[:cut])
            reading = watched_reading(monkeypatch)
            assert run(*command).exit_code == 3
            monkeypatch.undo()
            assert file.read_bytes() == whole
            rows = whole[header:cut].count(b"\n")
            if kind == "jsonl":
                assert reading.call_count == 14 - 2 * (rows - rows % 2)

    def test_a_complete_file_is_left_as_it_is(
        self, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = run(*folders, "--csv", tmp_path / "s.csv")
        before = (tmp_path / "s.csv").read_bytes(), (tmp_path / "s.csv").stat().st_mtime_ns
        reading = watched_reading(monkeypatch)
        again = run(*folders, "--csv", tmp_path / "s.csv")
        reading.assert_not_called()
        assert ((tmp_path / "s.csv").read_bytes(), (tmp_path / "s.csv").stat().st_mtime_ns) == before
        assert (again.exit_code, again.stdout) == (0, first.stdout)
        assert again.stderr == "7 of 7 pairs were scored before\n"

    def test_files_at_different_rows_and_standard_output(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        files = tmp_path / "s.csv", tmp_path / "s.jsonl"
        command = (*folders, "--csv", files[0], "--jsonl", files[1], "--json", "-", "--batch-size", 2)
        whole = run(*command)
        written = [file.read_bytes() for file in files]
        files[0].write_bytes(written[0][: len(written[0]) - 5])
        files[1].write_bytes(b"".join(written[1].splitlines(keepends=True)[:3]))
        again = run(*command)
        assert again.stderr == "2 of 7 pairs were scored before\n"
        assert (again.stdout, [file.read_bytes() for file in files]) == (whole.stdout, written)

    @pytest.mark.parametrize("kind", ["parquet", "json"])
    def test_what_is_written_at_the_end_goes_on_by_its_journal(
        self, folders: tuple[Path, Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, journal = tmp_path / f"s.{kind}", tmp_path / f"s.{kind}.rows.jsonl"
        command = (*folders, f"--{kind}", file, "--batch-size", 2)
        assert run(*command, "--jsonl", journal.with_name("rows")).exit_code == 0
        rows = json_rows(journal.with_name("rows"))
        whole = file.read_bytes()
        file.unlink()
        # within the third batch
        watched_reading(monkeypatch).side_effect = [*[DEFAULT] * 10, KeyboardInterrupt]
        assert run(*command).exit_code == 130
        assert (file.exists(), json_rows(journal)) == (False, rows[:4])
        monkeypatch.undo()
        reading = watched_reading(monkeypatch)
        assert run(*command).exit_code == 0
        read = sorted(call.args[0].relative_to(tmp_path) for call in reading.call_args_list)
        assert read == [Path(side, f"{k}.png") for side in "dr" for k in (4, 5, 6)]
        assert (file.read_bytes(), journal.exists()) == (whole, False)

    @pytest.mark.parametrize(
        ("first", "then", "message"),
        [
            ([], ["--resize", "reference"], "was scored with resize=none, this run has resize=reference"),
            ([], ["--backbone", "squeeze", "--weights", "SQUEEZE"], "lacks layer_5, layer_6, layer_7, layer_8"),
            ([], ["--weights", "NANO"], "row 1 has weights 'nano:[0-9a-f]{64}', this run 'nano:[0-9a-f]{64}'"),
            ([], ["--version", "1"], "version=2, this run has version=1|has weights|layer_4"),
            (LPIPS, [*LPIPS, "--tile", "64"], "was scored with tile=none, this run has tile=64"),
        ],
    )
    @pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
    def test_rows_of_other_options_are_refused(
        self,
        folders: tuple[Path, Path],
        tmp_path: Path,
        kind: str,
        first: list[str],
        then: list[str],
        message: str,
        random_squeeze_weights: Path,
        random_nano_weights: Path,
    ) -> None:
        files = {"SQUEEZE": random_squeeze_weights, "NANO": random_nano_weights}
        options = [str(files.get(option, option)) for option in then]
        file = tmp_path / "s"
        rows = tmp_path / "s.rows.jsonl" if kind == "json" else file
        assert run(*folders, "--jsonl" if kind == "json" else f"--{kind}", rows, *first).exit_code == 0
        before = rows.read_bytes()
        message = rf"{rows}: .*{message}.*; --overwrite starts anew\n$"
        refused(message, "score", *folders, f"--{kind}", file, *options)
        assert rows.read_bytes() == before
        assert run(*folders, f"--{kind}", file, *options, "--overwrite").exit_code == 0
        assert file.read_bytes() != before

    def test_rows_of_other_images_are_refused(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        file = tmp_path / "s.csv"
        command = ("score", *folders, "--csv", file)
        assert commands.run(*command).exit_code == 0
        for image, message in ((folders[1] / "2.png", "row 3"), (folders[0] / "4.png", "row 5")):
            kept = image.read_bytes()
            image_file(image, 77)
            refused(f"{message} was scored with another", *command)
            image.write_bytes(kept)
        for folder in folders:
            (folder / "6.png").rename(folder / "06.png")
            (folder / "1.png").rename(folder / "1b.png")
        refused("row 2 has reference", *command)
        for folder in folders:
            (folder / "1b.png").unlink()
        refused("holds 7 rows, this run has 6 pairs", *command)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a,b\n1,2\n", "lacks reference, distorted, score"),
            (b"reference,distorted,score,metric,backbone\n", "lacks method, layer_0"),
            (b"\x89PNG", "lacks reference"),
        ],
    )
    def test_other_files_are_refused(
        self, folders: tuple[Path, Path], tmp_path: Path, content: bytes, message: str
    ) -> None:
        (tmp_path / "s.csv").write_bytes(content)
        refused(message, "score", *folders, "--csv", tmp_path / "s.csv")
        assert (tmp_path / "s.csv").read_bytes() == content
        (tmp_path / "empty").touch()
        assert run(*folders, "--csv", tmp_path / "empty").exit_code == 0

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_damage_in_the_middle_is_no_end(self, folders: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
        file = tmp_path / "s"
        assert run(*folders, f"--{kind}", file).exit_code == 0
        lines = file.read_bytes().splitlines(keepends=True)
        for damage in (b'"x"y\n', b"\n", lines[4][:90] + b"\n", lines[4].replace(b"0.", b"x", 1)):
            damaged = b"".join([*lines[:4], damage, *lines[5:]])
            file.write_bytes(damaged)
            refused("is damaged", "score", *folders, f"--{kind}", file)
            assert file.read_bytes() == damaged


class TestBadPairs:
    def test_each_is_a_row_with_its_error(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        (folders[1] / "1.png").write_bytes((folders[1] / "1.png").read_bytes()[:700])
        image_file(folders[1] / "2.png", 5, (20, 48))
        (folders[0] / "4.png").unlink()
        (folders[0] / "4.png").symlink_to("nowhere")
        files, options = outputs(tmp_path)
        result = run(*folders, *options)
        assert result.exit_code == 3
        rows = json_rows(files["jsonl"])
        assert [row["error"] == "" for row in rows] == [True, False, False, True, False, True, True]
        assert [row["score"] is None and row["layer_0"] is None for row in rows] == [bool(row["error"]) for row in rows]
        damaged, smaller, gone = (row for row in rows if row["error"])
        assert "1.png: damaged image" in damaged["error"]
        assert smaller["error"].endswith("the reference's size")
        assert "one size, got 20 x 48 and 40 x 48: use --resize reference" in smaller["error"]
        assert (smaller["width"], smaller["height"], len(smaller["sha256"])) == (48, 20, 64)
        assert "r/4.png: No such file" in gone["error"]
        assert gone["reference_sha256"] == ""
        assert [row["score"] for row in csv_rows(files["csv"])][1:5] == ["", "", repr(rows[3]["score"]), ""]
        assert pq.read_table(files["parquet"]).to_pylist() == rows
        brief = json.loads(files["json"].read_text())
        good = [row["score"] for row in rows if row["score"] is not None]
        assert brief["mean"] == pytest.approx(sum(good) / 4, rel=1e-12)
        assert brief["pairs"][1] == {k: damaged[k] for k in ("reference", "distorted", "score", "error")}
        head, *errors = result.stderr.splitlines()
        assert head == "damlpips: 3 of 7 pairs could not be scored:"
        assert [error.strip() for error in errors] == [row["error"] for row in rows if row["error"]]
        assert "failed" in result.stdout

    def test_the_others_score_as_without_them(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        run(*folders, "--jsonl", tmp_path / "a")
        (folders[1] / "3.png").write_bytes(b"")
        assert run(*folders, "--jsonl", tmp_path / "b").exit_code == 3
        one, other = json_rows(tmp_path / "a"), json_rows(tmp_path / "b")
        assert [r["score"] for r in other[:3] + other[4:]] == pytest.approx([r["score"] for r in one[:3] + one[4:]])

    def test_many_errors_are_counted(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        for k in range(15):
            (folders[1] / f"bad{k}.png").touch()
        result = run(folders[0] / "0.png", folders[1])
        assert result.exit_code == 3
        lines = result.stderr.splitlines()
        assert (lines[0], len(lines)) == ("damlpips: 16 of 22 pairs could not be scored:", 12)
        assert lines[-1] == "  and 6 more"


def test_a_long_table_is_its_mean(tmp_path: Path) -> None:
    reference = image_file(tmp_path / "r.png", 0, (32, 32))
    for k in range(51):
        image_file(tmp_path / f"d/{k}.png", k, (32, 32))
    result = run(reference, tmp_path / "d", "--jsonl", tmp_path / "s", "--batch-size", 51)
    mean = sum(row["score"] for row in json_rows(tmp_path / "s")) / 51
    assert result.stdout.split()[-5:] == ["mean", "of", "51", "images", f"{mean:.6f}"]
    assert "17.png" not in result.stdout


def test_what_killed_runs_left_unfinished_is_removed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    files, options = outputs(tmp_path)
    gone = [
        ".s.csv.1.tmp",
        ".s.parquet.23.tmp",
        ".s.parquet.rows.jsonl.4.tmp",
        ".s.csv.part000000000004.rows.jsonl.5.tmp",
    ]
    kept = [".s.csv.tmp", ".s.csv.x.tmp", ".t.csv.1.tmp", "s.csv.1.tmp"]
    for name in (*gone, *kept):
        (tmp_path / name).write_text("a part")
    assert run(*folders, *options).exit_code == 0
    assert sorted(os.listdir(tmp_path)) == sorted(["r", "d", *kept, *(file.name for file in files.values())])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_killed_run_ends_with_the_same_file(tmp_path: Path, kind: str) -> None:
    folders = image_folders(tmp_path, [(48, 40 + 4 * (k % 3)) for k in range(60)])
    (tmp_path / "d/33.png").write_bytes(b"no image")

    def start(file: Path, pause: float = 0) -> Command:
        asked = "score", *folders, "--batch-size", 4, f"--{kind}", file
        return Command(*asked, output=tmp_path / "said", pause=pause)

    def length() -> int:
        return killed.stat().st_size if killed.exists() else 0

    killed = tmp_path / "killed"
    assert start(tmp_path / "whole").wait() == 3
    chance = random.Random(kind)
    lengths = [0]
    for _ in range(4):
        running = start(killed, SLOWLY)
        # until it has written some more bytes, a random number
        goal = lengths[-1] + chance.randrange(1, 7000)
        while running.process.is_alive() and length() < goal:
            time.sleep(0.001)
        running.kill()
        lengths.append(length())
    assert lengths[-1] > 0
    assert sum(one != other for one, other in pairwise(lengths)) >= 2
    last = start(killed)
    assert last.wait() == 3
    assert " of 60 pairs were scored before" in last.err
    assert killed.read_bytes() == (tmp_path / "whole").read_bytes()
