"""Look up images by the names that a table gives them: every folder is listed once, no file is asked for one by one."""

import os
from collections.abc import Iterable
from pathlib import Path

from damlpips.evaluation.datasets.tables import DatasetError, quoted
from damlpips.files import path_within, reason
from damlpips.scoring.images import SUFFIXES

# where a table names an image, and the name
Wanted = tuple[str, str]


def file_names(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Return the names of a folder's regular files with one of these suffixes in any case, sorted; none hidden.

    Raises:
        DatasetError: the folder is missing or cannot be read.
    """
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


class Images:
    """The images of one folder, or of several that a set is spread over, by their names in any case.

    The tables of TID2013 and CSIQ, for one, do not write names in the case that the files have.

    Raises:
        DatasetError: a folder is missing, or two images differ in the case of their names only.
    """

    def __init__(self, *folders: Path) -> None:
        self.places = " or ".join(str(folder) for folder in folders)
        self.paths: dict[str, Path] = {}
        for folder in folders:
            for name in file_names(folder, SUFFIXES):
                path, other = folder / name, self.paths.get(name.lower())
                if other is not None:
                    raise DatasetError(f"{path}: the name is that of {other}, tables cannot tell them apart")
                self.paths[name.lower()] = path

    def find(self, wanted: Iterable[Wanted]) -> list[Path]:
        """Return the path of each image.

        Raises:
            DatasetError: images are missing; names the first and says how many.
        """
        return _all_found([(w, self.paths.get(w[1].lower())) for w in wanted], self.places)


class Tree:
    """The files below a folder, by relative paths that may come from anybody: none leads out of the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.resolved = root.resolve()
        self.listed: dict[Path, dict[str, bool]] = {}

    def find(self, wanted: Iterable[Wanted]) -> list[Path]:
        """Return the path of each file.

        Raises:
            DatasetError: a path is empty, absolute, has `..` or leads out by a symbolic link; files are missing: names
                the first and says how many.
        """
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
            raise DatasetError(f"{where}: {quoted(name)} leads out of {self.root} by a symbolic link")
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
                raise DatasetError(f"{where}: {quoted(str(folder))}: {what}") from error
        return self.listed[folder]


def _all_found(found: list[tuple[Wanted, Path | None]], places: str) -> list[Path]:
    missing = [wanted for wanted, path in found if path is None]
    if missing:
        where, name = missing[0]
        more = f" ({len(missing)} of {len(found)} are missing)" if len(missing) > 1 else ""
        raise DatasetError(f"{where}: no image {quoted(name)} in {places}{more}")
    return [path for _, path in found if path is not None]
