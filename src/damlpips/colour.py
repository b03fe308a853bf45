"""The image itself as a layer to compare: perceptually even colours, adapted to the light."""

import torch
from jaxtyping import Float
from torch import Tensor

# Linear sRGB to cone responses, and their roots to lightness, green-red and blue-yellow (B. Ottosson, "A perceptual
# color space for image processing", 2020; public domain).
CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
OPPONENTS = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
# Below it the cube root goes on as a straight line, as in CIELAB: its slope at black would be infinite.
TOE = (6 / 29) ** 3
# sRGB is a straight line below it.
DARK = 0.04045
# Floats of a block of images, 1 MiB.
BLOCK = 1 << 18
# How much of an even tint the eye takes for the light and forgives.
ADAPTATION = 0.75
# The colours' mean squared deviation from their mean in photographs (0.039 in the mean over 494 of them).
PHOTOGRAPH_ENERGY = 0.04


def oklab(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Bring sRGB images in [0, 1] to Oklab: lightness 0..1, green-red and blue-yellow within -0.4..0.4.

    Finite with finite slopes everywhere, also for values outside of [0, 1].
    """
    if x.device.type != "cpu":
        return _oklab(x)
    # a CPU's cache holds what few images need for all steps
    images = max(1, BLOCK // max(1, x[0].numel())) if len(x) else 1
    return torch.cat([_oklab(block) for block in x.split(images)])


def _oklab(x: Tensor) -> Tensor:
    linear = _power((x.clamp(min=DARK) + 0.055) * (1 / 1.055), 2.4)
    cones = _mixed(torch.add(linear, _below(x, DARK), alpha=1 / 12.92), CONES)
    roots = _power(cones.clamp(min=TOE), 1 / 3)
    return _mixed(torch.add(roots, _below(cones, TOE), alpha=1 / (3 * TOE ** (2 / 3))), OPPONENTS)


def _below(x: Tensor, bound: float) -> Tensor:
    """Return by how much values are below a bound, 0 or negative: a curve is followed above it, a line below."""
    return x.clamp(max=bound) - bound


def _power(x: Tensor, exponent: float) -> Tensor:
    """Return x^exponent for positive x, in half the time of `**` on a CPU."""
    return (x.log() * exponent).exp()


def _mixed(x: Tensor, matrix: tuple[tuple[float, float, float], ...]) -> Tensor:
    # spelled out: autocast would run a matrix product in half precision
    first, second, third = x.unbind(1)
    rows = [torch.add(torch.add(first * a, second, alpha=b), third, alpha=c) for a, b, c in matrix]
    return torch.stack(rows, 1)


def adapted(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Take three quarters of each image's mean colour off: an even tint counts little, an uneven one in full."""
    return x - ADAPTATION * x.mean((2, 3), keepdim=True)
