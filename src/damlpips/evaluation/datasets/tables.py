"""Read tables that somebody else wrote: what is wrong with one is named by its file, row and column."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from damlpips.files import MOST_SHOWN, as_text, open_regular, reason, shown, size

# a million rows of long names; the largest published table has 10,125
LARGEST_TABLE = 1 << 26


class DatasetError(ValueError):
    """A judged set that is incomplete or damaged; the message names the file, and the row and column if it has them."""


@dataclass(frozen=True)
class Row:
    """One row of a table, and where it stands."""

    where: str
    fields: dict[str, str]

    def number(self, column: str) -> float:
        """Return a field as a finite number.

        Raises:
            DatasetError: it is none; names the row and the column.
        """
        text = self.fields[column]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DatasetError(f"{self.where}, column {column!r}: expected a finite number, got {quoted(text)}")
        return value


def quoted(text: str) -> str:
    """Return a field as an error quotes it."""
    return shown(text, MOST_SHOWN)


def read_bytes(path: Path, most: int = LARGEST_TABLE) -> bytes:
    """Return what a regular file of at most `most` bytes holds.

    Raises:
        DatasetError: no such file, no regular file, or a larger one.
    """
    try:
        with open_regular(path) as file:
            if size(file) > most:
                raise DatasetError(f"{path}: a file of {size(file)} bytes, expected at most {most}")
            return file.read(most)
    except OSError as error:
        raise DatasetError(f"{path}: {reason(error)}") from error


def read_text(path: Path) -> str:
    """Return a text file in UTF-8.

    Raises:
        DatasetError: as `read_bytes`, or not UTF-8, or with a NUL; names the line.
    """
    content = read_bytes(path)
    try:
        return as_text(content, path)
    except ValueError as error:
        raise DatasetError(str(error)) from error


def rows_without_header(path: Path, columns: Sequence[str], separator: str | None = None) -> list[Row]:
    """Return the rows of a text file whose lines hold `columns`, separated by white space or by `separator`.

    Raises:
        DatasetError: as `read_text`, a line with more or fewer fields, or no lines at all.
    """
    rows = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        fields = [field.strip() for field in text.strip().split(separator)]
        if not text.strip():
            continue
        if len(fields) != len(columns):
            expected = f"{len(columns)} fields ({', '.join(columns)})"
            raise DatasetError(f"{path}, line {line}: {len(fields)} fields, expected {expected}")
        rows.append(Row(f"{path}, line {line}", dict(zip(columns, fields, strict=True))))
    if not rows:
        raise DatasetError(f"{path}: the table is empty, expected lines of {', '.join(columns)}")
    return rows


def rows_with_header(path: Path) -> list[Row]:
    """Return the rows of a CSV file in UTF-8, whose first line names the columns.

    Raises:
        DatasetError: as `read_text`, not CSV, a column named twice, a row with more or fewer fields than the header,
            or no rows below it.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] = []
    rows = []
    line = 1
    try:
        for fields in reader:
            if not header:
                header = _header(fields, path, line)
            elif fields and len(fields) != len(header):
                raise DatasetError(f"{path}, line {line}: {len(fields)} fields, the header has {len(header)}")
            elif fields:
                rows.append(Row(f"{path}, line {line}", dict(zip(header, fields, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{path}, line {line}: not CSV ({error})") from error
    if not rows:
        raise DatasetError(f"{path}: the table is empty, expected a header and rows below it")
    return rows


def _header(fields: list[str], path: Path, line: int) -> list[str]:
    header = [field.strip() for field in fields]
    twice = [column for column in header if header.count(column) > 1 and column]
    if twice:
        raise DatasetError(f"{path}, line {line}: the column {quoted(twice[0])} stands in the header twice")
    return header


def need_columns(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    """Raise a DatasetError unless the rows have all of `columns`."""
    found = rows[0].fields
    for column in columns:
        if column not in found:
            got = quoted(",".join(found))
            raise DatasetError(f"{path}: no column {column!r}, expected {', '.join(columns)}, got {got}")
