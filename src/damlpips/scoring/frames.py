"""Videos on disk, as files or as folders of numbered images: which they are, their frames in order, their SHA-256."""

import hashlib
import math
import re
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from torch import Tensor

from damlpips.files import digest, natural, reason
from damlpips.scoring import images, videos
from damlpips.scoring.images import ScoringError, read_image
from damlpips.scoring.videos import Frame


def frame_files(folder: Path) -> list[Path]:
    """Return the images of a folder, not those of folders within it, as a reader would sort them: `2` before `10`.

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
    """Return `digest_of`; empty where something cannot be read, and reading it says what is wrong."""
    try:
        return digest_of(path)
    except OSError:
        return ""


def read_clip(path: Path, *, alpha: str = "error", workers: int = 0) -> Generator[Frame, None, None]:
    """Yield the frames of a video file or of a folder of frames; few of them are in memory at a time.

    Args:
        path: the file, or the folder.
        alpha: what becomes of transparent pixels, as for `read_image`.
        workers: threads that decode a file, or read the images of a folder ahead.

    Raises:
        ScoringError: a frame cannot be read; names the file.
    """
    if not path.is_dir():
        yield from videos.read_frames(path, alpha=alpha, threads=max(1, workers))
        return
    try:
        files = frame_files(path)
    except OSError as error:
        raise ScoringError(f"{path}: {reason(error)}") from error
    if not files:
        raise ScoringError(f"{path}: no images in this folder")
    for pixels in _read_ahead(files, alpha, workers):
        yield Frame(pixels, math.nan)


def _read_ahead(files: Sequence[Path], alpha: str, workers: int) -> Iterator[Tensor]:
    if not workers:
        yield from (read_image(file, alpha=alpha, deep=True) for file in files)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[Tensor]] = deque()
        for file in files:
            waiting.append(pool.submit(read_image, file, alpha=alpha, deep=True))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def check_frames(reference: Path, distorted: Path) -> None:
    """Raise unless the frames of two folders belong to each other; nothing can be told of files before they are read.

    Raises:
        ScoringError: unequal numbers of frames, or a frame that is missing from one alone by its number.
    """
    if not (reference.is_dir() and distorted.is_dir()):
        return
    try:
        frames = frame_files(reference), frame_files(distorted)
    except OSError as error:
        raise ScoringError(f"{error.filename}: {reason(error)}") from error
    if len(frames[0]) != len(frames[1]):
        raise ScoringError(f"{distorted}: {len(frames[1])} frames, {reference} has {len(frames[0])}")
    numbers = [[_number(path) for path in files] for files in frames]
    for k, (one, other) in enumerate(zip(*numbers, strict=True)):
        first, second = numbers[0][0], numbers[1][0]
        if one is None or other is None or first is None or second is None:
            continue
        if one - first != other - second:
            raise ScoringError(
                f"{frames[1][k]}: stands beside {frames[0][k]}: a frame is missing before it, or before the other"
            )


def _number(frame: Path) -> int | None:
    """Return the last number in a frame's name."""
    found = re.findall(r"[0-9]+", frame.stem)
    return int(found[-1]) if found else None


def batches(frames: Iterator[Frame], size: int, *, ahead: bool) -> Generator[list[Frame], None, None]:
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
