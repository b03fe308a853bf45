"""All metrics side by side: a mean for each method and metric, how alike metrics order pairs, and where they do not."""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import fsum, isnan, nan
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from damlpips.files import printable
from damlpips.report.describing import described, of_files, of_metric
from damlpips.report.intervals import Floats, Interval
from damlpips.report.page.collecting import MOST_FAILURES
from damlpips.report.page.figures import SAMPLES, intervals
from damlpips.report.page.reading import RunSettings, ScoredPair, method_names, read_rows
from damlpips.scoring.images import ScoringError
from damlpips.scoring.sets import Members, SetScore, read_sets, sets_of
from damlpips.scoring.several import Said, from_text

# names of this package and of the literature that are set in capitals
CAPITALS = re.compile(r"^(damlpips|lpips|psnr|ms-ssim|ssim|fid|kid)(?![a-z])")
# fewer pairs than this are in some order by chance
LEAST_PAIRS = 3
NO_INTERVAL = Interval(nan, nan, nan)


@dataclass
class _Series:
    """The scores of a metric, one entry a row; NaN where there is none."""

    pairs: "array[int]" = field(default_factory=lambda: array("q"))
    methods: "array[int]" = field(default_factory=lambda: array("l"))
    contents: "array[int]" = field(default_factory=lambda: array("l"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    seen: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Cell:
    """What a method has by a metric.

    Attributes:
        mean: with its 95 % interval, whose ends are NaN with one reference; all NaN without any score.
        count: how many pairs have a score.
        failed: how many have none.
    """

    mean: Interval
    count: int
    failed: int


@dataclass(frozen=True)
class MetricColumn:
    """A metric and what each method has by it; `name` tells it from the others."""

    name: str
    said: Said
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Disagreement:
    """A pair that one metric finds among the closest and another does not.

    Attributes:
        pair: its number.
        closer, further: the two metrics, by their place among the columns.
        shares: of all pairs that are closer still, by either.
    """

    pair: int
    closer: int
    further: int
    shares: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Methods by metrics.

    Attributes:
        columns: metrics of pairs first, then those of whole sets.
        correlations: Spearman's, of each two metrics of pairs over the pairs that have both scores, each score taken
            so that lower is closer; NaN with fewer than three such pairs, and where a metric gives all the same.
        disagreements: the pairs on which two metrics differ most, the first ones furthest.
        pairs, contents: how many pairs and references there are.
    """

    methods: tuple[str, ...]
    columns: tuple[MetricColumn, ...]
    correlations: tuple[tuple[float, ...], ...]
    disagreements: tuple[Disagreement, ...]
    pairs: int
    contents: int


class Scores:
    """The scores of all metrics in files of rows: only numbers, and the names of methods.

    Attributes:
        incomplete: pairs that have a score, but not by all metrics; the first ones.
    """

    def __init__(self) -> None:
        self._series: dict[tuple[str, ...], tuple[Said, _Series]] = {}
        self._metrics_of = cache(_metrics_of)
        self._methods: dict[str, int] = {}
        self._contents: dict[str, int] = {}
        self._pairs: dict[int, int] = {}
        self.incomplete: list[ScoredPair] = []
        self._members: dict[tuple[RunSettings, str], Members] = {}
        self._sets: dict[Said, dict[str, SetScore]] = {}

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> "Scores":
        """Return the scores of files of rows.

        Raises:
            ScoringError: a file that cannot be read, is no table of rows or has none; a pair that comes twice.
        """
        found, names = cls(), method_names(paths)
        for path in paths:
            number = 0
            for number, row in enumerate(read_rows(path), 1):
                found.add(row._replace(method=row.method or names[path]), f"{path}: row {number}")
            if not number:
                raise ScoringError(f"{path}: there are no rows in it")
        found.add_sets(paths)
        return found

    @property
    def count(self) -> int:
        """How many metrics there are."""
        return len(self._series) + len(self._sets)

    def add_sets(self, paths: Sequence[Path]) -> None:
        """Add what whole sets score, from the files beside those whose rows have been added.

        Raises:
            ScoringError: such a file is damaged, or of other images than the rows.
        """
        names = method_names(paths)
        for path in paths:
            for score in read_sets(sets_of(path)):
                method = score.method or names[path]
                settings = [s for (s, name), m in self._members.items() if (name, m.sha256) == (method, score.sha256)]
                if not settings:
                    of = score.method or "the images"
                    raise ScoringError(
                        f"{sets_of(path)}: {score.metric} of {of} is not that of the images in {path}: score them"
                        " again, or remove the file"
                    )
                self._sets.setdefault(_of_files(score.said, settings[0]), {})[method] = score

    def add(self, row: ScoredPair, where: str = "") -> None:
        """Add a row that has a method; errors begin with `where`."""
        self._members.setdefault((row.settings, row.method), Members()).tell(row.sha256, row.reference_sha256)
        method = self._methods.setdefault(row.method, len(self._methods))
        content = self._contents.setdefault(row.reference_sha256 or row.reference, len(self._contents))
        pair = self._pairs.setdefault(_key(row), len(self._pairs))
        for (key, said), value in zip(self._metrics_of(row.settings), (row.score, *row.others), strict=True):
            _, series = self._series.setdefault(key, (said, _Series()))
            if pair in series.seen:
                raise ScoringError(f"{where}: {row.distorted} of method {row.method!r} comes a second time")
            series.seen.add(pair)
            series.pairs.append(pair)
            series.methods.append(method)
            series.contents.append(content)
            series.values.append(nan if value is None else value)
        if row.error and row.score is not None and len(self.incomplete) < MOST_FAILURES:
            self.incomplete.append(row)

    def compared(self, *, samples: int = SAMPLES, seed: int = 0, most: int = 0) -> Comparison:
        """Return the methods by the metrics; at most so many disagreements."""
        every = list(self._series.values())
        whole = [(said, list(self._cells(series, samples, seed))) for said, series in every]
        whole += [(said, [_cell_of(scores.get(m)) for m in self._methods]) for said, scores in self._sets.items()]
        names = _told_apart([said.name for said, _ in whole])
        columns = tuple(MetricColumn(n, said, tuple(cells)) for n, (said, cells) in zip(names, whole, strict=True))
        shares = self._shares()
        return Comparison(
            tuple(self._methods),
            columns,
            tuple(tuple(_correlation(a, b) for b in shares) for a in shares),
            tuple(_disagreements(shares, most)),
            len(self._pairs),
            len(self._contents),
        )

    def _cells(self, series: _Series, samples: int, seed: int) -> Iterator[Cell]:
        values, contents = np.frombuffer(series.values, np.float64), np.array(series.contents, np.intp)
        of = np.array(series.methods, np.intp)
        scored = [(of == k) & ~np.isnan(values) for k in range(len(self._methods))]
        some = [mask for mask in scored if mask.any()]
        means = iter(
            intervals(
                [_by_content(values[mask], contents[mask], len(self._contents)) for mask in some],
                [fsum(values[mask]) / int(mask.sum()) for mask in some],
                samples,
                seed,
            )
        )
        for k, mask in enumerate(scored):
            count = int(mask.sum())
            yield Cell(next(means) if count else NO_INTERVAL, count, int((of == k).sum()) - count)

    def _shares(self) -> list[Floats]:
        """Return, for each metric, the share of pairs that it finds closer than each; NaN where it has no score."""
        found = []
        for said, series in self._series.values():
            shares = np.full(len(self._pairs), nan)
            values = np.frombuffer(series.values, np.float64) * (1 if said.lower_is_closer else -1)
            has = ~np.isnan(values)
            ranks = rankdata(values[has])
            shares[np.array(series.pairs, np.intp)[has]] = (ranks - 1) / max(1, len(ranks) - 1)
            found.append(shares)
        return found

    def named(self, paths: Sequence[Path], pairs: Iterable[int]) -> dict[int, ScoredPair]:
        """Return the rows of some pairs by their numbers, from the files, each from the first that has it."""
        wanted, names = set(pairs), method_names(paths)
        found: dict[int, ScoredPair] = {}
        for path in paths:
            if len(found) == len(wanted):
                break
            for row in read_rows(path):
                row = row._replace(method=row.method or names[path])
                if (pair := self._pairs.get(_key(row), -1)) in wanted:
                    found.setdefault(pair, row)
        return found


def _key(row: ScoredPair) -> int:
    # a hash, since the names of every row would take several times the memory
    return hash((row.method, row.reference, row.distorted))


def _metrics_of(settings: RunSettings) -> list[tuple[tuple[str, ...], Said]]:
    """Return the metrics of a run, the first one first, each with what it is told apart by.

    That is the digest of its settings and how the files were read: a metric is the same one wherever it stands, and
    beside whatever others, but not of images that were read otherwise.
    """
    files = of_files(settings.options)
    found: dict[tuple[str, ...], Said] = {}
    for said in from_text(settings.metrics) or [_alone(settings)]:
        key: tuple[str, ...] = said.digest, files
        if key in found:  # a second name of one metric
            key = (*key, said.name)
        found[key] = _of_files(said, settings)
    return list(found.items())


def _of_files(said: Said, settings: RunSettings) -> Said:
    """Return a metric whose description says how the files were read, too."""
    return replace(said, description="; ".join(filter(None, (said.description, of_files(settings.options)))))


def _alone(settings: RunSettings) -> Said:
    """Return what rows of a single metric say of it."""
    metric, backbone, weights = settings.metric, settings.backbone, settings.weights
    own = of_metric(settings.options)
    identity = {"metric": metric, "backbone": backbone, "weights": weights, "options": own}
    return Said.of(f"{metric}-{backbone}", described(metric, backbone, weights, own), identity, lower_is_closer=True)


def _told_apart(names: Sequence[str]) -> list[str]:
    """Return names, numbered where one comes again.

    Example:
        >>> _told_apart(["psnr", "ssim", "psnr"])
        ['psnr', 'ssim', 'psnr (2)']
    """
    return [
        f"{name} ({number})" if (number := names[: k + 1].count(name)) > 1 else name for k, name in enumerate(names)
    ]


def _cell_of(score: SetScore | None) -> Cell:
    """Return the cell of a whole set, whose images count as one."""
    if score is None or score.score is None:
        return Cell(NO_INTERVAL, 0, int(score is not None))
    return Cell(Interval(score.score, nan, nan), score.images, 0)


def _by_content(values: Floats, contents: np.ndarray, count: int) -> tuple[Floats, Floats]:
    sums = np.bincount(contents, values, minlength=count)
    return sums.astype(np.float64), np.bincount(contents, minlength=count).astype(np.float64)


def _correlation(one: Floats, other: Floats) -> float:
    both = ~np.isnan(one) & ~np.isnan(other)
    if both.sum() < LEAST_PAIRS:
        return nan
    ranks = [rankdata(shares[both]) for shares in (one, other)]
    if any(r.min() == r.max() for r in ranks):
        return nan
    return float(np.corrcoef(*ranks)[0, 1])


def _disagreements(shares: Sequence[Floats], most: int) -> Iterator[Disagreement]:
    if len(shares) < 2 or not most:
        return
    table = np.stack(shares)
    several = np.flatnonzero((~np.isnan(table)).sum(0) > 1)
    table = table[:, several]
    spread = np.nanmax(table, 0) - np.nanmin(table, 0) if len(several) else np.array([])
    # of equal spreads the earlier pair first
    for k in np.argsort(-spread, kind="stable")[:most]:
        low, high = int(np.nanargmin(table[:, k])), int(np.nanargmax(table[:, k]))
        if spread[k] > 0:
            yield Disagreement(int(several[k]), low, high, (float(table[low, k]), float(table[high, k])))


def heading(name: str) -> str:
    """Return the name of a metric as a paper has it.

    Example:
        >>> heading("lpips-alex"), heading("ms-ssim"), heading("piq:fsim")
        ('LPIPS-alex', 'MS-SSIM', 'piq:fsim')
    """
    return CAPITALS.sub(lambda match: match[0].upper(), printable(name))


def places(values: Sequence[float], texts: Sequence[str], *, lower_is_closer: bool) -> list[int]:
    """Return the place of each value, 1 for the best; 0 for NaN, and for all where there are fewer than two.

    Values of one text, as they are shown, share a place: after two first ones there is no second.

    Example:
        >>> places([0.31, 0.3, 0.3, float("nan")], [".31", ".30", ".30", "-"], lower_is_closer=True)
        [3, 1, 1, 0]
    """
    known = sorted((v if lower_is_closer else -v, t) for v, t in zip(values, texts, strict=True) if not isnan(v))
    if len(known) < 2:
        return [0] * len(values)
    order = [text for _, text in known]
    return [0 if isnan(value) else 1 + order.index(text) for value, text in zip(values, texts, strict=True)]
