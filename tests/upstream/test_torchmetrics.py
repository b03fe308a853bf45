"""This package's metrics under the tests that torchmetrics has for its own, and what its maintainers would be sent.

The tests are torchmetrics' by contract (`MetricTester`), on this package's metrics. What would be sent is put into a
copy of the installed torchmetrics, laid out as its repository is, and its test file runs there.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor

from damlpips import DAMLPIPSMetric, LPIPSMetric, functional
from tests.support.metric_tester import MetricTester
from tests.support.modules import KINDS

ROOT = Path(__file__).resolve().parents[2]
SENT = ROOT / "docs/upstream/torchmetrics"
SUPPORT = ROOT / "tests/support"

# batches of pairs
TARGET = torch.rand(4, 2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
PREDS = 0.8 * TARGET + 0.2 * torch.rand(TARGET.shape, generator=torch.Generator().manual_seed(1))
REDUCE: dict[str, Callable[[np.ndarray], Any]] = {"mean": np.mean, "sum": np.sum, "none": np.asarray}


def one_by_one(preds: Tensor, target: Tensor, kind: str, reduction: str = "mean") -> Any:
    """Return a module's scores of the pairs, each scored by itself."""
    module = KINDS[kind]("nano")
    pairs = zip(preds.split(1), target.split(1), strict=True)
    return REDUCE[reduction](torch.cat([module(*pair) for pair in pairs]).numpy())


METRICS: dict[str, tuple[type[torchmetrics.Metric], dict[str, Any], str]] = {
    "damlpips": (DAMLPIPSMetric, {}, "damlpips"),
    "damlpips 1": (DAMLPIPSMetric, {"version": 1}, "damlpips 1"),
    "lpips": (LPIPSMetric, {"backbone": "nano", "heads": "uniform"}, "lpips"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore:This property will be removed:DeprecationWarning")
class TestOurs(MetricTester):
    # float32: a batch is summed in another order than its pairs one by one; on a GPU so is every convolution
    atol = 1e-4 if torch.cuda.is_available() else 1e-6

    @pytest.mark.parametrize("ddp", [False, True], ids=["one process", "two"])
    @pytest.mark.parametrize("reduction", REDUCE)
    @pytest.mark.parametrize("name", METRICS)
    def test_class(self, name: str, reduction: str, ddp: bool) -> None:
        metric, options, kind = METRICS[name]
        self.run_class_metric_test(
            ddp,
            PREDS,
            TARGET,
            metric,
            partial(one_by_one, kind=kind, reduction=reduction),
            metric_args={**options, "reduction": reduction},
            check_ddp_sorting=ddp,
        )

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    @pytest.mark.parametrize("name", ["damlpips", "lpips"])
    def test_values_of_a_step_are_those_of_all_processes(self, name: str, reduction: str) -> None:
        metric, options, kind = METRICS[name]
        self.run_class_metric_test(
            True,
            PREDS,
            TARGET,
            metric,
            partial(one_by_one, kind=kind, reduction=reduction),
            dist_sync_on_step=True,
            metric_args={**options, "reduction": reduction},
            check_ddp_sorting=True,
        )

    @pytest.mark.parametrize("ddp", [False, True], ids=["one process", "two"])
    def test_class_with_an_index(self, ddp: bool) -> None:
        self.run_class_metric_test(
            ddp, PREDS, TARGET, DAMLPIPSMetric, partial(one_by_one, kind="damlpips"), index=torch.arange(8).view(4, 2)
        )

    @pytest.mark.parametrize("reduction", REDUCE)
    @pytest.mark.parametrize("name", METRICS)
    def test_function(self, name: str, reduction: str) -> None:
        _, options, kind = METRICS[name]
        self.run_functional_metric_test(
            PREDS,
            TARGET,
            getattr(functional, kind.split()[0]),
            partial(one_by_one, kind=kind, reduction=reduction),
            metric_args={**options, "reduction": reduction},
        )

    @pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
    @pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.cuda)])
    @pytest.mark.parametrize("name", METRICS)
    def test_half_precision(self, name: str, device: str, dtype: torch.dtype) -> None:
        metric, options, _ = METRICS[name]
        getattr(self, f"run_precision_test_{device}")(PREDS, TARGET, metric, metric_args=options, dtype=dtype)

    @pytest.mark.parametrize("name", METRICS)
    def test_differentiability(self, name: str) -> None:
        metric, options, _ = METRICS[name]
        self.run_differentiability_test(PREDS, TARGET, metric, metric_args=options)


# --- what would be sent -----------------------------------------------------------------------------------------------

# torchmetrics' tests import these, which its wheel does not have
HELPERS = {
    "__init__.py": "",
    "image/__init__.py": "",
    "_helpers/__init__.py": "from torch import manual_seed as seed_all\n",
    "_helpers/processes.py": (SUPPORT / "processes.py").read_text(),
    "_helpers/testers.py": (SUPPORT / "metric_tester.py").read_text(),
}
PYTEST_INI = """[pytest]
markers =
    DDP: several processes
doctest_optionflags = NORMALIZE_WHITESPACE ELLIPSIS
addopts = -p no:cacheprovider -p no:damlpips.testing.golden
"""
# runs before any test is imported
CONFTEST = """
import sys
from pathlib import Path
import torchmetrics
from torchmetrics.functional.image import damlpips
from torchmetrics.image import DAMLPIPS
assert Path(torchmetrics.__file__) == Path(__file__).parent / "src/torchmetrics/__init__.py", torchmetrics.__file__
assert "damlpips" not in sys.modules, "torchmetrics loads damlpips before a metric is built"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return torchmetrics' repository, as far as its wheel has it, with what would be sent."""
    shutil.copytree(
        Path(torchmetrics.__file__).parent, tmp_path / "src/torchmetrics", ignore=shutil.ignore_patterns("__pycache__")
    )
    for file in SENT.rglob("*"):
        if file.suffix in (".py", ".rst"):
            placed = tmp_path / file.relative_to(SENT)
            assert not placed.exists()
            placed.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, placed)
    ceiling = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    subprocess.run(["git", "apply", str(SENT / "existing-files.patch")], cwd=tmp_path, check=True, env=ceiling)
    for name, text in HELPERS.items():
        file = tmp_path / "tests/unittests" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (tmp_path / "pytest.ini").write_text(PYTEST_INI)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    return tmp_path


def test_its_tests_and_examples_pass_in_torchmetrics_tree(tree: Path) -> None:
    """27 cases, of which one needs a GPU, and the examples of three docstrings."""
    files = ["tests/unittests/image/test_damlpips.py", "src/torchmetrics/image/damlpips.py"]
    files.append("src/torchmetrics/functional/image/damlpips.py")
    paths = os.pathsep.join(map(str, (tree / "src", tree / "tests", ROOT / "src")))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "--doctest-modules", *files],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    passed, skipped = (int((re.findall(rf"(\d+) {what}", done.stdout) or [0])[0]) for what in ("passed", "skipped"))
    assert (passed, skipped) == ((30, 0) if torch.cuda.is_available() else (29, 1)), done.stdout[-2000:]
