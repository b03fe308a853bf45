"""CSIQ, whose scores are in an Excel workbook, or in the texts that people have made of it."""

import re
from collections.abc import Callable
from pathlib import Path

from damlpips.evaluation.datasets.folders import Images, folder_names
from damlpips.evaluation.datasets.rated import Listed, rated
from damlpips.evaluation.datasets.spreadsheet import read_sheet
from damlpips.evaluation.datasets.tables import (
    DatasetError,
    Row,
    need_columns,
    quoted,
    rows_with_header,
    rows_without_header,
)
from damlpips.evaluation.judgements import JudgedSet

SHEET = "all_by_image"
COLUMNS = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
NEEDED = ("image", "dst_type", "dst_lev", "dmos")
REFERENCES, DISTORTED = "src_imgs", ("dst_imgs", "dst_imgs_all")
# the sheet's names of the kinds, and those of folders and files
KINDS = {
    "noise": "awgn",
    "blur": "blur",
    "contrast": "contrast",
    "fnoise": "fnoise",
    "jpeg": "jpeg",
    "jpeg 2000": "jpeg2000",
}
# 1600.AWGN.1.png: content, kind, level; texts leave the suffix out
NAMED = re.compile(r"(?P<content>\w+)\.(?P<kind>\w+)\.(?P<level>\d)(?:\.png)?")


def is_csiq(path: Path) -> bool:
    """Return whether a folder holds CSIQ."""
    return (path / REFERENCES).is_dir() and _table(path) is not None


def read_csiq(path: Path) -> list[JudgedSet]:
    """Return CSIQ's ratings: 30 contents, 6 kinds, 866 images."""
    table = _table(path)
    if table is None:
        raise DatasetError(f"{path}: no scores, expected {' or '.join(TABLES)}")
    listed = TABLES[table](path / table)
    return [JudgedSet("csiq", rated(listed, Images(path / REFERENCES), Images(*_distorted(path))))]


def _table(path: Path) -> str | None:
    return next((name for name in TABLES if (path / name).is_file()), None)


def _distorted(path: Path) -> list[Path]:
    """Return the folders with distorted images: one for each kind, or one for all."""
    top = next((path / name for name in DISTORTED if (path / name).is_dir()), None)
    if top is None:
        raise DatasetError(f"{path}: no folder of distorted images, expected {' or '.join(DISTORTED)}")
    kinds = [top / name for name in folder_names(top) if name.lower() in KINDS.values()]
    return kinds or [top]


def _from_workbook(path: Path) -> list[Listed]:
    sheet = read_sheet(path, SHEET)
    numbers = iter(sorted(sheet))
    # a title and empty rows stand above the header, other tables beside it
    header = next((sheet[n] for n in numbers if set(NEEDED) <= set(sheet[n].values())), None)
    if header is None:
        raise DatasetError(f"{path}, sheet {SHEET!r}: no row with the names of columns {', '.join(NEEDED)}")
    # the first, of the columns with one name
    places = {text: place for place, text in sorted(header.items(), reverse=True) if text in NEEDED}
    rows = []
    for n in numbers:
        fields = {column: sheet[n].get(place, "") for column, place in places.items()}
        if any(fields.values()):
            rows.append(Row(f"{path}, sheet {SHEET!r}, row {n}", fields))
    if not rows:
        raise DatasetError(f"{path}, sheet {SHEET!r}: the table is empty, expected rows below the header")
    return [_by_kind(row) for row in rows]


def _from_csv(path: Path) -> list[Listed]:
    rows = rows_with_header(path)
    need_columns(rows, NEEDED, path)
    return [_by_kind(row) for row in rows]


def _from_text(path: Path) -> list[Listed]:
    return [_by_kind(row) for row in rows_without_header(path, COLUMNS, "\t")]


def _from_labels(path: Path) -> list[Listed]:
    return [_by_name(row) for row in rows_without_header(path, ("image", "dmos"))]


# the workbook first: it is what was published
TABLES: dict[str, Callable[[Path], list[Listed]]] = {
    "csiq.DMOS.xlsx": _from_workbook,
    "csiq.DMOS.csv": _from_csv,
    "csiq_dmos.csv": _from_csv,
    "csiq_dmos.txt": _from_text,
    "csiq_label.txt": _from_labels,
}


def _by_kind(row: Row) -> Listed:
    """Return a row of the sheet: image, kind and level make the name of a file."""
    kind = row.fields["dst_type"]
    if kind not in KINDS:
        expected = ", ".join(KINDS)
        raise DatasetError(f"{row.where}, column 'dst_type': expected one of {expected}, got {quoted(kind)}")
    # cells that hold a number: the image 1600, and the level
    content, level = (re.sub(r"\.0$", "", row.fields[column]) for column in ("image", "dst_lev"))
    return _listed(row, content, KINDS[kind], level)


def _by_name(row: Row) -> Listed:
    match = NAMED.fullmatch(row.fields["image"])
    if match is None or match["kind"].lower() not in KINDS.values():
        got = quoted(row.fields["image"])
        raise DatasetError(f"{row.where}, column 'image': expected a name like 1600.AWGN.1.png, got {got}")
    return _listed(row, match["content"], match["kind"].lower(), match["level"])


def _listed(row: Row, content: str, kind: str, level: str) -> Listed:
    # a difference mean opinion score, 0 to 1: higher is worse
    score = -row.number("dmos")
    return Listed(row.where, f"{content}.png", f"{content}.{kind}.{level}.png", score, content, kind)
