"""Read the rows that `damlpips score` wrote, one at a time, from files of any run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from damlpips.files import open_regular, printable, reason, spelled
from damlpips.scoring.formats import ANY, CONVERTERS, READERS, as_spelled, format_of
from damlpips.scoring.images import ScoringError
from damlpips.scoring.rows import COLUMNS, NUMBER
from damlpips.scoring.several import Said, from_text

METRICS = "metrics"


class RunSettings(NamedTuple):
    """What all rows of a run have in common: the columns of `Source.RUN`."""

    metric: str
    backbone: str
    weights: str
    options: str
    metrics: str = ""


class ScoredPair(NamedTuple):
    """A row: two files and their score, which is None where there is an `error`; `labelled` are columns to show.

    `others` are the scores of the other metrics that `settings.metrics` names; an `error` says why one is missing.
    """

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
    others: tuple[float | None, ...] = ()


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
    metrics_of = cache(from_text)
    try:
        with open_regular(path) as file:
            rows = READERS[kind](file, path, lambda headers: _wanted(headers, path), on_cut)
            for number, read in enumerate(rows, 1):
                try:
                    pair = _pair(as_spelled(read.row), metrics_of)
                except ValueError as error:
                    raise ScoringError(f"{path}: row {number} is damaged ({error})") from error
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
    read = [column for column in COLUMNS if column.needed or column.numbered or column.several or column.label]
    types = {name: column.type for column in read for name in column.headers_in(headers)}
    if METRICS not in types:
        return types
    # the rows say which of the columns that no declaration knows are those of metrics
    known = {name for column in COLUMNS for name in column.headers_in(headers)}
    return {**types, **{name: ANY for name in headers if name not in known}}


def _pair(row: Mapping[str, Any], metrics_of: Callable[[str], list[Said]]) -> ScoredPair:
    others = metrics_of(row.get(METRICS) or "")[1:]
    layers = (row[name] for column in COLUMNS if column.numbered for name in column.headers_in(row))
    labelled = ((column.label, row.get(column.name)) for column in COLUMNS if column.label)
    return ScoredPair(
        settings=RunSettings(*(row.get(name) or "" for name in RunSettings._fields)),
        layers=tuple(value for value in layers if value is not None),
        labelled=tuple((label, printable(str(value))) for label, value in labelled if value not in (None, "")),
        others=tuple(CONVERTERS[NUMBER](m.name, row.get(spelled(m.name))) for m in others),
        **{name: row[name] for name in ScoredPair._fields if name in row and name != "others"},
    )


def method_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return what rows without a method are called: by their file, with its folder where that is not enough."""
    stems = [path.stem for path in paths]
    return {path: path.stem if stems.count(path.stem) == 1 else str(path) for path in paths}
