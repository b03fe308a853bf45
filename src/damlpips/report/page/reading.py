"""Read the rows that `damlpips score` wrote, one at a time, from files of any run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from damlpips.files import open_regular, printable, reason
from damlpips.scoring.formats import READERS, as_spelled, format_of
from damlpips.scoring.images import ScoringError
from damlpips.scoring.rows import COLUMNS


class RunSettings(NamedTuple):
    """What all rows of a run have in common: the columns of `Source.RUN`."""

    metric: str
    backbone: str
    weights: str
    options: str


class ScoredPair(NamedTuple):
    """A row: two files and their score, which is None where there is an `error`; `labelled` are columns to show."""

    settings: RunSettings
    method: str
    reference: str
    distorted: str
    score: float | None
    layers: tuple[float, ...]
    sha256: str
    reference_sha256: str
    error: str
    labelled: tuple[tuple[str, str], ...] = ()


def read_rows(path: Path, on_cut: Callable[[], None] = lambda: None) -> Iterator[ScoredPair]:
    """Yield the rows of a CSV, JSON Lines or Parquet file; `on_cut` is called if the last one was cut off."""
    try:
        kind = format_of(path)
    except ScoringError as error:
        expected = "rows of scores, as damlpips score writes them (.csv, .jsonl or .parquet)"
        raise ScoringError(f"{path}: expected {expected}") from error
    if kind == "json":
        raise ScoringError(f"{path}: a JSON file lacks what a report needs: expected CSV, JSON Lines or Parquet")
    runs: dict[RunSettings, RunSettings] = {}
    try:
        with open_regular(path) as file:
            rows = READERS[kind](file, path, lambda headers: _wanted(headers, path), on_cut)
            for number, read in enumerate(rows, 1):
                pair = _pair(as_spelled(read.row))
                if pair.score is None and not pair.error:
                    raise ScoringError(f"{path}: row {number} is damaged (neither a score nor an error)")
                # of many rows the settings are kept once
                yield pair._replace(settings=runs.setdefault(pair.settings, pair.settings))
    except OSError as error:
        raise ScoringError(f"{path}: {reason(error)}") from error


def _wanted(headers: Sequence[str], path: Path) -> Mapping[str, str]:
    """Return the types of the columns that a report is made of."""
    if missing := [column.name for column in COLUMNS if column.needed and column.name not in headers]:
        raise ScoringError(f"{path}: not a table of `damlpips score`: it has no column {', '.join(missing)}")
    read = [column for column in COLUMNS if column.needed or column.numbered or column.label]
    return {name: column.type for column in read for name in column.headers_in(headers)}


def _pair(row: Mapping[str, Any]) -> ScoredPair:
    layers = (row[name] for column in COLUMNS if column.numbered for name in column.headers_in(row))
    labelled = ((column.label, row.get(column.name)) for column in COLUMNS if column.label)
    return ScoredPair(
        settings=RunSettings(*(row[name] for name in RunSettings._fields)),
        layers=tuple(value for value in layers if value is not None),
        labelled=tuple((label, printable(str(value))) for label, value in labelled if value not in (None, "")),
        **{name: row[name] for name in ScoredPair._fields if name in row},
    )
