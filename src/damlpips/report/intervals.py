"""How sure a figure is: intervals and tests by resampling contents, since the images of one content are much alike.

With few contents the bootstrap is too sure of itself. A plain percentile interval of means of 4, 6, 10 and 20 normal
contents, nominally of 95 %, holds the truth in 80, 85, 91 and 92 % of all cases. Its ends are therefore moved outwards
by Student's t; the interval then holds it in 88, 92, 95 and 95 %. With two contents it is the range from one to the
other, which holds the truth half of the time, with three in 75 %: nothing can be resampled that was not seen. Contents
that are very unlike each other (exponential ones were tried) cost another two to five points.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = NDArray[np.float64]


def series(**columns: ArrayLike) -> list[Floats]:
    """Return the columns as float64, each (n,); their names are for the errors.

    Raises:
        ValueError: a column that is not (n,), columns of unequal length, or a number that is NaN or infinite.
    """
    arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    for name, array in arrays.items():
        if array.ndim != 1:
            raise ValueError(f"{name}: expected one number for each judgement, (n,), got {array.shape}")
        if not np.isfinite(array).all():
            row = int(np.argmin(np.isfinite(array)))
            bad = int((~np.isfinite(array)).sum())
            raise ValueError(f"{name}: expected finite numbers, got {array[row]} in row {row} ({bad} of {len(array)})")
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{len(array)} of {name}" for name, array in arrays.items())
        raise ValueError(f"expected as many numbers in each column, got {lengths}")
    return list(arrays.values())


Rows = NDArray[np.intp]


Figure = Callable[[Rows], float]


# how often each row is in each sample, (samples, n)
Counts = NDArray[np.intp]


LEVEL = 0.95


# numbers in the counts of the samples that are worked on at once: 8 MB, and some more of them in between
BLOCK = 1 << 20


@runtime_checkable
class FigureOfSamples(Protocol):
    """A figure that can be told for many samples at once, from how often each has each row."""

    def __call__(self, rows: Rows) -> float:
        """Return the figure of some rows, which may repeat."""
        ...

    def of_samples(self, counts: Counts) -> Floats:
        """Return the figure of each sample, as it is of the sample's rows."""
        ...


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; `low` and `high` are NaN where none can be told."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The first figure less the second, its 95 % interval, and the two-sided p value of no difference."""

    value: float
    low: float
    high: float
    p: float


def interval(contents: Sequence[str], figure: Figure, *, samples: int = 1000, seed: int = 0) -> Interval:
    """Return a figure and its 95 % percentile interval over bootstrap samples of the contents.

    low, high = the quantiles alpha and 1 - alpha of figure(rows of c*_1, ..., rows of c*_k)
    alpha = Phi(sqrt(k / (k - 1)) t_{k-1}(0.025)),    which nears 0.025 with many contents

    Each sample draws k of the k contents with replacement and takes all rows of each as often as it was drawn: the rows
    of one content are not independent, and resampling them one by one gives intervals that are too narrow.

    Args:
        contents: the content of each row, (n,).
        figure: what gives the figure for rows, which are indices and may repeat; a `FigureOfSamples` is faster.
        samples: bootstrap samples.
        seed: the same seed draws the same samples, for any figure.

    Returns:
        The value of all rows. The interval is NaN with a single content, and where more than 5 % of the samples have
        no figure (NaN), since the ends of 95 % of them cannot be told then; fewer are left out.

    Raises:
        ValueError: no rows, or fewer than one sample.

    Reference:
        Hesterberg, "What Teachers Should Know About the Bootstrap", Am. Statistician 69(4), 2015 (the expanded
        percentile interval); Field & Welsh, "Bootstrapping Clustered Data", J. R. Statist. Soc. B 69(3), 2007.

    Example:
        >>> found = interval(["a", "a", "b", "b"], lambda rows: float(rows.mean()), samples=200)
        >>> found
        Interval(value=1.5, low=0.5, high=2.5)
    """
    low, high = ends(drawn_figures(contents, figure, samples, seed), len(set(contents)))
    return Interval(figure(np.arange(len(contents))), low, high)


def paired_difference(
    contents: Sequence[str], figure_of_first: Figure, figure_of_second: Figure, *, samples: int = 1000, seed: int = 0
) -> Difference:
    """Return the difference of two metrics' figures on the same rows, its 95 % interval and its p value.

    share = (1 + min(#{D* <= 0}, #{D* >= 0})) / (1 + samples)
    p = max(2 T_{k-1}(sqrt((k - 1) / k) Phi^-1(share)), 2^(1 - k)),    1 where the share is one half or more

    D* is the difference on a bootstrap sample of the k contents: both metrics are given the same rows, and what is hard
    about a content for both of them cancels out. The share is that of the samples on the other side of zero; Student's
    T does to it what is done to the interval's ends.

    2^(1 - k) is the least p value of the exact test that exchanges the two metrics within contents: k contents that all
    speak for one metric are no better evidence than k equal tosses of a coin. With up to five contents no difference
    reaches 0.05. With equal metrics and six or more normal contents p is below 0.05 in 5 to 7 % of all cases; with
    contents that are very unlike each other, in up to 11 %.

    Args:
        contents: the content of each row, (n,).
        figure_of_first, figure_of_second: what gives the figures of the two metrics for rows.
        samples: bootstrap samples.
        seed: the same seed draws the same samples, for any figures.

    Returns:
        The value of all rows. The interval and p are NaN with a single content, and where more than 5 % of the samples
        have no difference (NaN). One p value is for one comparison: of many, some are small by chance.

    Raises:
        ValueError: no rows, or fewer than one sample.

    Reference:
        Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 15 and 16; Phipson & Smyth, "Permutation
        P-values Should Never Be Zero", Stat. Appl. Genet. Mol. Biol. 9(1), 2010; Canay, Romano & Shaikh,
        "Randomization Tests under an Approximate Symmetry Assumption", Econometrica 85(3), 2017, on few clusters.

    Example:
        >>> found = paired_difference("aabbcc", lambda rows: 1.0, lambda rows: 0.5, samples=200)
        >>> found
        Difference(value=0.5, low=0.5, high=0.5, p=0.25)
    """
    first, second = (drawn_figures(contents, figure, samples, seed) for figure in (figure_of_first, figure_of_second))
    k, drawn = len(set(contents)), first - second
    low, high = ends(drawn, k)
    p = float("nan") if np.isnan(low) else _p_value(drawn, k)
    every = np.arange(len(contents))
    return Difference(figure_of_first(every) - figure_of_second(every), low, high, p)


def drawn_figures(contents: Sequence[str], figure: Figure, samples: int, seed: int) -> Floats:
    """Return the figure of each bootstrap sample, (samples,); none where there is one content."""
    if not isinstance(figure, FigureOfSamples):
        return np.array([figure(rows) for rows in draws(contents, samples, seed)])
    which, drawn = _draw(contents, samples, seed)
    times = np.zeros((len(drawn), which.max() + 1), np.intp)
    np.add.at(times, (np.arange(len(drawn))[:, None], drawn), 1)
    at_once = max(1, BLOCK // len(which))
    parts = [figure.of_samples(times[k : k + at_once, which]) for k in range(0, len(times), at_once)]
    return np.concatenate(parts) if parts else np.array([])


def draws(contents: Sequence[str], samples: int, seed: int) -> Iterator[Rows]:
    """Yield the rows of each bootstrap sample; none where there is one content, from which nothing can be drawn."""
    which, samples_drawn = _draw(contents, samples, seed)
    order, sizes = np.argsort(which, kind="stable"), np.bincount(which)
    starts = np.cumsum(sizes) - sizes  # of each content's rows in that order
    for drawn in samples_drawn:
        ends = np.cumsum(sizes[drawn])
        offsets = np.repeat(starts[drawn] - ends + sizes[drawn], sizes[drawn])
        yield order[offsets + np.arange(ends[-1])]


def _draw(contents: Sequence[str], samples: int, seed: int) -> tuple[Rows, Counts]:
    """Return which content each row has, (n,), and which contents each sample has, (samples, k), or none of one."""
    if samples < 1:
        raise ValueError(f"samples: expected 1 or more, got {samples}")
    if len(contents) == 0:
        raise ValueError("contents: expected at least one row, got none")
    names, which = np.unique(list(contents), return_inverse=True)
    samples = samples if len(names) > 1 else 0
    return which, np.random.default_rng(seed).integers(len(names), size=(samples, len(names)))


def ends(drawn: Floats, k: int) -> tuple[float, float]:
    """Return the ends of the interval from what samples of k contents gave."""
    told = drawn[~np.isnan(drawn)]
    if len(told) == 0 or len(told) < LEVEL * len(drawn):
        return float("nan"), float("nan")
    outside = ndtr(np.sqrt(k / (k - 1)) * stdtrit(k - 1, (1 - LEVEL) / 2))
    low, high = np.quantile(told, (outside, 1 - outside))
    return float(low), float(high)


def _p_value(drawn: Floats, k: int) -> float:
    """Return the two-sided p value of zero, from what samples of k contents gave."""
    told = drawn[~np.isnan(drawn)]
    fewest = min(int((told <= 0).sum()), int((told >= 0).sum()))
    share = (1 + fewest) / (1 + len(told))
    if share >= 0.5:
        return 1.0
    return float(max(2 * stdtr(k - 1, ndtri(share) * np.sqrt((k - 1) / k)), 2.0 ** (1 - k)))
