"""PIPAL, whose scores are Elo ratings from choices between two images."""

import re
from pathlib import Path

from damlpips.evaluation.datasets.folders import Images, Listed, file_names, folder_names, rated
from damlpips.evaluation.datasets.tables import DatasetError, Row, rows_without_header
from damlpips.evaluation.judgements import JudgedSet

# The validation and test parts were published without scores; some have got them since.
PARTS = ("Train", "Val", "Test")
# what the folders of distorted images are called: as released in four archives, or put together
SPREAD = ("Distortion_1", "Distortion_2", "Distortion_3", "Distortion_4")
TOGETHER = ("Dist", "Distort")
# A0001_00_00.bmp: content, kind, number
NUMBERED = re.compile(r"(?P<content>A\d+)_(?P<kind>\d+)_\d+\.bmp", re.IGNORECASE)


def detect(path: Path) -> bool:
    """Return whether a folder holds a part of PIPAL with its scores."""
    return any((path / f"{part}_Label").is_dir() and (path / f"{part}_Ref").is_dir() for part in PARTS)


def read(path: Path) -> list[JudgedSet]:
    """Return the ratings of every part whose scores are there."""
    parts = [part for part in PARTS if (path / f"{part}_Label").is_dir()]
    if not parts:
        raise DatasetError(f"{path}: no folder of scores, expected Train_Label")
    return [_read_part(path, part) for part in parts]


def _read_part(path: Path, part: str) -> JudgedSet:
    labels = path / f"{part}_Label"
    tables = [labels / name for name in file_names(labels, (".txt",))]
    if not tables:
        raise DatasetError(f"{labels}: no tables (.txt) in this folder")
    rows = [row for table in tables for row in rows_without_header(table, ("image", "elo"), ",")]
    references, distorted = Images(path / f"{part}_Ref"), Images(*_distorted(path, part))
    return JudgedSet(f"pipal/{part.lower()}", rated([_listed(row) for row in rows], references, distorted))


def _distorted(path: Path, part: str) -> list[Path]:
    there = set(folder_names(path))
    together = [f"{part}_{name}" for name in TOGETHER]
    spread = SPREAD if part == "Train" else ()
    found = [name for name in together if name in there][:1] or [name for name in spread if name in there]
    if not found:
        expected = " or ".join([*together, *(["Distortion_1 to 4"] if spread else [])])
        raise DatasetError(f"{path}: no folder of distorted images, expected {expected}")
    return [path / name for name in found]


def _listed(row: Row) -> Listed:
    match = row.match("image", NUMBERED, like="A0001_00_00.bmp")
    content = match["content"].upper()
    # Elo: higher is closer
    return Listed(row.where, f"{content}.bmp", match[0], row.number("elo"), content, match["kind"])
