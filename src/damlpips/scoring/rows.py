"""Rows of scores: every column declared once, how CSV and JSON Lines spell a row, and the one reader of rows.

To add a column, add a `Column` to `COLUMNS`: the writers, resuming, Ray, the report and the tests take it from there.
"""

import csv
import json
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from damlpips.files import MOST_SHOWN, shown
from damlpips.scoring.frames import FrameScores
from damlpips.scoring.images import ScoringError
from damlpips.scoring.pairs import Pair
from damlpips.scoring.scorer import Score

Value = str | float | int | None
Row = dict[str, Value]

TEXT, INTEGER, NUMBER = "text", "integer", "number"
QUOTE = '"'
OVERWRITE = "--overwrite starts anew"
# rows of a Parquet file that are in memory at once
BATCH = 4096

# told the headers of a file: the columns to read, and their types
Wanted = Callable[[Sequence[str]], Mapping[str, str]]


class Read(NamedTuple):
    """A row of a file, where it ends in bytes, and whether its line does: what is cut off may look whole."""

    row: Row
    end: int
    whole: bool


class Source(Enum):
    """What the value of a column is taken from."""

    PAIR = "the pair"
    RUN = "the settings of the run, a mapping"
    SCORE = "the score of the pair"
    FRAME = "the frame of a video"


class FramePlace(NamedTuple):
    """Where a frame stands in its video; all None for a pair without a score.

    Attributes:
        frame: its number, from 0.
        frames: how many the video has; an image is one frame.
        time: in seconds, if known.
    """

    frame: int | None = None
    frames: int | None = None
    time: float | None = None


NOWHERE = FramePlace()


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
        needed: whether a report cannot be made without it. New columns are not: older files lack them.
        label: what the report calls it beside each pair; empty to leave it out.
    """

    name: str
    type: str
    source: Source
    meaning: str
    value: Callable[[Any], Any] | None = None
    numbered: bool = False
    needed: bool = False
    label: str = ""

    def value_in(self, source: Any) -> Any:
        """Return its value, or values, taken from the source."""
        if self.value is not None:
            return self.value(source)
        return source[self.name] if isinstance(source, Mapping) else getattr(source, self.name)

    def headers(self, layers: int) -> list[str]:
        """Return its headers: one, or if it is numbered one a layer."""
        return [f"{self.name}{k}" for k in range(layers)] if self.numbered else [self.name]

    def headers_in(self, headers: Container[str]) -> list[str]:
        """Return those of its headers that a file has."""
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
    Column("metric", TEXT, RUN, "what was computed", needed=True),
    Column("backbone", TEXT, RUN, "the network that it was computed with", needed=True),
    Column("method", TEXT, PAIR, "the name given with `--method`", needed=True),
    Column(
        "layer_",
        NUMBER,
        SCORE,
        "what each layer adds to the score, from fine to coarse",
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
        layers: how many layers there are.
        per_frame: whether there is a row for each frame, with the columns of `Source.FRAME`. A pair without a score has
            one row, without a number; a pair of images counts as one frame.
    """

    settings: Mapping[str, str]
    layers: int
    per_frame: bool = False

    @cached_property
    def columns(self) -> list[Column]:
        return [column for column in COLUMNS if self.per_frame or column.source is not FRAME]

    @cached_property
    def types(self) -> dict[str, str]:
        """The type of each header, in order."""
        return {name: column.type for column in self.columns for name in column.headers(self.layers)}

    def values(self, columns: Iterable[Column], sources: Mapping[Source, Any]) -> Row:
        """Return the values of columns by their headers."""
        row: Row = {}
        for column in columns:
            names, value = column.headers(self.layers), column.value_in(sources[column.source])
            row.update(zip(names, (value or [None] * len(names)) if column.numbered else [value], strict=True))
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
            yield self._row(score, FramePlace(0, 1) if score.error is None else NOWHERE)
        else:
            for number, (layers, value, time) in enumerate(score.frames):
                place = FramePlace(number, len(score.frames), None if math.isnan(time) else time)
                yield self._row(replace(score, score=value, layers=tuple(layers)), place)

    def _row(self, score: Score, place: FramePlace = NOWHERE) -> Row:
        sources = {PAIR: score.pair, RUN: self.settings, SCORE: score, FRAME: place}
        return self.values(self.columns, sources)

    def difference(self, row: Row, pair: Pair) -> str | None:
        """Return in what a row is not one of this run for a pair."""
        known = [column for source in (RUN, PAIR) for column in self.columns if column.source is source]
        for name, wanted in self.values(known, {RUN: self.settings, PAIR: pair}).items():
            if row[name] != wanted:
                if name == "options":
                    return _options_differ(str(row[name]), str(wanted))
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
        self._layers = [name for column in table.columns if column.numbered for name in column.headers(table.layers)]
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
            self._frames.add([float(row[name] or 0) for name in self._layers], float(row["score"]), math.nan)
        if row["frames"] is not None and len(self._frames) != row["frames"]:
            return None
        if len(self._frames):
            layers, score = self._frames.mean()
            first = {**first, "score": score, **dict(zip(self._layers, layers, strict=True))}
        self._first, self._frames = None, FrameScores()
        return first


# by the ending of a file's name
FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def format_of(path: Path) -> str:
    """Return the format that a file's name asks for.

    Raises:
        ScoringError: another ending.

    Example:
        >>> format_of(Path("scores.jsonl"))
        'jsonl'
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ScoringError(f"{path}: expected a name that ends in {', '.join(FORMATS)}") from None


class Csv:
    """Rows as CSV: a header, then a line a row; a missing number is an empty field."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def header(self) -> str:
        return self._line(self.table.types)

    def text(self, row: Row) -> str:
        return self._line(repr(v) if isinstance(v, float) else "" if v is None else str(v) for v in row.values())

    def rows(self, file: BinaryIO, path: Path) -> Iterator[Read]:
        """Yield the rows of a file of this table, but for one that was cut off at its end.

        Raises:
            ScoringError: other columns, or a damaged row.
        """
        header = self.header().encode()
        if (head := file.read(len(header))) != header:
            found = (head + file.readline(MOST_SHOWN)).decode("utf-8", "replace").splitlines()[0]
            raise _other_columns(path, found.split(","), self.table)
        file.seek(0)
        yield from _whole(read_csv(file, path, lambda _: self.table.types))

    @staticmethod
    def _line(cells: Iterable[str]) -> str:
        return ",".join(map(_quoted, cells)) + "\n"


def _quoted(cell: str) -> str:
    # not `csv.writer`, which before Python 3.13 leaves a carriage return bare, where readers see a new row
    return f'"{cell.replace(QUOTE, QUOTE * 2)}"' if set(cell) & {",", QUOTE, "\n", "\r"} else cell


class JsonLines:
    """Rows as JSON Lines: an object a line; a missing number is null."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def header(self) -> str:
        return ""

    def text(self, row: Row) -> str:
        return json.dumps(row) + "\n"

    def rows(self, file: BinaryIO, path: Path) -> Iterator[Read]:
        """Yield the rows of a file, as `Csv.rows`."""

        def wanted(names: Sequence[str]) -> Mapping[str, str]:
            if list(names) != list(self.table.types):
                raise _other_columns(path, names, self.table)
            return self.table.types

        yield from _whole(read_json_lines(file, path, wanted))


def _whole(rows: Iterator[Read]) -> Iterator[Read]:
    try:
        for read in rows:
            if not read.whole:
                return
            yield read
    except DamagedError as error:
        raise ScoringError(f"{error}; {OVERWRITE}") from error


def _other_columns(path: Path, found: Sequence[str], table: Table) -> ScoringError:
    lacks = [name for name in table.types if name not in found]
    more = [name for name in found if name not in table.types]
    what = f"lacks {', '.join(lacks)}" if lacks else f"has {', '.join(more)[:200]} besides" if more else ""
    return ScoringError(
        f"{path}: holds no rows of this run: expected the columns of this version and metric, it"
        f" {what or 'has them in another order'}; {OVERWRITE}"
    )


class DamagedError(ScoringError):
    """A row of a file that cannot be read."""

    def __init__(self, path: Path, number: int, error: object) -> None:
        super().__init__(f"{path}: row {number} is damaged ({error})")


def read_csv(file: BinaryIO, path: Path, wanted: Wanted, on_cut: Callable[[], None] = lambda: None) -> Iterator[Read]:
    """Yield the rows of a CSV file.

    Args:
        file: opened for reading bytes.
        path: what errors call it.
        wanted: told the headers of the file, returns the columns to read and their types.
        on_cut: called if the last row was cut off.

    Raises:
        ScoringError: a damaged row, or no CSV.
    """
    lines = _Lines(file)
    reader = csv.reader(lines, strict=True)
    try:
        headers = next(reader, None)
    except csv.Error as error:
        raise ScoringError(f"{path}: not a table of rows ({error})") from error
    if headers is None:
        return
    types = wanted(headers)
    for number in count(1):
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if lines.at_end():  # cut off within a name in quotes
                return on_cut()
            raise DamagedError(path, number, error) from error
        if cells is None:
            return
        if len(cells) < len(headers) and not lines.whole:
            return on_cut()
        if len(cells) != len(headers):
            raise DamagedError(path, number, f"{len(cells)} fields, the header has {len(headers)}")
        yield Read(_typed(dict(zip(headers, cells, strict=True)), types, path, number), lines.end, lines.whole)


def read_json_lines(
    file: BinaryIO, path: Path, wanted: Wanted, on_cut: Callable[[], None] = lambda: None
) -> Iterator[Read]:
    """Yield the rows of a JSON Lines file, as `read_csv`."""
    lines = _Lines(file)
    headers: list[str] | None = None
    types: Mapping[str, str] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not lines.whole:
                return on_cut()
            raise DamagedError(path, number, error) from error
        if not isinstance(row, dict):
            raise DamagedError(path, number, f"expected an object, got {shown(line, MOST_SHOWN)}")
        if headers != list(row):
            headers = list(row)
            types = wanted(headers)
        yield Read(_typed(row, types, path, number), lines.end, lines.whole)


def read_parquet(file: BinaryIO, path: Path, wanted: Wanted, _: Callable[[], None]) -> Iterator[Read]:
    """Yield the rows of a Parquet file, as `read_csv`; such a file is never cut off."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ScoringError("reading Parquet needs pyarrow: pip install 'damlpips[parquet]'") from error
    try:
        table = pq.ParquetFile(file)
        types = wanted(table.schema_arrow.names)
        rows = (row for batch in table.iter_batches(BATCH, columns=list(types)) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield Read(_typed(row, types, path, number), 0, True)
    except pa.ArrowException as error:
        raise ScoringError(f"{path}: not a Parquet file that can be read ({error})") from error


Reading = Callable[[BinaryIO, Path, Wanted, Callable[[], None]], Iterator[Read]]
READERS: Mapping[str, Reading] = {"csv": read_csv, "jsonl": read_json_lines, "parquet": read_parquet}


class _Lines:
    """The lines of a file as text; where the last one ended, and whether it did."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.end = 0
        self.whole = True

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            # spreadsheets put a mark of the byte order in front
            text = line.removeprefix(BOM_UTF8) if self.end == 0 else line
            self.end += len(line)
            self.whole = line.endswith(b"\n")
            yield text.decode("utf-8", "surrogateescape")

    def at_end(self) -> bool:
        return not self._file.read(1)


def _typed(row: Mapping[str, Any], types: Mapping[str, str], path: Path, number: int) -> Row:
    try:
        return {name: CONVERTERS[kind](name, row.get(name)) for name, kind in types.items()}
    except ValueError as error:
        raise DamagedError(path, number, error) from error


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str | None):
        raise ValueError(f"{name}: expected a text, got {shown(str(value), MOST_SHOWN)}")
    return value or ""


def _number(name: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}: expected a number, got {shown(str(value), MOST_SHOWN)}") from None
    if not math.isfinite(found):
        raise ValueError(f"{name}: expected a finite number, got {found}")
    return found


def _integer(name: str, value: Any) -> int | None:
    found = _number(name, value)
    if found is not None and not found.is_integer():
        raise ValueError(f"{name}: expected a whole number, got {found}")
    return None if found is None else int(found)


CONVERTERS: Mapping[str, Callable[[str, Any], Value]] = {TEXT: _text, INTEGER: _integer, NUMBER: _number}
