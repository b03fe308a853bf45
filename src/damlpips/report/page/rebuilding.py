"""Rebuild the metric that rows were scored with from what they say of it: exactly that one, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from damlpips.files import shown
from damlpips.models.base import PerceptualDistance
from damlpips.models.registry import Metric
from damlpips.nets.table import BACKBONES
from damlpips.nets.weights import WeightsError, find_backbone, head_names, sha256
from damlpips.report.page.reading import RunSettings
from damlpips.scoring.reading import Reading

AS_USUAL = Reading()
# How files were read before rows said so
UNSAID = {"colour": "ignore", "orientation": "apply"}


class _Different(Exception):
    """The metric of the rows cannot be rebuilt here; the message says why."""


@dataclass(frozen=True)
class Rebuilt:
    """The metric of a section's rows, or why there is none, and how their files were read."""

    model: PerceptualDistance | None
    reason: str = ""
    reading: Reading = AS_USUAL


def rebuild(
    settings: RunSettings,
    *,
    weights: Sequence[Path] = (),
    heads: Sequence[Path] = (),
    device: str | torch.device = "cpu",
    wanted: bool = True,
) -> Rebuilt:
    """Return the metric that the settings name, with just the weights that they name; nothing is downloaded.

    The files of weights and heads may be those that `damlpips score` was given. How the files were read is
    returned even where the metric is not wanted.
    """
    reading = AS_USUAL
    try:
        options = _options(settings)
        reading = _reading(options)
        if not wanted:
            return Rebuilt(None, "they were not asked for", reading)
        return Rebuilt(_built(settings, options, weights, heads).to(device).load(), "", reading)
    except (_Different, WeightsError) as error:
        return Rebuilt(None, str(error), reading)


def _options(settings: RunSettings) -> dict[str, str]:
    """Return the options that the rows say, by name, as text."""
    if settings.metric not in list(Metric):
        raise _Different(f"the metric {shown(settings.metric)} is not one of this package")
    options = dict(part.partition("=")[::2] for part in settings.options.split(" "))
    spellings = Metric(settings.metric).settings.spelled_in_rows()
    if "masks" in options:
        raise _Different("they were scored with masks, which are not in the rows")
    needed = {"alpha", *(name for name, spelling in spellings.items() if spelling.rows == "always")}
    known = needed | {*UNSAID, *spellings}
    different = _Different(f"this version of damlpips cannot score with the options {shown(settings.options)}")
    if not needed <= options.keys() <= known:
        raise different
    try:
        _reading(options)
    except ValueError as error:
        raise different from error
    return options


def _reading(options: Mapping[str, str]) -> Reading:
    """Return how the files of rows were read.

    Raises:
        ValueError: in a way that is not known.
    """
    colour, orientation = (options.get(name, unsaid) for name, unsaid in UNSAID.items())
    return Reading(options["alpha"], colour, orientation)


def _built(
    settings: RunSettings, options: Mapping[str, str], weights: Sequence[Path], heads: Sequence[Path]
) -> PerceptualDistance:
    if settings.backbone not in BACKBONES:
        raise _Different(f"the backbone {shown(settings.backbone)} is not one of this package")
    metric = Metric(settings.metric)
    arguments: dict[str, Any] = {}
    for name, spelling in metric.settings.spelled_in_rows().items():
        try:
            arguments |= {name: spelling.value(options[name])} if name in options else {}
        except ValueError as error:
            raise _Different(f"{error}, got {shown(options[name])}") from error
    if "heads" in arguments:
        arguments["heads"] = _heads(arguments["heads"], heads)
    here = find_backbone(settings.backbone) is not None
    alike = [file for file in weights if settings.weights == f"{settings.backbone}:{sha256(file)}"]
    for file in [None] * here + alike:
        try:
            model = metric.kind(settings.backbone, **{**arguments, "weights": file})
        except (TypeError, ValueError) as error:
            raise _Different(f"the metric cannot be built: {error}") from error
        if model.source.identity() == settings.weights:
            return model
    if not (here or weights):
        raise _Different(f"the weights of {settings.backbone} are not on this machine")
    raise _Different(f"the weights of {settings.backbone} on this machine are not those of the scores")


def _heads(name: str, files: Sequence[Path]) -> str:
    if name in (*head_names(), "uniform"):
        return name
    for file in files:
        if sha256(file) == name:
            return str(file)
    raise _Different("the heads of the scores were a file, which was not given with heads")
