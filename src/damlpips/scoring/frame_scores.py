"""Two videos in, a score a frame out, a batch of frames at a time; the score of a video is the mean over its frames."""

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from torch import Tensor

from damlpips.scoring.frames import batches, check_frames, read_clip
from damlpips.scoring.images import ScoringError
from damlpips.scoring.videos import Frame

Layers = Sequence[float]
# distorted and reference frames of one shape and type -> each frame's layers and score
Compare = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[tuple[Layers, float]]]


def _floats() -> "array[float]":
    return array("d")


@dataclass(frozen=True)
class FrameScores:
    """What the frames of a video scored: numbers only, 8 bytes each, since videos may be long.

    Attributes:
        scores: of each frame.
        layers: what each layer adds to them, frame after frame.
        times: of each frame of the distorted video, in seconds; NaN where it is not known.
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
        """Yield of each frame its layers, its score and its time."""
        width = len(self.layers) // max(1, len(self))
        for k, (score, time) in enumerate(zip(self.scores, self.times, strict=True)):
            yield self.layers[k * width : (k + 1) * width].tolist(), score, time

    def mean(self) -> tuple[list[float], float]:
        """Return the mean over frames of what each layer adds, and of the score; sums are rounded once."""
        width = len(self.layers) // len(self)
        means = [math.fsum(self.layers[k::width]) / len(self) for k in range(width)]
        return means, math.fsum(self.scores) / len(self)


def score_frames(
    compare: Compare,
    reference: Path,
    distorted: Path,
    *,
    batch_size: int,
    alpha: str = "error",
    workers: int = 0,
    resizes: bool = False,
    watch: Callable[[int], None] | None = None,
) -> tuple[FrameScores, tuple[int, int]]:
    """Return what each frame of a distorted video scores, and the frames' height and width.

    At most four batches of frames are in memory: two, or four where `workers` read the next ones.

    Args:
        compare: what scores a batch of frames.
        reference, distorted: video files, or folders of frames.
        batch_size: the most frames a batch.
        alpha, workers: see `read_clip`.
        resizes: whether `compare` takes frames of two sizes.
        watch: told how many frames are scored, after each batch.

    Raises:
        ScoringError: a video that cannot be read, whose frames change their size, or that has not as many frames as
            the other or, without `resizes`, others in size; a frame that cannot be scored.
    """
    check_frames(reference, distorted)
    found = FrameScores()
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    with (
        closing(read_clip(distorted, alpha=alpha, workers=workers)) as first,
        closing(read_clip(reference, alpha=alpha, workers=workers)) as second,
        closing(batches(first, batch_size, ahead=workers > 0)) as parts,
        closing(batches(second, batch_size, ahead=workers > 0)) as others,
    ):
        for part, other in zip_longest(parts, others, fillvalue=list[Frame]()):
            if len(part) != len(other):
                count = len(found) + min(len(part), len(other))
                short, long = (distorted, reference) if len(part) < len(other) else (reference, distorted)
                raise ScoringError(f"{distorted}: {short} ends after {count} frames, {long} goes on")
            if sizes is None:
                sizes = _size(part[0]), _size(other[0])
                if sizes[0] != sizes[1] and not resizes:
                    raise ScoringError(
                        f"{distorted}: frames of {_shown(sizes[0])} pixels, {reference} has {_shown(sizes[1])}:"
                        " use resize='reference' to bring the distorted ones to the reference's size"
                    )
            for path, frames, size in ((distorted, part, sizes[0]), (reference, other, sizes[1])):
                _check_sizes(path, frames, size, len(found))
            for a, b in _alike(part, other):
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


def _check_sizes(path: Path, frames: Sequence[Frame], size: tuple[int, int], before: int) -> None:
    for k, frame in enumerate(frames, before):
        if _size(frame) != size:
            raise ScoringError(f"{path}: frame {k} has {_shown(_size(frame))} pixels, those before it {_shown(size)}")


def _alike(part: Sequence[Frame], other: Sequence[Frame]) -> Iterator[tuple[list[Frame], list[Frame]]]:
    """Yield frames that follow each other and are of one type on each side: 8 bits, or more."""
    begun: tuple[list[Frame], list[Frame]] = [], []
    for a, b in zip(part, other, strict=True):
        if begun[0] and (a.pixels.dtype, b.pixels.dtype) != (begun[0][0].pixels.dtype, begun[1][0].pixels.dtype):
            yield begun
            begun = [], []
        begun[0].append(a)
        begun[1].append(b)
    if begun[0]:
        yield begun
