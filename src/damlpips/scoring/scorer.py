"""Pairs of images and videos in, scores out: files are read, and scored in batches, in order."""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from damlpips.models.base import PerceptualDistance
from damlpips.scoring.frames import Compared, FrameScores, digest_if_readable, score_frames
from damlpips.scoring.images import ScoringError, Still, read_mask, read_still
from damlpips.scoring.orientation import explained, remark
from damlpips.scoring.pairs import Pair
from damlpips.scoring.reader import Later, Reader
from damlpips.scoring.reading import Reading, ReadingOptions, note
from damlpips.scoring.several import Batch, OtherMetric, Passes


@dataclass(frozen=True)
class Score:
    """What a pair scored, and which files it was made from; lower is closer.

    Attributes:
        pair: the two files.
        score: None if there is an error; for videos the mean over their frames.
        layers: what each layer adds to the score, from fine to coarse.
        size: height and width of the distorted image in pixels; None if it could not be read.
        sha256: of the distorted file, or for a folder of frames of the list of theirs; empty if it could not be read.
        reference_sha256: of the reference file.
        error: why the pair has no score, or, of several metrics, which of them has none and why.
        frames: for videos with a score, the scores of their frames.
        others: the scores of the other metrics of the run, each in its own direction; None where there is none.
    """

    pair: Pair
    score: float | None
    layers: tuple[float, ...] = ()
    size: tuple[int, int] | None = None
    sha256: str = ""
    reference_sha256: str = ""
    error: str | None = None
    frames: FrameScores | None = None
    others: tuple[float | None, ...] = ()


class _OutOfMemory(ScoringError):
    """Memory ran out: not the fault of an image, and not the error of a row."""


class Picture(NamedTuple):
    """The pixels (3, H, W) of a file, or what is wrong with it; the Exif orientation by which they were rotated."""

    pixels: Tensor | None
    sha256: str
    error: str
    orientation: int = 1

    @classmethod
    def of(cls, read: Callable[[], Still], sha256: str) -> "Picture":
        """Return what reading a file gives, or the error that it raises."""
        try:
            still = read()
        except ScoringError as error:
            return cls(None, sha256, str(error))
        return cls(still.pixels, sha256, "", still.orientation)


class Item(NamedTuple):
    """A pair whose files were read; `shared` if a neighbour has the same reference."""

    pair: Pair
    shared: bool
    distorted: Picture
    reference: Picture
    mask: Picture | None = None

    @property
    def error(self) -> str:
        """Why one of its files cannot be read."""
        return self.reference.error or self.distorted.error or (self.mask.error if self.mask else "")

    @property
    def rotated(self) -> str:
        """A remark on the pair if only one of its images was rotated."""
        return remark(
            [
                (self.pair.distorted, self.distorted.orientation),
                (self.pair.reference, self.reference.orientation),
            ]
        )

    @property
    def kind(self) -> Hashable:
        """What the pairs of a batch have in common."""
        images = self.distorted.pixels, self.reference.pixels, self.mask and self.mask.pixels
        shapes = [None if p is None else (p.shape, p.dtype) for p in images]
        return self.pair.reference if self.shared else None, *shapes

    def scored(self, found: Compared) -> Score:
        """Return what the pair scored."""
        error = f"{self.pair.distorted}: {'; '.join(found.reasons)}" if found.reasons else None
        return self.score(found.value, found.layers, error, found.others)

    def score(
        self,
        value: float | None,
        layers: Sequence[float] = (),
        error: str | None = None,
        others: tuple[float | None, ...] = (),
    ) -> Score:
        """Return what the pair scored, or why it has no score."""
        if value is not None and not math.isfinite(value):
            message = f"{self.pair.distorted}: its score is {value}, not a finite number"
            value, layers, error = None, (), "; ".join(filter(None, (message, error)))
        pixels, sums = self.distorted.pixels, (self.distorted.sha256, self.reference.sha256)
        size = None if pixels is None else (pixels.shape[1], pixels.shape[2])
        return Score(self.pair, value, tuple(layers), size, *sums, error, others=others)


def score_pairs(
    model: PerceptualDistance,
    pairs: Iterable[Pair],
    *,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    start: int = 0,
    stop: int | None = None,
    errors: str = "raise",
    workers: int = 0,
    watch: Callable[[Pair, int], None] | None = None,
    others: Sequence[OtherMetric] = (),
    **reading: Unpack[ReadingOptions],
) -> Iterator[Score]:
    """Score pairs of files one batch at a time, in order; an image is read when its batch comes, and so is a frame.

    A batch consists of those of at most `batch_size` consecutive pairs that have equal sizes. Consecutive pairs with
    one reference share its feature maps: it is read, and run through the network, once. Batches end at multiples of
    `batch_size`, so that a run which starts there gives the same bits as one that started earlier. Videos are scored
    one by one, in batches of their frames; their score is the mean over the frames.

    Args:
        model: with `reduction="none"`; on `device`.
        batch_size: the most pairs, or frames, in a batch.
        device: where to put the images; None for the model's own.
        start: how many pairs to skip: a multiple of `batch_size`, or the number of pairs before, or up to, a video.
        stop: the pair to stop before, a multiple of `batch_size`, so that every batch is that of a whole run; None for
            all pairs.
        errors: "raise" for a ScoringError at the first pair without a score, "keep" for a `Score` that says why.
        workers: threads that read the images or frames of the next batches; 0 reads them between batches.
        watch: told how many frames of a video are scored, after each batch of them.
        others: further metrics of the same pixels, on the same device; one that refuses a pair leaves the others'
            scores, and its reason in the error.
        reading: `alpha`, `colour`, `orientation` and `max_pixels`, as for `read_image`.

    Raises:
        ScoringError: an image cannot be read or scored; names the file. With `errors="keep"` only if memory runs out,
            which is not the image's fault.
        ValueError: an option, or the model's reduction, is not as expected.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    pairs = pairs if isinstance(pairs, Sequence) else list(pairs)
    if start < 0 or not is_chunk_start(pairs, start, batch_size):
        raise ValueError(f"start: expected a multiple of batch_size {batch_size}, got {start}")
    if stop is not None and (stop < start or stop % batch_size):
        raise ValueError(f"stop: expected a multiple of batch_size {batch_size} from {start} on, got {stop}")
    if errors not in ("raise", "keep"):
        raise ValueError(f"errors: expected 'raise' or 'keep', got {errors!r}")
    how = Reading(**reading)
    if workers < 0:
        raise ValueError(f"workers: expected at least 0, got {workers}")
    if others and any(pair.mask for pair in pairs):
        for other in others:
            if other.model is None:
                raise ValueError(
                    f"{other.said.name}: compares whole images: with masks expected metrics of this package"
                )
    if model.reduction != "none":
        raise ValueError(f"model: expected reduction='none', a score a pair, got {model.reduction!r}")
    scorer = Scorer(model, torch.device(device) if device is not None else model.anchor.device, watch, others)
    found = _scored(scorer, pairs, size=batch_size, span=(start, stop), reading=how, workers=workers)
    return found if errors == "keep" else _sound(found)


def chunks(
    pairs: Sequence[Pair], size: int, start: int = 0, stop: int | None = None
) -> Iterator[list[tuple[Pair, bool]]]:
    """Yield `size` pairs at a time, from `start` up to `stop`, each with whether a neighbour has the same reference.

    Chunks end at multiples of `size`, and before and after a video.

    Example:
        >>> a, b, c = (Pair(Path(r), Path(d), d) for r, d in ["xp", "xq", "yr"])
        >>> [[(pair.name, shared) for pair, shared in chunk] for chunk in chunks([a, b, c], 2)]
        [[('p', True), ('q', True)], [('r', False)]]
        >>> [[(pair.name, shared) for pair, shared in chunk] for chunk in chunks([a, b, c], 1, start=1)]
        [[('q', True)], [('r', False)]]
        >>> [[(pair.name, shared) for pair, shared in chunk] for chunk in chunks([a, b, c], 1, stop=1)]
        [[('p', True)]]
    """
    chunk: list[tuple[Pair, bool]] = []
    for k in range(*slice(start, stop).indices(len(pairs))):
        if chunk and is_chunk_start(pairs, k, size):
            yield chunk
            chunk = []
        neighbours = *pairs[max(0, k - 1) : k], *pairs[k + 1 : k + 2]
        chunk.append((pairs[k], any(pair.reference == pairs[k].reference for pair in neighbours)))
    if chunk:
        yield chunk


def is_chunk_start(pairs: Sequence[Pair], number: int, size: int) -> bool:
    """Return whether a chunk may begin with a pair, or end before it.

    Example:
        >>> a, b, c = (Pair(Path("r"), Path(d), d, video=d == "q") for d in "pqr")
        >>> [is_chunk_start([a, b, c], k, 4) for k in range(4)]
        [True, True, True, False]
    """
    return number % size == 0 or any(pair.video for pair in pairs[number - 1 : number + 1])


def layer_count(model: PerceptualDistance) -> int:
    """Return how many layers add up to a score of a loaded model."""
    side = max(32, model.source.min_size)
    with torch.no_grad():
        grey = torch.full((1, 3, side, side), 0.5, dtype=torch.float32, device=model.anchor.device)
        return model.per_layer(grey, grey).shape[1]


def _sound(scores: Iterable[Score]) -> Iterator[Score]:
    for score in scores:
        if score.error is not None:
            raise ScoringError(score.error)
        yield score


def _scored(
    scorer: "Scorer", pairs: Sequence[Pair], *, size: int, span: tuple[int, int | None], reading: Reading, workers: int
) -> Iterator[Score]:
    with (
        Reader(partial(read_picture, reading=reading), workers) as reader,
        Reader(partial(_read_mask, reading=reading), workers) as masks,
    ):
        waiting: deque[list[tuple[Pair, bool, Later[Picture], Later[Picture], Later[Picture] | None]]] = deque()
        # so many batches that every worker has an image to read while one is scored
        ahead = 0 if workers == 0 else 1 + workers // size
        reference: tuple[Path, Later[Picture]] | None = None
        mask: tuple[Path | None, Later[Picture] | None] = None, None

        def scored_next() -> list[Score]:
            batch = waiting.popleft()
            items = [
                Item(pair, shared, distorted(), reference(), mask and mask())
                for pair, shared, distorted, reference, mask in batch
            ]
            return scorer.scores(items)

        for chunk in chunks(pairs, size, *span):
            if chunk[0][0].video:
                while waiting:
                    yield from scored_next()
                yield scorer.video(chunk[0][0], batch_size=size, reading=reading, workers=workers)
                continue
            waiting.append([])
            for pair, shared in chunk:
                if reference is None or reference[0] != pair.reference:
                    reference = pair.reference, reader.ask(pair.reference)
                if mask[0] != pair.mask:
                    mask = pair.mask, masks.ask(pair.mask) if pair.mask else None
                waiting[-1].append((pair, shared, reader.ask(pair.distorted), reference[1], mask[1]))
            if len(waiting) > ahead:
                yield from scored_next()
        while waiting:
            yield from scored_next()


def read_picture(path: Path, reading: Reading) -> Picture:
    """Read an image file: its pixels, or its error; what cannot be read as an image still has its SHA-256."""
    return Picture.of(lambda: read_still(path, deep=True, reading=reading), digest_if_readable(path))


def _read_mask(path: Path, reading: Reading) -> Picture:
    """Read a mask's file, or its error."""
    return Picture.of(lambda: read_mask(path, reading), "")


class Scorer:
    """A model, with `reduction="none"`, and other metrics beside it."""

    def __init__(
        self,
        model: PerceptualDistance,
        device: torch.device,
        watch: Callable[[Pair, int], None] | None = None,
        others: Sequence[OtherMetric] = (),
    ) -> None:
        self.model, self.others = model, others
        self.watch = watch
        self.device = device
        self.passes = Passes([model, *(other.model for other in others if other.model is not None)])

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """Return the scores of pairs, in order; those of equal sizes are scored together.

        Raises:
            ScoringError: memory runs out; anything else is the error of its pair.
        """
        batches: dict[Hashable, list[int]] = {}
        found: dict[int, Score] = {}
        for k, item in enumerate(items):
            if error := item.error:
                found[k] = item.score(None, error=error)
            else:
                batches.setdefault(item.kind, []).append(k)
        for batch in batches.values():
            found.update(zip(batch, self._batch([items[k] for k in batch]), strict=True))
        return [found[k] for k in range(len(items))]

    def video(self, pair: Pair, *, batch_size: int, reading: Reading, workers: int) -> Score:
        """Return the score of a pair of videos."""
        sums = digest_if_readable(pair.distorted), digest_if_readable(pair.reference)
        try:
            frames, size = score_frames(
                partial(self._frames, pair),
                pair.reference,
                pair.distorted,
                batch_size=batch_size,
                workers=workers,
                resizes=self.model.resize is not None,
                watch=None if self.watch is None else partial(self.watch, pair),
                **asdict(reading),
            )
        except _OutOfMemory:
            raise
        except (ValueError, TypeError) as error:
            message = str(error) if isinstance(error, ScoringError) else f"{pair.distorted}: {error}"
            return Score(pair, None, (), None, *sums, message)
        layers, score = frames.mean()
        missing = f"{pair.distorted}: {'; '.join(frames.reasons)}" if frames.reasons else None
        return Score(pair, score, tuple(layers), size, *sums, missing, frames, frames.means_of_others())

    def _batch(self, items: Sequence[Item]) -> list[Score]:
        first, shared = items[0].pair, items[0].shared
        distorted = [item.distorted.pixels for item in items if item.distorted.pixels is not None]
        references = [item.reference.pixels for item in items if item.reference.pixels is not None]
        masks = [item.mask.pixels for item in items if item.mask is not None and item.mask.pixels is not None]
        # feature maps of a reference that is seen through a mask stand in for no other pair's
        path = first.reference if shared and not masks else None
        batch = Batch(distorted, references[:1] if shared else references, self.device, path, masks)
        rows: Sequence[Compared]
        try:
            rows = self._compared(first, batch)
        except _OutOfMemory:
            raise
        except (ValueError, TypeError) as error:
            if len(items) > 1:
                # one of them may have made all fail
                return [self._batch([item])[0] for item in items]
            message = f"{first.distorted}: {explained(error, items[0].rotated)}"
            if not self.others:
                return [items[0].score(None, error=message)]
            others, reasons = self._others(first, batch)[0]
            return [items[0].score(None, error="; ".join((message, *reasons)), others=others)]
        for item in items:
            if item.rotated:
                note(item.rotated)
        return [item.scored(found) for item, found in zip(items, rows, strict=True)]

    def _frames(self, pair: Pair, distorted: Sequence[Tensor], references: Sequence[Tensor]) -> list[Compared]:
        return self._compared(pair, Batch(distorted, references, self.device), what="frames")

    # not inference_mode: a backbone that is loaded now may later serve a module that needs gradients
    @torch.no_grad()
    def _compared(self, first: Pair, batch: Batch, *, what: str = "pairs") -> list[Compared]:
        """Return what each pair of a batch scored."""
        with _memory_for(first, batch, what):
            layers = self.passes.layers(self.model, batch)
            rows = zip(layers.tolist(), layers.sum(1).tolist(), self._others(first, batch, what=what), strict=True)
            return [Compared(layers, value, *others) for layers, value, others in rows]

    def _others(
        self, first: Pair, batch: Batch, *, what: str = "pairs"
    ) -> list[tuple[tuple[float | None, ...], tuple[str, ...]]]:
        """Return the other metrics' scores of each pair, and why any is missing."""
        with _memory_for(first, batch, what):
            columns = [metric.each(batch, self.passes) for metric in self.others]
        return [
            (
                tuple(None if isinstance(value, str) else value for value in values),
                tuple(value for value in values if isinstance(value, str)),
            )
            for values in ([column[k] for column in columns] for k in range(len(batch)))
        ]


@contextmanager
def _memory_for(first: Pair, batch: Batch, what: str) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        message = f"{first.distorted}: out of memory with {len(batch)} {what} a batch: {error}"
        raise _OutOfMemory(message) from error
