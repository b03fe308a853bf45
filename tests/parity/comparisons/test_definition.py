"""Each comparison equals its definition, arXiv 2207.02512, written out in loops over float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from damlpips import LPIPS
from tests.support import reference
from tests.support.reference import PLACELESS, SUMS, VARIANTS, rounded, tiny


def arranged(a: np.ndarray, part: str) -> list[list[float]]:
    """Return channels by places: as they are, each place with its channel's mean, or each channel sorted."""
    places = a.shape[1]
    return [
        {"spatial": list(channel), "mean": [sum(channel) / places] * places, "sort": sorted(channel)}[part]
        for channel in a.tolist()
    ]


def normalised(vector: list[float], channel_norm: bool) -> list[float]:
    """Return a vector over channels divided by its norm, by 1e-12 where the norm is less."""
    norm = max(math.sqrt(sum(v * v for v in vector)), 1e-12) if channel_norm else 1.0
    return [v / norm for v in vector]


def layer_by_loops(a: np.ndarray, b: np.ndarray, comparison: str, channel_norm: bool) -> float:
    """Return the distance of two maps (C, P), one part, place and channel at a time."""
    total = 0.0
    for part in comparison.split("+"):
        for u, v in zip(zip(*arranged(a, part), strict=True), zip(*arranged(b, part), strict=True), strict=True):
            left, right = normalised([*u], channel_norm), normalised([*v], channel_norm)
            total += sum((p - q) ** 2 for p, q in zip(left, right, strict=True)) / a.shape[1]
    return total


def by_loops(metric: LPIPS, x: Tensor, y: Tensor) -> Tensor:
    """Return (N, L) by loops, in float64, from the feature maps of a pair."""
    pairs = zip(metric.encode(x).features, metric.encode(y).features, strict=True)
    options = (metric.comparison, metric.channel_norm)
    layers = [
        [layer_by_loops(*(m.double().flatten(1).numpy() for m in maps), *options) for maps in zip(*pair, strict=True)]
        for pair in pairs
    ]
    return torch.tensor(layers, dtype=torch.float64).T


def against_the_loops(metric: LPIPS, size: int) -> None:
    x, y = reference.noise(2, size, size)
    with torch.no_grad():
        torch.testing.assert_close(metric.per_layer(x, y).double(), by_loops(metric, x, y), rtol=2e-5, atol=1e-7)
        metric, x, y = metric.double(), x.double(), y.double()
        expected = by_loops(metric, x, y)
        # the norm has 1e-10 added to it here, as in `lpips`, and is at least 1e-12 there
        torch.testing.assert_close(metric.per_layer(x, y), expected, rtol=1e-7, atol=0)
        torch.testing.assert_close(metric(x, y), expected.sum(1), rtol=1e-7, atol=0)


def test_each_comparison_is_its_definition(variant) -> None:
    against_the_loops(tiny(**variant), size=14)


def test_each_comparison_of_rectified_features_is_its_definition(variant, random_squeeze_weights) -> None:
    """Half of such features are zero: ties in every channel, places and channels that are dead."""
    against_the_loops(LPIPS("squeeze", weights=random_squeeze_weights, heads="uniform", **variant), size=24)


@pytest.mark.shared
@pytest.mark.parametrize("comparison", PLACELESS)
def test_alexnet_by_the_loops(comparison, alex_weights) -> None:
    against_the_loops(LPIPS("alex", weights=alex_weights, heads="uniform", comparison=comparison), size=40)


def test_published_lpips_is_the_default() -> None:
    x, y = reference.noise(2, 24, 24)
    assert torch.equal(tiny()(x, y), tiny(comparison="spatial", channel_norm=True)(x, y))
    assert len({float(tiny(comparison=c, channel_norm=n)(x, y)[0]) for c, n in VARIANTS}) == len(VARIANTS)


@pytest.mark.parametrize("channel_norm", [True, False])
@pytest.mark.parametrize("comparison", SUMS)
def test_a_sum_is_plain_in_every_layer(comparison, channel_norm) -> None:
    x, y = reference.noise(2, 24, 24)
    whole, *parts = (
        tiny(comparison=c, channel_norm=channel_norm).per_layer(x, y) for c in (comparison, *comparison.split("+"))
    )
    rounded(whole, sum(parts))


def test_rows_sum_to_scores(variant) -> None:
    x, y = reference.noise(3, 24, 24)
    metric = tiny(**variant)
    layers = metric.per_layer(x, y)
    assert layers.shape == (3, 2)
    assert torch.equal(layers.sum(1), metric(x, y))
