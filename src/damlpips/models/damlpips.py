"""DAMLPIPS: the pair itself decides how much each place, channel and layer counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from damlpips import checks
from damlpips.models.base import PerceptualDistance
from damlpips.models.encoder import Images, Size
from damlpips.models.settings import DAMLPIPSOptions, DAMLPIPSSettings
from damlpips.models.tiled import TiledDamlpips, TiledPair
from damlpips.nets.backbone import Backbone
from damlpips.nets.encoded import Encoded
from damlpips.nets.shared import Source
from damlpips.nets.table import DEFAULT_BACKBONE
from damlpips.ops import colour, distance
from damlpips.ops.execution import batches, images_of, on_cpu
from damlpips.ops.fused import Distances, damlpips_distances

# the same weight for every place and channel of an image
IMAGE_WEIGHING = distance.Fixed(colour.PHOTOGRAPH_ENERGY)


class AdaptiveWeights(NamedTuple):
    """The weights that DAMLPIPS gave to a pair, the image first, then the network's layers.

    D = sum_l layer_l * mean_p [ place_lp * sum_c channel_lc (a_lcp - b_lcp)^2 ].

    Attributes:
        place: one (N, 1, H_l, W_l) a layer, in 1 / feature^2.
        channel: one (N, C_l) a layer.
        layer: (N, 1 + L).
    """

    place: list[Tensor]
    channel: list[Tensor]
    layer: Tensor


@dataclass(frozen=True, eq=False)
class DAMLPIPSDefinition:
    """DAMLPIPS of feature maps.

    Attributes:
        weighing: how the network's places and channels are weighted.
        fuse: what each layer adds to the score, of its distances of structure and of texture.
    """

    weighing: distance.Adaptive
    fuse: distance.Fuse = distance.fuse

    def compared(self, x: Encoded, y: Encoded) -> list[distance.Comparison]:
        """Return how each layer compares, the image first."""
        image, *network = zip(layers_of(x), layers_of(y), strict=True)
        return [
            distance.compare(*image, IMAGE_WEIGHING),
            *(distance.compare(a, b, self.weighing) for a, b in network),
        ]

    def layers(self, x: Encoded, y: Encoded) -> Float[Tensor, "n l"]:
        network = zip(x.features, y.features, strict=True)
        image = _image_distances(x, y)
        return self.fused([image, *(damlpips_distances(a, b, self.weighing) for a, b in network)])

    def spatial_map(self, x: Encoded, y: Encoded, size: Size) -> Float[Tensor, "n 1 h w"]:
        compared = self.compared(x, y)
        return _scaled([c.map for c in compared], self.fused(compared), size)

    def fused(self, compared: Sequence[distance.Comparison | Distances]) -> Float[Tensor, "n l"]:
        """Return what each layer adds to the score, from how it compares."""
        return self.fuse(torch.stack([c.structure for c in compared], 1), torch.stack([c.texture for c in compared], 1))

    def layers_of_tiles(self, pair: TiledPair) -> Float[Tensor, "1 l"]:
        return TiledDamlpips(pair, self.weighing, self.fuse).layers()

    def spatial_map_of_tiles(self, pair: TiledPair, size: Size) -> Float[Tensor, "1 1 h w"]:
        return _scaled(*TiledDamlpips(pair, self.weighing, self.fuse).maps(), size)

    def to_keep(self, encoded: Encoded) -> Encoded:
        return replace(encoded, seen=_colours(encoded), adapted=True)


class DAMLPIPS(PerceptualDistance):
    __doc__ = f"""Differentiable Adaptive Multi-Layer LPIPS, version 1; lower is closer, 0 for identical images.

    The pair itself decides how much each place, channel and layer counts; nothing is fitted to anyone's judgement::

        e_lp = (|a_lp|^2 + |b_lp|^2) / 2,  E_l = mean_p e_lp,  E_lc = mean_p (a_lcp^2 + b_lcp^2) / 2
        s_lp = rho e_lp + (1 - rho) E_l + eps
        g_lc = (mean_c E_lc / (E_lc + 0.001 mean_c E_lc))^gamma
        d_lp = sum_c g_lc (a_lcp - b_lcp)^2 / s_lp,  S_l = (mean_p d_lp^2)^(1/2)
        T_l  = sum_c g_lc [ (mean_p a_lcp - mean_p b_lcp)^2 + (std_p a_lcp - std_p b_lcp)^2 ] / (E_l + eps)
        D    = sum_l w_l [ 0.8 u(S_l) + 0.2 u(T_l) ],  u(d) = log(1 + 20 d) / log 21

    a, b are the feature maps of x and y at layer l, c counts channels, p places. Layer 0 is the image itself, in Oklab
    with three quarters of its mean colour taken off, g = 1 and s the energy of photographs, w_0 = 1/2; the L layers of
    the network share the other half. Images whose shorter side is above 256 pixels are averaged down to it first.
    Symmetric, non-negative, and differentiable everywhere, also where features are zero.

    Args:
        backbone: a name of the table (`"nano"`, embedded, needs no other file) or a `Backbone`.
{DAMLPIPSSettings.documented()}

    Shapes:
        x, y: (N, 3, H, W), or what `encode` returned; the scores: (N,), float32 (float64 after `.double()`), about 1
        for unrelated photographs. Of videos as for `LPIPS`.

    Raises:
        ValueError, TypeError: bad options or images. WeightsError: weights missing, damaged or of another network.

    Reference:
        The definition, its reasons and its agreement with observers are in the documentation, "What the scores are".

    Example:
        >>> import torch
        >>> from damlpips import DAMLPIPS
        >>> metric = DAMLPIPS()
        >>> x = torch.rand(2, 3, 64, 64)
        >>> metric(x, x)
        tensor([0., 0.])
        >>> bool((metric(x, x.flip(3)) > 0).all())
        True
    """

    options = DAMLPIPSSettings
    settings: DAMLPIPSSettings
    definition: DAMLPIPSDefinition

    def __init__(self, backbone: str | Backbone = DEFAULT_BACKBONE, **options: Unpack[DAMLPIPSOptions]) -> None:
        settings = self.options.make(dict(options))
        source = Source.of(backbone, settings.weights)
        side, least = settings.viewing_side, source.min_size
        if side is not None and side < least:
            raise ValueError(
                f"viewing_side: expected None or at least {least} pixels, the least that backbone {source.name!r}"
                f" takes, got {side}"
            )
        super().__init__(source, settings, viewing_side=side)

    def _defined(self) -> DAMLPIPSDefinition:
        return DAMLPIPSDefinition(distance.Adaptive(self.settings.rho, self.settings.gamma))

    def layers(self, x: Images) -> list[Tensor]:
        """Return what DAMLPIPS compares: (N, C_l, H_l, W_l), the image in adapted colours, then the feature maps."""
        return layers_of(x if isinstance(x, Encoded) else self.encode(x))

    def spatial_map(self, x: Images, y: Images) -> Float[Tensor, "n 1 h w"]:
        """Return where the images differ: (N, 1, H, W), whose mean is the score.

        Each layer's map, to the power that pools it, is enlarged bilinearly and scaled so that its mean is what the
        layer adds to the score.
        """
        return super().spatial_map(x, y)

    def weights_for(self, x: Images, y: Images) -> AdaptiveWeights:
        """Return the weights of place, channel and layer that the score of each pair was made with.

        They belong to the maps that `layers` returns. Both are computed whole, also with `tile`.
        """
        compared = self.definition.compared(*self.compare(x, y))
        structure = torch.stack([c.structure for c in compared], 1)
        return AdaptiveWeights(
            [c.place * distance.peak_weight(c.map, c.structure) for c in compared],
            [c.channel for c in compared],
            distance.fusion_weight(structure, self.definition.fused(compared), self.definition.fuse),
        )

    def configuration(self) -> dict[str, Any]:
        return {**super().configuration(), "version": 1}


def layers_of(x: Encoded) -> list[Tensor]:
    """Return what DAMLPIPS compares: the images in adapted colours, then their feature maps."""
    return [_colours(x), *x.features]


def _colours(x: Encoded, part: slice = slice(None)) -> Tensor:
    """Return the images, or some of them, in adapted colours."""
    if x.adapted:
        return x.seen[part]
    return colour.adapted_colours(x.pixels(distance.working(x.features[0]).dtype, part))


def _image_distances(x: Encoded, y: Encoded) -> Distances:
    """Compare two batches of images in adapted colours.

    On a CPU, without a graph, few at a time: its cache holds them from the first step to the last.
    """
    if not on_cpu(x.seen) or checks.is_optimised(x.seen) or checks.is_optimised(y.seen):
        return damlpips_distances(_colours(x), _colours(y), IMAGE_WEIGHING)
    parts = [
        damlpips_distances(_colours(x, part), _colours(y, part), IMAGE_WEIGHING)
        for part in batches(x.seen, max(1, images_of(x.seen) // 2))
    ]
    return Distances(*map(torch.cat, zip(*parts, strict=True)))


def _scaled(maps: list[Tensor], added: Float[Tensor, "n l"], size: tuple[int, int]) -> Float[Tensor, "n 1 h w"]:
    """Return where the images differ: each layer's map enlarged, in proportion to what it adds to the score."""
    enlarged = [distance.upsample(distance.peak_map(d), size) for d in maps]
    mean = torch.stack([distance.pool(d) for d in enlarged], 1)
    factor = torch.where(mean > 0, added / torch.where(mean > 0, mean, 1.0), 0.0)
    return torch.stack([d * f[:, None, None, None] for d, f in zip(enlarged, factor.unbind(1), strict=True)]).sum(0)
