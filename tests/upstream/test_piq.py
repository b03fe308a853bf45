"""The tests that piq has for its perceptual losses, by contract, on this package's: `tests/test_perceptual.py` and
`tests/test_lpips.py` of piq 0.8, `tests/test_ssim.py` for the function.

Left out is what tests an argument that these have not: `feature_extractor` (here `backbone`), `layers`, `weights`,
`replace_pooling`. One thing differs by design: images of 28 x 28 pixels, for which piq's VGG is too deep, have a score.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import damlpips
from damlpips import Backbone
from damlpips.adapters.piq import DAMLPIPS, LPIPS
from damlpips.adapters.piq import damlpips as function
from damlpips.models.settings import DAMLPIPS_VERSIONS

piq = pytest.importorskip("piq")

LOSSES: dict[str, Callable[..., nn.Module]] = {
    **{f"DAMLPIPS {version}": partial(DAMLPIPS, version=version) for version in DAMLPIPS_VERSIONS},
    "LPIPS": partial(LPIPS, backbone="nano", heads="uniform"),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
IMAGES = {"colour": (4, 3, 96, 96), "grey": (4, 1, 96, 96)}


@pytest.fixture(params=LOSSES)
def make(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    return LOSSES[request.param]


@pytest.fixture(params=[*LOSSES, "function"])
def score(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """Score a pair, with options, by a loss or by the function."""
    if request.param == "function":
        return function
    return lambda x, y, **options: LOSSES[request.param](**options)(x, y)


@pytest.fixture(params=IMAGES)
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    x, y = torch.rand(2, *IMAGES[request.param])
    return x, y


def test_init(make: Callable[..., nn.Module]) -> None:
    loss = make()
    assert isinstance(loss, nn.modules.loss._Loss)
    assert loss.reduction == "mean"


@pytest.mark.parametrize("device", DEVICES)
def test_forward(score: Callable[..., Tensor], pair: tuple[Tensor, Tensor], device: str) -> None:
    value = score(*(images.to(device) for images in pair))
    assert (value.shape, value.device.type) == ((), device)
    assert value > 0


@pytest.mark.parametrize("device", DEVICES)
def test_computes_grad(score: Callable[..., Tensor], pair: tuple[Tensor, Tensor], device: str) -> None:
    x, y = pair
    x.requires_grad_()
    score(x.to(device), y.to(device)).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_raises_if_wrong_reduction(score: Callable[..., Tensor], pair: tuple[Tensor, Tensor]) -> None:
    values = {mode: score(*pair, reduction=mode) for mode in ("mean", "sum", "none")}
    torch.testing.assert_close(values["none"].mean(), values["mean"])
    torch.testing.assert_close(values["none"].sum(), values["sum"])
    for mode in (None, "n", 2):
        with pytest.raises(ValueError, match="Unknown reduction"):
            score(*pair, reduction=mode)


# as piq's table of special cases: two images, and the loss or the error
SPECIAL: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], Any]] = {
    "complex": (torch.rand, (2, 3, 96, 96, 2), AssertionError),
    "without a batch": (torch.rand, (3, 96, 96), AssertionError),
    "two axes": (torch.rand, (96, 96), AssertionError),
    "normal": (torch.randn, (2, 3, 96, 96), None),
    "zeros": (torch.zeros, (2, 3, 96, 96), 0.0),
    "ones": (torch.ones, (2, 3, 96, 96), 0.0),
    "small": (torch.rand, (2, 3, 28, 28), None),
}


@pytest.mark.filterwarnings("ignore:.*scored as it is.*:UserWarning")
@pytest.mark.parametrize(("draw", "shape", "expected"), SPECIAL.values(), ids=SPECIAL)
def test_forward_for_special_cases(
    score: Callable[..., Tensor], draw: Callable[..., Tensor], shape: tuple[int, ...], expected: Any
) -> None:
    x, y = draw(*shape), draw(*shape)
    if expected is AssertionError:
        with pytest.raises(AssertionError):
            score(x, y)
    elif expected is None:
        assert score(x, y).isfinite()
    else:
        assert score(x, y) == expected


def test_raises_if_tensors_have_different_shapes(score: Callable[..., Tensor], pair: tuple[Tensor, Tensor]) -> None:
    x, _ = pair
    for shape in ((4, x.shape[1], 96, 90), (4, 2, 96, 96), (3, x.shape[1], 96, 96)):
        with pytest.raises(AssertionError):
            score(x, torch.rand(shape))


def test_raises_if_wrong_extractor(make: Callable[..., nn.Module]) -> None:
    for backbone in ("random_encoder", None):
        with pytest.raises((ValueError, TypeError), match="backbone"):
            make(backbone=backbone)


def test_supports_custom_extractor(make: Callable[..., nn.Module], pair: tuple[Tensor, Tensor]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    loss = make(backbone=Backbone(network, taps=["1", "3"], min_size=5))
    assert 0 < loss(*pair) < torch.inf


def test_names_and_arguments_are_piqs() -> None:
    damlpips.register("piq")
    assert (piq.DAMLPIPS, piq.damlpips) == (DAMLPIPS, function)
    assert list(inspect.signature(function).parameters)[:2] == list(inspect.signature(piq.ssim).parameters)[:2]
    assert list(inspect.signature(DAMLPIPS.forward).parameters) == list(inspect.signature(piq.LPIPS.forward).parameters)
