"""What the tests of drop-in replacements share: weights where they are found without an argument."""

import shutil
from collections.abc import Callable
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from tests.support import reference


@pytest.fixture
def give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[str, str], Path]:
    """Return a function that puts weights where they are found without an argument; returns their file."""

    # networks of other tests, which torchmetrics' reference cycles keep alive, have other weights by the same name
    monkeypatch.setattr("damlpips.nets.shared._instances", WeakValueDictionary())

    def found(net: str, fixture: str) -> Path:
        file = tmp_path / f"{reference.TORCHVISION[net]}_features.safetensors"
        if fixture.startswith("random"):
            # a file of that name must have the published contents, unless it is torchvision's own and unknown
            monkeypatch.setattr("damlpips.nets.weights._known_digests", dict)
        shutil.copy(request.getfixturevalue(fixture), file)
        monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(tmp_path))
        return file

    return found
