"""Files of rows: how CSV, JSON Lines and Parquet are written and read, and how the JSON of a run is written."""

import csv
import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

from damlpips.files import MOST_SHOWN, open_regular, replacing, shown, spelled, unspelled
from damlpips.scoring.images import ScoringError
from damlpips.scoring.rows import INTEGER, NUMBER, TEXT, Row, Table
from damlpips.version import __version__

QUOTE = '"'
# what Python reads a byte as that is not UTF-8
SURROGATE = re.compile("[\ud800-\udfff]")
OVERWRITE = "--overwrite starts anew"
# rows of a Parquet file that are read at once, and that are packed together
BATCH, ROW_GROUP = 4096, 20_000

# told the headers of a file: the columns to read, and their types
Wanted = Callable[[Sequence[str]], Mapping[str, str]]


class Read(NamedTuple):
    """A row of a file, where it ends in bytes, and whether its line does: what is cut off may look whole."""

    row: Row
    end: int
    whole: bool


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


@dataclass(frozen=True)
class Csv:
    """Rows as CSV: a header, then a line a row; a missing number is an empty field."""

    table: Table

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
        yield from _whole(read_csv(file, path, lambda _: self.table.types), path)

    @staticmethod
    def _line(cells: Iterable[str]) -> str:
        return ",".join(map(_quoted, cells)) + "\n"


def _quoted(cell: str) -> str:
    # not `csv.writer`, which before Python 3.13 leaves a carriage return bare, where readers see a new row
    return f'"{cell.replace(QUOTE, QUOTE * 2)}"' if set(cell) & {",", QUOTE, "\n", "\r"} else cell


@dataclass(frozen=True)
class JsonLines:
    """Rows as JSON Lines: an object a line; a missing number is null."""

    table: Table

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

        yield from _whole(read_json_lines(file, path, wanted), path)


def _whole(rows: Iterator[Read], path: Path) -> Iterator[Read]:
    try:
        for number, read in enumerate(rows, 1):
            if not read.whole:
                return
            if any(isinstance(value, str) and SURROGATE.search(value) for value in read.row.values()):
                raise DamagedError(path, number, "a name that is not UTF-8, as older versions wrote it")
            yield read._replace(row=as_spelled(read.row))
    except DamagedError as error:
        raise ScoringError(f"{error}; {OVERWRITE}") from error


def as_spelled(row: Row) -> Row:
    """Return a row with its texts as `Table.values` has them; rows of older versions have the names as they are."""
    return {name: spelled(unspelled(v)) if isinstance(v, str) else v for name, v in row.items()}


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
    check_parquet("reading")
    import pyarrow as pa
    import pyarrow.parquet as pq

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


# the type of a column that only the rows themselves can tell
ANY = "any"
CONVERTERS: Mapping[str, Callable[[str, Any], Any]] = {
    TEXT: _text,
    INTEGER: _integer,
    NUMBER: _number,
    ANY: lambda _, value: value,
}


def journal_of(path: Path) -> Path:
    """Return where the rows of a file wait that is written at the end.

    Example:
        >>> journal_of(Path("scores.parquet")).name
        'scores.parquet.rows.jsonl'
    """
    return path.with_name(f"{path.name}.rows.jsonl")


def _rows(journal: Path, table: Table) -> Iterator[Row]:
    with open_regular(journal) as file:
        for read in JsonLines(table).rows(file, journal):
            yield read.row


def json_parts(journal: Path, table: Table, notes: Mapping[str, Any] = MappingProxyType({})) -> Iterator[str]:
    """Yield the text of a JSON object with the mean, notes that say something, and every pair, in full precision."""
    names = "score", *table.others
    means = {name: _Mean() for name in names}
    for row in _rows(journal, table):
        for name, mean in means.items():
            if isinstance(value := row[name], float):
                mean.add(value)
    head = {
        "metric": table.settings["metric"],
        "backbone": table.settings["backbone"],
        "version": __version__,
        "mean": means["score"].value,
        **({"metrics": json.loads(table.settings["metrics"])} if table.others else {}),
        **({"means": {name: means[name].value for name in table.others}} if table.others else {}),
        **{name: note for name, note in notes.items() if note},
    }
    yield json.dumps(head, indent=2)[:-2] + ',\n  "pairs": ['
    for number, row in enumerate(_rows(journal, table)):
        kept = "reference", "distorted", *names, *(name for name in ("method", "error") if row[name])
        yield ("," if number else "") + "\n    " + json.dumps({name: row[name] for name in kept})
    yield "\n  ]\n}\n"


class _Mean:
    """The mean of numbers whose sum is never rounded."""

    def __init__(self) -> None:
        self._count, self._total = 0, Fraction(0)

    def add(self, value: float) -> None:
        self._count, self._total = self._count + 1, self._total + Fraction(value)

    @property
    def value(self) -> float | None:
        return float(self._total / self._count) if self._count else None


def check_parquet(doing: str) -> None:
    """Raise a ScoringError if Parquet cannot be read or written here."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ScoringError(f"{doing} Parquet needs pyarrow: pip install 'damlpips[parquet]'") from error


def write_parquet(journal: Path, file: Path, table: Table) -> None:
    """Write rows as Parquet, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {TEXT: pa.string(), INTEGER: pa.int32(), NUMBER: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in table.types.items()])
    with replacing(file) as whole, pq.ParquetWriter(whole, schema) as writer:
        rows = _rows(journal, table)
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))
