"""The benchmark that prints which facts hold for metrics."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from damlpips.evaluation.facts import CLAIMS, DISTORTIONS, FACTS
from tests.support.pictures import image_file

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# distances that are blind: one to everything, one to places
METRICS = """
import torch
blind = lambda: lambda x, y: torch.zeros(len(x))
means = lambda: lambda x, y: (x.mean((2, 3)) - y.mean((2, 3))).abs().sum(1)
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the benchmark as if it were run: its folder comes first in the path."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("facts")
    del sys.modules["facts"], sys.modules["ladders"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(3):
        image_file(tmp_path / "photographs" / f"{k}.png", k, (110, 112))
    for k, name in enumerate(("ref", "p0", "p1")):
        image_file(tmp_path / "example" / f"ex_{name}.png", k, (40, 40))
    (tmp_path / "metrics.py").write_text(METRICS)
    return tmp_path


def rows_of(markdown: str) -> list[dict[str, list[str]]]:
    """Return the cells of each table by the first of their row."""
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, re.M)
    lines = [[line.split("|")[1:-1] for line in block.splitlines() if not line.startswith("| -")] for block in blocks]
    return [{name.strip(): [cell.strip() for cell in cells] for name, *cells in rows} for rows in lines]


def test_tables(script: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blind = f"{folder / 'metrics.py'}:blind"
    script.main([str(folder / "photographs"), "--count", "3", "--side", "96", "--metric", "mse", blind])
    printed = capsys.readouterr()
    assert printed.err == ""
    found, medians = rows_of(printed.out)
    assert found["claim"] == ["at most", "mse", blind]
    assert list(found) == ["claim", *CLAIMS, "facts that hold"]
    held, of_blind = found["facts that hold"][1:]
    assert of_blind == f"0 of {len(FACTS)}"
    failed = sum(int(cell[1].split()[1]) for claim, cell in found.items() if cell[1].endswith("fail"))
    assert held == f"{len(FACTS) - failed} of {len(FACTS)}"
    for claim, of_claim in CLAIMS.items():
        assert found[claim][0] == f"{of_claim[0].at_most:.2f}"
        assert found[claim][2] == f"nan, {len(of_claim)} of {len(of_claim)} fail"
    assert list(medians) == ["distortion", *DISTORTIONS]
    assert all(re.fullmatch(r"\d\.\d{3}", cells[0]) and cells[1] == "0.000" for cells in list(medians.values())[1:])


def test_example(script: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs, example = str(folder / "photographs"), str(folder / "example")
    script.main([photographs, "--count", "2", "--side", "96", "--example", example, "--metric", "mse"])
    found, _ = rows_of(capsys.readouterr().out)
    reference, blurred, warped = (
        script.read_image(folder / "example" / f"ex_{name}.png").double() for name in ("ref", "p0", "p1")
    )
    ratio = (warped - reference).square().mean() / (blurred - reference).square().mean()
    (claim,) = script.EXAMPLE
    assert found[claim][0] == "0.90"
    assert float(found[claim][1].split(",")[0]) == pytest.approx(float(ratio), abs=0.006)


def test_a_metric_of_ones_own(script: ModuleType, folder: Path) -> None:
    images = [torch.randint(0, 256, (3, 100, 100), dtype=torch.uint8) for _ in range(2)]
    quiet = script.Progress(disable=True)
    one, other = (
        script.measured(metric, images, [], seed=0, progress=quiet)
        for metric in (script.build("mse"), script.build(f"{folder / 'metrics.py'}:means"))
    )
    assert list(one) == list(other) == list(DISTORTIONS)
    assert one["mirrored"] > 0.1
    assert other["mirrored"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "1"], "expected at least 2 photographs"),
        (["--metric", "msee"], "error: unknown metric 'msee'"),
        (["--metric", "metrics.py:nothing"], "error: metrics.py:nothing"),
        (["--count", "4", "--side", "96", "--metric", "mse"], "expected 4 images of 108 x 108 pixels or more, found 3"),
        (["--count", "2", "--side", "96", "--metric", "mse", "--example", "nowhere"], "ex_ref.png"),
    ],
)
def test_errors(
    script: ModuleType, folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        script.main([str(folder / "photographs"), *arguments])
    assert message in f"{ended.value} {capsys.readouterr().err}"
