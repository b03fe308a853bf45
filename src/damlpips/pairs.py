"""Find pairs of image files: by name in two folders, or from a list that somebody else may have written."""

import csv
import io
import math
import re
import stat
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from damlpips.files import MOST_SHOWN, as_text, open_regular, path_within, reason, shown, size
from damlpips.images import SUFFIXES, ScoringError

COLUMNS = ("reference", "distorted")
# a million rows of long names
LARGEST_MANIFEST = 1 << 26
# files that an error lists
MOST_NAMED = 6


@dataclass(frozen=True)
class Pair:
    """Two image files to compare, what to call them in a table, and which method made the second."""

    reference: Path
    distorted: Path
    name: str
    method: str = ""


def find_pairs(reference: Path, distorted: Path, manifest: Path | None = None) -> list[Pair]:
    """Return the pairs that two paths stand for, sorted as a reader would: `a2` before `a10`.

    Two files are one pair. Of two folders, images of one path within them are paired, or else of one path but for the
    ending (`deep/a.png`, `deep/a.jpg`). A reference file is paired with every image of a distorted folder. Folders are
    searched with the folders within them; hidden ones, hidden files and files that are not images by their suffix are
    passed over.

    With a manifest the pairs are its rows, in their order: a CSV file in UTF-8 with a header, whose columns `reference`
    and `distorted` hold paths within the two folders; other columns are passed over.

    Raises:
        ScoringError: a path does not exist, a folder without images, an image without a partner on the other side or
            with several that differ in their ending, or a reference folder with a distorted file; a manifest that is
            damaged, empty or leads to a file that is missing or outside the folders, with the number of the line.
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
    within = distorted if folders[1] else distorted.parent
    return [Pair(r, d, d.relative_to(within).as_posix()) for r, d in pairs]


def find_methods(reference: Path, methods: Mapping[str, Path], manifest: Path | None = None) -> list[Pair]:
    """Return the pairs of the folders of several methods, by `find_pairs`; a reference's pairs follow each other.

    Args:
        methods: each method's name and folder.

    Raises:
        ScoringError: as `find_pairs`, of the first folder that has something wrong.
    """
    found = [
        [replace(pair, method=name) for pair in find_pairs(reference, folder, manifest)]
        for name, folder in methods.items()
    ]
    if manifest is None and not _is_folder(reference, "reference"):
        return [pair for pairs in found for pair in pairs]
    if manifest is None:
        # in the order of the first; each reference has one pair a method
        order = {pair.reference: k for k, pair in enumerate(found[0])}
        found = [sorted(pairs, key=lambda pair: order[pair.reference]) for pairs in found]
    return [pair for pairs in zip(*found, strict=True) for pair in pairs]


def _is_folder(path: Path, what: str) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise ScoringError(f"{what} {str(path)!r}: no such file or folder") from error
    except OSError as error:
        raise ScoringError(f"{what} {str(path)!r}: {reason(error)}") from error
    except ValueError as error:  # a NUL
        raise ScoringError(f"{what} {str(path)!r}: not a file name ({error})") from error


def _natural(path: Path) -> tuple[list[list[tuple[float, str]]], str]:
    """Return a key that sorts digits by their value, and before letters; a folder's files before the next folder's."""
    runs = [re.findall(r"[0-9]+|[^0-9]+", part.lower()) for part in path.with_suffix("").parts]
    return [[(int(r), "") if r.isdecimal() else (math.inf, r) for r in part] for part in runs], path.as_posix()


def _images(folder: Path) -> list[Path]:
    images: list[Path] = []
    try:
        _collect(folder, images, frozenset())
    except OSError as error:
        raise ScoringError(f"{error.filename or folder}: {reason(error)}") from error
    if not images:
        raise ScoringError(f"{folder}: no images in this folder")
    return sorted(images, key=lambda path: _natural(path.relative_to(folder)))


def _collect(folder: Path, images: list[Path], above: frozenset[tuple[int, int]]) -> None:
    """Add the images of a folder and of those within it; `above` are the folders that it lies in."""
    status = folder.stat()
    if (here := (status.st_dev, status.st_ino)) in above:
        return  # a link to a folder above it has no end
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            _collect(path, images, above | {here})
        elif path.suffix.lower() in SUFFIXES:
            # what is no file either, as a link to nowhere, is an error when it is read, and not passed over
            images.append(path)


def _partners(reference: Path, distorted: Path, files: list[Path]) -> list[tuple[Path, Path]]:
    """Return the pairs of two folders, in the order of the distorted `files`."""
    references = _images(reference)
    by_name = {r.relative_to(reference): r for r in references}
    names = {d.relative_to(distorted): d for d in files}
    # what has a partner of its own name is nobody else's
    stems, stems_of_files = _by_stem(by_name, names), _by_stem(names, by_name)
    for stem, paths in stems_of_files.items():
        several = [*stems.get(stem, []), *paths]
        if len(several) > 2 and stem in stems:
            listed = ", ".join(map(str, several[:MOST_NAMED]))
            raise ScoringError(f"several images differ in their ending alone, which are a pair? {listed}")
    found: dict[Path, Path | None] = {}
    for name, d in names.items():
        same = by_name.get(name)
        found[d] = same if same is not None else next(iter(stems.get(name.with_suffix(""), [])), None)
    used = set(found.values())
    _all_paired([d for d in files if found[d] is None], distorted, reference)
    _all_paired([r for r in references if r not in used], reference, distorted)
    return [(r, d) for d, r in found.items() if r is not None]


def _by_stem(images: Mapping[Path, Path], others: Container[Path]) -> dict[Path, list[Path]]:
    """Return the images that are not among the others, by their paths without the ending."""
    found: dict[Path, list[Path]] = {}
    for name, path in images.items():
        if name not in others:
            found.setdefault(name.with_suffix(""), []).append(path)
    return found


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
