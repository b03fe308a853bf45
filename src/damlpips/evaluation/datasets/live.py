"""The LIVE image quality database, release 2, whose scores are in MATLAB files."""

import math
from pathlib import Path
from typing import Any

from damlpips.evaluation.datasets.folders import Images, Listed, first_of, rated
from damlpips.evaluation.datasets.matlab import read_matlab
from damlpips.evaluation.datasets.tables import DatasetError
from damlpips.evaluation.judgements import JudgedSet, Rating
from damlpips.files import shown

# folders in the order of the scores, and how many each has: its images are img1.bmp, img2.bmp, ...
FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
COUNT = sum(FOLDERS.values())
REFERENCES = "refimgs"
NAMES = "refnames_all.mat"
# the variable with the scores; the realigned ones, which came later, are comparable between the folders
SCORES = {"dmos_realigned.mat": "dmos_new", "dmos.mat": "dmos"}


def detect(path: Path) -> bool:
    """Return whether a folder holds LIVE."""
    return (path / REFERENCES).is_dir() and any((path / name).is_file() for name in SCORES)


def read(path: Path) -> list[JudgedSet]:
    """Return the ratings without those of undistorted originals: 29 contents, 5 kinds."""
    table = first_of(path, SCORES, "scores")
    scores, originals = (_variable(table, name, float) for name in (SCORES[table.name], "orgs"))
    # not from info.txt of each folder: its lines are in another order
    names = _variable(path / NAMES, "refnames_all", str)
    references = Images(path / REFERENCES)
    ratings: list[Rating] = []
    start = 0
    for folder, count in FOLDERS.items():
        listed = []
        for k in range(start, start + count):
            if not originals[k]:
                score = -scores[k]  # a difference mean opinion score: higher is worse
                where, distorted = f"{table}, element {k + 1}", f"img{k - start + 1}.bmp"
                listed.append(Listed(where, names[k], distorted, score, Path(names[k]).stem, folder))
        ratings += rated(listed, references, Images(path / folder))
        start += count
    if not ratings:
        raise DatasetError(f"{table}, variable 'orgs': every image is an original, expected distorted ones")
    return [JudgedSet("live", tuple(ratings))]


def _variable(path: Path, name: str, kind: type[float] | type[str]) -> list[Any]:
    """Return a variable of a MATLAB file: a finite number or a name for each image."""
    variables = read_matlab(path)
    if name not in variables:
        found = ", ".join(map(repr, variables)) or "none"
        raise DatasetError(f"{path}: no variable {name!r} of numbers or texts, got {found}")
    values = list(variables[name])
    where = f"{path}, variable {name!r}"
    if len(values) != COUNT:
        per_folder = " + ".join(str(count) for count in FOLDERS.values())
        raise DatasetError(f"{where}: {len(values)} elements, expected {COUNT} ({per_folder})")
    for k, value in enumerate(values, start=1):
        if not isinstance(value, kind) or (isinstance(value, float) and not math.isfinite(value)):
            expected = "a finite number" if kind is float else "the name of a reference"
            raise DatasetError(f"{where}, element {k}: expected {expected}, got {shown(str(value))}")
    return values
