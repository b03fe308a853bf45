"""What an image, a pair and an option must be: errors that say what came and what was expected."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

ValueRange = tuple[float, float]
Grey = Literal["repeat"] | None
Resize = Literal["reference"] | int | tuple[int, int] | None

REDUCTIONS = ("none", "mean", "sum")
FLOATING_TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

# Colour conversions and resampling leave values a little outside the range, by this share of its width or a few
# rounding steps of the type; 0-255 floats and (-1, 1) floats in a (0, 1) metric lie far beyond it.
RANGE_TOLERANCE = 1e-3
ROUNDING_STEPS = 2


def one_of(what: str, value: Any, known: Iterable[str]) -> Any:
    """Return `value` if it is among `known`; otherwise raise a ValueError that lists them."""
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"unknown {what} {value!r}: expected one of {', '.join(repr(k) for k in known)}")
    return value


def value_range(value: Any, *, what: str = "value_range") -> ValueRange:
    """Return `value` as two floats, low and high."""
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: expected two numbers (low, high), got {value!r}") from None
    if not (low < high and abs(low) != float("inf") and abs(high) != float("inf")):
        raise ValueError(f"{what}: expected finite low < high, got {value!r}")
    return low, high


def resize_option(value: Any) -> Resize:
    """Return `value` if it is a way to resize a pair."""

    def is_size(v: Any) -> bool:
        return isinstance(v, int) and not isinstance(v, bool) and v > 0

    if value is None or value == "reference" or is_size(value):
        return value
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(is_size(v) for v in value):
        return (value[0], value[1])
    raise ValueError(
        f"resize: expected None, 'reference', the length of the shorter side or (height, width), got {value!r}"
    )


def floating_type(value: Any) -> torch.dtype | None:
    """Return `value` if it is None or a type that a network can run in."""
    if value is None or value in FLOATING_TYPES:
        return value
    raise ValueError(f"dtype: expected None or one of {', '.join(map(str, FLOATING_TYPES))}, got {value!r}")


def byte_limit(what: str, value: Any) -> int:
    """Return `value` if it is a number of bytes, at least 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what}: expected a whole number of bytes, got {value!r}")
    if value < 0:
        raise ValueError(f"{what}: expected a number of bytes of at least 0, got {value}")
    return value


def pixels(what: str, value: Any) -> int:
    """Return `value` if it can be a number of pixels; whether it is large enough depends on the network."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what}: expected None or a number of pixels, got {value!r}")
    return value


def size_of(x: Tensor) -> tuple[int, int]:
    """Return the height and the width of a batch of images."""
    return x.shape[2], x.shape[3]


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def image_batch(x: Any, *, what: str, channels: int = 3, grey: Grey = None, video: bool = False) -> None:
    """Raise unless `x` is a batch of images, or of videos, of a shape and a type that can be scored.

    Args:
        channels: what the network takes.
        grey: whether one channel stands for three.

    Raises:
        TypeError: not a tensor, or neither floating nor uint8.
        ValueError: not (N, C, H, W), of videos (N, T, C, H, W), or an empty batch.
    """
    expected = f"expected (N, {'T, ' if video else ''}{channels}, H, W){' with video=True' if video else ''}"
    if not isinstance(x, Tensor):
        kind = f"{type(x).__module__}.{type(x).__name__}"
        raise TypeError(f"{what}: {expected.replace('expected', 'expected a torch.Tensor')}, got {kind}")
    # the shape is made a text only where something is wrong: a compiler with open sizes cannot follow that
    if x.ndim != 4 + video:
        hint = _SHORT_OR_LONG.get((x.ndim, video), "").format(channels=channels)
        raise ValueError(f"{what}: {expected}, got {_shape(x)}{hint}")
    if x.shape[-3] != channels and not (x.shape[-3] == 1 and channels == 3 and grey == "repeat"):
        raise ValueError(f"{what}: {expected}, got {_shape(x)}{_channels_hint(x, channels)}")
    if x.shape[0] == 0:
        kind = "video" if video else "image"
        raise ValueError(f"{what}: expected at least one {kind}, got an empty batch {_shape(x)}")
    if 0 in x.shape:
        missing = "frame" if video and x.shape[1] == 0 else "pixel"
        raise ValueError(f"{what}: {expected}, got {_shape(x)}: there is no {missing}")
    if x.dtype not in (torch.uint8, *FLOATING_TYPES):
        raise TypeError(f"{what}: expected floats in value_range or uint8 in 0..255, got {x.dtype}")


# of batches with too few or too many dimensions, by their number and whether videos were expected
_SHORT_OR_LONG = {
    (3, False): ": add a batch dimension with x.unsqueeze(0)",
    (5, False): ": videos (N, T, {channels}, H, W) need video=True; or fold their frames into the batch with"
    " x.flatten(0, 1)",
    (4, True): ": images need video=False, the frames of one video x.unsqueeze(0)",
}


def _channels_hint(x: Tensor, channels: int) -> str:
    """Return what to do about a batch with another number of channels than the network takes."""
    found = x.shape[-3]
    if x.ndim == 5 and x.shape[1] == channels:
        return ": frames come before channels; use x.transpose(1, 2)"
    if x.shape[-1] == channels:
        return f": channels come last; use x.{'permute(0, 3, 1, 2)' if x.ndim == 4 else 'movedim(-1, -3)'}"
    if channels != 3:
        return f": the backbone takes {channels} channels"
    own = f"other images of {found} channels need a network of your own, Backbone(..., channels={found})"
    return {
        0: "",
        1: ": grey images need grey='repeat'",
        2: f": composite grey with alpha over a background, keep one channel and use grey='repeat'; {own}",
        4: f": composite RGBA over a background, or drop alpha with x[:, :3]; latents and {own}",
    }.get(found, f": {own}")


def large_enough(size: tuple[int, int], minimum: int, *, what: str, backbone: str) -> None:
    """Raise a ValueError unless both sides have at least `minimum` pixels."""
    if min(size) < minimum:
        raise ValueError(
            f"{what}: backbone {backbone!r} needs at least {minimum} x {minimum} pixels, got {size[0]} x {size[1]}"
        )


def same_device(x: Tensor, device: torch.device, *, what: str, owner: str) -> None:
    """Raise a ValueError unless `x` lies on `device`."""
    if x.device != device:
        raise ValueError(f"{what} is on {x.device}, {owner} on {device}: move one with .to(...)")


def matching_pair(x: Tensor, y: Tensor) -> None:
    """Raise unless the two images agree in device, and are both bytes or both floats, of any two types."""
    if x.device != y.device:
        raise ValueError(f"the two images must lie on one device, got {x.device} and {y.device}")
    if x.is_floating_point() != y.is_floating_point():
        hint = ": bytes b become floats in [0, 1] by b / 255" if torch.uint8 in (x.dtype, y.dtype) else ""
        raise TypeError(f"the two images must both be floats or both uint8, got {x.dtype} and {y.dtype}{hint}")


def matching_batch(n_x: int, n_y: int, size_x: tuple[int, int], size_y: tuple[int, int]) -> None:
    """Raise a ValueError unless the two batches have as many images of the same size."""
    if n_x != n_y:
        hint = ": pass what encode() returns of the one image to compare it with each of the others"
        raise ValueError(
            f"the two batches must hold as many images, got {n_x} and {n_y}{hint if 1 in (n_x, n_y) else ''}"
        )
    if size_x != size_y:
        raise ValueError(
            f"the two images must have one size, got {size_x[0]} x {size_x[1]} and {size_y[0]} x {size_y[1]}:"
            " use resize='reference' to bring the distorted one to the reference's size"
        )


def mask(mask: Any, n: int, size: tuple[int, int], device: torch.device, frames: int | None = None) -> None:
    """Raise unless `mask` says of each pixel of `n` images, or of as many videos of `frames` frames, whether it counts.

    Raises:
        TypeError: not a tensor of bool.
        ValueError: not (n, 1, *size) or (1, 1, *size), of videos (n, frames, 1, *size), where n and frames may be 1; on
            another device.
    """
    height, width = size
    expected = f"mask: expected ({n}, {'' if frames is None else f'{frames}, '}1, {height}, {width})"
    if not isinstance(mask, Tensor):
        raise TypeError(f"{expected}, a torch.Tensor of bool, got {type(mask).__module__}.{type(mask).__name__}")
    if mask.dtype != torch.bool:
        hint = "mask != 0" if not mask.is_floating_point() else "mask > 0.5: a place counts or it does not"
        raise TypeError(f"mask: expected torch.bool, got {mask.dtype}: use {hint}")
    counts = (n,) if frames is None else (n, frames)
    fits = mask.ndim == len(counts) + 3 and mask.shape[-3:] == (1, *size)
    if not (fits and all(k in (1, count) for k, count in zip(mask.shape, counts, strict=False))):
        several = [str(count) for count in counts if count > 1]
        hint = f", or 1 in place of {' or '.join(several)}" if several else ""
        raise ValueError(f"{expected}{hint}, got {_shape(mask)}")
    same_device(mask, device, what="mask", owner="the images are")


def mask_is_not_empty(mask: Tensor) -> None:
    """Raise a ValueError, which names the first, if a mask covers nothing of an image or a frame.

    Waits for the device.
    """
    empty = ~mask.flatten(-3).any(-1)
    if empty.any():
        number, *frame = empty.nonzero()[0].tolist()
        named = f"number {number}" + (f", frame {frame[0]}" if frame else "")
        raise ValueError(f"mask: expected one True at least for each image, got none in {named}")


def is_optimised(x: object) -> bool:
    """Return whether gradients are taken for `x`: an image that is being optimised may leave its range."""
    return isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()


def rounding(dtype: torch.dtype, bounds: ValueRange) -> float:
    """Return how far rounding alone makes images of a floating type leave `bounds`."""
    low, high = bounds
    return ROUNDING_STEPS * torch.finfo(dtype).eps * max(-low, high, high - low)


def clamped(x: Tensor, bounds: ValueRange) -> Tensor:
    """Return floats with values that leave `bounds` by no more than `rounding` set to its end, others as they are.

    Gradients pass as if nothing had been changed. Does not wait for the device.
    """
    values = x.detach()
    beyond = values.clamp(*bounds) - values
    return x + beyond.where(beyond.abs() <= rounding(x.dtype, bounds), 0)


def _in_range(low: Any, high: Any, dtype: torch.dtype, bounds: ValueRange) -> Any:
    """Return whether both extremes of images of a type lie in `bounds`, to a tolerance; NaN does not."""
    beyond = max(RANGE_TOLERANCE * (bounds[1] - bounds[0]), rounding(dtype, bounds))
    return (low >= bounds[0] - beyond) & (high <= bounds[1] + beyond)


def fault(x: Tensor, extremes: tuple[float, float], bounds: ValueRange) -> str | None:
    """Return what was expected and what came if a value of floats is NaN, infinite or outside `bounds`, else None.

    Args:
        extremes: the least and the greatest value of `x`.
    """
    low, high = extremes
    if _in_range(low, high, x.dtype, bounds):
        return None
    if math.isfinite(low) and math.isfinite(high):
        return f"expected values in {bounds}, got {low:.6g} to {high:.6g}: pass value_range=(low, high)"
    bad = int((~torch.isfinite(x)).sum())
    return f"expected finite values in {bounds}, got {bad} of {x.numel()} NaN or infinite"


def extremes(x: Tensor) -> tuple[float, float]:
    """Return the least and the greatest value. Waits for the device."""
    low, high = torch.aminmax(x.detach())
    return float(low), float(high)


def scorable(x: Tensor, bounds: ValueRange) -> Tensor:
    """Return which images, (N,), have only finite values in `bounds`; on the device and without waiting for it."""
    if x.dtype == torch.uint8:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    flat = x.detach().flatten(1)
    # together 20 times as fast on the CPU as aminmax over one dimension; the bounds are not to be rounded to half
    return _in_range(flat.amin(1).double(), flat.amax(1).double(), x.dtype, bounds)
