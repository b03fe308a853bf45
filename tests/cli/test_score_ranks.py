"""`damlpips score` on several processes writes what one process writes, whatever happens to some of them."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from damlpips.cli import app
from damlpips.cli.options import find_device
from damlpips.scoring import scorer
from damlpips.scoring.images import ScoringError
from damlpips.scoring.rows import Table
from damlpips.scoring.shards import Job, _share, shard_of, shards_of
from damlpips.scoring.workers import Ranks
from tests.support.commands import SLOWLY, Command, caught, ranks
from tests.support.pictures import image_file
from tests.support.videos import moving, noisy, video_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")

SIZES = ((40, 48), (36, 50), (40, 44))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with 22 images of three sizes; one image is damaged."""
    root = tmp_path_factory.mktemp("images")
    for k in range(22):
        for seed, folder in ((k, "r"), (k + 100, "a"), (k + 200, "b")):
            image_file(root / folder / f"{k}.png", seed, SIZES[k // 3 % 3])
    (root / "b/17.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def whole(images: Path) -> Path:
    """What one process writes."""
    for kind in ("csv", "jsonl", "parquet", "json"):
        assert CliRunner().invoke(app, list(map(str, command(images, images / f"whole.{kind}")))).exit_code == 3
    return images


def command(images: Path, file: Path | str, *more: object) -> list[object]:
    methods = "--method", f"a={images / 'a'}", "--method", f"b={images / 'b'}"
    return ["score", images / "r", *methods, "--batch-size", 3, "-o", file, *more]


def done(team: list[Command]) -> list[int]:
    return [process.wait() for process in team]


def finished(whole: Path, file: Path, *more: object, world: int = 2) -> list[Command]:
    """Run some processes to their end; what they have written is what one process writes."""
    team = ranks(world, *command(whole, file, *more), folder=file.with_name("said"))
    assert done(team) == [3] * world  # for the damaged image
    assert file.read_bytes() == (whole / f"whole{file.suffix}").read_bytes()
    return team


@pytest.mark.parametrize(("kind", "world"), [("csv", 2), ("jsonl", 3), ("parquet", 2), ("json", 2)])
def test_the_same_bytes_as_of_one_process(whole: Path, tmp_path: Path, kind: str, world: int) -> None:
    file = tmp_path / f"s.{kind}"
    team = finished(whole, file, world=world)
    assert sorted(os.listdir(tmp_path)) == [file.name, "said"]
    assert "mean" in team[0].out
    assert team[0].err.startswith("damlpips: 1 of 44 pairs could not be scored:\n")
    assert [process.out + process.err for process in team[1:]] == [""] * (world - 1)


def at_work(images: Path, file: Path, **options: float) -> list[Command]:
    """Two processes that are writing their shards."""

    def start() -> list[Command]:
        return ranks(2, *command(images, file), folder=file.with_name("said"), pause=SLOWLY, **options)

    # 15 batches: 14 of 3, and one of 2
    return caught(start, lambda: shards_of(file) == [0, 24], file.unlink)


def alone(images: Path, file: Path, growing: Path) -> Command:
    """A process that is writing its rows."""
    (process,) = caught(
        lambda: [Command(*command(images, file), output=file.with_name("said"), pause=SLOWLY)],
        lambda: growing.exists() and growing.stat().st_size > 2000,
        file.unlink,
    )
    return process


def test_standard_output_is_the_first_ones(whole: Path, tmp_path: Path) -> None:
    arguments = [*command(whole, "x")[:-2], "--csv", "-", "-q"]
    team = ranks(2, *arguments, folder=tmp_path / "said")
    assert done(team) == [3, 3]
    assert team[0].out == (whole / "whole.csv").read_text()
    assert team[1].out == ""


@pytest.mark.parametrize("worlds", [(3, 2, 1), (1, 2, 3)])
def test_a_killed_run_goes_on_with_any_number_of_processes(
    whole: Path, tmp_path: Path, worlds: tuple[int, ...]
) -> None:
    file = tmp_path / "s.csv"
    chance = random.Random(str(worlds))

    def written() -> int:
        grown = [file, *(shard_of(file, start) for start in shards_of(file))]
        return sum(path.stat().st_size for path in grown if path.exists())

    def start(world: int) -> list[Command]:
        return ranks(world, *command(whole, file), folder=tmp_path / "said", pause=SLOWLY)

    for world in worlds[:-1]:
        goal = written() + chance.randrange(2500, 6000)
        for process in caught(lambda world=world: start(world), lambda goal=goal: written() >= goal, file.unlink):
            process.kill()
    assert not file.exists() or file.read_bytes() != (whole / "whole.csv").read_bytes()
    team = finished(whole, file, world=worlds[-1])
    before = re.match(r"(\d+) of 44 pairs were scored before\n", team[0].err)
    assert before
    assert 6 <= int(before[1]) <= 44  # all, where the last rows came before the signal: they are still to be joined
    assert sorted(os.listdir(tmp_path)) == ["s.csv", "said"]


def test_killed_while_shards_are_joined(whole: Path, tmp_path: Path) -> None:
    rows = (whole / "whole.jsonl").read_bytes().splitlines(keepends=True)
    file = tmp_path / "s.jsonl"
    file.write_bytes(b"".join(rows[:4])[:-7])
    shard_of(file, 0).write_bytes(b"".join(rows[:24]))
    shard_of(file, 24).write_bytes(b"".join(rows[24:]))
    team = finished(whole, file)
    assert team[0].err.startswith("44 of 44 pairs were scored before\n")
    printed = team[0].out
    assert finished(whole, file)[0].out == printed


def test_shards_of_another_run_are_refused(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    rows = [json.loads(line) for line in (whole / "whole.jsonl").read_text().splitlines()[24:27]]
    rows[1]["options"] = rows[1]["options"].replace("tile=none", "tile=64")
    shard_of(file, 24).write_text("".join(json.dumps(row) + "\n" for row in rows))
    team = ranks(2, *command(whole, file), folder=tmp_path / "said")
    assert done(team) == [2, 2]
    refused = "s.jsonl.part000000000024.rows.jsonl: row 2 was scored with tile=64, this run has tile=none; --overwrite"
    assert refused in team[0].err
    finished(whole, file, "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resize", "big"], "damlpips: --resize big: expected 'reference' or the length"),
        (["--no-such-option"], "damlpips: No such option: --no-such-option"),
    ],
)
def test_bad_arguments_are_told_once(whole: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    team = ranks(2, *command(whole, tmp_path / "s.csv", *arguments), folder=tmp_path / "said")
    assert done(team) == [2, 2]
    assert team[0].err.startswith(message)
    assert team[0].err.count("\n") == 1
    assert team[1].err + team[0].out + team[1].out == ""


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--batch-size", 4], "sees other pairs than rank 0"),
        (["--pairs", "nowhere.csv"], "nowhere.csv: No such file"),
    ],
)
def test_what_is_wrong_with_one_process_is_told_by_the_first(
    whole: Path, tmp_path: Path, others: list[object], message: str
) -> None:
    team = ranks(2, *command(whole, tmp_path / "s.csv"), folder=tmp_path / "said", others=others)
    assert done(team) == [2, 2]
    assert re.match(rf"damlpips: rank 1 of 2, on \S+: .*{message}", team[0].err)
    assert team[1].err == ""


@pytest.mark.parametrize("content", [None, "", '{"mark": "of another run"}'])
def test_processes_without_a_file_system_in_common(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "s.csv.parts.json").write_text(content)
    job = Job(scorer.score_pairs, [], Table({}, 0), 8)  # never used
    message = r"s\.csv\.parts\.json: is not what rank 0 wrote: the processes need one file"
    with pytest.raises(ScoringError, match=message):
        _share(Ranks(None, 1, 2), job, tmp_path / "s.csv", "mark")


def test_pairs_are_counted_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    time_now, told = [100.0], []
    monkeypatch.setattr("damlpips.scoring.workers.time.monotonic", lambda: time_now[0])
    monkeypatch.setattr(Ranks, "add", lambda _self, _key, number: told.append(number) or sum(told))
    team = Ranks(None, 1, 2)
    assert [team.count() for _ in range(5)] == [1, 1, 1, 1, 1]
    time_now[0] += 1
    assert team.count() == 6
    assert (team.count(), team.count(0, now=True)) == (6, 7)
    assert told == [1, 5, 1]


class TestLostProcesses:
    @pytest.mark.parametrize("lost", [0, 1])
    def test_the_others_end_soon_and_say_so(self, whole: Path, tmp_path: Path, lost: int) -> None:
        file = tmp_path / "s.csv"
        team = at_work(whole, file, timeout=2)
        began = time.monotonic()
        team[lost].kill()
        assert team[1 - lost].wait() == 4
        assert time.monotonic() - began < 15
        said = {
            0: "damlpips: rank 1: rank 0 or the launcher was killed, and the others' store with it; what was scored is",
            1: "damlpips: rank 1 of 2 was not heard of for 2 seconds: it was killed, or its machine is gone",
        }
        assert said[lost] in team[1 - lost].err
        assert "the same command goes on" in team[1 - lost].err
        finished(whole, file)

    def test_one_that_never_came(self, whole: Path, tmp_path: Path) -> None:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0, "WORLD_SIZE": 2, "RANK": 0, "DAMLPIPS_RANK_TIMEOUT": 1}
        one = Command(*command(whole, tmp_path / "s.csv"), output=tmp_path / "said", **place)
        assert one.wait() == 4
        assert one.err.startswith("damlpips: WORLD_SIZE=2, but not all of them came within 1 seconds: start all")

    def test_no_launcher(self, whole: Path, tmp_path: Path) -> None:
        one = Command(*command(whole, tmp_path / "s.csv"), output=tmp_path / "said", WORLD_SIZE=2, RANK=0)
        assert one.wait() == 2
        assert "MASTER_ADDR expected, but not set; use torchrun, or unset WORLD_SIZE" in one.err


def test_torchrun(whole: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "damlpips"]
    arguments = list(map(str, command(whole, tmp_path / "s.csv")))
    run = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=120, check=False)
    # torchrun exits with 1 if any process did not exit with 0, and may end the other one before it exits
    assert run.returncode == 1
    assert "exitcode  : 3" in run.stderr
    assert run.stderr.count("1 of 44 pairs could not be scored") == 1
    assert run.stdout.count("lower is closer") == 1
    assert (tmp_path / "s.csv").read_bytes() == (whole / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("name", "local", "expected"),
    [
        ("auto", "1", "cuda:1"),
        ("cuda", "1", "cuda:1"),
        ("auto", "2", "cuda:0"),
        ("cuda:0", "1", "cuda:0"),
        ("cpu", "1", "cpu"),
    ],
)
def test_each_process_has_a_device_of_its_own(
    monkeypatch: pytest.MonkeyPatch, name: str, local: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", local)
    one = find_device(name)
    assert str(one) == ("cuda" if name == "auto" else name)
    monkeypatch.setattr("damlpips.scoring.workers._here", object())
    assert str(find_device(name)) == expected


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_no_number_of_seconds(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("DAMLPIPS_RANK_TIMEOUT", seconds)):
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["score", "a", "b"])
    assert result.exit_code == 2
    assert result.stderr == f"damlpips: DAMLPIPS_RANK_TIMEOUT={seconds}: expected a number of seconds\n"


class TestTwoRunsOnOneFile:
    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_the_second_is_refused_at_once(self, whole: Path, tmp_path: Path, kind: str) -> None:
        file = tmp_path / f"s.{kind}"
        first = alone(whole, file, file if kind == "csv" else file.with_name("s.parquet.rows.jsonl"))
        os.kill(first.pid, signal.SIGSTOP)
        (tmp_path / "link").symlink_to(tmp_path)
        second = Command(*command(whole, tmp_path / "link" / file.name), output=tmp_path / "second")
        assert second.wait() == 2
        told = rf"damlpips: --output \S+/s.{kind}: is being written by another run \(process {first.pid} on \S+\); wait"
        assert re.match(told, second.err)
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait() == 3
        assert file.read_bytes() == (whole / f"whole.{kind}").read_bytes()
        assert not list(tmp_path.glob("*.lock"))

    def test_a_killed_run_leaves_no_lock(self, whole: Path, tmp_path: Path) -> None:
        file = tmp_path / "s.csv"
        alone(whole, file, file).kill()
        assert (tmp_path / "s.csv.lock").exists()
        assert Command(*command(whole, file), output=tmp_path / "second").wait() == 3
        assert file.read_bytes() == (whole / "whole.csv").read_bytes()
        assert not (tmp_path / "s.csv.lock").exists()

    def test_a_shard_that_is_still_written(self, whole: Path, tmp_path: Path) -> None:
        file = tmp_path / "s.csv"
        team = at_work(whole, file)
        os.kill(team[1].pid, signal.SIGSTOP)
        team[0].kill()
        again = Command(*command(whole, file), output=tmp_path / "again")
        assert again.wait() == 2
        assert f"part000000000024.rows.jsonl: is being written by another run (process {team[1].pid} on" in again.err
        team[1].kill()
        assert Command(*command(whole, file), output=tmp_path / "again").wait() == 3
        assert file.read_bytes() == (whole / "whole.csv").read_bytes()


def test_videos_among_the_pairs_are_shared_too(tmp_path: Path) -> None:
    for k, count in enumerate((2, 3, 4, 2)):
        frames = moving(k, count)
        video_file(tmp_path / f"r/{k}v.mkv", frames)
        video_file(tmp_path / f"d/{k}v.mkv", noisy(frames, 10))
        for seed, side in ((k, "r"), (k + 100, "d")):
            image_file(tmp_path / side / f"{k}i.png", seed)
    asked = ("score", tmp_path / "r", tmp_path / "d", "--batch-size", 3)
    assert CliRunner().invoke(app, [*map(str, asked), "-o", str(tmp_path / "whole.csv")]).exit_code == 0
    whole = (tmp_path / "whole.csv").read_bytes()
    file = tmp_path / "s.csv"
    # killed after a video, within a batch
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert done(ranks(2, *asked, "-o", file, folder=tmp_path)) == [0, 0]
    assert file.read_bytes() == whole
    team = ranks(2, *asked, "--frames-csv", tmp_path / "f.csv", folder=tmp_path)
    assert done(team) == [2, 2]
    assert "one process writes rows of frames, got 2: leave torchrun out" in team[0].err
    assert not (tmp_path / "f.csv").exists()
