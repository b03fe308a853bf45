"""The summary that `damlpips score` prints: means, the first scores and the first errors, however many there are."""

import heapq
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from damlpips.cli.options import print_table
from damlpips.cli.program import complain
from damlpips.files import spelled, unspelled

if TYPE_CHECKING:
    from damlpips.scoring.rows import Scored
    from damlpips.scoring.sets import SetScore
    from damlpips.scoring.several import Said

# Nobody reads more rows than this on a screen.
MOST_ROWS = 50
MOST_ERRORS = 10


class Mean:
    """The mean of numbers whose sum is never rounded."""

    def __init__(self) -> None:
        self.count = 0
        self._total = Fraction(0)

    def add(self, value: float) -> None:
        self.count += 1
        self._total += Fraction(value)

    def __str__(self) -> str:
        return number(float(self._total / self.count)) if self.count else "none"


class RunSummary:
    """Means, the first rows, the first errors and the highest scores of a run.

    Args:
        others: the columns of its further metrics.
        limit: pairs whose score is above it are counted and named.
    """

    def __init__(self, others: Sequence[str] = (), *, limit: float | None = None) -> None:
        self.pairs = self.failed = self.above = 0
        self._limit = limit
        self._worst: list[tuple[float, int, str]] = []  # a heap, the least of them first
        self._columns = ("score", *others)
        self.means = self._none()
        self.methods: dict[str, list[Mean]] = {}
        self._kinds: set[str] = set()
        self._rows: list[tuple[str, list[str]]] = []
        self._errors: list[str] = []
        # what whole sets score, for the methods' table
        self.sets: Sequence[SetScore] = ()

    def _none(self) -> list[Mean]:
        return [Mean() for _ in self._columns]

    def add(self, scored: "Scored") -> None:
        """Count a pair; one that lacks any of its scores has failed."""
        self.pairs += 1
        pair, values = scored.pair, [scored.row[name] for name in self._columns]
        self._kinds.add("video" if pair.video else "image")
        method = self.methods.setdefault(pair.method, self._none())
        if None in values:
            self.failed += 1
            self._errors = [*self._errors, unspelled(str(scored.row["error"]))][:MOST_ERRORS]
        if self._limit is not None and values[0] is not None and float(values[0]) > self._limit:
            self.above += 1
            heapq.heappush(self._worst, (float(values[0]), -self.pairs, str(pair.distorted)))
            if len(self._worst) > MOST_ERRORS:
                heapq.heappop(self._worst)
        for k, value in enumerate(values):
            if value is not None:
                self.means[k].add(float(value))
                method[k].add(float(value))
        if self.pairs <= MOST_ROWS:
            self._rows.append((pair.name, ["failed" if value is None else number(float(value)) for value in values]))

    def print(self, title: str, metrics: "Sequence[Said]" = ()) -> None:
        """Print every score if there are few, otherwise the mean; with methods, the mean of each.

        Args:
            metrics: what the rows say of several metrics: there is a column for each.
        """
        named = [name for name in self.methods if name]
        kind = " or ".join(sorted(self._kinds)) or "image"
        heads = [f"{spelled(metric.name)} {metric.arrow}" for metric in metrics] or ["mean" if named else "score"]
        title = "\u2193 lower is closer, \u2191 higher is closer" if metrics else title
        table = Table(title=title, box=box.SIMPLE, min_width=len(title) + 2, title_justify="left")
        table.add_column("method" if named else kind, overflow="fold")
        if named:
            table.add_column("pairs", justify="right", no_wrap=True)
        for head in heads:
            table.add_column(Text(head), justify="right", no_wrap=True)
        if named:
            for name in named:
                means = self.methods[name]
                table.add_row(_text(name), str(max(mean.count for mean in means)), *map(str, means))
        elif self.pairs > MOST_ROWS:
            table.add_row(f"mean of {max(mean.count for mean in self.means)} {kind}s", *map(str, self.means))
        else:
            for position, (name, values) in enumerate(self._rows, 1):
                table.add_row(_text(name), *values, end_section=position == len(self._rows))
            if len(self._rows) > 1:
                table.add_row("mean", *map(str, self.means))
        print_table(table)
        for found in self.sets:
            value = "failed" if found.score is None else number(found.score)
            of = f"{spelled(found.method)}: " if found.method else ""
            typer.echo(f"{of}{found.metric} \u2193 {value} ({found.images} images, {found.references} references)")

    @property
    def is_whole(self) -> bool:
        """Whether everything has a score."""
        return not self.failed and not any(found.error for found in self.sets)

    def complain(self) -> None:
        """Print on stderr which pairs are above the limit, and what has no score."""
        if self.above:
            worst = [f"{number(score)} {name}" for score, _, name in sorted(self._worst, reverse=True)]
            complain(f"{self.above} of {self.pairs} pairs are above {self._limit}:", *_first(worst, self.above))
        for found in self.sets:
            if found.error:
                complain(f"{found.metric} of {found.method or 'the images'} could not be computed: {found.error}")
        if self.failed:
            by = " by every metric" if len(self._columns) > 1 else ""
            complain(
                f"{self.failed} of {self.pairs} pairs could not be scored{by}:", *_first(self._errors, self.failed)
            )


def _first(lines: list[str], count: int) -> list[str]:
    """Return the first lines of a list of `count`, and how many more there are."""
    return [f"  {line}" for line in [*lines, f"and {count - len(lines)} more"][:count]]


def _text(name: str) -> Text:
    """Return a file's name as text, whose brackets are not markup."""
    return Text(spelled(name))


def number(value: float) -> str:
    """Return a score with at least four significant digits."""
    return f"{value:.6f}" if value == 0 or value >= 1e-3 else f"{value:.4g}"
