"""Rows of scores, and their columns, each declared once.

To add a column, add a `Column` to `COLUMNS`: the formats, resuming, Ray, the report and the tests take it from there,
and a test fails until the docs list it.
"""

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import count, takewhile
from typing import Any, NamedTuple

from damlpips.files import spelled
from damlpips.scoring import several
from damlpips.scoring.frames import Compared, FrameScores
from damlpips.scoring.pairs import Pair
from damlpips.scoring.scorer import Score

Value = str | float | int | None
Row = dict[str, Value]

TEXT, INTEGER, NUMBER = "text", "integer", "number"


class Source(Enum):
    """What the value of a column is taken from."""

    PAIR = "the pair"
    RUN = "the settings of the run, a mapping"
    SCORE = "the score of the pair"
    FRAME = "the frame of a video"


class FramePlace(NamedTuple):
    """Where a frame stands in its video, as the columns of `Source.FRAME` say; all None for a pair without a score."""

    frame: int | None = None
    frames: int | None = None
    time: float | None = None


@dataclass(frozen=True)
class Column:
    """A column of the rows.

    Args:
        name: its header. The header of a `numbered` column is followed by 0, 1, ...
        type: TEXT, INTEGER or NUMBER. A missing number is empty in CSV and null elsewhere, a missing text is empty.
        source: what its value is taken from.
        meaning: what it says, for the docs.
        value: takes the value from the source, where that is not just what has the name of the column; of a numbered
            column all values, or none where there is no score.
        numbered: whether it stands for one column a layer.
        named: whether it stands for one column for each other metric of a run, under that metric's name.
        several: whether only the rows of several metrics have it.
        needed: whether a report cannot be made without it. New columns are not: older files lack them.
        label: what the report calls it beside each pair; empty to leave it out.
    """

    name: str
    type: str
    source: Source
    meaning: str
    value: Callable[[Any], Any] | None = None
    numbered: bool = False
    named: bool = False
    several: bool = False
    needed: bool = False
    label: str = ""

    def value_in(self, source: Any) -> Any:
        """Return its value, or values, taken from the source."""
        if self.value is not None:
            return self.value(source)
        return source[self.name] if isinstance(source, Mapping) else getattr(source, self.name)

    def headers(self, layers: int, others: Sequence[str] = ()) -> list[str]:
        """Return its headers: one, or if it is numbered one a layer, if it is named one for each other metric."""
        if self.named:
            return list(others)
        return [f"{self.name}{k}" for k in range(layers)] if self.numbered else [self.name]

    def headers_in(self, headers: Container[str]) -> list[str]:
        """Return those of its headers that a file has; of one that is named none, since only its rows say them."""
        if self.named:
            return []
        names = (f"{self.name}{k}" for k in count()) if self.numbered else [self.name]
        return list(takewhile(headers.__contains__, names))


PAIR, RUN, SCORE, FRAME = Source
# in the order in which they are written
COLUMNS = (
    Column("reference", TEXT, PAIR, "the reference file", lambda pair: str(pair.reference), needed=True),
    Column("distorted", TEXT, PAIR, "the file that is judged", lambda pair: str(pair.distorted), needed=True),
    Column("frame", INTEGER, FRAME, "the number of the frame, from 0"),
    Column("frames", INTEGER, FRAME, "how many frames the video has"),
    Column("time", NUMBER, FRAME, "when the frame is shown, in seconds"),
    Column("score", NUMBER, SCORE, "lower is closer; empty (null) where there is an error", needed=True),
    Column(
        "others",
        NUMBER,
        SCORE,
        "the score of each further `--metric`, under its name, in its own direction and unit",
        named=True,
        several=True,
    ),
    Column("metric", TEXT, RUN, "what was computed", needed=True),
    Column("backbone", TEXT, RUN, "the network that it was computed with", needed=True),
    Column("method", TEXT, PAIR, "the name given with `--method`", needed=True),
    Column(
        "layer_",
        NUMBER,
        SCORE,
        "what each layer adds to the score, from fine to coarse; of DAMLPIPS `layer_0` is the image, and the last one"
        " what motion adds (not in version 1)",
        lambda score: score.layers,
        numbered=True,
    ),
    Column(
        "width",
        INTEGER,
        SCORE,
        "of the distorted image or video in pixels, turned as its metadata say",
        lambda score: score.size and score.size[1],
    ),
    Column("height", INTEGER, SCORE, "likewise", lambda score: score.size and score.size[0]),
    Column("sha256", TEXT, SCORE, "the SHA-256 of the distorted file", needed=True),
    Column("reference_sha256", TEXT, SCORE, "the SHA-256 of the reference file", needed=True),
    Column("weights", TEXT, RUN, "the network's name and its weights' SHA-256", needed=True),
    Column("options", TEXT, RUN, "everything else that the score depends on", needed=True),
    Column(
        "metrics",
        TEXT,
        RUN,
        "of several metrics: what each of them is, the first one included, as JSON",
        several=True,
    ),
    Column("error", TEXT, SCORE, "why there is no score", lambda score: score.error or "", needed=True),
)


class Scored(NamedTuple):
    """A pair and its row; the score as well, unless the row was read from a file."""

    pair: Pair
    row: Row
    score: Score | None = None


@dataclass(frozen=True)
class Table:
    """The columns of a run's rows, and what all of its rows have in common.

    Args:
        settings: the values of the columns of `Source.RUN`.
        per_frame: whether there is a row for each frame, with the columns of `Source.FRAME`. A pair without a score has
            one row, without a number; a pair of images counts as one frame.
        others: the names of the further metrics of the run.
    """

    settings: Mapping[str, str]
    layers: int
    per_frame: bool = False
    others: tuple[str, ...] = ()

    @cached_property
    def columns(self) -> list[Column]:
        columns = [column for column in COLUMNS if self.per_frame or column.source is not FRAME]
        return [column for column in columns if self.others or not column.several]

    @cached_property
    def headers(self) -> dict[str, list[str]]:
        """The headers of each column, by its name."""
        return {column.name: column.headers(self.layers, self.others) for column in COLUMNS}

    @cached_property
    def types(self) -> dict[str, str]:
        """The type of each header, in order."""
        return {header: column.type for column in self.columns for header in self.headers[column.name]}

    def values(self, columns: Iterable[Column], sources: Mapping[Source, Any]) -> Row:
        """Return the values of columns by their headers; texts are `spelled`."""
        row: Row = {}
        for column in columns:
            headers, value = self.headers[column.name], column.value_in(sources[column.source])
            if column.type == TEXT:
                value = spelled(value)
            if column.numbered or column.named:
                row.update(zip(headers, value or [None] * len(headers), strict=True))
            else:
                row[headers[0]] = value
        return row

    def scored(self, score: Score) -> Scored:
        """Return a score with the row of its pair."""
        return Scored(score.pair, self._row(score), score)

    def rows(self, scored: Scored) -> Iterator[Row]:
        """Yield the rows of a pair: one, or with `per_frame` one for each of its frames."""
        score = scored.score
        if not self.per_frame or score is None:
            yield scored.row
        elif score.frames is None:
            yield self._row(score, FramePlace(0, 1) if score.score is not None else None)
        else:
            for number, (found, time) in enumerate(score.frames):
                place = FramePlace(number, len(score.frames), None if math.isnan(time) else time)
                of_frame = replace(score, score=found.value, layers=tuple(found.layers), others=found.others)
                yield self._row(of_frame, place)

    def _row(self, score: Score, place: FramePlace | None = None) -> Row:
        sources = {PAIR: score.pair, RUN: self.settings, SCORE: score, FRAME: place or FramePlace()}
        return self.values(self.columns, sources)

    def difference(self, row: Row, pair: Pair) -> str | None:
        """Return in what a row is not one of this run for a pair."""
        known = [column for source in (RUN, PAIR) for column in self.columns if column.source is source]
        for name, wanted in self.values(known, {RUN: self.settings, PAIR: pair}).items():
            if row[name] != wanted:
                if name == "options":
                    return _options_differ(str(row[name]), str(wanted))
                if name == "metrics":
                    return several.difference(str(row[name]), str(wanted))
                return f"has {name} {row[name]!r}, this run {wanted!r}"
        return None


def _options_differ(found: str, wanted: str) -> str:
    one, other = (dict(part.partition("=")[::2] for part in text.split(" ")) for text in (found, wanted))
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    of_file, of_run = (" ".join(f"{n}={side.get(n, '')}" for n in names) for side in (one, other))
    return f"was scored with {of_file}, this run has {of_run}"


class PairRows:
    """Puts the rows of a file together to one for each pair: of frames, with the mean of their scores."""

    def __init__(self, table: Table) -> None:
        self._layers, self._others = (
            [header for column in table.columns if kind(column) for header in table.headers[column.name]]
            for kind in (lambda column: column.numbered, lambda column: column.named)
        )
        self._per_frame = table.per_frame
        self._first: Row | None = None
        self._frames = FrameScores()

    def add(self, row: Row) -> Row | None:
        """Return the row of a pair when its last one has come.

        Raises:
            ValueError: a frame is missing.
        """
        if not self._per_frame:
            return row
        if row["frames"] is not None and row["frame"] != len(self._frames):
            raise ValueError(f"no frame {len(self._frames)}")
        self._first = first = self._first or row
        if row["score"] is not None:
            layers = [float(row[name] or 0) for name in self._layers]
            others = tuple(None if (value := row[name]) is None else float(value) for name in self._others)
            self._frames.add(Compared(layers, float(row["score"]), others), math.nan)
        if row["frames"] is not None and len(self._frames) != row["frames"]:
            return None
        if len(self._frames):
            layers, score = self._frames.mean()
            means = zip(self._others, self._frames.means_of_others(), strict=True)
            first = {**first, "score": score, **dict(zip(self._layers, layers, strict=True)), **dict(means)}
        self._first, self._frames = None, FrameScores()
        return first
