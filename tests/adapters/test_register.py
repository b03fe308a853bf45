"""`damlpips.register()`, where ecosystems are missing and where they are not: each name is the module it stands for."""

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

import damlpips
from damlpips import adapters
from damlpips.models.registry import in_libraries
from tests.support import reference
from tests.support.processes import python


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
    assert python(code).split() == ["False", "True"]


Build = Callable[..., Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]


@pytest.fixture(params=adapters.ECOSYSTEMS)
def build(request: pytest.FixtureRequest) -> Build:
    """Build a metric of a library by its name; it returns scores (N,)."""
    library = pytest.importorskip(request.param)
    damlpips.register(request.param)

    def built(name: str, **options: object) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        if request.param == "piq":
            return import_module("damlpips.adapters.piq").create_metric(name, reduction="none", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric = library.create_metric(name, device=torch.device("cpu"), **options)
        return lambda x, y: metric(x, y)[:, 0]

    return built


def is_of_vgg(name: str) -> bool:
    return in_libraries()[name].options["backbone"] == "vgg"


def check(build: Build, name: str, **options: object) -> None:
    x, y = reference.noise()
    scores = build(name, **options)(x, y)
    torch.testing.assert_close(scores, in_libraries()[name].build(**options)(x, y), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in in_libraries() if is_of_vgg(name)])
def test_names_of_vgg_use_vgg(build: Build, name: str, random_vgg_weights: Path) -> None:
    check(build, name, weights=str(random_vgg_weights))


@pytest.mark.shared
@pytest.mark.parametrize("name", [name for name in in_libraries() if not is_of_vgg(name)])
def test_pretrained_names(
    build: Build, name: str, alex_weights: Path, squeeze_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(alex_weights.parent))
    check(build, name)
