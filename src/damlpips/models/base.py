"""What LPIPS and DAMLPIPS share: images checked and brought to a size, run through a backbone, and compared."""

import contextlib
import functools
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from damlpips import checks
from damlpips.models import tiled
from damlpips.models.references import CACHE_BYTES, Keys, Named, ReferenceCache
from damlpips.models.video import ACCELERATED, frame_by_frame
from damlpips.nets.backbone import Backbone
from damlpips.nets.encoded import Encoded
from damlpips.nets.geometry import tiling_of
from damlpips.nets.shared import Source
from damlpips.nets.table import Scaling
from damlpips.ops import distance
from damlpips.ops.execution import batches, deterministic_sums, on_cpu
from damlpips.ops.tiling import Tiling
from damlpips.process import limit_threads_after_fork, raise_malloc_threshold

Images = Tensor | Encoded


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
            None
            if tile is None
            else tiling_of(self.source.backbone, checks.pixels("tile", tile), least=self.source.min_size)
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
        with deterministic_sums(self.anchor.device):
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
        height, width = self._seen_size(size_of(x))
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
        with deterministic_sums(self.anchor.device) if self.deterministic else contextlib.nullcontext():
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
                whose key came before is not run through the backbone again; see `damlpips.models.references`.

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
            x = _resized(x, size_of(y))
        self._check_size(x, what="first image")
        self._check_size(y, what="second image")
        if count is None:
            x, y = _matched(x, y)
            count = _count_of(y)
        checks.matching_batch(_count_of(x), count, size_of(x), size_of(y))
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
        limit_threads_after_fork()
        raise_malloc_threshold()
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
        checks.large_enough(size_of(x), self.source.min_size, what=what, backbone=self.source.name)

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
        with deterministic_sums(self.anchor.device):
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


def size_of(x: Images) -> tuple[int, int]:
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
