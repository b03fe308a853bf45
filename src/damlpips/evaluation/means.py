"""One figure for several judged sets: the mean of their headline figures, each set counting the same.

    mean = 1/K sum_k figure_k
    se^2 = 1/K^2 sum_k v_k,    v_k = n_k / (n_k - 1) var(figure_k over bootstrap samples of its n_k contents)
    low, high = mean -+ t_f(0.975) se, within -1 to 1,    f = (sum_k v_k)^2 / sum_k (v_k^2 / (n_k - 1))

Sets were judged apart, so their errors are independent; Welch and Satterthwaite's f says how well se is known from a
handful of contents. What a set with a single content would have been with another one is unknown: it is held fixed, in
the mean with v_k = 0, and is left out of f. A mean over figures of several kinds (SRCC and 2AFC, say) orders metrics,
and means nothing else.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from damlpips.evaluation.figures import headline_of
from damlpips.evaluation.judgements import JudgedSet
from damlpips.report.intervals import LEVEL, Difference, Floats, Interval, drawn_figures


def mean_figure(
    sets: Sequence[JudgedSet], distances: Sequence[ArrayLike], *, samples: int = 1000, seed: int = 0
) -> Interval:
    """Return the mean of a metric's headline figures over sets, and its 95 % interval.

    The interval is NaN where a figure is not defined, or no set has two contents. Distances, options and errors are
    those of `damlpips.evaluation.figures.evaluate`; no sets are a ValueError.

    Reference:
        Satterthwaite, "An Approximate Distribution of Estimates of Variance Components", Biometrics Bulletin 2(6),
        1946.
    """
    mean, error, freedom = _combined(sets, *_drawn(sets, distances, samples, seed))
    reach = _reach(error, freedom)
    # no figure is beyond 1, nor below -1
    low, high = np.clip([mean - reach, mean + reach], -1.0, 1.0)
    return Interval(mean, float(low), float(high))


def compare_means(
    sets: Sequence[JudgedSet],
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Return how far the mean figure of a first metric exceeds that of a second one, on the same sets.

    p = max(2 T_f(-|difference| / se), 2^(1 - sum_k n_k)),    over the sets with two contents or more

    Both metrics are given the same rows of each sample, as in `damlpips.report.intervals.paired_difference`, which
    says where the least p comes from. Options, errors and NaN are those of `mean_figure`.
    """
    (one, drawn_of_one), (other, drawn_of_other) = (_drawn(sets, d, samples, seed) for d in (first, second))
    drawn = [a - b for a, b in zip(drawn_of_one, drawn_of_other, strict=True)]
    mean, error, freedom = _combined(sets, one - other, drawn)
    reach = _reach(error, freedom)
    if np.isnan(error):
        p = float("nan")
    elif mean == 0:
        p = 1.0
    else:
        share = float(stdtr(freedom, -abs(mean) / error)) if error > 0 else 0.0
        counts = _counts(sets)
        p = max(2 * share, 2.0 ** (1 - float(counts[counts > 1].sum())))
    return Difference(mean, mean - reach, mean + reach, p)


def _drawn(
    sets: Sequence[JudgedSet], distances: Sequence[ArrayLike], samples: int, seed: int
) -> tuple[Floats, list[Floats]]:
    """Return the figure of each set, and of each set those of its samples."""
    if not sets:
        raise ValueError("sets: expected at least one, got none")
    # a seed for each set: with one for all, sets of as many contents would draw the same places
    seeds = np.random.SeedSequence(seed).generate_state(len(sets))
    values, drawn = [], []
    for judged, of_set, seed_of_set in zip(sets, distances, seeds, strict=True):
        figure = headline_of(judged, of_set)
        values.append(figure(np.arange(len(judged.judgements))))
        drawn.append(drawn_figures(judged.contents, figure, samples, int(seed_of_set)))
    return np.array(values), drawn


def _counts(sets: Sequence[JudgedSet]) -> Floats:
    """Return how many contents each set has."""
    return np.array([len(set(judged.contents)) for judged in sets], dtype=np.float64)


def _variance(drawn: Floats, k: float) -> float:
    """Return the variance of a figure over k contents."""
    told = drawn[~np.isnan(drawn)]
    # as in `damlpips.report.intervals.ends`
    enough = len(told) > 1 and len(told) >= LEVEL * len(drawn)
    return float(told.var(ddof=1)) * k / (k - 1) if enough else float("nan")


def _combined(sets: Sequence[JudgedSet], values: Floats, drawn: Sequence[Floats]) -> tuple[float, float, float]:
    """Return the mean of the sets' figures, its standard error, and the degrees of freedom of that."""
    counts = _counts(sets)
    varies = counts > 1
    if not varies.any():
        return float(values.mean()), float("nan"), float("nan")
    variances = np.array([_variance(of_set, k) for of_set, k in zip(drawn, counts, strict=True) if k > 1])
    total = float(variances.sum())
    freedom = total**2 / float((variances**2 / (counts[varies] - 1)).sum()) if total > 0 else float("nan")
    return float(values.mean()), float(np.sqrt(total)) / len(values), freedom


def _reach(error: float, freedom: float) -> float:
    """Return how far the interval reaches to either side: 0 if no sample differs, NaN if it cannot be estimated."""
    return float(stdtrit(freedom, (1 + LEVEL) / 2)) * error if error > 0 else error
