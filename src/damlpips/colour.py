"""The image itself as a layer to compare: perceptually even colours, adapted to the light."""

from collections.abc import Sequence

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
# sRGB is a straight line below it: where the line meets the curve. The standard rounds it to 0.04045, a step of 2e-9.
DARK = 0.0404482362771082
# Floats of a block of images, 2 MiB.
BLOCK = 1 << 19
# How much of an even tint the eye takes for the light and forgives.
ADAPTATION = 0.75
# The colours' mean squared deviation from their mean in photographs (0.039 in the mean over 494 of them).
PHOTOGRAPH_ENERGY = 0.04


def oklab(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Bring sRGB images in [0, 1] to Oklab: lightness 0..1, green-red and blue-yellow within -0.4..0.4.

    Finite with finite slopes everywhere, also for values outside of [0, 1].
    """
    if x.device.type != "cpu" or x.numel() <= BLOCK:
        return _oklab(x)
    # a CPU's cache holds what few images need for all steps
    return torch.cat([_oklab(block) for block in x.split(max(1, BLOCK // x[0].numel()))])


def _oklab(x: Tensor) -> Tensor:
    # the curve's constant factor goes into what comes after it
    factor = (1 / 1.055) ** 2.4
    linear = _curve(x, DARK, shift=0.055, exponent=2.4, slope=1 / 12.92 / factor)
    cones = _mixed(linear, [[factor * weight for weight in row] for row in CONES])
    return _mixed(_curve(cones, TOE, shift=0.0, exponent=1 / 3, slope=1 / (3 * TOE ** (2 / 3))), OPPONENTS)


def _curve(x: Tensor, knee: float, *, shift: float, exponent: float, slope: float) -> Tensor:
    """Return (x + shift)^exponent, from its value at the knee downwards a straight line."""
    above, below = x.clamp(min=knee), x.clamp(max=knee)
    # log and exp: in half the time of `**` on a CPU
    if torch.is_grad_enabled() and x.requires_grad:
        return torch.add(((above + shift).log() * exponent).exp(), below - knee, alpha=slope)
    # the same in place
    return above.add_(shift).log_().mul_(exponent).exp_().add_(below.sub_(knee), alpha=slope)


def _mixed(x: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    # spelled out: autocast would run a matrix product in half precision
    first, second, third = x.unbind(1)
    rows = [torch.add(torch.add(first * a, second, alpha=b), third, alpha=c) for a, b, c in matrix]
    return torch.stack(rows, 1)


def adapted(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Take three quarters of each image's mean colour off: an even tint counts little, an uneven one in full."""
    return x - ADAPTATION * x.mean((2, 3), keepdim=True)
