"""How well a metric agrees with people on contents held out, before and after it was learned: all choices, each set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from damlpips.calibration.choices import Choices, Rows
from damlpips.evaluation.figures import SetFigures, compare, evaluate
from damlpips.evaluation.judgements import Choice, JudgedSet
from damlpips.evaluation.means import compare_means, mean_figure
from damlpips.report.intervals import Difference, Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """The figures of a set before and after, and their difference: SRCC of ratings, 2AFC of choices."""

    before: SetFigures
    after: SetFigures
    difference: Difference


@dataclass(frozen=True)
class MeanOutcome:
    """The mean of the figures of all sets before and after, and their difference, as `damlpips agree` has them."""

    before: Interval
    after: Interval
    difference: Difference


@dataclass(frozen=True)
class Outcomes:
    """What learning has changed on the contents held out.

    Attributes:
        choices: all of them, those drawn between rated images too.
        of_sets: each set by its own judgements; those without a content held out are left out.
        mean: of these; None for fewer than two.
    """

    choices: Outcome
    of_sets: tuple[Outcome, ...]
    mean: MeanOutcome | None


@dataclass(frozen=True)
class _Seen:
    """Judgements, and the distances of their images before and after."""

    judged: JudgedSet
    before: Floats
    after: Floats

    def outcome(self, samples: int, seed: int) -> Outcome:
        options = {"samples": samples, "seed": seed, "headline_only": True}
        before, after = (evaluate(self.judged, d, **options) for d in (self.before, self.after))  # type: ignore[arg-type]
        differences = compare(self.judged, self.after, self.before, **options)  # type: ignore[arg-type]
        return Outcome(before, after, differences[after.headline_name])


def outcomes(
    choices: Choices, out: NDArray[np.bool_], before: Floats, after: Floats, *, samples: int, seed: int
) -> Outcomes:
    """Return the figures on the choices held out, and on the judgements of their contents.

    Args:
        out: which choices are held out.
        before, after: the distances of all `choices.pairs`; only those held out matter.
        samples, seed: of the intervals, over contents.
    """
    held = np.unique(choices.contents[out])
    seen = [_of_set(judged.judged_set, judged.rows, judged.contents, held, before, after) for judged in choices.sets]
    seen = [of_set for of_set in seen if of_set.judged.judgements]
    return Outcomes(
        choices=_joined(choices, out, before, after).outcome(samples, seed),
        of_sets=tuple(of_set.outcome(samples, seed) for of_set in seen),
        mean=_mean(seen, samples, seed) if len(seen) > 1 else None,
    )


def _of_set(judged: JudgedSet, rows: Rows, contents: Rows, held: Rows, before: Floats, after: Floats) -> _Seen:
    kept = np.flatnonzero(np.isin(contents, held))
    judgements = tuple(replace(judged.judgements[k], content=str(contents[k])) for k in kept)
    one, other = (d[rows[kept] if judged.kind_of_judgement is Choice else rows[kept, 0]] for d in (before, after))
    return _Seen(replace(judged, judgements=judgements), one, other)


def _joined(choices: Choices, out: NDArray[np.bool_], before: Floats, after: Floats) -> _Seen:
    judgements = []
    for k in np.flatnonzero(out):
        first, second = (choices.pairs[rows[k]] for rows in (choices.first, choices.second))
        one, other = choices.for_each[k].tolist()
        judgements.append(Choice(first, second, one, other, str(choices.contents[k])))
    distances = (choices.of_pairs(d)[out] for d in (before, after))
    return _Seen(JudgedSet("held out", tuple(judgements)), *distances)


def _mean(seen: Sequence[_Seen], samples: int, seed: int) -> MeanOutcome:
    sets = [of_set.judged for of_set in seen]
    one, other = [of_set.before for of_set in seen], [of_set.after for of_set in seen]
    before, after = (mean_figure(sets, d, samples=samples, seed=seed) for d in (one, other))
    return MeanOutcome(before, after, compare_means(sets, other, one, samples=samples, seed=seed))
