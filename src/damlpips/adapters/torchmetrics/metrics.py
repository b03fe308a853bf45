"""LPIPS and DAMLPIPS as torchmetrics metrics."""

import warnings
from collections.abc import Callable
from typing import Any, TypedDict

from typing_extensions import Unpack

from damlpips.adapters.torchmetrics.accumulate import PerceptualMetric
from damlpips.models.citation import Citation
from damlpips.models.damlpips import DAMLPIPS
from damlpips.models.lpips import LPIPS
from damlpips.models.presets import preset
from damlpips.models.settings import DAMLPIPSOptions, LPIPSOptions, unknown
from damlpips.nets.backbone import Backbone
from damlpips.nets.table import DEFAULT_BACKBONE

_OPTIONS = """
    Args:
        backbone, options: as for the module, except for these three. Those of torchmetrics (`dist_sync_on_step`,
            `process_group`, `sync_on_compute`, ...) are taken, too.
        reduction: `"mean"` (the default) or `"sum"` (), with a state of 15 whole numbers; `"none"` (N,), which keeps
            every score, 4 bytes each.
        check_values: as for the module. Images on an accelerator are checked without waiting for it: `update` counts
            bad ones, `compute` raises.
        video: as for the module; `update` takes (N, T, 3, H, W), counts a video as one score, and `index` and
            `reference_key` name videos. Metrics of a `MetricCollection` then share no pass.
        on_error: what to do with an image that cannot be scored, for NaN, values out of range or a score that is not
            finite: `"raise"`, on the CPU at once, else at `compute`; or `"skip"`, which leaves it out of the mean and
            the sum, keeps its place with NaN in `"none"`, counts it in `skipped`, and warns at `compute`. Batches of
            wrong shapes or types always raise.

    Raises:
        TypeError: an option that is not known. ValueError, WeightsError: as the module.

    `state_dict()` is empty unless `persistent(True)` was called, and never holds the backbone, which is shared with
    every module of the process and follows `.to()`.
"""


class MetricOptions(TypedDict, total=False):
    """What every metric takes beside the options of its module: `on_error` and torchmetrics' own keywords."""

    on_error: str
    dist_sync_on_step: bool
    process_group: Any
    dist_sync_fn: Callable
    distributed_available_fn: Callable
    sync_on_compute: bool
    compute_with_cache: bool
    compute_on_cpu: bool


class LPIPSMetricOptions(LPIPSOptions, MetricOptions, total=False):
    """The keywords of `LPIPSMetric`."""


class DAMLPIPSMetricOptions(DAMLPIPSOptions, MetricOptions, total=False):
    """The keywords of `DAMLPIPSMetric`."""


class _Metric(PerceptualMetric):
    """A metric of a module that is made of the same options."""

    kind: type[LPIPS] | type[DAMLPIPS]

    def __init__(self, backbone: str | Backbone, options: dict[str, Any]) -> None:
        names = self.kind.options.names()
        own = {name: options.pop(name) for name in names if name in options}
        reduction, check_values = own.pop("reduction", "mean"), own.pop("check_values", True)
        # the metric checks by itself, image by image
        model: Any = self.kind(backbone, **own, check_values=False)
        on_error = options.pop("on_error", "raise")
        try:
            super().__init__(model, reduction=reduction, on_error=on_error, check_values=check_values, **options)
        except ValueError as error:
            wrong = [name for name in options if f"`{name}`" in str(error)]
            if "Unexpected keyword" not in str(error) or not wrong:
                raise
            known = [*names, *MetricOptions.__annotations__]
            raise TypeError(unknown(wrong[0], known, f"{type(self).__name__} takes")) from None

    @classmethod
    def from_description(
        cls, text: str, *, weights: Any = None, heads: Any = None, backbone: Backbone | None = None, **options: Any
    ) -> Any:
        """Return the metric that a line to cite describes, as `damlpips.from_description` does the module.

        Args:
            text: what `describe()` gave, of a metric or a module, whose mean this is then.
            weights, heads, backbone: as for `damlpips.from_description`.
            options: further ones, or others than the line says.

        Raises:
            ValueError, WeightsError: as there; or the line is of another distance.
        """
        cited = Citation.of(text)
        if cited.metric.kind is not cls.kind:
            raise ValueError(f"expected a line of {cls.kind.__name__}, got one of {cited.metric.name}")
        if remark := cited.remark():
            warnings.warn(remark, UserWarning, stacklevel=2)
        named = cited.arguments(weights=weights, heads=heads, backbone=backbone)
        return cls(**{**named, **cited.others, **options})


class LPIPSMetric(_Metric):
    __doc__ = f"""LPIPS, accumulated over batches and processes; see `damlpips.LPIPS` for the equation.
    {_OPTIONS}
    Example:
        >>> import torch
        >>> from damlpips import LPIPSMetric
        >>> metric = LPIPSMetric("nano", heads="uniform")
        >>> metric.update(torch.ones(4, 3, 32, 32), torch.ones(4, 3, 32, 32))
        >>> metric.compute()
        tensor(0.)
    """

    kind = LPIPS

    @classmethod
    def preset(cls, name: str, **options: Unpack[LPIPSMetricOptions]) -> "LPIPSMetric":
        """Return the LPIPS that other code computes, as `LPIPS.preset` does; with its mean unless `reduction` says so.

        Raises:
            ValueError: an unknown name.
        """
        return cls(**{**preset(name).options, **options})

    def __init__(self, backbone: str | Backbone = "alex", **options: Unpack[LPIPSMetricOptions]) -> None:
        super().__init__(backbone, dict(options))


class DAMLPIPSMetric(_Metric):
    __doc__ = f"""DAMLPIPS, accumulated over batches and processes; see `damlpips.DAMLPIPS` for the equation.
    {_OPTIONS}
    Example:
        >>> import torch
        >>> from damlpips import DAMLPIPSMetric
        >>> metric = DAMLPIPSMetric()
        >>> metric.update(torch.ones(4, 3, 32, 32), torch.ones(4, 3, 32, 32))
        >>> metric.compute()
        tensor(0.)
    """

    kind = DAMLPIPS

    def __init__(self, backbone: str | Backbone = DEFAULT_BACKBONE, **options: Unpack[DAMLPIPSMetricOptions]) -> None:
        super().__init__(backbone, dict(options))
