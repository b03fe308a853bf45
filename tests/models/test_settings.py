"""Options are declared once: each is known to type checkers, is used, and can be listed without loading torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from damlpips.models import settings
from damlpips.models.registry import Metric

SOURCE = Path(settings.__file__).parent
KEYWORDS = {Metric.LPIPS: settings.LPIPSOptions, Metric.DAMLPIPS: settings.DAMLPIPSOptions}


@pytest.mark.parametrize("metric", Metric)
def test_type_checkers_know_every_option(metric: Metric) -> None:
    assert set(KEYWORDS[metric].__annotations__) == set(metric.settings.names())


@pytest.mark.parametrize("name", sorted({name for metric in Metric for name in metric.settings.names()}))
def test_every_option_is_used(name: str) -> None:
    modules = [path.read_text(encoding="utf-8") for path in SOURCE.glob("*.py") if path.name != "settings.py"]
    assert any(re.search(rf"\.{name}\b", text) for text in modules), f"nothing in {SOURCE} reads {name}"


def test_the_declarations_load_no_torch() -> None:
    code = "import sys, damlpips.models.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
