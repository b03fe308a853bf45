"""Metrics against people: every metric on every judged set, its distances and its figures of agreement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from damlpips.evaluation.cache import DistanceCache
from damlpips.evaluation.challenge import WITHOUT_ALPHA, Case, Rate, rates, successes
from damlpips.evaluation.distances import distances
from damlpips.evaluation.figures import SetFigures, compare, evaluate
from damlpips.evaluation.judgements import JudgedSet
from damlpips.evaluation.means import compare_means, mean_figure
from damlpips.evaluation.named import NamedMetric
from damlpips.evaluation.views import View
from damlpips.report.intervals import Difference, Interval
from damlpips.scoring.images import ScoringError

# called with what is being done, how many of its steps are done, and how many there are
Progress = Callable[[str, int, int], None]

CHALLENGE = "challenge"


@dataclass(frozen=True)
class Result:
    """What a metric gives for a set: a distance, or two of a choice, a judgement, and how well they agree with people.

    Attributes:
        metric: the name.
        lower_is_closer: whether the library's score is a distance; `distances` are, whatever this says.
        distances: (n,), or (n, 2) for choices; lower is closer.
        differences: how far the figures exceed the baseline's, by name; empty for the baseline, and without one.
    """

    metric: str
    lower_is_closer: bool
    judged_set: JudgedSet
    distances: NDArray[np.float64]
    figures: SetFigures
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Mean:
    """A metric's mean headline figure over all sets, and how far it exceeds the baseline's."""

    figure: Interval
    difference: Difference | None


@dataclass(frozen=True)
class Failure:
    """A metric that could not be computed on a set, and why."""

    metric: str
    judged_set: str
    reason: str


@dataclass(frozen=True)
class Agreement:
    """The results of metrics on sets, by the names of both.

    Attributes:
        metrics: their identities by name, in the order of the rows.
        sets: in the order of the columns; each name once.
        results: by metric and set; none where a metric failed.
        means: by metric; none where it failed on a set, and none at all with fewer than two sets.
        challenge: the rates of success by metric and kind of case; empty where there is no challenge set.
        failures: what is missing, and why.
        baseline: the metric that the others are compared with.
        samples, seed: of the intervals.
        shorter_side: what larger images were averaged down to, in pixels; None: they were left as they are.
    """

    metrics: dict[str, str]
    sets: tuple[JudgedSet, ...]
    results: dict[tuple[str, str], Result]
    means: dict[str, Mean]
    challenge: dict[str, dict[str, Rate]]
    failures: tuple[Failure, ...]
    baseline: str | None
    samples: int
    seed: int
    shorter_side: int | None


def agree(
    metrics: Sequence[NamedMetric],
    sets: Sequence[JudgedSet],
    cases: Sequence[Case] = (),
    *,
    baseline: str | None = None,
    cache: DistanceCache | None = None,
    shorter_side: int | None = None,
    samples: int = 1000,
    seed: int = 0,
    headline_only: bool = False,
    progress: Progress | None = None,
) -> Agreement:
    """Return how well metrics agree with the observers of judged sets, and which cases of a challenge set they pass.

    Args:
        metrics, sets: each name once.
        cases: of `damlpips.evaluation.challenge.load`.
        baseline: the name of the metric that the others are compared with; without it nothing is compared.
        cache: where distances are looked up and kept; None computes all of them.
        shorter_side: as for `damlpips.evaluation.views.View`.
        samples, seed, headline_only: as for `damlpips.evaluation.figures.evaluate`.
        progress: called after every pair of images, and after the figures of every metric and set.

    Returns:
        The results; where a metric cannot be computed on a set, a failure in place of one.

    Raises:
        CacheError: the cache is damaged or cannot be written.
        ValueError: two metrics or two sets of one name, a set without judgements or with opinions that are none.
    """
    for what, names in (("metrics", [m.name for m in metrics]), ("sets", [s.name for s in sets])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{what}: expected each name once, got more of {', '.join(twice)}")
    found: dict[tuple[str | None, str], NDArray[np.float64]] = {}
    passed: dict[str, dict[str, Rate]] = {}
    failures: list[Failure] = []
    view = View(shorter_side=shorter_side).keeping_images()
    without_alpha = replace(WITHOUT_ALPHA, shorter_side=shorter_side).keeping_images()

    def tell(metric: NamedMetric, name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else partial(progress, f"{metric.name} on {name}")

    # all metrics see a set before the next one comes: its images are read once, and more than one set need not be kept
    for judged, metric in product(sets, metrics):
        try:
            values = distances(metric, judged, view, cache=cache, progress=tell(metric, judged.name))
            if len(bad := values[~np.isfinite(values)]):
                # the PSNR of two equal images, for one
                count = f"{len(bad)} of its {values.size} distances are {bad[0]}"
                raise ScoringError(f"{count}, of which there are no figures")
            found[metric.name, judged.name] = values
        except ScoringError as error:
            failures.append(Failure(metric.name, judged.name, str(error)))
    for metric in metrics if cases else ():
        try:
            succeeded = successes(metric, cases, without_alpha, cache=cache, progress=tell(metric, CHALLENGE))
            passed[metric.name] = rates(cases, succeeded)
        except ScoringError as error:
            failures.append(Failure(metric.name, CHALLENGE, str(error)))
    drawn = {"samples": samples, "seed": seed}
    results: dict[tuple[str, str], Result] = {}
    for metric, judged in product(metrics, sets):
        if (metric.name, judged.name) not in found:
            continue
        values, others = found[metric.name, judged.name], found.get((baseline, judged.name))
        figures = evaluate(judged, values, headline_only=headline_only, **drawn)
        differences = {}
        if others is not None and metric.name != baseline:
            differences = compare(judged, values, others, headline_only=headline_only, **drawn)
        results[metric.name, judged.name] = Result(
            metric.name, metric.lower_is_closer, judged, values, figures, differences
        )
        if progress is not None:
            progress("figures and their intervals", len(results), len(found))
    return Agreement(
        metrics={metric.name: metric.identity for metric in metrics},
        sets=tuple(sets),
        results=results,
        means=_means([metric.name for metric in metrics], sets, found, baseline, drawn),
        challenge=passed,
        failures=tuple(failures),
        baseline=baseline,
        shorter_side=shorter_side,
        **drawn,
    )


def _means(
    metrics: Sequence[str],
    sets: Sequence[JudgedSet],
    found: Mapping[tuple[str | None, str], NDArray[np.float64]],
    baseline: str | None,
    drawn: Mapping[str, int],
) -> dict[str, Mean]:
    if len(sets) < 2:  # the mean of one set says nothing new
        return {}
    on_all = {
        metric: [found[metric, judged.name] for judged in sets]
        for metric in metrics
        if all((metric, judged.name) in found for judged in sets)
    }
    return {
        metric: Mean(
            mean_figure(sets, values, **drawn),
            compare_means(sets, values, on_all[baseline], **drawn)
            if baseline is not None and baseline in on_all and baseline != metric
            else None,
        )
        for metric, values in on_all.items()
    }
