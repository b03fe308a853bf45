"""DAMLPIPS and LPIPS by piq's conventions: `_Loss` modules and functions on images in [0, 1], reduced to a mean."""

from typing import Any

import piq
from piq.utils import _validate_input
from torch import Tensor
from torch.nn.modules.loss import _Loss

from damlpips import checks, functional
from damlpips.models.base import PerceptualDistance
from damlpips.models.damlpips import DAMLPIPS as DAMLPIPSModule
from damlpips.models.lpips import LPIPS as LPIPSModule
from damlpips.models.registry import Metric, in_libraries
from damlpips.ops import distance


def _reduction(reduction: Any) -> str:
    if reduction not in checks.REDUCTIONS:
        raise ValueError(f"Unknown reduction {reduction!r}. Expected one of {set(checks.REDUCTIONS)}")
    return reduction


def _validate(x: Tensor, y: Tensor) -> None:
    """Raise piq's own AssertionErrors for what piq's metrics refuse."""
    _validate_input([x, y], dim_range=(4, 4), data_range=(0, -1))


class _PiqLoss(_Loss):
    """A module of this package behind piq's conventions."""

    kind: type[PerceptualDistance]

    def __init__(self, reduction: str = "mean", **options: Any) -> None:
        super().__init__()
        self.model = self.kind(**{"grey": "repeat", **options})
        self.reduction = _reduction(reduction)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of x (N, C, H, W) and y in [0, 1], C = 1 or 3, reduced; lower is closer.

        The network moves to the images' device.
        """
        _validate(x, y)
        if self.model.encoder.device != x.device:  # piq's losses follow the images
            self.to(x.device)
        return distance.reduce(self.model(x, y), self.reduction)

    def describe(self) -> str:
        """Return one line to cite, as the module's."""
        return self.model.describe()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(backbone={self.model.source.name!r}, reduction={self.reduction!r})"


class DAMLPIPS(_PiqLoss):
    """DAMLPIPS as a piq loss; `damlpips.DAMLPIPS` has the equation.

    Args:
        reduction: `"none"`, `"mean"` or `"sum"`.
        options: those of `damlpips.DAMLPIPS` (`backbone`, `weights`, `resize`, ...).

    Raises:
        ValueError: an unknown reduction or option. AssertionError: input that piq refuses (rank, shapes that differ).
    """

    kind = DAMLPIPSModule


class LPIPS(_PiqLoss):
    """LPIPS as a piq loss, with every backbone and heads that `damlpips.LPIPS` knows; `piq.LPIPS` stays as it is.

    Args:
        reduction: `"none"`, `"mean"` or `"sum"`.
        options: those of `damlpips.LPIPS` (`backbone`, `heads`, `weights`, ...).

    Raises:
        ValueError: an unknown reduction or option. AssertionError: input that piq refuses (rank, shapes that differ).
    """

    kind = LPIPSModule


def damlpips(x: Tensor, y: Tensor, reduction: str = "mean", **options: Any) -> Tensor:
    """Return DAMLPIPS of x and y (N, C, H, W) in [0, 1], C = 1 or 3, reduced as piq's functions do; lower is closer.

    Options are those of `damlpips.DAMLPIPS`; the module is built once for each set of them.
    """
    reduction = _reduction(reduction)
    _validate(x, y)
    return functional.damlpips(x, y, reduction=reduction, **{"grey": "repeat", **options})


NAMES = in_libraries()
_KINDS: dict[Metric, type[_PiqLoss]] = {Metric.DAMLPIPS: DAMLPIPS, Metric.LPIPS: LPIPS}


def create_metric(name: str, **options: Any) -> _PiqLoss:
    """Build a metric with piq's conventions by the name that pyiqa knows it by.

    Args:
        name: `damlpips`, `damlpips-alex`, `damlpips-vgg`, `damlpips-squeeze`, `lpips-fast`, `lpips-fast-vgg` or
            `lpips-fast-squeeze`.
        options: `reduction` and those of the module.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> import torch
        >>> from damlpips.adapters.piq import create_metric
        >>> x = torch.rand(2, 3, 64, 64)
        >>> create_metric("damlpips")(x, x)
        tensor(0.)
    """
    metric, defaults = NAMES[checks.one_of("metric", name, NAMES)]
    return _KINDS[metric](**{**defaults, **options})


def register() -> list[str]:
    """Set `piq.DAMLPIPS` and `piq.damlpips`; return their names."""
    for member in (DAMLPIPS, damlpips):
        taken = getattr(piq, member.__name__, member)
        if taken is not member:
            raise RuntimeError(f"piq.{member.__name__} exists already and is not this package's: {taken!r}")
        setattr(piq, member.__name__, member)
    return ["piq.DAMLPIPS", "piq.damlpips"]
