"""All figures of agreement of a judged set: with intervals for the whole, without for its kinds and contents.

Which figures a set has depends on what its observers were asked:

    ratings         SRCC, KRCC, PLCC    (no human ceiling: mean scores do not tell how far observers agree)
    choices         2AFC                (ceilings: "human", a single observer; "majority", an oracle); of two images,
                                        and of two pairs of images
    same or not     mAP

The first of each is its headline. Everywhere here distances are the metric's, in the order of the judgements, lower is
closer: (n,), or (n, 2) for choices, of the pairs a and b. A set without judgements, distances of another
shape or not finite, and opinions that are none are a ValueError that names the set. A figure that is not defined, such
as the correlation with a constant, is NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from damlpips.evaluation.correlation import krcc, plcc, srcc, srcc_of_samples
from damlpips.evaluation.judgements import Choice, JudgedSet, Judgement, Rating, SameOrNot
from damlpips.evaluation.votes import human_2afc, jnd_map, majority_2afc, two_afc
from damlpips.report.intervals import Difference, Figure, Floats, Interval, Rows, interval, paired_difference


@dataclass(frozen=True)
class _Figures:
    """The figures of one kind of judgement.

    Attributes:
        distances: how many distances a judgement has.
        opinions: the fields that hold what observers said.
        figures: functions of the distances and the opinions, columns (n,); the headline is the first.
        ceilings: functions of the opinions.
        at_once: for some figures, functions that also take how often each sample has each row (m, n), and return the
            figure of each sample.
    """

    distances: int
    opinions: tuple[str, ...]
    figures: Mapping[str, Callable[..., float]]
    ceilings: Mapping[str, Callable[..., float]] = field(default_factory=dict)
    at_once: Mapping[str, Callable[..., Floats]] = field(default_factory=dict)


FIGURES: Mapping[type[Judgement], _Figures] = {
    Rating: _Figures(1, ("score",), {"SRCC": srcc, "KRCC": krcc, "PLCC": plcc}, at_once={"SRCC": srcc_of_samples}),
    Choice: _Figures(2, ("votes_a", "votes_b"), {"2AFC": two_afc}, {"human": human_2afc, "majority": majority_2afc}),
    SameOrNot: _Figures(1, ("same",), {"mAP": jnd_map}),
}


@dataclass(frozen=True)
class SetFigures:
    """How well a metric agrees with the observers of a set.

    Attributes:
        name: the set's.
        judgements, contents: how many.
        figures: by name, the headline first; of each the 95 % interval over contents.
        ceilings: by name, what a human observer and an oracle reach; empty where votes do not tell.
    """

    name: str
    judgements: int
    contents: int
    figures: Mapping[str, Interval]
    ceilings: Mapping[str, float]

    @property
    def headline_name(self) -> str:
        """The name of the figure that stands for the set: SRCC, 2AFC or mAP."""
        return next(iter(self.figures))

    @property
    def headline(self) -> Interval:
        """The figure that stands for the set."""
        return self.figures[self.headline_name]


@dataclass(frozen=True)
class Part:
    """The figures of a part of a set; NaN where it is too small or too uniform for one."""

    judgements: int
    figures: Mapping[str, float]
    ceilings: Mapping[str, float]


@dataclass(frozen=True)
class _Figure:
    """A figure of some rows of a table; `of_samples` is as in `damlpips.report.intervals.interval`."""

    function: Callable[..., float]
    columns: Sequence[Floats]
    of_samples: Callable[..., Floats] | None

    def __call__(self, rows: Rows) -> float:
        return self.function(*(column[rows] for column in self.columns))


@dataclass(frozen=True)
class _Table:
    """The judgements of a set as columns."""

    of: _Figures
    distances: list[Floats]
    opinions: list[Floats]
    contents: list[str]

    def names(self, headline_only: bool = False) -> list[str]:
        return list(self.of.figures)[: 1 if headline_only else None]

    def figure(self, name: str) -> Figure:
        function, columns = self.of.figures[name], [*self.distances, *self.opinions]
        at_once = self.of.at_once.get(name)
        return _Figure(function, columns, at_once and partial(at_once, *columns))


def evaluate(
    judged_set: JudgedSet, distances: ArrayLike, *, samples: int = 1000, seed: int = 0, headline_only: bool = False
) -> SetFigures:
    """Return a set's figures of agreement with their 95 % intervals over contents.

    Args:
        judged_set: judgements of one kind.
        samples: bootstrap samples of each interval.
        seed: the same seed draws the same samples.
        headline_only: leave the others out: a thousand curves fitted for the interval of PLCC take seconds.
    """
    table = _table(judged_set, distances)
    return SetFigures(
        name=judged_set.name,
        judgements=len(table.contents),
        contents=len(set(table.contents)),
        figures={
            name: interval(table.contents, table.figure(name), samples=samples, seed=seed)
            for name in table.names(headline_only)
        },
        ceilings={name: function(*table.opinions) for name, function in table.of.ceilings.items()},
    )


def breakdown(judged_set: JudgedSet, distances: ArrayLike, by: str) -> dict[str, Part]:
    """Return a set's figures for each `kind` of distortion or each `content`, in the order in which the set names them.

    A metric may order the images of each kind well and still put the kinds in the wrong order, or the other way round:
    the figure of the whole set tells neither. Parts have no intervals: most are too small for one.
    """
    table = _table(judged_set, distances)
    labels = [getattr(judgement, by) for judgement in judged_set.judgements]
    parts = {}
    for label in dict.fromkeys(labels):
        rows = np.flatnonzero(np.array(labels) == label)
        votes = [column[rows] for column in table.opinions]
        parts[label] = Part(
            judgements=len(rows),
            figures={name: table.figure(name)(rows) for name in table.names()},
            ceilings={name: function(*votes) for name, function in table.of.ceilings.items()},
        )
    return parts


def compare(
    judged_set: JudgedSet,
    first: ArrayLike,
    second: ArrayLike,
    *,
    samples: int = 1000,
    seed: int = 0,
    headline_only: bool = False,
) -> dict[str, Difference]:
    """Return how far the figures of a first metric exceed those of a second one on the same set, by name.

    Each has its 95 % interval and the p value of `paired_difference`; the options are those of `evaluate`.
    """
    one, other = _table(judged_set, first), _table(judged_set, second)
    return {
        name: paired_difference(one.contents, one.figure(name), other.figure(name), samples=samples, seed=seed)
        for name in one.names(headline_only)
    }


def headline_of(judged_set: JudgedSet, distances: ArrayLike) -> Figure:
    """Return a set's headline figure as a function of some of its rows, which may repeat."""
    table = _table(judged_set, distances)
    return table.figure(*table.names(headline_only=True))


def opinions(judged_set: JudgedSet, field_name: str) -> Floats:
    """Return what the observers said, (n,): a field of the judgements that holds numbers."""
    return np.array([getattr(judgement, field_name) for judgement in judged_set.judgements], dtype=np.float64)


def _table(judged_set: JudgedSet, distances: ArrayLike) -> _Table:
    """Return a set as columns that all figures can be taken of."""
    judgements = judged_set.judgements
    if not judgements:
        raise ValueError(f"{judged_set.name}: expected judgements, got none")
    of = FIGURES[judged_set.kind_of_judgement]
    array = np.asarray(distances, dtype=np.float64)
    shape = (len(judgements),) if of.distances == 1 else (len(judgements), of.distances)
    if array.shape != shape:
        kind = judged_set.kind_of_judgement.__name__
        raise ValueError(f"{judged_set.name}: expected distances {shape} for judgements {kind}, got {array.shape}")
    columns = list(array.reshape(len(judgements), of.distances).T)
    table = _Table(of, columns, [opinions(judged_set, name) for name in of.opinions], judged_set.contents)
    try:
        # before any resampling: the error's row is then the judgement's
        table.figure(*table.names(headline_only=True))(np.arange(len(judgements)))
    except ValueError as error:
        raise ValueError(f"{judged_set.name}: {error}") from error
    return table
