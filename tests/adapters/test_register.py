"""`damlpips.register()` where ecosystems are missing."""

import subprocess
import sys

import pytest

import damlpips
from damlpips import adapters


def test_an_ecosystem_that_is_not_installed_is_named(monkeypatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"neither pyiqa nor piq is installed: pip install 'damlpips\[pyiqa\]'"):
        damlpips.register()
    with pytest.raises(ImportError, match=r"piq is not installed: pip install 'damlpips\[piq\]'"):
        damlpips.register("piq")


def test_whichever_is_installed_is_registered(monkeypatch) -> None:
    pytest.importorskip("piq")
    real = adapters.find_spec
    monkeypatch.setattr(adapters, "find_spec", lambda name: None if name == "pyiqa" else real(name))
    assert damlpips.register() == ["piq.DAMLPIPS", "piq.damlpips"]


def test_unknown_ecosystems_are_named() -> None:
    with pytest.raises(ValueError, match="unknown ecosystem 'kornia': expected one of 'pyiqa', 'piq'"):
        damlpips.register("kornia")


def test_registering_one_does_not_import_the_other() -> None:
    pytest.importorskip("piq")
    code = "import sys, damlpips; damlpips.register('piq'); print('pyiqa' in sys.modules, 'piq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
