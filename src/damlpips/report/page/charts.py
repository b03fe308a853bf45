"""Positions in the charts of a page, in percent of their width, so that they fit a phone as well as a desktop."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isnan, log10

import numpy as np

from damlpips.report.page.figures import Figures

# up to this many scores are drawn as dots
MOST_DOTS = 60
BINS = 64
# pixels above the line that histograms and dots stand on
HEIGHT = 34.0
LEVELS = 4
# room beside the first and the last score, in percent
MARGIN = 2.0


@dataclass(frozen=True)
class Tick:
    position: float
    text: str


@dataclass(frozen=True)
class Axis:
    """The axis that all methods of a section share."""

    low: float
    high: float
    ticks: tuple[Tick, ...]

    def position(self, value: float) -> float:
        """Return the position of a value, in percent."""
        return round(_share(value, self.low, self.high), 3)


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram or of shares: left end and width in percent, top and height in pixels."""

    left: float
    width: float
    top: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Distribution:
    """The scores of a method, drawn one by one or as a histogram; its quartiles; its mean and interval."""

    dots: tuple[tuple[float, float], ...]
    bars: tuple[Bar, ...]
    quartiles: tuple[float, ...]
    range: tuple[float, float]
    mean: float
    interval: tuple[float, float] | None


def axis(figures: Sequence[Figures]) -> Axis:
    """Return an axis for the scores of all methods, from 0 unless all of them lie far above it."""
    low, high = min(f.lowest for f in figures), max(f.highest for f in figures)
    if 0 <= low < 0.5 * high or low == high:
        low = min(0.0, low)
    high = high if high > low else low + 1.0
    step = _step((high - low) / 6)
    numbers = [k * step for k in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]
    decimals = max(0, -floor(log10(step) + 1e-9))
    return Axis(low, high, tuple(Tick(round(_share(n, low, high), 3), f"{n:.{decimals}f}") for n in numbers))


def _share(value: float, low: float, high: float) -> float:
    return MARGIN + (100 - 2 * MARGIN) * (value - low) / (high - low)


def _step(least: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not below a value."""
    power = 10.0 ** floor(log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def distribution(figures: Figures, axis: Axis) -> Distribution:
    """Return how a method's scores are drawn."""
    scores = np.frombuffer(figures.method.scores, np.float64)
    few = len(scores) <= MOST_DOTS
    low, high = figures.mean.low, figures.mean.high
    return Distribution(
        _dots(scores.tolist(), axis) if few else (),
        () if few else _histogram(scores, axis),
        tuple(axis.position(q) for q in figures.quartiles),
        (axis.position(figures.lowest), axis.position(figures.highest)),
        axis.position(figures.mean.value),
        None if isnan(low) else (axis.position(low), axis.position(high)),
    )


def _dots(scores: Sequence[float], axis: Axis) -> tuple[tuple[float, float], ...]:
    # at different heights, in the order of the rows, so that equal scores do not hide each other
    gap = HEIGHT / LEVELS
    return tuple((axis.position(score), HEIGHT - gap * (k % LEVELS) - gap / 2) for k, score in enumerate(scores))


def _histogram(scores: np.ndarray, axis: Axis) -> tuple[Bar, ...]:
    counts, edges = np.histogram(scores, BINS, (axis.low, axis.high))
    heights = HEIGHT * counts / max(counts.max(), 1)
    width = (100 - 2 * MARGIN) / BINS
    # a single score among many thousands remains visible
    return tuple(
        Bar(axis.position(float(edge)), round(width, 3), round(HEIGHT - max(h, 1.0), 2), round(max(h, 1.0), 2))
        for edge, h in zip(edges[:-1].tolist(), heights.tolist(), strict=True)
        if h > 0
    )


def shares(values: Sequence[float]) -> tuple[Bar, ...]:
    """Return shares of a whole as bars side by side. Heads from a file may be below 0, which has no width."""
    positive = [max(0.0, value) for value in values]
    total = sum(positive) or 1.0
    bars, left = [], 0.0
    for value in positive:
        bars.append(Bar(round(left, 3), round(100 * value / total, 3)))
        left += 100 * value / total
    return tuple(bars)
