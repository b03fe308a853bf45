"""What holds of every pair of images: identity, symmetry, sign, independence of the batch, finite gradients."""

from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from damlpips import DAMLPIPS, LPIPS, Backbone
from tests.support import reference
from tests.support.reference import Tiny, tiny

# Few examples of small images: each runs a network. The fixtures are the same for every example.
few = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])

METRICS = {
    "lpips-tiny": lambda _: tiny(),
    "damlpips-tiny": lambda _: DAMLPIPS(Backbone(Tiny(), min_size=5)),
    "lpips-nano": lambda _: LPIPS("nano", heads="uniform"),
    "damlpips-nano": lambda _: DAMLPIPS(),
    "damlpips-nano:1": lambda _: DAMLPIPS(version=1),
    "lpips-alex": lambda weights: LPIPS("alex", weights=weights),
    "damlpips-alex": lambda weights: DAMLPIPS("alex", weights=weights),
}
LARGEST = 48


@pytest.fixture(scope="module", params=METRICS)
def metric(request, random_alex_weights) -> nn.Module:
    return METRICS[request.param](random_alex_weights)


@cache
def texture(seed: int) -> Tensor:
    return torch.rand(4, 3, LARGEST, LARGEST, generator=torch.Generator().manual_seed(seed))


@st.composite
def content(draw, n: int, height: int, width: int) -> Tensor:
    """A batch of images of one kind, perhaps with a constant region."""
    kind = draw(st.sampled_from(["noise", "faint", "constant", "black", "steps", "smooth"]))
    noise = texture(draw(st.integers(0, 3)))[:n, :, :height, :width].clone()
    level = draw(st.floats(0, 1, width=32))
    x = {
        "noise": noise,
        "faint": 0.5 + 1e-3 * (noise - 0.5),
        "constant": torch.full_like(noise, level),
        "black": torch.zeros_like(noise),
        "steps": (noise > level).float(),
        "smooth": torch.linspace(0, level, width).expand_as(noise).clone(),
    }[kind]
    if draw(st.booleans()):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        x[..., top:, left:] = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return x


@st.composite
def pairs(draw, least: int, batch: int | None = None) -> tuple[Tensor, Tensor]:
    n = batch or draw(st.integers(1, 3))
    height, width = draw(st.integers(least, LARGEST)), draw(st.integers(least, LARGEST))
    return draw(content(n, height, width)), draw(content(n, height, width))


def near(found: Tensor, expected: Tensor) -> None:
    """Compare what differs by the order of float32 sums: convolutions are blocked by the size of the batch.

    1e-6 beside 1e-4: differences of features that nearly agree are what rounding left of them.
    """
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@few
@given(data=st.data())
def test_identity(metric, data) -> None:
    """Zero, or what the last bit makes of it: exponentials are rounded otherwise in vectors than one by one."""
    x, _ = data.draw(pairs(metric.source.min_size))
    assert (metric(x, x).abs() <= 1e-11).all()
    assert (metric(x, x.clone()).abs() <= 1e-11).all()
    if metric.source.name == "nano":  # nothing but sums, products and roots
        assert torch.equal(metric(x, x), torch.zeros(len(x)))


@few
@given(data=st.data())
def test_symmetry_and_sign(metric, data) -> None:
    x, y = data.draw(pairs(metric.source.min_size))
    scores = metric(x, y)
    near(metric(y, x), scores)
    assert scores.shape == (len(x),)
    assert torch.isfinite(scores).all()
    assert (scores >= 0).all()
    assert (metric.per_layer(x, y) >= 0).all()
    assert (metric.spatial_map(x, y) >= 0).all()


@few
@given(data=st.data())
def test_a_score_does_not_depend_on_its_batch(metric, data) -> None:
    x, y = data.draw(pairs(metric.source.min_size, batch=3))
    scores, layers = metric(x, y), metric.per_layer(x, y)
    for n in range(3):
        one = slice(n, n + 1)
        near(metric(x[one], y[one]), scores[one])
        near(metric.per_layer(x[one], y[one]), layers[one])
    near(torch.cat([metric(x[:2], y[:2]), metric(x[2:], y[2:])]), scores)
    near(metric(x.flip(0), y.flip(0)), scores.flip(0))


@few
@given(data=st.data())
def test_finite_gradients(metric, data) -> None:
    x, y = data.draw(pairs(metric.source.min_size))
    x, y = x.requires_grad_(), y.requires_grad_()
    for gradient in torch.autograd.grad(metric(x, y).sum(), [x, y]):
        assert torch.isfinite(gradient).all()


@few
@given(data=st.data())
def test_encoded_images_score_the_same(metric, data) -> None:
    x, y = data.draw(pairs(metric.source.min_size))
    near(metric(metric.encode(x), y), metric(x, y))
    near(metric(x, metric.encode(y)), metric(x, y))


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
def test_more_distortion_scores_higher(kind) -> None:
    """The score orders the steps of one distortion of a picture with flat and busy parts."""
    metric = kind("nano", heads="uniform") if kind is LPIPS else kind("nano")
    x = torch.linspace(0.2, 0.8, LARGEST).expand(1, 3, LARGEST, LARGEST).clone()
    x[..., 12:36, 12:36] = texture(0)[:1, :, 12:36, 12:36]
    noise = texture(1)[:1] - 0.5
    scores = [metric(x, (x + strength * noise).clamp(0, 1)).item() for strength in (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


def test_references_are_not_constant() -> None:
    """The properties above would hold of a score that is always zero."""
    x, y = reference.noise(2, 32, 32)
    for name in ("lpips-tiny", "damlpips-tiny", "lpips-nano", "damlpips-nano"):
        assert (METRICS[name](None)(x, y) > 1e-3).all()
