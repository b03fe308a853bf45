"""Perceptual image similarity: LPIPS and DAMLPIPS on one core, for torchmetrics, pyiqa, piq and plain PyTorch.

Names are loaded when they are first used, so that `import damlpips` costs nothing and loads no ecosystem.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

from damlpips.version import __version__ as __version__

if TYPE_CHECKING:
    from damlpips.adapters import register as register
    from damlpips.adapters.torchmetrics.metrics import DAMLPIPSMetric as DAMLPIPSMetric
    from damlpips.adapters.torchmetrics.metrics import LPIPSMetric as LPIPSMetric
    from damlpips.models.damlpips import DAMLPIPS as DAMLPIPS
    from damlpips.models.damlpips import AdaptiveWeights as AdaptiveWeights
    from damlpips.models.lpips import LPIPS as LPIPS
    from damlpips.nets.backbone import Backbone as Backbone
    from damlpips.nets.encoded import Encoded as Encoded
    from damlpips.nets.weights import WeightsError as WeightsError


_HOME = {
    "LPIPS": "damlpips.models.lpips",
    "DAMLPIPS": "damlpips.models.damlpips",
    "AdaptiveWeights": "damlpips.models.damlpips",
    "LPIPSMetric": "damlpips.adapters.torchmetrics.metrics",
    "DAMLPIPSMetric": "damlpips.adapters.torchmetrics.metrics",
    "Backbone": "damlpips.nets.backbone",
    "Encoded": "damlpips.nets.encoded",
    "WeightsError": "damlpips.nets.weights",
    "register": "damlpips.adapters",
}
_PACKAGES = ("adapters", "checks", "evaluation", "functional", "models", "nets", "ops", "report", "scoring")
# Modules as version 0.1.0's documentation named them.
_MOVED = {
    "distance": "damlpips.ops.distance",
    "features": "damlpips.nets.backbone",
    "images": "damlpips.scoring.images",
    "metrics": "damlpips.adapters.torchmetrics.metrics",
    "nano": "damlpips.nets.nano",
    "page": "damlpips.report.page.rendering",
    "pairs": "damlpips.scoring.pairs",
    "references": "damlpips.models.references",
    "weights": "damlpips.nets.weights",
}

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
    elif name in _PACKAGES or name in _MOVED:
        value = import_module(f"damlpips.{name}")
    else:
        raise AttributeError(f"module 'damlpips' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})


class _Moved:
    """Finds a module by the name that it had in version 0.1.0: a finder and its loader in one."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in _MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python to make an empty module."""

    def exec_module(self, module: Any) -> None:
        """Put the module of today in the place of the empty one that was made for its old name."""
        sys.modules[module.__name__] = import_module(_MOVED[module.__name__.partition(".")[2]])


sys.meta_path.append(_Moved())
