"""LPIPS: feature maps compared with learned weights."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from damlpips.models import tiled
from damlpips.models.alignment import Motion
from damlpips.models.base import PerceptualDistance
from damlpips.models.encoder import Images, Size
from damlpips.models.inputs import Pair
from damlpips.models.presets import preset
from damlpips.models.settings import LPIPSOptions, LPIPSSettings
from damlpips.models.video import VideoPair
from damlpips.nets.backbone import Backbone
from damlpips.nets.encoded import Encoded
from damlpips.nets.shared import Source
from damlpips.nets.table import BACKBONES, SYMMETRIC
from damlpips.nets.weights import head_names, load_heads
from damlpips.ops import coverage, distance
from damlpips.ops.execution import exact_dtype
from damlpips.ops.fused import lpips_distance


@dataclass(frozen=True, eq=False)
class LPIPSDefinition:
    """LPIPS of feature maps.

    Attributes:
        heads: the weights of each layer's channels, (C_l,), on the device of the maps; None for 1.
        comparison, channel_norm: as for `LPIPS`.
    """

    heads: Sequence[Tensor] | None
    comparison: str
    channel_norm: bool
    aligns: bool = False

    def layers(
        self, x: Encoded, y: Encoded, _motion: Motion | None = None, mask: Tensor | None = None
    ) -> Float[Tensor, "n l"]:
        first, *others = [torch.stack(self._part(x, y, arrange, mask), 1) for arrange in self._arrangements]
        return sum(others, start=first)

    @property
    def _arrangements(self) -> tuple[distance.Arrangement, ...]:
        return distance.COMPARISONS[self.comparison]

    def _part(self, x: Encoded, y: Encoded, arrange: distance.Arrangement, mask: Tensor | None) -> list[Tensor]:
        """Return what each layer adds by one of the distances that are summed."""
        if arrange is distance.in_place and self.channel_norm and mask is None:
            return [lpips_distance(a, b, w) for a, b, w in self._each_layer(x.features, y.features)]
        maps = self.maps(x.features, y.features, arrange, mask)
        return [distance.pool(d, coverage.on_grid(mask, d) if arrange is distance.in_place else None) for d in maps]

    def maps(
        self,
        x: Sequence[Tensor],
        y: Sequence[Tensor],
        arrange: distance.Arrangement = distance.in_place,
        mask: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the map of each layer's distances."""
        compare = functools.partial(distance.lpips_map, arrange=arrange, channel_norm=self.channel_norm)
        return [compare(a, b, w, mask=coverage.on_grid(mask, a)) for a, b, w in self._each_layer(x, y)]

    def _each_layer(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        heads = [None] * len(x) if self.heads is None else self.heads
        return zip(x, y, heads, strict=True)

    def spatial_map(
        self, x: Encoded, y: Encoded, size: Size, _motion: Motion | None = None, mask: Tensor | None = None
    ) -> Float[Tensor, "n 1 h w"]:
        return coverage.covered(_summed(self.maps(x.features, y.features), size), mask)

    def layers_of_tiles(self, pair: tiled.TiledPair) -> Float[Tensor, "1 l"]:
        parts = self._arrangements
        kinds = {"spatial": distance.in_place in parts, "mean": distance.averaged in parts}
        return tiled.lpips_layers(pair, self.maps, **kinds)

    def spatial_map_of_tiles(self, pair: tiled.TiledPair, size: Size) -> Float[Tensor, "1 1 h w"]:
        return _summed(tiled.lpips_maps(pair, self.maps), size)

    def of_tile(self, encoded: Encoded) -> Encoded:
        return encoded

    def to_keep(self, encoded: Encoded) -> Encoded:
        return encoded


class LPIPS(PerceptualDistance):
    __doc__ = f"""Learned Perceptual Image Patch Similarity; lower is closer.

    ::

        a^_lp = a_lp / (|a_lp| + 1e-10)
        LPIPS(x, y) = sum_l mean_p sum_c w_lc (a^_lcp - b^_lcp)^2

    where a, b are the feature maps of x and y at layer l, c counts channels, p places, and w are the heads. Equal to
    the `lpips` package on the same weights, except that its gradient stays finite at features that are zero.

    `comparison` says what stands for a_lcp: with `"spatial"` the feature itself; with `"mean"` the mean of channel c
    over places; with `"sort"` the p-th lowest feature of channel c; `"spatial+mean"` and `"spatial+sort"` are sums of
    two such distances. `channel_norm=False` is a^ = a. All but LPIPS as published need `heads="uniform"`.

    Args:
        backbone: `"alex"`, `"vgg"`, `"squeeze"`; with `heads="uniform"` any backbone of the table or a `Backbone`.
{LPIPSSettings.documented()}

    Shapes:
        x, y: (N, 3, H, W), or what `encode` returned; the scores: (N,), float32 (float64 after `.double()`).
        With `video=True` x, y: (N, T, 3, H, W); the scores (N,), `per_layer` (N, L), `spatial_map` (N, T, 1, H, W), a
        `reference_key` a video. `encode` still takes images: the T frames of one video stand in for it in each pair.

    Raises:
        ValueError, TypeError: bad options or images. WeightsError: weights missing, damaged or of another network.

    Reference:
        Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        CVPR 2018, arXiv 1801.03924. Sjögren, Pihlgren, Sandin, Liwicki, "Identifying and Mitigating Flaws of Deep
        Perceptual Similarity Metrics", NLDL 2023, arXiv 2207.02512, for the comparisons.

    Example:
        >>> import torch
        >>> from damlpips import LPIPS
        >>> metric = LPIPS("nano", heads="uniform")
        >>> x = torch.rand(2, 3, 64, 64)
        >>> metric(x, x)
        tensor([0., 0.])
        >>> LPIPS("nano", heads="uniform", comparison="spatial+sort")(x, x)
        tensor([0., 0.])
    """

    options = LPIPSSettings
    settings: LPIPSSettings
    definition: LPIPSDefinition

    def __init__(self, backbone: str | Backbone = "alex", **options: Unpack[LPIPSOptions]) -> None:
        settings = self.options.make(dict(options))
        source = Source.of(backbone, settings.weights)
        if settings.tile is not None and distance.ranked in distance.COMPARISONS[settings.comparison]:
            raise ValueError(
                f"tile: comparison={settings.comparison!r} sorts the features of all places at once and cannot be"
                " computed tile by tile: leave tile out, or use 'spatial', 'mean' or 'spatial+mean'"
            )
        self._head_values = _learned_heads(settings, source)
        super().__init__(source, settings, scaling=SYMMETRIC if settings.heads == "v0.0" else None)

    @classmethod
    def preset(cls, name: str, **options: Unpack[LPIPSOptions]) -> "LPIPS":
        """Return the LPIPS that other code computes: its network, heads and range, mistakes included.

        Args:
            name: `"3dgs"`, `"gsplat"`, `"nerfstudio"`, `"taming"`, ...: see "Reproduce numbers" in the documentation.
            options: further ones, such as `weights`, or others than the preset's.

        Raises:
            ValueError: an unknown name.
        """
        return cls(**{**preset(name).options, **options})

    def _defined(self) -> LPIPSDefinition:
        # in float32 at least, from values that no cast has rounded
        exact = exact_dtype(self.anchor.dtype)
        values = self._head_values
        heads = None if values is None else [h.to(self.anchor.device, exact) for h in values]
        return LPIPSDefinition(heads, self.settings.comparison, self.settings.channel_norm)

    def prepared(self, x: Images, y: Images, mask: Tensor | None = None) -> Pair | VideoPair:
        comparison = self.settings.comparison
        if mask is not None and distance.ranked in distance.COMPARISONS[comparison]:
            raise ValueError(
                f"mask: comparison={comparison!r} sorts the features of all places, and one that a mask covers in part"
                " has no rank: use 'spatial', 'mean' or 'spatial+mean'"
            )
        return super().prepared(x, y, mask)

    def spatial_map(self, x: Images, y: Images, *, mask: Tensor | None = None) -> Float[Tensor, "n 1 h w"]:
        """Return where the images differ: (N, 1, H, W), the layers' maps brought to the image's size and summed.

        As `lpips` with `spatial=True`. Bilinear enlargement keeps each layer's mean up to its border, so the map's mean
        is near the score, not equal to it. With `comparison="spatial+mean"` or `"spatial+sort"` it is the map of the
        spatial part, whose mean is near that part of the score. With a `mask` the same holds of the mean over where it
        is True; elsewhere the map is 0.

        Raises:
            ValueError: with `comparison="mean"` or `"sort"`, which forget where a feature was.
        """
        comparison = self.settings.comparison
        if distance.in_place not in distance.COMPARISONS[comparison]:
            raise ValueError(
                f"spatial_map: where images differ is not defined for comparison={comparison!r}, which forgets where a"
                f" feature was: use comparison='spatial', or 'spatial+{comparison}' for the map of its spatial part"
            )
        return super().spatial_map(x, y, mask=mask)

    def configuration(self) -> dict[str, Any]:
        found = super().configuration()
        if self._head_values is not None and self.settings.heads not in head_names():
            found["heads"] = str([h.tolist() for h in self._head_values])  # a file's contents, not its name
        return found


def _learned_heads(settings: LPIPSSettings, source: Source) -> list[Tensor] | None:
    """Return the weights of each layer's channels; None where all are 1."""
    heads = settings.heads
    if heads == "uniform":
        return None
    variant = {name: value for name, value in settings.changed().items() if name in ("comparison", "channel_norm")}
    if variant:
        spelled = ", ".join(f"{name}={value!r}" for name, value in variant.items())
        raise ValueError(
            f"heads={heads!r} were learned for comparison='spatial' with channel_norm=True, got {spelled}: use"
            " heads='uniform'"
        )
    if not isinstance(source.backbone, str):
        raise ValueError(f"heads={heads!r} belong to a backbone by name; use heads='uniform' with your own")
    return load_heads(heads, source.backbone, BACKBONES[source.backbone].channels)


def _summed(maps: list[Tensor], size: Size) -> Float[Tensor, "n 1 h w"]:
    return torch.stack([distance.upsample(d, size) for d in maps]).sum(0)
