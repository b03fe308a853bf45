"""Distances of judged images: every pair of files once, from the cache where it is known."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from damlpips.evaluation.cache import DistanceCache, key
from damlpips.evaluation.judgements import Choice, FilePair, JudgedSet
from damlpips.evaluation.named import NamedMetric
from damlpips.evaluation.views import AS_IS, View
from damlpips.models.encoder import Images
from damlpips.scoring.images import ScoringError

# called with how many distinct pairs are done, and of how many
Progress = Callable[[int, int], None]


def distances(
    metric: NamedMetric,
    judged: JudgedSet,
    view: View = AS_IS,
    *,
    cache: DistanceCache | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Return the metric's distance of each judgement's images; lower is closer.

    Args:
        cache: where distances are looked up and kept; None computes all of them.
        progress: called after every pair with how many are done, and of how many.

    Returns:
        (n,) in the order of the judgements; (n, 2) for choices, of a and of b. Infinite where the library says so (the
        PSNR of equal images).

    Raises:
        ScoringError: an image that cannot be read, a pair in two sizes, a metric that fails for a pair or gives no
            number; names the files and the metric. What was computed before stays in the cache.
        CacheError: the cache is damaged or cannot be written.
    """
    pairs = [pair for judgement in judged.judgements for pair in judgement.pairs]
    table = np.array(pair_distances(metric, pairs, view, cache=cache, progress=progress), dtype=np.float64)
    return table.reshape(-1, 2) if judged.kind_of_judgement is Choice else table


def pair_distances(
    metric: NamedMetric,
    pairs: Sequence[FilePair],
    view: View = AS_IS,
    *,
    cache: DistanceCache | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Return the metric's distance of each pair of files (reference, distorted), in order; lower is closer.

    A pair that comes again is computed once. Arguments and errors are those of `distances`.
    """
    known: dict[FilePair, float] = {}
    # pairs of one reference after each other, so that it is read and encoded once
    first = {reference: k for k, (reference, _) in reversed(list(enumerate(pairs)))}
    distinct = sorted(dict.fromkeys(pairs), key=lambda pair: first[pair[0]])
    keys: dict[FilePair, bytes] = {}
    if cache is not None:
        seen = view.described()
        keys = {(r, d): key(metric.identity, seen, cache.content(r), cache.content(d)) for r, d in distinct}
    try:
        for path, run in groupby(distinct, key=lambda pair: pair[0]):
            reference = _Reference(metric, path, view)
            for pair in run:
                value = cache.get(keys[pair]) if cache is not None else None
                if value is None:
                    value = reference.distance(pair[1])
                    if cache is not None:
                        cache.put(keys[pair], value)
                known[pair] = value
                if progress is not None:
                    progress(len(known), len(distinct))
    finally:
        if cache is not None:
            cache.flush()
    return [known[pair] for pair in pairs]


class _Reference:
    """A reference image, read and encoded when the first distance to it is asked for."""

    def __init__(self, metric: NamedMetric, path: Path, view: View) -> None:
        self.metric, self.path, self.view = metric, path, view

    @cached_property
    def pixels(self) -> Tensor:
        return self.view.read(self.path)

    @cached_property
    def encoded(self) -> Images:
        return self.metric.encode(self.view.of(self.pixels, self.metric.device))

    def distance(self, distorted: Path) -> float:
        reference, pixels = self.pixels, self.view.read(distorted)
        if pixels.shape != reference.shape:
            sizes = [f"{height} x {width}" for _, height, width in (pixels.shape, reference.shape)]
            raise ScoringError(
                f"{distorted}: {sizes[0]} pixels, its reference {self.path} {sizes[1]}: expected one size"
            )
        try:
            value = float(self.metric.distances(self.encoded, self.view.of(pixels, self.metric.device)))
        except Exception as error:  # libraries refuse images in ways of their own
            what = " ".join(str(error).split()) or type(error).__name__
            raise ScoringError(f"{distorted} against {self.path}: {self.metric.name} fails: {what}") from error
        if math.isnan(value):
            raise ScoringError(f"{distorted} against {self.path}: {self.metric.name} gives NaN, not a number")
        return value
