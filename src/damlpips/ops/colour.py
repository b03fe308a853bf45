"""The image itself as a layer to compare: perceptually uniform colours, adapted to the light."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from damlpips.checks import is_optimised
from damlpips.ops.execution import blocks, is_followed, on_cpu

# From linear sRGB to the responses of cones, and from their cube roots to lightness, green-red and blue-yellow
# (B. Ottosson, "A perceptual color space for image processing", 2020; public domain).
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
# Below it the cube root is continued as a straight line, as in CIELAB, since its slope at black would be infinite.
TOE = (6 / 29) ** 3
# Below it sRGB is a straight line. The line meets the curve exactly here; the standard's 0.04045 leaves a step of 2e-9.
DARK = 0.0404482362771082
# How much of a uniform tint the eye attributes to the light, and discounts.
ADAPTATION = 0.75
# The mean squared deviation of colours from their mean in photographs (0.039 on average over 494 of them).
PHOTOGRAPH_ENERGY = 0.04


class _Curve(NamedTuple):
    """(x + shift)^exponent above the knee, continued below it as a straight line."""

    knee: float
    shift: float
    exponent: float
    slope: float


# The curve of sRGB without its constant factor, LINEAR_FACTOR, which is part of TO_CONES instead.
LINEAR_FACTOR = (1 / 1.055) ** 2.4
LINEAR = _Curve(DARK, 0.055, 2.4, slope=1 / 12.92 / LINEAR_FACTOR)
ROOT = _Curve(TOE, 0.0, 1 / 3, slope=1 / (3 * TOE ** (2 / 3)))
TO_CONES = tuple(tuple(LINEAR_FACTOR * weight for weight in row) for row in CONES)


def oklab(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Convert sRGB images in [0, 1] to Oklab: lightness 0..1, green-red and blue-yellow within -0.4..0.4.

    Finite with finite slopes everywhere, also outside of [0, 1]. A graph keeps nothing but the images.
    """
    return _Oklab.apply(x) if is_optimised(x) and not is_followed(x) else _by_blocks(_oklab, x)


def uniform(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return images in a space of uniform differences: Oklab for three channels, others as they are."""
    return oklab(x) if x.shape[1] == 3 else x


def adapted_colours(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return `adapted(uniform(x))`; without a graph, this takes little more memory than the result."""
    colours = uniform(x)
    if colours is x or is_optimised(x) or not on_cpu(x):
        return adapted(colours)
    # the operations of `adapted`, so that equal images score exactly zero even where only one of them has a graph
    return colours.sub_(colours.mean((2, 3), keepdim=True), alpha=ADAPTATION)


class _Oklab(torch.autograd.Function):
    """`oklab`, recomputed in the backward pass: its intermediate results take ten times the memory of the images."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _by_blocks(_oklab, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _by_blocks(_oklab_backward, *ctx.saved_tensors, gradient)


def _by_blocks(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    first = images[0]
    if not on_cpu(first) or any(map(is_optimised, images)):
        return function(*images)
    found = torch.empty_like(first, memory_format=torch.contiguous_format)
    for place in blocks(first):
        function(*(x[place] for x in images), out=found[place])
    return found


def _oklab(x: Tensor, out: Tensor | None = None) -> Tensor:
    cones = _mixed(_value(x, LINEAR), TO_CONES)
    return _mixed(_value(cones, ROOT, overwrite=True), OPPONENTS, out)


def _oklab_backward(x: Tensor, gradient: Tensor, out: Tensor | None = None) -> Tensor:
    cones = _mixed(_value(x, LINEAR), TO_CONES)
    of_cones = _mixed(gradient, tuple(zip(*OPPONENTS, strict=True))) * _slope(cones, ROOT)
    of_linear = _mixed(of_cones, tuple(zip(*TO_CONES, strict=True)))
    return torch.mul(of_linear, _slope(x, LINEAR), out=out)


def _value(x: Tensor, curve: _Curve, *, overwrite: bool = False) -> Tensor:
    """Return the curve's values; with `overwrite`, the memory of x may be reused for them."""
    line = x.clamp(max=curve.knee).sub_(curve.knee)
    if is_optimised(x) or not on_cpu(x):
        return torch.add(_power(x, curve, curve.exponent), line, alpha=curve.slope)
    power = _power(x, curve, curve.exponent, out=x if overwrite else None)
    return power.add_(line, alpha=curve.slope)


def _slope(x: Tensor, curve: _Curve) -> Tensor:
    slope = _power(x, curve, curve.exponent - 1)
    if is_optimised(x) or not on_cpu(x):
        return torch.where(x > curve.knee, slope * curve.exponent, curve.slope)
    # on a CPU, `torch.where` takes ten times as long
    on_line = torch.le(x, curve.knee, out=torch.empty_like(x))
    at_knee = curve.exponent * (curve.knee + curve.shift) ** (curve.exponent - 1)
    return slope.mul_(curve.exponent).add_(on_line, alpha=curve.slope - at_knee)


def _power(x: Tensor, curve: _Curve, exponent: float, out: Tensor | None = None) -> Tensor:
    """Return (x + shift)^exponent above the knee, and below it the value at the knee."""
    x = x.clamp(min=curve.knee) if out is None else torch.clamp(x, min=curve.knee, out=out)
    # on a CPU, log2 and exp2 take half the time of log and exp, and a quarter of the time of `**`
    if is_optimised(x):  # for second derivatives
        return ((x + curve.shift).log2() * exponent).exp2()
    return x.add_(curve.shift).log2_().mul_(exponent).exp2_()


def _mixed(x: Tensor, matrix: Sequence[Sequence[float]], out: Tensor | None = None) -> Tensor:
    """Return a matrix times the colours, written out, since autocast would run a matrix product in half precision."""
    first, second, third = x.unbind(1)
    if is_optimised(x) or not on_cpu(x):
        rows = [torch.add(torch.add(first * a, second, alpha=b), third, alpha=c) for a, b, c in matrix]
        return torch.stack(rows, 1)
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    for row, (a, b, c) in zip(out.unbind(1), matrix, strict=True):
        torch.mul(first, a, out=row).add_(second, alpha=b).add_(third, alpha=c)
    return out


def adapted(x: Float[Tensor, "n c h w"], tint: Float[Tensor, "n c"] | None = None) -> Float[Tensor, "n c h w"]:
    """Subtract three quarters of each image's mean colour: a uniform tint counts little, any other in full.

    Args:
        tint: the mean colour of the image, if `x` is only a part of it.
    """
    tint = x.mean((2, 3), keepdim=True) if tint is None else tint[:, :, None, None]
    return torch.sub(x, tint, alpha=ADAPTATION)
