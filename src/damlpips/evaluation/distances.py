"""Distances of judged images: every pair of files once, from the cache where it is known."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from damlpips.evaluation.cache import DistanceCache, key
from damlpips.evaluation.judgements import Choice, JudgedSet, Judgement, Rating
from damlpips.evaluation.named import NamedMetric
from damlpips.evaluation.views import Reader, described, scaled_down
from damlpips.models.base import Images
from damlpips.scoring.images import ScoringError, read_image

# (reference, distorted)
FilePair = tuple[Path, Path]
# called with how many distinct pairs are done, and of how many
Progress = Callable[[int, int], None]


def distances(
    metric: NamedMetric,
    judged: JudgedSet,
    *,
    cache: DistanceCache | None = None,
    shorter_side: int | None = None,
    progress: Progress | None = None,
    read: Reader = read_image,
) -> NDArray[np.float64]:
    """Return the metric's distance of each judgement's images; lower is closer.

    Args:
        cache: where distances are looked up and kept; None computes all of them.
        shorter_side: in pixels; images with a longer one are averaged down to it first: the viewing scale. None
            leaves every image as it is.
        progress: called after every pair with how many are done, and of how many.
        read: a function of a module, by whose name what it read is kept apart in the cache; or
            `damlpips.evaluation.views.KeptImages` of one.

    Returns:
        (n,) in the order of the judgements; (n, 2) for choices, of a and of b. The first image of `SameOrNot` stands
        in the place of the reference. Infinite where the library says so (the PSNR of equal images).

    Raises:
        ScoringError: an image that cannot be read, a pair in two sizes, a metric that fails for a pair or gives no
            number; names the files and the metric. What was computed before stays in the cache.
        CacheError: the cache is damaged or cannot be written.
        ValueError: `shorter_side` is less than 1.

    Example:
        >>> from pathlib import Path
        >>> from damlpips.evaluation.distances import distances
        >>> from damlpips.evaluation.judgements import JudgedSet, Rating
        >>> from damlpips.evaluation.named import build
        >>> original, blurred = Path("docs/demo/pebbles.png"), Path("docs/demo/pebbles/blur_3.png")
        >>> judged = JudgedSet("demo", (Rating(original, blurred, score=3.0, content="pebbles"),))
        >>> distances(build("mse"), judged).shape
        (1,)
    """
    pairs = [pair for judgement in judged.judgements for pair in pairs_of(judgement)]
    values = pair_distances(metric, pairs, cache=cache, shorter_side=shorter_side, progress=progress, read=read)
    table = np.array(values, dtype=np.float64)
    return table.reshape(-1, 2) if judged.kind_of_judgement is Choice else table


def pair_distances(
    metric: NamedMetric,
    pairs: Sequence[FilePair],
    *,
    cache: DistanceCache | None = None,
    shorter_side: int | None = None,
    progress: Progress | None = None,
    read: Reader = read_image,
) -> list[float]:
    """Return the metric's distance of each pair of files (reference, distorted), in order; lower is closer.

    A pair that comes again is computed once. Arguments and errors are those of `distances`.
    """
    if shorter_side is not None and shorter_side < 1:
        raise ValueError(f"shorter_side: expected at least 1 pixel, got {shorter_side}")
    known: dict[FilePair, float] = {}
    # pairs of one reference after each other, so that it is read and encoded once
    first = {reference: k for k, (reference, _) in reversed(list(enumerate(pairs)))}
    distinct = sorted(dict.fromkeys(pairs), key=lambda pair: first[pair[0]])
    keys = _keys(metric, distinct, cache, shorter_side, read)
    try:
        for reference, run in groupby(distinct, key=lambda pair: pair[0]):
            against = _Reference(metric, reference, shorter_side, read)
            for pair in run:
                value = cache.get(keys[pair]) if cache is not None else None
                if value is None:
                    value = against.distance(pair[1])
                    if cache is not None:
                        cache.put(keys[pair], value)
                known[pair] = value
                if progress is not None:
                    progress(len(known), len(distinct))
    finally:
        if cache is not None:
            cache.flush()
    return [known[pair] for pair in pairs]


def pairs_of(judgement: Judgement) -> tuple[FilePair, ...]:
    """Return the pairs of files whose distances a judgement is about, in their order."""
    if isinstance(judgement, Choice):
        return (judgement.reference, judgement.a), (judgement.reference, judgement.b)
    if isinstance(judgement, Rating):
        return ((judgement.reference, judgement.distorted),)
    return ((judgement.a, judgement.b),)


def _keys(
    metric: NamedMetric,
    pairs: Iterable[FilePair],
    cache: DistanceCache | None,
    shorter_side: int | None,
    read: Reader,
) -> dict[FilePair, bytes]:
    """Return what each pair's distance is kept under."""
    if cache is None:
        return {}
    view = described(read, shorter_side)
    return {(r, d): key(metric.identity, view, cache.content(r), cache.content(d)) for r, d in pairs}


class _Reference:
    """A reference image, read and encoded when the first distance to it is asked for."""

    def __init__(self, metric: NamedMetric, path: Path, shorter_side: int | None, read: Reader) -> None:
        self.metric, self.path, self.shorter_side, self.read = metric, path, shorter_side, read
        self._image: Tensor | None = None
        self._encoded: Images | None = None

    def distance(self, distorted: Path) -> float:
        """Return the distance of a file to this reference."""
        if self._image is None:
            self._image = self.read(self.path)
        image = self.read(distorted)
        if image.shape != self._image.shape:
            sizes = [f"{height} x {width}" for _, height, width in (image.shape, self._image.shape)]
            raise ScoringError(
                f"{distorted}: {sizes[0]} pixels, its reference {self.path} {sizes[1]}: expected one size"
            )
        try:
            if self._encoded is None:
                self._encoded = self.metric.encode(self._viewed(self._image))
            value = float(self.metric.distances(self._encoded, self._viewed(image)))
        except Exception as error:  # libraries refuse images in ways of their own
            what = " ".join(str(error).split()) or type(error).__name__
            raise ScoringError(f"{distorted} against {self.path}: {self.metric.name} fails: {what}") from error
        if math.isnan(value):
            raise ScoringError(f"{distorted} against {self.path}: {self.metric.name} gives NaN, not a number")
        return value

    def _viewed(self, image: Tensor) -> Tensor:
        return scaled_down(image[None].to(self.metric.device).float() / 255, self.shorter_side)
