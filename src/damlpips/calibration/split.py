"""Contents to learn from, and contents held out: never two images of one content on both sides."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


def held_out(contents: ArrayLike, share: float, seed: int, sets: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Return which rows are held out: all of some contents, drawn by the seed.

    Args:
        sets: the number of the set that each row is from; None: one. The share is held out of each; sets with too few
            contents for that are drawn from together.

    Raises:
        ValueError: too few contents.
    """
    labels = np.asarray(contents)
    # a content that several sets share is the first one's
    distinct, first = np.unique(labels, return_index=True)
    of_set = np.zeros(len(labels), np.intp) if sets is None else np.asarray(sets)
    groups = [distinct[of_set[first] == number] for number in np.unique(of_set)]
    large = [group for group in groups if len(group) >= 2 * LEAST]
    small = [group for group in groups if len(group) < 2 * LEAST]
    together = np.sort(np.concatenate([*small, distinct[:0]]))
    rng = np.random.default_rng(seed)
    out = []
    for group in [*large, *([together] if len(together) >= 2 * LEAST else [])]:
        count = max(LEAST, round(share * len(group)))
        if len(group) - count < LEAST:
            raise ValueError(_too_few(share, len(group)))
        out.append(rng.permutation(group)[:count])
    if not out:
        raise ValueError(_too_few(share, len(distinct)))
    return np.isin(labels, np.concatenate(out))


def _too_few(share: float, count: int) -> str:
    return (
        f"held_out: {share:g} of {count} contents leaves fewer than {LEAST} to learn from or to hold out:"
        f" expected at least {2 * LEAST} contents (a judgement or a file joins its images)"
    )
