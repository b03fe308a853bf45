"""Ratings as choices: two images of one content, and the share of observers that would find the second one closer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]


def shares(difference: Floats, spread: float) -> Floats:
    """Return the share that chooses the second of two images, by how much its score exceeds the first one's.

    p = Phi((s_2 - s_1) / sigma)

    Thurstone's law, Case V: an observer's opinion of an image varies normally about its score, and the image of the
    higher opinion is chosen. Sets of mean scores do not say how much opinions vary: sigma, the standard deviation of
    the difference of two opinions, is taken to be that of the scores within contents. Equal scores give 1/2.

    Reference:
        Thurstone, "A law of comparative judgment", Psychological Review 34, 1927. Zhang, Ma, Zhai, Yang, arXiv
        2005.13983 learn from pairs of rated images by it, with the deviations where sets have them.
    """
    return ndtr(difference / spread) if spread > 0 else np.full(len(difference), 0.5)


def spread_within(scores: Floats, contents: Sequence[str]) -> float:
    """Return the standard deviation of scores about the mean of their content."""
    _, of = np.unique(contents, return_inverse=True)
    counts = np.bincount(of)
    deviations = scores - (np.bincount(of, scores) / counts)[of]
    return float(np.sqrt(np.square(deviations).sum() / max(1, len(scores) - len(counts))))


def drawn(contents: Sequence[str], most: int, seed: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of two images of each choice: all pairs of a content, or `most` of them drawn by the seed.

    Which of two comes first is drawn, too: what learns from them shall not see the order.
    """
    rng = np.random.default_rng(list(seed))
    _, labels = np.unique(contents, return_inverse=True)
    pairs = []
    for rows in np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1]):
        one, other = np.triu_indices(len(rows), 1)
        if len(one) > most:
            kept = np.sort(rng.choice(len(one), most, replace=False))
            one, other = one[kept], other[kept]
        swapped = rng.integers(2, size=len(one)) == 1
        pairs.append(rows[np.where(swapped, [other, one], [one, other])])
    first, second = np.concatenate(pairs, 1)
    return first, second
