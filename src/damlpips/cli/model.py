"""What the commands that compute a distance share: the metric and its options, and errors in the words of options."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from damlpips.cli.program import fail

if TYPE_CHECKING:
    from damlpips.models.base import PerceptualDistance

# The core's errors speak of Python's arguments.
OPTIONS = (
    ("use resize='reference'", "use --resize reference"),
    ("use heads='uniform'", "use --heads uniform"),
    ("heads=", "--heads "),
    ("pass weights=", "pass --weights "),
    ("weights=", "--weights "),
    ("tile: ", "--tile: "),
    ("Or use the embedded backbone, which needs no other file: DAMLPIPS('nano').", "Or use --metric damlpips."),
)


class Metric(str, Enum):
    """The metrics, by their names on the command line."""

    DAMLPIPS = "damlpips"
    LPIPS = "lpips"


# of `damlpips.nets.backbone`, which loads torch: help and completion have to answer at once. A test compares them.
BACKBONES = ("nano", "alex", "vgg", "squeeze", "vgg19", "resnet50", "convnext_tiny", "efficientnet_b0")
DEVICES = ("auto", "cpu", "cuda")


def starting(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what a shell asks for the names that go on with what was typed."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


MetricOption = Annotated[Metric, typer.Option(help="What to compute.")]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        help=f"The network: nano (embedded), {', '.join(BACKBONES[1:-1])} or {BACKBONES[-1]}."
        " Default: nano for damlpips, alex for lpips.",
        autocompletion=starting(BACKBONES),
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The network's weights, .pth or .safetensors. Default: found or downloaded."),
]
HeadsOption = Annotated[
    str | None,
    typer.Option(metavar="HEADS", help="LPIPS's learned weights: v0.1 (default), v0.0, uniform, or a file."),
]
ResizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="'reference' brings DIST to REF's size; a number scales both to that shorter side. Default: off,"
        " images of different sizes are an error.",
    ),
]
TileOption = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS", help="Compare larger images tile by tile, in memory that does not grow with them: 1024."
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE", help="auto (CUDA if there is one), cpu, cuda or cuda:N.", autocompletion=starting(DEVICES)
    ),
]


def build(metric: Metric, backbone: str | None, *, heads: str | None, **options: Any) -> "PerceptualDistance":
    """Return the metric with the options that were given; its own defaults stand in for the others."""
    from damlpips.models.damlpips import DAMLPIPS
    from damlpips.models.lpips import LPIPS

    if backbone is not None:
        options["backbone"] = backbone
    if heads is not None:
        if metric is not Metric.LPIPS:
            fail(f"--heads {heads}: only --metric lpips has heads")
        options["heads"] = heads
    try:
        return DAMLPIPS(**options) if metric is Metric.DAMLPIPS else LPIPS(**options)
    except (ValueError, TypeError) as error:
        fail(in_options(str(error)))


def resizing(value: str | None) -> "str | int | None":
    """Return what --resize says."""
    if value is None or value == "reference":
        return value
    if not (value.isdecimal() and int(value) > 0):
        fail(f"--resize {value}: expected 'reference' or the length of the shorter side in pixels")
    return int(value)


@contextmanager
def bad_input() -> Iterator[None]:
    """Turn what the package raises for a user's input into one message and status 2."""
    import torch

    from damlpips.nets.weights import WeightsError
    from damlpips.scoring.images import ScoringError

    try:
        yield
    except (ScoringError, WeightsError) as error:
        fail(in_options(str(error)))
    except torch.cuda.OutOfMemoryError as error:
        fail(f"out of memory: {error}")


def in_options(message: str) -> str:
    """Return a message of the core in the words of the command line."""
    for python, option in OPTIONS:
        message = message.replace(python, option)
    return message
