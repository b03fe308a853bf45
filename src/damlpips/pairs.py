"""Find pairs of image files: by name in two folders, or from a list that somebody else may have written."""

import csv
import io
import math
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from damlpips.files import MOST_SHOWN, as_text, open_regular, path_within, reason, shown, size
from damlpips.images import SUFFIXES, ScoringError

COLUMNS = ("reference", "distorted")
# a million rows of long names
LARGEST_MANIFEST = 1 << 26


@dataclass(frozen=True)
class Pair:
    """Two image files to compare, what to call them in a table, and which method made the second."""

    reference: Path
    distorted: Path
    name: str
    method: str = ""


def find_pairs(reference: Path, distorted: Path, manifest: Path | None = None) -> list[Pair]:
    """Return the pairs that two paths stand for, sorted as a reader would: `a2` before `a10`.

    Two files are one pair. Of two folders, images of one name are paired, or else of one stem where the stem occurs
    once in each folder (`a.png`, `a.jpg`). A reference file is paired with every image of a distorted folder. Folders
    within folders, hidden files and files that are not images by their suffix are passed over.

    With a manifest the pairs are its rows, in their order: a CSV file in UTF-8 with a header, whose columns `reference`
    and `distorted` hold paths within the two folders; other columns are passed over.

    Raises:
        ScoringError: a path does not exist, a folder without images, an image without a partner on the other side, or
            a reference folder with a distorted file; a manifest that is damaged, empty or leads to a file that is
            missing or outside the folders, with the number of the line.
    """
    if manifest is not None:
        return _listed(reference, distorted, manifest)
    folders = _is_folder(reference, "reference"), _is_folder(distorted, "distorted")
    if folders[1]:
        files = _images(distorted)
        pairs = _partners(reference, distorted, files) if folders[0] else [(reference, f) for f in files]
    elif folders[0]:
        raise ScoringError(
            f"reference {str(reference)!r} is a folder, distorted {str(distorted)!r} a file: expected two files, two"
            " folders, or a reference file and a folder"
        )
    else:
        pairs = [(reference, distorted)]
    return [Pair(r, d, d.name) for r, d in pairs]


def _is_folder(path: Path, what: str) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise ScoringError(f"{what} {str(path)!r}: no such file or folder") from error
    except OSError as error:
        raise ScoringError(f"{what} {str(path)!r}: {reason(error)}") from error
    except ValueError as error:  # a NUL
        raise ScoringError(f"{what} {str(path)!r}: not a file name ({error})") from error


def _natural(path: Path) -> tuple[list[tuple[float, str]], str]:
    """Return a key that sorts digits by their value, and before letters."""
    runs = re.findall(r"[0-9]+|[^0-9]+", path.stem.lower())
    return [(int(r), "") if r.isdecimal() else (math.inf, r) for r in runs], path.name


def _images(folder: Path) -> list[Path]:
    try:
        files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
        # what is no file either, as a link to nowhere, is an error when it is read, and not passed over
        images = sorted((f for f in files if not f.is_dir()), key=_natural)
    except OSError as error:
        raise ScoringError(f"{folder}: {reason(error)}") from error
    if not images:
        raise ScoringError(f"{folder}: no images in this folder")
    return images


def _partners(reference: Path, distorted: Path, files: list[Path]) -> list[tuple[Path, Path]]:
    """Return the pairs of two folders, in the order of the distorted `files`."""
    references = _images(reference)
    by_name = {r.name: r for r in references}
    stems, stems_of_files = (Counter(p.stem for p in side) for side in (references, files))
    by_stem = {r.stem: r for r in references if stems[r.stem] == 1}
    found = {d: by_name.get(d.name) or (by_stem.get(d.stem) if stems_of_files[d.stem] == 1 else None) for d in files}
    used = set(found.values())
    _all_paired([d for d in files if found[d] is None], distorted, reference)
    _all_paired([r for r in references if r not in used], reference, distorted)
    return [(r, d) for d, r in found.items() if r is not None]


def _all_paired(alone: Sequence[Path], folder: Path, other: Path) -> None:
    if alone:
        more = f" ({len(alone)} images of {folder} have none)" if len(alone) > 1 else ""
        raise ScoringError(f"{alone[0]}: no image of this name, or the only one of its stem, in {other}{more}")


def _listed(reference: Path, distorted: Path, manifest: Path) -> list[Pair]:
    """Return the pairs of a manifest."""
    for folder, what in ((reference, "reference"), (distorted, "distorted")):
        if not _is_folder(folder, what):
            raise ScoringError(f"{what} {str(folder)!r}: expected a folder, where a manifest's paths are looked up")
    roots = reference.resolve(), distorted.resolve()
    pairs = []
    for line, (first, second) in _rows(manifest):
        where = f"{manifest}, line {line}"
        one, other = _within(reference, roots[0], first, where), _within(distorted, roots[1], second, where)
        pairs.append(Pair(one, other, second))
    if not pairs:
        raise ScoringError(f"{manifest}, line 1: no pairs below the header")
    return pairs


def _rows(manifest: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield the line that a row begins on, and the row's two paths."""
    reader = csv.reader(io.StringIO(_text(manifest), newline=""), strict=True)
    places: list[int] = []
    fields, line = 0, 1
    try:
        for row in reader:
            if not places:
                places, fields = _places(row, manifest), len(row)
            elif row and len(row) != fields:
                raise ScoringError(f"{manifest}, line {line}: {len(row)} fields, the header has {fields}")
            elif row:
                yield line, (row[places[0]], row[places[1]])
            line = reader.line_num + 1
    except csv.Error as error:
        raise ScoringError(f"{manifest}, line {line}: not CSV ({error})") from error
    if not places:
        raise ScoringError(f"{manifest}, line 1: the manifest is empty")


def _places(header: list[str], manifest: Path) -> list[int]:
    """Return where the two columns are."""
    for column in COLUMNS:
        if header.count(column) != 1:
            found = shown(",".join(header), MOST_SHOWN)
            raise ScoringError(f"{manifest}, line 1: expected a header with one column {column!r}, got {found}")
    return [header.index(column) for column in COLUMNS]


def _text(manifest: Path) -> str:
    try:
        with open_regular(manifest) as file:
            if size(file) > LARGEST_MANIFEST:
                raise ScoringError(f"{manifest}: a manifest of {size(file)} bytes, more than {LARGEST_MANIFEST}")
            content = file.read(LARGEST_MANIFEST)
    except OSError as error:
        raise ScoringError(f"{manifest}: {reason(error)}") from error
    try:
        return as_text(content, manifest)
    except ValueError as error:
        raise ScoringError(str(error)) from error


def _within(folder: Path, root: Path, name: str, where: str) -> Path:
    """Return the regular file `name` of a folder, if it is in there by whatever links; `root` has none of them."""
    if name == "":
        raise ScoringError(f"{where}: an empty path")
    try:
        path = path_within(folder, name)
    except ValueError as error:
        raise ScoringError(f"{where}: {error}") from error
    try:
        with open_regular(path):
            inside = path.resolve().is_relative_to(root)
    except OSError as error:
        raise ScoringError(f"{where}: {shown(name, MOST_SHOWN)}: {reason(error)}") from error
    if not inside:
        raise ScoringError(f"{where}: {shown(name, MOST_SHOWN)} leads out of {folder} by a symbolic link")
    return path
