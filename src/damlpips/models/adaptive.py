"""What both versions of DAMLPIPS share: the layers that they compare, and the weights that they tell."""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from damlpips import checks
from damlpips.nets.encoded import Encoded
from damlpips.ops import colour, coverage, distance
from damlpips.ops.execution import batches, images_of, on_cpu
from damlpips.ops.fused import Distances, image_kernels


class AdaptiveWeights(NamedTuple):
    """The weights that DAMLPIPS gave to a pair, the image first, then the network's layers.

    D = sum_l layer_l * mean_p [ place_lp * sum_c channel_lc (a_lcp - b_lcp)^2 ] + motion.

    Attributes:
        place: one (N, 1, H_l, W_l) a layer, in 1 / feature^2.
        channel: one (N, C_l) a layer.
        layer: (N, 1 + L).
        motion: what displacement adds to the score, (N,); 0 where nothing moved, and in version 1.
    """

    place: list[Tensor]
    channel: list[Tensor]
    layer: Tensor
    motion: Tensor


def layers_of(x: Encoded, mask: Tensor | None = None) -> list[Tensor]:
    """Return what DAMLPIPS compares: the images in adapted colours, then their feature maps.

    With a mask, (N, 1, H, W), colours are adapted to the mean of what it covers.
    """
    if mask is None:
        return [colours(x), *x.features]
    pixels = colour.uniform(x.pixels(distance.working(x.features[0]).dtype))
    return [colour.adapted(pixels, coverage.mean(pixels, coverage.on_grid(mask, pixels))), *x.features]


def pairs_of_layers(x: Encoded, y: Encoded, mask: Tensor | None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Return the layers of both, the image first, each with what a mask covers of it."""
    both = zip(layers_of(x, mask), layers_of(y, mask), strict=True)
    return [(a, b, coverage.on_grid(mask, a)) for a, b in both]


def place_share(mask: Tensor | None, layer: Tensor) -> Tensor | float:
    """Return the weight of each place in a mean over what a mask covers, on average 1."""
    return 1.0 if (share := coverage.on_grid(mask, layer)) is None else share / share.mean((2, 3), keepdim=True)


def colours(x: Encoded, part: slice = slice(None)) -> Tensor:
    """Return the images, or some of them, in adapted colours."""
    if x.adapted:
        return x.seen[part]
    pixels = x.pixels(distance.working(x.features[0]).dtype, part)
    kernels = image_kernels(pixels) if pixels.shape[1] == 3 and pixels.dtype == torch.float32 else None
    return colour.adapted_colours(pixels) if kernels is None else colour.adapted(kernels.colours(pixels))


def image_distances(x: Encoded, y: Encoded, compare: Callable[[Tensor, Tensor], Distances]) -> Distances:
    """Compare two batches of images in adapted colours.

    On a CPU, without a graph, few at a time: its cache holds them from the first step to the last.
    """
    if not on_cpu(x.seen) or checks.is_optimised(x.seen) or checks.is_optimised(y.seen):
        return compare(colours(x), colours(y))
    parts = [compare(colours(x, part), colours(y, part)) for part in batches(x.seen, max(1, images_of(x.seen) // 2))]
    return Distances(*map(torch.cat, zip(*parts, strict=True)))


def kernels_of_colours(x: Encoded, y: Encoded) -> ModuleType | None:
    """Return `damlpips.ops.triton_images` where it can compare two batches of images without gradients."""
    a, b = x.seen, y.seen
    exact = torch.float64 in (a.dtype, x.features[0].dtype)
    if exact or a.shape[1] != 3 or a.dtype != b.dtype or x.adapted or y.adapted:
        return None
    return None if checks.is_optimised(a) or checks.is_optimised(b) else image_kernels(a, b)


def scaled(
    maps: list[Tensor], added: Float[Tensor, "n l"], size: tuple[int, int], mask: Tensor | None = None
) -> Float[Tensor, "n 1 h w"]:
    """Return where the images differ: each layer's map enlarged, in proportion to what it adds to the score.

    Its mean is that over what a mask of that size covers, and beyond it it is 0.
    """
    enlarged = [coverage.covered(distance.upsample(distance.peak_map(d), size), mask) for d in maps]
    mean = torch.stack([distance.pool(d, mask) for d in enlarged], 1)
    factor = torch.where(mean > 0, added / torch.where(mean > 0, mean, 1.0), 0.0)
    return torch.stack([d * f[:, None, None, None] for d, f in zip(enlarged, factor.unbind(1), strict=True)]).sum(0)
