"""The curve from a metric's distances to observers' scores, fitted before Pearson's correlation is taken."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit

from damlpips.report.intervals import Floats, series

# The widths that are searched, in multiples of the distances' range: at a thousand the curve is a straight line to
# eight digits, so that a fit is never worse than a line. The narrowest is a hundredth of the distances' interquartile
# range, below which the curve is a step between two neighbours and says nothing more.
WIDEST = 1e3
NARROWEST = 1e-2

# How far the centre may lie from the distances, in multiples of their range: out there the curve is an exponential.
FARTHEST = 10.0

# A curve whose variance is this share of its square is flat: nothing but rounding errors is left of it.
FLAT = 1e-20
# One that is so far out that its squares are close to the smallest float64 has lost its digits, too.
SMALLEST = 1e-200

# For each of some widths, up to three times the range, the best of some centres (quantiles of the distances, and one
# beyond either end) is a start; the best starts are polished. Compared with grids of thousands of curves, this
# found the best one except for few or noisy scores, where many steps are nearly as good.
CENTRES = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.98)
WIDTHS = 8
WIDEST_START = 3.0
POLISHED = 2
# This many distances, evenly spaced among the sorted ones, are enough to choose a centre; all else uses all of them.
ROWS = 500


@dataclass(frozen=True)
class Logistic:
    """Q(d) = b2 + (b1 - b2) / (1 + exp((d - b3) / b4)), monotone: from b1 at small distances to b2 at large ones.

    Attributes:
        b1, b2: scores; b1 > b2 where a smaller distance means a higher score, as it should.
        b3, b4: the centre and the width, distances; b4 > 0.
    """

    b1: float
    b2: float
    b3: float
    b4: float

    def __call__(self, distance: ArrayLike) -> Floats:
        """Return the scores (n,) that distances (n,) stand for."""
        return self.b2 + (self.b1 - self.b2) * expit((self.b3 - np.asarray(distance, dtype=np.float64)) / self.b4)


def logistic_fit(distance: ArrayLike, score: ArrayLike) -> Logistic:
    """Return the logistic curve that is nearest to the scores.

    min over b1, b2, b3, b4 of sum_i (Q(d_i) - s_i)^2,    Q(d) = b2 + (b1 - b2) / (1 + exp((d - b3) / |b4|))

    For a given centre b3 and width b4 the best b1 and b2 are a linear regression, and the sum of squares is
    (1 - r^2) var(s) n with the correlation r of the curve and the scores. So only b3 and b4 are searched for, from the
    best of 99 starting points, within bounds that hold everything from a step to a straight line: the curve returned is
    the best that was seen, and its r^2 is never below that of a straight line by more than a rounding error. It may
    rise or fall. Fewer than two different distances are a ValueError.

    Reference:
        Seshadrinathan et al., "Study of Subjective and Objective Quality Assessment of Video", IEEE TIP 19(6), 2010,
        whose form of the curves of the Video Quality Experts Group this is (here with the sign of a distance). VQEG's
        own final report on FR-TV Phase II, 2003, section 4.7, fitted three parameters, b2 being none: its fits of
        four did not converge.
    """
    d, s = series(distance=distance, score=score)
    if len(d) == 0 or np.ptp(d) == 0:
        raise ValueError(f"distance: expected at least two different values to fit a curve to, got {len(d)} equal ones")
    origin, scale = float(np.median(d)), float(np.ptp(d))
    x = (d - origin) / scale
    centre, width = _search(x, s)
    falling = expit((centre - x) / width)
    falling_centred = falling - falling.mean()
    slope = float(falling_centred @ (s - s.mean()) / (falling_centred @ falling_centred))
    b2 = float(s.mean() - slope * falling.mean())
    return Logistic(b1=b2 + slope, b2=b2, b3=origin + centre * scale, b4=width * scale)


def _search(x: Floats, score: Floats) -> tuple[float, float]:
    """Return the centre and the width of the best curve for distances of range 1 about 0."""
    y = score - score.mean()
    y = y / (np.linalg.norm(y) or 1.0)
    lower, upper = np.quantile(x, (0.25, 0.75))
    spread = float(upper - lower) or 1.0  # none where most of the distances are equal
    narrowest = np.log(spread * NARROWEST)
    bounds = [(x.min() - FARTHEST, x.max() + FARTHEST), (narrowest, np.log(WIDEST))]

    def loss(point: Floats) -> float:
        return _loss(point, x, y)[0]

    widths = [*np.linspace(narrowest, np.log(WIDEST_START), WIDTHS), np.log(WIDEST)]
    starts = sorted(_starts(x, y, widths), key=loss)
    ends = [
        minimize(_loss, start, args=(x, y), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-10}).x
        for start in starts[:POLISHED]
    ]
    # the starts, too: for lack of precision a search may end on something worse than it began with
    best = min([*starts, *ends], key=loss)
    return float(best[0]), float(np.exp(best[1]))


def _starts(x: Floats, y: Floats, widths: list[float]) -> list[Floats]:
    """Return for each log width the best of some centres, going by at most `ROWS` of the distances."""
    few = np.argsort(x)[:: -(-len(x) // ROWS)]
    centres = np.array([x.min() - 1, *np.quantile(x, CENTRES), x.max() + 1])
    starts = []
    for width in widths:
        curves = expit((centres[:, None] - x[few]) / np.exp(width))
        curves -= curves.mean(1, keepdims=True)
        norms = np.maximum(np.linalg.norm(curves, axis=1), np.sqrt(FLAT))
        starts.append(np.array([centres[np.argmax(np.abs(curves @ y[few]) / norms)], width]))
    return starts


def _loss(point: Floats, x: Floats, y: Floats) -> tuple[float, Floats]:
    """Return -r^2 of the curve with scores of mean 0 and norm 1, and its gradient by the centre and the log width."""
    centre, width = point[0], np.exp(point[1])
    u = (centre - x) / width
    curve = expit(u)
    z = curve - curve.mean()
    squares = float(z @ z)
    if squares <= FLAT * len(x) * max(curve.max() ** 2, SMALLEST):
        return 0.0, np.zeros(2)
    product = float(z @ y)
    slope = curve * (1 - curve)
    changes = np.stack([slope / width, -slope * u])
    gradient = -2 * product / squares * (changes @ y - product / squares * (changes @ z))
    return -(product**2) / squares, gradient
