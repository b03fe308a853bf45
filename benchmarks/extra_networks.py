"""DAMLPIPS and LPIPS on trained networks that the package does not have, for `damlpips agree --metric`.

    DAMLPIPS_EXTRA_NETWORKS=FOLDER damlpips agree SET --metric benchmarks/extra_networks.py:mobilenet

FOLDER holds weights and the programs that load them, `mobilenet_v1.py` and `efficientnet_lite.py`; nothing of it is
part of the package. `mobilenet`, `efficientnet` and `vgg` are DAMLPIPS, with `_2` behind them version 2; with `_lpips`
they are LPIPS with uniform heads, since the published heads belong to other networks. `vgg` is VGG16 with Oxford's
original weights, which are not torchvision's, those of `damlpips-vgg`.
"""

import os
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from torch import Tensor, nn

from damlpips import DAMLPIPS, LPIPS, Backbone

VARIABLE = "DAMLPIPS_EXTRA_NETWORKS"
# how many times the networks halve their images
STRIDE = 32
VGG = "vgg16_oxford_features.safetensors"


def mobilenet() -> DAMLPIPS:
    """Return DAMLPIPS on MobileNet v1."""
    return DAMLPIPS(backbone("mobilenet_v1", "mobilenet_v1_imagenet"))


def mobilenet_2() -> DAMLPIPS:
    """Return DAMLPIPS, version 2, on MobileNet v1."""
    return DAMLPIPS(backbone("mobilenet_v1", "mobilenet_v1_imagenet"), version=2)


def mobilenet_lpips() -> LPIPS:
    """Return LPIPS with uniform heads on MobileNet v1."""
    return LPIPS(backbone("mobilenet_v1", "mobilenet_v1_imagenet"), heads="uniform")


def efficientnet() -> DAMLPIPS:
    """Return DAMLPIPS on EfficientNet-Lite0."""
    return DAMLPIPS(backbone("efficientnet_lite", "efficientnet_lite0"))


def efficientnet_2() -> DAMLPIPS:
    """Return DAMLPIPS, version 2, on EfficientNet-Lite0."""
    return DAMLPIPS(backbone("efficientnet_lite", "efficientnet_lite0"), version=2)


def efficientnet_lpips() -> LPIPS:
    """Return LPIPS with uniform heads on EfficientNet-Lite0."""
    return LPIPS(backbone("efficientnet_lite", "efficientnet_lite0"), heads="uniform")


def vgg() -> DAMLPIPS:
    """Return DAMLPIPS on VGG16 with Oxford's weights."""
    return DAMLPIPS("vgg", weights=found(VGG))


def vgg_2() -> DAMLPIPS:
    """Return DAMLPIPS, version 2, on VGG16 with Oxford's weights."""
    return DAMLPIPS("vgg", weights=found(VGG), version=2)


def vgg_lpips() -> LPIPS:
    """Return LPIPS with uniform heads on VGG16 with Oxford's weights."""
    return LPIPS("vgg", heads="uniform", weights=found(VGG))


@cache
def backbone(loader: str, weights: str) -> Backbone:
    """Return a network of the folder: images in [0, 1] to five maps, with strides from 2 to 32."""
    return Backbone(
        loaded(found(f"{loader}.py"), found(f"{weights}.safetensors")),
        preprocess=unchanged,
        min_size=STRIDE,
        name=weights,
    )


def loaded(loader: Path, weights: Path) -> nn.Module:
    """Return what `load(path)` of a Python file makes of a file of weights."""
    spec = spec_from_file_location(f"extra_networks_{loader.stem}", loader)
    if spec is None or spec.loader is None:
        raise ImportError(f"{loader}: not a module of Python")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.load(str(weights))
    if not isinstance(network, nn.Module):
        raise TypeError(f"{loader}: expected load() to return a torch.nn.Module, got {type(network).__name__}")
    return network


def found(name: str) -> Path:
    """Return the path of a file in the folder that the environment names."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise RuntimeError(f"{VARIABLE} is not set: expected the folder of {name}")
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"no {name} in {folder}, the folder that {VARIABLE} names")
    return path


def unchanged(x: Tensor) -> Tensor:
    """Return images as they are: the networks scale them themselves."""
    return x
