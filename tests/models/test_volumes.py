"""Volumes: their scores are those of their slices, cut by hand, in whatever parts they are compared."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, Backbone
from damlpips.functional import slices, volume
from damlpips.models import volumes
from tests.support.reference import Tiny

BACKBONE = Backbone(Tiny(), min_size=5, name="tiny")
ONE_CHANNEL = Backbone(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()), ["1"], channels=1, min_size=3)
MODULES: dict[str, Any] = {
    "lpips-tiny": lambda **options: LPIPS(BACKBONE, heads="uniform", **options),
    "damlpips-tiny": lambda **options: DAMLPIPS(BACKBONE, **options),
    "damlpips-nano": lambda **options: DAMLPIPS(**options),
}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> Any:
    return MODULES[request.param]()


def pair(n: int = 2, channels: int = 3, size: tuple[int, int, int] = (9, 12, 14), seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, channels, *size, generator=generator)
    return x, (x + 0.2 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def near(found: Tensor, expected: Tensor) -> None:
    # float32: convolutions are blocked by the size of the batch
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def by_hand(module: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the scores of the slices along each axis, one slice after the other."""
    return {
        "depth": torch.stack([module(x[:, :, k], y[:, :, k]) for k in range(x.shape[2])], 1),
        "height": torch.stack([module(x[:, :, :, k], y[:, :, :, k]) for k in range(x.shape[3])], 1),
        "width": torch.stack([module(x[..., k], y[..., k]) for k in range(x.shape[4])], 1),
    }


@torch.no_grad()
def test_a_score_is_the_mean_of_the_slices_then_of_the_axes(module: Any) -> None:
    x, y = pair()
    expected = by_hand(module, x, y)
    near(volume(x, y, metric=module), sum(scores.mean(1) for scores in expected.values()) / 3)
    near(
        volume(x, y, axes=["width", "depth"], metric=module),
        expected["width"].mean(1) / 2 + expected["depth"].mean(1) / 2,
    )
    near(
        volume(x, y, axes=("height", "depth"), pool="max", metric=module),
        (expected["height"].amax(1) + expected["depth"].amax(1)) / 2,
    )
    for axis, scores in expected.items():
        near(slices(x, y, axis=axis, metric=module), scores)
        near(volume(x, y, axes=axis, metric=module), scores.mean(1))


@torch.no_grad()
def test_one_slice_is_the_image(module: Any) -> None:
    x, y = pair(size=(1, 12, 14))
    near(volume(x, y, axes="depth", metric=module), module(x[:, :, 0], y[:, :, 0]))
    near(
        volume(x.expand(-1, -1, 5, -1, -1), y.expand(-1, -1, 5, -1, -1), axes="depth", metric=module),
        module(x[:, :, 0], y[:, :, 0]),
    )


def test_equal_volumes_are_at_zero_and_the_axes_are_those_of_the_volume(module: Any) -> None:
    x, y = pair(size=(10, 10, 10))
    assert torch.equal(volume(x, x, metric=module), torch.zeros(2))
    turned = [v.transpose(2, 3) for v in (x, y)]
    near(slices(*turned, axis="height", metric=module), slices(x, y, axis="depth", metric=module))


def test_names_and_options_are_those_of_the_module() -> None:
    x, y = pair()
    scores = volume(x, y, metric=DAMLPIPS())
    near(volume(x, y), scores)
    near(volume(x, y, reduction="mean"), scores.mean())
    near(volume(x, y, metric=DAMLPIPS(reduction="sum")), scores.sum())
    near(
        volume(x, y, metric="lpips", backbone="nano", heads="uniform"),
        volume(x, y, metric=LPIPS("nano", heads="uniform")),
    )
    near(volume(2 * x - 1, 2 * y - 1, value_range=(-1, 1)), scores)
    small = volume(x, y, axes="depth", resize=8)
    near(small, volume(x, y, axes="depth", metric=DAMLPIPS(resize=8)))
    assert volume(x.double(), y.double(), metric=DAMLPIPS().double()).dtype == torch.float64


@torch.no_grad()
def test_grey_volumes() -> None:
    x, y = pair(channels=1)
    near(volume(x, y, grey="repeat"), volume(x.expand(-1, 3, -1, -1, -1), y.expand(-1, 3, -1, -1, -1)))
    module = DAMLPIPS(ONE_CHANNEL)
    near(volume(x, y, axes="depth", metric=module), by_hand(module, x, y)["depth"].mean(1))
    levels = [(v * 255).round().to(torch.uint8) for v in (x, y)]
    near(volume(*levels, grey="repeat"), volume(*(v.float() / 255 for v in levels), grey="repeat"))


@pytest.mark.parametrize("axes", ["depth", ("depth", "height", "width")])
def test_gradients_are_those_of_the_slices(module: Any, axes: Any) -> None:
    x, y = (v.requires_grad_() for v in pair(size=(8, 9, 10)))
    found = torch.autograd.grad(volume(x, y, axes=axes, metric=module).sum(), (x, y))
    scores = by_hand(module, x, y)
    wanted = [scores[axis].mean(1) for axis in ([axes] if isinstance(axes, str) else axes)]
    expected = torch.autograd.grad(sum(wanted).sum() / len(wanted), (x, y))
    for gradient, reference in zip(found, expected, strict=True):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0
        assert (gradient - reference).abs().max() <= 1e-4 * reference.abs().max() + 1e-8


@pytest.mark.parametrize("optimised", [False, True])
def test_slices_go_through_in_parts(optimised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network never sees more than a few slices, and a graph keeps no feature maps."""
    module = DAMLPIPS(align=False)
    monkeypatch.setattr(volumes, "ACCELERATED", 1)
    monkeypatch.setattr(module.encoder.source.__class__, "pass_values", 4 * 3 * 24 * 24)
    seen: list[int] = []
    handle = module.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(sum(map(len, inputs))))
    x, y = pair(1, size=(21, 24, 24))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        score = volume(x.requires_grad_(optimised), y, axes="depth", metric=module)
    handle.remove()
    assert sum(seen) == 2 * 21
    assert max(seen) <= 2 * 4
    # the feature maps of one layer alone have more
    assert sum(kept) <= 4 * x.numel()
    assert score.requires_grad is optimised


X = torch.rand(2, 3, 6, 8, 10)
REFUSED = {
    "images": (X[:, :, 0], X[:, :, 0], {}, ValueError, "first volume: expected (N, 3, D, H, W), got (2, 3, 8,"),
    "no tensor": (
        X,
        np.zeros(X.shape),
        {},
        TypeError,
        "second volume: expected (N, 3, D, H, W), a torch.Tensor, got numpy",
    ),
    "grey": (X[:, :1], X[:, :1], {}, ValueError, "got (2, 1, 6, 8, 10): grey volumes need grey='repeat'"),
    "channels": (X[:, :2], X[:, :2], {"grey": "repeat"}, ValueError, "got (2, 2, 6, 8, 10)"),
    "channels after depth": (
        X.transpose(1, 2),
        X.transpose(1, 2),
        {},
        ValueError,
        "expected (N, 3, D, H, W), got (2, 6, 3",
    ),
    "empty": (X[:, :, :0], X[:, :, :0], {}, ValueError, "got (2, 3, 0, 8, 10): there is nothing in it"),
    "numbers of volumes": (X, X[:1], {}, ValueError, "as many volumes, got 2 and 1"),
    "numbers of slices": (
        X,
        X[:, :, :5],
        {},
        ValueError,
        "axis 'depth': the volumes must have as many slices, got 6 and 5",
    ),
    "sizes of slices": (X, X[..., 1:], {"axes": "depth"}, ValueError, "must have one size, got 8 x 10 and 8 x 9"),
    "no axis": (X, X, {"axes": ()}, ValueError, "axes: expected one or more of 'depth', 'height', 'width', once each"),
    "twice": (X, X, {"axes": ["depth", "depth"]}, ValueError, "once each, got ['depth', 'depth']"),
    "unknown axis": (X, X, {"axes": ["depth", "time"]}, ValueError, "unknown axis 'time': expected one of 'depth'"),
    "a number": (X, X, {"axes": 2}, ValueError, "axes: expected one or more of"),
    "pool": (X, X, {"pool": "median"}, ValueError, "unknown pool 'median': expected one of 'mean', 'max'"),
    "metric": (X, X, {"metric": "psnr"}, ValueError, "unknown metric 'psnr'"),
    "video": (X, X, {"metric": DAMLPIPS(video=True)}, ValueError, "got a module with video=True"),
    "options": (X, X, {"metric": DAMLPIPS(), "grey": "repeat"}, TypeError, "a module brings its own, got grey"),
    "type": (X.long(), X.long(), {}, TypeError, "expected floats in value_range or uint8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_volumes_are_refused(case: str) -> None:
    x, y, options, kind, message = REFUSED[case]
    with pytest.raises(kind, match=re.escape(message)):
        volume(x, y, **options)


def test_slices_that_are_too_small_are_named_by_their_axis() -> None:
    metric = LPIPS(BACKBONE, heads="uniform")
    x = torch.rand(1, 3, 4, 16, 16)
    with pytest.raises(
        ValueError, match="slices along 'height': backbone 'tiny' needs at least 5 x 5 pixels, got 4 x 16"
    ):
        volume(x, x, metric=metric)
    assert volume(x, x, axes="depth", metric=metric) == 0
    assert volume(x, x, metric=LPIPS(BACKBONE, heads="uniform", resize=(16, 16))) == 0


def test_slices_have_no_reduction() -> None:
    with pytest.raises(TypeError, match="reduction: slices have a distance each"):
        slices(X, X, reduction="mean")
    with pytest.raises(ValueError, match="axes: expected one or more of"):
        slices(X, X, axis=["depth", "depth"])
