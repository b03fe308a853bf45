"""`damlpips score` with video files and folders of frames: rows of videos and frames, killed runs, errors."""

import json
import random
import re
import sys
from pathlib import Path
from unittest.mock import Mock, call

import pytest
from rich.console import Console
from typer.testing import Result

from damlpips import DAMLPIPS
from damlpips.cli import score
from damlpips.scoring import frames as scored_frames
from damlpips.scoring.pairs import Pair
from damlpips.scoring.scorer import score_pairs
from tests.support import commands
from tests.support.commands import csv_rows, json_rows, refused
from tests.support.pictures import image_file
from tests.support.videos import frame_folder, moving, noisy, video_file


def run(*arguments: object) -> Result:
    return commands.run("score", *arguments)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three videos, of which the second one's partner is damaged, and an image."""
    for k, count in enumerate((3, 6, 5)):
        frames = moving(k, count)
        video_file(tmp_path / f"r/{k}.mkv", frames)
        video_file(tmp_path / f"d/{k}.mkv", noisy(frames, 10 + 30 * k))
    (tmp_path / "d/1.mkv").write_bytes((tmp_path / "d/1.mkv").read_bytes()[:1500])
    for k, side in enumerate("rd"):
        image_file(tmp_path / side / "4.png", k)
    return tmp_path / "r", tmp_path / "d"


def test_the_score_is_the_mean_over_the_frames(tmp_path: Path) -> None:
    frames = moving(1)
    files = video_file(tmp_path / "r.mkv", frames), video_file(tmp_path / "d.mkv", noisy(frames))
    result = run(*files, "--frames-csv", tmp_path / "f.csv", "-o", tmp_path / "s.jsonl")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.search(r"^ +video +score", result.stdout, re.MULTILINE)
    (row,) = json_rows(tmp_path / "s.jsonl")
    each = csv_rows(tmp_path / "f.csv")
    assert [(r["frame"], r["frames"], r["time"]) for r in each] == [(str(k), "6", str(k * 40 / 1000)) for k in range(6)]
    for name in ("score", "layer_0", "layer_3"):
        assert row[name] == pytest.approx(sum(float(r[name]) for r in each) / 6, rel=1e-12)
    assert len({r["score"] for r in each}) == 6
    # the frames as images in two folders have the same scores
    for side, content in (("r", frames), ("d", noisy(frames))):
        frame_folder(tmp_path / side, content)
    assert run(tmp_path / "r", tmp_path / "d", "--csv", tmp_path / "images.csv").exit_code == 0
    alone = [float(r["score"]) for r in csv_rows(tmp_path / "images.csv")]
    assert [float(r["score"]) for r in each] == pytest.approx(alone, rel=1e-5)
    # and as one video
    result = run(tmp_path / "r", tmp_path / "d", "--frames", "--json", "-", "--workers", 2)
    assert json.loads(result.stdout)["mean"] == pytest.approx(row["score"], rel=1e-5)


def test_folders_methods_and_manifests_of_videos(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("reference,distorted\n2.mkv,2.mkv\n0.mkv,0.mkv\n")
    listed = run(*folders, "--pairs", tmp_path / "pairs.csv", "--json", "-")
    assert listed.exit_code == 0
    scores = {Path(p["distorted"]).name: p["score"] for p in json.loads(listed.stdout)["pairs"]}
    assert list(scores) == ["2.mkv", "0.mkv"]
    result = run(folders[0], "--method", f"a={folders[1]}", "--method", f"b={folders[0]}", "--json", "-")
    assert result.exit_code == 3
    pairs = json.loads(result.stdout)["pairs"]
    assert [p["method"] for p in pairs] == ["a", "b"] * 4
    assert [p["score"] for p in pairs if p["method"] == "b"] == pytest.approx([0] * 4, abs=1e-9)
    assert [p["score"] for p in pairs[::2] if p["distorted"].endswith(tuple(scores))] == list(scores.values())[::-1]


def test_a_damaged_video_is_a_row_with_its_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = run(*folders, "--csv", tmp_path / "s.csv", "--frames-csv", tmp_path / "f.csv")
    assert result.exit_code == 3
    assert "1 of 4 pairs could not be scored" in result.stderr
    rows = csv_rows(tmp_path / "s.csv")
    assert [bool(row["error"]) for row in rows] == [False, True, False, False]
    assert (rows[1]["score"], len(rows[1]["sha256"])) == ("", 64)
    places = [
        (Path(r["distorted"]).name, r["frame"], r["frames"], bool(r["error"])) for r in csv_rows(tmp_path / "f.csv")
    ]
    assert places == [
        *(("0.mkv", str(k), "3", False) for k in range(3)),
        ("1.mkv", "", "", True),
        *(("2.mkv", str(k), "5", False) for k in range(5)),
        ("4.png", "0", "1", False),
    ]
    # also when it is the only pair: how far a video can be read shows only when it is read
    alone = run(folders[0] / "1.mkv", folders[1] / "1.mkv", "--csv", tmp_path / "one.csv")
    assert (alone.exit_code, len(csv_rows(tmp_path / "one.csv"))) == (3, 1)


def test_a_run_cut_off_anywhere_goes_on_at_the_latest_video(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "s.csv", tmp_path / "f.csv"
    for chosen in (files, files[1:]):
        options = [part for file in chosen for part in ("--frames-csv" if file == files[1] else "--csv", file)]
        command = (*folders, *options, "-q", "--batch-size", 2)
        for file in chosen:
            file.unlink(missing_ok=True)
        assert run(*command).exit_code == 3
        whole = [file.read_bytes() for file in chosen]
        reading = Mock(wraps=scored_frames.iter_frames)
        monkeypatch.setattr(scored_frames, "iter_frames", reading)
        assert (run(*command).exit_code, reading.call_count) == (3, 0)
        assert [file.read_bytes() for file in chosen] == whole
        header = whole[-1].index(b"\n") + 1
        for cut in (header, *random.Random(0).sample(range(header, len(whole[-1])), 7), len(whole[-1]) - 1):
            chosen[-1].write_bytes(whole[-1][:cut])
            reading.reset_mock()
            assert run(*command).exit_code == 3
            assert [file.read_bytes() for file in chosen] == whole
            last = whole[-1][header:cut].split(b"\n")[-2:-1]
            first = 0 if not last else int(last[0].split(b",")[1].rsplit(b"/", 1)[1][:1])
            # no video before the one that was cut off is read again
            assert all(int(read.args[0].stem) >= first for read in reading.call_args_list)
        monkeypatch.undo()


def test_rows_of_frames_of_another_run_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    command = ("score", *folders, "--frames-csv", tmp_path / "f.csv", "-q")
    assert commands.run(*command).exit_code == 3
    before = (tmp_path / "f.csv").read_bytes()
    for options, message in (
        (["--resize", "32"], "row 1 was scored with resize=none, this run has resize=32"),
        (["--backbone", "nano", "--metric", "lpips", "--heads", "uniform"], "has layer_3, layer_4 besides"),
    ):
        refused(message, *command, *options)
    video_file(folders[1] / "2.mkv", moving(9, 5))
    refused("pair 3 was scored with another", *command)
    (tmp_path / "f.csv").write_bytes(before.replace(b",1,3,", b",2,3,", 1))
    refused(r"row 2 is damaged \(no frame 1\)", *command)
    assert commands.run(*command, "--overwrite").exit_code == 3


def test_refusals(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = folders[0] / "4.png"
    refused("no videos among the pairs", "score", image, image, "--frames-csv", tmp_path / "f.csv")
    refused("--frames-csv -: expected a file", "score", *folders, "--frames-csv", "-")
    refused("is an image: with --frames", "score", image, image, "--frames")
    monkeypatch.setitem(sys.modules, "av", None)
    refused(r"needs PyAV: pip install 'damlpips\[video\]'", "score", *folders)
    for side in folders:
        frame_folder(side / "clips/one", moving(1, 2))
        (side / "4.png").unlink()
    # folders of frames need no PyAV
    assert run(*(side / "clips" for side in folders), "--frames").exit_code == 0


def test_unequal_sizes_say_which_option_helps(tmp_path: Path) -> None:
    files = video_file(tmp_path / "r.mkv", moving(1)), video_file(tmp_path / "d.mkv", moving(1, 6, (36, 44)))
    result = run(*files)
    assert result.exit_code == 3
    assert "frames of 44 x 36 pixels" in result.stderr
    assert "use --resize reference" in result.stderr
    assert run(*files, "--resize", "reference").exit_code == 0


def test_a_bar_says_how_far_a_video_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "damlpips.cli.options.Console", lambda **_: Console(file=sys.stderr, force_terminal=True, width=120)
    )
    progress = score._Progress(1, shown=True, videos=True)
    pair = Pair(tmp_path / "r", tmp_path / "long.mkv", "x", video=True)
    list(progress.along(progress.watch(pair, frames) for frames in (1234,)))
    assert "long.mkv: 1234 frames" in capsys.readouterr().err


def test_frames_are_counted_as_they_are_scored(tmp_path: Path) -> None:
    video = video_file(tmp_path / "r.mkv", moving(1, 7))
    pair, watch = Pair(video, video, "x", video=True), Mock()
    list(score_pairs(DAMLPIPS(), [pair], batch_size=3, watch=watch))
    assert watch.call_args_list == [call(pair, 3), call(pair, 6), call(pair, 7)]
