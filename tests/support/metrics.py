"""Both metrics, by default with the backbone that is part of the package, and images for them."""

from collections.abc import Callable

from torch import Tensor
from torchmetrics import MetricCollection

from damlpips import Backbone, DAMLPIPSMetric, LPIPSMetric
from damlpips.adapters.torchmetrics.accumulate import PerceptualMetric
from tests.support import reference

Make = Callable[..., PerceptualMetric]

KINDS: dict[str, Make] = {
    "lpips": lambda backbone="nano", **options: LPIPSMetric(backbone, heads="uniform", **options),
    "damlpips": DAMLPIPSMetric,
}


def three(backbone: Backbone) -> MetricCollection:
    """Return three metrics of one network."""
    return MetricCollection(
        {
            "damlpips": DAMLPIPSMetric(backbone),
            "rho": DAMLPIPSMetric(backbone, rho=0.5),
            "lpips": LPIPSMetric(backbone, heads="uniform"),
        }
    )


def images(n: int, size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    return reference.noise(n, size, size, seed)
