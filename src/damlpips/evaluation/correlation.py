"""Agreement with opinion scores: correlations of ranks, and of scores along a fitted curve.

A metric's distances (n,) are lower, observers' scores (n,) higher for what is closer to the reference; every
correlation here has its sign turned, so that 1 is perfect agreement and -1 perfect disagreement. It is NaN where it is
not defined: for too few rows, or where all distances or all scores are equal. Columns of unequal lengths, or numbers
that are not finite, are a ValueError that names the row.

Opinion scores are means over observers, which do not tell how well one observer agrees with the others: unlike sets of
choices, sets of ratings have no human ceiling.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau, rankdata

from damlpips.evaluation.logistic import logistic_fit
from damlpips.report.intervals import Floats, series

# two points are always in perfect order
FEWEST_RANKS = 3
# four points can all lie on a curve of four parameters
FEWEST_ON_CURVE = 5


def srcc(distance: ArrayLike, score: ArrayLike) -> float:
    """Return Spearman's rank correlation of closeness and score, -1 to 1.

    srcc = -pearson(rank(d), rank(s)),    equal values share the mean of their ranks

    Reference:
        Spearman, "The Proof and Measurement of Association between Two Things", Am. J. Psychology 15(1), 1904.
    """
    d, s = series(distance=distance, score=score)
    if not _comparable(d, s, FEWEST_RANKS):
        return float("nan")
    return -_pearson(rankdata(d), rankdata(s))


def srcc_of_samples(distance: ArrayLike, score: ArrayLike, counts: ArrayLike) -> Floats:
    """Return `srcc` of each sample of the rows, (m,), all at once; as of the sample's rows, but for rounding.

    rank_i = #{j: d_j < d_i} + (#{j: d_j = d_i} + 1) / 2,    each row j counted as often as the sample has it

    Args:
        counts: how often each sample has each row, (m, n).
    """
    d, s = series(distance=distance, score=score)
    times = np.asarray(counts, dtype=np.float64)
    sizes = np.maximum(times.sum(1, keepdims=True), 1)  # an empty sample has no figure, and gives no warning
    x, y = (ranks - (times * ranks).sum(1, keepdims=True) / sizes for ranks in (_ranks(d, times), _ranks(s, times)))
    squares = (times * x * x).sum(1) * (times * y * y).sum(1)
    told = (squares > 0) & (sizes[:, 0] >= FEWEST_RANKS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(told, np.clip(-(times * x * y).sum(1) / np.sqrt(squares), -1, 1), np.nan)


def _ranks(values: Floats, times: Floats) -> Floats:
    """Return the rank of each value in each sample, (m, n); those of rows that a sample lacks mean nothing."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    equal = np.add.reduceat(times[:, order], starts, axis=1)  # those of each value, upwards
    return (np.cumsum(equal, axis=1) - equal + (equal + 1) / 2)[:, group]


def krcc(distance: ArrayLike, score: ArrayLike) -> float:
    """Return Kendall's rank correlation of closeness and score, tau-b, -1 to 1.

    krcc = (C - D) / sqrt((C + D + T_d) (C + D + T_s))

    C counts the pairs of rows in which the closer image has the higher score, D those in which it has the lower one,
    T_d those with equal distances only, T_s those with equal scores only.

    Reference:
        Kendall, "The Treatment of Ties in Ranking Problems", Biometrika 33(3), 1945.
    """
    d, s = series(distance=distance, score=score)
    if not _comparable(d, s, FEWEST_RANKS):
        return float("nan")
    return -float(kendalltau(d, s, method="asymptotic").statistic)  # the method is the p value's, which is not used


def plcc(distance: ArrayLike, score: ArrayLike) -> float:
    """Return Pearson's correlation of the scores with those that a logistic curve makes of the distances, -1 to 1.

    plcc = sign * pearson(Q(d), s),    sign = 1 where the fitted curve Q falls with the distance, -1 where it rises

    A fitted curve never correlates negatively with what it was fitted to: the sign tells agreement from disagreement.
    Near none at all the figure is the chance fit of four parameters, of either sign, and not zero.

    Reference:
        `damlpips.evaluation.logistic.logistic_fit` has the curve and where it comes from.
    """
    d, s = series(distance=distance, score=score)
    if not _comparable(d, s, FEWEST_ON_CURVE):
        return float("nan")
    curve = logistic_fit(d, s)
    return _pearson(curve(d), s) * (1.0 if curve.b1 >= curve.b2 else -1.0)


def _comparable(d: Floats, s: Floats, fewest: int) -> bool:
    return len(d) >= fewest and bool(np.ptp(d) > 0 and np.ptp(s) > 0)


def _pearson(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    norms = np.sqrt((x @ x) * (y @ y))  # one root, so that equal ranks give 1 and not nearly 1
    # nothing is left of a fitted curve that is flat, to a rounding step, where the distances are
    return float(np.clip(x @ y / norms, -1, 1)) if norms > 0 else float("nan")
