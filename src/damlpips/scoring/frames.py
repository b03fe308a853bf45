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
from itertools import groupby, islice, zip_longest
from pathlib import Path

from torch import Tensor
from typing_extensions import Unpack

from damlpips.files import digest, natural, reason
from damlpips.scoring import images, videos
from damlpips.scoring.images import ScoringError, read_still
from damlpips.scoring.orientation import remark
from damlpips.scoring.reader import Reader
from damlpips.scoring.reading import Reading, ReadingOptions, note
from damlpips.scoring.videos import Frame

Layers = Sequence[float]
# distorted and reference frames of one shape and type -> each frame's layers and score
Compare = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[tuple[Layers, float]]]


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

    Raises:
        ScoringError: the numbers of frames differ, or by the numbers in the names one folder lacks a frame.
    """
    if not (reference.is_dir() and distorted.is_dir()):
        return
    try:
        frames = frame_files(reference), frame_files(distorted)
    except OSError as error:
        raise ScoringError(f"{error.filename}: {reason(error)}") from error
    if len(frames[0]) != len(frames[1]):
        raise ScoringError(f"{distorted}: {len(frames[1])} frames, {reference} has {len(frames[0])}")
    offset: int | None = None
    for one, other in zip(*frames, strict=True):
        # the last number in each name
        numbers = [int(found[-1]) for path in (one, other) if (found := re.findall(r"[0-9]+", path.stem))]
        if len(numbers) < 2:
            continue
        offset = numbers[1] - numbers[0] if offset is None else offset
        if numbers[1] - numbers[0] != offset:
            raise ScoringError(f"{other}: stands beside {one}: a frame is missing before it, or before the other")


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
    """

    scores: "array[float]" = field(default_factory=_floats)
    layers: "array[float]" = field(default_factory=_floats)
    times: "array[float]" = field(default_factory=_floats)

    def __len__(self) -> int:
        return len(self.scores)

    def add(self, layers: Layers, score: float, time: float) -> None:
        """Add a frame."""
        self.scores.append(score)
        self.layers.extend(layers)
        self.times.append(time)

    def __iter__(self) -> Iterator[tuple[Layers, float, float]]:
        """Yield each frame's layers, score and time."""
        width = len(self.layers) // max(1, len(self))
        for k, (score, time) in enumerate(zip(self.scores, self.times, strict=True)):
            yield self.layers[k * width : (k + 1) * width].tolist(), score, time

    def mean(self) -> tuple[list[float], float]:
        """Return the means over all frames of what each layer adds and of the score; each sum is rounded once."""
        width = len(self.layers) // len(self)
        means = [math.fsum(self.layers[k::width]) / len(self) for k in range(width)]
        return means, math.fsum(self.scores) / len(self)


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
                for frame, (layers, score) in zip(a, rows, strict=True):
                    if not math.isfinite(score):
                        raise ScoringError(f"{distorted}: the score of frame {len(found)} is {score}")
                    found.add(layers, score, frame.time)
            if watch is not None:
                watch(len(found))
    if sizes is None:
        raise ScoringError(f"{distorted}: a video without frames")
    return found, sizes[0]


def _size(frame: Frame) -> tuple[int, int]:
    return frame.pixels.shape[1], frame.pixels.shape[2]


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
