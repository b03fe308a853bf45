"""Large images are looked at from farther away: DAMLPIPS averages them down to a shorter side of 256 pixels."""

import pytest
import torch
from torch.nn import functional as F

from damlpips import DAMLPIPS, LPIPS, Backbone
from tests.support import reference
from tests.support.reference import Tiny


def tiny(**options) -> DAMLPIPS:
    return DAMLPIPS(Backbone(Tiny(), min_size=5), **options)


def down(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size, mode="bilinear", antialias=True)


@pytest.mark.parametrize(("size", "seen"), [((40, 64), (20, 32)), ((64, 41), (31, 20)), ((20, 90), (20, 90))])
def test_large_images_are_averaged_down(size, seen) -> None:
    x, y = reference.noise(2, *size)
    metric, own = tiny(viewing_side=20), tiny(viewing_side=None)
    assert torch.equal(metric(x, y), own(down(x, seen), down(y, seen)))
    assert metric.encode(x).size == size
    assert metric.encode(x).seen.shape[2:] == seen
    for pair in ((metric.encode(x), y), (x, metric.encode(y))):
        torch.testing.assert_close(metric(*pair), metric(x, y), rtol=1e-5, atol=0)  # another batch size


def test_small_images_are_left_alone() -> None:
    x, y = reference.noise(2, 256, 300)
    assert torch.equal(tiny()(x, y), tiny(viewing_side=None)(x, y))


def test_bytes_and_floats_of_large_images_score_the_same() -> None:
    """Averages of bytes are not rounded to bytes."""
    x, y = ((255 * image).round().to(torch.uint8) for image in reference.noise(2, 50, 60))
    expected = tiny(viewing_side=20)(x.double().float() / 255, y.float() / 255)
    torch.testing.assert_close(tiny(viewing_side=20)(x, y), expected, rtol=1e-5, atol=0)
    signed = tiny(viewing_side=20, value_range=(-1.0, 1.0))
    torch.testing.assert_close(signed(x, y), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(signed(x / 127.5 - 1, y / 127.5 - 1), expected, rtol=1e-5, atol=0)


def test_map_and_gradient_have_the_size_of_the_image() -> None:
    x, y = reference.noise(1, 50, 60)
    metric = tiny(viewing_side=20)
    found = metric.spatial_map(x, y)
    assert found.shape == (1, 1, 50, 60)
    torch.testing.assert_close(found.mean((1, 2, 3)), metric(x, y), rtol=1e-5, atol=0)
    metric(x.requires_grad_(), y).sum().backward()
    assert (x.grad != 0).all()


def test_encoded_images_are_exchanged_where_they_were_seen_alike() -> None:
    backbone = Backbone(Tiny(), min_size=5)
    lpips, damlpips = LPIPS(backbone, heads="uniform"), DAMLPIPS(backbone, viewing_side=20)
    x, y = reference.noise(1, 20, 30)
    torch.testing.assert_close(damlpips(lpips.encode(x), y), damlpips(x, y), rtol=1e-5, atol=0)
    x, y = reference.noise(1, 40, 40)
    with pytest.raises(ValueError, match="first image: was encoded at 40 x 40 pixels, this module looks at 20 x 20"):
        damlpips(lpips.encode(x), y)
    with pytest.raises(ValueError, match="second image: was encoded at 20 x 20 pixels, this module looks at 40 x 40"):
        lpips(x, damlpips.encode(y))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (8, ValueError, "viewing_side: expected None or at least 16 pixels, .*'squeeze' takes, got 8"),
        (0, ValueError, "viewing_side: .* got 0"),
        (256.0, TypeError, r"viewing_side: expected None or a number of pixels, got 256\.0"),
        (True, TypeError, "viewing_side: .* got True"),
        ("256", TypeError, "viewing_side: .* got '256'"),
    ],
)
def test_bad_viewing_sides(value, error, message) -> None:
    with pytest.raises(error, match=message):
        DAMLPIPS(Backbone(Tiny(), min_size=16, name="squeeze"), viewing_side=value)
