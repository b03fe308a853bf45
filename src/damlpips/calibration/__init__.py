"""Metrics that learn from people: LPIPS fitted to choices and ratings, its heads or its network as well.

    recipe           what a fit is asked for; the defaults are published ones
    choices          choices between two pairs of images, as columns
    ratings          from the scores of two images to such a choice
    differences      judged pairs of files to what heads weigh, kept on disk
    split            contents to learn from, and contents held out
    ranking          from two distances to the share of observers that is expected to choose the second
    images           the images of pairs of files, batch by batch, where a network is learned
    subjects         what each variant fits: its batches, what learns, distances before and after
    learner          what is learned, step by step
    training         the fit itself, on Lightning
    checkpoints      how its state is written
    outcomes         how well it agrees with people on what was held out
    weights          heads and networks in files; weights at random
    heads            what comes out: the file of heads, perhaps one of a network, and a card

It may import everything but `damlpips.cli`; of the package, only that imports it. It needs
`pip install 'damlpips[fit]'`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damlpips.calibration.heads import save as save
    from damlpips.calibration.recipe import Recipe as Recipe
    from damlpips.calibration.training import Fitted as Fitted
    from damlpips.calibration.training import fit as fit

_PUBLIC = {"Recipe": "recipe", "Fitted": "training", "fit": "training", "save": "heads"}
__all__ = ["Fitted", "Recipe", "fit", "save"]


def __getattr__(name: str) -> Any:
    # Lightning is loaded when a fit is asked for
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
