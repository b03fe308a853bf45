"""What is kept of scores, and the value that they come to. It knows torch, and neither torchmetrics nor processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from damlpips.ops import exact_sums

INT32 = torch.iinfo(torch.int32)

STATES = ("total", "counts", "scores", "indices")
_SHAPES = {"total": (exact_sums.LIMBS,), "counts": (3,)}


@dataclass(frozen=True)
class ScoreStore:
    """Scores of images, added up exactly or kept, with or without an index each.

    A store is never changed: `add` and `merge` return another, so nothing has to be copied before it is put aside.

    Attributes:
        total: int64 (12,), the exact sum of the scores that are not kept; see `damlpips.ops.exact_sums`.
        counts: int64 (3,), of scores in `total`, of images left out of it that could not be scored, and of indices that
            do not fit int32.
        scores: tensors (n,) of `dtype`, one after the other the scores that are kept: those with an index and, with
            `keeps_all`, those without. NaN stands for an image that could not be scored.
        indices: int32 tensors (n,), the indices of `scores`.
        keeps_all: whether scores without an index are kept, too, each in its place.
        dtype: float32 or float64, of the scores and their value.
    """

    total: Tensor
    counts: Tensor
    scores: list[Tensor]
    indices: list[Tensor]
    keeps_all: bool = False
    dtype: torch.dtype = torch.float32

    @classmethod
    def empty(cls, **options: Any) -> "ScoreStore":
        """Return a store without any score; `options` are `keeps_all` and `dtype`."""
        return cls(exact_sums.zero(), torch.zeros(3, dtype=torch.int64, device="cpu"), [], [], **options)

    def emptied(self) -> "ScoreStore":
        """Return a store of the same kind without any score."""
        return replace(self, total=self.total * 0, counts=self.counts * 0, scores=[], indices=[])

    def to_dict(self, prefix: str = "") -> dict[str, Any]:
        """Return what is held by name, each name with `prefix`."""
        return {prefix + name: getattr(self, name) for name in STATES}

    @classmethod
    def from_dict(cls, held: Mapping[str, Any], prefix: str = "", **options: Any) -> "ScoreStore":
        """Return the store that `to_dict` was called on; `options` are `keeps_all` and `dtype`."""
        for name, value in ((prefix + name, held[prefix + name]) for name in STATES):
            shape = _SHAPES.get(name.removeprefix(prefix))
            if shape is None:
                if not isinstance(value, list) or not all(isinstance(v, Tensor) and v.ndim == 1 for v in value):
                    raise ValueError(f"{name}: expected a list of one-dimensional tensors, got {value!r:.80}")
            elif not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != shape:
                raise ValueError(f"{name}: expected torch.int64 of shape {shape}, got {value!r:.80}")
        return cls(*(held[prefix + name] for name in STATES), **options)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "ScoreStore":
        """Return the store on a device, its scores in `dtype`; whole numbers stay what they are."""
        dtype = dtype or self.dtype
        scores = [s.to(device, dtype) for s in self.scores]
        indices = [i.to(device, torch.int32) for i in self.indices]
        return ScoreStore(self.total.to(device), self.counts.to(device), scores, indices, self.keeps_all, dtype)

    def add(self, scores: Tensor, indices: Tensor | None = None) -> "ScoreStore":
        """Return a store with more scores (n,), NaN where an image could not be scored. Nothing waits for a device."""
        scores = scores.detach().to(self.dtype)
        if indices is None and not self.keeps_all:
            good = scores.isfinite()
            counted = F.pad(torch.stack([good.sum(), (~good).sum()]), (0, 1))
            total = self.total + exact_sums.exact_sum(scores.where(good, 0))
            return replace(self, total=total, counts=self.counts + counted)
        if self.keeps_all and self.scores and bool(self.indices) is (indices is None):
            before = "without" if indices is not None else "with"
            raise ValueError(f"index: expected with every update or with none, got scores {before} one before")
        added = replace(self, scores=_appended(self.scores, scores))
        if indices is None:
            return added
        unfit = F.pad((~fits_int32(indices)).sum(0, keepdim=True), (2, 0))
        indices = indices.to(torch.int32)
        return replace(added, counts=self.counts + unfit, indices=_appended(self.indices, indices))

    def merge(self, other: "ScoreStore") -> "ScoreStore":
        """Return a store with the scores of both, those of the other last."""
        other = other.to(self.total.device, self.dtype)
        return replace(
            self,
            total=self.total + other.total,
            counts=self.counts + other.counts,
            scores=reduce(_appended, other.scores, self.scores),
            indices=reduce(_appended, other.indices, self.indices),
        )

    def kept(self) -> tuple[Tensor, Tensor]:
        """Return the scores that are kept and their indices, in one tensor each."""
        empty = torch.empty(0, dtype=self.dtype, device=self.total.device)
        scores = torch.cat(self.scores) if self.scores else empty
        return scores, torch.cat(self.indices) if self.indices else empty.to(torch.int32)

    @cached_property
    def distinct(self) -> tuple[Tensor, Tensor]:
        """The scores that are kept and their indices; where there are indices in their order, and each once."""
        scores, indices = self.kept()
        if not len(indices):
            return scores, indices
        if len(indices) != len(scores):
            raise ValueError(
                f"index: expected with every update or with none, got {len(indices)} of {len(scores)} scores with one"
            )
        scores, indices, first = _in_order(scores, indices)
        return scores[first], indices[first]

    @property
    def unscorable(self) -> tuple[int, Tensor]:
        """How many images could not be scored, and which: their indices, or their places, or neither."""
        scores, indices = self.distinct
        bad = scores.isnan()
        return int(self.counts[1]) + int(bad.sum()), indices[bad] if len(indices) else bad.nonzero().flatten()

    def value(self, reduction: str) -> Tensor:
        """Return the mean or the sum of the scores, (), exact and rounded once; or with "none" the scores, (N,)."""
        count, _, unfit = self.counts.tolist()
        if unfit:
            raise ValueError(f"index: {unfit} of the numbers do not fit int32: scores are not valid; reset()")
        scores, _ = self.distinct
        if reduction == "none":
            return scores
        good = scores[~scores.isnan()]
        count += len(good)
        if count > exact_sums.MOST_SCORES:
            raise OverflowError(f"{count} scores: an exact sum holds {exact_sums.MOST_SCORES} at most")
        total = exact_sums.value(self.total) + exact_sums.value(exact_sums.exact_sum(good))
        if reduction == "mean" and not count:
            return torch.tensor(torch.nan, dtype=self.dtype, device=self.total.device)
        result = exact_sums.rounded(total / count if reduction == "mean" else total)
        return torch.tensor(result, dtype=torch.float64, device="cpu").to(self.dtype).to(self.total.device)


def fits_int32(indices: Tensor) -> Tensor:
    """Return which of the numbers fit int32."""
    return (indices >= INT32.min) & (indices <= INT32.max)


def value_of_batch(batches: Sequence[tuple[Tensor, Tensor | None]], reduction: str, *, skip: bool) -> Tensor:
    """Return the reduced scores of batches of scores and indices, with their graph; the mean and the sum do not wait.

    `skip` leaves NaN, which stands for an image that could not be scored, out of the mean and the sum.
    """
    scores = torch.cat([s for s, _ in batches])
    named = [i for _, i in batches if i is not None]
    counted = torch.ones_like(scores, dtype=torch.bool)
    if named:
        scores, _, counted = _in_order(scores, torch.cat(named))
    if reduction == "none":
        return scores[counted] if named else scores
    if skip:
        counted = counted & ~scores.isnan()
    total = scores.where(counted, 0).sum(dtype=torch.float64)
    return total / counted.sum() if reduction == "mean" else total


def _appended(chunks: list[Tensor], values: Tensor) -> list[Tensor]:
    """Return a list with one more, whose tensors at least halve in size from each to the next: a few, always."""
    chunks = [*chunks]
    values = values.to(chunks[-1].device) if chunks else values
    while chunks and len(chunks[-1]) < 2 * len(values):
        values = torch.cat([chunks.pop(), values])
    return [*chunks, values]


def _in_order(scores: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores and indices in the order of the indices, and which are the first of their index.

    Of several scores of one index the lowest comes first, and NaN last: which one counts does not depend on where it
    came from.
    """
    scores, order = scores.sort(stable=True)
    indices, by_index = indices[order].sort(stable=True)
    first = torch.ones_like(indices, dtype=torch.bool)
    first[1:] = indices[1:] != indices[:-1]
    return scores[by_index], indices, first
