"""LPIPS and DAMLPIPS as modules: a backbone, weights, and the functions of `distance`."""

import contextlib
import functools
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from damlpips import checks, colour, distance, tiled
from damlpips.allocation import keep_freed_memory
from damlpips.blocks import batches, images_of, on_cpu
from damlpips.features import BACKBONES, SYMMETRIC, Backbone, Encoded, Scaling
from damlpips.forks import without_lost_threads
from damlpips.heads import Distances, adaptive_head, lpips_head
from damlpips.references import CACHE_BYTES, Keys, Named, ReferenceCache
from damlpips.reproducible import one_order
from damlpips.sharing import Source
from damlpips.tiling import Tiling
from damlpips.tracing import tiling_of
from damlpips.video import ACCELERATED, frame_by_frame
from damlpips.weights import head_names, load_heads

DEFAULT_BACKBONE = "nano"
# The shorter side at which DAMLPIPS looks at larger images: agreement with observers is highest near it.
VIEWING_SIDE = 256

Images = Tensor | Encoded

# the same weight for every place and channel of an image
IMAGE_WEIGHING = distance.Fixed(colour.PHOTOGRAPH_ENERGY)


class PerceptualDistance(nn.Module):
    """What LPIPS and DAMLPIPS share: inputs checked, run through the backbone, compared layer by layer, fused.

    A subclass says what each layer adds (`_per_layer`), where images differ (`spatial_map`), and at what size it looks
    at images (`viewing_side`).
    Nothing is registered, neither parameter nor buffer, so there is nothing that a `state_dict` would hold or that DDP
    and FSDP would send around or shard; the backbone follows `.to()`, `.double()` and the like.
    """

    _scaling: Scaling | None = None
    viewing_side: int | None = None
    dtype: torch.dtype | None = None
    video = False

    def __init__(
        self,
        backbone: str | Backbone,
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
    ) -> None:
        super().__init__()
        self.source = Source.of(backbone, weights)
        self.value_range = checks.value_range(value_range)
        self.reduction = checks.one_of("reduction", reduction, checks.REDUCTIONS)
        self.grey = None if grey is None else checks.one_of("grey", grey, ["repeat"])
        self.resize = checks.resize_option(resize)
        self.check_values = bool(check_values)
        self.deterministic = bool(deterministic)
        self.dtype = checks.floating_type(dtype)
        self.references = ReferenceCache(reference_cache)
        self.tiling: Tiling | None = (
            None if tile is None else tiling_of(self.source.backbone, checks.tile(tile), least=self.source.min_size)
        )
        # not `compile`, which is a method of every module
        self.compiled = bool(compile)
        self.video = bool(video)
        self._program: Callable[[Tensor, Tensor], Tensor] | None = None
        # Empty, and only there to be moved: its device and dtype say where the shared backbone has to be. Not a buffer:
        # DDP would broadcast it before every step.
        self.anchor = torch.empty(0)
        # With the place it was made for, and in a tuple, so that it is not registered as a submodule.
        self._loaded: tuple[tuple[torch.device, torch.dtype], Backbone] | None = None

    @property
    def backbone(self) -> Backbone:
        """The shared backbone on this module's device; loaded, or downloaded, when first used."""
        place = (self.anchor.device, self.pass_dtype)
        if self._loaded is None or self._loaded[0] != place:
            self._loaded = (place, self.source.get(*place))
        return self._loaded[1]

    @property
    def pass_dtype(self) -> torch.dtype:
        """What the network runs in: `dtype`, or without one what the module was cast to."""
        return self.anchor.dtype if self.dtype is None else self.dtype

    def load(self) -> "PerceptualDistance":
        """Load the backbone now, downloading it if need be, instead of when the first score is asked for."""
        _ = self.backbone
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "PerceptualDistance":
        super()._apply(fn, recurse)
        self._place(fn(self.anchor))
        return self

    def _place(self, anchor: Tensor) -> None:
        """Go where `anchor` is, with everything that is computed with."""
        if (anchor.device, anchor.dtype) != (self.anchor.device, self.anchor.dtype):
            # maps that lie elsewhere serve nobody; not emptied, since a replica holds its original's until here
            self.references = ReferenceCache(self.references.limit)
        self.anchor = anchor
        if self._loaded is not None:
            self.load()

    def _follow(self, x: Tensor) -> None:
        """Let a replica, which `torch.nn.DataParallel` makes without moving it, go to the device of its images."""
        if getattr(self, "_is_replica", False) and isinstance(x, Tensor) and x.device != self.anchor.device:
            self._place(self.anchor.to(x.device))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_program": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.source.is_here:
            self.load()

    @property
    def origin(self) -> Hashable:
        """What an `Encoded` must come from to be used here."""
        return self.source, self._scaling

    def clear_references(self) -> None:
        """Forget the references that came with a key."""
        self.references.clear()

    def forward(self, x: Images, y: Images, *, reference_key: Keys | None = None) -> Tensor:
        """Return the distance of each pair, (N,), or its mean or sum as `reduction` says; lower is closer.

        `reference_key` names the images of y, one key each: see `compare`.
        """
        return distance.reduce(self.per_layer(x, y, reference_key=reference_key).sum(1), self.reduction)

    @frame_by_frame(mean=True)
    def per_layer(self, x: Images, y: Images, *, reference_key: Keys | None = None) -> Float[Tensor, "n l"]:
        """Return what each layer adds to the score of each pair: (N, L), from fine to coarse; rows sum to scores."""
        if self.tiling is not None:
            a, b = self.checked(x, y)
            if (found := self._by_tiles(self._tiled_layers, a, b)) is not None:
                return found
        if reference_key is not None:
            return self._keyed_layers(x, y, reference_key)
        if not self.takes_images(x, y):
            return self._whole_layers(*self.compare(x, y))
        run = self._run_compiled if self._is_compiled(x, y) else self._run
        is_split = self._is_split(x, y)
        a, b = self.checked(x, y)
        if not is_split:
            return run(a, b)
        return torch.cat([run(a[part], b[part]) for part in batches(a, self._pass_count(a))])

    def _keyed_layers(self, x: Images, y: Images, reference_key: Keys) -> Float[Tensor, "n l"]:
        named = self._named(x, y, reference_key)
        if not self._is_split(x, y):
            return self._whole_layers(*self._with_references(x, y, named))
        self._ready(x, y)  # a bad image anywhere is an error before any is run
        parts = (self._with_references(x[p], y[p], named[p]) for p in batches(y, self._pass_count(y)))
        return torch.cat([self._whole_layers(a, b) for a, b in parts])

    def _run(self, x: Images, y: Images) -> Float[Tensor, "n l"]:
        return self._whole_layers(*self._encoded_pair(x, y))

    def _is_compiled(self, x: Images, y: Images) -> bool:
        by_itself = self.compiled and not self.deterministic and not torch.compiler.is_compiling()
        return by_itself and isinstance(x, Tensor) and isinstance(y, Tensor)

    def _run_compiled(self, x: Any, y: Any) -> Float[Tensor, "n l"]:
        if self._program is None:
            self._program = torch.compile(lambda a, b: self._per_layer(*self._encoded_pair(a, b)))
        _ = self.backbone  # loading a file is nothing to compile
        try:
            return self._program(x, y)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise RuntimeError(
                f"compile=True: torch.compile failed on {self.anchor.device}, which takes a C++ compiler on a CPU and"
                f" Triton on CUDA: install it, or use compile=False ({error})"
            ) from error

    def _whole_layers(self, x: Encoded, y: Encoded) -> Float[Tensor, "n l"]:
        if not self.deterministic:
            return self._per_layer(x, y)
        with one_order(self.anchor.device):
            pairs = ((x[n : n + 1], y[n : n + 1]) for n in range(len(x)))
            return torch.cat([self._per_layer(a, b) for a, b in pairs])

    def takes_images(self, x: Images, y: Images) -> bool:
        """Return whether `per_layer` runs images through the network in a better way than as a whole batch."""
        return self._is_compiled(x, y) or self._is_split(x, y)

    def _is_split(self, x: Images, y: Images) -> bool:
        """Return whether a batch goes through part by part: on a CPU, where no graph needs the whole's feature maps."""
        return (
            isinstance(x, Tensor)
            and isinstance(y, Tensor)
            and x.ndim == 4
            and on_cpu(x)
            and not (checks.is_optimised(x) or checks.is_optimised(y))
            and len(x) > self._pass_count(x)
        )

    def _pass_count(self, x: Images, times: int = 1) -> int:
        """Return how many images go through the network at a time on a CPU, or where it takes `times` as many."""
        height, width = self._seen_size(_size_of(x))
        return max(1, times * self.source.pass_values // max(1, 3 * height * width))

    def frames_at_once(self, x: Tensor) -> int:
        """Return how many of the frames of a video go through the network at a time."""
        return self._pass_count(x, 1 if x.device.type == "cpu" else ACCELERATED)

    def _per_layer(self, x: Encoded, y: Encoded) -> Float[Tensor, "n l"]:
        raise NotImplementedError

    def _tiled_layers(self, pair: tiled.TiledPair) -> Float[Tensor, "1 l"]:
        raise NotImplementedError

    def spatial_map(self, x: Images, y: Images) -> Float[Tensor, "n 1 h w"]:
        """Return where the images of each pair differ: (N, 1, H, W)."""
        raise NotImplementedError

    def is_tiled(self, size: tuple[int, int]) -> bool:
        """Return whether images of a size, in pixels, are compared tile by tile."""
        return self.tiling is not None and not self.tiling.fits(self._seen_size(size))

    def _by_tiles(self, compare: Callable[[tiled.TiledPair], Tensor], x: Images, y: Images) -> Tensor | None:
        """Return what `compare` makes of each pair of two batches; None where they are compared whole."""
        if self.tiling is None or isinstance(x, Encoded) or isinstance(y, Encoded):
            return None
        if not self.is_tiled(checks.size_of(x)):
            return None
        exact = torch.float64 if self.pass_dtype == torch.float64 else torch.float32
        found = []
        with one_order(self.anchor.device) if self.deterministic else contextlib.nullcontext():
            for a, b in zip(x.split(1), y.split(1), strict=True):
                pair = tiled.TiledPair(self._seen(a), self._seen(b), self.tiling, self._encoded, exact)
                found.append(compare(pair))
        return torch.cat(found)

    def encode(self, x: Tensor) -> Encoded:
        """Run images through the backbone once; the result stands in for them in either place of later calls.

        The result of one image is compared with each image of a batch. It holds whole feature maps, also with `tile`,
        and is compared whole.

        With gradients enabled it carries the graph; call `.detach()` on it, or encode under `torch.no_grad()`, to keep
        a fixed reference.
        """
        self._follow(x)
        x = self._prepared(x, what="images")
        self._check_size(x, what="images")
        # copied: what is kept must not change when the caller's tensor does
        return self._to_keep(self._encoded(x.clone()))

    def _to_keep(self, encoded: Encoded) -> Encoded:
        """Return images that are compared more than once with what need not be computed again."""
        return encoded

    def compare(self, x: Images, y: Images, *, reference_key: Keys | None = None) -> tuple[Encoded, Encoded]:
        """Check a pair of batches and return both encoded, in one pass through the backbone where that is cheaper.

        Args:
            x, y: (N, 3, H, W), or what `encode` returned; of one image it stands in for N.
            reference_key: a key for each image of y, `str`, `int` or another hashable, or whole numbers (N,). An image
                whose key came before is not run through the backbone again; see `damlpips.references`.

        Raises:
            TypeError, ValueError: see `damlpips.checks`; the message says what came and what was expected.
        """
        if reference_key is None:
            return self._encoded_pair(*self.checked(x, y))
        return self._with_references(x, y, self._named(x, y, reference_key))

    def _named(self, x: Images, y: Images, reference_key: Keys) -> Sequence[Named]:
        self._check_pair(x, y)
        return self.references.named(reference_key, y, (*self._conditions(), self.viewing_side), grey=self.grey)

    def _with_references(self, x: Images, y: Any, named: Sequence[Named]) -> tuple[Encoded, Encoded]:
        wanted = self.references.find(named, y)
        x, new = self._encoded_pair(*self._ready(x, wanted.images, count=len(named)))
        return x, self.references.complete(wanted, self._to_keep(new) if wanted.rows else new)

    def checked(self, x: Images, y: Images) -> tuple[Images, Images]:
        """Check a pair of batches and return both with three channels and in one size.

        Raises:
            TypeError, ValueError: as `compare`.
        """
        self._check_pair(x, y)
        return self._ready(x, y)

    def _check_pair(self, x: Images, y: Images) -> None:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            checks.matching_pair(x, y)
            self._follow(x)

    def _ready(self, x: Images, y: Images, *, count: int | None = None) -> tuple[Images, Images]:
        """Return both batches prepared; y stands for `count` images, where that is not as many as it has."""
        x, y = self._prepared(x, what="first image"), self._prepared(y, what="second image")
        if self.resize == "reference" and isinstance(x, Tensor):
            x = _resized(x, _size_of(y))
        self._check_size(x, what="first image")
        self._check_size(y, what="second image")
        if count is None:
            x, y = _matched(x, y)
            count = _count_of(y)
        checks.matching_batch(_count_of(x), count, _size_of(x), _size_of(y))
        return x, y

    def _encoded_pair(self, x: Images, y: Images) -> tuple[Encoded, Encoded]:
        # Where only one of them is optimised, batching would differentiate through the other for nothing.
        if (
            isinstance(x, Encoded)
            or isinstance(y, Encoded)
            or (torch.is_grad_enabled() and x.requires_grad != y.requires_grad)
            or (on_cpu(x) and 2 * len(x) > self._pass_count(x))
        ):
            return self._encoded(x), self._encoded(y)
        both = self._encoded(torch.cat([x, y]))
        count = _count_of(x)
        return both[:count], both[count:]

    @overload
    def _prepared(self, x: Tensor, *, what: str) -> Tensor: ...

    @overload
    def _prepared(self, x: Images, *, what: str) -> Images: ...

    def _prepared(self, x: Images, *, what: str) -> Images:
        """Return a checked batch: images with three channels, resized if all are, or feature maps of this module."""
        without_lost_threads()
        keep_freed_memory()
        if isinstance(x, Encoded):
            if x.origin != self.origin:
                raise ValueError(
                    f"{what}: was encoded by another backbone, weights or heads version than this module's"
                    f" ({self.source.name!r})"
                )
            if checks.size_of(x.seen) != self._seen_size(x.size):
                raise ValueError(
                    f"{what}: was encoded at {_spelled_size(checks.size_of(x.seen))} pixels, this module looks at"
                    f" {_spelled_size(self._seen_size(x.size))}: encode it with this module"
                )
            checks.same_device(x.features[0], self.anchor.device, what=what, owner="the module")
            return x
        checks.image_batch(x, what=what, grey=self.grey)
        checks.same_device(x, self.anchor.device, what=what, owner="the module")
        # On an accelerator reading values would stall it.
        readable = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.check_values and readable and not checks.is_optimised(x):
            checks.values(x, self.value_range, what=what)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.resize is not None and self.resize != "reference":
            x = _resized(x, _target_size(checks.size_of(x), self.resize))
        return x

    def _check_size(self, x: Images, *, what: str) -> None:
        checks.large_enough(_size_of(x), self.source.min_size, what=what, backbone=self.source.name)

    def _encoded(self, x: Images) -> Encoded:
        if isinstance(x, Encoded):
            return x
        seen = self._seen(x)
        maps = tuple(self._maps(seen))
        if not torch.is_grad_enabled():
            seen = seen.detach()
        return Encoded(maps, checks.size_of(x), self.origin, seen, self.value_range)

    def _seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size at which images of a size are looked at: no shorter side above `viewing_side`."""
        if self.viewing_side is None or min(size) <= self.viewing_side:
            return size
        return _target_size(size, self.viewing_side)

    def _seen(self, x: Tensor) -> Tensor:
        size = self._seen_size(checks.size_of(x))
        if size == checks.size_of(x):
            return x
        if x.dtype == torch.uint8:  # averages of bytes are not rounded to bytes
            low, high = self.value_range
            x = low + x.float() * ((high - low) / 255)
        return _resized(distance.working(x), size)

    def _maps(self, x: Tensor) -> list[Tensor]:
        run = functools.partial(self.backbone, value_range=self.value_range, scaling=self._scaling)
        if not self.deterministic:
            return run(x)
        # kernels are chosen by the size of the batch, too
        with one_order(self.anchor.device):
            return [torch.cat(layer) for layer in zip(*map(run, x.split(1)), strict=True)]

    def encoding_key(self, size: tuple[int, int]) -> Hashable:
        """Return what two modules must agree in for the feature maps of one to serve the other.

        Args:
            size: height and width of the second images of the pairs.
        """
        if self.resize is not None and self.resize != "reference":
            size = _target_size(size, self.resize)
        return *self._conditions(), self._seen_size(size)

    def _conditions(self) -> tuple[Hashable, ...]:
        """Return what the feature maps of an image depend on, but for its size."""
        device = self.anchor.device
        autocast = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
        return (
            *(self.source, self._scaling, device, self.pass_dtype),
            *(self.value_range, self.grey, self.resize, self.check_values, self.deterministic, self.video),
            torch.get_autocast_dtype(device.type) if autocast else None,
        )

    def configuration(self) -> dict[str, Any]:
        """Return every option that a score depends on, by name."""
        options: dict[str, Any] = {
            "metric": type(self).__name__,
            "backbone": self.source.identity(),
            "value_range": self.value_range,
            "grey": self.grey,
            "resize": self.resize,
            "deterministic": self.deterministic,
        }
        # states saved before there was a choice still load
        if self.dtype is not None:
            options["dtype"] = str(self.dtype)
        if self.video:
            options["video"] = True
        return options

    def extra_repr(self) -> str:
        more = "" if self.tiling is None else f", tile={self.tiling.tile}"
        more += ", video=True" if self.video else ""
        return f"backbone={self.source.name!r}, value_range={self.value_range}, reduction={self.reduction!r}{more}"


def _matched(x: Images, y: Images) -> tuple[Images, Images]:
    """Let one encoded image stand in for as many as the other batch has; an image alone may be one by mistake."""
    if isinstance(x, Encoded) and _count_of(x) == 1 != _count_of(y):
        x = x.expand(_count_of(y))
    if isinstance(y, Encoded) and _count_of(y) == 1 != _count_of(x):
        y = y.expand(_count_of(x))
    return x, y


def _size_of(x: Images) -> tuple[int, int]:
    return x.size if isinstance(x, Encoded) else checks.size_of(x)


def _count_of(x: Images) -> int:
    # not len(), which would fix the batch of an exported program
    return (x.features[0] if isinstance(x, Encoded) else x).shape[0]


def _spelled_size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _target_size(size: tuple[int, int], resize: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(resize, tuple):
        return resize
    shorter = min(size)
    return max(1, round(size[0] * resize / shorter)), max(1, round(size[1] * resize / shorter))


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample with a triangle filter that averages when it shrinks; it never leaves the range of the values."""
    if checks.size_of(x) == size:
        return x
    # not every device resamples bytes and half precision
    resampled = F.interpolate(distance.working(x), size, mode="bilinear", antialias=True)
    return (resampled.round() if x.dtype == torch.uint8 else resampled).to(x.dtype)


def _spelled(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


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
        size = _size_of(x)

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
        size = _size_of(x)
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
