"""Images that are taken for those of another range: however they are run, and whatever they are handed over as."""

from typing import Any

import pytest
import torch
from torch import Tensor

from damlpips import LPIPS, DAMLPIPSMetric, LPIPSMetric, functional
from tests.support import reference

# float32, in another order of operations
SCORE = {"rtol": 1e-5, "atol": 1e-7}
NANO: dict[str, Any] = {"backbone": "nano", "heads": "uniform"}
SIGNED = (-1.0, 1.0)


def fed(**options: Any) -> LPIPS:
    return LPIPS(**{**NANO, "fed_as": SIGNED, **options})


def taken(x: Tensor, y: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """Return what a metric of images in [-1, 1] makes of images in [0, 1]: the mistake itself."""
    return LPIPS(**{**NANO, "value_range": SIGNED, **options})(x, y, mask=mask)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    x, y = ((255 * image).round() / 255 for image in reference.noise(2, 72, 80))
    return x, y


@pytest.mark.parametrize("as_bytes", [False, True], ids=["floats", "bytes"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": 64},
        {"deterministic": True},
        {"resize": 48},
        {"dtype": torch.float64},
        {"comparison": "spatial+sort"},
    ],
    ids=str,
)
def test_every_way_of_running(pair: tuple[Tensor, Tensor], as_bytes: bool, options: dict[str, Any]) -> None:
    given = [(255 * image).round().to(torch.uint8) for image in pair] if as_bytes else pair
    # resampled bytes are rounded to bytes
    tolerance = {"rtol": 5e-3, "atol": 1e-5} if as_bytes and "resize" in options else SCORE
    torch.testing.assert_close(fed(**options)(*given), taken(*pair, **options), **tolerance)


@pytest.mark.parametrize("as_bytes", [False, True], ids=["floats", "bytes"])
def test_every_form(pair: tuple[Tensor, Tensor], as_bytes: bool) -> None:
    x, y = [(255 * image).round().to(torch.uint8) for image in pair] if as_bytes else pair
    metric, expected = fed(), taken(*pair)
    torch.testing.assert_close(metric(x, metric.encode(y)), expected, **SCORE)
    for _ in range(2):
        torch.testing.assert_close(metric(x, y, ["a", "b"]), expected, **SCORE)
    torch.testing.assert_close(functional.lpips(x, y, **NANO, fed_as=SIGNED), expected, **SCORE)
    torch.testing.assert_close(functional.pairwise(x, y, metric=metric).diagonal(), expected, **SCORE)
    video = fed(video=True)(x[None], y[None])
    torch.testing.assert_close(video, expected.mean()[None], **SCORE)
    wide = LPIPS(**NANO, value_range=SIGNED)
    torch.testing.assert_close(metric.spatial_map(x, y), wide.spatial_map(*pair), rtol=1e-4, atol=1e-6)


def test_with_a_mask(pair: tuple[Tensor, Tensor]) -> None:
    mask = torch.zeros(2, 1, 72, 80, dtype=torch.bool)
    mask[..., 10:60, 5:70] = True
    torch.testing.assert_close(fed()(*pair, mask=mask), taken(*pair, mask=mask), **SCORE)


def test_any_ranges() -> None:
    """Of x in [a, b], taken for [c, d]: the network sees (x - c) / (d - c)."""
    x, y = (3 + 4 * image for image in reference.noise(2, 40, 40))
    found = fed(value_range=(3, 7), fed_as=(1, 11), check_values=True)(x, y)
    torch.testing.assert_close(found, LPIPS(**NANO)((x - 1) / 10, (y - 1) / 10), **SCORE)
    as_bytes = [((image - 3) / 4 * 255).round().to(torch.uint8) for image in (x, y)]
    torch.testing.assert_close(fed(value_range=(3, 7), fed_as=(1, 11))(*as_bytes), found, rtol=0.01, atol=1e-5)


def test_metrics_of_unequal_ranges_share_no_pass(pair: tuple[Tensor, Tensor]) -> None:
    from torchmetrics import MetricCollection

    both = MetricCollection({"fed": LPIPSMetric(**NANO, fed_as=SIGNED), "plain": LPIPSMetric(**NANO)})
    both.update(*pair)
    found = both.compute()
    torch.testing.assert_close(found["fed"], taken(*pair).mean(), **SCORE)
    torch.testing.assert_close(found["plain"], LPIPS(**NANO)(*pair).mean(), **SCORE)


def test_values_are_checked_against_the_range_that_they_are_in(pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    with pytest.raises(ValueError, match=r"expected values in \(0\.0, 1\.0\), got -1"):
        fed(check_values=True)(2 * x - 1, y)


@pytest.mark.parametrize("value", [(1, 1), (1, 0), (0, float("inf")), "wide", 3, (1, 2, 3)])
def test_bad_ranges_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="fed_as: expected"):
        fed(fed_as=value)


def test_the_own_range_says_nothing_new() -> None:
    plain = LPIPS(**NANO)
    assert fed(fed_as=(0, 1)).settings == plain.settings
    assert fed(fed_as=(0, 1)).describe() == plain.describe()
    with pytest.raises(TypeError, match="unexpected keyword argument 'fed_as'"):
        DAMLPIPSMetric(fed_as=SIGNED)
