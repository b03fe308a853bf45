"""LPIPS and DAMLPIPS as modules: a backbone, weights, and the functions of `distance`."""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from damlpips import checks, colour, distance, tiled
from damlpips.blocks import batches, images_of, on_cpu
from damlpips.features import BACKBONES, SYMMETRIC, Backbone, Encoded
from damlpips.heads import Distances, adaptive_head, lpips_head
from damlpips.perceptual import Images, PerceptualDistance, size_of
from damlpips.references import CACHE_BYTES
from damlpips.reproducible import one_order
from damlpips.video import frame_by_frame
from damlpips.weights import head_names, load_heads

DEFAULT_BACKBONE = "nano"
# The shorter side at which DAMLPIPS looks at larger images: agreement with observers is highest near it.
VIEWING_SIDE = 256

# the same weight for every place and channel of an image
IMAGE_WEIGHING = distance.Fixed(colour.PHOTOGRAPH_ENERGY)


class LPIPS(PerceptualDistance):
    """Learned Perceptual Image Patch Similarity; lower is closer.

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
        weights: path of the backbone's `.pth` or `.safetensors` file, checked key by key; None looks in the folder
            `DAMLPIPS_WEIGHTS_DIR`, in torch hub's cache, and downloads torchvision's file when the first score is
            asked for.
        heads: `"v0.1"`, `"v0.0"`, `"uniform"` (w = 1), or the path of a file with `lpips`'s keys.
        comparison: `"spatial"`, `"mean"`, `"sort"`, `"spatial+mean"` or `"spatial+sort"`.
        channel_norm: whether features are divided by their norm over channels, which is done last.
        value_range: (low, high) of float images; uint8 images are 0..255 whatever it says.
        reduction: `"none"` (N,), `"mean"` or `"sum"` ().
        grey: `"repeat"` accepts (N, 1, H, W) and repeats the channel.
        resize: `"reference"` brings the first image to the second's size; an int scales both to that shorter side;
            (H, W) to that size.
        check_values: whether NaN and values outside `value_range` raise. Images that are being optimised, and images on
            an accelerator, are not checked here (see `LPIPSMetric` for the latter).
        deterministic: whether a score depends on its pair alone: not on the rest of the batch, the number of threads or
            cuDNN's benchmarks. Images go through the network one by one, on the CPU in one thread, which takes longer.
        dtype: what the network runs in, `torch.bfloat16`, `torch.float16`, `torch.float32` or `torch.float64`; None:
            what the module is in. Images are scaled and distances taken in float32 at least, whatever it is.
        reference_cache: bytes that the feature maps of references with a `reference_key` may take; 0 keeps none.
            Images that are compared tile by tile are not kept.
        tile: images larger than this many pixels a side are compared pair by pair and tile by tile, in memory that does
            not grow with their size; scores change by rounding only. Not with `comparison="sort"`, which needs all
            places at once, nor with a backbone that sees the whole image at each place.
        compile: run network and distances through `torch.compile`. The first call of each shape takes a minute. Batches
            with a `reference_key`, encoded images, images in tiles and `deterministic=True` go without it.
        video: compare videos, (N, T, 3, H, W), frame by frame: a score is the mean over the frames. See Shapes.

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

    def __init__(
        self,
        backbone: str | Backbone = "alex",
        *,
        weights: str | os.PathLike[str] | None = None,
        heads: str | os.PathLike[str] = "v0.1",
        comparison: str = "spatial",
        channel_norm: bool = True,
        value_range: tuple[float, float] = (0.0, 1.0),
        reduction: str = "none",
        grey: checks.Grey = None,
        resize: checks.Resize = None,
        check_values: bool = True,
        deterministic: bool = False,
        dtype: torch.dtype | None = None,
        reference_cache: int = CACHE_BYTES,
        tile: int | None = None,
        compile: bool = False,
        video: bool = False,
    ) -> None:
        super().__init__(
            backbone,
            weights=weights,
            value_range=value_range,
            reduction=reduction,
            grey=grey,
            resize=resize,
            check_values=check_values,
            deterministic=deterministic,
            dtype=dtype,
            reference_cache=reference_cache,
            tile=tile,
            compile=compile,
            video=video,
        )
        if not isinstance(heads, (str, os.PathLike)):
            raise TypeError(f"heads: expected a version, 'uniform' or a path, got {type(heads).__name__}")
        self.heads = os.fspath(heads)
        self.comparison = checks.one_of("comparison", comparison, distance.COMPARISONS)
        self.channel_norm = bool(channel_norm)
        if self.tiling is not None and distance.ranked in distance.COMPARISONS[self.comparison]:
            raise ValueError(
                f"tile: comparison={self.comparison!r} sorts the features of all places at once and cannot be computed"
                " tile by tile: leave tile out, or use 'spatial', 'mean' or 'spatial+mean'"
            )
        if self._variant and self.heads != "uniform":
            raise ValueError(
                f"heads={self.heads!r} were learned for comparison='spatial' with channel_norm=True, got"
                f" {_spelled(self._variant)}: use heads='uniform'"
            )
        self._head_values: list[Tensor] | None = None
        if self.heads != "uniform":
            if not isinstance(self.source.backbone, str):
                raise ValueError(
                    f"heads={self.heads!r} belong to a backbone by name; use heads='uniform' with your own"
                )
            channels = BACKBONES[self.source.backbone].channels
            self._head_values = load_heads(self.heads, self.source.backbone, channels)
        if self.heads == "v0.0":
            self._scaling = SYMMETRIC
        self._place_heads()
        if self.source.is_here:
            self.load()

    def _place_heads(self) -> None:
        """Put the heads on the module's device, in float32 at least, from values that no cast has rounded."""
        exact = torch.float64 if self.anchor.dtype == torch.float64 else torch.float32
        values = self._head_values
        self._heads = None if values is None else [h.to(self.anchor.device, exact) for h in values]

    def _place(self, anchor: Tensor) -> None:
        super()._place(anchor)
        self._place_heads()

    @property
    def _variant(self) -> dict[str, Any]:
        """The options in which what is compared differs from LPIPS as published."""
        options = {"comparison": (self.comparison, "spatial"), "channel_norm": (self.channel_norm, True)}
        return {name: value for name, (value, published) in options.items() if value != published}

    def _per_layer(self, x: Encoded, y: Encoded) -> Float[Tensor, "n l"]:
        first, *others = [
            torch.stack(self._part(x, y, arrange), 1) for arrange in distance.COMPARISONS[self.comparison]
        ]
        return sum(others, start=first)

    def _part(self, x: Encoded, y: Encoded, arrange: distance.Arrangement) -> list[Tensor]:
        """Return what each layer adds by one of the distances that are summed."""
        if arrange is distance.in_place and self.channel_norm:
            return [lpips_head(a, b, w) for a, b, w in self._layers(x.features, y.features)]
        return [distance.pool(d) for d in self._layer_maps(x, y, arrange)]

    def _tiled_layers(self, pair: tiled.TiledPair) -> Float[Tensor, "1 l"]:
        parts = distance.COMPARISONS[self.comparison]
        kinds = {"spatial": distance.in_place in parts, "mean": distance.averaged in parts}
        return tiled.lpips_layers(pair, self._feature_maps, **kinds)

    def _layer_maps(self, x: Encoded, y: Encoded, arrange: distance.Arrangement = distance.in_place) -> list[Tensor]:
        return self._feature_maps(x.features, y.features, arrange)

    def _feature_maps(
        self, x: Sequence[Tensor], y: Sequence[Tensor], arrange: distance.Arrangement = distance.in_place
    ) -> list[Tensor]:
        compare = functools.partial(distance.lpips_map, arrange=arrange, channel_norm=self.channel_norm)
        return [compare(a, b, w) for a, b, w in self._layers(x, y)]

    def _layers(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield the feature maps of both images and the head of each layer."""
        heads = [None] * len(x) if self._heads is None else self._heads
        return zip(x, y, heads, strict=True)

    @frame_by_frame()
    def spatial_map(self, x: Images, y: Images) -> Float[Tensor, "n 1 h w"]:
        """Return where the images differ: (N, 1, H, W), the layers' maps brought to the image's size and summed.

        As `lpips` with `spatial=True`. Bilinear enlargement keeps each layer's mean up to its border, so the map's mean
        is near the score, not equal to it. With `comparison="spatial+mean"` or `"spatial+sort"` it is the map of the
        spatial part, whose mean is near that part of the score.

        Raises:
            ValueError: with `comparison="mean"` or `"sort"`, which forget where a feature was.
        """
        if distance.in_place not in distance.COMPARISONS[self.comparison]:
            raise ValueError(
                f"spatial_map: where images differ is not defined for comparison={self.comparison!r}, which forgets"
                f" where a feature was: use comparison='spatial', or 'spatial+{self.comparison}' for the map of its"
                " spatial part"
            )
        x, y = self.checked(x, y)
        size = size_of(x)

        def by_tiles(pair: tiled.TiledPair) -> Tensor:
            return _summed(tiled.lpips_maps(pair, self._feature_maps), size)

        if (found := self._by_tiles(by_tiles, x, y)) is not None:
            return found
        return _summed(self._layer_maps(*self._encoded_pair(x, y)), size)

    def configuration(self) -> dict[str, Any]:
        heads = self.heads
        if self._head_values is not None and heads not in head_names():
            heads = str([h.tolist() for h in self._head_values])
        # Published LPIPS goes without the names of its variants: states saved before there were any still load.
        return {**super().configuration(), "heads": heads, **self._variant}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {_spelled({'heads': self.heads, **self._variant})}"


def _spelled(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _summed(maps: list[Tensor], size: tuple[int, int]) -> Float[Tensor, "n 1 h w"]:
    """Return the sum of maps brought to one size."""
    return torch.stack([distance.upsample(d, size) for d in maps]).sum(0)


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


class DAMLPIPS(PerceptualDistance):
    """Differentiable Adaptive Multi-Layer LPIPS, version 1; lower is closer, 0 for identical images.

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
        weights, value_range, reduction, grey, resize, check_values, deterministic: as for `LPIPS`.
        dtype, reference_cache, compile, video: as for `LPIPS`.
        tile: as for `LPIPS`; of the image as it is looked at, so that it matters with `viewing_side=None` and for long
            panoramas. Tiles go through the network twice: weights depend on means over the whole image.
        rho: the share of a place's own energy in its normalisation, 0 to 1; the rest is the mean over the image.
        gamma: how much a channel's weight falls with its energy, at least 0.
        viewing_side: images are looked at with this shorter side in pixels where theirs is longer, so that scores of
            different sizes compare; None: as they are.

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

    def __init__(
        self,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        *,
        weights: str | os.PathLike[str] | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        reduction: str = "none",
        grey: checks.Grey = None,
        resize: checks.Resize = None,
        check_values: bool = True,
        deterministic: bool = False,
        dtype: torch.dtype | None = None,
        reference_cache: int = CACHE_BYTES,
        tile: int | None = None,
        compile: bool = False,
        video: bool = False,
        rho: float = 0.25,
        gamma: float = 0.5,
        viewing_side: int | None = VIEWING_SIDE,
    ) -> None:
        super().__init__(
            backbone,
            weights=weights,
            value_range=value_range,
            reduction=reduction,
            grey=grey,
            resize=resize,
            check_values=check_values,
            deterministic=deterministic,
            dtype=dtype,
            reference_cache=reference_cache,
            tile=tile,
            compile=compile,
            video=video,
        )
        if not 0 <= rho <= 1:
            raise ValueError(f"rho: expected a share from 0 to 1, got {rho!r}")
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma: expected a finite exponent of at least 0, got {gamma!r}")
        self.rho, self.gamma = float(rho), float(gamma)
        least = self.source.min_size
        if viewing_side is not None and (isinstance(viewing_side, bool) or not isinstance(viewing_side, int)):
            raise TypeError(f"viewing_side: expected None or a number of pixels, got {viewing_side!r}")
        if viewing_side is not None and viewing_side < least:
            raise ValueError(
                f"viewing_side: expected None or at least {least} pixels, the least that backbone"
                f" {self.source.name!r} takes, got {viewing_side}"
            )
        self.viewing_side = viewing_side
        if self.source.is_here:
            self.load()

    def layers(self, x: Images) -> list[Tensor]:
        """Return what DAMLPIPS compares: (N, C_l, H_l, W_l), the image in adapted colours, then the feature maps."""
        x = x if isinstance(x, Encoded) else self.encode(x)
        return [_colours(x), *x.features]

    def _to_keep(self, encoded: Encoded) -> Encoded:
        with one_order(self.anchor.device) if self.deterministic else contextlib.nullcontext():
            return replace(encoded, seen=_colours(encoded), adapted=True)

    @property
    def _weighing(self) -> distance.Adaptive:
        return distance.Adaptive(self.rho, self.gamma)

    def _comparisons(self, x: Encoded, y: Encoded) -> list[distance.Comparison]:
        image, *network = zip(self.layers(x), self.layers(y), strict=True)
        return [
            distance.compare(*image, IMAGE_WEIGHING),
            *(distance.compare(a, b, self._weighing) for a, b in network),
        ]

    def _per_layer(self, x: Encoded, y: Encoded) -> Float[Tensor, "n l"]:
        network = zip(x.features, y.features, strict=True)
        image = _image_distances(x, y)
        return _fused([image, *(adaptive_head(a, b, self._weighing) for a, b in network)])

    def _tiled(self, pair: tiled.TiledPair) -> tiled.TiledDamlpips:
        return tiled.TiledDamlpips(pair, self.rho, self.gamma)

    def _tiled_layers(self, pair: tiled.TiledPair) -> Float[Tensor, "1 l"]:
        return self._tiled(pair).layers()

    @frame_by_frame()
    def spatial_map(self, x: Images, y: Images) -> Float[Tensor, "n 1 h w"]:
        """Return where the images differ: (N, 1, H, W), whose mean is the score.

        Each layer's map, to the power that pools it, is enlarged bilinearly and scaled so that its mean is what the
        layer adds to the score.
        """
        x, y = self.checked(x, y)
        size = size_of(x)
        if (found := self._by_tiles(lambda pair: _scaled(*self._tiled(pair).maps(), size), x, y)) is not None:
            return found
        compared = self._comparisons(*self._encoded_pair(x, y))
        return _scaled([c.map for c in compared], _fused(compared), size)

    def weights_for(self, x: Images, y: Images) -> AdaptiveWeights:
        """Return the weights of place, channel and layer that the score of each pair was made with.

        They belong to the maps that `layers` returns. Both are computed whole, also with `tile`.
        """
        compared = self._comparisons(*self.compare(x, y))
        structure = torch.stack([c.structure for c in compared], 1)
        return AdaptiveWeights(
            [c.place * distance.peak_weight(c.map, c.structure) for c in compared],
            [c.channel for c in compared],
            distance.fusion_weight(structure, _fused(compared)),
        )

    def configuration(self) -> dict[str, Any]:
        options = {"version": 1, "rho": self.rho, "gamma": self.gamma, "viewing_side": self.viewing_side}
        return {**super().configuration(), **options}

    def extra_repr(self) -> str:
        options = f"rho={self.rho}, gamma={self.gamma}, viewing_side={self.viewing_side}"
        return f"{super().extra_repr()}, {options}"


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
        return adaptive_head(_colours(x), _colours(y), IMAGE_WEIGHING)
    parts = [
        adaptive_head(_colours(x, part), _colours(y, part), IMAGE_WEIGHING)
        for part in batches(x.seen, max(1, images_of(x.seen) // 2))
    ]
    return Distances(*map(torch.cat, zip(*parts, strict=True)))


def _fused(compared: Sequence[distance.Comparison | Distances]) -> Float[Tensor, "n l"]:
    return distance.fuse(torch.stack([c.structure for c in compared], 1), torch.stack([c.texture for c in compared], 1))


def _scaled(maps: list[Tensor], added: Float[Tensor, "n l"], size: tuple[int, int]) -> Float[Tensor, "n 1 h w"]:
    """Return where the images differ: each layer's map enlarged, in proportion to what it adds to the score."""
    enlarged = [distance.upsample(distance.peak_map(d), size) for d in maps]
    mean = torch.stack([distance.pool(d) for d in enlarged], 1)
    factor = torch.where(mean > 0, added / torch.where(mean > 0, mean, 1.0), 0.0)
    return torch.stack([d * f[:, None, None, None] for d, f in zip(enlarged, factor.unbind(1), strict=True)]).sum(0)
