"""Read the rows that `damlpips score` wrote, one at a time, from files of a run that is not known beforehand."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from damlpips.files import MOST_SHOWN, open_regular, reason, shown
from damlpips.scoring.export import format_of
from damlpips.scoring.images import ScoringError
from damlpips.scoring.rows import SETTINGS

TEXTS = ("reference", "distorted", "method", "sha256", "reference_sha256", "error", *SETTINGS)
NEEDED = (*TEXTS, "score")
LAYER = "layer_"
ENDINGS = ".csv, .jsonl or .parquet"
# rows of a Parquet file that are in memory at once
BATCH = 4096


class Settings(NamedTuple):
    """What all rows of a run have in common: the values of `damlpips.scoring.rows.SETTINGS`."""

    metric: str
    backbone: str
    weights: str
    options: str


class ScoredPair(NamedTuple):
    """A row: two files and their score, which is None where there is an `error`."""

    settings: Settings
    method: str
    reference: str
    distorted: str
    score: float | None
    layers: tuple[float, ...]
    sha256: str
    reference_sha256: str
    error: str


def read_rows(path: Path, on_cut: Callable[[], None] = lambda: None) -> Iterator[ScoredPair]:
    """Yield the rows of a CSV, JSON Lines or Parquet file; `on_cut` is called if the last one was cut off.

    Raises:
        ScoringError: no such file, another ending, or not a table of rows; says which row is damaged and how.
    """
    try:
        kind = format_of(path)
    except ScoringError as error:
        raise ScoringError(f"{path}: expected rows of scores, as damlpips score writes them ({ENDINGS})") from error
    if kind == "json":
        raise ScoringError(f"{path}: a JSON file lacks what a report needs: expected CSV, JSON Lines or Parquet")
    try:
        with open_regular(path) as file:
            yield from READERS[kind](file, path, on_cut)
    except OSError as error:
        raise ScoringError(f"{path}: {reason(error)}") from error


def _csv(file: BinaryIO, path: Path, on_cut: Callable[[], None]) -> Iterator[ScoredPair]:
    lines = _Lines(file)
    reader = csv.reader(lines, strict=True)
    try:
        columns = next(reader, None)
    except (csv.Error, ValueError) as error:
        raise ScoringError(f"{path}: not a table of rows ({error})") from error
    if columns is None:
        return
    read = _row_reader(columns, path)
    number = 1
    while True:
        try:
            cells = next(reader, None)
        except (csv.Error, ValueError) as error:
            if lines.at_end():  # cut off within a name in quotes
                return on_cut()
            raise ScoringError(f"{path}: row {number} is damaged ({error})") from error
        if cells is None:
            return
        if not lines.whole and len(cells) < len(columns):
            return on_cut()
        if len(cells) != len(columns):
            raise ScoringError(f"{path}: row {number} is damaged ({len(cells)} fields, the header has {len(columns)})")
        yield read(dict(zip(columns, cells, strict=True)), number)
        number += 1


def _json_lines(file: BinaryIO, path: Path, on_cut: Callable[[], None]) -> Iterator[ScoredPair]:
    lines = _Lines(file)
    read: Callable[[dict[str, Any], int], ScoredPair] | None = None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not lines.whole and number > 1:
                return on_cut()
            raise ScoringError(f"{path}: row {number} is damaged ({error})") from error
        if not isinstance(row, dict):
            raise ScoringError(f"{path}: row {number} is damaged (expected an object, got {shown(line, MOST_SHOWN)})")
        read = read or _row_reader(list(row), path)
        yield read(row, number)


def _parquet(file: BinaryIO, path: Path, _on_cut: Callable[[], None]) -> Iterator[ScoredPair]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ScoringError("reading Parquet needs pyarrow: pip install 'damlpips[parquet]'") from error
    try:
        table = pq.ParquetFile(file)
        columns = table.schema_arrow.names
        read = _row_reader(columns, path)
        wanted = [name for name in columns if name in NEEDED or name.startswith(LAYER)]
        number = 1
        for batch in table.iter_batches(BATCH, columns=wanted):
            for row in batch.to_pylist():
                yield read(row, number)
                number += 1
    except pa.ArrowException as error:
        raise ScoringError(f"{path}: not a Parquet file that can be read ({error})") from error


READERS = {"csv": _csv, "jsonl": _json_lines, "parquet": _parquet}


def _row_reader(columns: Sequence[str], path: Path) -> Callable[[dict[str, Any], int], ScoredPair]:
    """Return what makes a row of its fields and its number.

    Raises:
        ScoringError: columns that rows of scores need are missing.
    """
    if missing := [name for name in NEEDED if name not in columns]:
        raise ScoringError(f"{path}: not a table of `damlpips score`: it has no column {', '.join(missing)}")
    layers: list[str] = []
    while (name := f"{LAYER}{len(layers)}") in columns:
        layers.append(name)
    runs: dict[Settings, Settings] = {}

    def read(row: dict[str, Any], number: int) -> ScoredPair:
        try:
            text = {name: _text(row, name) for name in TEXTS}
            score, *added = (_number(row, name) for name in ("score", *layers))
        except ValueError as error:
            raise ScoringError(f"{path}: row {number} is damaged ({error})") from error
        if score is None and not text["error"]:
            raise ScoringError(f"{path}: row {number} is damaged (neither a score nor an error)")
        settings = Settings(*(text[name] for name in SETTINGS))
        return ScoredPair(
            runs.setdefault(settings, settings),
            text["method"],
            text["reference"],
            text["distorted"],
            score,
            tuple(value for value in added if value is not None),
            text["sha256"],
            text["reference_sha256"],
            text["error"],
        )

    return read


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {shown(str(value), MOST_SHOWN)}")
    return value


def _number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
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


class _Lines:
    """The lines of a file as text, and whether the last one read had an end."""

    def __init__(self, file: BinaryIO) -> None:
        # utf-8-sig: a spreadsheet puts a mark in front; names may be bytes of any kind
        self._text = TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="\n")
        self.whole = True

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.whole = line.endswith("\n")
            yield line

    def at_end(self) -> bool:
        return not self._text.read(1)
