"""Read tables that somebody else wrote: a `DatasetError` names what is wrong with one by its file, row and column."""

import csv
import io
import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from damlpips.files import as_text, open_regular, reason, shown, size

# Bytes of a table, of a workbook those of all its parts unpacked: a million rows of long names. The largest published
# table has 10,125 rows.
LARGEST_TABLE = 1 << 26
# rows and columns of a sheet: CSIQ's has 870 and a few dozen
LARGEST_SHEET = (100_000, 256)


class DatasetError(ValueError):
    """A judged set that is incomplete or damaged; the message names the file, and the row and column if it has them."""


@dataclass(frozen=True)
class Row:
    """One row of a table, and where it stands."""

    where: str
    fields: dict[str, str]

    def number(self, column: str) -> float:
        """Return a field as a finite number."""
        text = self.fields[column]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DatasetError(f"{self.where}, column {column!r}: expected a finite number, got {shown(text)}")
        return value

    def match(self, column: str, pattern: re.Pattern[str], *, like: str) -> re.Match[str]:
        """Return what a pattern finds in a field, which it has to fit from end to end; `like` is an example."""
        text = self.fields[column]
        match = pattern.fullmatch(text)
        if match is None:
            raise DatasetError(f"{self.where}, column {column!r}: expected a name like {like}, got {shown(text)}")
        return match


def read_bytes(path: Path, most: int = LARGEST_TABLE) -> bytes:
    """Return what a regular file of at most `most` bytes holds."""
    try:
        with open_regular(path) as file:
            if size(file) > most:
                raise DatasetError(f"{path}: a file of {size(file)} bytes, expected at most {most}")
            return file.read(most)
    except OSError as error:
        raise DatasetError(f"{path}: {reason(error)}") from error


def read_text(path: Path) -> str:
    """Return a text file in UTF-8."""
    content = read_bytes(path)
    try:
        return as_text(content, path)
    except ValueError as error:
        raise DatasetError(str(error)) from error


def rows_without_header(path: Path, columns: Sequence[str], separator: str | None = None) -> list[Row]:
    """Return the rows of a text file whose lines hold `columns`, separated by white space or by `separator`."""
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


def rows_with_header(path: Path, columns: Sequence[str] = ()) -> list[Row]:
    """Return the rows of a CSV file in UTF-8, whose first line names the columns, all of `columns` among them."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] = []
    rows = []
    line = 1
    try:
        for fields in reader:
            if not header:
                header = [field.strip() for field in fields]
                if twice := [column for column in header if column and header.count(column) > 1]:
                    raise DatasetError(f"{path}, line {line}: the column {shown(twice[0])} stands in the header twice")
            elif fields and len(fields) != len(header):
                raise DatasetError(f"{path}, line {line}: {len(fields)} fields, the header has {len(header)}")
            elif fields:
                rows.append(Row(f"{path}, line {line}", dict(zip(header, fields, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{path}, line {line}: not CSV ({error})") from error
    if not rows:
        raise DatasetError(f"{path}: the table is empty, expected a header and rows below it")
    for column in columns:
        if column not in header:
            got = shown(",".join(header))
            raise DatasetError(f"{path}: no column {column!r}, expected {', '.join(columns)}, got {got}")
    return rows


def rows_of_sheet(path: Path, sheet: str, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a sheet of an Excel workbook (.xlsx), below the first that names all of `columns`.

    A title and empty rows may stand above that one, other tables beside it.
    """
    where = f"{path}, sheet {sheet!r}"
    rows = enumerate(_cells(path, sheet), start=1)
    header = next((cells for _, cells in rows if set(columns) <= set(cells)), None)
    if header is None:
        raise DatasetError(f"{where}: no row with the names of columns {', '.join(columns)}")
    # the first, of columns of one name
    of_columns = {column: header.index(column) for column in columns}
    found = [Row(f"{where}, row {n}", {column: cells[k] for column, k in of_columns.items()}) for n, cells in rows]
    found = [row for row in found if any(row.fields.values())]
    if not found:
        raise DatasetError(f"{where}: the table is empty, expected rows below the header")
    return found


def _cells(path: Path, sheet: str) -> list[list[str]]:
    """Return the cells of each row of a sheet as texts, empty ones included."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise DatasetError(f"{path}: reading it needs openpyxl: pip install 'damlpips[agree]'") from error
    content = io.BytesIO(read_bytes(path))
    rows, columns = LARGEST_SHEET
    try:
        _check_parts(content, path)
        workbook = load_workbook(content, read_only=True, data_only=True, keep_links=False)
        if sheet not in workbook.sheetnames:
            there = ", ".join(map(repr, workbook.sheetnames)) or "none"
            raise DatasetError(f"{path}: no sheet {sheet!r}, expected it among {there}")
        found = workbook[sheet].iter_rows(max_row=rows, max_col=columns, values_only=True)
        return [["" if value is None else str(value) for value in row] for row in found]
    except DatasetError:
        raise
    except Exception as error:  # zipfile and openpyxl have many kinds of errors for a damaged file
        what = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: not an Excel workbook (.xlsx) that can be read ({what})") from error


def _check_parts(content: io.BytesIO, path: Path) -> None:
    """Refuse a workbook that would grow without end: by compression, or by entities in its XML."""
    with zipfile.ZipFile(content) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > LARGEST_TABLE:
            raise DatasetError(f"{path}: {unpacked} bytes unpacked, expected at most {LARGEST_TABLE}")
        for part in archive.infolist():
            if b"<!DOCTYPE" in archive.read(part):
                raise DatasetError(f"{path}, {part.filename}: refused, XML with a document type")
