"""Find images by the names that a table gives them: every folder is listed once, no file is asked for one by one."""

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from damlpips.evaluation.datasets.tables import DatasetError
from damlpips.evaluation.judgements import Rating
from damlpips.files import path_within, reason, shown
from damlpips.scoring.images import SUFFIXES

# where a table names an image, and the name
Wanted = tuple[str, str]


def file_names(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Return the names of a folder's regular files with one of these suffixes in any case, sorted; none hidden."""
    try:
        with os.scandir(folder) as entries:
            # the entry knows what it is: no file is asked, but those behind links
            named = (e for e in entries if e.name.lower().endswith(suffixes) and not e.name.startswith("."))
            return sorted(entry.name for entry in named if entry.is_file())
    except OSError as error:
        raise DatasetError(f"{folder}: {reason(error)}, expected a folder of files ({', '.join(suffixes)})") from error


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; none if it is no folder itself."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def first_of(folder: Path, names: Collection[str], what: str) -> Path:
    """Return the first of these files or folders that is there; an error calls them `what`."""
    for path in (folder / name for name in names):
        if path.exists():
            return path
    raise DatasetError(f"{folder}: no {what}, expected {' or '.join(names)}")


class Images:
    """The images of one folder, or of several that a set is spread over, by their names in any case.

    The tables of TID2013 and CSIQ, for one, do not write names in the case that the files have.
    """

    def __init__(self, *folders: Path) -> None:
        self.where = " or ".join(str(folder) for folder in folders)
        self.paths: dict[str, Path] = {}
        for folder in folders:
            for name in file_names(folder, SUFFIXES):
                path, other = folder / name, self.paths.get(name.lower())
                if other is not None:
                    raise DatasetError(f"{path}: the name is that of {other}, tables cannot tell them apart")
                self.paths[name.lower()] = path

    def find(self, wanted: Iterable[Wanted]) -> list[Path]:
        """Return the path of each image; of those that are missing, an error names the first and says how many."""
        return _all_found([(w, self.paths.get(w[1].lower())) for w in wanted], self.where)


class Tree:
    """The files below a folder, by relative paths, which are not trusted: none leads out of the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.resolved = root.resolve()
        self.listed: dict[Path, dict[str, bool]] = {}

    def find(self, wanted: Iterable[Wanted]) -> list[Path]:
        """Return the path of each file; errors are those of `Images.find`, or that of a path that leads out."""
        return _all_found([(w, self._path(*w)) for w in wanted], str(self.root))

    def _path(self, where: str, name: str) -> Path | None:
        if name == "":
            raise DatasetError(f"{where}: an empty path, expected one within {self.root}")
        try:
            path = path_within(self.root, name)
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from error
        is_link = self._files(path.parent, where).get(path.name)
        if is_link and not path.resolve().is_relative_to(self.resolved):
            raise DatasetError(f"{where}: {shown(name)} leads out of {self.root} by a symbolic link")
        return None if is_link is None else path

    def _files(self, folder: Path, where: str) -> dict[str, bool]:
        """Return the names of a folder's files, and whether each is a symbolic link."""
        if folder not in self.listed:
            try:
                if not folder.resolve().is_relative_to(self.resolved):
                    raise DatasetError(f"{where}: {folder} leads out of {self.root} by a symbolic link")
                with os.scandir(folder) as entries:
                    self.listed[folder] = {e.name: e.is_symlink() for e in entries if e.is_file()}
            except (FileNotFoundError, NotADirectoryError):
                self.listed[folder] = {}
            except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
                what = reason(error) if isinstance(error, OSError) else str(error)
                raise DatasetError(f"{where}: {shown(str(folder))}: {what}") from error
        return self.listed[folder]


def _all_found(found: list[tuple[Wanted, Path | None]], searched: str) -> list[Path]:
    missing = [wanted for wanted, path in found if path is None]
    if missing:
        where, name = missing[0]
        more = f" ({len(missing)} of {len(found)} are missing)" if len(missing) > 1 else ""
        raise DatasetError(f"{where}: no image {shown(name)} in {searched}{more}")
    return [path for _, path in found if path is not None]


@dataclass(frozen=True)
class Listed:
    """A rating whose images are still names.

    Attributes:
        where: the row, for errors.
        score: higher is closer.
    """

    where: str
    reference: str
    distorted: str
    score: float
    content: str
    kind: str


def rated(listed: Sequence[Listed], references: Images, distorted: Images) -> tuple[Rating, ...]:
    """Return the ratings with the paths of their images; none may be rated twice."""
    first: dict[str, str] = {}
    for item in listed:
        other = first.setdefault(item.distorted.lower(), item.where)
        if other != item.where:
            raise DatasetError(f"{item.where}: {shown(item.distorted)} is rated a second time, first in {other}")
    ones = references.find((item.where, item.reference) for item in listed)
    others = distorted.find((item.where, item.distorted) for item in listed)
    return tuple(Rating(r, d, i.score, i.content, i.kind) for r, d, i in zip(ones, others, listed, strict=True))
