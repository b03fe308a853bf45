"""TID2008, TID2013 and KADID-10k, whose file names number the content, the kind of distortion and its level."""

import re
from pathlib import Path

from damlpips.evaluation.datasets.folders import Images
from damlpips.evaluation.datasets.rated import Listed, rated
from damlpips.evaluation.datasets.tables import (
    DatasetError,
    Row,
    need_columns,
    quoted,
    read_text,
    rows_with_header,
    rows_without_header,
)
from damlpips.evaluation.judgements import JudgedSet

TID2008_KINDS = (
    *("additive Gaussian noise", "additive noise in colour components", "spatially correlated noise", "masked noise"),
    *("high frequency noise", "impulse noise", "quantisation noise", "Gaussian blur", "image denoising"),
    *("JPEG compression", "JPEG2000 compression", "JPEG transmission errors", "JPEG2000 transmission errors"),
    *("non-eccentricity pattern noise", "local block-wise distortions", "mean shift", "contrast change"),
)
TID2013_KINDS = (
    *TID2008_KINDS,
    *("change of colour saturation", "multiplicative Gaussian noise", "comfort noise"),
    *("lossy compression of noisy images", "colour quantisation with dither", "chromatic aberrations"),
    "sparse sampling and reconstruction",
)
KADID_KINDS = (
    *("Gaussian blur", "lens blur", "motion blur", "colour diffusion", "colour shift", "colour quantisation"),
    *("colour saturation 1", "colour saturation 2", "JPEG2000 compression", "JPEG compression", "white noise"),
    *("white noise in colour components", "impulse noise", "multiplicative noise", "denoising", "brightening"),
    *("darkening", "mean shift", "jitter", "non-eccentricity patch", "pixelation", "quantisation", "colour blocks"),
    *("sharpening", "contrast change"),
)
# I01_01_1.bmp of TID, I01_01_01.png of KADID-10k: content, kind, level
NUMBERED = re.compile(r"(?P<content>I\d\d)_(?P<kind>\d\d)_\d{1,2}\.(?:bmp|png)", re.IGNORECASE)

TID_TABLE = "mos_with_names.txt"
TID_FOLDERS = ("reference_images", "distorted_images")
# A kind above 17 or a fifth level: TID2013 has both, TID2008 neither.
ONLY_IN_TID2013 = re.compile(r"I\d\d_(?:(?:1[89]|2\d)_\d|\d\d_5)\.bmp", re.IGNORECASE)

KADID_TABLE = "dmos.csv"
KADID_COLUMNS = ("dist_img", "ref_img", "dmos")


def is_tid2008(path: Path) -> bool:
    """Return whether a folder holds TID2008."""
    return _is_tid(path) and not ONLY_IN_TID2013.search(read_text(path / TID_TABLE))


def is_tid2013(path: Path) -> bool:
    """Return whether a folder holds TID2013."""
    return _is_tid(path) and ONLY_IN_TID2013.search(read_text(path / TID_TABLE)) is not None


def _is_tid(path: Path) -> bool:
    return (path / TID_TABLE).is_file() and any((path / folder).is_dir() for folder in TID_FOLDERS)


def read_tid2008(path: Path) -> list[JudgedSet]:
    """Return TID2008's ratings: 25 contents, 17 kinds, 4 levels."""
    return _read_tid(path, "tid2008", TID2008_KINDS)


def read_tid2013(path: Path) -> list[JudgedSet]:
    """Return TID2013's ratings: 25 contents, 24 kinds, 5 levels."""
    return _read_tid(path, "tid2013", TID2013_KINDS)


def _read_tid(path: Path, name: str, kinds: tuple[str, ...]) -> list[JudgedSet]:
    listed = []
    for row in rows_without_header(path / TID_TABLE, ("mos", "image")):
        content, kind = _content_and_kind(row, "image", kinds)
        # mean opinion score, 0 to 9: higher is closer
        listed.append(Listed(row.where, f"{content}.bmp", row.fields["image"], row.number("mos"), content, kind))
    return [JudgedSet(name, rated(listed, *(Images(path / folder) for folder in TID_FOLDERS)))]


def is_kadid10k(path: Path) -> bool:
    """Return whether a folder holds KADID-10k."""
    table = path / KADID_TABLE
    return table.is_file() and KADID_COLUMNS[0] in read_text(table).partition("\n")[0]


def read_kadid10k(path: Path) -> list[JudgedSet]:
    """Return KADID-10k's ratings: 81 contents, 25 kinds, 5 levels."""
    table = path / KADID_TABLE
    rows = rows_with_header(table)
    need_columns(rows, KADID_COLUMNS, table)
    listed = []
    for row in rows:
        distorted, reference = row.fields["dist_img"], row.fields["ref_img"]
        content, kind = _content_and_kind(row, "dist_img", KADID_KINDS)
        if Path(reference).stem.upper() != content:
            raise DatasetError(
                f"{row.where}, column 'ref_img': {quoted(reference)} is not the reference of {distorted}"
            )
        # called a DMOS, but 5 is "imperceptible" and 1 "very annoying": higher is closer
        listed.append(Listed(row.where, reference, distorted, row.number("dmos"), content, kind))
    images = Images(path / "images")
    return [JudgedSet("kadid10k", rated(listed, images, images))]


def _content_and_kind(row: Row, column: str, kinds: tuple[str, ...]) -> tuple[str, str]:
    name = row.fields[column]
    match = NUMBERED.fullmatch(name)
    if match is None:
        raise DatasetError(f"{row.where}, column {column!r}: expected a name like I01_01_1.bmp, got {quoted(name)}")
    kind = int(match["kind"])
    if not 1 <= kind <= len(kinds):
        raise DatasetError(f"{row.where}, column {column!r}: kind {kind} of {name}, expected 1 to {len(kinds)}")
    return match["content"].upper(), kinds[kind - 1]
