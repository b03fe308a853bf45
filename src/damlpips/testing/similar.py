"""`assert_similar`: an assertion that two images look alike, which shows where they do not."""

import os
import tempfile
from functools import lru_cache
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from damlpips import checks
from damlpips.files import replacing
from damlpips.models.base import PerceptualDistance
from damlpips.models.registry import named
from damlpips.report.figure import as_bytes, draw, measure, save
from damlpips.scoring.images import decode_image, read_image

# what a metric is called where "alex" goes without saying
SHORT = {"lpips": "lpips-alex"}
MAX = 0.05


def assert_similar(
    image: Any,
    reference: Any,
    *,
    max: float = MAX,  # as a call reads it
    metric: str | PerceptualDistance = "damlpips",
    save_to: str | os.PathLike[str] | None = None,
) -> float:
    """Raise an AssertionError unless the distance of two images is at most `max`; return the distance.

    Args:
        image, reference: each the path of a file, a PIL image, an array (H, W, 3), (H, W, 1) or (H, W), or a tensor
            (C, H, W) or (1, C, H, W) on any device. Arrays and tensors are uint8, or floats in the metric's
            `value_range`. Grey becomes RGB; transparent pixels are an error.
        max: the highest distance that passes. A limit belongs to one metric.
        metric: a name, as `damlpips score --metric` takes it (`"damlpips"`, `"lpips"`, `"damlpips-squeeze"`, ...), or a
            module of this package.
        save_to: the folder in which both images and the picture of where they differ are saved if they are not
            similar; None: a new one in the system's folder for temporary files.

    Raises:
        AssertionError: they are not similar, or of different sizes and the metric does not resize: says the score, the
            limit, the metric and where the pictures are.
        TypeError, ValueError, WeightsError: no images, or no metric.

    Example:
        >>> import numpy as np
        >>> from damlpips.testing import assert_similar
        >>> image = np.zeros((32, 32, 3), np.uint8)
        >>> assert_similar(image, image + 1, max=0.01) < 0.01
        True
    """
    __tracebackhide__ = True
    if isinstance(max, bool) or not isinstance(max, (int, float)) or not 0 <= max < float("inf"):
        raise ValueError(f"max: expected a finite number of at least 0, got {max!r}")
    module = module_of(metric)
    x, y = tensor_of(image, module, what="image"), tensor_of(reference, module, what="reference")
    names = f"image: {_name(image)}", f"reference: {_name(reference)}"
    settings = module.settings
    if x.shape[1:] != y.shape[1:] and settings.resize is None:
        sizes = " and ".join(f"{v.shape[1]} x {v.shape[2]}" for v in (x, y))
        shown = _save_images(x, y, module, save_to)
        raise AssertionError("\n".join((f"images of one size were expected, got {sizes}", *names, *shown)))
    if x.dtype != y.dtype:  # 8 bits beside more
        x, y = (module.encoder.floats(v) for v in (x, y))
    with torch.no_grad():
        score = float(module.per_layer(x[None], y[None]).sum())
    if score <= max:
        return score
    told = f"images are not similar: their distance is {score:.4g}, above max={max:g}", f"metric: {module.describe()}"
    shown = _save(x, y, module, save_to, drawn=isfinite(score))
    raise AssertionError("\n".join((*told, *names, *shown)))


@lru_cache(maxsize=8)
def _named(name: str) -> PerceptualDistance:
    module: PerceptualDistance = named()[checks.one_of("metric", SHORT.get(name, name), named())].build()
    return module


def module_of(metric: str | PerceptualDistance) -> PerceptualDistance:
    """Return the module of a name, or the one that was given; of colour images, not of videos.

    Raises:
        TypeError, ValueError: it is neither.
    """
    if isinstance(metric, str):
        return _named(metric)
    if not isinstance(metric, PerceptualDistance):
        raise TypeError(f"metric: expected a name or a module of this package, got {type(metric).__name__}")
    if metric.settings.video or metric.encoder.channels != 3:
        raise ValueError("metric: expected one of images in colour, got one of videos or of other channels")
    return metric


def tensor_of(image: Any, module: PerceptualDistance, *, what: str) -> Tensor:
    """Return an image as (3, H, W) on the device of a module, uint8 or floats in its `value_range`.

    Raises:
        TypeError, ValueError: it is none; says what was expected.
    """
    if isinstance(image, Tensor):
        pixels = image.detach()
        pixels = pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
    elif isinstance(image, (str, os.PathLike)):
        pixels = _in_range(read_image(Path(image), deep=True), module)
    elif hasattr(image, "__array_interface__") and hasattr(image, "save"):  # a PIL image
        pixels = _in_range(_of_pillow(image, what), module)
    elif hasattr(image, "__array__"):
        pixels = _of_array(image, what)
    else:
        raise TypeError(
            f"{what}: expected a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), got"
            f" {type(image).__name__}"
        )
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ValueError(
            f"{what}: expected a tensor (3, H, W) or (1, H, W), or an array (H, W, 3), (H, W, 1) or (H, W), got"
            f" {tuple(image.shape)}"
        )
    checks.image_batch(pixels.expand(3, -1, -1)[None], what=what)
    return pixels.expand(3, -1, -1).to(module.encoder.device)


def _of_array(image: Any, what: str) -> Tensor:
    import numpy as np

    array = np.asarray(image)
    if array.ndim not in (2, 3) or array.dtype.kind not in "uf":
        raise ValueError(
            f"{what}: expected an array (H, W, 3), (H, W, 1) or (H, W) of uint8 or floats, got {array.shape} of"
            f" {array.dtype}"
        )
    return torch.tensor(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)


def _of_pillow(image: Any, what: str) -> Tensor:
    """Return the pixels of a PIL image as those of the file that it would be saved as."""
    file = BytesIO()
    try:
        image.save(file, format="PNG")
    except (OSError, ValueError) as error:
        raise ValueError(f"{what}: expected a PIL image that PNG can hold, got mode {image.mode!r}") from error
    return decode_image(file.getvalue(), f"{what}, a PIL image", deep=True)


def _in_range(pixels: Tensor, module: PerceptualDistance) -> Tensor:
    """Return a file's pixels, uint8 or in [0, 1], in a module's range."""
    low, high = module.settings.value_range
    return low + pixels * (high - low) if pixels.is_floating_point() else pixels


def save_image(pixels: Tensor, path: Path, module: PerceptualDistance) -> None:
    """Write an image (3, H, W) as a PNG file of 8 bits, whole or not at all."""
    from PIL import Image

    content = as_bytes(pixels, module.settings.value_range).permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as whole:
        Image.fromarray(content).save(whole, format="PNG")


def _save_images(x: Tensor, y: Tensor, module: PerceptualDistance, save_to: Any) -> list[str]:
    """Save both images, and return the lines that say where."""
    folder = Path(tempfile.mkdtemp(prefix="damlpips-") if save_to is None else save_to)
    for name, pixels in (("image", x), ("reference", y)):
        save_image(pixels, folder / f"{name}.png", module)
    return [f"saved in: {folder}"]


def _save(x: Tensor, y: Tensor, module: PerceptualDistance, save_to: Any, *, drawn: bool) -> list[str]:
    """Save both images and the picture of where they differ, and return the lines that say where."""
    shown = _save_images(x, y, module, save_to)
    if not drawn:
        return shown
    picture = Path(shown[0].removeprefix("saved in: ")) / "difference.png"
    try:
        save(draw(measure(module, x, y)), picture)
    except ImportError as error:
        return [*shown, f"no heat map: {error}"]
    return [*shown, f"heat map: {picture}"]


def _name(image: Any) -> str:
    """Return what a message calls an image: its file, or what it is."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    size: Any = getattr(image, "shape", None) or getattr(image, "size", ())
    return f"{type(image).__name__} {tuple(size)}"
