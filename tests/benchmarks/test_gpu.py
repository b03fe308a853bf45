"""The command that runs everything a GPU is needed for: its parts, its limits, its tables."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def test_the_parts_take_seven_minutes_at_most() -> None:
    assert sum(gpu.LIMITS.values()) <= 420
    assert set(gpu.LIMITS) == set(gpu.PARTS)


def test_every_test_that_takes_a_gpu_is_run() -> None:
    marks = ("pytest.mark.cuda", "tests.support.interpreted")
    needing = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "tests").rglob("test_*.py")
        if any(mark in file.read_text(encoding="utf-8") for mark in marks)
    }
    # pyiqa, which takes fifty other packages, is on no machine without a network
    elsewhere = {"tests/upstream/test_pyiqa.py", "tests/adapters/test_pyiqa.py"}
    assert needing - elsewhere - {"tests/benchmarks/test_gpu.py"} == set(gpu.TESTS)


def test_a_cell_measures_every_contender_and_goes_on_after_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such kernel")

    calls = {"broken": broken, **dict(gpu.models("nano", "tf32", CPU))}
    rows = list(gpu.cell(calls, "training", CPU, 1, 32))
    assert [row["name"] for row in rows] == [
        f"{name}{how}" for name in ("LPIPS", "DAMLPIPS", "DAMLPIPS 1") for how in ("", ", recorded")
    ]
    assert all(row["ms"] > 0 and row["MiB"] > 0 for row in rows)
    assert "broken FAILED" in capsys.readouterr().out


def test_tables_are_in_times_of_the_fastest_lpips(tmp_path: Path) -> None:
    def row(name: str, precision: str, ms: float, mib: float) -> dict[str, object]:
        same = {"backbone": "vgg", "task": "forward", "pairs": 64, "size": 256}
        return {**same, "precision": precision, "name": name, "ms": ms, "MiB": mib}

    file = tmp_path / "bench.jsonl"
    rows = [
        *(row("lpips", "tf32", 50.0, 900.0), row("lpips", "bfloat16", 40.0, 800.0)),
        row("LPIPS", "bfloat16", 10.0, 200.0),
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    text = "\n".join(gpu.tables(file))
    assert "lpips at its best: 40.00 ms in bfloat16, 800 MiB" in text
    assert "| bfloat16 | 40.00 ms (1.0 x), 1.00 | 10.00 ms (4.0 x), 0.25 |" in text
    assert "| tf32 | 50.00 ms (0.8 x), 1.12 | - |" in text


def test_a_part_runs_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        gpu.main([str(tmp_path), "--device", "cpu", "--parts", "device"])
    assert done.value.code == 0
    assert "device: rc 0" in capsys.readouterr().out
    assert f"torch {torch.__version__}" in (tmp_path / "device.txt").read_text(encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no CUDA device is available here; --device cpu rehearses"):
        gpu.main([str(tmp_path)])
