"""LPIPS and DAMLPIPS as torchmetrics metrics."""

from typing import Any

import torch

from damlpips import checks
from damlpips.adapters.torchmetrics.accumulate import PerceptualMetric
from damlpips.models.damlpips import DAMLPIPS, DEFAULT_BACKBONE, VIEWING_SIDE
from damlpips.models.lpips import LPIPS
from damlpips.models.references import CACHE_BYTES
from damlpips.nets.backbone import Backbone

_OPTIONS = """
    Args:
        backbone, weights, value_range, grey, resize, deterministic: as for the module.
        dtype, reference_cache, tile, compile: as for the module.
        video: as for the module; `update` takes (N, T, 3, H, W), counts a video as one score, and `index` and
            `reference_key` name videos. Metrics of a `MetricCollection` then share no pass.
        check_values: as for the module. Images on an accelerator are checked without waiting for it: `update` counts
            bad ones, `compute` raises.
        reduction: `"mean"` or `"sum"` (), with a state of 15 whole numbers; `"none"` (N,), which keeps every score, 4
            bytes each.
        on_error: what to do with an image that cannot be scored, for NaN, values out of range or a score that is not
            finite: `"raise"`, on the CPU at once, else at `compute`; or `"skip"`, which leaves it out of the mean and
            the sum, keeps its place with NaN in `"none"`, counts it in `skipped`, and warns at `compute`. Batches of
            wrong shapes or types always raise.
        kwargs: torchmetrics' own (`dist_sync_on_step`, `process_group`, `sync_on_compute`, ...).

    `state_dict()` is empty unless `persistent(True)` was called, and never holds the backbone, which is shared with
    every module of the process and follows `.to()`.
"""


class LPIPSMetric(PerceptualMetric):
    __doc__ = f"""LPIPS, accumulated over batches and processes; see `damlpips.LPIPS` for the equation.
    {_OPTIONS}
        heads, comparison, channel_norm: as for `LPIPS`.

    Example:
        >>> import torch
        >>> from damlpips import LPIPSMetric
        >>> metric = LPIPSMetric("nano", heads="uniform")
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
        comparison: str = "spatial",
        channel_norm: bool = True,
        value_range: tuple[float, float] = (0.0, 1.0),
        reduction: str = "mean",
        grey: checks.Grey = None,
        resize: checks.Resize = None,
        check_values: bool = True,
        deterministic: bool = False,
        dtype: torch.dtype | None = None,
        reference_cache: int = CACHE_BYTES,
        tile: int | None = None,
        compile: bool = False,
        video: bool = False,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> None:
        model = LPIPS(
            backbone,
            weights=weights,
            heads=heads,
            comparison=comparison,
            channel_norm=channel_norm,
            value_range=value_range,
            grey=grey,
            resize=resize,
            check_values=False,  # the metric checks by itself, image by image
            deterministic=deterministic,
            dtype=dtype,
            reference_cache=reference_cache,
            tile=tile,
            compile=compile,
            video=video,
        )
        super().__init__(model, reduction=reduction, on_error=on_error, check_values=check_values, **kwargs)


class DAMLPIPSMetric(PerceptualMetric):
    __doc__ = f"""DAMLPIPS, accumulated over batches and processes; see `damlpips.DAMLPIPS` for the equation.
    {_OPTIONS}
        rho, gamma, viewing_side: as for `DAMLPIPS`.

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
        deterministic: bool = False,
        dtype: torch.dtype | None = None,
        reference_cache: int = CACHE_BYTES,
        tile: int | None = None,
        compile: bool = False,
        video: bool = False,
        on_error: str = "raise",
        rho: float = 0.25,
        gamma: float = 0.5,
        viewing_side: int | None = VIEWING_SIDE,
        **kwargs: Any,
    ) -> None:
        model = DAMLPIPS(
            backbone,
            weights=weights,
            value_range=value_range,
            grey=grey,
            resize=resize,
            check_values=False,  # the metric checks by itself, image by image
            deterministic=deterministic,
            dtype=dtype,
            reference_cache=reference_cache,
            tile=tile,
            compile=compile,
            video=video,
            rho=rho,
            gamma=gamma,
            viewing_side=viewing_side,
        )
        super().__init__(model, reduction=reduction, on_error=on_error, check_values=check_values, **kwargs)
