"""Which torchmetrics the metrics are tested with: `make test` runs them on the installed and on the oldest allowed."""

import os
import re
from pathlib import Path

import torchmetrics

from damlpips.adapters.torchmetrics import store_metric

ROOT = Path(__file__).parents[3]


def test_the_version_that_was_asked_for_is_imported() -> None:
    asked = os.environ.get("TORCHMETRICS", torchmetrics.__version__)
    assert torchmetrics.__version__.split(".")[:2] == asked.split(".")[:2]


def test_the_oldest_version_allowed_is_one_of_those_tried() -> None:
    (oldest,) = re.findall(r'"torchmetrics>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"torchmetrics {oldest}" in (store_metric.__doc__ or "")
