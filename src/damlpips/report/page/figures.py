"""The figures of each method: means with intervals, and differences on the references that two methods share."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

from damlpips.report.intervals import Floats, Interval, drawn_counts, ends
from damlpips.report.page.collecting import Method, Section

SAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """How far a method's mean lies above the best one's on the references that both have; lower is closer."""

    interval: Interval
    contents: int


@dataclass(frozen=True)
class Figures:
    """What the page says of a method's scores.

    Attributes:
        mean: with its 95 % interval; the ends are NaN with one reference.
        quartiles: of its scores; the second is the median.
        lowest, highest: of its scores.
        contents: how many references they have.
        shares: of each layer in the mean score; none where it is 0 or the rows have no layers.
        difference: to the method of the lowest mean; None for that method, and with no reference in common.
    """

    method: Method
    mean: Interval
    quartiles: tuple[float, ...]
    lowest: float
    highest: float
    contents: int
    shares: tuple[float, ...]
    difference: Difference | None


def figures(section: Section, *, samples: int = SAMPLES, seed: int = 0) -> list[Figures]:
    """Return the figures of the methods that have scores, the lowest mean first.

    Intervals resample references, not pairs, since pairs of one reference are much alike. `report.intervals` says how
    their ends are found, and what they are worth with few references.
    """
    methods = [method for method in section.methods.values() if method.scores]
    if not methods:
        return []
    means = [fsum(m.scores) / len(m.scores) for m in methods]
    order = sorted(range(len(methods)), key=means.__getitem__)
    methods, means = [methods[k] for k in order], [means[k] for k in order]
    tables = [_by_content(method, len(section.contents)) for method in methods]
    with_ends = intervals(tables, means, samples, seed)
    differences = _differences(tables, samples, seed)
    found = []
    for method, mean, (_, counts), difference in zip(methods, with_ends, tables, differences, strict=True):
        scores, total = np.frombuffer(method.scores, np.float64), fsum(method.layers)
        found.append(
            Figures(
                method,
                mean,
                quartiles=tuple(np.quantile(scores, (0.25, 0.5, 0.75)).tolist()),
                lowest=float(scores.min()),
                highest=float(scores.max()),
                contents=int((counts > 0).sum()),
                shares=tuple(value / total for value in method.layers) if total > 0 else (),
                difference=difference,
            )
        )
    return found


def _by_content(method: Method, contents: int) -> tuple[Floats, Floats]:
    """Return the sum and the number of a method's scores of each reference."""
    which = np.array(method.contents, np.intp)
    sums = np.bincount(which, np.frombuffer(method.scores, np.float64), minlength=contents)
    return sums.astype(np.float64), np.bincount(which, minlength=contents).astype(np.float64)


def intervals(
    tables: Sequence[tuple[Floats, Floats]], means: Sequence[float], samples: int, seed: int
) -> list[Interval]:
    """Return means with their intervals, from the sum and the number of scores of each reference."""
    found = {}
    for places, has in _alike([counts > 0 for _, counts in tables]):
        drawn = means_of_samples(*_stacked([tables[k] for k in places], has), samples=samples, seed=seed)
        found.update({k: Interval(means[k], *ends(row, int(has.sum()))) for k, row in zip(places, drawn, strict=True)})
    return [found[k] for k in range(len(tables))]


def _differences(tables: Sequence[tuple[Floats, Floats]], samples: int, seed: int) -> list[Difference | None]:
    """Return the difference of each method to the first."""
    found: dict[int, Difference] = {}
    for places, has in _alike([(counts > 0) & (tables[0][1] > 0) for _, counts in tables[1:]]):
        if not (contents := int(has.sum())):
            continue
        sums, counts = _stacked([tables[0], *(tables[1 + k] for k in places)], has)
        first, *others = means_of_samples(sums, counts, samples=samples, seed=seed)
        mean_of_first, *means = (sums.sum(1) / counts.sum(1)).tolist()
        for k, mean, drawn in zip(places, means, others, strict=True):
            found[1 + k] = Difference(Interval(mean - mean_of_first, *ends(drawn - first, contents)), contents)
    return [found.get(k) for k in range(len(tables))]


def _alike(references: Sequence[NDArray[np.bool_]]) -> list[tuple[list[int], NDArray[np.bool_]]]:
    """Return which methods have the same references, and those: such methods share samples, which are drawn once."""
    places: dict[bytes, list[int]] = {}
    for k, has in enumerate(references):
        places.setdefault(has.tobytes(), []).append(k)
    return [(alike, references[alike[0]]) for alike in places.values()]


def _stacked(tables: Sequence[tuple[Floats, Floats]], has: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    return np.stack([sums[has] for sums, _ in tables]), np.stack([counts[has] for _, counts in tables])


def means_of_samples(sums: Floats, counts: Floats, *, samples: int, seed: int) -> Floats:
    """Return the mean of each method over bootstrap samples of the references, (methods, samples).

    Sums and counts are those of each method's scores by reference, (methods, references); no count is 0. A single
    reference gives no samples. Memory does not grow with samples times references.
    """
    k = sums.shape[1]
    parts = (times.astype(np.float64) for times in drawn_counts(k, samples, seed, rows=k))
    return np.concatenate([np.empty((len(sums), 0)), *((t @ sums.T / (t @ counts.T)).T for t in parts)], 1)
