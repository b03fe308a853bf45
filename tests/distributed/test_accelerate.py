"""Validation under Hugging Face's accelerate, with no code for it in the package."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")

from damlpips import DAMLPIPSMetric
from tests.distributed.accelerate_validation import N, images

SCRIPT = Path(__file__).with_name("accelerate_validation.py")


def test_accelerate_on_two_processes_gives_the_value_of_one(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    alone = DAMLPIPSMetric(deterministic=True)
    alone.update(*images(N))
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        assert results["processes"] == 2
        assert torch.equal(results["value"], alone.compute())
