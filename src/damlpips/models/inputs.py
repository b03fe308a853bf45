"""What comes in, checked once: shapes, types, devices, values and sizes. Nothing below checks again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from damlpips import checks
from damlpips.models.encoder import Encoder, Images, Size, scaled_to
from damlpips.models.references import Named
from damlpips.models.settings import Settings
from damlpips.nets.encoded import Encoded
from damlpips.ops import coverage
from damlpips.ops.distance import working
from damlpips.ops.execution import on_cpu
from damlpips.ops.fused import image_kernels
from damlpips.process import limit_threads_after_fork, raise_malloc_threshold


@dataclass(frozen=True, eq=False)
class Pair:
    """Two batches that can be compared: N images each, with three channels, or their feature maps.

    Attributes:
        given_x, given_y: the first and the second images, as they were checked.
        size: height and width at which they are compared; images of another are resampled on their way to the network.
        names: what the second images are recognised by, where they have keys.
        in_range: whether all values are known to be finite and in `value_range`.
        bounds: where what rounding left outside has not been clamped yet, the range.
        mask: 1 where the images count and 0 elsewhere, where they are continued; None: everywhere.
    """

    given_x: Images
    given_y: Images
    size: Size
    names: Sequence[Named] = ()
    in_range: bool = False
    bounds: checks.ValueRange | None = None
    mask: Tensor | None = None

    @property
    def x(self) -> Images:
        """The first images."""
        return self._in_bounds(self.given_x)

    @property
    def y(self) -> Images:
        """The second images."""
        return self._in_bounds(self.given_y)

    def _in_bounds(self, images: Images) -> Images:
        if self.bounds is None or isinstance(images, Encoded):
            return images
        return clamped(images, self.bounds)

    def __len__(self) -> int:
        return count(self.given_x)

    def __getitem__(self, part: slice) -> "Pair":
        mask = None if self.mask is None else self.mask[part]
        return Pair(self.x[part], self.y[part], self.size, self.names[part], mask=mask)

    @property
    def is_images(self) -> bool:
        """Whether both are images, not feature maps."""
        return isinstance(self.given_x, Tensor) and isinstance(self.given_y, Tensor)

    @property
    def given(self) -> tuple[Tensor, Tensor]:
        """Both batches, which are images, perhaps not clamped yet."""
        if not (isinstance(self.given_x, Tensor) and isinstance(self.given_y, Tensor)):
            raise TypeError("expected images, got feature maps")
        return self.given_x, self.given_y

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """Both batches, which are images."""
        x, y = self.given
        return (x, y) if self.bounds is None else (clamped(x, self.bounds), clamped(y, self.bounds))

    @property
    def is_optimised(self) -> bool:
        """Whether gradients are taken for one of them."""
        return checks.is_optimised(self.given_x) or checks.is_optimised(self.given_y)

    def compared(self, compare: "Callable[[Pair, Any], Tensor]", keys: Any = None, *, mean: bool = False) -> Tensor:
        """Return what `compare` makes of the pair; the counterpart of `video.VideoPair.compared`."""
        return compare(self, keys)


def prepared(x: Any, y: Any, settings: Settings, encoder: Encoder, mask: Any = None) -> Pair:
    """Check a pair of batches, (N, 3, H, W) or what `encode` returned; of one image it stands in for N.

    With a mask, (N, 1, H, W), what is outside of it is not looked at: images are continued from what is inside.

    Raises:
        TypeError, ValueError: what `damlpips.checks` says; the message says what came and what was expected.
    """
    raise_malloc_threshold()
    return limit_threads_after_fork(lambda: _pair(x, y, settings, encoder, mask))


def alone(x: Any, settings: Settings, encoder: Encoder, *, what: str = "images") -> tuple[Tensor, Size]:
    """Check images that come without others, and return them and the size at which they will be compared.

    Raises:
        TypeError, ValueError: as `prepared`.
    """
    if isinstance(x, Encoded):
        raise TypeError(f"{what}: expected a torch.Tensor (N, 3, H, W), got an Encoded, which is encoded already")
    raise_malloc_threshold()
    return limit_threads_after_fork(lambda: _single(x, settings, encoder, what=what))


def _single(x: Any, settings: Settings, encoder: Encoder, *, what: str) -> tuple[Tensor, Size]:
    images, _ = _checked_images(x, settings, encoder, what=what)
    size = _size_of(images, settings)
    checks.large_enough(size, encoder.min_size, what=what, backbone=encoder.name)
    return images, size


def _pair(x: Any, y: Any, settings: Settings, encoder: Encoder, mask: Any) -> Pair:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        checks.matching_pair(x, y)
    if mask is not None:
        x, y, mask = _masked(x, y, mask, settings, encoder)
    later = _is_clamped_later(x, y, settings)
    x, x_in_range = _checked(x, settings, encoder, what="first image", later=later)
    y, y_in_range = _checked(y, settings, encoder, what="second image", later=later)
    size = _size_of(y, settings)
    size_x = size if settings.resize == "reference" and isinstance(x, Tensor) else _size_of(x, settings)
    for what, found in (("first image", size_x), ("second image", size)):
        checks.large_enough(found, encoder.min_size, what=what, backbone=encoder.name)
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.dtype != y.dtype:
        dtype = torch.promote_types(x.dtype, y.dtype)
        x, y = x.to(dtype), y.to(dtype)
    x, y = _standing_in(x, count(y)), _standing_in(y, count(x))
    checks.matching_batch(count(x), count(y), size_x, size)
    bounds = settings.value_range if later else None
    return Pair(x, y, size, in_range=x_in_range and y_in_range, bounds=bounds, mask=mask)


def _masked(x: Any, y: Any, mask: Any, settings: Settings, encoder: Encoder) -> tuple[Tensor, Tensor, Tensor]:
    """Return images that are continued from what a mask covers, and the mask as numbers.

    It comes before the values are checked: what is outside may be anything, NaN, too.
    """
    for what, images in (("first image", x), ("second image", y)):
        if isinstance(images, Encoded):
            raise TypeError(
                f"mask: expected images, got an Encoded as the {what}: its feature maps have seen what is outside"
            )
        checks.image_batch(images, what=what, channels=encoder.channels, grey=settings.grey)
    size = checks.size_of(y)
    if checks.size_of(x) != size and settings.resize is not None:
        (height, width), given = size, checks.size_of(x)
        raise ValueError(
            f"mask: expected images of one size, which is the mask's, too, got {given[0]} x {given[1]} and {height} x"
            f" {width}: resize them first"
        )
    checks.matching_batch(len(x), len(y), checks.size_of(x), size)
    checks.mask(mask, len(y), size, y.device)
    if on_cpu(mask):
        checks.mask_is_not_empty(mask)
    covers = mask.expand(len(y), -1, -1, -1)
    return _continued(x, covers), _continued(y, covers), covers.to(encoder.exact_dtype)


def _continued(images: Tensor, covers: Tensor) -> Tensor:
    inside = working(images).where(covers, 0)
    found = coverage.continued(inside, covers.to(inside.dtype))
    found = found.round() if images.dtype == torch.uint8 else found
    return images.where(covers, found.to(images.dtype))


def _is_clamped_later(x: Any, y: Any, settings: Settings) -> bool:
    """Return whether images are clamped when they are copied to where a recorded graph reads them, in one pass."""
    if not settings.cuda_graphs or not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return False
    on_device = x.device.type == "cuda" and x.dtype == y.dtype and x.is_floating_point()
    return on_device and not checks.is_optimised(x) and not checks.is_optimised(y)


def count(x: Images) -> int:
    """Return how many images a batch has."""
    # not len(), which would fix the batch of an exported program
    return (x.features[0] if isinstance(x, Encoded) else x).shape[0]


def _checked(x: Any, settings: Settings, encoder: Encoder, *, what: str, later: bool) -> tuple[Images, bool]:
    """Return a batch with as many channels as the network takes, and whether all values are known to be in range."""
    if not isinstance(x, Encoded):
        return _checked_images(x, settings, encoder, what=what, later=later)
    _check_encoded(x, encoder, what=what)
    return x, True


def _checked_images(
    x: Any, settings: Settings, encoder: Encoder, *, what: str, later: bool = False
) -> tuple[Tensor, bool]:
    checks.image_batch(x, what=what, channels=encoder.channels, grey=settings.grey)
    images: Tensor = x
    checks.same_device(images, encoder.device, what=what, owner="the module")
    in_range = True
    if later:
        in_range = False
    elif images.is_floating_point():
        images, in_range = _in_range(images, settings, encoder, what=what)
    return images.expand(-1, encoder.channels, -1, -1), in_range


def _in_range(images: Tensor, settings: Settings, encoder: Encoder, *, what: str) -> tuple[Tensor, bool]:
    """Return floats with what rounding left outside of `value_range` clamped, and whether all are known to be in it.

    Whether gradients are taken makes no difference: a loss is the same in training and in validation.
    """
    bounds = settings.value_range
    if not on_cpu(images):  # reading values would make an accelerator wait
        return clamped(images, bounds), False
    extremes = checks.extremes(images)
    if bounds[0] <= extremes[0] and extremes[1] <= bounds[1]:
        return images, True
    fault = checks.fault(images, extremes, bounds)
    if fault and settings.check_values:
        if settings.check_values != "warn":
            raise ValueError(f"{what}: {fault}, or check_values=False if it is meant")
        encoder.warn(f"{what}: {fault}; scored as it is (said once; check_values=True makes it an error, False silent)")
    return checks.clamped(images, bounds), fault is None


def clamped(images: Tensor, bounds: checks.ValueRange, out: Tensor | None = None) -> Tensor:
    """Return `checks.clamped` of images on an accelerator.

    Args:
        out: where it is written, with the strides of `images`.
    """
    kernels = image_kernels(images)
    if kernels is None or images.dtype == torch.float64:
        found = checks.clamped(images, bounds)
        return found if out is None else out.copy_(found)
    near = checks.rounding(images.dtype, bounds)
    if checks.is_optimised(images):
        found = _Clamped.apply(images, lambda x: kernels.clamped(x, *bounds, near))
        return found
    return kernels.clamped(images, *bounds, near, out)


class _Clamped(torch.autograd.Function):
    """`checks.clamped` by a kernel: gradients pass as if nothing had been changed."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, clamp: Callable[[Tensor], Tensor]) -> Tensor:
        return clamp(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


def _check_encoded(x: Encoded, encoder: Encoder, *, what: str) -> None:
    if x.origin != encoder.origin:
        raise ValueError(
            f"{what}: was encoded by another backbone, weights, heads version or `fed_as` than this module's"
            f" ({encoder.name!r})"
        )
    seen, expected = checks.size_of(x.seen), encoder.seen_size(x.size)
    if seen != expected:
        raise ValueError(
            f"{what}: was encoded at {seen[0]} x {seen[1]} pixels, this module looks at {expected[0]} x {expected[1]}:"
            " encode it with this module"
        )
    checks.same_device(x.features[0], encoder.device, what=what, owner="the module")


def _size_of(x: Images, settings: Settings) -> Size:
    """Return the size at which images are compared."""
    if isinstance(x, Encoded):
        return x.size
    size, resize = checks.size_of(x), settings.resize
    return size if resize is None or resize == "reference" else scaled_to(size, resize)


def _standing_in(x: Images, n: int) -> Images:
    """Let one encoded image stand in for n; one image as it is may be alone by mistake."""
    return x.expand(n) if isinstance(x, Encoded) and count(x) == 1 != n else x
