"""The LPIPS of other code, by name: which network, which heads, images of which range, and what they are taken for.

Importing this module loads no torch, so that the command line can list the names at once. A new preset is a row here, a
row of docs/how-to/reproduce.md, which has the place where its code shows all this, and a formula in
tests/parity/test_presets.py.
"""

from typing import Any, NamedTuple

UNIT, SIGNED = (0.0, 1.0), (-1.0, 1.0)


class Preset(NamedTuple):
    """The LPIPS that some code computes.

    Attributes:
        code: whose, and where in it.
        backbone: the network; the heads are always those of version 0.1.
        value_range: of the images as they are handed over.
        fed_as: what they are taken for, if that is something else.
    """

    code: str
    backbone: str
    value_range: tuple[float, float]
    fed_as: tuple[float, float] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `LPIPS`."""
        return {
            "backbone": self.backbone,
            "heads": "v0.1",
            "value_range": self.value_range,
            "fed_as": self.fed_as,
        }


PRESETS = {
    "lpips": Preset("richzhang/PerceptualSimilarity, lpips/lpips.py", "alex", SIGNED),
    "lpips-vgg": Preset("richzhang/PerceptualSimilarity, lpips/lpips.py", "vgg", SIGNED),
    "torchmetrics": Preset("torchmetrics, image/lpip.py", "alex", SIGNED),
    "pyiqa": Preset("pyiqa, archs/lpips_arch.py", "alex", UNIT),
    "pyiqa-vgg": Preset("pyiqa, archs/lpips_arch.py", "vgg", UNIT),
    "piq": Preset("piq, perceptual.py", "vgg", UNIT),
    "basicsr": Preset("XPixelGroup/BasicSR, scripts/metrics/calculate_lpips.py", "vgg", UNIT),
    "3dgs": Preset("graphdeco-inria/gaussian-splatting, metrics.py", "vgg", UNIT, fed_as=SIGNED),
    "gsplat": Preset("nerfstudio-project/gsplat, examples/simple_trainer.py", "alex", UNIT),
    "gsplat-vgg": Preset("nerfstudio-project/gsplat, examples/simple_trainer.py", "vgg", UNIT, fed_as=SIGNED),
    "nerfstudio": Preset("nerfstudio-project/nerfstudio, nerfstudio/models/", "alex", UNIT),
    "nerfstudio-2022": Preset("nerfstudio-project/nerfstudio, before #1425", "alex", UNIT, fed_as=SIGNED),
    "taming": Preset("CompVis/taming-transformers, taming/modules/losses/lpips.py", "vgg", SIGNED),
    "cogvideox": Preset("THUDM/CogVideo, sat/sgm/modules/autoencoding/lpips/loss/lpips.py", "vgg", SIGNED),
}


def preset(name: str) -> Preset:
    """Return a preset by its name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(map(repr, PRESETS))}")
    return PRESETS[name]
