"""Videos, as files or as folders of numbered images: their frames in order, and what each frame scores."""

import hashlib
import math
import re
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice, pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from typing_extensions import Unpack

from damlpips.files import composed, digest, natural, reason, shown
from damlpips.scoring import images, videos
from damlpips.scoring.images import ScoringError, read_still
from damlpips.scoring.orientation import remark
from damlpips.scoring.reader import Reader
from damlpips.scoring.reading import Reading, ReadingOptions, note
from damlpips.scoring.videos import Frame

Layers = Sequence[float]


class Compared(NamedTuple):
    """What two images scored: the layers and their sum; the other metrics' scores, and why any of these is missing."""

    layers: Layers
    value: float
    others: tuple[float | None, ...] = ()
    reasons: tuple[str, ...] = ()


# distorted and reference frames of one shape and type
Compare = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Compared]]


def frame_files(folder: Path) -> list[Path]:
    """Return the images directly in a folder, sorted as a reader would: `2` before `10`.

    Raises:
        OSError: the folder cannot be read.
    """
    found = (path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    endings = images.suffixes()
    return sorted((path for path in found if path.suffix.lower() in endings), key=natural)


def is_video_file(path: Path) -> bool:
    """Return whether a name is that of a video file."""
    return path.suffix.lower() in videos.SUFFIXES


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the list of its frames' SHA-256 for a folder of frames.

    Raises:
        OSError: something cannot be read.
    """
    if not path.is_dir():
        return digest(path)
    found = hashlib.sha256()
    for frame in frame_files(path):
        found.update(f"{digest(frame)}\n".encode())
    return found.hexdigest()


def digest_if_readable(path: Path) -> str:
    """Return `digest_of`, or nothing if a file cannot be read: reading its pixels will say why."""
    try:
        return digest_of(path)
    except OSError:
        return ""


def iter_frames(path: Path, *, workers: int = 0, **options: Unpack[ReadingOptions]) -> Generator[Frame, None, None]:
    """Yield the frames of a video file or of a folder of frames; only a few are in memory at a time.

    Args:
        path: the file, or the folder.
        workers: threads that decode a file, or read the images of a folder ahead.
        options: as for `read_image`.

    Raises:
        ScoringError: a frame cannot be read; names the file.
    """
    if not path.is_dir():
        yield from videos.read_frames(path, threads=max(1, workers), **options)
        return
    try:
        files = frame_files(path)
    except OSError as error:
        raise ScoringError(f"{path}: {reason(error)}") from error
    if not files:
        raise ScoringError(f"{path}: no images in this folder")
    with Reader(partial(read_still, deep=True, reading=Reading(**options)), workers) as reader:
        for still in reader.each(files):
            yield Frame(still.pixels, math.nan, still.orientation)


def check_frames(reference: Path, distorted: Path) -> None:
    """Check that the frames of two folders match; video files can only be checked while they are read.

    Frames of the same names match, whatever their endings and whatever all names of a folder begin or end with.
    Otherwise the names of a folder may differ only in digits, and those that count, from each frame to the next, have
    to go on by the same steps in both folders. Digits that do not vary, such as the 4 in `0001_x4.png`, do not count.

    Raises:
        ScoringError: the numbers of frames differ; by the numbers in the names one folder lacks a frame; or the names
            do not tell which frames belong together.
    """
    if not (reference.is_dir() and distorted.is_dir()):
        return
    try:
        one, other = FrameNames(reference), FrameNames(distorted)
    except OSError as error:
        raise ScoringError(f"{error.filename}: {reason(error)}") from error
    if len(one.files) != len(other.files):
        raise ScoringError(f"{distorted}: {len(other.files)} frames, {reference} has {len(one.files)}")
    if len(one.files) < 2 or one.same_as(other):
        return
    numbers, others = one.numbers(), other.numbers()
    if len(numbers) == len(others):
        jumps = [_first_jump(*pair) for pair in zip(numbers, others, strict=True)]
    else:
        jumps = [_first_jump(a, b) for a in numbers for b in others]
        if jumps.count(None) < min(len(numbers), len(others)):
            raise ScoringError(
                f"{distorted}: which digits number the frames? Here the names are {other.seen()}, in {reference}"
                f" {one.seen()}: rename them so that only one number varies"
            )
        return
    if found := [jump for jump in jumps if jump is not None]:
        place = min(found)
        raise ScoringError(
            f"{other.files[place]}: stands beside {one.files[place]}: a frame is missing before it, or before the other"
            f" (by the digits that vary from {other.seen()}, and from {one.seen()})"
        )


def _first_jump(numbers: Sequence[int], others: Sequence[int]) -> int | None:
    """Return the first place at which two sequences do not go on by the same step."""
    offset = others[0] - numbers[0]
    return next((k for k, (a, b) in enumerate(zip(numbers, others, strict=True)) if b - a != offset), None)


class FrameNames:
    """The names of the images in a folder of frames, and the numbers in them.

    Raises:
        OSError: the folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.files = frame_files(folder)
        # macOS takes letters apart
        self._stems = [composed(file.stem) for file in self.files]

    def same_as(self, other: "FrameNames") -> bool:
        """Return whether the frames of two folders have the same names, but for what all of a folder have in common."""
        if len(set(self._stems)) < len(self._stems):
            return False
        if self._stems == other._stems:
            return True
        # of numbers a common digit would be a part
        return not (self._only_digits_vary() and other._only_digits_vary()) and self._cores() == other._cores()

    def _cores(self) -> list[str]:
        """Return the names without the text that all begin with, and that all end with."""
        beginning = _in_common(self._stems)
        rests = [stem[beginning:] for stem in self._stems]
        ending = _in_common([rest[::-1] for rest in rests])
        return [rest[: len(rest) - ending] for rest in rests]

    def _only_digits_vary(self) -> bool:
        return len({tuple(_parts(stem)[::2]) for stem in self._stems}) == 1

    def numbers(self) -> list[tuple[int, ...]]:
        """Return the numbers in the names that count, each as its values for all frames; if none does, those that vary.

        Raises:
            ScoringError: the names differ in more than digits, or two of them have the same numbers.
        """
        first = _parts(self._stems[0])
        seen: dict[tuple[int, ...], Path] = {}
        for file, stem in zip(self.files, self._stems, strict=True):
            parts = _parts(stem)
            if parts[::2] != first[::2]:
                raise ScoringError(
                    f"{file}: its name and that of {self.files[0]} differ in more than digits: which frame of the other"
                    " video belongs to it? Give both the same names, or names that differ only in a number"
                )
            value = tuple(map(int, parts[1::2]))
            if value in seen:
                raise ScoringError(f"{file}: has the same number as {seen[value]}: which of them is the frame?")
            seen[value] = file
        varying = [values for values in zip(*seen, strict=True) if len(set(values)) > 1]
        return [values for values in varying if all(a < b for a, b in pairwise(values))] or varying

    def seen(self) -> str:
        """Return the first and the last name."""
        return f"{shown(self.files[0].name)} to {shown(self.files[-1].name)}"


def _in_common(texts: Sequence[str]) -> int:
    """Return how many characters all texts begin with."""
    return next(
        (k for k, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), min(map(len, texts))
    )


def _parts(stem: str) -> list[str]:
    """Return the texts and the digits that a name consists of, in turn.

    Example:
        >>> _parts("0001_x4")
        ['', '0001', '_x', '4', '']
    """
    return re.split(r"([0-9]+)", stem)


def _batches(frames: Iterator[Frame], size: int, *, ahead: bool) -> Generator[list[Frame], None, None]:
    """Yield `size` frames at a time; with `ahead`, a thread reads the next ones meanwhile."""
    parts = iter(lambda: list(islice(frames, size)), [])
    if not ahead:
        yield from parts
        return
    with ThreadPoolExecutor(1) as pool:
        later: Future[list[Frame]] = pool.submit(next, parts, [])
        while part := later.result():
            later = pool.submit(next, parts, [])
            yield part


def _floats() -> "array[float]":
    return array("d")


@dataclass(frozen=True)
class FrameScores:
    """What the frames of a video scored: only numbers, 8 bytes each, since videos may be long.

    Attributes:
        scores: of each frame.
        layers: what each layer adds to them, one frame after the other.
        times: when each frame of the distorted video is shown, in seconds; NaN if unknown.
        others: the scores of other metrics, one frame after the other; NaN where there is none.
        reasons: why a metric has none: that of the first such frame.
    """

    scores: "array[float]" = field(default_factory=_floats)
    layers: "array[float]" = field(default_factory=_floats)
    times: "array[float]" = field(default_factory=_floats)
    others: "array[float]" = field(default_factory=_floats)
    reasons: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.scores)

    def add(self, found: Compared, time: float) -> None:
        """Add a frame."""
        if found.reasons and not self.reasons:
            self.reasons.extend(f"frame {len(self)}: {reason}" for reason in found.reasons)
        self.scores.append(found.value)
        self.layers.extend(found.layers)
        self.others.extend(math.nan if value is None else value for value in found.others)
        self.times.append(time)

    def __iter__(self) -> Iterator[tuple[Compared, float]]:
        """Yield what each frame scored, and its time."""
        width, more = self._widths()
        for k, (score, time) in enumerate(zip(self.scores, self.times, strict=True)):
            others = tuple(None if math.isnan(v) else v for v in self.others[k * more : (k + 1) * more])
            yield Compared(self.layers[k * width : (k + 1) * width].tolist(), score, others), time

    def _widths(self) -> tuple[int, int]:
        return len(self.layers) // max(1, len(self)), len(self.others) // max(1, len(self))

    def mean(self) -> tuple[list[float], float]:
        """Return the means over all frames of what each layer adds and of the score; each sum is rounded once."""
        width, _ = self._widths()
        means = [math.fsum(self.layers[k::width]) / len(self) for k in range(width)]
        return means, math.fsum(self.scores) / len(self)

    def means_of_others(self) -> tuple[float | None, ...]:
        """Return the mean over all frames of each other metric; None where a frame has none."""
        _, more = self._widths()
        sums = (math.fsum(self.others[k::more]) for k in range(more))
        return tuple(None if math.isnan(total) else total / len(self) for total in sums)


def score_frames(
    compare: Compare,
    reference: Path,
    distorted: Path,
    *,
    batch_size: int,
    workers: int = 0,
    resizes: bool = False,
    watch: Callable[[int], None] | None = None,
    **options: Unpack[ReadingOptions],
) -> tuple[FrameScores, tuple[int, int]]:
    """Return what each frame of a distorted video scores, and the frames' height and width.

    Two batches of frames are in memory, four if `workers` read ahead.

    Args:
        compare: scores a batch of frames.
        reference, distorted: video files, or folders of frames.
        batch_size: the most frames in a batch.
        workers, options: see `iter_frames`.
        resizes: whether `compare` takes frames of two sizes.
        watch: told how many frames are scored, after each batch.

    Raises:
        ScoringError: a video cannot be read, its frames change their size, the two differ in their number of frames
            or, without `resizes`, in their size, or a frame cannot be scored.
    """
    check_frames(reference, distorted)
    found = FrameScores()
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    with (
        closing(iter_frames(distorted, workers=workers, **options)) as first,
        closing(iter_frames(reference, workers=workers, **options)) as second,
        closing(_batches(first, batch_size, ahead=workers > 0)) as parts,
        closing(_batches(second, batch_size, ahead=workers > 0)) as others,
    ):
        for part, other in zip_longest(parts, others, fillvalue=list[Frame]()):
            if len(part) != len(other):
                count = len(found) + min(len(part), len(other))
                short, long = (distorted, reference) if len(part) < len(other) else (reference, distorted)
                raise ScoringError(f"{distorted}: {short} ends after {count} frames, {long} goes on")
            if sizes is None:
                sizes = _size(part[0]), _size(other[0])
                rotated = remark([(distorted, part[0].orientation), (reference, other[0].orientation)])
                if sizes[0] != sizes[1] and not resizes:
                    raise ScoringError(
                        f"{distorted}: frames of {_shown(sizes[0])} pixels, {reference} has {_shown(sizes[1])}: "
                        + (rotated or "use resize='reference' to bring the distorted ones to the reference's size")
                    )
                if rotated:
                    note(rotated)
            for path, frames, size in ((distorted, part, sizes[0]), (reference, other, sizes[1])):
                for k, frame in enumerate(frames, len(found)):
                    if _size(frame) != size:
                        raise ScoringError(
                            f"{path}: frame {k} has {_shown(_size(frame))} pixels, those before it {_shown(size)}"
                        )
            # runs of one type on each side: 8 bits, or more
            for _, pairs in groupby(zip(part, other, strict=True), lambda pair: [frame.pixels.dtype for frame in pair]):
                a, b = zip(*pairs, strict=True)
                rows = compare([frame.pixels for frame in a], [frame.pixels for frame in b])
                for frame, row in zip(a, rows, strict=True):
                    if not math.isfinite(row.value):
                        raise ScoringError(f"{distorted}: the score of frame {len(found)} is {row.value}")
                    found.add(row, frame.time)
            if watch is not None:
                watch(len(found))
    if sizes is None:
        raise ScoringError(f"{distorted}: a video without frames")
    return found, sizes[0]


def _size(frame: Frame) -> tuple[int, int]:
    return frame.pixels.shape[1], frame.pixels.shape[2]


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
