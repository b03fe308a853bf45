"""The networks that have a name: how they are built, where their feature maps are read, what they expect of images.

Importing this module imports neither torch nor torchvision, so that the command line can list the names at once. A row
here, and a card in `weights/cards.toml`, is all that a new backbone needs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Scaling(NamedTuple):
    """What a network was trained to expect of images in [0, 1]: (image - mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# torchvision's ImageNet statistics. LPIPS's own "scaling layer" is the same map, written for images in [-1, 1].
IMAGENET = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# Images in [-1, 1]: LPIPS v0.0 fed its networks these by mistake, and its heads were trained that way.
SYMMETRIC = Scaling((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


# A pass on a CPU is fastest with about this many image values: two images of 256 x 256 pixels. The feature maps of more
# outgrow the caches, and the C library returns their memory to the system after every pass.
PASS_VALUES = 2 * 3 * 256 * 256


@dataclass(frozen=True)
class BackboneSpec:
    """A row of the table.

    Attributes:
        model: torchvision's name of the network; None for this package's own `nano`.
        taps: children of the network whose outputs are the feature maps; none where it returns a list of them itself.
        channels: of each map.
        min_size: the shortest side in pixels that leaves every map at least one position.
        scaling: what the network expects of images in [0, 1].
        prefix: what the keys of the features begin with in a full model's file.
        ignored: prefixes of keys in a full model's file that the features do not need.
        pass_values: with how many image values a pass on a CPU is fastest.
    """

    model: str | None
    taps: tuple[str, ...]
    channels: tuple[int, ...]
    min_size: int
    scaling: Scaling = IMAGENET
    prefix: str = "features."
    ignored: tuple[str, ...] = ("classifier.",)
    pass_values: int = PASS_VALUES

    def build(self) -> nn.Module:
        """Return the network without weights and, if it is torchvision's, without its classifier."""
        if self.model is None:
            from damlpips.nets.nano import Nano

            return Nano()
        from torch import nn
        from torchvision import models

        features = models.get_model(self.model, weights=None).get_submodule(self.prefix.rstrip("."))
        children = features.named_children()
        return nn.Sequential(OrderedDict((k, v) for k, v in children if not f"{k}.".startswith(self.ignored)))

    def expected_keys(self) -> dict[str, tuple[int, ...]]:
        """Return the name and the shape of every tensor of the network's state dict."""
        import torch

        with torch.device("meta"):
            return {self.prefix + name: tuple(t.shape) for name, t in self.build().state_dict().items()}


# The taps of alex, vgg and squeeze are LPIPS's: after the ReLU before each pooling, or of each later stage (arXiv
# 1801.03924). Those of the others follow the same rule: the last map of each resolution.
BACKBONES = {
    "nano": BackboneSpec(None, (), (32, 64, 112), 1, prefix="", ignored=(), pass_values=4 * PASS_VALUES),
    "alex": BackboneSpec(
        "alexnet", ("1", "4", "7", "9", "11"), (64, 192, 384, 256, 256), 31, pass_values=4 * PASS_VALUES
    ),
    "vgg": BackboneSpec(
        "vgg16", ("3", "8", "15", "22", "29"), (64, 128, 256, 512, 512), 16, pass_values=PASS_VALUES // 2
    ),
    "squeeze": BackboneSpec(
        "squeezenet1_1", ("1", "4", "7", "9", "10", "11", "12"), (64, 128, 256, 384, 384, 512, 512), 17
    ),
    "vgg19": BackboneSpec(
        "vgg19", ("3", "8", "17", "26", "35"), (64, 128, 256, 512, 512), 16, pass_values=PASS_VALUES // 2
    ),
    "resnet50": BackboneSpec(
        "resnet50",
        ("relu", "layer1", "layer2", "layer3", "layer4"),
        (64, 256, 512, 1024, 2048),
        1,
        prefix="",
        ignored=("fc.",),
    ),
    "convnext_tiny": BackboneSpec("convnext_tiny", ("1", "3", "5", "7"), (96, 192, 384, 768), 32),
    "efficientnet_b0": BackboneSpec("efficientnet_b0", ("1", "2", "3", "5", "7"), (16, 24, 40, 112, 320), 1),
}

# what the names of timm's models begin with
TIMM = "timm:"

# DAMLPIPS's: embedded in the package, needs no other file
DEFAULT_BACKBONE = "nano"

# The cards of weights that were trained for a version of DAMLPIPS, by backbone and version. Everything else has the
# card of the backbone's name.
TRAINED_FOR: dict[tuple[str, int | None], str] = {("nano", 2): "nano:2"}
