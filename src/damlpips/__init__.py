"""Perceptual image similarity: LPIPS and DAMLPIPS on one core, for torchmetrics, pyiqa, piq and plain PyTorch.

Names are loaded when they are first used, so that `import damlpips` costs nothing and loads no ecosystem.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from damlpips.import_hooks import AfterImport, Moved
from damlpips.version import __version__ as __version__

if TYPE_CHECKING:
    from damlpips.adapters import register as register
    from damlpips.adapters.torchmetrics.metrics import DAMLPIPSMetric as DAMLPIPSMetric
    from damlpips.adapters.torchmetrics.metrics import LPIPSMetric as LPIPSMetric
    from damlpips.models.adaptive import AdaptiveWeights as AdaptiveWeights
    from damlpips.models.citation import from_description as from_description
    from damlpips.models.damlpips import DAMLPIPS as DAMLPIPS
    from damlpips.models.lpips import LPIPS as LPIPS
    from damlpips.nets.backbone import Backbone as Backbone
    from damlpips.nets.encoded import Encoded as Encoded
    from damlpips.nets.weights import WeightsError as WeightsError


_HOME = {
    "LPIPS": "damlpips.models.lpips",
    "DAMLPIPS": "damlpips.models.damlpips",
    "AdaptiveWeights": "damlpips.models.adaptive",
    "from_description": "damlpips.models.citation",
    "LPIPSMetric": "damlpips.adapters.torchmetrics.metrics",
    "DAMLPIPSMetric": "damlpips.adapters.torchmetrics.metrics",
    "Backbone": "damlpips.nets.backbone",
    "Encoded": "damlpips.nets.encoded",
    "WeightsError": "damlpips.nets.weights",
    "register": "damlpips.adapters",
}
_PACKAGES = ("adapters", "checks", "evaluation", "functional", "models", "nets", "ops", "report", "scoring", "testing")
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
    "from_description",
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


def _register_with_pyiqa() -> None:
    import_module("damlpips.adapters.pyiqa").register()


sys.meta_path.append(Moved({f"damlpips.{old}": new for old, new in _MOVED.items()}))
# pyiqa.create_metric looks a name up before it looks for plugins
AfterImport("pyiqa", _register_with_pyiqa).install()
