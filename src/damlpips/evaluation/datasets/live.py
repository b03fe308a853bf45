"""The LIVE image quality database, release 2, whose scores are in MATLAB files."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from damlpips.evaluation.datasets.folders import Images
from damlpips.evaluation.datasets.rated import Listed, rated
from damlpips.evaluation.datasets.tables import DatasetError, quoted, read_bytes
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
    names = _names(path / NAMES)
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


def _variable(path: Path, name: str) -> Any:
    """Return a variable of a MATLAB file as a flat array, one element for each image."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DatasetError(f"{path}: reading MATLAB files needs SciPy: pip install scipy") from error
    content = read_bytes(path)
    try:
        variables = loadmat(io.BytesIO(content), variable_names=[name])
    except Exception as error:  # SciPy's reader has many kinds of errors for a damaged file
        raise DatasetError(f"{path}: not a MATLAB file that can be read ({type(error).__name__}: {error})") from error
    if name not in variables:
        raise DatasetError(f"{path}: no variable {name!r}")
    flat = np.asarray(variables[name]).reshape(-1)
    if len(flat) != COUNT:
        per_folder = " + ".join(str(count) for count in FOLDERS.values())
        raise DatasetError(f"{path}, variable {name!r}: {len(flat)} elements, expected {COUNT} ({per_folder})")
    return flat


def _numbers(path: Path, name: str) -> list[float]:
    flat = _variable(path, name)
    if flat.dtype.kind not in "fiub":
        raise DatasetError(f"{path}, variable {name!r}: expected numbers, got {flat.dtype}")
    bad = np.flatnonzero(~np.isfinite(flat))
    if len(bad):
        where = f"{path}, variable {name!r}, element {bad[0] + 1}"
        raise DatasetError(f"{where}: expected a finite number, got {flat[bad[0]]}")
    return [float(value) for value in flat]


def _names(path: Path) -> list[str]:
    names = []
    for k, cell in enumerate(_variable(path, "refnames_all"), start=1):
        # a cell holds an array of one text
        name = cell.item() if isinstance(cell, np.ndarray) and cell.size == 1 else cell
        if not isinstance(name, str):
            where = f"{path}, variable 'refnames_all', element {k}"
            raise DatasetError(f"{where}: expected the name of a reference, got {quoted(str(name))}")
        names.append(name)
    return names
