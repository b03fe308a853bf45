"""Agreement with votes: choices between two images (2AFC), and whether two look the same (JND)."""

import numpy as np
from numpy.typing import ArrayLike

from damlpips.report.intervals import Floats, series


def two_afc(distance_a: ArrayLike, distance_b: ArrayLike, votes_a: ArrayLike, votes_b: ArrayLike) -> float:
    """Return the share of votes that went to the metric's choice, a mean over the choices, 0 to 1.

    2afc = mean_i ([a_i < b_i] p_i + [b_i < a_i] (1 - p_i) + [a_i = b_i] / 2),    p_i = votes for a / votes for either

    Every choice counts the same, however many votes it had. A coin reaches one half.

    Args:
        distance_a, distance_b: the metric's, of a and of b from the reference, (n,), lower is closer.
        votes_a, votes_b: counts or shares, (n,), not negative, and not both zero.

    Returns:
        NaN without any choices.

    Raises:
        ValueError: unequal lengths, numbers that are not finite, or votes that are no votes.

    Reference:
        Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
        arXiv:1801.03924, and `score_2afc_dataset` of its released evaluation.

    Example:
        >>> two_afc([0.1, 0.5], [0.2, 0.4], [4, 1], [1, 1])
        0.65
    """
    a, b, votes, others = series(distance_a=distance_a, distance_b=distance_b, votes_a=votes_a, votes_b=votes_b)
    p = _share(votes, others)
    return _mean(np.where(a < b, p, np.where(b < a, 1 - p, 0.5)))


def human_2afc(votes_a: ArrayLike, votes_b: ArrayLike) -> float:
    """Return the 2AFC figure of an observer who votes as the observers did: the human ceiling, 0.5 to 1.

    human = mean_i (p_i^2 + (1 - p_i)^2),    p_i = votes for a / votes for either

    Such an observer chooses a with probability p and is then worth p, chooses b with probability 1 - p and is worth
    1 - p. A metric may exceed it, up to `majority_2afc`: it always chooses what most observers do, which no single one
    of them does.

    As published, p includes the observer's own vote, and so this is too high for few votes: of two observers who toss
    coins it makes 0.75. With two or five votes a choice, as in BAPPS, read it as a bound.

    Args:
        votes_a, votes_b: counts or shares, (n,), not negative, and not both zero.

    Returns:
        NaN without any choices.

    Raises:
        ValueError: unequal lengths, numbers that are not finite, or votes that are no votes.

    Reference:
        Zhang et al., CVPR 2018, arXiv:1801.03924, the evaluation of human performance.

    Example:
        >>> round(human_2afc([4, 1], [1, 1]), 4)
        0.59
    """
    p = _share(*series(votes_a=votes_a, votes_b=votes_b))
    return _mean(p**2 + (1 - p) ** 2)


def majority_2afc(votes_a: ArrayLike, votes_b: ArrayLike) -> float:
    """Return the 2AFC figure of an oracle who knows the votes: the ceiling of any metric, 0.5 to 1.

    majority = mean_i max(p_i, 1 - p_i),    p_i = votes for a / votes for either

    No metric can exceed it on these votes, and it is not below `human_2afc`. Few votes make it too high, too: the
    majority of five coins has at least three of them.

    Args:
        votes_a, votes_b: counts or shares, (n,), not negative, and not both zero.

    Returns:
        NaN without any choices.

    Raises:
        ValueError: unequal lengths, numbers that are not finite, or votes that are no votes.

    Reference:
        Zhang et al., CVPR 2018, arXiv:1801.03924, the evaluation of human performance.

    Example:
        >>> majority_2afc([4, 1], [1, 1])
        0.65
    """
    p = _share(*series(votes_a=votes_a, votes_b=votes_b))
    return _mean(np.maximum(p, 1 - p))


def jnd_map(distance: ArrayLike, same: ArrayLike) -> float:
    """Return the average precision of finding the pairs that look the same as those of least distance, 0 to 1.

    mAP = sum_k (R_k - R_{k-1}) max_{j >= k} P_j,    P_k = S_k / n_k,    R_k = S_k / S

    k goes through the different distances, upwards; n_k pairs are at most as far apart, and S_k is the sum of their
    shares of "the same", S that of all pairs. A pair that half of the observers call the same counts half as found.

    The released evaluation of BAPPS gives the same number where no two distances are equal. Where some are, it depends
    there on the order of the rows; here equal distances enter together. A metric that is blind gets the mean of `same`,
    and no metric gets less.

    Args:
        distance: the metric's, between the two images, (n,), lower is closer.
        same: the share of observers who said "the same", (n,), 0 to 1.

    Returns:
        NaN where nobody said "the same", and without any pairs.

    Raises:
        ValueError: unequal lengths, numbers that are not finite, or shares outside 0 to 1.

    Reference:
        Zhang et al., CVPR 2018, arXiv:1801.03924, and `score_jnd_dataset` of its released evaluation. The precision
        made monotone is Everingham et al.'s, "The PASCAL Visual Object Classes Challenge 2012", development kit.

    Example:
        >>> round(jnd_map([0.1, 0.2, 0.3], [1.0, 0.0, 1.0]), 4)
        0.8333
    """
    d, shares = series(distance=distance, same=same)
    _check(shares, (shares < 0) | (shares > 1), "same: expected shares from 0 to 1")
    total = shares.sum()
    if not total > 0:
        return float("nan")
    order = np.argsort(d, kind="stable")
    last = np.flatnonzero(np.diff(d[order], append=np.inf))  # of each run of equal distances
    found = np.cumsum(shares[order])[last]
    envelope = np.maximum.accumulate((found / (last + 1))[::-1])[::-1]
    return float(np.diff(found / found[-1], prepend=0.0) @ envelope)


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
