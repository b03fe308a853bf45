"""LPIPS: feature maps compared with learned weights."""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from damlpips import checks
from damlpips.models import tiled
from damlpips.models.base import Images, PerceptualDistance, size_of
from damlpips.models.references import CACHE_BYTES
from damlpips.models.video import frame_by_frame
from damlpips.nets.backbone import Backbone
from damlpips.nets.encoded import Encoded
from damlpips.nets.table import BACKBONES, SYMMETRIC
from damlpips.nets.weights import head_names, load_heads
from damlpips.ops import distance
from damlpips.ops.fused import lpips_head


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
