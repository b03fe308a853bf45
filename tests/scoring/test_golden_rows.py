"""Guard of the files that runs write: who changes a column or what stands in it has to say so in the changelog.

    damlpips score docs/demo/pebbles.png docs/demo/pebbles/blur_3.png --csv tests/golden/rows.csv

writes the rows anew; `tests/docs/test_promises.py` then fails until the changelog speaks of it.
"""

import csv
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from damlpips.cli import app
from tests.models.test_score_version import ALIGNED_RELATIVE

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "rows.csv"


def test_a_run_writes_the_golden_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    demo = "docs/demo/pebbles"
    done = CliRunner().invoke(app, ["score", f"{demo}.png", f"{demo}/blur_3.png", "--csv", str(tmp_path / "rows.csv")])
    assert done.exit_code == 0, done.output
    expected, found = (list(csv.reader(path.open(newline=""))) for path in (GOLDEN, tmp_path / "rows.csv"))
    assert found[0] == expected[0]
    assert len(found) == len(expected) == 2
    for name, cell, golden in zip(found[0], found[1], expected[1], strict=True):
        if name == "score" or name.startswith("layer_"):
            # as scores of aligned images differ between machines; nothing has moved here, so the last layer is 0
            assert math.isclose(float(cell), float(golden), rel_tol=ALIGNED_RELATIVE), name
        else:
            assert cell == golden, name
