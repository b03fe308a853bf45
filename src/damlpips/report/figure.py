"""A picture of one pair: both images, where they differ, and what each layer adds to the score.

matplotlib is imported when a picture is asked for, and `pyplot` never: nothing global changes, no window opens.
"""

import os
from dataclasses import dataclass
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from damlpips import checks
from damlpips.files import replacing
from damlpips.models.base import PerceptualDistance
from damlpips.models.damlpips import DAMLPIPS
from damlpips.report import panels
from damlpips.report.heat import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
DOTS_PER_INCH = 150


@dataclass(frozen=True, eq=False)
class Measured:
    """What a picture shows of a pair.

    Attributes:
        distorted, reference: (3, H, W), uint8, as they were compared.
        map: (H, W), where they differ: `spatial_map` of the pair.
        layers: what each layer adds to the score, by its name.
        score: their sum; lower is closer.
        metric: the names of the metric and its backbone.
    """

    distorted: Tensor
    reference: Tensor
    map: Tensor
    layers: dict[str, float]
    score: float
    metric: str


# not inference_mode: a backbone that is loaded now may later serve a module that needs gradients
@torch.no_grad()
def measure(model: PerceptualDistance, distorted: Tensor, reference: Tensor) -> Measured:
    """Compare a pair of images and return what is drawn of it; arguments and errors are those of `plot_map`."""
    if not isinstance(model, PerceptualDistance):
        raise TypeError(f"model: expected an LPIPS or a DAMLPIPS (of a metric its .model), got {type(model).__name__}")
    x, y = pair_of(model, distorted, reference)
    added = model.per_layer(x, y)
    score = float(added.sum(1))
    if not isfinite(score):
        raise ValueError(f"the score of the pair is {score}, not a finite number")
    metric = "damlpips" if isinstance(model, DAMLPIPS) else "lpips"
    motion = isinstance(model, DAMLPIPS) and model.settings.version > 1
    return Measured(
        distorted=as_bytes(x[0], model.value_range),
        reference=as_bytes(y[0], model.value_range),
        map=model.spatial_map(x, y)[0, 0].cpu(),
        layers=dict(zip(layer_names(metric, added.shape[1], motion=motion), added[0].tolist(), strict=True)),
        score=score,
        metric=f"{type(model).__name__} ({model.source.name})",
    )


def plot_map(
    model: PerceptualDistance,
    distorted: Tensor,
    reference: Tensor,
    *,
    title: str | None = None,
    distorted_name: str = "",
    reference_name: str = "",
    limit: float | None = None,
) -> "Figure":
    """Draw a pair of images, where they differ, and what each layer adds to their distance.

    The heat map is `model.spatial_map` over the distorted image in grey; its colours follow the root of the value, and
    the brightest stands for all values from `limit` up. The bars are `model.per_layer`, whose sum is the score.

    Args:
        model: an `LPIPS` or a `DAMLPIPS`. With `resize` the images are drawn as they were compared.
        distorted, reference: (3, H, W) or (1, 3, H, W), uint8 or floats in the model's `value_range`, on its device.
        title: instead of the metric's name and the score.
        distorted_name, reference_name: what to call the images, a file's name for one.
        limit: the end of the colour bar, above 0. None: the value that 1 % of the pixels exceed. Pictures with the
            same limit can be compared.

    Returns:
        A figure outside `pyplot`: save it with `figure.savefig(path)`, or let a notebook show it.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError, ValueError: images that the model refuses, more than one pair, a limit that is not a number above
            0, a score that is not finite.

    Example:
        >>> import torch
        >>> from damlpips import DAMLPIPS
        >>> from damlpips.report.figure import plot_map
        >>> reference = torch.rand(3, 48, 64)
        >>> figure = plot_map(DAMLPIPS(), 0.5 * reference, reference)
        >>> [axes.get_title() for axes in figure.axes]
        ['reference', 'distorted', 'where they differ', 'what each layer adds']
    """
    require_matplotlib()
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float))):
        raise TypeError(f"limit: expected None or a number, got {limit!r}")
    if limit is not None and not 0 < limit < float("inf"):
        raise ValueError(f"limit: expected a finite number above 0, got {limit}")
    return draw(
        measure(model, distorted, reference),
        title=title,
        distorted_name=distorted_name,
        reference_name=reference_name,
        limit=limit,
    )


def draw(
    measured: Measured,
    *,
    title: str | None = None,
    distorted_name: str = "",
    reference_name: str = "",
    limit: float | None = None,
) -> "Figure":
    """Draw what `measure` returned; the options are those of `plot_map`."""
    require_matplotlib()
    height, width = measured.map.shape
    grid = panels.grid(width / height, len(measured.layers))
    panels.headline(grid, f"{measured.metric}: {measured.score:.4g} (lower is closer)" if title is None else title)
    shown = [image.permute(1, 2, 0).numpy() for image in (measured.reference, measured.distorted)]
    panels.picture(grid, 0, shown[0], "reference", reference_name)
    panels.picture(grid, 1, shown[1], "distorted", distorted_name)
    panels.heat_map(grid, 2, measured.map.float().numpy(), shown[1], limit)
    panels.bars(grid, 3, measured.layers)
    return grid.figure


def render(figure: "Figure", suffix: str = "png", *, dpi: int = DOTS_PER_INCH) -> bytes:
    """Return a figure as the contents of a `png`, `svg` or `pdf` file; equal figures give equal files."""
    checks.one_of("format", suffix, FORMATS)
    import matplotlib

    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    file = BytesIO()
    # text stays text, and the ids of an SVG do not change
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "damlpips"}):
        figure.savefig(file, format=suffix, dpi=dpi, metadata=undated[suffix])
    return file.getvalue()


def save(figure: "Figure", path: str | os.PathLike[str], *, dpi: int = DOTS_PER_INCH) -> None:
    """Write a figure to a file whole or not at all, in the format of its ending: `.png`, `.svg` or `.pdf`.

    Raises:
        ValueError: another ending.
        OSError: it cannot be written; what was there before is as it was.
    """
    content = render(figure, suffix_of(path), dpi=dpi)
    with replacing(Path(path)) as whole:
        whole.write_bytes(content)


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the format that the ending of a path stands for."""
    ending = Path(path).suffix
    suffix = ending.lower().removeprefix(".")
    if suffix not in FORMATS:
        expected = ", ".join(f".{known}" for known in FORMATS)
        raise ValueError(f"{os.fspath(path)}: expected a name that ends in one of {expected}, got {ending!r}")
    return suffix


def pair_of(model: PerceptualDistance, distorted: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Check a pair of images and return both as they are compared, (1, 3, H, W)."""
    x, y = model.checked(_batch(distorted, what="distorted"), _batch(reference, what="reference"))
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise TypeError("expected two images, got what encode() returned of one")
    return x, y


def _batch(x: Any, *, what: str) -> Tensor:
    """Return an image as a batch of one."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{what}: expected a torch.Tensor (3, H, W) or (1, 3, H, W), got {type(x).__name__}")
    x = x.detach()
    x = x.unsqueeze(0) if x.ndim == 3 else x
    if x.ndim != 4 or len(x) != 1:
        raise ValueError(f"{what}: expected one image, (3, H, W) or (1, 3, H, W), got {tuple(x.shape)}")
    return x


def displayed(x: Tensor, value_range: checks.ValueRange = (0.0, 1.0)) -> Tensor:
    """Return an image as it is shown: floats in [0, 1], on the CPU.

    Raises:
        ValueError: not of three channels.
    """
    if x.shape[-3] != 3:
        raise ValueError(
            f"pictures are of images with 3 channels, got {tuple(x.shape)}: use spatial_map, which draws none"
        )
    low, high = (0.0, 255.0) if x.dtype == torch.uint8 else value_range
    return ((x.float().cpu() - low) / (high - low)).clamp(0, 1)


def as_bytes(x: Tensor, value_range: checks.ValueRange = (0.0, 1.0)) -> Tensor:
    """Return an image as it is shown: uint8, on the CPU."""
    return (displayed(x, value_range) * 255).round().to(torch.uint8)


def layer_names(metric: str, count: int, *, motion: bool = False) -> list[str]:
    """Return what the layers are called, from fine to coarse: the first of DAMLPIPS is the image itself.

    Args:
        motion: whether the last is what motion adds, as in version 2 of DAMLPIPS.

    Example:
        >>> layer_names("damlpips", 3)
        ['image', 'layer 1', 'layer 2']
    """
    image = ["image"] if metric == "damlpips" and count else []
    last = ["motion"] if motion else []
    return [*image, *(f"layer {k}" for k in range(1, count - len(image) - len(last) + 1)), *last]
