"""Pure functions on feature maps: normalise, weigh, compare, pool, fuse.

Feature maps come in whatever precision the backbone ran in; every function works in float32 or above, so that the sum
of squares of half-precision features cannot overflow.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# Published LPIPS scores depend on it: added to the norm, outside the root.
NORM_EPS = 1e-10
# DAMLPIPS: keeps a layer without energy at weight one instead of 0/0. Features of a visible pattern have energies
# many orders above it.
ENERGY_EPS = 1e-10
# DAMLPIPS: the weight of a channel grows as its energy falls, down to a thousandth of the layer's mean.
CHANNEL_FLOOR = 1e-3
# DAMLPIPS: where the fusion turns from linear to logarithmic, d = 1/20.
FUSION_GAIN = 20.0


def working(a: Tensor) -> Tensor:
    """Return the features in at least float32."""
    return a if a.dtype in (torch.float32, torch.float64) else a.float()


def unit(a: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Divide the features at each place by their norm over channels: a / (|a| + 1e-10).

    Where all channels are zero the result is zero, and so is its gradient's influence: the denominator is replaced by
    one there, since the root has no derivative at zero and 1/eps = 1e10 would be one in name only.
    """
    a = working(a)
    energy = a.square().sum(1, keepdim=True)
    dead = energy == 0
    norm = torch.where(dead, 1.0, energy).sqrt()
    return a / torch.where(dead, 1.0, norm + NORM_EPS)


def in_place(a: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return the features as they are: place is compared with place."""
    return a


def averaged(a: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 1 1"]:
    """Average each channel over places."""
    return working(a).mean((2, 3), keepdim=True)


def ranked(a: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p 1"]:
    """Sort each channel over places, the lowest first, so that rank is compared with rank."""
    # stable: which of equal features, such as a rectifier's zeros, gets a rank's gradient is the same on every device
    # in float32: not every device sorts half precision
    return working(a).flatten(2).sort(dim=2, stable=True).values[..., None]


Arrangement = Callable[[Tensor], Tensor]

# What is compared, by the names of arXiv 2207.02512. Each part is a distance of its own; the parts are added.
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
) -> Float[Tensor, "n 1 p q"]:
    """Compare two feature maps place by place: sum_c w_c (a^_c - b^_c)^2, with w = 1 where `head` is None.

    a^ = unit(arrange(a)), or arrange(a) without `channel_norm`: what is averaged or sorted are raw activations.
    """
    scale = unit if channel_norm else working
    difference = (scale(arrange(a)) - scale(arrange(b))).square()
    if head is not None:
        difference = difference * head.to(difference)[None, :, None, None]
    return difference.sum(1, keepdim=True)


def pool(d: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    """Average a map over its places."""
    return d.mean((1, 2, 3))


def upsample(d: Float[Tensor, "n 1 h w"], size: tuple[int, int]) -> Float[Tensor, "n 1 H W"]:
    """Bring a map to the size of the image, bilinearly, corners not aligned."""
    return F.interpolate(d, size=size, mode="bilinear", align_corners=False)


def adaptive_weights(
    a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"], rho: float, gamma: float
) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n c"]]:
    """Return DAMLPIPS's weights of each place and of each channel.

    With q = (a^2 + b^2) / 2, e_p its sum over channels, E the mean of e over places, E_c the mean of q_c over places
    and m the mean of E_c over channels:

    place: 1 / (rho e_p + (1 - rho) E + eps). `rho` is the share of the place itself in its normalisation pool, the rest
    is the whole image.
    channel: (m / (E_c + 0.001 m))^gamma. A channel that fires for everything counts less.
    """
    power = (working(a).square() + working(b).square()) / 2
    by_place, by_channel = power.sum(1, keepdim=True), power.mean((2, 3))
    everywhere = by_channel.sum(1)[:, None, None, None]
    mean = by_channel.mean(1, keepdim=True)
    place = 1 / (rho * by_place + (1 - rho) * everywhere + ENERGY_EPS)
    channel = ((mean + ENERGY_EPS) / (by_channel + CHANNEL_FLOOR * mean + ENERGY_EPS)) ** gamma
    return place, channel


def adaptive_map(
    a: Float[Tensor, "n c h w"],
    b: Float[Tensor, "n c h w"],
    place: Float[Tensor, "n 1 h w"],
    channel: Float[Tensor, "n c"],
) -> Float[Tensor, "n 1 h w"]:
    """Compare two feature maps with weights of place and channel: s_p sum_c g_c (a_c - b_c)^2."""
    difference = (working(a) - working(b)).square()
    return place * (difference * channel[:, :, None, None]).sum(1, keepdim=True)


def fuse(d: Float[Tensor, "n l"]) -> Float[Tensor, "n l"]:
    """Return what each layer adds to DAMLPIPS, log(1 + 20 d): a layer that shouts is compressed."""
    return torch.log1p(FUSION_GAIN * d)


def fusion_weight(d: Float[Tensor, "n l"]) -> Float[Tensor, "n l"]:
    """Return log(1 + 20 d) / d, the weight that fusion gives to each layer's distance; its limit 20 at d = 0."""
    tiny = d < 1e-8  # below it log(1 + 20 d) / d is 20 to float32's precision
    safe = torch.where(tiny, 1.0, d)
    return torch.where(tiny, FUSION_GAIN, fuse(safe) / safe)


def reduce(scores: Float[Tensor, " n"], reduction: str) -> Tensor:
    """Reduce scores over the batch: "none" (N,), "mean" (), "sum" ()."""
    if reduction == "none":
        return scores
    return scores.mean() if reduction == "mean" else scores.sum()
