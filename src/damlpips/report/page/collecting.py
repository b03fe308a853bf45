"""What a report keeps of its rows, however many there are: the numbers of every pair, the names of a few."""

import heapq
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from damlpips.report.page.reading import RunSettings, ScoredPair, method_names, read_rows
from damlpips.scoring.images import ScoringError

# failed pairs of a section that are listed
MOST_FAILURES = 50

# a pair that is kept, and what it is ordered by: of equal scores the earlier row counts as more extreme
Ranked = tuple[float, int, ScoredPair]


@dataclass
class Method:
    """The scores of a method.

    Attributes:
        name: its name; that of the file where the rows have none.
        scores: of all its pairs that have one.
        contents: which reference each of them has, a number within the section.
        layers: the sum of what each layer adds.
        failed: how many pairs have no score.
        lowest, highest: heaps of the pairs at both ends.
    """

    name: str
    scores: "array[float]" = field(default_factory=lambda: array("d"))
    contents: "array[int]" = field(default_factory=lambda: array("l"))
    layers: list[float] = field(default_factory=list)
    failed: int = 0
    lowest: list[Ranked] = field(default_factory=list)
    highest: list[Ranked] = field(default_factory=list)

    def best(self) -> list[ScoredPair]:
        return [pair for *_, pair in sorted(self.lowest, key=lambda r: (-r[0], -r[1]))]

    def worst(self) -> list[ScoredPair]:
        return [pair for *_, pair in sorted(self.highest, key=lambda r: (-r[0], -r[1]))]


@dataclass
class Section:
    """The rows of one metric, backbone and set of options."""

    settings: RunSettings
    methods: dict[str, Method] = field(default_factory=dict)
    contents: dict[str, int] = field(default_factory=dict)
    failures: list[ScoredPair] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(len(method.scores) for method in self.methods.values())

    @property
    def failed(self) -> int:
        return sum(method.failed for method in self.methods.values())


class Collection:
    """Rows by section and method; the names of `keep` pairs at each end of a method. `told` is called for each row."""

    def __init__(self, keep: int, told: Callable[[ScoredPair, str], None] = lambda row, where: None) -> None:
        self.sections: dict[RunSettings, Section] = {}
        self.cut: list[Path] = []
        self.rows = 0
        self._keep, self._told = keep, told
        self._seen: set[int] = set()

    def add_files(self, paths: Sequence[Path]) -> None:
        """Add the rows of files, in which no pair may come twice."""
        names = method_names(paths)
        for path in paths:
            before = self.rows
            for number, row in enumerate(read_rows(path, lambda path=path: self.cut.append(path)), 1):  # type: ignore[misc]
                self.add(row._replace(method=row.method or names[path]), f"{path}: row {number}")
            if self.rows == before:
                raise ScoringError(f"{path}: there are no rows in it")

    def add(self, row: ScoredPair, where: str) -> None:
        """Add a row that has a method; errors begin with `where`."""
        # a hash, since the names of every row would take several times the memory
        if (key := hash((row.settings, row.method, row.reference, row.distorted))) in self._seen:
            raise ScoringError(f"{where}: {row.distorted} of method {row.method!r} comes a second time")
        self._seen.add(key)
        self._told(row, where)
        self.rows += 1
        section = self.sections.setdefault(row.settings, Section(row.settings))
        method = section.methods.setdefault(row.method, Method(row.method))
        if row.score is None:
            method.failed += 1
            if len(section.failures) < MOST_FAILURES:
                section.failures.append(row)
            return
        # by its digest: one image under two names is one content
        content = section.contents.setdefault(row.reference_sha256 or row.reference, len(section.contents))
        method.scores.append(row.score)
        method.contents.append(content)
        method.layers.extend([0.0] * (len(row.layers) - len(method.layers)))
        for k, value in enumerate(row.layers):
            method.layers[k] += value
        self._push(method.highest, row.score, row)
        self._push(method.lowest, -row.score, row)

    def _push(self, heap: list[Ranked], rank: float, row: ScoredPair) -> None:
        entry = rank, -self.rows, row
        if len(heap) < self._keep:
            heapq.heappush(heap, entry)
        elif heap and entry[:2] > heap[0][:2]:
            heapq.heapreplace(heap, entry)
