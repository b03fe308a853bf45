"""LPIPS and DAMLPIPS as torchmetrics metrics, exact on any number of processes.

An update goes from top to bottom: `metrics` holds the two classes and their options, `drop_in` torchmetrics' own LPIPS;
`accumulate` turns images into scores (with `shared_pass`, which runs a backbone once for several metrics) and scores
into a value; `store_metric` is where torchmetrics ends, with all that is overridden of it; `score_store` keeps the
scores and knows nothing of either.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damlpips.adapters.torchmetrics.drop_in import (
        LearnedPerceptualImagePatchSimilarity as LearnedPerceptualImagePatchSimilarity,
    )

_DROPPED_IN = "LearnedPerceptualImagePatchSimilarity"


def __getattr__(name: str) -> Any:
    if name != _DROPPED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("damlpips.adapters.torchmetrics.drop_in"), name)
