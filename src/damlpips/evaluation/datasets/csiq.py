"""CSIQ, whose scores are in an Excel workbook, or in the text files that people have made of it."""

import re
from collections.abc import Callable
from pathlib import Path

from damlpips.evaluation.datasets.folders import Images, Listed, first_of, folder_names, rated
from damlpips.evaluation.datasets.tables import (
    DatasetError,
    Row,
    rows_of_sheet,
    rows_with_header,
    rows_without_header,
)
from damlpips.evaluation.judgements import JudgedSet
from damlpips.files import shown

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
# 1600.AWGN.1.png: content, kind, level; text files leave the suffix out
NAMED = re.compile(rf"(?P<content>\w+)\.(?P<kind>{'|'.join(KINDS.values())})\.(?P<level>\d)(?:\.png)?", re.IGNORECASE)
# the workbook first: it is what was published
TABLES: dict[str, Callable[[Path], list[Row]]] = {
    "csiq.DMOS.xlsx": lambda path: rows_of_sheet(path, "all_by_image", NEEDED),
    "csiq.DMOS.csv": lambda path: rows_with_header(path, NEEDED),
    "csiq_dmos.csv": lambda path: rows_with_header(path, NEEDED),
    "csiq_dmos.txt": lambda path: rows_without_header(path, COLUMNS, "\t"),
    "csiq_label.txt": lambda path: rows_without_header(path, ("image", "dmos")),
}


def detect(path: Path) -> bool:
    """Return whether a folder holds CSIQ."""
    return (path / REFERENCES).is_dir() and any((path / name).is_file() for name in TABLES)


def read(path: Path) -> list[JudgedSet]:
    """Return the ratings: 30 contents, 6 kinds, 866 images."""
    table = first_of(path, TABLES, "scores")
    listed = [_listed(row) for row in TABLES[table.name](table)]
    top = first_of(path, DISTORTED, "folder of distorted images")
    # one folder for each kind, or one for all
    folders = [top / name for name in folder_names(top) if name.lower() in KINDS.values()]
    return [JudgedSet("csiq", rated(listed, Images(path / REFERENCES), Images(*(folders or [top]))))]


def _listed(row: Row) -> Listed:
    content, kind, level = _named(row) if "dst_type" not in row.fields else _of_sheet(row)
    # a difference mean opinion score, 0 to 1: higher is worse
    score = -row.number("dmos")
    return Listed(row.where, f"{content}.png", f"{content}.{kind}.{level}.png", score, content, kind)


def _of_sheet(row: Row) -> tuple[str, str, str]:
    kind = row.fields["dst_type"]
    if kind not in KINDS:
        expected = ", ".join(KINDS)
        raise DatasetError(f"{row.where}, column 'dst_type': expected one of {expected}, got {shown(kind)}")
    # both are cells that may hold a number: the image 1600, and the level
    content, level = (re.sub(r"\.0$", "", row.fields[column]) for column in ("image", "dst_lev"))
    return content, KINDS[kind], level


def _named(row: Row) -> tuple[str, str, str]:
    match = row.match("image", NAMED, like="1600.AWGN.1.png")
    return match["content"], match["kind"].lower(), match["level"]
