"""`--metric`, which `damlpips score` takes more than once: which modules it means, and what the rows say of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from damlpips.cli.model import DEFAULT, OPTIONS, Chosen, spelled_option, starting
from damlpips.cli.options import in_place_of, option
from damlpips.cli.program import fail
from damlpips.models.registry import Metric
from damlpips.nets.table import BACKBONES
from damlpips.scoring.workers import here

if TYPE_CHECKING:
    import torch

    from damlpips.models.base import PerceptualDistance
    from damlpips.scoring.sets import SetScorer
    from damlpips.scoring.several import OtherMetric, Said

OWN = re.compile(rf"({'|'.join(Metric)})(?:-({'|'.join(BACKBONES)}))?(?::([0-9]+))?")
# of a set of images, not of a pair
OF_SETS = ("fid", "kid")
NAMES = [f"{metric.value}{end}" for metric in Metric for end in ("", *(f"-{b}" for b in BACKBONES))]
MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="What to compute: damlpips or lpips, with -BACKBONE behind it if need be; psnr, ssim, ms-ssim; fid and"
        " kid, of each method's images; or any name that damlpips agree --list prints. May be repeated."
        " Default: damlpips.",
        autocompletion=starting([*NAMES, "psnr", "ssim", "ms-ssim", *OF_SETS]),
    ),
]


class Built(NamedTuple):
    """The modules of a run.

    Attributes:
        model: the first metric of this package, whose score and layers the rows have.
        others: the further metrics of a pair.
        said: what the rows say of all of them; nothing where there is only one.
    """

    model: "PerceptualDistance"
    others: "list[OtherMetric]"
    said: "list[Said]"


@dataclass(frozen=True)
class Several:
    """The metrics that a command was asked for by name, and the options that were given for those of this package."""

    names: tuple[str, ...] = ()
    given: Chosen = DEFAULT

    @property
    def own(self) -> dict[str, Chosen]:
        """The metrics of this package by name: at least one, since rows have its score."""
        cited, preset = self.given.cited, self.given.preset
        own = [name for name in self.names if _is_own(name)]
        if preset is not None and any(name.startswith(Metric.DAMLPIPS.value) for name in own):
            fail(f"--preset {preset}: is LPIPS: leave out --metric {own[0]}")
        is_lpips = preset is not None or (cited or "").split()[:1] == [Metric.LPIPS.name]
        own = own or [Metric.LPIPS.value if is_lpips else Metric.DAMLPIPS.value]
        if cited is not None or preset is not None:
            if len(own) > 1:
                option = "--as" if preset is None else "--preset"
                fail(f"{option}: stands for the one metric of this package: leave out --metric {own[1]}")
            return {own[0]: replace(self._chosen(own[0], own), cited=cited, preset=preset)}
        if self.given.backbone is not None and all(OWN.fullmatch(name)[2] for name in own):  # type: ignore[index]
            fail(f"--backbone {self.given.backbone}: {' and '.join(own)} says its backbone already")
        return {name: self._chosen(name, own) for name in own}

    @property
    def of_sets(self) -> list[str]:
        """The names of metrics of sets of images."""
        return [name for name in self.names if name in OF_SETS]

    def _chosen(self, name: str, own: Sequence[str]) -> Chosen:
        kind, backbone, version = OWN.fullmatch(name).groups()  # type: ignore[union-attr]
        metric = Metric(kind)
        given: dict[str, Any] = dict(self.given.given)
        for key, value in self.given.given.items():
            # an option that another of them has is meant for that one
            takers = [other for other in own if key in Metric(OWN.fullmatch(other)[1]).settings.commands()]  # type: ignore[index]
            if takers and name not in takers:
                del given[key]
            if key == "version" and version is not None:
                fail(f"{spelled_option(key)} {value}: {name} says its version already")
        if version is not None:
            given["version"] = version
        return Chosen(metric, backbone or self.given.backbone, given)

    def build(self, device: "torch.device", channels: str) -> Built:
        """Return the modules, loaded and on the device."""
        from damlpips.evaluation.custom import MetricFileError
        from damlpips.evaluation.named import UnavailableMetricError, UnknownMetricError
        from damlpips.evaluation.others import build
        from damlpips.scoring.several import OtherMetric

        for name in self.names:
            if self.names.count(name) > 1:
                fail(f"--metric {name}: was given twice")
        own = self.own
        models = {name: chosen.build().to(device).load() for name, chosen in own.items()}
        first, *_ = models
        others = []
        for name in (name for name in self.names if name != first and name not in OF_SETS):
            try:
                if name in models:
                    others.append(OtherMetric.of_module(models[name], _said(name, models[name])))
                else:
                    others.append(build(name, device=device, channels=channels))
            except UnknownMetricError as error:
                fail(f"--metric {error} (see damlpips agree --list)")
            except (MetricFileError, UnavailableMetricError) as error:
                fail(f"--metric {error}")
        said = [_said(first, models[first]), *(other.said for other in others)] if others else []
        return Built(models[first], others, said)


def set_scorer(
    names: Sequence[str], features: str | None, device: "torch.device", **options: Any
) -> "SetScorer | None":
    """Return what scores whole sets by metrics of these names; None where there is none."""
    if not names:
        if features is not None:
            fail(f"--fid-features {features}: only --metric fid and kid have features")
        return None
    if here() is not None:
        fail(f"--metric {names[0]}: one process computes it: leave torchrun out; the rows that there are remain")
    from damlpips.evaluation.custom import MetricFileError
    from damlpips.evaluation.features import build
    from damlpips.evaluation.named import UnavailableMetricError
    from damlpips.scoring.sets import SetScorer

    try:
        return SetScorer(names, build(features, device=device, metric=names[0]), device=device, **options)
    except UnavailableMetricError as error:
        fail(*f"--metric {error}".split("\n"))
    except MetricFileError as error:
        fail(f"--fid-features {error}")


def _is_own(name: str) -> bool:
    found = OWN.fullmatch(name)
    return found is not None and (found[3] is None or "version" in Metric(found[1]).settings.commands())


def settings_of(model: "PerceptualDistance", **others: str) -> dict[str, str]:
    """Return what rows say of a metric of this package: all that a score depends on but the images."""
    return {
        "metric": Metric[model.settings.metric].value,
        "backbone": model.source.name,
        "weights": model.source.identity(),
        "options": model.settings.in_rows(**others),
    }


def _said(name: str, model: "PerceptualDistance") -> "Said":
    from damlpips.scoring.several import Said

    return Said.of(name, model.describe(), settings_of(model), lower_is_closer=True)


def _several(given: dict[str, Any]) -> Several:
    names, own = given.pop("metric"), {name: given.pop(name) for name in ("backbone", "cited", "preset")}
    given = {name: value for name, value in given.items() if value is not None}
    return Several(tuple(names or ()), Chosen(given=given, **own))


ALONE = Several()
# As `takes_metric`, with a `--metric` that may be repeated.
takes_metrics = in_place_of("chosen", [option("metric", None, MetricsOption), *OPTIONS], _several)
