"""DAMLPIPS's layer 0, the image in adapted colours, and the statistics that every layer is also compared by."""

import pytest
import torch

from damlpips import DAMLPIPS, Backbone
from damlpips.ops.colour import TOE, oklab
from tests.support import reference
from tests.support.reference import Tiny


def colour(r: float, g: float, b: float) -> torch.Tensor:
    return torch.tensor([r, g, b]).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        # the values of the colour space's author for these corners of sRGB
        ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (0.62796, 0.22486, 0.12585)),
        ((0.0, 1.0, 0.0), (0.86644, -0.23389, 0.17950)),
        ((0.0, 0.0, 1.0), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_of_known_colours(rgb, lab) -> None:
    torch.testing.assert_close(oklab(colour(*rgb)), colour(*lab), rtol=0, atol=2e-5)


def test_oklab_is_smooth_at_its_joints_and_beyond() -> None:
    """Values and slopes meet where a power goes over into a line, and stay finite outside of [0, 1]."""
    x = torch.linspace(-0.5, 1.5, 200_001, dtype=torch.float64)
    images = x.reshape(1, 1, -1, 1).expand(-1, 3, -1, -1).clone().requires_grad_()
    lightness = oklab(images)[0, 0, :, 0]
    (slope,) = torch.autograd.grad(lightness.sum(), images)
    slope = slope.sum(1).flatten()
    assert torch.isfinite(slope).all()
    assert (lightness.diff() > 0).all()
    # sRGB's own two pieces have slopes that differ by 1 per cent where they meet
    assert (slope.diff().abs() < 0.02 * slope[:-1].abs().clamp(min=0.1) + 2e-3).all()
    assert 0.13 < lightness[50_000] < 0.14  # black: the line that meets the root at the toe is above zero, at 4/29
    assert pytest.approx(0.008856, rel=1e-3) == TOE


def test_slopes_of_oklab_of_first_and_second_order() -> None:
    """Beside finite differences; below black, in the dark lines, on the curves, and above white."""
    x = torch.tensor([-0.3, 0.01, 0.03, 0.2, 0.7, 1.3], dtype=torch.float64)
    images = torch.cartesian_prod(x, x, x).T.reshape(1, 3, 12, 18).requires_grad_()
    assert torch.autograd.gradcheck(oklab, images)
    assert torch.autograd.gradgradcheck(oklab, images[..., :2, :5].detach().requires_grad_())


def test_values_and_slopes_of_oklab_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(5, 3, 6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    whole = oklab(images)
    (slope,) = torch.autograd.grad(whole.square().sum(), images)
    monkeypatch.setattr("damlpips.ops.execution.BLOCK", 2 * 3 * 6 * 4 // torch.get_num_threads())
    parts = oklab(images)
    # PyTorch takes the last few of a block's values one by one, by another routine that rounds otherwise
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), images)[0], slope, rtol=1e-5, atol=1e-6)


def test_the_graph_of_oklab_keeps_the_images_alone() -> None:
    kept = []
    images = torch.rand(2, 3, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        oklab(images).sum().backward()
    assert [t.data_ptr() for t in kept] == [images.data_ptr()]
    assert torch.isfinite(images.grad).all()


def test_an_even_tint_counts_less_than_an_uneven_one() -> None:
    x, _ = reference.noise(1, 32, 32)
    x = 0.25 + 0.5 * x
    tint = 0.1 * colour(1.0, -1.0, 0.0)
    halves = torch.ones(1, 1, 32, 32)
    halves[..., 16:] = -1
    metric = DAMLPIPS()
    even, uneven = (metric.per_layer(x, x + t)[0, 0] for t in (tint.expand_as(x), tint * halves))
    assert 0 < 2 * even < uneven


def test_flat_images_of_two_colours_differ() -> None:
    """Without any contrast, and though most of an even tint is forgiven."""
    black, white = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    assert DAMLPIPS()(black, white) > 0.3
    assert DAMLPIPS()(white, white) == 0


def test_gradients_are_finite_at_black_flat_and_equal_images() -> None:
    for value in (0.0, 0.04045, 0.5, 1.0):
        x = torch.full((1, 3, 32, 32), value, requires_grad=True)
        for other in (x.detach().clone(), torch.zeros_like(x), reference.noise(1, 32, 32)[0]):
            for metric in (DAMLPIPS(), DAMLPIPS(Backbone(Tiny()))):
                (gradient,) = torch.autograd.grad(metric(x, other).sum(), x)
                assert torch.isfinite(gradient).all()


def test_moved_texture_is_closer_than_another_texture() -> None:
    """Place by place they are as far; their statistics tell them apart."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(1, 3, 64, 64, generator=generator)
    coarse = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16, generator=generator), (64, 64))
    metric = DAMLPIPS()
    moved, other = metric(fine, fine.roll((11, 7), (2, 3))), metric(fine, coarse)
    assert moved < 0.9 * other


def test_a_strong_spot_counts_more_than_the_same_spread_out() -> None:
    """Of two differences with one mean square, the one in a corner is farther."""
    x = torch.full((1, 3, 64, 64), 0.5)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator)
    corner = torch.zeros_like(x)
    corner[..., :16, :16] = (
        4 * noise[..., :16, :16] * (noise.square().mean() / noise[..., :16, :16].square().mean()).sqrt()
    )
    spread, spot = 0.02 * noise, 0.02 * corner
    torch.testing.assert_close(spread.square().mean(), spot.square().mean())
    for version, least in ((1, 1.3), (2, 1.2)):
        metric = DAMLPIPS(version=version)
        image = metric.per_layer(x, x + spread)[0, 0], metric.per_layer(x, x + spot)[0, 0]
        assert image[1] > least * image[0]
