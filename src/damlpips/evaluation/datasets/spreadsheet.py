"""The cells of one sheet of an Excel workbook (.xlsx), which is a zip archive of XML."""

import io
import posixpath
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from damlpips.evaluation.datasets.tables import DatasetError, read_bytes

# Bytes of one part of the workbook, unpacked: a hundred thousand rows. CSIQ's sheet has 870.
LARGEST_PART = 1 << 24
REFERENCE = re.compile(r"(?P<letters>[A-Z]{1,3})(?P<row>[0-9]{1,7})")

# texts by row and column; what is empty is left out
Sheet = dict[int, dict[int, str]]


def read_sheet(path: Path, name: str) -> Sheet:
    """Return a sheet's cells as texts, by the number of the row, from 1, and of the column, from 0.

    Raises:
        DatasetError: no such file, no workbook, damaged, or without this sheet.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
            part = _part_of(archive, path, name)
            return _rows(_xml(archive, path, part), _shared_texts(archive, path))
    except DatasetError:
        raise
    except Exception as error:  # zipfile and its decompressors have many kinds of errors for a damaged file
        what = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: not an Excel workbook (.xlsx) that can be read ({what})") from error


def _xml(archive: zipfile.ZipFile, path: Path, part: str) -> ElementTree.Element:
    with archive.open(part) as file:
        content = file.read(LARGEST_PART + 1)
    if len(content) > LARGEST_PART:
        raise DatasetError(f"{path}, {part}: more than {LARGEST_PART} bytes unpacked")
    # a workbook has none; entities in it can grow without end
    if b"<!DOCTYPE" in content:
        raise DatasetError(f"{path}, {part}: refused, XML with a document type")
    return ElementTree.fromstring(content)


def _part_of(archive: zipfile.ZipFile, path: Path, name: str) -> str:
    """Return which part of the archive a sheet is in."""
    workbook = _xml(archive, path, "xl/workbook.xml")
    sheets = {s.get("name", ""): s for s in workbook.iterfind("{*}sheets/{*}sheet")}
    if name not in sheets:
        raise DatasetError(f"{path}: no sheet {name!r}, expected it among {', '.join(map(repr, sheets)) or 'none'}")
    # its id has the namespace of relationships, of which there are two
    identifier = next(value for key, value in sheets[name].attrib.items() if key.endswith("}id"))
    relations = _xml(archive, path, "xl/_rels/workbook.xml.rels")
    targets = {r.get("Id"): r.get("Target", "") for r in relations.iterfind("{*}Relationship")}
    # relative to xl/, or absolute in the archive
    return posixpath.join("/xl", targets[identifier]).lstrip("/")


def _shared_texts(archive: zipfile.ZipFile, path: Path) -> list[str]:
    part = "xl/sharedStrings.xml"
    if part not in archive.namelist():
        return []
    return [_text(item) for item in _xml(archive, path, part).iterfind("{*}si")]


def _text(item: ElementTree.Element) -> str:
    """Return a text, whose pieces may have formats of their own."""
    pieces = [*item.iterfind("{*}t"), *item.iterfind("{*}r/{*}t")]
    return "".join(piece.text or "" for piece in pieces)


def _rows(sheet: ElementTree.Element, texts: list[str]) -> Sheet:
    rows: Sheet = {}
    for row in sheet.iterfind("{*}sheetData/{*}row"):
        number = int(row.get("r", max(rows, default=0) + 1))
        cells: dict[int, str] = {}
        column = -1
        for cell in row.iterfind("{*}c"):
            column = _column(cell.get("r"), column + 1)
            cells[column] = _value(cell, texts)
        # in the order of the file, which is that of the numbers
        rows[number] = {place: text for place, text in cells.items() if text}
    return rows


def _column(reference: str | None, following: int) -> int:
    """Return a cell's column from its reference, `D5`; without one it follows the last."""
    if reference is None:
        return following
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"a cell called {reference!r}")
    column = 0
    for letter in match["letters"]:
        column = 26 * column + ord(letter) - ord("A") + 1
    return column - 1


def _value(cell: ElementTree.Element, texts: list[str]) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return "".join(_text(item) for item in cell.iterfind("{*}is"))
    value = cell.findtext("{*}v", "")
    return texts[int(value)] if kind == "s" else value
