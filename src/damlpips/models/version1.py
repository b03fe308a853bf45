"""The definition of DAMLPIPS, version 1: place is compared with place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from damlpips.models.adaptive import (
    AdaptiveWeights,
    colours,
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
from damlpips.ops import colour, distance
from damlpips.ops.fused import Distances, damlpips_distances

# the same weight for every place and channel of an image
IMAGE_WEIGHING = distance.Fixed(colour.PHOTOGRAPH_ENERGY)


@dataclass(frozen=True, eq=False)
class Version1:
    """DAMLPIPS, version 1, of feature maps.

    Attributes:
        weighing: how the network's places and channels are weighted.
        fuse: what each layer adds to the score, of its distances of structure and of texture.
    """

    weighing: distance.Adaptive
    fuse: distance.Fuse = distance.fuse
    aligns: bool = False

    def compared(self, x: Encoded, y: Encoded, mask: Tensor | None = None) -> list[distance.Comparison]:
        """Return how each layer compares, the image first."""
        (of_x, of_y, covered), *network = pairs_of_layers(x, y, mask)
        return [
            distance.compare(of_x, of_y, IMAGE_WEIGHING, covered),
            *(distance.compare(a, b, self.weighing, m) for a, b, m in network),
        ]

    def layers(
        self, x: Encoded, y: Encoded, _motion: Motion | None = None, mask: Tensor | None = None
    ) -> Float[Tensor, "n l"]:
        if mask is not None:
            return self.fused(self.compared(x, y, mask))
        network = zip(x.features, y.features, strict=True)
        image = _image_distances(x, y)
        return self.fused([image, *(damlpips_distances(a, b, self.weighing) for a, b in network)])

    def spatial_map(
        self, x: Encoded, y: Encoded, size: Size, _motion: Motion | None = None, mask: Tensor | None = None
    ) -> Float[Tensor, "n 1 h w"]:
        compared = self.compared(x, y, mask)
        return scaled([c.map for c in compared], self.fused(compared), size, mask)

    def fused(self, compared: Sequence[distance.Comparison | Distances]) -> Float[Tensor, "n l"]:
        """Return what each layer adds to the score, from how it compares."""
        return self.fuse(torch.stack([c.structure for c in compared], 1), torch.stack([c.texture for c in compared], 1))

    def layers_of_tiles(self, pair: TiledPair) -> Float[Tensor, "1 l"]:
        return TiledDamlpips(pair, self.weighing, self.fuse).layers()

    def spatial_map_of_tiles(self, pair: TiledPair, size: Size) -> Float[Tensor, "1 1 h w"]:
        return scaled(*TiledDamlpips(pair, self.weighing, self.fuse).maps(), size)

    def of_tile(self, encoded: Encoded) -> Encoded:
        return encoded

    def to_keep(self, encoded: Encoded) -> Encoded:
        return replace(encoded, seen=colours(encoded), adapted=True)

    def weights(
        self, x: Encoded, y: Encoded, _motion: Motion | None = None, mask: Tensor | None = None
    ) -> AdaptiveWeights:
        """Return the weights that the score of each pair was made with."""
        compared = self.compared(x, y, mask)
        structure = torch.stack([c.structure for c in compared], 1)
        return AdaptiveWeights(
            [place_share(mask, c.map) * c.place * distance.peak_weight(c.map, c.structure) for c in compared],
            [c.channel for c in compared],
            distance.fusion_weight(structure, self.fused(compared), self.fuse),
            structure.new_zeros(len(structure)),
        )


def _image_distances(x: Encoded, y: Encoded) -> Distances:
    """Compare two batches of images in adapted colours."""
    kernels = kernels_of_colours(x, y)
    if kernels is None:
        return image_distances(x, y, _compared_image)
    return Distances(*kernels.image_distances(x.seen, y.seen, *x.bounds, colour.PHOTOGRAPH_ENERGY))


def _compared_image(a: Tensor, b: Tensor) -> Distances:
    return damlpips_distances(a, b, IMAGE_WEIGHING)
