"""BAPPS, the Berkeley-Adobe perceptual patch similarity set: choices between two, and whether two look the same."""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from damlpips.evaluation.datasets.folders import file_names, folder_names
from damlpips.evaluation.datasets.tables import DatasetError, read_bytes
from damlpips.evaluation.judgements import Choice, JudgedSet, SameOrNot
from damlpips.scoring.images import SUFFIXES

SPLITS = ("train", "val")
# an array of one number: its header has 128 bytes
LARGEST_ARRAY = 1 << 12


@dataclass(frozen=True)
class Family:
    """One of the two kinds of judgements.

    Attributes:
        folder: what it is called in the published tree.
        labels: the folder of arrays, one for each judgement.
        images: the folders of images.
    """

    folder: str
    labels: str
    images: tuple[str, ...]


TWO_AFC = Family("2afc", "judge", ("ref", "p0", "p1"))
JND = Family("jnd", "same", ("p0", "p1"))


def is_2afc(path: Path) -> bool:
    """Return whether a folder holds BAPPS' choices between two."""
    return next(_leaves(path, TWO_AFC), None) is not None


def is_jnd(path: Path) -> bool:
    """Return whether a folder holds BAPPS' just noticeable differences."""
    return next(_leaves(path, JND), None) is not None


def read_2afc(path: Path) -> list[JudgedSet]:
    """Return a set for each folder with `judge`, `ref`, `p0` and `p1`; judge is the share that chose p1."""

    def choices(leaf: Path, name: str) -> JudgedSet:
        found = _labelled(leaf, TWO_AFC)
        return JudgedSet(
            name, tuple(Choice(r, a, b, 1 - p, p, f"{name}/{r.stem}", leaf.name) for p, (r, a, b) in found)
        )

    return _read(path, TWO_AFC, choices)


def read_jnd(path: Path) -> list[JudgedSet]:
    """Return a set for each folder with `same`, `p0` and `p1`; same is the share that saw no difference."""

    def pairs(leaf: Path, name: str) -> JudgedSet:
        found = _labelled(leaf, JND)
        return JudgedSet(name, tuple(SameOrNot(a, b, p, f"{name}/{a.stem}", leaf.name) for p, (a, b) in found))

    return _read(path, JND, pairs)


def _read(path: Path, family: Family, read: Callable[[Path, str], JudgedSet]) -> list[JudgedSet]:
    leaves = list(_leaves(path, family))
    if not leaves:
        expected = f"{family.labels}, {', '.join(family.images)}"
        raise DatasetError(f"{path}: no folder {family.labels} in it or in {family.folder}/val/*, expected {expected}")
    return [read(leaf, _name(leaf, family)) for leaf in leaves]


def _leaves(path: Path, family: Family) -> Iterator[Path]:
    """Yield the folders with judgements: the path itself, or those of the published tree in it."""
    bases = [path, *(path / split for split in SPLITS), *(path / family.folder / split for split in SPLITS)]
    below = (base / name for base in bases for name in folder_names(base))
    yield from (leaf for leaf in [path, *below] if _is_leaf(leaf, family))


def _is_leaf(folder: Path, family: Family) -> bool:
    # an error names the image folder that is missing
    return (folder / family.labels).is_dir() and any((folder / images).is_dir() for images in family.images)


def _name(leaf: Path, family: Family) -> str:
    """Return the name in the published tree, `2afc/val/cnn`."""
    # as the path says it, whatever links it goes through
    *_, parent, own = Path(os.path.abspath(leaf)).parts
    return "/".join([family.folder, *([parent] if parent in SPLITS else []), own])


def _labelled(leaf: Path, family: Family) -> list[tuple[float, tuple[Path, ...]]]:
    """Return the label and the images of each judgement."""
    labels = _by_stem(leaf / family.labels, (".npy",))
    images = [_by_stem(leaf / folder, SUFFIXES) for folder in family.images]
    if not labels:
        raise DatasetError(f"{leaf / family.labels}: no labels (.npy) in this folder")
    for folder, side in zip(family.images, images, strict=True):
        _all_there(labels, side, leaf / folder, "image")
        _all_there(side, labels, leaf / family.labels, "label")
    return [(_share(label), tuple(side[stem] for side in images)) for stem, label in labels.items()]


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name in file_names(folder, suffixes):
        path = folder / name
        if path.stem in files:
            raise DatasetError(f"{path}: a second file of this stem, beside {files[path.stem].name}")
        files[path.stem] = path
    return files


def _all_there(wanted: dict[str, Path], there: dict[str, Path], folder: Path, what: str) -> None:
    missing = [path for stem, path in wanted.items() if stem not in there]
    if missing:
        counts = f"{len(wanted)} files in {missing[0].parent.name}, {len(there)} in {folder.name}"
        raise DatasetError(f"{missing[0]}: no {what} of this stem in {folder} ({len(missing)} missing: {counts})")


def _share(path: Path) -> float:
    """Return the one number of an array file."""
    content = read_bytes(path, LARGEST_ARRAY)
    try:
        # not np.load, which takes other formats, too
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # numpy's reader has many kinds of errors for a damaged file
        raise DatasetError(f"{path}: damaged array ({type(error).__name__}: {error})") from error
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise DatasetError(f"{path}: expected an array of one number, got shape {array.shape} of {array.dtype}")
    share = float(array.item())
    if not 0 <= share <= 1:
        raise DatasetError(f"{path}: expected a share of observers, 0 to 1, got {share}")
    return share
