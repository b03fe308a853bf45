"""Pure functions on feature maps (N, C, H, W): normalise, weigh, compare, pool, fuse.

A place p is a row and a column of a map. Whatever precision the backbone ran in, every function computes in float32 or
above, so that the sum of squares of half-precision features cannot overflow.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from damlpips.ops import coverage

# Added to the norm, outside the root, as in published LPIPS scores.
NORM_EPS = 1e-10
# DAMLPIPS: gives a layer without energy weights of one instead of 0/0. The features of any visible pattern have
# energies many orders of magnitude above it.
ENERGY_EPS = 1e-10
# DAMLPIPS: the weight of a channel grows as its energy falls, but no further below a thousandth of the layer's mean.
CHANNEL_FLOOR = 1e-3
# DAMLPIPS: the fusion turns from linear to logarithmic near d = 1/20.
FUSION_GAIN = 20.0
# DAMLPIPS: 1 would be the mean of a map, infinity its maximum. Applied to squared differences, 2 is the exponent 4 of
# models of vision (Watson, SPIE 1913, 1993).
PEAK_POWER = 2.0
# DAMLPIPS: the weight of a layer's statistics; the rest is that of its places.
TEXTURE_SHARE = 0.2
# DAMLPIPS: the weight of the image itself; the rest is the network's.
IMAGE_SHARE = 0.5
# DAMLPIPS: the least variance of a channel, relative to its power: ten times the rounding error of float32.
SPREAD_FLOOR = 1e-6


def working(a: Tensor) -> Tensor:
    """Return the features in at least float32."""
    return a if a.dtype in (torch.float32, torch.float64) else a.float()


def unit(a: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Divide the features at each place by their norm over channels: a / (|a| + 1e-10).

    Where all channels are zero, the result is zero and the divisor is one: the root has no derivative at zero, and a
    factor of 1 / 1e-10 would make gradients useless.
    """
    a = working(a)
    return a / divisor(a.square().sum(1, keepdim=True))


def divisor(energy: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Return the number by which `unit` divides the features at each place, from the sum of their squares."""
    dead = energy == 0
    norm = torch.where(dead, 1.0, energy).sqrt()
    return torch.where(dead, 1.0, norm + NORM_EPS)


def in_place(a: Float[Tensor, "n c h w"], _mask: Tensor | None = None) -> Float[Tensor, "n c h w"]:
    """Return the features as they are: each place is compared with the same place."""
    return a


def averaged(a: Float[Tensor, "n c h w"], mask: Tensor | None = None) -> Float[Tensor, "n c 1 1"]:
    """Average each channel over places, or over those that a mask covers: mean is compared with mean."""
    a = working(a)
    return a.mean((2, 3), keepdim=True) if mask is None else coverage.mean(a, mask)[:, :, None, None]


def ranked(a: Float[Tensor, "n c h w"], mask: Tensor | None = None) -> Float[Tensor, "n c p 1"]:
    """Sort each channel over places, the lowest first: rank is compared with rank."""
    if mask is not None:
        raise ValueError("a place that a mask covers in part has no rank")
    # stable, so that equal features, such as a rectifier's zeros, get the same gradients on every device;
    # in float32, since not every device sorts half precision
    return working(a).flatten(2).sort(dim=2, stable=True).values[..., None]


# of the features of a layer, and of a mask on their grid
Arrangement = Callable[[Tensor, Tensor | None], Tensor]

# What is compared, by the names of arXiv 2207.02512. The distances of several arrangements are added.
COMPARISONS: dict[str, tuple[Arrangement, ...]] = {
    "spatial": (in_place,),
    "mean": (averaged,),
    "sort": (ranked,),
    "spatial+mean": (in_place, averaged),
    "spatial+sort": (in_place, ranked),
}


def lpips_map(
    a: Float[Tensor, "n c h w"],
    b: Float[Tensor, "n c h w"],
    head: Float[Tensor, " c"] | None,
    *,
    arrange: Arrangement = in_place,
    channel_norm: bool = True,
    mask: Float[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, "n 1 p q"]:
    """Compare two feature maps place by place: sum_c w_c (a^_c - b^_c)^2, with w = 1 where `head` is None.

    a^ = unit(arrange(a)), or arrange(a) without `channel_norm`: normalisation follows averaging or sorting. With a mask
    averages are of what it covers.
    """
    scale = unit if channel_norm else working
    difference = (scale(arrange(a, mask)) - scale(arrange(b, mask))).square()
    if head is not None:
        difference = difference * head.to(difference)[None, :, None, None]
    return difference.sum(1, keepdim=True)


def pool(d: Float[Tensor, "n 1 h w"], mask: Float[Tensor, "n 1 h w"] | None = None) -> Float[Tensor, " n"]:
    """Average a map over its places, or over those that a mask covers."""
    return d.mean((1, 2, 3)) if mask is None else coverage.mean(d, mask)[:, 0]


def upsample(d: Float[Tensor, "n 1 h w"], size: tuple[int, int]) -> Float[Tensor, "n 1 H W"]:
    """Resize a map to the size of the image, bilinearly, corners not aligned."""
    return F.interpolate(d, size=size, mode="bilinear", align_corners=False)


class Statistics(NamedTuple):
    """Sums over a feature map that several functions need; sharing its squares halves their cost in training.

    Attributes:
        energy: the sum of squares over channels at each place, (N, 1, H, W).
        mean, power: the mean and the mean square over places of each channel, (N, C).
    """

    energy: Tensor
    mean: Tensor
    power: Tensor


def statistics(a: Float[Tensor, "n c h w"], mask: Float[Tensor, "n 1 h w"] | None = None) -> Statistics:
    """Return the energy at each place, and the mean and the power of each channel, over what a mask covers."""
    a = working(a)
    square = a.square()
    return Statistics(square.sum(1, keepdim=True), coverage.mean(a, mask), coverage.mean(square, mask))


class Adaptive(NamedTuple):
    """Weights that depend on the pair.

    With q = (a^2 + b^2) / 2, e_p its sum over channels, E the mean of e over places, E_c the mean of q_c over places
    and m the mean of E_c over channels:

    place: 1 / (rho e_p + (1 - rho) E + eps): normalised by the energy at the place itself, with the share `rho`, and by
    that of the whole image.
    channel: (m / (E_c + 0.001 m))^gamma. A channel that responds to everything counts less.
    """

    rho: float
    gamma: float

    def weights(self, a: Statistics, b: Statistics) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n c"]]:
        """Return the weights that DAMLPIPS gives to each place and to each channel."""
        by_place, by_channel = (a.energy + b.energy) / 2, (a.power + b.power) / 2
        everywhere = by_channel.sum(1)[:, None, None, None]
        mean = by_channel.mean(1, keepdim=True)
        place = 1 / (self.rho * by_place + (1 - self.rho) * everywhere + ENERGY_EPS)
        channel = ((mean + ENERGY_EPS) / (by_channel + CHANNEL_FLOOR * mean + ENERGY_EPS)) ** self.gamma
        return place, channel


class Fixed(NamedTuple):
    """Weights that are the same for every pair: 1 / energy for every place, 1 for every channel."""

    energy: float

    def weights(self, a: Statistics, _b: Statistics) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n c"]]:
        """Return the weights of places and of channels."""
        one = torch.ones((), device=a.mean.device, dtype=a.mean.dtype)
        return (one / self.energy).expand(a.energy.shape), one.expand(a.mean.shape)


def adaptive_map(
    a: Float[Tensor, "n c h w"],
    b: Float[Tensor, "n c h w"],
    place: Float[Tensor, "n 1 h w"],
    channel: Float[Tensor, "n c"] | None,
) -> Float[Tensor, "n 1 h w"]:
    """Compare two feature maps, s_p sum_c g_c (a_c - b_c)^2, with weights s of places and g of channels (None: 1)."""
    difference = (working(a) - working(b)).square()
    if channel is not None:
        difference = difference * channel[:, :, None, None]
    return place * difference.sum(1, keepdim=True)


def peak_map(d: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Return (d / max d)^2: what each place contributes to `peak_pool`; zero where the whole map is zero."""
    return (d / _highest(d)).pow(PEAK_POWER)


def peak_pool(d: Float[Tensor, "n 1 h w"], mask: Float[Tensor, "n 1 h w"] | None = None) -> Float[Tensor, " n"]:
    """Pool a map over its places with Minkowski's mean, (mean_p d_p^2)^(1/2), in which strong differences count more.

    With a mask it is that of the places that it covers; elsewhere the map is 0. It lies between the mean and the
    maximum. Where the map is zero everywhere, so are its value and its gradient.
    """
    highest = _highest(d)
    # the root has no derivative at 0; the clamp changes no other mean, since one place has the value 1
    mean = pool((d / highest).pow(PEAK_POWER), mask).clamp(min=_least(d))
    return highest.flatten() * mean.pow(1 / PEAK_POWER)


def peak_weight(d: Float[Tensor, "n 1 h w"], pooled: Float[Tensor, " n"]) -> Float[Tensor, "n 1 h w"]:
    """Return w with mean_p w_p d_p = pooled = peak_pool(d): d_p / pooled, or 1 where the map is zero everywhere.

    Divided by the number of places, it is the derivative of `peak_pool`.
    """
    pooled = pooled[:, None, None, None]
    safe = torch.where(pooled > 0, pooled, 1.0)
    return torch.where(pooled > 0, (d / safe) ** (PEAK_POWER - 1), 1.0)


def _highest(d: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 1 1"]:
    """Return the maximum of each map, never zero: relative to it, powers of small numbers do not underflow."""
    return d.detach().amax((1, 2, 3), keepdim=True).clamp(min=_least(d))


def _least(d: Tensor) -> float:
    """Return the least positive number of full precision."""
    return torch.finfo(d.dtype).tiny


def texture_distance(
    a: Statistics,
    b: Statistics,
    place: Float[Tensor, "n 1 h w"],
    channel: Float[Tensor, "n c"],
    mask: Float[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, " n"]:
    """Compare the mean and the spread of each channel over places, wherever in the image its features are.

    ::

        s sum_c g_c [ (mean_p a_c - mean_p b_c)^2 + (std_p a_c - std_p b_c)^2 ],   1 / s = mean_p 1 / s_p

    The bracket is the squared 2-Wasserstein distance between two normal distributions with these means and spreads.
    """
    return (texture_differences(a, b) * channel).sum(1) / pool(place.reciprocal(), mask)


def texture_differences(a: Statistics, b: Statistics) -> Float[Tensor, "n c"]:
    """Return the bracket of `texture_distance` for each channel."""
    return moment_differences(torch.stack([a.mean, b.mean]), torch.stack([a.power, b.power]))


def moment_differences(mean: Float[Tensor, "2 n c"], power: Float[Tensor, "2 n c"]) -> Float[Tensor, "n c"]:
    """Do what `texture_differences` does, with the mean and the power of both."""
    both = torch.stack([mean, spread(mean, power)])
    return (both[:, 0] - both[:, 1]).square().sum(0)


def spread(mean: Float[Tensor, "*n c"], power: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """Return the standard deviation of each channel over places, at least a thousandth of its root mean square."""
    # the root has no derivative at 0, and a difference below a millionth of the power is mostly rounding error
    return ((power - mean.square()).clamp(min=0) + SPREAD_FLOOR * power + ENERGY_EPS**2).sqrt()


class Comparison(NamedTuple):
    """The comparison of two feature maps of one layer: weights, the map of distances, and the two pooled distances."""

    place: Tensor
    channel: Tensor
    map: Tensor
    structure: Tensor
    texture: Tensor


def compare(
    a: Float[Tensor, "n c h w"],
    b: Float[Tensor, "n c h w"],
    weighing: Adaptive | Fixed,
    mask: Float[Tensor, "n 1 h w"] | None = None,
) -> Comparison:
    """Compare the feature maps of one layer, or what a mask covers of them, as DAMLPIPS does."""
    of_a, of_b = statistics(a, mask), statistics(b, mask)
    place, channel = weighing.weights(of_a, of_b)
    d = coverage.covered(adaptive_map(a, b, place, channel if isinstance(weighing, Adaptive) else None), mask)
    return Comparison(place, channel, d, peak_pool(d, mask), texture_distance(of_a, of_b, place, channel, mask))


def share(d: Tensor, gain: float | None = None) -> Tensor:
    """Return log(1 + k d) / log(1 + k): 1 where d = 1, compressed above, so that no layer drowns out the others.

    Args:
        gain: k; None: 20.
    """
    gain = FUSION_GAIN if gain is None else gain
    return torch.log1p(gain * d) / math.log1p(gain)


def fuse(structure: Float[Tensor, "n l"], texture: Float[Tensor, "n l"]) -> Float[Tensor, "n l"]:
    """Return what each layer adds to DAMLPIPS; the first layer is the image itself, the others are the network's.

    ::

        w_l [ (1 - kappa) share(structure_l) + kappa share(texture_l) ],   w_0 = lambda, w_l = (1 - lambda) / (L - 1)
    """
    layers = structure.shape[1]
    mixed = (1 - TEXTURE_SHARE) * share(structure) + TEXTURE_SHARE * share(texture)
    image, network = mixed.split([1, layers - 1], dim=1)
    return torch.cat([IMAGE_SHARE * image, (1 - IMAGE_SHARE) / (layers - 1) * network], 1)


# Distances of structure and of texture, (N, L) each, to what each layer adds to the score.
Fuse = Callable[[Tensor, Tensor], Tensor]


def fusion_weight(
    structure: Float[Tensor, "n l"], added: Float[Tensor, "n l"], fuse: Fuse = fuse
) -> Float[Tensor, "n l"]:
    """Return added / structure, the weight that fusion gave to each layer's distance, or its limit near 0."""
    tiny = structure < 1e-8  # where log(1 + 20 d) / d is 20 in float32
    slope = fuse(torch.full_like(structure, 1e-8), torch.zeros_like(structure)) / 1e-8
    return torch.where(tiny, slope, added / torch.where(tiny, 1.0, structure))


def reduce(scores: Float[Tensor, " n"], reduction: str) -> Tensor:
    """Reduce scores over the batch: "none" (N,), "mean" (), "sum" ()."""
    if reduction == "none":
        return scores
    return scores.mean() if reduction == "mean" else scores.sum()
