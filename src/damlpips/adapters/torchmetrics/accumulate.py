"""What `LPIPSMetric` and `DAMLPIPSMetric` share: images in, their scores into a store, a value out."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor

from damlpips import checks
from damlpips.adapters.torchmetrics.score_store import ScoreStore, fits_int32, value_of_batch
from damlpips.adapters.torchmetrics.shared_pass import enrol, shared
from damlpips.adapters.torchmetrics.store_metric import StoreMetric
from damlpips.models import citation
from damlpips.models.base import PerceptualDistance
from damlpips.models.encoder import Images
from damlpips.models.inputs import Pair
from damlpips.models.references import Keys
from damlpips.ops import exact_sums
from damlpips.process import limit_threads_after_fork

ON_ERROR = ("raise", "skip")

# An error names this many images, and counts the others.
_NAMED = 8


class PerceptualMetric(StoreMetric):
    """A metric of images: the mean or the sum of their scores, or all of them."""

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    model: PerceptualDistance

    # What torchmetrics' `FeatureShare` would replace; see `__getattr__`.
    feature_network = "network_to_share"

    # TorchScript passes over all of it, so that a model which holds a metric can be scripted.
    __jit_unused_properties__: ClassVar[list[str]] = [
        *StoreMetric.__jit_unused_properties__,
        *("store", "skipped", "_score_dtype", "_raises_at_once"),
    ]

    def __init__(
        self, model: PerceptualDistance, *, reduction: str, on_error: str, check_values: bool, **kwargs: Any
    ) -> None:
        checks.one_of("reduction", reduction, checks.REDUCTIONS)
        checks.one_of("on_error", on_error, ON_ERROR)
        if not isinstance(check_values, bool):
            raise ValueError(f"check_values: a metric expects True or False, got {check_values!r}")
        kept = {"kept": reduction == "none", "on_error": on_error, "check_values": check_values, "state": 2}
        configuration = sorted({**model.configuration(), **kept}.items())
        digest = hashlib.sha256(repr(configuration).encode()).hexdigest()[:12]
        super().__init__(type(model).__name__.lower(), digest, keeps_all=reduction == "none", **kwargs)
        self.reduction, self.on_error, self.check_values = reduction, on_error, check_values
        self.model = model
        enrol(model)
        # While `forward` runs, the scores of its batch, with their graph, and indices.
        self._batches: list[tuple[Tensor, Tensor | None]] | None = None
        self._skipped = 0

    @property
    def skipped(self) -> int:
        """How many images could not be scored and were left out: of all processes after `compute`, else of this one."""
        return self.store.unscorable[0] if self._computed is None else self._skipped

    def __getattr__(self, name: str) -> Any:
        if name == PerceptualMetric.feature_network:
            raise NotImplementedError(
                f"FeatureShare cannot wrap {type(self).__name__}: metrics of damlpips that see the same pair share one"
                " pass through the network by themselves, so use a MetricCollection"
            )
        return super().__getattr__(name)

    def update(
        self,
        img: Images,
        ref: Images,
        index: Tensor | Sequence[int] | None = None,
        reference_key: Keys | None = None,
        mask: Tensor | None = None,
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
            mask: bool, (N, 1, H, W) or (1, 1, H, W): only where it is True is compared; see `LPIPS.per_layer`.

        Raises:
            TypeError, ValueError: images, index, keys or mask are not what they should be, or, with `on_error="raise"`
                on the CPU, an image cannot be scored; the state is as it was.
            TorchMetricsUserError: the metric is synced.
        """
        self._refuse_if_synced("update")
        limit_threads_after_fork(lambda: self._update(img, ref, index, reference_key, mask))

    def _update(self, img: Images, ref: Images, index: Any, reference_key: Keys | None, mask: Tensor | None) -> None:
        pair = self.model.prepared(img, ref, mask)  # refuses what cannot be compared
        n = len(pair)
        indices = None if index is None else _checked_index(index, n).to(self.device, non_blocking=True)
        in_range = isinstance(pair, Pair) and pair.in_range
        checked = () if in_range or not self.check_values else (img, ref)
        good = self._checked_values(checked, indices, n, mask)
        scores = self.model.compared(*shared(self.model, img, ref, pair, reference_key)).sum(1)
        good = good & scores.isfinite() & (scores.abs() < exact_sums.LIMIT)
        if self._raises_at_once and (where := _first_false(good)) is not None:
            raise ValueError(f"{_named(where, indices)}: its score is {float(scores[where])}, not a finite number")
        scores = scores.where(good, torch.nan)
        self._add(scores, indices)
        if self._batches is not None:
            self._batches.append((scores, indices))

    def clear_references(self) -> None:
        """Forget the references that came with a key."""
        self.model.clear_references()

    @property
    def _raises_at_once(self) -> bool:
        """Whether values may be read: on an accelerator that would wait for it, so `compute` raises instead."""
        return self.on_error == "raise" and self.device.type == "cpu"

    def _checked_values(self, images: Sequence[Images], indices: Tensor | None, n: int, mask: Tensor | None) -> Tensor:
        """Return which pairs have values that can be scored, (N,); raise at the first other where they may be read."""
        good = torch.ones(n, dtype=torch.bool, device=self.device)
        for what, x in zip(("first image", "second image"), images, strict=False):
            if not isinstance(x, Tensor):
                continue
            if mask is not None and x.is_floating_point():  # what is outside may be anything
                x = x.where(mask, self.model.value_range[0])
            marks = checks.scorable(x, self.model.value_range)
            if self._raises_at_once and (where := _first_false(marks)) is not None:
                fault = checks.fault(x[where], checks.extremes(x[where]), self.model.value_range)
                raise ValueError(f"{what}, {_named(where, indices)}: {fault}, or check_values=False if it is meant")
            good = good & marks
        return good

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
        store = self.store
        self._skipped, _ = store.unscorable
        return self._value_of(store)

    def _value_of(self, store: ScoreStore) -> Tensor:
        """Return a store's value; raise for images that could not be scored, or warn that they were skipped."""
        value = store.value(self.reduction)
        n, names = store.unscorable
        if not n:
            return value
        which = ""
        if len(names):
            what = "with index" if store.indices else "at place"
            more = ", ..." if len(names) > _NAMED or len(names) < n else ""
            which = f", {what} {', '.join(map(str, names[:_NAMED].tolist()))}{more}"
        images = "1 image" if n == 1 else f"{n} images"
        cause = f"NaN, infinite or outside value_range={self.model.value_range}, or a score that is not finite"
        if self.on_error == "raise":
            raise ValueError(
                f"{images} could not be scored{which} ({cause}): the total is not valid; reset(), and pass"
                " value_range=(low, high), check_values=False if it is meant, or on_error='skip' to leave them out"
            )
        if self._rank()[0] == 0:
            warnings.warn(f"{type(self).__name__} skipped {images}{which} ({cause})", UserWarning, stacklevel=2)
        return value

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch and return its own value, differentiable; of all processes' batches with `dist_sync_on_step`.

        The value is that of `compute` on this batch alone. It has a gradient where the images have one, except with
        `dist_sync_on_step`; the state keeps no graph. An image on an accelerator that could not be scored makes the
        value NaN with `on_error="raise"`.
        """
        # torchmetrics' own waits for the device, takes a graph also within `no_grad`, and keeps half of a failed batch
        self._refuse_if_synced("forward")
        before = {**self.metric_state, **{name: getattr(self, name) for name in ("_update_count", "_computed")}}
        batches: list[tuple[Tensor, Tensor | None]] = []
        self._batches = batches
        self._enable_grad = torch.is_grad_enabled()
        try:
            self.update(*args, **kwargs)
            value = self._value_of_step(batches)
        except BaseException:
            self._restore(before)
            raise
        finally:
            self._batches, self._enable_grad = None, False
        self._forward_cache = value.detach()  # type: ignore[assignment]
        return value

    def _value_of_step(self, batches: list[tuple[Tensor, Tensor | None]]) -> Tensor:
        if not self.dist_sync_on_step:
            return value_of_batch(batches, self.reduction, skip=self.on_error == "skip").to(self._score_dtype)
        step = reduce(lambda store, batch: store.add(*batch), batches, self.store.emptied())
        return self._value_of(self._gathered(step) if self.distributed_available_fn() else step)

    def describe(self) -> str:
        """Return one line to cite, as the module's; `reduction` is said where it is not the mean."""
        settings = replace(self.model.settings, reduction=self.reduction, check_values=self.check_values)
        others = {} if self.on_error == ON_ERROR[0] else {"on_error": self.on_error}
        return citation.describe(settings, self.model.source, {"reduction": "mean", "check_values": True}, **others)

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
        drawn = val if isinstance(val, Tensor) else [torch.as_tensor(v, device="cpu") for v in val]
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


def _checked_index(index: Any, n: int) -> Tensor:
    """Return indices as int64; those that lie on an accelerator are not read."""
    try:
        given = index if isinstance(index, Tensor) else torch.as_tensor(index, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"index: expected {n} whole numbers, got {type(index).__name__} ({error})") from error
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool or given.shape != (n,):
        raise ValueError(f"index: expected {n} whole numbers, got {given.dtype} of shape {tuple(given.shape)}")
    given = given.to(torch.int64)
    if given.device.type == "cpu" and not fits_int32(given).all():
        raise ValueError(f"index: expected numbers that fit int32, got {int(given.min())} to {int(given.max())}")
    return given
