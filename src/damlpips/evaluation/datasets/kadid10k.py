"""KADID-10k, whose files are named like those of TID: 81 contents, 25 kinds, 5 levels."""

from pathlib import Path

from damlpips.evaluation.datasets.folders import Images, Listed, rated
from damlpips.evaluation.datasets.tables import DatasetError, read_text, rows_with_header
from damlpips.evaluation.datasets.tid import content_and_kind
from damlpips.evaluation.judgements import JudgedSet
from damlpips.files import shown

TABLE = "dmos.csv"
COLUMNS = ("dist_img", "ref_img", "dmos")
KINDS = (
    *("Gaussian blur", "lens blur", "motion blur", "colour diffusion", "colour shift", "colour quantisation"),
    *("colour saturation 1", "colour saturation 2", "JPEG2000 compression", "JPEG compression", "white noise"),
    *("white noise in colour components", "impulse noise", "multiplicative noise", "denoising", "brightening"),
    *("darkening", "mean shift", "jitter", "non-eccentricity patch", "pixelation", "quantisation", "colour blocks"),
    *("sharpening", "contrast change"),
)


def detect(path: Path) -> bool:
    """Return whether a folder holds KADID-10k."""
    table = path / TABLE
    return table.is_file() and COLUMNS[0] in read_text(table).partition("\n")[0]


def read(path: Path) -> list[JudgedSet]:
    """Return the ratings."""
    listed = []
    for row in rows_with_header(path / TABLE, COLUMNS):
        distorted, reference = row.fields["dist_img"], row.fields["ref_img"]
        content, kind = content_and_kind(row, "dist_img", KINDS)
        if Path(reference).stem.upper() != content:
            where = f"{row.where}, column 'ref_img'"
            raise DatasetError(f"{where}: {shown(reference)} is not the reference of {distorted}")
        # called a DMOS, but 5 is "imperceptible" and 1 "very annoying": higher is closer
        listed.append(Listed(row.where, reference, distorted, row.number("dmos"), content, kind))
    images = Images(path / "images")
    return [JudgedSet("kadid10k", rated(listed, images, images))]
