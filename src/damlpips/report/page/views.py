"""What the templates are given: names as plain text, numbers, positions in charts, and pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import torch

from damlpips.files import printable, spelled
from damlpips.models.registry import Metric
from damlpips.report import heat
from damlpips.report.figure import layer_names
from damlpips.report.page import charts
from damlpips.report.page.charts import Axis, Bar, Distribution
from damlpips.report.page.collecting import Section
from damlpips.report.page.comparison import Comparison, MetricColumn, heading, places
from damlpips.report.page.figures import Figures, figures
from damlpips.report.page.pictures import ImageRenderer, PairImages
from damlpips.report.page.reading import ScoredPair
from damlpips.report.page.rebuilding import rebuild

BEST = "Best"
# Means of DAMLPIPS, version 2, on nano over the three demo images, which a test measures again.
TYPICAL = (
    ("JPEG, quality 80", 0.20),
    ("JPEG, quality 30", 0.38),
    ("JPEG, quality 8", 0.62),
    ("Blur of 0.7 pixels", 0.26),
    ("Blur of 1.5 pixels", 0.67),
    ("Blur of 3 pixels", 0.91),
    ("White noise of 5 steps of 255", 0.21),
    ("White noise of 15 steps of 255", 0.57),
    ("White noise of 40 steps of 255", 0.93),
)


@dataclass(frozen=True)
class PairView:
    """A pair that is shown; `layers` are names and what each adds."""

    key: str
    name: str
    reference: str
    distorted: str
    score: float
    images: PairImages
    layers: tuple[tuple[str, float], ...]
    rank: str


@dataclass(frozen=True)
class PairList:
    title: str
    pairs: tuple[PairView, ...]


@dataclass(frozen=True)
class MethodView:
    """A method with scores; `best` if it has the lowest mean of several."""

    key: str
    name: str
    figures: Figures
    best: bool
    distribution: Distribution
    shares: tuple[Bar, ...]
    lists: tuple[PairList, ...]


@dataclass(frozen=True)
class Layer:
    name: str
    colour: str


@dataclass(frozen=True)
class SectionView:
    """A section of the page: a metric, backbone and set of options.

    Attributes:
        unscored: the names of methods without any score, and how many pairs of each failed.
        why_no_maps: why there are no heat maps; empty where there are.
        limit: where the colours of its heat maps end.
        scale: the colours of heat maps, from 0 to the limit.
        unseen: how many of the pairs that are shown have no pictures.
        paired: whether some methods have references in common.
        disagreed: pairs on which metrics disagree, by their numbers.
    """

    key: str
    title: str
    metric: str
    backbone: str
    weights: str
    options: tuple[tuple[str, str], ...]
    count: int
    failed: int
    contents: int
    methods: tuple[MethodView, ...]
    unscored: tuple[tuple[str, int], ...]
    axis: Axis | None
    layers: tuple[Layer, ...]
    failures: tuple[tuple[str, str, str], ...]
    why_no_maps: str
    limit: float
    scale: tuple[str, ...]
    unseen: int
    paired: bool
    disagreed: Mapping[int, PairView]


def view(
    section: Section,
    key: str,
    *,
    pairs: int,
    side: int,
    folder: Path,
    maps: bool,
    weights: Sequence[Path],
    heads: Sequence[Path],
    device: str | torch.device,
    samples: int,
    disagreed: Mapping[int, ScoredPair],
    moved: Callable[[], None],
) -> SectionView:
    """Return what a section shows; the options are those of `render_report`.

    `disagreed` are further pairs to show. `moved` is called after each pair.
    """
    settings = section.settings
    metric = printable(settings.metric)
    found = figures(section, samples=samples)
    rebuilt = rebuild(settings, weights=weights, heads=heads, device=device, wanted=maps)
    renderer = ImageRenderer(rebuilt, side=side, folder=folder, moved=moved)
    count = max((len(f.method.layers) for f in found), default=0)
    names = layer_names(settings.metric, count, motion="version=2" in settings.options.split())
    # lighter from fine to coarse, for every kind of colour vision; visible on white and on black
    colours = heat.palette(len(names), "viridis", 0.28, 0.92)
    options = (part.partition("=")[::2] for part in settings.options.split(" ") if part)
    axis = charts.axis(found) if found else None
    chosen = [_chosen(f, pairs) for f in found]
    further = {number: pair for number, pair in disagreed.items() if pair.score is not None}
    # all pictures first, since their heat maps share one scale
    *rendered, of_further = renderer.render([*(row for lists in chosen for _, row in lists), list(further.values())])
    methods = () if axis is None else tuple(_methods(found, key, names, axis, chosen, iter(rendered)))
    return SectionView(
        key=key,
        title=f"{Metric(metric).name if metric in list(Metric) else metric} ({printable(settings.backbone)})",
        metric=metric,
        backbone=printable(settings.backbone),
        weights=printable(settings.weights),
        options=tuple((printable(name), printable(value)) for name, value in options),
        count=section.count,
        failed=section.failed,
        contents=len(section.contents),
        methods=methods,
        unscored=tuple((printable(m.name), m.failed) for m in section.methods.values() if not m.scores),
        axis=axis,
        layers=tuple(Layer(*each) for each in zip(names, colours, strict=True)),
        failures=tuple((printable(p.method), printable(p.distorted), printable(p.error)) for p in section.failures),
        why_no_maps=printable(rebuilt.reason),
        limit=renderer.limit,
        scale=tuple(heat.palette(24)),
        unseen=sum(not pair.images.result for m in methods for row in m.lists for pair in row.pairs),
        paired=any(f.difference is not None for f in found),
        disagreed={
            number: _pair(images, f"{key}d{number}", names, "", 0)
            for number, images in zip(further, of_further, strict=True)
        },
    )


def _methods(
    found: Sequence[Figures],
    key: str,
    layers: Sequence[str],
    axis: Axis,
    chosen: Sequence[list[tuple[str, list[ScoredPair]]]],
    rendered: Iterator[list[PairImages]],
) -> Iterator[MethodView]:
    for k, (f, lists) in enumerate(zip(found, chosen, strict=True)):
        shown = []
        for n, (title, _) in enumerate(lists):
            row = [_pair(images, f"{key}m{k}l{n}p{p}", layers, title, p) for p, images in enumerate(next(rendered))]
            shown.append(PairList(title, tuple(row)))
        yield MethodView(
            key=f"{key}m{k}",
            name=printable(f.method.name),
            figures=f,
            best=k == 0 and len(found) > 1,
            distribution=charts.distribution(f, axis),
            shares=charts.shares(f.shares),
            lists=tuple(shown),
        )


def _chosen(found: Figures, count: int) -> list[tuple[str, list[ScoredPair]]]:
    """Return the pairs of a method that are shown: all if there are few."""
    method = found.method
    worst, best = method.worst(), method.best()
    if not count:
        return []
    if len(method.scores) > 2 * count:
        return [("Worst", worst), (BEST, best)]
    rest = {id(pair) for pair in worst}
    return [("All pairs, the worst first", [*worst, *(pair for pair in reversed(best) if id(pair) not in rest)])]


def _pair(images: PairImages, key: str, layers: Sequence[str], title: str, rank: int) -> PairView:
    pair = images.pair
    assert pair.score is not None
    images.notes = [spelled(note) for note in images.notes]
    return PairView(
        key,
        printable(Path(pair.distorted).name),
        printable(pair.reference),
        printable(pair.distorted),
        pair.score,
        images,
        tuple(zip(layers, pair.layers, strict=False)),
        f"{_ordinal(rank + 1)}{'best' if title == BEST else 'worst'}",
    )


@dataclass(frozen=True)
class MetricCell:
    """What a method has by a metric; `place` is 1 for the best, 0 where nothing is compared; `ends` of its interval."""

    value: float
    text: str
    place: int
    ends: tuple[str, ...]
    failed: int


@dataclass(frozen=True)
class DisagreementView:
    """A pair, its method, the key of its section, and what two metrics find."""

    pair: PairView
    method: str
    section: str
    finding: str


@dataclass(frozen=True)
class ComparisonView:
    """The section that compares metrics.

    Attributes:
        heads: the name of each metric, its unit and the arrow to its better scores.
        rows: a method, and its cell for each metric.
        correlations: a metric, and Spearman's correlation with each of those before it.
        descriptions: a metric, and what it is.
        incomplete: a method, an image and why it lacks a score.
    """

    heads: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[str, tuple[MetricCell, ...]], ...]
    correlations: tuple[tuple[str, tuple[float, ...]], ...]
    descriptions: tuple[tuple[str, str], ...]
    disagreements: tuple[DisagreementView, ...]
    incomplete: tuple[tuple[str, str, str], ...]
    pairs: int
    marked: bool


def comparison_view(
    found: Comparison, sections: Sequence[SectionView], incomplete: Sequence[ScoredPair]
) -> ComparisonView:
    """Return what the section that compares metrics shows."""
    names = [heading(column.name) for column in found.columns]
    columns = [_metric_cells(column) for column in found.columns]
    pictures = {n: (section, pair) for section in sections for n, pair in section.disagreed.items()}
    disagreements = [
        DisagreementView(
            pair=pictures[d.pair][1],
            method=printable(pictures[d.pair][1].images.pair.method),
            section=pictures[d.pair][0].key,
            finding=f"{names[d.closer]} finds {_percent(d.shares[0])} of the pairs closer than this one,"
            f" {names[d.further]} {_percent(d.shares[1])}.",
        )
        for d in found.disagreements
        if d.pair in pictures
    ]
    return ComparisonView(
        heads=tuple((name, c.said.unit, c.said.arrow) for name, c in zip(names, found.columns, strict=True)),
        rows=tuple((printable(m), tuple(column[k] for column in columns)) for k, m in enumerate(found.methods)),
        correlations=tuple((names[k], values[:k]) for k, values in enumerate(found.correlations)),
        descriptions=tuple((n, printable(c.said.description)) for n, c in zip(names, found.columns, strict=True)),
        disagreements=tuple(disagreements),
        incomplete=tuple((printable(p.method), printable(p.distorted), printable(p.error)) for p in incomplete),
        pairs=found.pairs,
        marked=len(found.methods) > 1,
    )


def _metric_cells(column: MetricColumn) -> list[MetricCell]:
    def shown(value: float) -> str:
        return f"{value:.2f}" if column.said.unit == "dB" and not isnan(value) else number(value)

    values = [cell.mean.value for cell in column.cells]
    texts = [shown(value) for value in values]
    ranks = places(values, texts, lower_is_closer=column.said.lower_is_closer)
    ends = [() if isnan(c.mean.low) else (shown(c.mean.low), shown(c.mean.high)) for c in column.cells]
    failed = [cell.failed for cell in column.cells]
    return [MetricCell(*each) for each in zip(values, texts, ranks, ends, failed, strict=True)]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ordinal(number: int) -> str:
    if number == 1:
        return ""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 // 10 != 1 else 0, "th")
    return f"{number}{ending} "


def number(value: float) -> str:
    """Return a score as it is shown.

    Example:
        >>> number(0.123456), number(0.000123456), number(0.0)
        ('0.1235', '0.000123', '0')
    """
    if isnan(value):
        return "none"
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.3g}"


def signed(value: float) -> str:
    """Return a difference as it is shown.

    Example:
        >>> signed(0.25), signed(-0.25), signed(0.0)
        ('+0.2500', '\u22120.2500', '0')
    """
    text = number(abs(value))
    return text if value == 0 else f"+{text}" if value > 0 else f"\u2212{text}"
