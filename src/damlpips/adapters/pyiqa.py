"""DAMLPIPS and LPIPS as networks that `pyiqa.create_metric` builds by name."""

from typing import Any

from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from damlpips.models.base import PerceptualDistance
from damlpips.models.damlpips import DAMLPIPS
from damlpips.models.lpips import LPIPS
from damlpips.models.registry import Metric, in_libraries


class _PyiqaNet(nn.Module):
    """A module of this package behind pyiqa's conventions: grey or RGB in [0, 1], scores (N, 1)."""

    kind: type[PerceptualDistance]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.model = self.kind(**{"grey": "repeat", **options})

    def forward(self, target: Tensor, ref: Tensor) -> Tensor:
        """Return the distance of each pair, (N, 1); lower is closer."""
        # after a second .to() pyiqa's wrapper still sends images to the device before
        device = self.model.anchor.device
        return self.model(target.to(device), ref.to(device)).unsqueeze(1)


class DamlpipsNet(_PyiqaNet):
    """DAMLPIPS in pyiqa; options are those of `damlpips.DAMLPIPS`."""

    kind = DAMLPIPS


class LpipsFastNet(_PyiqaNet):
    """This package's LPIPS in pyiqa; options are those of `damlpips.LPIPS`."""

    kind = LPIPS


# pyiqa's registry is one name space for all networks; `LPIPS` in it is pyiqa's own
_TYPES = {"DAMLPIPS": DamlpipsNet, "DAMLPIPS_LPIPS": LpipsFastNet}
# of each metric its type there, and the range of its scores
_KINDS = {Metric.DAMLPIPS: ("DAMLPIPS", "0, inf"), Metric.LPIPS: ("DAMLPIPS_LPIPS", "0, 1")}
NAMES = in_libraries()


def _configuration(metric: Metric, options: dict[str, Any]) -> dict[str, Any]:
    kind, score_range = _KINDS[metric]
    return {
        "metric_opts": {"type": kind, **options},
        "metric_mode": "FR",
        "lower_better": True,
        "score_range": score_range,
    }


def register() -> list[str]:
    """Enter the names in pyiqa's table and the networks in its registry; return the names."""
    wanted = {name: _configuration(*row) for name, row in NAMES.items()}
    for name, configuration in wanted.items():
        if DEFAULT_CONFIGS.get(name, configuration) != configuration:
            raise RuntimeError(f"pyiqa knows a metric {name!r} already, and it is not this package's")
    for kind, net in _TYPES.items():
        if kind not in ARCH_REGISTRY:
            ARCH_REGISTRY.register(net, name=kind)
        elif ARCH_REGISTRY.get(kind) is not net:
            raise RuntimeError(f"pyiqa has a network {kind!r} already, and it is not this package's")
    DEFAULT_CONFIGS.update(wanted)
    return list(wanted)
