"""DAMLPIPS and LPIPS as networks of pyiqa, which `damlpips.adapters.pyiqa` registers."""

from typing import Any

from torch import Tensor, nn

from damlpips.models.base import PerceptualDistance
from damlpips.models.damlpips import DAMLPIPS
from damlpips.models.lpips import LPIPS

# Options of the modules that cannot work here, and what to do instead.
_REFUSED = {
    "reduction": "pyiqa reduces a loss by itself: use as_loss=True, loss_reduction='mean'",
    "video": "pyiqa passes on images alone: use damlpips.DAMLPIPS(video=True), or fold frames into the batch",
}


class _Network(nn.Module):
    """A module of this package behind pyiqa's conventions: grey or RGB in [0, 1], scores (N, 1)."""

    kind: type[PerceptualDistance]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        for name in _REFUSED.keys() & options.keys():
            raise TypeError(f"{name}: {_REFUSED[name]}")
        self.model = self.kind(**{"grey": "repeat", **options})

    def forward(self, target: Tensor, ref: Tensor) -> Tensor:
        """Return the distance of each pair, (N, 1); lower is closer.

        Raises:
            ValueError: as many references as images are expected.
        """
        if len(ref) != len(target):
            raise ValueError(
                f"expected as many references as images, got {len(ref)} and {len(target)}: one reference for all is"
                f" ref.expand({len(target)}, -1, -1, -1)"
            )
        # after a second .to() pyiqa's wrapper still sends images to the device before
        device = self.model.anchor.device
        return self.model(target.to(device), ref.to(device)).unsqueeze(1)

    def describe(self) -> str:
        """Return one line to cite, as the module's: `metric.net.describe()`."""
        return self.model.describe()


class DamlpipsNet(_Network):
    """DAMLPIPS in pyiqa; options are those of `damlpips.DAMLPIPS`, but for `reduction` and `video`."""

    kind = DAMLPIPS


class LpipsFastNet(_Network):
    """This package's LPIPS in pyiqa; options are those of `damlpips.LPIPS`, but for `reduction` and `video`."""

    kind = LPIPS
