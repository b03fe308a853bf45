"""What a distance is, whatever way it is computed."""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from damlpips.models.alignment import Motion
from damlpips.models.encoder import Size
from damlpips.models.tiled import TiledPair
from damlpips.nets.encoded import Encoded


class Definition(Protocol):
    """A distance of two batches of feature maps. It knows nothing of splitting, caches or devices.

    Attributes:
        aligns: whether images are brought to the middle frame before they go through the network; what moved is then
            an argument of what compares them. The last is a mask, (N, 1, H, W) at the size at which the images are
        compared: how much of each place counts, None for all.
    """

    @property
    def aligns(self) -> bool: ...

    def layers(
        self, x: Encoded, y: Encoded, motion: Motion | None = None, mask: Tensor | None = None, /
    ) -> Float[Tensor, "n l"]:
        """Return what each layer adds to the distance of each pair."""

    def spatial_map(
        self, x: Encoded, y: Encoded, size: Size, motion: Motion | None = None, mask: Tensor | None = None, /
    ) -> Float[Tensor, "n 1 h w"]:
        """Return where the images of each pair differ, at the size of the images."""

    def layers_of_tiles(self, pair: TiledPair) -> Float[Tensor, "1 l"]:
        """Return what `layers` does, of a pair whose feature maps are never whole."""

    def spatial_map_of_tiles(self, pair: TiledPair, size: Size) -> Float[Tensor, "1 1 h w"]:
        """Return what `spatial_map` does, of a pair whose feature maps are never whole."""

    def of_tile(self, encoded: Encoded) -> Encoded:
        """Return the feature maps of a tile with what else must be known of it before its halo is cut off."""

    def to_keep(self, encoded: Encoded) -> Encoded:
        """Return images that are compared more than once with what need not be computed again."""
