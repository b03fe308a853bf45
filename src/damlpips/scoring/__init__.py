"""Files to rows: images and videos are read, paired, scored and written, by one process or several.

Imports `models` and what is below it. A new column of the rows is declared in `rows`, a new format in `formats`; a new
kind of image or video file is allowed in `images` or `videos`. What a file states beside its pixels is read in
`containers` and `orientation`, its colours become sRGB in `colour_profiles`, more than 8 bits a channel are read in
`depth`, and the options of reading are declared in `reading`. `several` has the metrics that stand beside the first
one, `sets` those of whole sets of images.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damlpips.scoring.images import ScoringError as ScoringError
    from damlpips.scoring.images import read_image as read_image
    from damlpips.scoring.pairs import Pair as Pair
    from damlpips.scoring.pairs import find_pairs as find_pairs
    from damlpips.scoring.scorer import Score as Score
    from damlpips.scoring.scorer import score_pairs as score_pairs

_HOME = {
    "score_pairs": "damlpips.scoring.scorer",
    "Score": "damlpips.scoring.scorer",
    "Pair": "damlpips.scoring.pairs",
    "find_pairs": "damlpips.scoring.pairs",
    "read_image": "damlpips.scoring.images",
    "ScoringError": "damlpips.scoring.images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
