"""The definition of DAMLPIPS, version 2: both images in the middle of the way from one to the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from damlpips import checks
from damlpips.models.adaptive import AdaptiveWeights, colours, layers_of, scaled
from damlpips.models.alignment import Motion
from damlpips.models.encoder import Size
from damlpips.models.tiled import TiledDamlpips, TiledPair
from damlpips.nets.encoded import Encoded
from damlpips.ops import colour, distance
from damlpips.ops.execution import batches, images_of, on_cpu
from damlpips.ops.fused import Distances, damlpips_distances
from damlpips.ops.masking import MASKING_FLOOR, MASKING_WINDOW, contrast, masked_map

# The weight of the image; the rest is the network's.
IMAGE_SHARE = 0.4
# The image's distance is large on plain ground: its fusion turns from linear to logarithmic near d = 1/5.
IMAGE_GAIN = 5.0
# How many pixels on either side the contrast of a pixel depends on: two windows, one on the other.
IMAGE_REACH = 2 * (MASKING_WINDOW // 2)
# What the extent of a motion adds to the score: a displacement by a tenth of the shorter side adds 0.4.
MOTION_WEIGHT = 4.0
# The share of the differences that a motion leaves along seams, where it uncovers and hides things, for its extent.
SEAMS = 2.0


def _compared_by_contrast(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    """Do what `masked_map` does, with contrasts that are known."""
    return (a - b).square().sum(1, keepdim=True) / ((of_a + of_b) / 2 + MASKING_FLOOR)


def fuse(structure: Float[Tensor, "n l"], texture: Float[Tensor, "n k"]) -> Float[Tensor, "n l"]:
    """Return what each layer adds, the image first, whose texture is not compared.

    ::

        w_0 u_5(S_0),   w_l [ (1 - kappa) u_20(S_l) + kappa u_20(T_l) ],   w_0 = lambda, w_l = (1 - lambda) / L

    with u_k(d) = log(1 + k d) / log(1 + k).
    """
    image, network = structure.split([1, texture.shape[1]], 1)
    image = distance.share(image, IMAGE_GAIN)
    mixed = (1 - distance.TEXTURE_SHARE) * distance.share(network) + distance.TEXTURE_SHARE * distance.share(texture)
    return torch.cat([IMAGE_SHARE * image, (1 - IMAGE_SHARE) / texture.shape[1] * mixed], 1)


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

    def layers(self, x: Encoded, y: Encoded, motion: Motion | None = None) -> Float[Tensor, "n l"]:
        network = [damlpips_distances(a, b, self.weighing) for a, b in zip(x.features, y.features, strict=True)]
        return _with_motion(self._fused(_image_structure(x, y), network), motion)

    def spatial_map(self, x: Encoded, y: Encoded, size: Size, motion: Motion | None = None) -> Float[Tensor, "n 1 h w"]:
        image, _, network = self._compared(x, y)
        added = _with_motion(self._fused(distance.peak_pool(image), network), motion)
        return _with_displacement([image, *(c.map for c in network)], added, size, motion)

    def weights(self, x: Encoded, y: Encoded, motion: Motion | None = None) -> AdaptiveWeights:
        """Return the weights that the score of each pair was made with."""
        image, image_place, network = self._compared(x, y)
        structure = torch.stack([distance.peak_pool(image), *(c.structure for c in network)], 1)
        added = _with_motion(self._fused(structure[:, 0], network), motion)
        maps, places = [image, *(c.map for c in network)], [image_place, *(c.place for c in network)]
        alike = torch.ones_like(layers_of(x)[0][:, :, 0, 0])
        slope = distance.fusion_weight(structure, added[:, :-1], lambda s, _: fuse(s, torch.zeros_like(s[:, 1:])))
        return AdaptiveWeights(
            [p * distance.peak_weight(d, s) for p, d, s in zip(places, maps, structure.unbind(1), strict=True)],
            [alike, *(c.channel for c in network)],
            slope,
            added[:, -1],
        )

    def _compared(self, x: Encoded, y: Encoded) -> tuple[Tensor, Tensor, list[distance.Comparison]]:
        """Return the map of the image and its weights of places, and how the network's layers compare."""
        image, *network = zip(layers_of(x), layers_of(y), strict=True)
        return *masked_map(*image), [distance.compare(a, b, self.weighing) for a, b in network]

    def _fused(self, image: Tensor, network: Sequence[distance.Comparison | Distances]) -> Float[Tensor, "n l"]:
        structure = torch.stack([image, *(c.structure for c in network)], 1)
        return fuse(structure, torch.stack([c.texture for c in network], 1))

    def of_tile(self, encoded: Encoded) -> Encoded:
        """Return the feature maps of a tile, and last the contrast of each of its pixels."""
        pixels = encoded.pixels(distance.working(encoded.features[0]).dtype)
        return replace(encoded, features=(*encoded.features, contrast(colour.uniform(pixels))))

    def layers_of_tiles(self, pair: TiledPair) -> Float[Tensor, "1 l"]:
        return _with_motion(self._tiled(pair).layers(), pair.motion)

    def spatial_map_of_tiles(self, pair: TiledPair, size: Size) -> Float[Tensor, "1 1 h w"]:
        maps, added = self._tiled(pair).maps()
        return _with_displacement(maps, _with_motion(added, pair.motion), size, pair.motion)

    def _tiled(self, pair: TiledPair) -> TiledDamlpips:
        return TiledDamlpips(pair, self.weighing, fuse, _compared_by_contrast)

    def to_keep(self, encoded: Encoded) -> Encoded:
        return encoded


def _with_displacement(
    maps: list[Tensor], added: Float[Tensor, "n m"], size: Size, motion: Motion | None
) -> Float[Tensor, "n 1 h w"]:
    """Return where the images differ, and where they are displaced by what motion adds."""
    found = scaled(maps, added[:, :-1], size)
    if motion is None:
        return found
    square = motion.field.square().sum(1, keepdim=True).to(found.dtype)
    # where nothing is displaced the motion is a deformation that has no place
    by_place = distance.upsample(square + 1e-12, size)
    return found + by_place / by_place.mean((2, 3), keepdim=True) * added[:, -1:, None, None]


def _with_motion(added: Float[Tensor, "n l"], motion: Motion | None) -> Float[Tensor, "n m"]:
    """Return what each layer adds to the score, and last what the motion adds."""
    if motion is None:
        return torch.cat([added, torch.zeros_like(added[:, :1])], 1)
    seen = seen_share(motion).to(added.dtype)
    return torch.cat([added * seen[:, None], MOTION_WEIGHT * motion.extent.to(added.dtype)[:, None]], 1)


def _image_structure(x: Encoded, y: Encoded) -> Float[Tensor, " n"]:
    """Compare two batches of images in adapted colours; on a CPU, without a graph, few at a time."""
    if not on_cpu(x.seen) or checks.is_optimised(x.seen) or checks.is_optimised(y.seen):
        return distance.peak_pool(masked_map(colours(x), colours(y))[0])
    parts = batches(x.seen, max(1, images_of(x.seen) // 2))
    return torch.cat([distance.peak_pool(masked_map(colours(x, part), colours(y, part))[0]) for part in parts])
