"""The benchmark of what a mask changes."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from damlpips import LPIPS
from tests.support.pictures import image_file

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the benchmark as if it were run: its folder comes first in the path."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("masks")
    del sys.modules["masks"], sys.modules["ladders"]


def test_it_prints_a_row_a_mask(script, tmp_path, capsys) -> None:
    for k in range(2):
        image_file(tmp_path / f"{k}.png", k, (110, 112))
    script.main([str(tmp_path), "--count", "2", "--side", "96", "--metric", "damlpips", "damlpips:1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| damlpips")]
    assert len(rows) == 2 * (len(script.MASKS) + 1)
    assert "nan" not in "".join(rows)
    with pytest.raises(SystemExit, match="error: unknown metric 'psnr'"):
        script.main([str(tmp_path), "--count", "2", "--side", "96", "--metric", "psnr"])


def test_a_mask_of_all_changes_nothing(script) -> None:
    model = LPIPS("nano", heads="uniform")
    x, y = torch.rand(2, 1, 3, 48, 48)
    found = script.of_covered_places(model, x, y, torch.ones(1, 1, 48, 48, dtype=torch.bool))
    torch.testing.assert_close(found, model(x, y), rtol=1e-5, atol=0)
