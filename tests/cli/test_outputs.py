"""Outputs that end early: a full disk is one line and keeps whole rows, a closed pipe ends a command quietly.

A folder that vanishes, of images or of rows, ends a run at once, and the same command goes on when it is back.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import pytest

from damlpips import files
from damlpips.cli.program import CLOSED_PIPE
from damlpips.evaluation import cache
from damlpips.models.base import PerceptualDistance
from damlpips.scoring import formats, journal
from tests.support.commands import outputs, ranks, refused, run, variables
from tests.support.pictures import image_folders

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
PROGRAM = [sys.executable, "-m", "damlpips"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return image_folders(tmp_path, [(40, 48)] * 9)


def read_little(*arguments: object, program: list[str] = PROGRAM, stderr: bool = False) -> tuple[int, str]:
    """Return the exit code and the other output of a command of whose output somebody reads one byte."""
    process = subprocess.Popen(
        [*program, *map(str, arguments)],
        stdout=subprocess.DEVNULL if stderr else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables(),
    )
    read = process.stderr if stderr else process.stdout
    assert read is not None
    os.read(read.fileno(), 1)
    read.close()
    rest = "" if stderr or process.stderr is None else process.stderr.read()
    return process.wait(300), rest


class TestClosedPipe:
    @pytest.mark.parametrize(
        "options",
        [["--csv", "-"], ["--jsonl", "-", "--workers", "2"], ["--csv", "-", "--batch-size", "1"]],
        ids=["csv", "with workers", "row by row"],
    )
    def test_scoring_ends_quietly(self, folders: tuple[Path, Path], options: list[str]) -> None:
        code = "import sys; sys.setswitchinterval(1); from damlpips.__main__ import main; main()"
        # rows come slowly enough for the pipe to be closed before the last
        slow = f"import time, damlpips.scoring.journal as j; w = j.RowStream.write\n\
def write(*a): time.sleep(0.1); w(*a)\nj.RowStream.write = write; {code}"
        found = read_little("score", *folders, *options, program=[sys.executable, "-c", slow])
        assert found == (CLOSED_PIPE, "")

    @pytest.mark.parametrize("command", [["--help"], ["--version"], ["info"], ["agree", "--list"], ["score", "--help"]])
    def test_what_is_printed_at_once(self, command: list[str]) -> None:
        read, written = os.pipe()
        os.close(read)
        done = subprocess.run(
            [*PROGRAM, *command], stdout=written, stderr=subprocess.PIPE, env=variables(), check=False
        )
        os.close(written)
        assert (done.returncode, done.stderr) == (CLOSED_PIPE, b"")

    def test_a_table_and_errors(self, folders: tuple[Path, Path]) -> None:
        (folders[1] / "0.png").write_bytes(b"damaged")
        for stream in ("stdout", "stderr"):
            read, written = os.pipe()
            os.close(read)
            both = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, stream: written}
            done = subprocess.run([*PROGRAM, "score", *folders], env=variables(), check=False, **both)
            os.close(written)
            assert (done.returncode, done.stderr or b"") == (CLOSED_PIPE, b"")

    def test_a_file_beside_it_keeps_its_rows(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        whole, file = tmp_path / "whole.csv", tmp_path / "s.csv"
        assert run("score", *folders, "--csv", whole, "--batch-size", 2).exit_code == 0
        read, written = os.pipe()
        os.close(read)
        command = [*PROGRAM, "score", *map(str, folders), "--csv", str(file), "--jsonl", "-", "--batch-size", "2"]
        done = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, env=variables(), check=False)
        os.close(written)
        assert (done.returncode, done.stderr) == (CLOSED_PIPE, b"")
        assert whole.read_text().startswith(file.read_text())
        assert run("score", *folders, "--csv", file, "--batch-size", 2).exit_code == 0
        assert file.read_bytes() == whole.read_bytes()

    def test_torchrun(self, folders: tuple[Path, Path]) -> None:
        command = [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "-m",
            "damlpips",
            "score",
            *map(str, folders),
        ]
        read, written = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, *command, "--csv", "-"],
            stdout=written,
            stderr=subprocess.PIPE,
            env=variables(),
            check=False,
        )
        os.close(written)
        assert b"damlpips" not in done.stderr
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


class TestFullDisk:
    @pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
    @pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EIO"])
    def test_rows_so_far_are_whole_and_a_run_goes_on(
        self, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, code: str
    ) -> None:
        (tmp_path / "whole").mkdir()
        whole, options = outputs(tmp_path / "whole", kind)
        assert run("score", *folders, *options, "--batch-size", 2).exit_code == 0
        files, options = outputs(tmp_path, kind)
        number = getattr(errno, code)

        class Disk(FileIO):
            """Takes 2600 bytes, the last of them in the middle of a row."""

            def write(self, content: memoryview) -> int:  # type: ignore[override]
                if (room := 2600 - self.tell()) <= 0:
                    raise OSError(number, os.strerror(number))
                return super().write(content[:room])

        with monkeypatch.context() as patch:
            patch.setattr(journal, "FileIO", Disk)
            refused(re.escape(os.strerror(number)) + "$", "score", *folders, *options, "--batch-size", 2)
        grown = files[kind] if kind in ("csv", "jsonl") else formats.journal_of(files[kind])
        assert 0 < grown.stat().st_size < 2600
        assert grown.read_bytes().endswith(b"\n")
        again = run("score", *folders, *options, "--batch-size", 2)
        assert (again.exit_code, "pairs were scored before" in again.stderr) == (0, True)
        assert files[kind].read_bytes() == whole[kind].read_bytes()

    @needs_full
    @pytest.mark.parametrize(
        "command",
        ["--help", "--version", "info", "info --json", "score {} {}", "score {} {} --csv -", "score {} {} --json -"],
    )
    def test_standard_output(self, folders: tuple[Path, Path], command: str) -> None:
        given = command.format(*folders).split()
        with FULL.open("wb") as full:
            done = subprocess.run(
                [*PROGRAM, *given], stdout=full, stderr=subprocess.PIPE, text=True, env=variables(), check=False
            )
        assert done.returncode == 2
        assert re.fullmatch(r"damlpips: (standard output|--csv -|--json -): No space left on device\n", done.stderr)

    @needs_full
    @pytest.mark.parametrize("option", ["--csv", "--jsonl", "--json"])
    def test_a_device(self, folders: tuple[Path, Path], option: str) -> None:
        refused(f"{option} /dev/full: No space left", "score", *folders, option, FULL)

    @pytest.mark.parametrize("command", ["json", "parquet", "report", "map"])
    def test_files_that_are_made_at_the_end(
        self, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        out, rows = tmp_path / f"out.{command}", tmp_path / "rows.csv"
        assert run("score", *folders, "--csv", rows).exit_code == 0
        pair = [folder / "0.png" for folder in folders]
        commands: dict[str, list[object]] = {
            "json": ["score", *folders, "--json", out],
            "parquet": ["score", *folders, "--parquet", out],
            "report": ["report", rows, "--no-maps", "-o", out],
            "map": ["map", *pair, "-o", out.with_suffix(".png")],
        }

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files.os, "replace", full)
        if command in ("json", "parquet"):
            monkeypatch.setattr(journal, "write_whole", lambda path, text: path.write_text(text))
        refused(r"out\.\w+: No space left on device", *commands[command])
        assert not [path for path in tmp_path.glob("*out*") if "rows" not in path.name]

    def test_a_cache_of_distances(self, tmp_path: Path) -> None:
        resource = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(cache.CacheError, match="name another cache, or use none"):
                cache.DistanceCache(tmp_path / "d.sqlite")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_of_several_processes(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        folder = tmp_path / "no space"
        folder.mkdir()
        file = folder / "s.csv"
        (folder / "s.csv.part000000000000.rows.jsonl").symlink_to(FULL)
        team = ranks(2, "score", *folders, "-o", file, folder=tmp_path / "out")
        assert [command.wait() for command in team] == [2, 2]
        assert team[0].err.count("\n") == 1


class TestVanishingFolders:
    @pytest.fixture
    def at_third_batch(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
        """Have something done, once, when the third batch of the next run is compared."""

        def later(act: Callable[[], object]) -> None:
            compare, calls = PerceptualDistance.per_layer, iter([lambda: None] * 3 + [act])  # the first counts layers

            def acting(*arguments: object, **options: object) -> object:
                next(calls, lambda: None)()
                return compare(*arguments, **options)  # type: ignore[arg-type]

            monkeypatch.setattr(PerceptualDistance, "per_layer", acting)

        return later

    @pytest.mark.parametrize("side", [0, 1])
    @pytest.mark.parametrize("left", ["nothing", "an empty folder"])
    @pytest.mark.parametrize("kind", ["csv", "json"])
    def test_of_images(
        self, folders: tuple[Path, Path], tmp_path: Path, at_third_batch: Callable, side: int, left: str, kind: str
    ) -> None:
        whole, file, away = tmp_path / f"whole.{kind}", tmp_path / f"s.{kind}", tmp_path / "away"
        command = "score", *folders, "--batch-size", 2, "-o"
        assert run(*command, whole).exit_code == 0

        def vanish() -> None:
            folders[side].rename(away)
            if left != "nothing":
                folders[side].mkdir()

        at_third_batch(vanish)
        message = rf"{folders[side]}: is gone, or empty, since the run began; what was scored is kept"
        refused(message, *command, file)
        shutil.rmtree(folders[side], ignore_errors=True)
        away.rename(folders[side])
        again = run(*command, file)
        assert (again.exit_code, again.stderr) == (0, "6 of 9 pairs were scored before\n")
        assert file.read_bytes() == whole.read_bytes()

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    @pytest.mark.parametrize("replaced", [False, True])
    def test_of_rows(
        self, folders: tuple[Path, Path], tmp_path: Path, at_third_batch: Callable, kind: str, replaced: bool
    ) -> None:
        out, away = tmp_path / "out", tmp_path / "away"
        out.mkdir()
        command = "score", *folders, "--batch-size", 2, "-o", out / f"s.{kind}"

        def vanish() -> None:
            out.rename(away)
            if replaced:
                shutil.copytree(away, out)

        at_third_batch(vanish)
        refused(rf"s\.{kind}\S*: was removed, moved or replaced while it was written", *command)
        shutil.rmtree(out, ignore_errors=True)
        away.rename(out)
        again = run(*command)
        assert (again.exit_code, again.stderr) == (0, "4 of 9 pairs were scored before\n")
        whole = tmp_path / f"whole.{kind}"
        assert run(*command[:-1], whole).exit_code == 0
        assert (out / f"s.{kind}").read_bytes() == whole.read_bytes()


def test_files_passed_over_are_one_line_and_in_the_json(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a.heic", "b.HEIC", "notes.txt", ".hidden.heic"):
        (folders[1] / name).touch()
    result = run("score", *folders, "--json", tmp_path / "s.json")
    assert (result.exit_code, result.stderr) == (0, "damlpips: 3 files passed over: 2 .heic, 1 .txt\n")
    assert '"passed_over": {\n    ".heic": 2,\n    ".txt": 1\n  }' in (tmp_path / "s.json").read_text()
    assert run("score", *folders, "-q").stderr == ""
