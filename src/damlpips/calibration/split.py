"""Contents to learn from, and contents held out: never two images of one content on both sides."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

# on each side: a figure of one content has no interval
LEAST = 2


def linked(rows: Sequence[Sequence[Hashable]]) -> list[int]:
    """Return a number for each row, the same for rows that share a key, or are joined by rows that do.

    Example:
        >>> linked([("a", 1), ("b", 2), ("c", 1), ("d", 3), ("b", 3)])
        [0, 1, 0, 1, 1]
    """
    above: dict[Hashable, Hashable] = {}

    def top(key: Hashable) -> Hashable:
        while above.setdefault(key, key) != key:
            above[key] = key = above[above[key]]
        return key

    for first, *others in rows:
        for key in others:
            above[top(key)] = top(first)
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(top(row[0]), len(numbers)) for row in rows]


def held_out(contents: Sequence[int], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which rows are held out: all of some contents, drawn by the seed.

    Raises:
        ValueError: too few contents.
    """
    labels = np.asarray(contents)
    distinct = np.unique(labels)
    count = max(LEAST, round(share * len(distinct)))
    if len(distinct) - count < LEAST:
        raise ValueError(
            f"held_out: {share:g} of {len(distinct)} contents leaves fewer than {LEAST} to learn from or to hold out:"
            f" expected at least {2 * LEAST} contents (a judgement or a file joins its images)"
        )
    return np.isin(labels, np.random.default_rng(seed).permutation(distinct)[:count])
