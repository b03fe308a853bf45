"""The distances, LPIPS and DAMLPIPS, and the ways in which a batch of pairs is run.

    settings               the options, each declared once; a new one is a field there
    inputs, video          what comes in, checked once: pairs of images, pairs of videos
    encoder                images to feature maps, at the size at which a module looks at them
    lpips, damlpips        the two distances: a `Definition` of feature maps, and the module that users hold
    runners                whole, in chunks, with kept references, tiled, compiled; a new way is a class there, and
                           `base` composes it with the others
    references, tiled      feature maps that are kept under a key; sums over tiles
    pairwise, volumes      all pairs of two sets; volumes slice by slice
    registry               the metrics by name
    citation, presets      a line to cite, and the module that it describes; the LPIPS of other code, by name

Imports `nets`, `ops` and the plain modules.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damlpips.models.adaptive import AdaptiveWeights as AdaptiveWeights
    from damlpips.models.damlpips import DAMLPIPS as DAMLPIPS
    from damlpips.models.lpips import LPIPS as LPIPS

_HOME = {
    "LPIPS": "damlpips.models.lpips",
    "DAMLPIPS": "damlpips.models.damlpips",
    "AdaptiveWeights": "damlpips.models.adaptive",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
