"""Build the metric that rows were scored with, from what they say of it: that one or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from damlpips.files import MOST_SHOWN, shown
from damlpips.models.base import PerceptualDistance
from damlpips.models.damlpips import DAMLPIPS
from damlpips.models.lpips import LPIPS
from damlpips.nets.table import BACKBONES
from damlpips.nets.weights import WeightsError, find_backbone, head_names, sha256
from damlpips.report.page.reading import Settings
from damlpips.scoring.images import ALPHA

METRICS: Mapping[str, type[PerceptualDistance]] = {"damlpips": DAMLPIPS, "lpips": LPIPS}
OPTIONS = {"damlpips": {"alpha", "resize", "tile", "version"}, "lpips": {"alpha", "resize", "tile", "heads"}}


class _Different(Exception):
    """The metric of the rows cannot be had here; the message says why."""


@dataclass(frozen=True)
class Rebuilt:
    """The metric of a section's rows, or why there is none; and what became of transparent pixels."""

    model: PerceptualDistance | None
    reason: str = ""
    alpha: str = "error"


def rebuild(
    settings: Settings,
    *,
    weights: Sequence[Path] = (),
    heads: Sequence[Path] = (),
    device: str | torch.device = "cpu",
    wanted: bool = True,
) -> Rebuilt:
    """Return the metric that the settings name, with just the weights that they name; nothing is downloaded.

    Args:
        settings: of the rows.
        weights, heads: files that were given to `damlpips score`, any of which may be the one.
        device: where it computes.
        wanted: whether the metric is; what becomes of transparent pixels is told anyway.
    """
    alpha = "error"
    try:
        options = _options(settings)
        alpha = options["alpha"]
        if not wanted:
            return Rebuilt(None, "they were not asked for", alpha)
        return Rebuilt(_built(settings, options, weights, heads).to(device).load(), "", alpha)
    except (_Different, WeightsError) as error:
        return Rebuilt(None, str(error), alpha)


def _options(settings: Settings) -> dict[str, str]:
    if settings.metric not in METRICS:
        raise _Different(f"the metric {_quoted(settings.metric)} is not one of this package")
    options = dict(part.partition("=")[::2] for part in settings.options.split(" "))
    known = OPTIONS[settings.metric]
    if set(options) != known or options["alpha"] not in ALPHA:
        raise _Different(f"this version of damlpips cannot score with the options {_quoted(settings.options)}")
    return options


def _built(
    settings: Settings, options: Mapping[str, str], weights: Sequence[Path], heads: Sequence[Path]
) -> PerceptualDistance:
    if settings.backbone not in BACKBONES:
        raise _Different(f"the backbone {_quoted(settings.backbone)} is not one of this package")
    arguments: dict[str, Any] = {
        "resize": _resize(options["resize"]),
        "tile": None if options["tile"] == "none" else _whole(options["tile"]),
    }
    if settings.metric == "lpips":
        arguments["heads"] = _heads(options["heads"], heads)
    here = find_backbone(settings.backbone) is not None
    for place in [None] * here + [
        file for file in weights if settings.weights == f"{settings.backbone}:{sha256(file)}"
    ]:
        try:
            model = METRICS[settings.metric](settings.backbone, weights=place, **arguments)
        except (TypeError, ValueError) as error:
            raise _Different(f"the metric cannot be built: {error}") from error
        if model.source.identity() == settings.weights:
            if "version" in options and str(model.configuration()["version"]) != options["version"]:
                raise _Different(
                    f"the scores are of version {options['version'][:9]} of the metric, this damlpips has another"
                )
            return model
    if not (here or weights):
        raise _Different(f"the weights of {settings.backbone} are not on this machine")
    raise _Different(f"the weights of {settings.backbone} on this machine are not those of the scores")


def _resize(text: str) -> str | int | None:
    return None if text == "none" else text if text == "reference" else _whole(text)


def _whole(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise _Different(f"expected a number of pixels, got {_quoted(text)}")
    return int(text)


def _heads(name: str, files: Sequence[Path]) -> str:
    if name in (*head_names(), "uniform"):
        return name
    for file in files:
        if sha256(file) == name:
            return str(file)
    raise _Different("the heads of the scores were a file, which was not given with heads")


def _quoted(text: str) -> str:
    return shown(text, MOST_SHOWN)
