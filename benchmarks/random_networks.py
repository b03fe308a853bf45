"""LPIPS with uniform heads on networks that have learned nothing, for `damlpips agree --metric`.

    damlpips agree SET --metric benchmarks/random_networks.py:alex_default

A network is alex, squeeze or vgg, its weights are drawn from a fixed seed. `_default` are torchvision's own: in AlexNet
weights and biases are uniform within 1/sqrt(fan-in); in SqueezeNet weights are uniform within sqrt(6/fan-in), in VGG
Gaussian with variance 2/fan-out, and both have biases 0. `_gaussian` are Gaussian with variance 2/fan-in (arXiv
1502.01852) and biases 0; `_gaussian_1` and `_gaussian_2` are further draws. Without biases the variance does not
matter: ReLU and pooling only scale a map by it, and LPIPS divides that out. So VGG's default is its Gaussian, too.
"""

import math

import torch
from torch import nn

from damlpips import LPIPS, Backbone
from damlpips.nets.table import BACKBONES

# the first draw
SEED = 0


def alex_default() -> LPIPS:
    """Return LPIPS on AlexNet as torchvision draws it."""
    return on_random("alex")


def squeeze_default() -> LPIPS:
    """Return LPIPS on SqueezeNet as torchvision draws it."""
    return on_random("squeeze")


def vgg_default() -> LPIPS:
    """Return LPIPS on VGG16 as torchvision draws it."""
    return on_random("vgg")


def alex_gaussian() -> LPIPS:
    """Return LPIPS on AlexNet with Gaussian weights."""
    return on_random("alex", variance=2.0)


def alex_gaussian_1() -> LPIPS:
    """Return LPIPS on AlexNet with Gaussian weights, a second draw."""
    return on_random("alex", variance=2.0, seed=SEED + 1)


def alex_gaussian_2() -> LPIPS:
    """Return LPIPS on AlexNet with Gaussian weights, a third draw."""
    return on_random("alex", variance=2.0, seed=SEED + 2)


def squeeze_gaussian() -> LPIPS:
    """Return LPIPS on SqueezeNet with Gaussian weights."""
    return on_random("squeeze", variance=2.0)


def on_random(name: str, *, variance: float | None = None, seed: int = SEED) -> LPIPS:
    """Return LPIPS with uniform heads on a network of the table without what it has learned.

    Args:
        variance: of the Gaussian weights, times the fan-in; None: the weights and biases that torchvision draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BACKBONES[name].build()
        if variance is not None:
            draw_gaussian(network, variance)
    return LPIPS(Backbone.from_table(name, network.state_dict()), heads="uniform")


@torch.no_grad()
def draw_gaussian(network: nn.Module, variance: float) -> None:
    """Draw the weights of all convolutions from N(0, variance / fan-in), and set their biases to 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(0.0, math.sqrt(variance / module.weight[0].numel()))
            if module.bias is not None:
                module.bias.zero_()
