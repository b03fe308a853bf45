"""TID2008 and TID2013, whose file names number the content, the kind of distortion and its level."""

import re
from dataclasses import dataclass
from pathlib import Path

from damlpips.evaluation.datasets.folders import Images, Listed, rated
from damlpips.evaluation.datasets.tables import DatasetError, Row, read_text, rows_without_header
from damlpips.evaluation.judgements import JudgedSet

TABLE = "mos_with_names.txt"
FOLDERS = ("reference_images", "distorted_images")
# I01_01_1.bmp of TID, I01_01_01.png of KADID-10k: content, kind, level
NUMBERED = re.compile(r"(?P<content>I\d\d)_(?P<kind>\d\d)_\d{1,2}\.(?:bmp|png)", re.IGNORECASE)
# a kind above 17 or a fifth level: TID2013 has both, TID2008 neither
ONLY_IN_TID2013 = re.compile(r"I\d\d_(?:(?:1[89]|2\d)_\d|\d\d_5)\.bmp", re.IGNORECASE)


@dataclass(frozen=True)
class Tid:
    """One of the two sets, of 25 contents: the later one has more kinds of distortion, and five levels, not four."""

    name: str
    kinds: tuple[str, ...]

    def detect(self, path: Path) -> bool:
        """Return whether a folder holds this set, and not the other."""
        if not (path / TABLE).is_file() or not any((path / folder).is_dir() for folder in FOLDERS):
            return False
        return bool(ONLY_IN_TID2013.search(read_text(path / TABLE))) == (self is TID2013)

    def read(self, path: Path) -> list[JudgedSet]:
        """Return the ratings."""
        listed = []
        for row in rows_without_header(path / TABLE, ("mos", "image")):
            content, kind = content_and_kind(row, "image", self.kinds)
            # mean opinion score, 0 to 9: higher is closer
            listed.append(Listed(row.where, f"{content}.bmp", row.fields["image"], row.number("mos"), content, kind))
        return [JudgedSet(self.name, rated(listed, *(Images(path / folder) for folder in FOLDERS)))]


def content_and_kind(row: Row, column: str, kinds: tuple[str, ...]) -> tuple[str, str]:
    """Return what the name of an image says."""
    match = row.match(column, NUMBERED, like="I01_01_1.bmp")
    kind = int(match["kind"])
    if not 1 <= kind <= len(kinds):
        raise DatasetError(f"{row.where}, column {column!r}: kind {kind} of {match[0]}, expected 1 to {len(kinds)}")
    return match["content"].upper(), kinds[kind - 1]


_KINDS = (
    *("additive Gaussian noise", "additive noise in colour components", "spatially correlated noise", "masked noise"),
    *("high frequency noise", "impulse noise", "quantisation noise", "Gaussian blur", "image denoising"),
    *("JPEG compression", "JPEG2000 compression", "JPEG transmission errors", "JPEG2000 transmission errors"),
    *("non-eccentricity pattern noise", "local block-wise distortions", "mean shift", "contrast change"),
)
_KINDS_SINCE_2013 = (
    *("change of colour saturation", "multiplicative Gaussian noise", "comfort noise"),
    *("lossy compression of noisy images", "colour quantisation with dither", "chromatic aberrations"),
    "sparse sampling and reconstruction",
)
TID2008 = Tid("tid2008", _KINDS)
TID2013 = Tid("tid2013", _KINDS + _KINDS_SINCE_2013)
