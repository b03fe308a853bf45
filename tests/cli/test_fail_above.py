"""`damlpips score --fail-above X`: which pairs it names, what it exits with, and that nothing else changes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import csv_rows, json_rows, refused, run
from tests.support.pictures import image_folders


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return image_folders(tmp_path, [(24, 28)] * 13)


def scores_of(reference: Path, distorted: Path, out: Path) -> dict[str, float]:
    """Return the scores by the distorted file, the worst first."""
    assert run("score", reference, distorted, "--csv", out, "-q").exit_code == 0
    scores = {row["distorted"]: float(row["score"]) for row in csv_rows(out)}
    return dict(sorted(scores.items(), key=lambda pair: -pair[1]))


def test_pairs_above_are_named_the_worst_first(folders: tuple[Path, Path], tmp_path: Path) -> None:
    scores = scores_of(*folders, tmp_path / "scores.csv")
    names, values = list(scores), list(scores.values())
    limit = (values[2] + values[3]) / 2
    out = tmp_path / "again.csv"
    result = run("score", *folders, "--csv", out, "--fail-above", limit)
    assert result.exit_code == 1
    first, *lines = result.stderr.splitlines()
    assert first == f"damlpips: 3 of 13 pairs are above {limit}:"
    assert lines == [f"  {value:.6f} {name}" for name, value in list(scores.items())[:3]]
    # the rows are those of a run without the option
    assert out.read_bytes() == (tmp_path / "scores.csv").read_bytes()
    many = run("score", *folders, "-q", "--fail-above", 0)
    assert many.exit_code == 1
    assert [line.split()[-1] for line in many.stderr.splitlines()[1:]] == [*names[:10], "more"]
    assert many.stderr.endswith("  and 3 more\n")


def test_nothing_above_is_a_success_and_the_limit_itself_is_not_above(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    worst = max(scores_of(*folders, tmp_path / "scores.csv").values())
    for limit in (worst, 10):
        result = run("score", *folders, "-q", "--csv", tmp_path / "scores.csv", "--fail-above", repr(limit))
        assert (result.exit_code, result.stderr) == (0, "")
    two = next(folders[0].iterdir())
    assert run("score", two, two, "--fail-above", 0).exit_code == 0


def test_pairs_without_a_score_come_first(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """A run that is not whole is no gate: 3, whatever the others' scores are; both lists are printed."""
    damaged = sorted(folders[1].iterdir())[4]
    damaged.write_bytes(b"")
    result = run("score", *folders, "-q", "--fail-above", 0)
    assert result.exit_code == 3
    assert "damlpips: 12 of 13 pairs are above 0.0:" in result.stderr
    assert "damlpips: 1 of 13 pairs could not be scored:" in result.stderr
    result = run("score", *folders, "-q", "--fail-above", 10)
    assert result.exit_code == 3
    assert "above" not in result.stderr


def test_a_run_that_goes_on_counts_the_rows_from_before(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    scores = scores_of(*folders, out)
    whole = out.read_bytes()
    kept = whole.splitlines(keepends=True)[:10]
    out.write_bytes(b"".join(kept))
    limit = list(scores.values())[5]
    for _ in range(2):  # from the rows of a batch, and from all
        result = run("score", *folders, "--csv", out, "--fail-above", repr(limit))
        assert result.exit_code == 1
        assert "pairs were scored before" in result.stderr
        assert f"5 of 13 pairs are above {limit}:" in result.stderr
        assert [line.split()[1] for line in result.stderr.splitlines() if line.startswith("  ")] == list(scores)[:5]
        assert out.read_bytes() == whole
    # another limit is no other run
    assert run("score", *folders, "--csv", out, "--fail-above", 10).exit_code == 0


def test_methods_are_told_apart_by_their_files(folders: tuple[Path, Path]) -> None:
    reference, distorted = folders
    result = run(
        "score", reference, "--method", f"same={reference}", "--method", f"other={distorted}", "--fail-above", 1e-6
    )
    assert result.exit_code == 1
    assert "13 of 26 pairs are above 1e-06:" in result.stderr
    assert all(str(distorted) in line for line in result.stderr.splitlines()[1:11])


def test_of_several_metrics_the_score_counts(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """PSNR, of which higher is closer, has a column of its own."""
    out = tmp_path / "scores.jsonl"
    result = run("score", *folders, "-q", "--metric", "damlpips", "--metric", "psnr", "-o", out, "--fail-above", 5)
    assert result.exit_code == 0, result.stderr
    assert all(row["psnr"] > 5 > row["score"] for row in json_rows(out))


@pytest.mark.parametrize("limit", ["-0.1", "nan", "inf"])
def test_limits_that_are_none_are_refused(folders: tuple[Path, Path], limit: str) -> None:
    refused("--fail-above .*: expected a finite number of at least 0", "score", *folders, f"--fail-above={limit}")


def test_a_shell_sees_the_code(folders: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "damlpips", "score", *map(str, folders), "-q", "--fail-above", "0"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
