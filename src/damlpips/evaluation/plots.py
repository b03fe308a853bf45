"""Plots for a paper: what people said of a set's images against what metrics say of them.

    ratings   mean opinion score against distance, with the fitted logistic curve: a panel a metric
    choices   share of votes for a against log(d_b / d_a): on the right the metric finds a closer; a panel a metric
    same      precision against recall of the pairs that look the same, closest pairs first: a curve a metric

Text stays text (PDF embeds its fonts as TrueType). Each colour has a marker of its own, so that neither eyes nor a
printer need to tell colours apart.
"""

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damlpips.evaluation.figures import opinions
from damlpips.evaluation.judgements import Choice, Rating, SameOrNot
from damlpips.evaluation.logistic import logistic_fit
from damlpips.evaluation.votes import precision_recall
from damlpips.report.figure import render as render_figure
from damlpips.report.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from damlpips.evaluation.agreement import Result

DOTS_PER_INCH = 300

# Okabe and Ito's colours without yellow, which is too light for a marker on white; the groups after the seventh begin
# with the first colour again, in other shapes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES = ("-", "--", "-.", ":")

# Three panels fill the width of a page.
PANELS_A_ROW = 3
PANEL_INCHES = 2.35
LINE_INCHES = 0.17
# Above a panel of choices: where the metric's distances lie.
MARGINAL_SHARE = 0.22
# More than these make a vector file slow to open: points become pixels, text and lines do not.
MOST_VECTOR_POINTS = 3000
BINS = 8
# KRCC says what SRCC says, and ceilings are the set's
TITLED = ("SRCC", "PLCC", "2AFC")

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.title_fontsize": 7.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def render(results: "Sequence[Result]", *, suffix: str = "pdf") -> bytes:
    """Return the contents of a `pdf`, `svg` or `png` file with the plot of one set; equal results give equal files.

    Raises:
        ValueError: an unknown suffix, no results, or results on several sets.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return render_figure(draw(results), suffix, dpi=DOTS_PER_INCH)


def draw(results: "Sequence[Result]") -> "Figure":
    """Return the figure of one set; `render` sets the style."""
    if len({id(r.judged_set) for r in results}) != 1:
        raise ValueError(f"results: expected those of one set, got {sorted({r.judged_set.name for r in results})}")
    draws: dict[type, Callable[[Sequence[Result]], Figure]]
    draws = {Rating: _ratings, Choice: _choices, SameOrNot: _same_or_not}
    return draws[results[0].judged_set.kind_of_judgement](results)


def _ratings(results: "Sequence[Result]") -> "Figure":
    figure, axes = _panels(len(results))
    groups, title = _groups(results[0].judged_set.judgements)
    handles: list[Any] = []
    for panel, result in zip(axes, results, strict=True):
        scores = opinions(result.judged_set, "score")
        handles = _points(panel, result.distances, scores, groups)
        if np.ptp(result.distances) > 0:  # else the metric is blind to the set
            x = np.linspace(result.distances.min(), result.distances.max(), 200)
            panel.plot(x, logistic_fit(result.distances, scores)(x), color="black", linewidth=1.2)
        panel.set_title(_title(result), loc="left")
        panel.set_xlabel("distance" if result.lower_is_closer else "-score")
    _only_left(axes, "mean opinion score")
    _legend(figure, handles, groups, title)
    return figure


def _choices(results: "Sequence[Result]") -> "Figure":
    figure, axes = _panels(len(results), above=MARGINAL_SHARE)
    groups, title = _groups(results[0].judged_set.judgements)
    handles: list[Any] = []
    for (marginal, panel), result in zip(axes, results, strict=True):
        votes, others = (opinions(result.judged_set, name) for name in ("votes_a", "votes_b"))
        share = votes / (votes + others)
        preference, label = _preference(result.distances)
        reach = 1.05 * float(np.abs(preference).max()) or 1.0
        panel.axhline(0.5, color="0.8", linewidth=0.6, zorder=0)
        panel.axvline(0.0, color="0.8", linewidth=0.6, zorder=0)
        handles = _points(panel, preference, share, groups)
        panel.plot(*_running_mean(preference, share), color="black", linewidth=1.2)
        panel.set(xlim=(-reach, reach), ylim=(-0.03, 1.03), xlabel=label)
        marginal.hist(preference, bins=np.linspace(-reach, reach, 31), color="0.6")
        marginal.axvline(0.0, color="0.8", linewidth=0.6)
        marginal.set(xlim=(-reach, reach), yticks=[])
        marginal.tick_params(bottom=False, labelbottom=False)
        marginal.spines[["left", "bottom"]].set_visible(False)
        marginal.set_title(_title(result), loc="left")
    _only_left([panel for _, panel in axes], "share of votes for a")
    _legend(figure, handles, groups, title)
    return figure


def _same_or_not(results: "Sequence[Result]") -> "Figure":
    from matplotlib.figure import Figure

    side = 1.5 * PANEL_INCHES
    figure = Figure(figsize=(side, side + LINE_INCHES * len(results)), layout="constrained")
    panel = figure.subplots()
    same = opinions(results[0].judged_set, "same")
    panel.axhline(same.mean(), color="0.8", linewidth=0.6, zorder=0)
    for k, result in enumerate(results):
        recall, precision = precision_recall(result.distances, same)
        label = f"{_text(result.metric)}: mAP {_number(result.figures.headline)}"
        colour, line = COLOURS[k % len(COLOURS)], LINES[k % len(LINES)]
        steps = np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])
        panel.step(*steps, where="pre", linewidth=1.1, label=label, color=colour, linestyle=line)
    panel.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    panel.set_aspect("equal")
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def _panels(count: int, above: float = 0.0) -> tuple["Figure", list[Any]]:
    """Return a figure and `count` panels of one size, or with `above` pairs of a low panel and the one below it."""
    from matplotlib.figure import Figure

    rows = ceil(count / PANELS_A_ROW)
    columns = ceil(count / rows)
    heights = [above, 1.0] if above else [1.0]
    figure = Figure(figsize=(columns * PANEL_INCHES, rows * sum(heights) * PANEL_INCHES), layout="constrained")
    grid = figure.subplots(rows * len(heights), columns, squeeze=False, height_ratios=heights * rows)
    places = [(len(heights) * row, column) for row in range(rows) for column in range(columns)]
    for row, column in places[count:]:
        for panel in grid[row : row + len(heights), column]:
            panel.remove()
    return figure, [grid[r, c] if not above else (grid[r, c], grid[r + 1, c]) for r, c in places[:count]]


def _only_left(panels: "Sequence[Axes]", label: str) -> None:
    """Label what the panels of a row share at its left end."""
    low = min(panel.get_ylim()[0] for panel in panels)
    high = max(panel.get_ylim()[1] for panel in panels)
    for panel in panels:
        panel.set_ylim(low, high)
        panel.locator_params(axis="x", nbins=5)
        place = panel.get_subplotspec()
        if place is not None and place.is_first_col():
            panel.set_ylabel(label)
        else:
            panel.tick_params(labelleft=False)


def _points(panel: "Axes", x: NDArray, y: NDArray, groups: Sequence[str]) -> list[Any]:
    """Draw the judgements, and return one handle a group."""
    names = sorted(set(groups))
    members = [np.array(groups) == name for name in names]
    return [
        panel.scatter(
            x[member],
            y[member],
            s=9,
            marker=MARKERS[k],
            color=COLOURS[k % len(COLOURS)],
            alpha=0.75 if len(names) > 1 else 0.5,
            linewidths=0,
            rasterized=len(x) > MOST_VECTOR_POINTS,
        )
        for k, member in enumerate(members)
    ]


def _groups(judgements: Sequence[Any]) -> tuple[list[str], str]:
    """Return the group of each judgement, and what groups are: kinds, contents, or one where both are too many."""
    for attribute, title in (("kind", "distortion"), ("content", "content")):
        groups = [getattr(j, attribute) for j in judgements]
        if 1 < len(set(groups)) <= len(MARKERS):
            return groups, title
    return [""] * len(judgements), ""


def _legend(figure: "Figure", handles: Sequence[Any], groups: Sequence[str], title: str) -> None:
    names = sorted(set(groups))
    if len(names) < 2:
        return
    stems = [PurePath(name).stem for name in names]
    labels = [_text(name) for name in (stems if len(set(stems)) == len(names) else names)]
    width = figure.get_figwidth() / PANEL_INCHES
    # a line of a panel's width holds about this many letters
    columns = max(1, min(len(labels), int(width * 36 / (max(map(len, labels)) + 6))))
    # below the panels, not at their cost; a line for the title
    figure.set_figheight(figure.get_figheight() + LINE_INCHES * (1 + ceil(len(labels) / columns)))
    figure.legend(
        handles, labels, title=title, loc="outside lower center", ncols=columns, frameon=False, handletextpad=0.2
    )


def _preference(distances: NDArray) -> tuple[NDArray, str]:
    """Return how much closer pair a is than pair b, and what to call it."""
    a, b = distances[:, 0], distances[:, 1]
    if distances.min() > 0:
        return np.log(b / a), "log(d$_b$ / d$_a$)"
    # negated similarities have no ratios, and neither have distances of zero
    return b - a, "d$_b$ - d$_a$"


def _running_mean(x: NDArray, y: NDArray) -> tuple[list[float], list[float]]:
    """Return the means of both in bins of as many judgements each."""
    bins = [part for part in np.array_split(np.argsort(x, kind="stable"), BINS) if len(part)]
    return [float(x[part].mean()) for part in bins], [float(y[part].mean()) for part in bins]


def _title(result: "Result") -> str:
    """Return the metric, and below it the figures of its panel."""
    named = {name: figure for name, figure in result.figures.figures.items() if name in TITLED}
    return "\n".join([_text(result.metric), *(f"{name} {_number(figure)}" for name, figure in named.items())])


def _number(figure: Interval) -> str:
    ends = "" if np.isnan(figure.low) else f" [{figure.low:.2f}, {figure.high:.2f}]"
    return f"{figure.value:.3f}{ends}"


def _text(name: str) -> str:
    """Return a name as text, in which a dollar begins no formula."""
    return name.replace("$", r"\$")
