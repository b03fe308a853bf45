"""LPIPS and DAMLPIPS as torchmetrics metrics: state and its reduction, nothing else."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from damlpips import checks
from damlpips.features import Backbone
from damlpips.models import DAMLPIPS, DEFAULT_BACKBONE, LPIPS, PerceptualDistance
from damlpips.reuse import encoded_pair, enrol

# What `Metric.forward` changes beside the states, to be put back when it fails midway.
_BOOKKEEPING = (
    *("_update_count", "_computed", "_forward_cache", "_to_sync", "_should_unsync"),
    *("_enable_grad", "_is_synced", "_cache", "compute_on_cpu"),
)


class PerceptualMetric(Metric):
    """What `LPIPSMetric` and `DAMLPIPSMetric` share: the accumulation of per-image scores.

    States, all summed or concatenated over processes:
        total (float64), count (int64): sum and number of scores, for reductions "mean" and "sum";
        scores (float32), indices (int32): lists, for reduction "none" and for updates with an index;
        bad (int64): images on an accelerator with NaN or values out of range.
    Their names carry a digest of the configuration: a `MetricCollection` merges metrics whose state names and first
    values agree, and so merges only those that compute the same.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    model: PerceptualDistance

    def __init__(self, model: PerceptualDistance, reduction: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduction = checks.one_of("reduction", reduction, checks.REDUCTIONS)
        self.model = model
        enrol(model)
        configuration = {**model.configuration(), "kept": reduction == "none", "check_values": model.check_values}
        digest = hashlib.sha256(repr(sorted(configuration.items())).encode()).hexdigest()[:12]
        self._prefix = f"{type(model).__name__.lower()}_{digest}"
        if reduction != "none":
            self.add_state(self._name("total"), torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(self._name("count"), torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state(self._name("scores"), [], dist_reduce_fx="cat")
        self.add_state(self._name("indices"), [], dist_reduce_fx="cat")
        self.add_state(self._name("bad"), torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _name(self, state: str) -> str:
        return f"{self._prefix}_{state}"

    def _state(self, state: str) -> Any:
        return getattr(self, self._name(state))

    def _joined(self, state: str, dtype: torch.dtype) -> Tensor:
        """Return a list state as one tensor, empty where nothing was kept; after a sync it is one already."""
        value = self._state(state)
        if isinstance(value, Tensor):
            return value
        return torch.cat(value) if value else torch.empty(0, dtype=dtype, device=self.device)

    def update(self, img: Tensor, ref: Tensor, index: Tensor | Sequence[int] | None = None) -> None:
        """Score a batch of pairs and add the scores.

        Args:
            img: (N, 3, H, W), distorted images.
            ref: (N, 3, H, W), their references.
            index: (N,) whole numbers that name the images. An image whose index was seen before, on this process or
                another, counts once: a sampler that repeats images to even out processes then changes nothing. Scores
                with an index are kept, 8 bytes each.

        Raises:
            TypeError, ValueError: images or index are not what they should be; the state is as it was.
        """
        indices = None if index is None else self._checked_index(index, len(img))
        bad = self._count_bad(img, ref)
        scores = self.model.per_layer(*encoded_pair(self.model, img, ref)).sum(1)
        sums = {"bad": self._state("bad") + bad}
        summed = self.reduction != "none" and indices is None
        if summed:
            sums["total"] = self._state("total") + scores.sum(dtype=torch.float64)
            sums["count"] = self._state("count") + scores.numel()
        # Nothing can fail from here on: a failed update leaves the states as they were.
        for state, value in sums.items():
            setattr(self, self._name(state), value)
        if not summed:
            self._state("scores").append(scores)
        if indices is not None:
            self._state("indices").append(indices)

    def _checked_index(self, index: Any, n: int) -> Tensor:
        given = torch.as_tensor(index)
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool or given.shape != (n,):
            raise ValueError(f"index: expected {n} whole numbers, got {given.dtype} of shape {tuple(given.shape)}")
        return given.to(self.device, torch.int32)

    def _count_bad(self, img: Tensor, ref: Tensor) -> Tensor | int:
        """Count what the module checks at once on the CPU and leaves unchecked elsewhere."""
        if not self.model.check_values or self.device.type == "cpu":
            return 0
        for what, x in (("first image", img), ("second image", ref)):
            checks.image_batch(x, what=what, grey=self.model.grey)
        return checks.count_bad_images(img, self.model.value_range) + checks.count_bad_images(
            ref, self.model.value_range
        )

    def compute(self) -> Tensor:
        """Return the mean or the sum of the scores, (); or with reduction "none" all of them, (N,).

        Scores come in the order of their index where they have one, else process by process in the order of updates.
        Without any update the mean is NaN and the sum 0.

        Raises:
            ValueError: images on an accelerator had NaN or values out of range.
        """
        if bad := int(self._state("bad")):
            raise ValueError(
                f"{bad} images had NaN or values outside value_range={self.model.value_range}: scores are not valid;"
                " reset() and pass value_range=(low, high), or check_values=False if it is meant"
            )
        scores = self._distinct(self._joined("scores", torch.float32), self._joined("indices", torch.int32))
        if self.reduction == "none":
            return scores
        total = self._state("total") + scores.sum(dtype=torch.float64)
        if self.reduction == "mean":
            total = total / (self._state("count") + scores.numel())
        return total.to(torch.float64 if self.dtype == torch.float64 else torch.float32)

    @staticmethod
    def _distinct(scores: Tensor, indices: Tensor) -> Tensor:
        """Return the scores in the order of their indices, each index once."""
        if not indices.numel():
            return scores
        if indices.numel() != scores.numel():
            raise ValueError(
                f"index: expected with every update or with none, got {indices.numel()} of {scores.numel()} scores"
                " with one"
            )
        indices, order = indices.sort(stable=True)
        first = torch.ones_like(indices, dtype=torch.bool)
        first[1:] = indices[1:] != indices[:-1]
        return scores[order][first]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch and return its own value, differentiable; the accumulated state keeps no graph."""
        before = self._snapshot()
        try:
            value = super().forward(*args, **kwargs)
        except BaseException:
            self._restore(before)
            raise
        for name in self._defaults:
            state = getattr(self, name)
            setattr(self, name, state.detach() if isinstance(state, Tensor) else [s.detach() for s in state])
        self._forward_cache = value.detach()
        return self._shaped(value)

    def _snapshot(self) -> dict[str, Any]:
        # `Metric.reset` empties the lists themselves, so the lists are copied; tensors are replaced, never changed
        states = {k: getattr(self, k) for k in self._defaults}
        states = {k: list(v) if isinstance(v, list) else v for k, v in states.items()}
        return {**states, **{k: getattr(self, k) for k in _BOOKKEEPING}}

    def _restore(self, snapshot: dict[str, Any]) -> None:
        for name, value in snapshot.items():
            setattr(self, name, value)

    def _wrap_update(self, update: Callable) -> Callable:
        wrapped = super()._wrap_update(update)

        @functools.wraps(update)
        def update_or_nothing(*args: Any, **kwargs: Any) -> None:
            # `update` touches the states only when nothing can fail any more: no copy of a growing list is needed
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
        def compute_shaped(*args: Any, **kwargs: Any) -> Any:
            return self._shaped(wrapped(*args, **kwargs))

        return compute_shaped

    def _shaped(self, value: Any) -> Any:
        """Undo torchmetrics' squeezing of one score: reduction "none" is always (N,)."""
        return value.reshape(-1) if self.reduction == "none" and isinstance(value, Tensor) else value

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # A process without data would send an empty float tensor for any list state, of whatever type the others' is.
        for state, dtype in (("scores", torch.float32), ("indices", torch.int32)):
            if isinstance(self._state(state), list) and not self._state(state):
                setattr(self, self._name(state), [torch.empty(0, dtype=dtype, device=self.device)])
        super()._sync_dist(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Follow moves between devices; only `set_dtype` changes the backbone's type, nothing that of the states."""

        def move(x: Tensor) -> Tensor:
            return x.to(fn(x.new_empty(0)).device)  # the values themselves may not pass through another type

        this = super()._apply(fn if self._dtype_convert else move, exclude_state=tuple(self._defaults))
        for name, default in self._defaults.items():
            state = getattr(self, name)
            self._defaults[name] = move(default) if isinstance(default, Tensor) else default
            setattr(self, name, move(state) if isinstance(state, Tensor) else [move(s) for s in state])
        return this

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        enrol(self.model)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value, the current one by default, or a list of values; returns matplotlib's figure and axes."""
        return self._plot(val, ax)


_OPTIONS = """
    Args:
        backbone, weights, value_range, grey, resize, check_values: as for the module. Images on an accelerator are
            checked without waiting for it: `update` counts bad ones, `compute` raises.
        reduction: `"mean"` or `"sum"` (), with a state of three numbers; `"none"` (N,), which keeps every score.
        kwargs: torchmetrics' own (`dist_sync_on_step`, `process_group`, `sync_on_compute`, ...).

    `state_dict()` is empty unless `persistent(True)` was called, and never holds the backbone, which is shared with
    every module of the process and follows `.to()`.
"""


class LPIPSMetric(PerceptualMetric):
    __doc__ = f"""LPIPS, accumulated over batches and processes; see `damlpips.LPIPS` for the equation.
    {_OPTIONS}
        heads: as for `LPIPS`.

    Example:
        >>> import torch
        >>> from damlpips import LPIPSMetric
        >>> metric = LPIPSMetric("gabor", heads="uniform")
        >>> metric.update(torch.ones(4, 3, 32, 32), torch.ones(4, 3, 32, 32))
        >>> metric.compute()
        tensor(0.)
    """

    def __init__(
        self,
        backbone: str | Backbone = "alex",
        *,
        weights: Any = None,
        heads: Any = "v0.1",
        value_range: tuple[float, float] = (0.0, 1.0),
        reduction: str = "mean",
        grey: checks.Grey = None,
        resize: checks.Resize = None,
        check_values: bool = True,
        **kwargs: Any,
    ) -> None:
        model = LPIPS(
            backbone,
            weights=weights,
            heads=heads,
            value_range=value_range,
            grey=grey,
            resize=resize,
            check_values=check_values,
        )
        super().__init__(model, reduction, **kwargs)


class DAMLPIPSMetric(PerceptualMetric):
    __doc__ = f"""DAMLPIPS, accumulated over batches and processes; see `damlpips.DAMLPIPS` for the equation.
    {_OPTIONS}
        rho, gamma: as for `DAMLPIPS`.

    Example:
        >>> import torch
        >>> from damlpips import DAMLPIPSMetric
        >>> metric = DAMLPIPSMetric()
        >>> metric.update(torch.ones(4, 3, 32, 32), torch.ones(4, 3, 32, 32))
        >>> metric.compute()
        tensor(0.)
    """

    def __init__(
        self,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        *,
        weights: Any = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        reduction: str = "mean",
        grey: checks.Grey = None,
        resize: checks.Resize = None,
        check_values: bool = True,
        rho: float = 0.25,
        gamma: float = 0.5,
        **kwargs: Any,
    ) -> None:
        model = DAMLPIPS(
            backbone,
            weights=weights,
            value_range=value_range,
            grey=grey,
            resize=resize,
            check_values=check_values,
            rho=rho,
            gamma=gamma,
        )
        super().__init__(model, reduction, **kwargs)
