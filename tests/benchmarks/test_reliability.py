"""The parts of the table of reliability, a few times each, and that they fail where something does not hold."""

import random
import sys
from pathlib import Path

import pytest

from benchmarks import reliability
from benchmarks.reliability import BATCH, PARTS, Broken, Pairs, Run
from tests.support.pictures import image_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, one format and images in place of all."""
    monkeypatch.setattr(reliability, "WORLDS", (1,))
    monkeypatch.setattr(reliability, "KINDS", ("csv",))
    monkeypatch.setattr(reliability, "SETS", {"images": reliability.image_pairs})


def figures(part: str, count: int, folder: Path) -> str:
    return "\n".join(PARTS[part].run(count, random.Random(0), folder))


def test_killed_runs(few: None, tmp_path: Path) -> None:
    found = figures("kill", 1, tmp_path)
    assert found.startswith("images, 1 process: 1 runs killed, ")
    assert "0 lost" in found


def test_a_folder_that_vanishes(few: None, tmp_path: Path) -> None:
    assert "1 of 1 files equal" in figures("folder", 1, tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    every = len(reliability.FILES) + len(reliability.CONTAINERS)
    assert figures("damaged", every, tmp_path).startswith(f"{every} damaged files of {every} formats: ")


@pytest.mark.parametrize("damage", reliability.DAMAGES)
def test_damages_do_damage(damage, tmp_path: Path) -> None:
    whole = image_file(tmp_path / "a.png").read_bytes()
    chance = random.Random(0)
    assert sum(damage(whole, chance) != whole for _ in range(20)) > 10


def test_updates(tmp_path: Path) -> None:
    assert "48 updates of both metrics, align=False" in figures("updates", 48, tmp_path)


def test_a_mean_that_is_not_exact_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reliability, "Fraction", lambda value: value * (1 + 1e-6))
    with pytest.raises(Broken, match=r"after 2 updates: \S+, expected"):
        figures("updates", 48, tmp_path)


class TestWhatMustHold:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Run:
        for k in range(9):
            for side in "rd":
                image_file(tmp_path / side / f"{k}.png", k + ord(side), (32, 32))
        whole = {f"s.{kind}": b"" for kind in reliability.KINDS}
        return Run(Pairs(tmp_path, 9, 0, False, whole), tmp_path / "out", "csv", 1)

    def test_another_file_is_told(self, run: Run) -> None:
        with pytest.raises(Broken, match=r"s\.csv is not what one undisturbed run writes"):
            run.go_on()

    def test_rows_are_seen_and_their_loss_is_told(self, run: Run) -> None:
        run.start(pause=0)[0].wait()
        run.pairs.whole["s.csv"] = run.file.read_bytes()
        assert (len(run.written()), run.go_on()) == (9, 9)
        run.must_keep(9, 1, 9 - (BATCH - 1))
        with pytest.raises(Broken, match="9 rows in 1 files, only 5 were kept"):
            run.must_keep(9, 1, 5)

    def test_another_exit_code_is_told(self, run: Run) -> None:
        for file in run.pairs.folder.glob("[rd]/*"):
            file.unlink()
        with pytest.raises(Broken, match="ended with 2, expected"):
            run.go_on()


def test_what_does_not_hold_ends_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(
        PARTS, "kill", PARTS["kill"]._replace(run=lambda *_: iter([reliability.must(False, "rows lost")]))
    )
    with pytest.raises(SystemExit, match="kill: rows lost"):
        reliability.main(["kill", "--count", "1"])
