"""The definition of DAMLPIPS, version 2: both images in the middle of the way from one to the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from damlpips.models.adaptive import (
    AdaptiveWeights,
    image_distances,
    kernels_of_colours,
    pairs_of_layers,
    place_share,
    scaled,
)
from damlpips.models.alignment import Motion
from damlpips.models.encoder import Size
from damlpips.models.tiled import TiledDamlpips, TiledPair
from damlpips.nets.encoded import Encoded
from damlpips.ops import colour, coverage, distance
from damlpips.ops.fused import Distances, damlpips_distances
from damlpips.ops.masking import MASKING_WINDOW, compared, contrast, masked_map

# The weight of the image; the rest is the network's.
IMAGE_SHARE = 0.45
# The weight of a layer's statistics; the rest is that of its places. The network's features tolerate small motions
# themselves, the image's colours do not.
IMAGE_TEXTURE, NETWORK_TEXTURE = 0.35, 0.1
# Fusion turns from linear to logarithmic near d = 1/5.
GAIN = 5.0
# How many pixels on either side the contrast of a pixel depends on: two windows, one on the other.
IMAGE_REACH = 2 * (MASKING_WINDOW // 2)
# What a small motion adds to the score, for its extent, and what no motion exceeds: content that moved is still there.
MOTION_WEIGHT, MOST_OF_MOTION = 4.0, 0.8
# The share of the differences that a motion leaves along seams, where it uncovers and hides things, for its extent.
SEAMS = 2.0


def fuse(structure: Float[Tensor, "n l"], texture: Float[Tensor, "n l"]) -> Float[Tensor, "n l"]:
    """Return what each layer adds, the image first.

    ::

        w_l [ (1 - kappa_l) u(S_l) + kappa_l u(T_l) ],   u(d) = log(1 + 5 d) / log 6

    with w_0 = 0.45, kappa_0 = 0.35, and w_l = 0.55 / L, kappa_l = 0.1 of the L layers of the network.
    """
    count = structure.shape[1] - 1
    of_structure, of_texture = (distance.share(d, GAIN).split([1, count], 1) for d in (structure, texture))
    shares = IMAGE_TEXTURE, NETWORK_TEXTURE
    image, network = (torch.lerp(s, t, kappa) for s, t, kappa in zip(of_structure, of_texture, shares, strict=True))
    return torch.cat([IMAGE_SHARE * image, (1 - IMAGE_SHARE) / count * network], 1)


def motion_distance(motion: Motion) -> Float[Tensor, " n"]:
    """Return what a motion adds to the score, as far as it explains the differences.

    ::

        0.8 tanh(5 e) (1 - r)

    with e and r as in `seen_share`.
    """
    size = MOST_OF_MOTION * torch.tanh(MOTION_WEIGHT / MOST_OF_MOTION * motion.extent)
    return size * (1 - motion.unexplained.clamp(max=1))


def seen_share(motion: Motion) -> Float[Tensor, " n"]:
    """Return how much of the differences in the middle frame is seen as such, and not as seams of the motion.

    ::

        (1 + tau) r / (r + tau),   tau = 2 e

    with r the share of the differences in place that alignment leaves, and e the extent of the motion.
    """
    seams = SEAMS * motion.extent.detach()
    left = motion.unexplained.clamp(max=1)
    return torch.where(seams > 0, (1 + seams) * left / (left + seams), 1.0)


@dataclass(frozen=True, eq=False)
class Version2:
    """DAMLPIPS, version 2, of feature maps.

    Attributes:
        weighing: how the network's places and channels are weighted.
        aligns: whether the images are brought to the middle frame.
    """

    weighing: distance.Adaptive
    aligns: bool = True

    def layers(
        self, x: Encoded, y: Encoded, motion: Motion | None = None, mask: Tensor | None = None
    ) -> Float[Tensor, "n l"]:
        if mask is not None:
            return with_motion(_fused(self._compared(x, y, mask)), motion)
        network = zip(x.features, y.features, strict=True)
        return with_motion(
            _fused([_image_distances(x, y), *(damlpips_distances(a, b, self.weighing) for a, b in network)]), motion
        )

    def spatial_map(
        self, x: Encoded, y: Encoded, size: Size, motion: Motion | None = None, mask: Tensor | None = None
    ) -> Float[Tensor, "n 1 h w"]:
        compared = self._compared(x, y, mask)
        return _with_displacement([c.map for c in compared], with_motion(_fused(compared), motion), size, motion, mask)

    def weights(
        self, x: Encoded, y: Encoded, motion: Motion | None = None, mask: Tensor | None = None
    ) -> AdaptiveWeights:
        """Return the weights that the score of each pair was made with."""
        compared = self._compared(x, y, mask)
        structure = torch.stack([c.structure for c in compared], 1)
        added = with_motion(_fused(compared), motion)
        return AdaptiveWeights(
            [place_share(mask, c.map) * c.place * distance.peak_weight(c.map, c.structure) for c in compared],
            [c.channel for c in compared],
            distance.fusion_weight(structure, added[:, :-1], fuse),
            added[:, -1],
        )

    def _compared(self, x: Encoded, y: Encoded, mask: Tensor | None) -> list[distance.Comparison]:
        """Return how each layer compares, the image first."""
        image, *network = pairs_of_layers(x, y, mask)
        return [compared_image(*image), *(distance.compare(a, b, self.weighing, m) for a, b, m in network)]

    def of_tile(self, encoded: Encoded) -> Encoded:
        """Return the feature maps of a tile, and last the contrast of each of its pixels."""
        pixels = encoded.pixels(distance.working(encoded.features[0]).dtype)
        return replace(encoded, features=(*encoded.features, contrast(colour.uniform(pixels))))

    def layers_of_tiles(self, pair: TiledPair) -> Float[Tensor, "1 l"]:
        return with_motion(self._tiled(pair).layers(), pair.motion)

    def spatial_map_of_tiles(self, pair: TiledPair, size: Size) -> Float[Tensor, "1 1 h w"]:
        maps, added = self._tiled(pair).maps()
        return _with_displacement(maps, with_motion(added, pair.motion), size, pair.motion)

    def _tiled(self, pair: TiledPair) -> TiledDamlpips:
        return TiledDamlpips(pair, self.weighing, fuse, lambda *known: compared(*known)[0])

    def to_keep(self, encoded: Encoded) -> Encoded:
        return encoded


def _with_displacement(
    maps: list[Tensor], added: Float[Tensor, "n m"], size: Size, motion: Motion | None, mask: Tensor | None = None
) -> Float[Tensor, "n 1 h w"]:
    """Return where the images differ, and where they are displaced by what motion adds."""
    found = scaled(maps, added[:, :-1], size, mask)
    if motion is None:
        return found
    square = motion.field.square().sum(1, keepdim=True).to(found.dtype)
    # where nothing is displaced the motion is a deformation that has no place
    by_place = coverage.covered(distance.upsample(square + 1e-12, size), mask)
    return found + by_place / coverage.mean(by_place, mask)[..., None, None] * added[:, -1:, None, None]


def with_motion(added: Float[Tensor, "n l"], motion: Motion | None) -> Float[Tensor, "n m"]:
    """Return what each layer adds to the score, and last what the motion adds."""
    if motion is None:
        return torch.cat([added, torch.zeros_like(added[:, :1])], 1)
    seen = seen_share(motion).to(added.dtype)
    return torch.cat([added * seen[:, None], motion_distance(motion).to(added.dtype)[:, None]], 1)


def _fused(compared: Sequence[distance.Comparison | Distances]) -> Float[Tensor, "n l"]:
    """Return what each layer adds to the score, from how it compares."""
    return fuse(torch.stack([c.structure for c in compared], 1), torch.stack([c.texture for c in compared], 1))


def compared_image(a: Tensor, b: Tensor, mask: Tensor | None = None) -> distance.Comparison:
    """Compare two batches of images in adapted colours, or what a mask covers of them."""
    d, place = masked_map(a, b) if mask is None else compared(a, b, contrast(a, mask), contrast(b, mask))
    d = coverage.covered(d, mask)
    alike = torch.ones_like(a[:, :, 0, 0])
    return distance.Comparison(place, alike, d, distance.peak_pool(d, mask), _image_texture(a, b, mask))


def _image_texture(a: Tensor, b: Tensor, mask: Tensor | None) -> Float[Tensor, " n"]:
    """Compare the mean and the spread of each colour, in proportion to the energy of photographs."""
    mean, power = (torch.stack([coverage.mean(m, mask) for m in maps]) for maps in ((a, b), (a.square(), b.square())))
    return distance.moment_differences(mean, power).sum(1) / colour.PHOTOGRAPH_ENERGY


def _image_distances(x: Encoded, y: Encoded) -> Distances:
    """Compare two batches of images in adapted colours."""
    kernels = kernels_of_colours(x, y)
    if kernels is not None:
        pixels = (side.pixels(torch.float32) for side in (x, y))
        return Distances(*kernels.masked_image_distances(*pixels, colour.PHOTOGRAPH_ENERGY))

    def distances(a: Tensor, b: Tensor) -> Distances:
        compared = compared_image(a, b)
        return Distances(compared.structure, compared.texture)

    return image_distances(x, y, distances)
