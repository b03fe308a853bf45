"""`LearnedPerceptualImagePatchSimilarity` by torchmetrics' own arguments, for code that is to change one import."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from damlpips.adapters.torchmetrics.accumulate import ON_ERROR, PerceptualMetric
from damlpips.models.lpips import LPIPS

NETS = ("vgg", "alex", "squeeze")
REDUCTIONS = ("mean", "sum", "none", None)


class LearnedPerceptualImagePatchSimilarity(PerceptualMetric):
    """torchmetrics' `LearnedPerceptualImagePatchSimilarity` on this package's LPIPS; `damlpips.LPIPS` has the equation.

    Equal to torchmetrics 1.9 on the same weights. Its state is that of `LPIPSMetric`: exact sums, the same on any
    number of processes, and no gradient graph.

    Args:
        net_type: `"alex"`, `"vgg"` or `"squeeze"`.
        reduction: `"mean"`, `"sum"`, or `"none"` or None for all scores.
        normalize: images are in [0, 1] if True, else in [-1, 1].
        kwargs: torchmetrics' own (`dist_sync_on_step`, `process_group`, `sync_on_compute`, ...).

    Raises:
        ValueError: an argument that is none of these.

    Example:
        >>> from damlpips.adapters.torchmetrics import LearnedPerceptualImagePatchSimilarity
        >>> LearnedPerceptualImagePatchSimilarity("vgg", reduction=None, normalize=True).describe()[:43]
        'LPIPS (vgg, weights 397923af, heads v0.1; ['
    """

    plot_upper_bound = 1.0

    def __init__(
        self, net_type: str = "alex", reduction: str | None = "mean", normalize: bool = False, **kwargs: Any
    ) -> None:
        if net_type not in NETS:
            raise ValueError(f"Argument `net_type` must be one of {NETS}, but got {net_type}.")
        if reduction not in REDUCTIONS:
            raise ValueError(f"Argument `reduction` must be one of {REDUCTIONS}, but got {reduction}")
        if not isinstance(normalize, bool):
            raise ValueError(f"Argument `normalize` should be an bool but got {normalize}")
        bounds = (0.0, 1.0) if normalize else (-1.0, 1.0)
        model = LPIPS(net_type, value_range=bounds, check_values=False)
        super().__init__(model, reduction=reduction or "none", on_error=ON_ERROR[0], check_values=False, **kwargs)
        self.normalize = normalize

    def update(self, img1: Tensor, img2: Tensor) -> None:  # type: ignore[override]
        """Score a batch of pairs, (N, 3, H, W) each, and add the scores.

        Raises:
            ValueError: values out of range: of [0, 1] with `normalize`, else below -1, which is all that torchmetrics
                checks; or shapes that do not fit.
        """
        if not (self._is_valid(img1) and self._is_valid(img2)):
            found = ", ".join(f"{tuple(v.shape)} with values {_extremes(v)}" for v in (img1, img2))
            bounds = [0, 1] if self.normalize else [-1, 1]
            raise ValueError(
                "Expected both input arguments to be normalized tensors with shape [N, 3, H, W], and all values in the"
                f" {bounds} range, got {found}"
            )
        super().update(img1, img2)

    def _is_valid(self, images: Tensor) -> bool:
        if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
            return False
        low, high = images.aminmax()
        return bool(low >= 0 and high <= 1) if self.normalize else bool(low >= -1)

    def _wrap_compute(self, compute: Callable) -> Callable:
        """One score is a tensor () there, whatever the reduction."""
        wrapped = super()._wrap_compute(compute)
        return lambda *args, **kwargs: _one_without_axis(wrapped(*args, **kwargs))

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch and return its own value, differentiable."""
        return _one_without_axis(super().forward(*args, **kwargs))


def _extremes(images: Tensor) -> list[float]:
    return [float(v) for v in images.aminmax()] if images.numel() else []


def _one_without_axis(value: Tensor) -> Tensor:
    return value.reshape(()) if value.numel() == 1 else value
