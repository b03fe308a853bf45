"""BAPPS, the Berkeley-Adobe perceptual patch similarity set: choices between two, and whether two look the same."""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from damlpips.evaluation.datasets.folders import file_names, folder_names
from damlpips.evaluation.datasets.tables import DatasetError, read_bytes
from damlpips.evaluation.judgements import Choice, JudgedSet, Judgement, SameOrNot
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
        judgement: the images, their label, content and kind to a judgement.
    """

    folder: str
    labels: str
    images: tuple[str, ...]
    judgement: Callable[[tuple[Path, ...], float, str, str], Judgement]

    def detect(self, path: Path) -> bool:
        """Return whether a folder holds judgements of this kind."""
        return next(self._leaves(path), None) is not None

    def read(self, path: Path) -> list[JudgedSet]:
        """Return a set for each folder of labels; the content is the judgement's, the kind the folder's."""
        leaves = list(self._leaves(path))
        if not leaves:
            expected = f"{self.labels}, {', '.join(self.images)}"
            raise DatasetError(f"{path}: no folder {self.labels} in it or in {self.folder}/val/*, expected {expected}")
        names = [self._name(leaf) for leaf in leaves]
        return [JudgedSet(n, tuple(self._judgements(leaf, n))) for leaf, n in zip(leaves, names, strict=True)]

    def _leaves(self, path: Path) -> Iterator[Path]:
        """Yield the folders with judgements: the path itself, or those of the published tree in it."""
        bases = [path, *(path / split for split in SPLITS), *(path / self.folder / split for split in SPLITS)]
        for leaf in [path, *(base / name for base in bases for name in folder_names(base))]:
            # one of the image folders is enough: an error names the one that is missing
            if (leaf / self.labels).is_dir() and any((leaf / images).is_dir() for images in self.images):
                yield leaf

    def _name(self, leaf: Path) -> str:
        """Return the name in the published tree, `2afc/val/cnn`."""
        # as the path says it, whatever links it goes through
        *_, parent, own = Path(os.path.abspath(leaf)).parts
        return "/".join([self.folder, *([parent] if parent in SPLITS else []), own])

    def _judgements(self, leaf: Path, name: str) -> Iterator[Judgement]:
        labels = _by_stem(leaf / self.labels, (".npy",))
        images = [_by_stem(leaf / folder, SUFFIXES) for folder in self.images]
        if not labels:
            raise DatasetError(f"{leaf / self.labels}: no labels (.npy) in this folder")
        for folder, side in zip(self.images, images, strict=True):
            _check_partners(labels, side, leaf / folder, "image")
            _check_partners(side, labels, leaf / self.labels, "label")
        for stem, label in labels.items():
            yield self.judgement(tuple(side[stem] for side in images), _share(label), f"{name}/{stem}", leaf.name)


def _choice(images: tuple[Path, ...], chose_p1: float, content: str, kind: str) -> Judgement:
    ref, p0, p1 = images
    return Choice((ref, p0), (ref, p1), 1 - chose_p1, chose_p1, content, kind)


def _same_or_not(images: tuple[Path, ...], saw_no_difference: float, content: str, kind: str) -> Judgement:
    p0, p1 = images
    return SameOrNot(p0, p1, saw_no_difference, content, kind)


TWO_AFC = Family("2afc", "judge", ("ref", "p0", "p1"), _choice)
JND = Family("jnd", "same", ("p0", "p1"), _same_or_not)


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name in file_names(folder, suffixes):
        path = folder / name
        if path.stem in files:
            raise DatasetError(f"{path}: a second file of this stem, beside {files[path.stem].name}")
        files[path.stem] = path
    return files


def _check_partners(files: dict[str, Path], partners: dict[str, Path], folder: Path, what: str) -> None:
    missing = [path for stem, path in files.items() if stem not in partners]
    if missing:
        counts = f"{len(files)} files in {missing[0].parent.name}, {len(partners)} in {folder.name}"
        raise DatasetError(f"{missing[0]}: no {what} of this stem in {folder} ({len(missing)} missing: {counts})")


def _share(path: Path) -> float:
    """Return the one number of an array file."""
    return share(read_bytes(path, LARGEST_ARRAY), path)


def share(content: bytes, path: Path) -> float:
    """Return the one number of an array file, a share of observers, by its bytes."""
    try:
        # not np.load, which takes other formats, too
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # numpy's reader has many kinds of errors for a damaged file
        raise DatasetError(f"{path}: damaged array ({type(error).__name__}: {error})") from error
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise DatasetError(f"{path}: expected an array of one number, got shape {array.shape} of {array.dtype}")
    found = float(array.item())
    if not 0 <= found <= 1:
        raise DatasetError(f"{path}: expected a share of observers, 0 to 1, got {found}")
    return found
