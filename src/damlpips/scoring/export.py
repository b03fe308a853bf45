"""Files that are made of rows when all of them are there: JSON and Parquet."""

import json
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

from damlpips.files import open_regular, replacing, write_whole
from damlpips.scoring.images import ScoringError
from damlpips.scoring.rows import INTEGER, NUMBER, TEXT, JsonLines, Row, Table, Value
from damlpips.version import __version__

# rows of a Parquet file that are packed together, and held in memory
ROW_GROUP = 20_000


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


def _brief(row: Row) -> Row:
    names = ["reference", "distorted", "score", *(name for name in ("method", "error") if row[name])]
    return {name: row[name] for name in names}


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

    kinds = {TEXT: pa.string(), INTEGER: pa.int32(), NUMBER: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in table.types.items()])
    with replacing(file) as whole, pq.ParquetWriter(whole, schema) as writer:
        rows = _rows(journal, table)
        while group := [{name: _as_unicode(v) for name, v in row.items()} for row in islice(rows, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema))


def _as_unicode(value: Value) -> Value:
    """Return a file's name as Parquet can hold it, which knows no bytes besides UTF-8."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value
