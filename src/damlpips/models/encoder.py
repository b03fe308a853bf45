"""Images to feature maps, as one module wants them: resampled to its viewing size, scaled, run through its network."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from damlpips import checks
from damlpips.models.settings import Settings
from damlpips.nets.backbone import Backbone
from damlpips.nets.encoded import Encoded
from damlpips.nets.shared import Source
from damlpips.nets.table import Scaling
from damlpips.ops import distance
from damlpips.ops.execution import deterministic_sums, exact_dtype, is_followed, on_cpu

Images = Tensor | Encoded
Size = tuple[int, int]


class Encoder:
    """A network on a device, and how images come to it.

    Args:
        source: where the network comes from; it is loaded, or downloaded, when it is first used.
        settings: of the module.
        scaling: in place of the network's own.
        viewing_side: larger images are averaged down to this shorter side.
        device, dtype: where the network runs, and in what.

    Attributes:
        min_size: the least side of an image in pixels.
        channels: of an image.
        origin: what an `Encoded` must come from to be used in place of an image.
    """

    def __init__(
        self,
        source: Source,
        settings: Settings,
        *,
        scaling: Scaling | None = None,
        viewing_side: int | None = None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.source, self.scaling, self.viewing_side = source, scaling, viewing_side
        self.device, self.dtype = device, settings.dtype or dtype
        self.settings = settings
        self.name, self.min_size, self.channels = source.name, source.min_size, source.channels
        # LPIPS alone has it
        self.fed_as: checks.ValueRange | None = getattr(settings, "fed_as", None)
        self.origin: Hashable = (source, scaling, self.fed_as)
        self._backbone: Backbone | None = None
        self._warned = False

    def on(self, device: torch.device, dtype: torch.dtype) -> "Encoder":
        """Return the same on another device or in another type; loaded if this one is."""
        moved = Encoder(
            self.source,
            self.settings,
            scaling=self.scaling,
            viewing_side=self.viewing_side,
            device=device,
            dtype=dtype,
        )
        moved._warned = self._warned
        if self._backbone is not None:
            moved._backbone = self.source.get(moved.device, moved.dtype)
        return moved

    def warn(self, message: str) -> None:
        """Warn of images whose values are not what they should be, once."""
        if not self._warned:
            self._warned = True
            warnings.warn(message, UserWarning, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backbone": None}  # comes back by its source

    @property
    def backbone(self) -> Backbone:
        """The network, shared with every module of the process that uses it."""
        if self._backbone is None:
            self._backbone = self.source.get(self.device, self.dtype)
        return self._backbone

    @property
    def exact_dtype(self) -> torch.dtype:
        """The type of scores: float32 at least."""
        return exact_dtype(self.dtype)

    def __call__(self, images: Images, size: Size) -> Encoded:
        """Return the feature maps of images that are compared at a size."""
        return images if isinstance(images, Encoded) else self.of_seen(self.seen(images, size), size)

    def pair(self, x: Images, y: Images, size: Size) -> tuple[Encoded, Encoded]:
        """Return the feature maps of both batches, in one pass where that is cheaper."""
        if isinstance(x, Encoded) or isinstance(y, Encoded):
            return self(x, size), self(y, size)
        return self.pair_of_seen(self.seen(x, size), self.seen(y, size), size)

    def pair_of_seen(self, x: Tensor, y: Tensor, size: Size) -> tuple[Encoded, Encoded]:
        """Return the feature maps of both batches, which have the size that the network sees."""
        # where only one of them is optimised, one pass would differentiate through the other for nothing
        optimised = checks.is_optimised(x), checks.is_optimised(y)
        apart = any(optimised) and (not all(optimised) or x.device.type == "cuda")  # see `Backbone._takes_half`
        if apart or (on_cpu(x) and 2 * len(x) > self.pass_count(size)):
            return self.of_seen(x, size), self.of_seen(y, size)
        n, maps = x.shape[0], self._maps(x, y)
        return self._encoded([m[:n] for m in maps], x, size), self._encoded([m[n:] for m in maps], y, size)

    def of_seen(self, seen: Tensor, size: Size) -> Encoded:
        """Return the feature maps of images that have the size that the network sees."""
        return self._encoded(self._maps(seen), seen, size)

    def _encoded(self, maps: Sequence[Tensor], seen: Tensor, size: Size) -> Encoded:
        if not checks.is_optimised(seen) and not is_followed(seen):
            # a tensor of its own, so that the caller's goes when the caller lets go of it
            seen = seen.detach()
        return Encoded(tuple(maps), size, self.origin, seen, self.settings.value_range)

    def _maps(self, *seen: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of some batches of images, joined."""

        taken_as = self.fed_as or self.settings.value_range

        def run(*images: Tensor) -> list[Tensor]:
            return self.backbone(*images, value_range=taken_as, scaling=self.scaling)

        if not self.settings.deterministic:
            return run(*seen)
        # kernels are chosen by the size of the batch, too
        with deterministic_sums(self.device):
            single = [image for images in seen for image in images.split(1)]
            return [torch.cat(layer) for layer in zip(*map(run, single), strict=True)]

    def seen_size(self, size: Size) -> Size:
        """Return the size at which the network sees images of a size: no shorter side above `viewing_side`."""
        if self.viewing_side is None or min(size) <= self.viewing_side:
            return size
        return scaled_to(size, self.viewing_side)

    def seen(self, images: Tensor, size: Size) -> Tensor:
        """Return images that are compared at a size as the network sees them."""
        images = resized(images, size)
        if self.fed_as is not None:  # bytes know of no other range
            images = self.floats(images)
        seen = self.seen_size(size)
        if seen == size:
            return images
        return resized(distance.working(self.floats(images)), seen)  # averages of bytes are not rounded to bytes

    def floats(self, images: Tensor) -> Tensor:
        """Return images as floats in `value_range`."""
        if images.dtype != torch.uint8:
            return images
        low, high = self.settings.value_range
        return low + images.float() * ((high - low) / 255)

    def pass_count(self, size: Size, times: int = 1) -> int:
        """Return how many images of a size go through the network at a time on a CPU, `times` as many elsewhere."""
        height, width = self.seen_size(size)
        times = 1 if self.device.type == "cpu" else times
        return max(1, times * self.source.pass_values // max(1, self.channels * height * width))

    def conditions(self) -> tuple[Hashable, ...]:
        """Return what the feature maps of an image depend on, but for its size."""
        kind = self.device.type
        autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        # all options of both distances that scores depend on, so that a new one is never forgotten here
        options = [getattr(self.settings, f.name) for f in fields(Settings) if f.metadata["scored"]]
        return (
            *(self.origin, self.device, self.dtype, self.settings.check_values, *options),
            torch.get_autocast_dtype(kind) if autocast else None,
        )


def scaled_to(size: Size, resize: int | Size) -> Size:
    """Return the size that images of a size have afterwards: (height, width), or one with that shorter side."""
    if isinstance(resize, tuple):
        return resize
    if torch.jit.is_tracing():  # type: ignore[attr-defined]  # sides are tensors there, and the trace follows them
        sides = torch.stack([torch.as_tensor(side) for side in size]).double()
        height, width = (sides * resize / sides.min()).round().clamp(min=1).long().unbind()
        return height, width  # type: ignore[return-value]
    shorter = min(size)
    return max(1, round(size[0] * resize / shorter)), max(1, round(size[1] * resize / shorter))


def resized(x: Tensor, size: Size) -> Tensor:
    """Resample with a triangle filter that averages when it shrinks; it never leaves the range of the values."""
    if checks.size_of(x) == size:
        return x
    # not every device resamples bytes and half precision
    resampled = F.interpolate(distance.working(x), size, mode="bilinear", antialias=True)
    return (resampled.round() if x.dtype == torch.uint8 else resampled).to(x.dtype)
