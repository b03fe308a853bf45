"""Find pairs of images or videos: by name in two folders, or from an untrusted list."""

import csv
import io
import os
import stat
import warnings
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from mimetypes import MimeTypes
from pathlib import Path

from damlpips.files import (
    MOST_SHOWN,
    as_text,
    composed,
    natural,
    open_regular,
    path_within,
    reason,
    shown,
    size,
    unspelled,
)
from damlpips.scoring import videos
from damlpips.scoring.frames import frame_files, is_video_file
from damlpips.scoring.images import SUFFIXES, ScoringError, suffixes

COLUMNS = ("reference", "distorted")
# a million rows of long names
LARGEST_MANIFEST = 1 << 26
# files that an error lists, and kinds of files
MOST_NAMED = 6
# endings of images and videos that Python's table of them lacks
PICTURES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpf", ".jxr", ".exr", ".hdr", ".pfm", ".psd", ".psb"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".dcm", ".dds", ".qoi", ".ktx"),
    *(
        ".mxf",
        ".vob",
        ".wmv",
        ".rm",
        ".h264",
        ".h265",
        ".hevc",
        ".264",
        ".265",
        ".ivf",
        ".obu",
        ".yuv",
        ".insv",
        ".r3d",
    ),
)


# slots: there may be millions of them
@dataclass(frozen=True, slots=True)
class Pair:
    """Two images or videos to compare.

    Attributes:
        reference, distorted: files; a video may also be a folder of frames.
        name: what a table calls the pair.
        method: what made the distorted one; empty if there are no methods.
        video: whether they are videos.
        mask: the image file that says which pixels count; None: all.
    """

    reference: Path
    distorted: Path
    name: str
    method: str = ""
    video: bool = False
    mask: Path | None = None


class PassedOverWarning(UserWarning):
    """A folder holds images or videos of kinds that are not read."""


@dataclass
class PassedOver:
    """The files of searched folders that are neither images nor videos of a kind that is read, but for hidden ones.

    Attributes:
        folders: how many there are of each ending, in each folder that was searched.
    """

    folders: dict[Path, Counter[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.folders.values())

    @property
    def kinds(self) -> dict[str, int]:
        """How many there are of each ending: images and videos first, then the most frequent."""
        counts = sum(self.folders.values(), Counter[str]())
        ordered = sorted(counts.items(), key=lambda item: (not _is_picture(item[0]), -item[1], item[0]))
        return dict(ordered)

    @property
    def pictures(self) -> bool:
        """Whether there are images or videos among them, by their endings."""
        return any(map(_is_picture, self.kinds))

    def __str__(self) -> str:
        """Return, for example, `12 files passed over: 10 .heic, 2 .txt`."""
        kinds, count = list(self.kinds.items()), sum(self.kinds.values())
        listed = [f"{number} {ending or 'without an ending'}" for ending, number in kinds[:MOST_NAMED]]
        rest = sum(number for _, number in kinds[MOST_NAMED:])
        listed += [f"{rest} of other kinds"] if rest else []
        return f"{count} file{'s' if count > 1 else ''} passed over: {', '.join(listed)}"


def _is_picture(ending: str) -> bool:
    """Return whether an ending is that of an image or a video, whether or not it can be read here."""
    kind, _ = _types().guess_type(f"x{ending}", strict=False)
    return ending in PICTURES or (kind or "").startswith(("image/", "video/"))


@cache
def _types() -> MimeTypes:
    """Return Python's own table of endings, without what the system adds."""
    return MimeTypes()


def find_pairs(
    reference: Path,
    distorted: Path,
    manifest: Path | None = None,
    *,
    frames: bool = False,
    passed_over: PassedOver | None = None,
) -> list[Pair]:
    """Return the pairs that two paths stand for, sorted as a reader would: `a2` before `a10`.

    Two files are one pair. In two folders, images with the same path are paired, otherwise those whose paths look the
    same, their letters composed (NFC) in one and taken apart (NFD) in the other, otherwise those whose paths differ
    only in their ending (`deep/a.png`, `deep/a.jpg`); videos likewise. A reference file is paired with every image, or
    every video, of a distorted folder. Folders are searched recursively; hidden files and folders are skipped, and so
    are files whose ending is neither that of an image nor of a video: these are counted.

    With `frames`, a folder that holds images is one video, and the images are its frames: either path itself, or each
    such folder within it.

    With a manifest, the pairs are its rows, in order: a CSV file in UTF-8 with a header, whose columns `reference` and
    `distorted` hold paths within the two folders, spelled as in rows of scores (`files.spelled`); other columns are
    ignored.

    Args:
        reference, distorted: files or folders.
        manifest: the list of pairs, if there is one.
        frames: whether folders that hold images are videos.
        passed_over: takes what was passed over. Without it there is a `PassedOverWarning`, if images or videos were.

    Raises:
        ScoringError: a path does not exist; a folder has no images; an image has no partner, or several that differ
            only in their ending, or only in how their letters are composed; an image is paired with a video, or a
            reference folder with a distorted file; with `frames`, images are not frames of a video, or a folder of
            frames holds other videos; a manifest is damaged or empty, or names a file that is missing or outside the
            folders (the message has the number of the line).
    """
    if manifest is not None:
        return _listed(reference, distorted, manifest, frames)
    if passed_over is None:
        passed_over = PassedOver()
        pairs = find_pairs(reference, distorted, frames=frames, passed_over=passed_over)
        if passed_over.pictures:
            warnings.warn(str(passed_over), PassedOverWarning, stacklevel=2)
        return pairs
    folders = _is_folder(reference, "reference", frames), _is_folder(distorted, "distorted", frames)
    for folder, searched in zip((reference, distorted), folders, strict=True):
        if not searched and folder.is_dir():  # of frames
            passed_over.folders[folder.resolve()] = Counter(_kinds_of_others(folder))
    if folders[1]:
        files = _found(distorted, frames, passed_over)
        if folders[0]:
            found = _partners(reference, distorted, files, frames, passed_over)
        else:
            kind = _is_video(reference)
            if not (alike := [file for file in files if _is_video(file) == kind]):
                raise ScoringError(f"{distorted}: no {_kind(reference)}s in this folder")
            others = (file.suffix.lower() for file in files if _is_video(file) != kind and not file.is_dir())
            passed_over.folders[distorted.resolve()].update(others)
            found = [(reference, f) for f in alike]
    elif folders[0]:
        raise ScoringError(
            f"reference {shown(str(reference))} is a folder, distorted {shown(str(distorted))} a file: expected two"
            " files, two folders, or a reference file and a folder"
        )
    else:
        found = [(reference, distorted)]
    within = distorted if folders[1] else distorted.parent
    return [_pair(r, d, d.relative_to(within).as_posix(), frames) for r, d in found]


def find_methods(
    reference: Path,
    methods: Mapping[str, Path],
    manifest: Path | None = None,
    *,
    frames: bool = False,
    passed_over: PassedOver | None = None,
) -> list[Pair]:
    """Return the pairs of several methods, each found as by `find_pairs`; those of one reference follow each other.

    Args:
        methods: each method's name and folder.
        manifest, frames, passed_over: as for `find_pairs`.

    Raises:
        ScoringError: as `find_pairs` does, for the first folder with something wrong.
    """
    found = [
        [
            replace(pair, method=name)
            for pair in find_pairs(reference, folder, manifest, frames=frames, passed_over=passed_over)
        ]
        for name, folder in methods.items()
    ]
    if manifest is None and not _is_folder(reference, "reference", frames):
        return [pair for pairs in found for pair in pairs]
    if manifest is None:
        # in the order of the first method; every method has one pair for each reference
        order = {pair.reference: k for k, pair in enumerate(found[0])}
        found = [sorted(pairs, key=lambda pair: order[pair.reference]) for pairs in found]
    return [pair for pairs in zip(*found, strict=True) for pair in pairs]


def with_masks(pairs: Sequence[Pair], masks: Path) -> list[Pair]:
    """Return pairs of images with their masks.

    A file is the mask of all. In a folder, that of a pair has its name, or is the only one that differs from it in its
    ending alone; of a pair that has none there, it is the path at which it was expected, which is an error when it is
    read.

    Raises:
        ScoringError: there is no such path; a folder has no images; several masks differ in their ending alone; a pair
            is of videos.
    """
    if (video := next((pair for pair in pairs if pair.video), None)) is not None:
        raise ScoringError(f"{video.distorted}: is a video, and masks are of images")
    if not _is_folder(masks, "masks"):
        return [replace(pair, mask=masks) for pair in pairs]
    found = [file for file in _found(masks, False, PassedOver()) if not _is_video(file)]
    by_name = {composed(str(file.relative_to(masks))): file for file in found}
    by_stem: dict[str, list[Path]] = {}
    for name, file in by_name.items():
        by_stem.setdefault(str(Path(name).with_suffix("")), []).append(file)

    def mask_of(pair: Pair) -> Path:
        name = Path(composed(pair.name))
        if (same := by_name.get(str(name))) is not None:
            return same
        alike = by_stem.get(str(name.with_suffix("")), [])
        if len(alike) > 1:
            listed = ", ".join(map(str, alike[:MOST_NAMED]))
            raise ScoringError(f"several masks differ in their ending alone, which is that of {pair.name}? {listed}")
        return alike[0] if alike else masks / pair.name

    return [replace(pair, mask=mask_of(pair)) for pair in pairs]


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
        raise ScoringError(f"{what} {shown(str(path))}: no such file or folder") from error
    except OSError as error:
        raise ScoringError(f"{what} {shown(str(path))}: {reason(error)}") from error
    except ValueError as error:  # a NUL
        raise ScoringError(f"{what} {shown(str(path))}: not a file name ({error})") from error


def _found(folder: Path, frames: bool, passed_over: PassedOver) -> list[Path]:
    """Return the images and videos in a folder, sorted; count the other files."""
    found: list[Path] = []
    others = Counter[str]()
    try:
        _collect(folder, found, others, frozenset(), frames)
    except OSError as error:
        raise ScoringError(f"{error.filename or folder}: {reason(error)}") from error
    here = PassedOver({folder.resolve(): others})
    passed_over.folders.update(here.folders)
    if not found:
        what = "folders of frames in this folder, and no videos" if frames else "images in this folder, and no videos"
        raise ScoringError(f"{folder}: no {what}{f' ({here})' if here else ''}")
    return sorted(found, key=lambda path: natural(path.relative_to(folder)))


def _collect(
    folder: Path, found: list[Path], others: Counter[str], above: frozenset[tuple[int, int]], frames: bool
) -> None:
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
            _collect(path, found, others, above | {here}, frames)
        elif suffix in endings and frames:
            holds_frames = True
        elif suffix in endings or suffix in videos.SUFFIXES:
            # a broken link is not skipped: it is an error when it is read
            found.append(path)
        else:
            others[suffix] += 1
    if holds_frames and len(found) > before:
        raise ScoringError(
            f"{folder}: holds images as well as {found[before].relative_to(folder)}: which is the video?"
        )
    if holds_frames:
        found.append(folder)


def _kinds_of_others(folder: Path) -> Iterator[str]:
    """Yield the endings of the files directly in a folder that are no images."""
    endings = suffixes()
    for path in folder.iterdir():
        if not path.name.startswith(".") and path.suffix.lower() not in endings and not path.is_dir():
            yield path.suffix.lower()


def _partners(
    reference: Path, distorted: Path, files: list[Path], frames: bool, passed_over: PassedOver
) -> list[tuple[Path, Path]]:
    """Return the pairs of two folders, in the order of the distorted `files`."""
    references = _found(reference, frames, passed_over)
    sides = _by_name(reference, references), _by_name(distorted, files)
    by_name, names = (_by_composed_name(*pair) for pair in (sides, sides[::-1]))
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


def _by_name(folder: Path, files: Sequence[Path]) -> dict[Path, Path]:
    return {file.relative_to(folder): file for file in files}


def _by_composed_name(files: Mapping[Path, Path], others: Container[Path]) -> dict[Path, Path]:
    """Return files by their names; what the others lack, by its name with composed letters.

    Raises:
        ScoringError: two names would be the same.
    """
    found: dict[Path, Path] = {}
    looks: dict[str, Path] = {}
    for name, path in files.items():
        look = composed(str(name))
        if (other := looks.setdefault(look, name)) != name and not (name in others and other in others):
            raise ScoringError(f"{path}: {differ_in_letters(files[other])}")
        found[name if name in others else Path(look)] = path
    return found


def differ_in_letters(path: Path) -> str:
    return (
        f"its name and that of {path} look the same, and differ only in how letters are composed (Unicode NFC and"
        " NFD): which is the partner? Rename or remove one"
    )


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
            raise ScoringError(
                f"{what} {shown(str(folder))}: expected a folder, where a manifest's paths are looked up"
            )
    folders = ListedFolder(reference), ListedFolder(distorted)
    pairs = []
    for line, row in _rows(manifest):
        where = f"{manifest}, line {line}"
        first, second = map(unspelled, row)
        one, other = (folder.file(name, where, frames) for folder, name in zip(folders, (first, second), strict=True))
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


class ListedFolder:
    """A folder in which the names of a manifest are looked up; nothing outside it is found, not even by a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = folder.resolve()
        # what is in a folder, by its name with composed letters
        self._names: dict[Path, dict[str, list[Path]]] = {}

    def file(self, name: str, where: str, frames: bool) -> Path:
        """Return the regular file `name`; with `frames` it may be a folder, whose images have to be inside, too.

        Raises:
            ScoringError: there is no such file, or it is outside; begins with `where`.
        """
        if name == "":
            raise ScoringError(f"{where}: an empty path")
        if "\0" in name:
            raise ScoringError(f"{where}: {shown(name)}: not a file name (it has a NUL)")
        try:
            path_within(self.folder, name)
        except ValueError as error:
            raise ScoringError(f"{where}: {error}") from error
        try:
            path = self._found(name, where)
            parts = [path]
            if frames and path.is_dir():
                parts += frame_files(path)
            else:
                open_regular(path).close()
            inside = all(part.resolve().is_relative_to(self._root) for part in parts)
        except OSError as error:
            raise ScoringError(f"{where}: {shown(name)}: {reason(error)}") from error
        if not inside:
            raise ScoringError(f"{where}: {shown(name)} leads out of {self.folder} by a symbolic link")
        if frames and len(parts) == 1 and path.is_dir():
            raise ScoringError(f"{where}: {shown(name)}: a folder without images")
        return path

    def _found(self, name: str, where: str) -> Path:
        """Return the path of `name`; of what is not there, the one whose letters are composed in another way."""
        path = self.folder / name
        if name.isascii() or os.path.lexists(path):
            return path
        path = self.folder
        for part in Path(name).parts:
            if not os.path.lexists(path / part) and len(alike := self._alike(path, part)) > 0:
                if len(alike) > 1:
                    raise ScoringError(f"{where}: {alike[0]}: {differ_in_letters(alike[1])}")
                part = alike[0].name
            path /= part
        return path

    def _alike(self, folder: Path, name: str) -> list[Path]:
        if folder not in self._names:
            names: dict[str, list[Path]] = {}
            # not what a link leads to outside
            if folder.is_dir() and folder.resolve().is_relative_to(self._root):
                for path in folder.iterdir():
                    names.setdefault(composed(path.name), []).append(path)
            self._names[folder] = names
        return self._names[folder].get(composed(name), [])
