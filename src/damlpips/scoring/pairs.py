"""Find pairs of images or videos: by name in two folders, or from an untrusted list."""

import csv
import io
import stat
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from damlpips.files import MOST_SHOWN, as_text, natural, open_regular, path_within, reason, shown, size
from damlpips.scoring import videos
from damlpips.scoring.frames import frame_files, is_video_file
from damlpips.scoring.images import SUFFIXES, ScoringError, suffixes

COLUMNS = ("reference", "distorted")
# a million rows of long names
LARGEST_MANIFEST = 1 << 26
# files that an error lists
MOST_NAMED = 6


# slots: there may be millions of them
@dataclass(frozen=True, slots=True)
class Pair:
    """Two images or videos to compare.

    Attributes:
        reference, distorted: files; a video may also be a folder of frames.
        name: what a table calls the pair.
        method: what made the distorted one; empty if there are no methods.
        video: whether they are videos.
    """

    reference: Path
    distorted: Path
    name: str
    method: str = ""
    video: bool = False


def find_pairs(reference: Path, distorted: Path, manifest: Path | None = None, *, frames: bool = False) -> list[Pair]:
    """Return the pairs that two paths stand for, sorted as a reader would: `a2` before `a10`.

    Two files are one pair. In two folders, images with the same path are paired, otherwise those whose paths differ
    only in their ending (`deep/a.png`, `deep/a.jpg`); videos likewise. A reference file is paired with every image, or
    every video, of a distorted folder. Folders are searched recursively; hidden files and folders are skipped, and so
    are files whose ending is neither that of an image nor of a video.

    With `frames`, a folder that holds images is one video, and the images are its frames: either path itself, or each
    such folder within it.

    With a manifest, the pairs are its rows, in order: a CSV file in UTF-8 with a header, whose columns `reference` and
    `distorted` hold paths within the two folders; other columns are ignored.

    Raises:
        ScoringError: a path does not exist; a folder has no images; an image has no partner, or several that differ
            only in their ending; an image is paired with a video, or a reference folder with a distorted file; with
            `frames`, images are not frames of a video, or a folder of frames holds other videos; a manifest is damaged
            or empty, or names a file that is missing or outside the folders (the message has the number of the line).
    """
    if manifest is not None:
        return _listed(reference, distorted, manifest, frames)
    folders = _is_folder(reference, "reference", frames), _is_folder(distorted, "distorted", frames)
    if folders[1]:
        files = _found(distorted, frames)
        if folders[0]:
            pairs = _partners(reference, distorted, files, frames)
        else:
            kind = _is_video(reference)
            if not (alike := [file for file in files if _is_video(file) == kind]):
                raise ScoringError(f"{distorted}: no {_kind(reference)}s in this folder")
            pairs = [(reference, f) for f in alike]
    elif folders[0]:
        raise ScoringError(
            f"reference {str(reference)!r} is a folder, distorted {str(distorted)!r} a file: expected two files, two"
            " folders, or a reference file and a folder"
        )
    else:
        pairs = [(reference, distorted)]
    within = distorted if folders[1] else distorted.parent
    return [_pair(r, d, d.relative_to(within).as_posix(), frames) for r, d in pairs]


def find_methods(
    reference: Path, methods: Mapping[str, Path], manifest: Path | None = None, *, frames: bool = False
) -> list[Pair]:
    """Return the pairs of several methods, each found as by `find_pairs`; those of one reference follow each other.

    Args:
        methods: each method's name and folder.
        frames: as for `find_pairs`.

    Raises:
        ScoringError: as `find_pairs` does, for the first folder with something wrong.
    """
    found = [
        [replace(pair, method=name) for pair in find_pairs(reference, folder, manifest, frames=frames)]
        for name, folder in methods.items()
    ]
    if manifest is None and not _is_folder(reference, "reference", frames):
        return [pair for pairs in found for pair in pairs]
    if manifest is None:
        # in the order of the first method; every method has one pair for each reference
        order = {pair.reference: k for k, pair in enumerate(found[0])}
        found = [sorted(pairs, key=lambda pair: order[pair.reference]) for pairs in found]
    return [pair for pairs in zip(*found, strict=True) for pair in pairs]


def _is_video(path: Path) -> bool:
    """Return whether a path to score is a video: a file with such a name, or a folder of frames."""
    # the name first, which needs no look at the disk: there may be very many files
    return is_video_file(path) or (path.suffix.lower() not in SUFFIXES and path.is_dir())


def _kind(path: Path) -> str:
    return "video" if _is_video(path) else "image"


def _pair(reference: Path, distorted: Path, name: str, frames: bool, where: str = "") -> Pair:
    """Return a pair, unless it is of an image and a video."""
    kinds = _kind(reference), _kind(distorted)
    if kinds[0] != kinds[1]:
        raise ScoringError(f"{where}{distorted}: is of kind {kinds[1]}, {reference} of kind {kinds[0]}")
    if frames and kinds[0] == "image":
        raise ScoringError(f"{where}{distorted}: is an image: with --frames expected folders of images, or video files")
    return Pair(reference, distorted, name, video=kinds[0] == "video")


def _is_folder(path: Path, what: str, frames: bool = False) -> bool:
    """Return whether a path is a folder of files to score; a folder of frames is itself a video to score."""
    try:
        return stat.S_ISDIR(path.stat().st_mode) and not (frames and frame_files(path))
    except FileNotFoundError as error:
        raise ScoringError(f"{what} {str(path)!r}: no such file or folder") from error
    except OSError as error:
        raise ScoringError(f"{what} {str(path)!r}: {reason(error)}") from error
    except ValueError as error:  # a NUL
        raise ScoringError(f"{what} {str(path)!r}: not a file name ({error})") from error


def _found(folder: Path, frames: bool) -> list[Path]:
    """Return the images and videos in a folder, sorted."""
    found: list[Path] = []
    try:
        _collect(folder, found, frozenset(), frames)
    except OSError as error:
        raise ScoringError(f"{error.filename or folder}: {reason(error)}") from error
    if not found:
        what = "folders of frames in this folder, and no videos" if frames else "images in this folder, and no videos"
        raise ScoringError(f"{folder}: no {what}")
    return sorted(found, key=lambda path: natural(path.relative_to(folder)))


def _collect(folder: Path, found: list[Path], above: frozenset[tuple[int, int]], frames: bool) -> None:
    """Add the files in a folder and the folders within it; `above` are the folders that it is in."""
    status = folder.stat()
    if (here := (status.st_dev, status.st_ino)) in above:
        return  # a link to a folder above would never end
    before, holds_frames, endings = len(found), False, suffixes()
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        suffix = path.suffix.lower()
        if path.is_dir():
            _collect(path, found, above | {here}, frames)
        elif suffix in endings and frames:
            holds_frames = True
        elif suffix in endings or suffix in videos.SUFFIXES:
            # a broken link is not skipped: it is an error when it is read
            found.append(path)
    if holds_frames and len(found) > before:
        raise ScoringError(
            f"{folder}: holds images as well as {found[before].relative_to(folder)}: which is the video?"
        )
    if holds_frames:
        found.append(folder)


def _partners(reference: Path, distorted: Path, files: list[Path], frames: bool) -> list[tuple[Path, Path]]:
    """Return the pairs of two folders, in the order of the distorted `files`."""
    references = _found(reference, frames)
    by_name = {r.relative_to(reference): r for r in references}
    names = {d.relative_to(distorted): d for d in files}
    # what has a partner of the same name is out of the question for others
    stems, stems_of_files = _by_stem(by_name, names), _by_stem(names, by_name)
    for stem, paths in stems_of_files.items():
        several = [*stems.get(stem, []), *paths]
        if len(several) > 2 and stem in stems:
            listed = ", ".join(map(str, several[:MOST_NAMED]))
            kind = _kind(paths[0])
            raise ScoringError(f"several {kind}s differ in their ending alone, which are a pair? {listed}")
    found: dict[Path, Path | None] = {}
    for name, d in names.items():
        same = by_name.get(name)
        found[d] = same if same is not None else next(iter(stems.get(_stem(name, d), [])), None)
    used = set(found.values())
    _all_paired([d for d in files if found[d] is None], distorted, reference)
    _all_paired([r for r in references if r not in used], reference, distorted)
    return [(r, d) for d, r in found.items() if r is not None]


def _stem(name: Path, path: Path) -> tuple[str, Path]:
    """Return what images, or videos, that differ only in their ending have in common; a folder has no ending."""
    kind = _kind(path)
    return kind, name if kind == "video" and not is_video_file(path) else name.with_suffix("")


def _by_stem(files: Mapping[Path, Path], others: Container[Path]) -> dict[tuple[str, Path], list[Path]]:
    """Return the files whose names the others lack, by their stems."""
    found: dict[tuple[str, Path], list[Path]] = {}
    for name, path in files.items():
        if name not in others:
            found.setdefault(_stem(name, path), []).append(path)
    return found


def _all_paired(alone: Sequence[Path], folder: Path, other: Path) -> None:
    if alone:
        kind = _kind(alone[0])
        more = f" ({len(alone)} {kind}s of {folder} have none)" if len(alone) > 1 else ""
        raise ScoringError(f"{alone[0]}: no {kind} of this name, or the only one of its stem, in {other}{more}")


def _listed(reference: Path, distorted: Path, manifest: Path, frames: bool) -> list[Pair]:
    """Return the pairs of a manifest."""
    for folder, what in ((reference, "reference"), (distorted, "distorted")):
        if not _is_folder(folder, what):
            raise ScoringError(f"{what} {str(folder)!r}: expected a folder, where a manifest's paths are looked up")
    roots = reference.resolve(), distorted.resolve()
    pairs = []
    for line, (first, second) in _rows(manifest):
        where = f"{manifest}, line {line}"
        one, other = (
            _within(folder, root, name, where, frames)
            for folder, root, name in ((reference, roots[0], first), (distorted, roots[1], second))
        )
        pairs.append(_pair(one, other, second, frames, f"{where}: "))
    if not pairs:
        raise ScoringError(f"{manifest}, line 1: no pairs below the header")
    return pairs


def _rows(manifest: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield the two paths in each row, with the number of the line that it begins on."""
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
    """Return the positions of the two columns."""
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


def _within(folder: Path, root: Path, name: str, where: str, frames: bool) -> Path:
    """Return the regular file `name` of a folder, if it is inside `root`, which is the folder with all links resolved.

    With `frames` it may be a folder, whose images have to be inside, too.
    """
    if name == "":
        raise ScoringError(f"{where}: an empty path")
    try:
        path = path_within(folder, name)
    except ValueError as error:
        raise ScoringError(f"{where}: {error}") from error
    try:
        parts = [path]
        if frames and path.is_dir():
            parts += frame_files(path)
        else:
            open_regular(path).close()
        inside = all(part.resolve().is_relative_to(root) for part in parts)
    except OSError as error:
        raise ScoringError(f"{where}: {shown(name, MOST_SHOWN)}: {reason(error)}") from error
    if not inside:
        raise ScoringError(f"{where}: {shown(name, MOST_SHOWN)} leads out of {folder} by a symbolic link")
    if frames and len(parts) == 1 and path.is_dir():
        raise ScoringError(f"{where}: {shown(name, MOST_SHOWN)}: a folder without images")
    return path
