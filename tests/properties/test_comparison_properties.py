"""What holds of each comparison of two feature maps, and of the scores of images."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from damlpips.ops import distance
from tests.support import reference
from tests.support.reference import COMPARISONS, PLACELESS, rounded, tiny


@st.composite
def maps(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Two feature maps of one shape, of any sign, with ties and zeros; sums of such numbers are exact in any order."""
    shape = (draw(st.integers(1, 2)), *(draw(st.integers(1, 4)) for _ in range(3)))
    value = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-512, 512).map(lambda k: k / 64))
    a, b = (draw(arrays.arrays(np.float64, shape, elements=value)) for _ in range(2))
    return torch.from_numpy(a), torch.from_numpy(b)


def distances(a: Tensor, b: Tensor, comparison: str, channel_norm: bool) -> Tensor:
    parts = distance.COMPARISONS[comparison]
    found = [distance.lpips_map(a, b, None, arrange=part, channel_norm=channel_norm) for part in parts]
    return torch.stack([distance.pool(d) for d in found]).sum(0)


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@given(pair=maps())
def test_identity_symmetry_and_sign(variant, pair) -> None:
    a, b = pair
    options = tuple(variant.values())
    assert torch.equal(distances(a, a, *options), torch.zeros(len(a), dtype=a.dtype))
    assert torch.equal(distances(a, b, *options), distances(b, a, *options))
    assert (distances(a, b, *options) >= 0).all()


@pytest.mark.parametrize("channel_norm", [True, False])
@pytest.mark.parametrize("comparison", PLACELESS)
@given(pair=maps(), data=st.data())
def test_places_do_not_matter(comparison, channel_norm, pair, data) -> None:
    """Also where each channel's places are permuted otherwise."""
    a, b = pair
    moved = a.flatten(2).clone()
    for image, channel in itertools.product(range(a.shape[0]), range(a.shape[1])):
        moved[image, channel] = moved[image, channel, data.draw(st.permutations(range(moved.shape[2])))]
    moved = moved.view_as(a)
    near(distances(moved, b, comparison, channel_norm), distances(a, b, comparison, channel_norm))
    near(distances(moved, a, comparison, channel_norm), torch.zeros(len(a), dtype=a.dtype))


@given(pair=maps())
def test_raw_means_differ_least_and_raw_places_most(pair) -> None:
    """Of all ways to match the features of two channels sorting has the least squares; a mean of squares is no less
    than the square of the mean."""
    mean, rank, place = (distances(*pair, comparison, False) for comparison in ("mean", "sort", "spatial"))
    assert (mean <= rank * (1 + 1e-9) + 1e-12).all()
    assert (rank <= place * (1 + 1e-9) + 1e-12).all()


@given(pair=maps(), power=st.integers(-3, 3))
def test_channel_normalisation_forgets_contrast(variant, pair, power) -> None:
    """Features are loud and of one sign: 1e-10 is added to a norm, and means that cancel are made of rounding."""
    (a, b), scale = (1024 * m.abs() for m in pair), 2.0**power
    found, expected = distances(a * scale, b * scale, *variant.values()), distances(a, b, *variant.values())
    factor = 1 if variant["channel_norm"] else scale**2
    torch.testing.assert_close(found, expected * factor, rtol=1e-5, atol=1e-9)


@given(pair=maps())
def test_one_place_and_equal_places_leave_nothing_to_arrange(pair) -> None:
    for a, b in ([m[:, :, :1, :1] for m in pair], [m[:, :, :1, :1].expand_as(m) for m in pair]):
        for channel_norm in (True, False):
            spatial, mean, rank = (distances(a, b, c, channel_norm) for c in ("spatial", "mean", "sort"))
            near(rank, spatial)
            near(mean, spatial)


@pytest.mark.parametrize("channel_norm", [True, False])
@pytest.mark.parametrize("comparison", COMPARISONS)
def test_gradients_are_those_of_finite_differences(comparison, channel_norm) -> None:
    a, b = (torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: distances(a, b, comparison, channel_norm), (a, b))


@given(pair=maps())
def test_gradients_are_finite_at_ties_and_dead_features(variant, pair) -> None:
    a, b = (m.clone().requires_grad_() for m in pair)
    for gradient in torch.autograd.grad(distances(a, b, *variant.values()).sum(), [a, b]):
        assert torch.isfinite(gradient).all()


# --- images

few = settings(max_examples=8)


@few
@given(seed=st.integers(0, 99), height=st.integers(5, 20), width=st.integers(5, 20), cut=st.integers(1, 3))
def test_a_score_does_not_depend_on_its_batch(variant, seed, height, width, cut) -> None:
    x, y = reference.noise(4, height, width, seed)
    metric = tiny(**variant)
    scores = metric(x, y)
    assert scores.shape == (4,)
    rounded(torch.cat([metric(x[:cut], y[:cut]), metric(x[cut:], y[cut:])]), scores)
    for n in range(4):
        rounded(metric(x[n : n + 1], y[n : n + 1]), scores[n : n + 1])
