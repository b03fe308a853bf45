"""Triton's kernels on a CPU: a file of tests runs again in a process in which Triton interprets them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Triton looks at it when it is imported: the interpreter needs a process of its own.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

Test = TypeVar("Test")


def marked(test: Test) -> Test:
    """Mark what runs on the CPU in the interpreter and else needs a CUDA device."""
    return test if INTERPRETED else pytest.mark.cuda(test)


def interpret(file: str, select: str, least: int) -> None:
    """Run the tests of a file whose names hold `select` in the interpreter: none may fail or be skipped."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-k", select, file]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout
    assert done.stdout.count(".") >= least
