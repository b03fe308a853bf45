"""The distances, LPIPS and DAMLPIPS, and the ways in which a batch of pairs is run.

Imports `nets`, `ops` and the plain modules.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damlpips.models.damlpips import DAMLPIPS as DAMLPIPS
    from damlpips.models.damlpips import AdaptiveWeights as AdaptiveWeights
    from damlpips.models.lpips import LPIPS as LPIPS

_HOME = {
    "LPIPS": "damlpips.models.lpips",
    "DAMLPIPS": "damlpips.models.damlpips",
    "AdaptiveWeights": "damlpips.models.damlpips",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
