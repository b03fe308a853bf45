"""What is fitted by each variant: what its batches are, what learns, and the distances before and after."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from damlpips.calibration.choices import Choices
from damlpips.calibration.differences import Progress, channels, differences
from damlpips.calibration.images import ImageFiles, distances
from damlpips.calibration.learner import HeadLearner, Learner, NetworkLearner
from damlpips.calibration.recipe import Recipe
from damlpips.calibration.weights import at_random, rebuilt, write, write_heads
from damlpips.models.lpips import LPIPS


class Subject(Protocol):
    """What is fitted.

    Attributes:
        metric: what learning starts from, on the device on which it learns.
        of: returns what the learner makes distances of, for the pairs in some rows. Other processes get a copy of it.
        workers: processes that read its batches.
    """

    metric: LPIPS
    of: Callable[..., Any]
    workers: int

    def learner(self, recipe: Recipe, fingerprint: str) -> Learner:
        """Return what learns."""

    def before(self, rows: NDArray[np.intp], progress: Progress | None) -> NDArray[np.float64]:
        """Return the distances of the pairs in some rows before anything is learned, (pairs,)."""

    def after(self, learner: Learner, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the same of what was learned."""


class Heads:
    """Heads alone, of a network that stays as it is: "lin"."""

    # an epoch reads a file that is mapped: another process would only copy it
    workers = 0

    def __init__(
        self,
        metric: LPIPS,
        choices: Choices,
        stack: ExitStack,
        *,
        cache: Path | None,
        workers: int,
        progress: Progress | None,
    ) -> None:
        self.metric = metric
        self.table = differences(choices, metric, stack, cache=cache, workers=workers, progress=progress)
        self.of = self.table.of

    def learner(self, recipe: Recipe, fingerprint: str) -> HeadLearner:
        return HeadLearner(channels(self.metric), recipe, fingerprint)

    def before(self, _rows: NDArray[np.intp], _progress: Progress | None) -> NDArray[np.float64]:
        heads = self.metric.definition.heads
        weights = torch.ones(sum(channels(self.metric))) if heads is None else torch.cat(list(heads)).cpu()
        return self.table.distances(weights)

    def after(self, learner: Learner, _rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return self.table.distances(torch.cat(learner.each_head()))


class Network:
    """A network and its heads: "tune"; from weights at random: "scratch"."""

    def __init__(self, metric: LPIPS, choices: Choices, recipe: Recipe, stack: ExitStack, *, workers: int) -> None:
        self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="damlpips-")))
        self.metric = _at_random(metric, recipe.seed, self.folder) if recipe.variant == "scratch" else metric
        self.files = ImageFiles(choices.pairs, self.metric.encoder.min_size, choices.where)
        self.of, self.workers = self.files.of, workers

    def learner(self, recipe: Recipe, fingerprint: str) -> NetworkLearner:
        return NetworkLearner(self.metric, recipe, fingerprint)

    def before(self, rows: NDArray[np.intp], progress: Progress | None) -> NDArray[np.float64]:
        return distances(self.metric, self.files, rows, self.workers, progress)

    def after(self, learner: Learner, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        # of the files that users load, by the module that they use
        heads, network = self.folder / "heads.safetensors", self.folder / "network.safetensors"
        write_heads(learner.each_head(), heads)
        write(learner.network_state() or {}, network)
        return distances(rebuilt(self.metric, heads=heads, weights=network), self.files, rows, self.workers)


def _at_random(metric: LPIPS, seed: int, folder: Path) -> LPIPS:
    """Return the metric with a network that has learned nothing."""
    if metric.settings.weights is not None:
        raise ValueError(f"weights: 'scratch' starts at random, expected None, got {metric.settings.weights!r}")
    path = folder / "start.safetensors"
    write(at_random(str(metric.source.backbone), seed), path)
    return rebuilt(metric, weights=path)
