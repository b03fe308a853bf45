"""The LIVE image quality database, release 2, whose scores are in MATLAB files."""

import math
from pathlib import Path

from damlpips.evaluation.datasets.folders import Images
from damlpips.evaluation.datasets.matlab import Values, read_matlab
from damlpips.evaluation.datasets.rated import Listed, rated
from damlpips.evaluation.datasets.tables import DatasetError, quoted
from damlpips.evaluation.judgements import JudgedSet, Rating

# folders in the order of the scores, and how many each has: its images are img1.bmp, img2.bmp, ...
FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
COUNT = sum(FOLDERS.values())
REFERENCES = "refimgs"
NAMES = "refnames_all.mat"
# the variable with the scores; the realigned ones, which came later, are comparable between the folders
SCORES = {"dmos_realigned.mat": "dmos_new", "dmos.mat": "dmos"}


def is_live(path: Path) -> bool:
    """Return whether a folder holds LIVE."""
    return (path / REFERENCES).is_dir() and any((path / name).is_file() for name in SCORES)


def read_live(path: Path) -> list[JudgedSet]:
    """Return LIVE's ratings without those of undistorted originals: 29 contents, 5 kinds."""
    table = next((name for name in SCORES if (path / name).is_file()), None)
    if table is None:
        raise DatasetError(f"{path}: no scores, expected {' or '.join(SCORES)}")
    scores, originals = _numbers(path / table, SCORES[table]), _numbers(path / table, "orgs")
    # not from info.txt of each folder: its lines are in another order
    names = _names(path / NAMES, "refnames_all")
    references = Images(path / REFERENCES)
    ratings: list[Rating] = []
    start = 0
    for folder, count in FOLDERS.items():
        listed = [
            Listed(
                f"{path / table}, element {k + 1}",
                names[k],
                f"img{k - start + 1}.bmp",
                -scores[k],  # a difference mean opinion score: higher is worse
                Path(names[k]).stem,
                folder,
            )
            for k in range(start, start + count)
            if not originals[k]
        ]
        ratings += rated(listed, references, Images(path / folder))
        start += count
    if not ratings:
        raise DatasetError(f"{path / table}, variable 'orgs': every image is an original, expected distorted ones")
    return [JudgedSet("live", tuple(ratings))]


def _variable(path: Path, name: str) -> Values:
    """Return a variable of a MATLAB file, one value for each image."""
    variables = read_matlab(path)
    if name not in variables:
        found = ", ".join(map(repr, variables)) or "none"
        raise DatasetError(f"{path}: no variable {name!r} of numbers or texts, got {found}")
    values = variables[name]
    if len(values) != COUNT:
        per_folder = " + ".join(str(count) for count in FOLDERS.values())
        raise DatasetError(f"{path}, variable {name!r}: {len(values)} elements, expected {COUNT} ({per_folder})")
    return values


def _numbers(path: Path, name: str) -> list[float]:
    numbers = []
    for k, value in enumerate(_variable(path, name), start=1):
        if isinstance(value, str) or not math.isfinite(value):
            where = f"{path}, variable {name!r}, element {k}"
            raise DatasetError(f"{where}: expected a finite number, got {quoted(str(value))}")
        numbers.append(value)
    return numbers


def _names(path: Path, name: str) -> list[str]:
    names = []
    for k, value in enumerate(_variable(path, name), start=1):
        if not isinstance(value, str):
            where = f"{path}, variable {name!r}, element {k}"
            raise DatasetError(f"{where}: expected the name of a reference, got {value}")
        names.append(value)
    return names
