"""What both metrics share: what is scored, what is left out, and what comes out."""

import functools
import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from damlpips import checks
from damlpips.adapters.torchmetrics.shared_pass import encoded_pair, enrol
from damlpips.adapters.torchmetrics.state import ScoreState
from damlpips.models import video
from damlpips.models.base import Images, PerceptualDistance
from damlpips.models.references import Keys
from damlpips.nets.encoded import Encoded
from damlpips.ops import exact_sums

ON_ERROR = ("raise", "skip")

# What `forward` changes beside the states, to be put back.
_BOOKKEEPING = ("_update_count", "_computed", "_forward_cache", "_to_sync", "_enable_grad", "_in_forward", "_skipped")

# An error names this many images, and counts the others.
_NAMED = 8


class PerceptualMetric(ScoreState):
    """What `LPIPSMetric` and `DAMLPIPSMetric` share: images in, an aggregate of their scores out."""

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    model: PerceptualDistance

    def __init__(
        self, model: PerceptualDistance, *, reduction: str, on_error: str, check_values: bool, **kwargs: Any
    ) -> None:
        checks.one_of("reduction", reduction, checks.REDUCTIONS)
        checks.one_of("on_error", on_error, ON_ERROR)
        kept = {"kept": reduction == "none", "on_error": on_error, "check_values": bool(check_values), "state": 2}
        configuration = sorted({**model.configuration(), **kept}.items())
        digest = hashlib.sha256(repr(configuration).encode()).hexdigest()[:12]
        super().__init__(type(model).__name__.lower(), digest, keeps_all=reduction == "none", **kwargs)
        self.reduction, self.on_error, self.check_values = reduction, on_error, bool(check_values)
        self.model = model
        enrol(model)
        # While `forward` runs, the scores of its batch, with their graph, and indices.
        self._in_forward: list[tuple[Tensor, Tensor | None]] | None = None
        self._skipped: int | None = None

    @property
    def skipped(self) -> int:
        """How many images could not be scored and were left out: of all processes after `compute`, else of this one."""
        if self._computed is not None and self._skipped is not None:
            return self._skipped
        return int(self._state("counts")[1]) + int(self._distinct(*self._kept())[0].isnan().sum())

    def update(
        self,
        img: Images,
        ref: Images,
        index: Tensor | Sequence[int] | None = None,
        reference_key: Keys | None = None,
    ) -> None:
        """Score a batch of pairs and add the scores.

        Args:
            img: (N, 3, H, W), distorted images; with `video=True` (N, T, 3, H, W), videos, each of which is an image in
                what follows.
            ref: as img, their references; or what `metric.model.encode` returned of one, for all N.
            index: (N,) whole numbers of 32 bits that name the images. An image whose index was seen before, on this
                process or another, counts once: a sampler that repeats images to even out processes then changes
                nothing. Scores with an index are kept, 8 bytes each.
            reference_key: a key for each reference, `str`, `int` or another hashable, or whole numbers (N,). A
                reference whose key came before is not run through the network again, also after `reset()`, as far as
                `reference_cache` bytes hold the feature maps. A key stands for one image: another is an error on a CPU,
                and on an accelerator only if it has another size.

        Raises:
            TypeError, ValueError: images, index or keys are not what they should be, or, with `on_error="raise"` on the
                CPU, an image cannot be scored; the state is as it was.
            TorchMetricsUserError: the metric is synced.
        """
        if self._is_synced:
            raise TorchMetricsUserError("update: call unsync() first, a synced state takes no scores")
        if self.model.video:  # the maps of all frames would be too large to be kept for another metric
            n, pair, keys = video.count(img, ref), (img, ref), reference_key
        else:
            pair = encoded_pair(self.model, img, ref, reference_key)  # refuses what cannot be compared
            n, keys = len(pair[0]), None if isinstance(pair[1], Encoded) else reference_key
        indices = self._checked_index(index, n)
        good = self._checked_values(img, ref, indices, n)
        scores = self.model.per_layer(*pair, reference_key=keys).sum(1)
        good = good & scores.isfinite() & (scores.abs() < exact_sums.LIMIT)
        if self._raises_at_once and (where := _first_false(good)) is not None:
            raise ValueError(f"{_named(where, indices)}: its score is {float(scores[where])}, not a finite number")
        scores = scores.where(good, torch.nan)
        self._add(scores, indices)  # nothing can fail from here on: a failed update leaves the state as it was
        if self._in_forward is not None:
            self._in_forward.append((scores, indices))

    def clear_references(self) -> None:
        """Forget the references that came with a key."""
        self.model.clear_references()

    @property
    def _raises_at_once(self) -> bool:
        """Whether values may be read: on an accelerator that would wait for it, so `compute` raises instead."""
        return self.on_error == "raise" and self.device.type == "cpu"

    def _checked_values(self, img: Images, ref: Images, indices: Tensor | None, n: int) -> Tensor:
        """Return which pairs have values that can be scored, (N,); raise at the first other where they may be read."""
        good = torch.ones(n, dtype=torch.bool, device=self.device)
        for what, x in (("first image", img), ("second image", ref)):
            if not self.check_values or not isinstance(x, Tensor) or checks.is_optimised(x):
                continue
            marks = checks.scorable(x, self.model.value_range)
            if self._raises_at_once and (where := _first_false(marks)) is not None:
                what = f"{what}, {_named(where, indices)}"
                checks.values(x[where : where + 1], self.model.value_range, what=what)
            good = good & marks
        return good

    def _checked_index(self, index: Any, n: int) -> Tensor | None:
        """Return indices, int64, on the metric's device; those that lie on an accelerator are not read."""
        if self._keeps_all and self._state("scores") and bool(self._state("indices")) is (index is None):
            before = "without" if index is not None else "with"
            raise ValueError(f"index: expected with every update or with none, got scores {before} one before")
        if index is None:
            return None
        try:
            given = torch.as_tensor(index)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"index: expected {n} whole numbers, got {type(index).__name__} ({error})") from error
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool or given.shape != (n,):
            raise ValueError(f"index: expected {n} whole numbers, got {given.dtype} of shape {tuple(given.shape)}")
        given = given.to(torch.int64)
        if given.device.type == "cpu" and not self._fits(given).all():
            raise ValueError(f"index: expected numbers that fit int32, got {int(given.min())} to {int(given.max())}")
        return given.to(self.device, non_blocking=True)

    def compute(self) -> Tensor:
        """Return the mean or the sum of the scores, (); or with reduction "none" all of them, (N,).

        mean = (s_1 + ... + s_N) / N, of the exact sum, rounded once to float64 and from there to float32: the same bits
        whatever the order of the scores, the batches and the number of processes; see `damlpips.ops.exact_sums`.

        Where there are several processes it gathers from all of them, each time: call it on all, as often on each.

        With "none" scores come in the order of their index where they have one, else process by process in the order of
        updates, and an image that could not be scored is NaN. Without any score the mean is NaN and the sum 0.

        Raises:
            ValueError: with `on_error="raise"` and images on an accelerator, images that could not be scored; indices
                that do not fit int32; scores with an index and without, with "none".
            OverflowError: more scores than an exact sum can hold, 2^39.
            RuntimeError: another process died, did not call `compute` within the process group's timeout, or computes
                another metric.

        Warns:
            UserWarning: images were skipped, with `on_error="skip"`.
        """
        if self._in_forward is not None and not self._is_synced:
            return self._value_of_batch(self._in_forward)
        count, unscorable, unfit = self._state("counts").tolist()
        if unfit:
            raise ValueError(f"index: {unfit} of the numbers do not fit int32: scores are not valid; reset()")
        scores, indices = self._distinct(*self._kept())
        good = ~scores.isnan()
        self._skipped = unscorable + int((~good).sum())
        if self._skipped:
            self._report(self._skipped, indices[~good] if len(indices) else (~good).nonzero().flatten())
        if self.reduction == "none":
            return scores
        count += int(good.sum())
        if count > exact_sums.MOST_SCORES:
            raise OverflowError(f"{count} scores: an exact sum holds {exact_sums.MOST_SCORES} at most")
        total = exact_sums.value(self._state("total")) + exact_sums.value(exact_sums.exact_sum(scores[good]))
        if self.reduction == "mean":
            result = exact_sums.rounded(total / count) if count else float("nan")
        else:
            result = exact_sums.rounded(total)
        return torch.tensor(result, dtype=torch.float64).to(self._score_dtype).to(self.device)

    def _value_of_batch(self, updates: list[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Return the reduced scores of one `forward`, with their graph; for the mean and the sum without waiting."""
        scores = torch.cat([s for s, _ in updates])
        named = [i for _, i in updates if i is not None]
        counted = torch.ones_like(scores, dtype=torch.bool)
        if named:
            scores, _, counted = self._in_order(scores, torch.cat(named))
        if self.reduction == "none":
            return scores[counted] if named else scores
        if self.on_error == "skip":
            counted = counted & ~scores.isnan()
        total = scores.where(counted, 0).sum(dtype=torch.float64)
        return (total / counted.sum() if self.reduction == "mean" else total).to(self._score_dtype)

    @staticmethod
    def _in_order(scores: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores and indices in the order of the indices, and which are the first of their index.

        Of several scores of one index the lowest comes first, and NaN last: which one counts does not depend on where
        it came from.
        """
        scores, order = scores.sort(stable=True)
        indices, by_index = indices[order].sort(stable=True)
        first = torch.ones_like(indices, dtype=torch.bool)
        first[1:] = indices[1:] != indices[:-1]
        return scores[by_index], indices, first

    def _distinct(self, scores: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kept scores, those with indices in their order and each once."""
        if not len(indices):
            return scores, indices
        if len(indices) != len(scores):
            raise ValueError(
                f"index: expected with every update or with none, got {len(indices)} of {len(scores)} scores with one"
            )
        scores, indices, first = self._in_order(scores, indices)
        return scores[first], indices[first]

    def _report(self, n: int, names: Tensor) -> None:
        """Raise for images that could not be scored, or warn that they were skipped, and name them."""
        which = ""
        if len(names):
            what = "with index" if self._state("indices") else "at place"
            more = ", ..." if len(names) > _NAMED or len(names) < n else ""
            which = f", {what} {', '.join(map(str, names[:_NAMED].tolist()))}{more}"
        images = "1 image" if n == 1 else f"{n} images"
        cause = f"NaN, infinite or outside value_range={self.model.value_range}, or a score that is not finite"
        if self.on_error == "raise":
            raise ValueError(
                f"{images} could not be scored{which} ({cause}): the total is not valid; reset(), and pass"
                " value_range=(low, high), check_values=False if it is meant, or on_error='skip' to leave them out"
            )
        if self._place()[0] == 0:
            warnings.warn(f"{type(self).__name__} skipped {images}{which} ({cause})", UserWarning, stacklevel=2)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch and return its own value, differentiable; of all processes' batches with `dist_sync_on_step`.

        The value is that of `compute` on this batch alone. It has a gradient where the images have one, except with
        `dist_sync_on_step`; the state keeps no graph. An image on an accelerator that could not be scored makes the
        value NaN with `on_error="raise"`.
        """
        if self._is_synced:
            raise TorchMetricsUserError("forward: call unsync() first, a synced state takes no scores")
        before = {**self.metric_state, **{k: getattr(self, k) for k in _BOOKKEEPING}}
        batches: list[tuple[Tensor, Tensor | None]] = []
        self._in_forward = batches
        self._enable_grad = torch.is_grad_enabled()
        self._to_sync = self.dist_sync_on_step
        try:
            self.update(*args, **kwargs)
            after = self.metric_state
            if self.dist_sync_on_step:
                self._be_alone(batches)
            value = self.compute()
        except BaseException:
            self._restore(before)
            raise
        done = {"_update_count": before["_update_count"] + 1, "_computed": None, "_forward_cache": value.detach()}
        self._restore({**before, **after, **done})
        return value

    def _be_alone(self, updates: list[tuple[Tensor, Tensor | None]]) -> None:
        """Hold the scores of these updates and nothing else."""
        self._restore({name: [] if isinstance(d, list) else d for name, d in self._defaults.items()})
        for scores, indices in updates:
            self._add(scores, indices)

    def _restore(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    def _wrap_update(self, update: Callable) -> Callable:
        wrapped = super()._wrap_update(update)

        @functools.wraps(update)
        def update_or_nothing(*args: Any, **kwargs: Any) -> None:
            before = {k: getattr(self, k) for k in ("_update_count", "_computed")}
            try:
                wrapped(*args, **kwargs)
            except BaseException:
                self._restore(before)
                raise

        return update_or_nothing

    def _wrap_compute(self, compute: Callable) -> Callable:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def compute_here(*args: Any, **kwargs: Any) -> Any:
            before = {k: getattr(self, k) for k in ("_to_sync", "_should_unsync")}
            synced = self._is_synced  # by the user, who will also unsync
            if synced:
                self._to_sync = self._should_unsync = False
            elif self._to_sync and self._place()[1] > 1:
                # others may have had updates since: a cached value would be old, and they would wait for this process
                self._computed = None
            try:
                return self._shaped(wrapped(*args, **kwargs))
            finally:
                self._restore(before)
                if self._is_synced and not synced:  # torchmetrics leaves it so when `compute` raises
                    self.unsync()

        return compute_here

    def _shaped(self, value: Any) -> Any:
        """Undo torchmetrics' squeezing of one score: reduction "none" is always (N,)."""
        return value.reshape(-1) if self.reduction == "none" and isinstance(value, Tensor) else value

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        enrol(self.model)

    def plot(self, val: Tensor | Sequence[Tensor | float] | None = None, ax: Any = None) -> Any:
        """Plot a value, by default what `compute` returns, or one a step, above a line at 0, the best.

        Args:
            val: what `compute` or a call returned, or a list of such values.
            ax: the axes to draw into; None for new ones of `pyplot`.

        Returns:
            The figure, None where axes were given, and the axes.

        Raises:
            ValueError: an empty list. ModuleNotFoundError: matplotlib is not installed.
        """
        if val is None:
            val = self.compute() if self._computed is None else self._computed
        drawn = val if isinstance(val, Tensor) else [torch.as_tensor(v) for v in val]
        if not len(drawn := torch.atleast_1d(drawn) if isinstance(drawn, Tensor) else drawn):
            raise ValueError("val: expected a value or a list of at least one, got none")
        axes: Any
        figure, axes = self._plot(drawn, ax)
        axes.set_ylabel(f"{type(self).__name__} (lower is closer)")
        if isinstance(drawn, Tensor) and len(drawn) > 1:
            # a score an image: its place says which, and a legend of them all would hide them
            axes.get_legend().remove()
            axes.get_xaxis().set_visible(True)
            axes.set_xlabel("Image")
        return figure, axes


def _first_false(marks: Tensor) -> int | None:
    return None if marks.all() else int((~marks).nonzero()[0])


def _named(place: int, indices: Tensor | None) -> str:
    return f"number {place} of the batch" + ("" if indices is None else f" with index {int(indices[place])}")
