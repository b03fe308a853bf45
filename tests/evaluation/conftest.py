"""A copy of the package that tests may change."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from damlpips.evaluation import code, named, views


@pytest.fixture
def copied_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files that digests of code are made of; the code that runs is another."""
    copied = tmp_path / "damlpips"
    shutil.copytree(code.PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    monkeypatch.setattr(code, "PACKAGE", copied)
    digests = (named._code_of_models, named._code_of_calls, views._code)
    for digest in digests:
        digest.cache_clear()
    yield copied
    for digest in digests:
        digest.cache_clear()
