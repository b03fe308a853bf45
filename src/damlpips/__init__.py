"""Perceptual image similarity: LPIPS and DAMLPIPS on one core, for torchmetrics, pyiqa, piq and plain PyTorch.

Names are loaded when they are first used, so that `import damlpips` costs nothing and loads no ecosystem.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damlpips.adapters import register as register
    from damlpips.features import Backbone as Backbone
    from damlpips.features import Encoded as Encoded
    from damlpips.metrics import DAMLPIPSMetric as DAMLPIPSMetric
    from damlpips.metrics import LPIPSMetric as LPIPSMetric
    from damlpips.models import DAMLPIPS as DAMLPIPS
    from damlpips.models import LPIPS as LPIPS
    from damlpips.models import AdaptiveWeights as AdaptiveWeights
    from damlpips.weights import WeightsError as WeightsError

__version__ = "0.1.0"

_HOME = {
    "LPIPS": "damlpips.models",
    "DAMLPIPS": "damlpips.models",
    "AdaptiveWeights": "damlpips.models",
    "LPIPSMetric": "damlpips.metrics",
    "DAMLPIPSMetric": "damlpips.metrics",
    "Backbone": "damlpips.features",
    "Encoded": "damlpips.features",
    "WeightsError": "damlpips.weights",
    "register": "damlpips.adapters",
}
_MODULES = (
    "adapters",
    "checks",
    "distance",
    "features",
    "functional",
    "metrics",
    "models",
    "report",
    "scoring",
    "weights",
)

__all__ = [  # noqa: RUF022  # in the order in which a reader meets them
    "LPIPS",
    "DAMLPIPS",
    "LPIPSMetric",
    "DAMLPIPSMetric",
    "Backbone",
    "Encoded",
    "AdaptiveWeights",
    "WeightsError",
    "register",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = import_module(f"damlpips.{name}")
    else:
        raise AttributeError(f"module 'damlpips' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
