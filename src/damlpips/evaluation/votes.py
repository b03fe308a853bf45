"""Agreement with votes: choices between two images or two pairs of them (2AFC), and whether two look the same (JND).

All columns are (n,): distances, lower is closer; votes for a and b, counts or shares, not negative and not both zero;
shares of observers who said "the same", 0 to 1. Columns that are anything else, or of unequal lengths, are a ValueError
that names the row. Without any rows a figure is NaN.

The figures are those of Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018, arXiv:1801.03924, and of its released evaluation. Below, p_i is the share of the votes of choice i that a got.
"""

import numpy as np
from numpy.typing import ArrayLike

from damlpips.report.intervals import Floats, series


def two_afc(distance_a: ArrayLike, distance_b: ArrayLike, votes_a: ArrayLike, votes_b: ArrayLike) -> float:
    """Return the share of votes that went to the metric's choice, a mean over the choices, 0 to 1.

    2afc = mean_i ([a_i < b_i] p_i + [b_i < a_i] (1 - p_i) + [a_i = b_i] / 2)

    Every choice counts the same, however many votes it had. A coin reaches one half.
    """
    a, b, votes, others = series(distance_a=distance_a, distance_b=distance_b, votes_a=votes_a, votes_b=votes_b)
    p = _share(votes, others)
    return _mean(np.where(a < b, p, np.where(b < a, 1 - p, 0.5)))


def human_2afc(votes_a: ArrayLike, votes_b: ArrayLike) -> float:
    """Return the 2AFC figure of an observer who votes as the observers did: the human ceiling, 0.5 to 1.

    human = mean_i (p_i^2 + (1 - p_i)^2)

    Such an observer chooses a with probability p and is then worth p, chooses b with probability 1 - p and is worth
    1 - p. A metric may exceed it, up to `majority_2afc`: it always chooses what most observers do, which no single one
    of them does.

    As published, p includes the observer's own vote, so this is too high for few votes: for two observers who toss
    coins it is 0.75. With two or five votes a choice, as in BAPPS, read it as a bound.
    """
    p = _share(*series(votes_a=votes_a, votes_b=votes_b))
    return _mean(p**2 + (1 - p) ** 2)


def majority_2afc(votes_a: ArrayLike, votes_b: ArrayLike) -> float:
    """Return the 2AFC figure of an oracle who knows the votes: the ceiling of any metric, 0.5 to 1.

    majority = mean_i max(p_i, 1 - p_i)

    It is not below `human_2afc`. Few votes make it too high, too: of five coins, at least three make the majority.
    """
    p = _share(*series(votes_a=votes_a, votes_b=votes_b))
    return _mean(np.maximum(p, 1 - p))


def jnd_map(distance: ArrayLike, same: ArrayLike) -> float:
    """Return the average precision of finding the pairs that look the same as those of least distance, 0 to 1.

    mAP = sum_k (R_k - R_{k-1}) max_{j >= k} P_j,    with recall R and precision P of `precision_recall`

    The released evaluation of BAPPS gives the same number where no two distances are equal. Where some are, it depends
    there on the order of the rows; here equal distances enter together. A metric that is blind gets the mean of `same`,
    and no metric gets less. NaN, too, where no observer said "the same".

    Reference:
        The precision made monotone is Everingham et al.'s, "The PASCAL Visual Object Classes Challenge 2012".
    """
    d, shares = series(distance=distance, same=same)
    _check(shares, (shares < 0) | (shares > 1), "same: expected shares from 0 to 1")
    if not shares.sum() > 0:
        return float("nan")
    recall, precision = precision_recall(d, shares)
    return float(np.diff(recall, prepend=0.0) @ np.maximum.accumulate(precision[::-1])[::-1])


def precision_recall(distance: Floats, same: Floats) -> tuple[Floats, Floats]:
    """Return recall and precision of the pairs that look the same, after each different distance upwards.

    R_k = S_k / S,    P_k = S_k / n_k

    n_k pairs are at most as far apart as the kth distance; S_k is the sum of their shares of "the same", S that of all
    pairs. A pair that half of the observers call the same counts half as found.
    """
    order = np.argsort(distance, kind="stable")
    last = np.flatnonzero(np.diff(distance[order], append=np.inf))  # of each run of equal distances
    found = np.cumsum(same[order])[last]
    return found / found[-1], found / (last + 1)


def _share(votes: Floats, others: Floats) -> Floats:
    """Return the share of the votes that a got."""
    for name, count in (("votes_a", votes), ("votes_b", others)):
        _check(count, count < 0, f"{name}: expected counts or shares of votes, 0 or more")
    _check(votes + others, votes + others == 0, "votes_a + votes_b: expected at least one vote")
    return votes / (votes + others)


def _check(values: Floats, bad: np.ndarray, expected: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{expected}, got {values[row]:g} in row {row} ({int(bad.sum())} of {len(values)})")


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")
