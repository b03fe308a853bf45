"""What `damlpips score` writes: rows as they come, or a JSON or Parquet file made of such rows at the end."""

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from damlpips.files import open_regular, replacing
from damlpips.scoring.images import ScoringError
from damlpips.scoring.rows import INTEGERS, JsonLines, Row, Table
from damlpips.scoring.scorer import write_whole
from damlpips.version import __version__

# by the ending of a file's name
ENDINGS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}

# rows of a Parquet file that are packed together, and held in memory
ROW_GROUP = 20_000


def format_of(path: Path) -> str:
    """Return the format that a file's name asks for.

    Raises:
        ScoringError: another ending.

    Example:
        >>> format_of(Path("scores.jsonl"))
        'jsonl'
    """
    try:
        return ENDINGS[path.suffix.lower()]
    except KeyError:
        raise ScoringError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}") from None


def journal_of(path: Path) -> Path:
    """Return where the rows of a file wait that is written at the end.

    Example:
        >>> journal_of(Path("scores.parquet")).name
        'scores.parquet.rows.jsonl'
    """
    return path.with_name(f"{path.name}.rows.jsonl")


def _rows(journal: Path, table: Table) -> Iterator[Row]:
    with open_regular(journal) as file:
        for row, _ in JsonLines(table).rows(file, journal):
            yield row


def write_json(journal: Path, file: Path, table: Table) -> None:
    """Write a JSON object with the mean and every pair, scores in full precision.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(file, json_parts(journal, table))


def json_parts(journal: Path, table: Table) -> Iterator[str]:
    """Yield the text of `write_json`."""
    count, total = 0, Fraction(0)
    for row in _rows(journal, table):
        if isinstance(row["score"], float):
            count, total = count + 1, total + Fraction(row["score"])
    head = {
        "metric": table.settings["metric"],
        "backbone": table.settings["backbone"],
        "version": __version__,
        "mean": float(total / count) if count else None,
    }
    yield json.dumps(head, indent=2)[:-2] + ',\n  "pairs": ['
    for number, row in enumerate(_rows(journal, table)):
        yield ("," if number else "") + "\n    " + json.dumps(_brief(row))
    yield "\n  ]\n}\n"


def _brief(row: Row) -> Mapping[str, Any]:
    fields = ["reference", "distorted", "score", *(name for name in ("method", "error") if row[name])]
    return {name: row[name] for name in fields}


def check_parquet() -> None:
    """Raise a ScoringError if Parquet cannot be written here."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ScoringError("writing Parquet needs pyarrow: pip install 'damlpips[parquet]'") from error


def write_parquet(journal: Path, file: Path, table: Table) -> None:
    """Write rows as Parquet, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {**dict.fromkeys(table.numbers, pa.float64()), **dict.fromkeys(INTEGERS, pa.int32())}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in table.columns])
    with replacing(file) as whole, pq.ParquetWriter(whole, schema) as writer:
        rows = _rows(journal, table)
        while group := [{name: _as_unicode(v) for name, v in row.items()} for row in islice(rows, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema))


def _as_unicode(value: object) -> object:
    """Return a file's name as Parquet can hold it, which knows no bytes beside UTF-8."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value
