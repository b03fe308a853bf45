"""The summary that `damlpips score` prints: means, the first scores and the first errors, however many there are."""

from fractions import Fraction
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from damlpips.cli.options import print_table
from damlpips.cli.program import complain
from damlpips.files import spelled, unspelled

if TYPE_CHECKING:
    from damlpips.scoring.rows import Scored

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
    """Means, the first rows and the first errors of a run."""

    def __init__(self) -> None:
        self.pairs = self.failed = 0
        self.mean = Mean()
        self.methods: dict[str, Mean] = {}
        self._kinds: set[str] = set()
        self._rows: list[tuple[str, str]] = []
        self._errors: list[str] = []

    def add(self, scored: "Scored") -> None:
        """Count a pair."""
        self.pairs += 1
        pair, score = scored.pair, scored.row["score"]
        self._kinds.add("video" if pair.video else "image")
        method = self.methods.setdefault(pair.method, Mean())
        if score is None:
            self.failed += 1
            self._errors = [*self._errors, unspelled(str(scored.row["error"]))][:MOST_ERRORS]
        else:
            self.mean.add(float(score))
            method.add(float(score))
        if self.pairs <= MOST_ROWS:
            self._rows.append((pair.name, "failed" if score is None else number(float(score))))

    def print(self, title: str) -> None:
        """Print every score if there are few, otherwise the mean; with methods, the mean of each."""
        named = [name for name in self.methods if name]
        kind = " or ".join(sorted(self._kinds)) or "image"
        table = Table(title=title, box=box.SIMPLE, min_width=len(title) + 2, title_justify="left")
        table.add_column("method" if named else kind, overflow="fold")
        if named:
            table.add_column("pairs", justify="right", no_wrap=True)
        table.add_column("mean" if named else "score", justify="right", no_wrap=True)
        if named:
            for name in named:
                table.add_row(_text(name), str(self.methods[name].count), str(self.methods[name]))
        elif self.pairs > MOST_ROWS:
            table.add_row(f"mean of {self.mean.count} {kind}s", str(self.mean))
        else:
            for position, (name, value) in enumerate(self._rows, 1):
                table.add_row(_text(name), value, end_section=position == len(self._rows))
            if len(self._rows) > 1:
                table.add_row("mean", str(self.mean))
        print_table(table)

    def complain(self) -> None:
        """Print on stderr which pairs have no score."""
        lines = [*self._errors, f"and {self.failed - len(self._errors)} more"][: self.failed]
        complain(f"{self.failed} of {self.pairs} pairs could not be scored:", *(f"  {line}" for line in lines))


def _text(name: str) -> Text:
    """Return a file's name as text, whose brackets are not markup."""
    return Text(spelled(name))


def number(value: float) -> str:
    """Return a score with at least four significant digits."""
    return f"{value:.6f}" if value == 0 or value >= 1e-3 else f"{value:.4g}"
