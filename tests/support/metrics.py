"""Both metrics, with the backbone that is part of the package, and images for them."""

from collections.abc import Callable

from torch import Tensor

from damlpips import DAMLPIPSMetric, LPIPSMetric
from damlpips.adapters.torchmetrics.accumulate import PerceptualMetric
from tests.support import reference

Make = Callable[..., PerceptualMetric]

KINDS: dict[str, Make] = {
    "lpips": lambda **options: LPIPSMetric("nano", heads="uniform", **options),
    "damlpips": lambda **options: DAMLPIPSMetric(**options),
}


def images(n: int, size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    return reference.noise(n, size, size, seed)
