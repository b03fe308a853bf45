"""The benchmark that prints by how much scores change with what differs between two programs."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from damlpips import LPIPS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the benchmark as if it were run."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("differences")
    del sys.modules["differences"]


def test_a_row_has_factors_and_the_share_of_orders_that_change(script: ModuleType) -> None:
    assert script.row("name", [0.1, 0.4, 0.1], [0.1, 0.2, 0.3]) == "| name | 1.000 | 0.33 to 2.00 | 33 % |"


def test_changes_change_pixels_as_they_are_named(script: ModuleType) -> None:
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    changes = {change.name: change for change in script.CHANGES}
    assert len(changes) == len(script.CHANGES)
    assert torch.equal(changes["BGR in place of RGB"].images((image, image))[0], image[:, [2, 1, 0]])
    converted = script.in_display_p3(image)
    assert converted.shape == image.shape
    assert not torch.equal(converted, image)
    grey = torch.full_like(image, 128)
    assert torch.equal(script.in_display_p3(grey), grey)
    assert script.half(image).shape == script.thinned(image).shape == (1, 3, 16, 16)
    alone = changes["at half the size, the reference alone without"]
    assert torch.equal(alone.images((image, image))[0], alone.beside((image, image))[0])
    assert not torch.equal(alone.images((image, image))[1], alone.beside((image, image))[1])


def test_table(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [change for change in script.CHANGES if "BGR" in change.name or change.options == {"fed_as": (-1, 1)}]
    monkeypatch.setattr(script, "CHANGES", changes)
    monkeypatch.setitem(script.METRICS, "LPIPS", lambda **options: LPIPS("nano", heads="uniform", **options))
    script.main(["--pictures", "pebbles", "--metric", "LPIPS"])
    rows = [re.split(r" *\| *", line)[1:-1] for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[0] for row in rows] == [change.name for change in changes]
    assert float(rows[0][1]) < 0.9  # half of the contrast
