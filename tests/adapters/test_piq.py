"""piq's conventions, against the installed piq."""

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import damlpips
from damlpips import DAMLPIPS
from damlpips.adapters.piq import LPIPS, NAMES, create_metric
from tests.support import reference

piq = pytest.importorskip("piq")

# to score a pair
WAYS: dict[str, Callable[..., Tensor]] = {
    "class": lambda x, y, **options: piq.DAMLPIPS(**options)(x, y),
    "function": lambda x, y, **options: piq.damlpips(x, y, **options),
    "LPIPS": lambda x, y, **options: LPIPS(backbone="nano", heads="uniform", **options)(x, y),
    "by name": lambda x, y, **options: create_metric("damlpips", **options)(x, y),
}
EQUAL = {"zeros": torch.zeros(2, 3, 48, 48), "ones": torch.ones(2, 3, 48, 48), "noise": reference.noise()[0]}


@pytest.fixture(scope="module", autouse=True)
def _registered():
    damlpips.register("piq")


def test_register_is_idempotent_and_leaves_piqs_own_alone() -> None:
    own, kind = piq.LPIPS, piq.DAMLPIPS
    assert damlpips.register("piq") == ["piq.DAMLPIPS", "piq.damlpips"]
    assert piq.LPIPS is own
    assert piq.DAMLPIPS is kind
    assert inspect.getmodule(own).__name__ == "piq.perceptual"


def test_reductions() -> None:
    x, y = reference.noise()
    scores = DAMLPIPS()(x, y)
    for reduction, expected in (("none", scores), ("mean", scores.mean()), ("sum", scores.sum())):
        torch.testing.assert_close(piq.DAMLPIPS(reduction=reduction)(x, y), expected)
        torch.testing.assert_close(piq.damlpips(x, y, reduction=reduction), expected)
    torch.testing.assert_close(piq.DAMLPIPS()(x, y), scores.mean())
    torch.testing.assert_close(piq.damlpips(x, y), scores.mean())


@pytest.mark.parametrize("reduction", [None, "n", 2, "average"])
def test_unknown_reductions_raise_value_error(reduction) -> None:
    with pytest.raises(ValueError, match="Unknown reduction"):
        piq.DAMLPIPS(reduction=reduction)
    with pytest.raises(ValueError, match="Unknown reduction"):
        piq.damlpips(*reference.noise(), reduction=reduction)


def test_is_a_loss_like_piqs() -> None:
    loss = piq.DAMLPIPS()
    assert isinstance(loss, torch.nn.modules.loss._Loss)
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    x, y = reference.noise()
    x.requires_grad_()
    loss(x, y).backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


@pytest.fixture(params=WAYS)
def score(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """Score a pair, with options."""
    return WAYS[request.param]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 45, 70), (1, 1, 64, 64), (4, 1, 50, 40)], ids=str)
def test_shapes_and_types_are_piqs(score: Callable[..., Tensor], shape: tuple[int, ...], reduction: str) -> None:
    x, y = torch.rand(2, *shape)
    # a feature loss of piq's with a network that is here; `piq.LPIPS` has its `forward`
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    own = piq.ContentLoss(network, layers=["1"], weights=[1.0], reduction=reduction)
    wanted, found = own(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)), score(x, y, reduction=reduction)
    assert found.isfinite().all()
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)


def test_signatures_are_piqs() -> None:
    assert (
        inspect.signature(piq.DAMLPIPS.forward).parameters.keys()
        == inspect.signature(piq.LPIPS.forward).parameters.keys()
    )
    own = {
        piq.DAMLPIPS: inspect.signature(piq.LPIPS),
        piq.LPIPS: inspect.signature(piq.LPIPS),
        piq.damlpips: inspect.signature(piq.ssim),
    }
    for mine, theirs in own.items():
        assert (
            inspect.signature(mine).parameters["reduction"].default == theirs.parameters["reduction"].default == "mean"
        )


@pytest.mark.parametrize("image", EQUAL.values(), ids=EQUAL)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_equal_images_score_zero(score: Callable[..., Tensor], image: Tensor, reduction: str) -> None:
    assert score(image, image.clone(), reduction=reduction).eq(0).all()


def test_grey_images_are_accepted(score: Callable[..., Tensor]) -> None:
    x, y = (t[:, :1] for t in reference.noise())
    assert torch.equal(score(x, y), score(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("equal", [False, True])
def test_gradients_of_both_images(score: Callable[..., Tensor], reduction: str, equal: bool) -> None:
    x, y = reference.noise()
    x, y = (y.clone() if equal else x).requires_grad_(), y.requires_grad_()
    score(x, y, reduction=reduction).sum().backward()
    for image in (x, y):
        assert image.grad.isfinite().all()
        assert image.grad.any() != equal


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 1e-5)], ids=str
)
def test_other_floats_score_the_same(score: Callable[..., Tensor], dtype: torch.dtype, rtol: float) -> None:
    x, y = reference.noise()
    found, wanted = score(x.to(dtype), y.to(dtype)), score(x, y)
    torch.testing.assert_close(found.float(), wanted, rtol=rtol, atol=0)
    assert found.dtype == torch.float32


def test_bytes_are_read_as_0_to_255(score: Callable[..., Tensor]) -> None:
    x, y = ((255 * t).round().to(torch.uint8) for t in reference.noise())
    torch.testing.assert_close(score(x, y), score(x / 255, y / 255))
    assert score(x, x) == 0


BEYOND = {"normal": lambda x: 0.5 + x, "negative": lambda x: x - 0.5, "0 to 255": lambda x: 255 * x}


@pytest.mark.parametrize("change", BEYOND.values(), ids=BEYOND)
def test_values_out_of_range_are_scored_with_one_warning(change: Callable[[Tensor], Tensor]) -> None:
    x, y = (change(t) for t in reference.noise())
    loss = piq.DAMLPIPS()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scores = [loss(x, y), loss(x, y), piq.DAMLPIPS(check_values=False)(x, y)]
    assert [str(w.message).startswith("first image: expected values in (0.0, 1.0), got") for w in told] == [True]
    assert scores[0].isfinite()
    assert scores[0] == scores[1] == scores[2]
    for call in (piq.DAMLPIPS(check_values=True), partial(piq.damlpips, check_values=True)):
        with pytest.raises(ValueError, match=r"expected values in \(0.0, 1.0\)"):
            call(x, y)


REFUSED = {
    "numbers of images": (lambda x, y: (x, y[:1]), AssertionError, "same size"),
    "sizes": (lambda x, y: (x, y[..., 1:]), AssertionError, "same size"),
    "channels that differ": (lambda x, y: (x, y[:, :1]), AssertionError, "same size"),
    "three dimensions": (lambda x, y: (x[0], y[0]), AssertionError, "number of dimensions"),
    "two dimensions": (lambda x, y: (x[0, 0], y[0, 0]), AssertionError, "number of dimensions"),
    "five dimensions": (lambda x, y: (x[..., None], y[..., None]), AssertionError, "number of dimensions"),
    "arrays": (lambda x, y: (x.numpy(), y.numpy()), AssertionError, r"Expected torch\.Tensor"),
    "four channels": (lambda x, y: (x[:, [0, 1, 2, 0]], y[:, [0, 1, 2, 0]]), ValueError, r"expected \(N, 3, H, W\)"),
    "no images": (lambda x, y: (x[:0], y[:0]), ValueError, "at least one image"),
    "no pixels": (lambda x, y: (x[..., :0], y[..., :0]), ValueError, "there is no pixel"),
    "bytes beside floats": (lambda x, y: (x.to(torch.uint8), y), TypeError, "both be floats or both uint8"),
    "whole numbers": (lambda x, y: (x.long(), y.long()), TypeError, "floats in value_range or uint8"),
}


@pytest.mark.parametrize(("change", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(score: Callable[..., Tensor], change: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        score(*change(*reference.noise()))


def test_create_metric_by_name() -> None:
    x, y = reference.noise()
    torch.testing.assert_close(create_metric("damlpips", reduction="none")(x, y), DAMLPIPS()(x, y))
    assert repr(create_metric("damlpips")) == "DAMLPIPS(backbone='nano', reduction='mean')"
    with pytest.raises(ValueError, match="unknown metric 'lpips': expected one of 'damlpips', 'damlpips-alex'"):
        create_metric("lpips")


@pytest.mark.parametrize("name", NAMES)
def test_every_name(name: str, random_weights: Callable[[str], Path]) -> None:
    backbone = NAMES[name].options["backbone"]
    options = {"weights": random_weights(reference.TORCHVISION[backbone])} if backbone in reference.TORCHVISION else {}
    loss, (x, y) = create_metric(name, **options), reference.noise(2, 40, 48)
    scores = create_metric(name, reduction="none", **options)(x, y)
    torch.testing.assert_close(loss(x, y), scores.mean())
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin(x, y) == loss(x, y)
    x.requires_grad_()
    loss(x, y).backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_a_name_taken_by_another_is_not_overwritten(monkeypatch) -> None:
    monkeypatch.setattr(piq, "damlpips", len)
    with pytest.raises(RuntimeError, match=r"piq\.damlpips exists already"):
        damlpips.register("piq")
