"""LPIPS of other packages, built on given weights without a download."""

import copy
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn

from damlpips.nets.table import BACKBONES
from damlpips.nets.weights import load_heads

from .contenders import BASELINE, Call, Contender, Place
from .networks import HEADS, TORCHVISION, bare_network


def peers(net: str, place: Place, names: Iterable[str]) -> tuple[list[Contender], dict[str, str]]:
    """Return LPIPS of other packages on the random weights, and why others are left out."""
    network = bare_network(net)
    found: list[Contender] = []
    left_out: dict[str, str] = {}
    for name in names:
        try:
            with warnings.catch_warnings(), torchvision_gives(network):
                warnings.simplefilter("ignore")  # of torchvision's older arguments, which the peers use
                call = PEERS[name](net, network, place)
            found.append(Contender(name, _as_a_user_would(call, place), claims="LPIPS"))
        except (ImportError, CannotBuildError) as error:
            if name == BASELINE:
                raise  # nothing to compare with
            left_out[name] = str(error)
    return found, left_out


class CannotBuildError(Exception):
    """A package has no LPIPS on this backbone, or none without a download."""


@contextmanager
def torchvision_gives(network: nn.Module) -> Iterator[None]:
    """Let torchvision's constructors return a model with the features of `network`: no download, no classifier."""
    from torchvision import models

    def model(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(features=copy.deepcopy(network))

    with mock.patch.multiple(models, **dict.fromkeys(TORCHVISION.values(), model)):
        yield


def _as_a_user_would(call: Call, place: Place) -> Call:
    """Run a float32 metric in another precision by autocast, and return its scores as (N,)."""

    def scores(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(place.device.type, place.dtype, enabled=place.dtype != torch.float32):
            return call(x, y).flatten()

    return scores


def _lpips(net: str, _: nn.Module, place: Place) -> Call:
    import lpips

    module = lpips.LPIPS(net=net, verbose=False).to(place.device)
    if place.device.type == "cpu" or place.dtype == torch.float32:
        return functools.partial(module, normalize=True)
    # what is fastest for it in half precision on a GPU
    module = module.to(memory_format=torch.channels_last)

    def call(x: Tensor, y: Tensor) -> Tensor:
        x, y = (images.contiguous(memory_format=torch.channels_last) for images in (x, y))
        return module(x, y, normalize=True)

    return call


def _torchmetrics(net: str, _: nn.Module, place: Place) -> Call:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net, reduction="none", normalize=True).to(place.device)
    except ValueError as error:
        raise CannotBuildError(f"this version has no scores of single images: {error}") from error

    def scores(x: Tensor, y: Tensor) -> Tensor:
        found = metric(x, y)
        metric.reset()  # it keeps every score, with the graph that it came from
        return found

    return scores


def _piq(net: str, network: nn.Module, place: Place) -> Call:
    from piq.perceptual import ContentLoss

    if net != "vgg":
        raise CannotBuildError("its LPIPS is on VGG only")
    # piq.LPIPS is this with weights that it downloads, under the same names of layers
    spec = BACKBONES[net]
    heads = [head.reshape(1, -1, 1, 1) for head in load_heads(HEADS, net, spec.channels)]
    features = copy.deepcopy(network)
    return ContentLoss(features, spec.taps, heads, normalize_features=True, reduction="none").to(place.device)


def _pyiqa(net: str, _: nn.Module, place: Place) -> Call:
    from pyiqa.archs.lpips_arch import LPIPS as PyiqaLPIPS

    # its heads would be downloaded
    module = PyiqaLPIPS(net=net, pretrained=False)
    heads = load_heads(HEADS, net, BACKBONES[net].channels)
    with torch.no_grad():
        for layer, head in zip(module.lins, heads, strict=True):
            layer.model[-1].weight.copy_(head.reshape(1, -1, 1, 1))
    return module.to(place.device)


PEERS: dict[str, Callable[[str, nn.Module, Place], Call]] = {
    BASELINE: _lpips,
    "torchmetrics": _torchmetrics,
    "piq": _piq,
    "pyiqa": _pyiqa,
}
