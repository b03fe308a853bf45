"""Passes over the feature maps of a pair, on any device: what goes through all features, and nothing else.

A CPU takes them in blocks that stay in its cache from the first step to the last; what is as large as the features is
only ever what was asked for. `damlpips.ops.triton_kernels` has the same functions for CUDA.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from damlpips.ops import distance
from damlpips.ops.distance import Statistics, divisor, pool, working
from damlpips.ops.execution import Place, blocks


def _map_like(a: Tensor) -> Tensor:
    n, _, h, w = a.shape
    return torch.empty(n, 1, h, w, device=a.device, dtype=torch.promote_types(a.dtype, torch.float32))


def _map_of(function: Callable[[Place], Tensor], a: Tensor) -> Tensor:
    """Put the maps together that a function returns for the blocks."""
    places = list(blocks(a))
    if len(places) == 1:
        return function(*places)
    found = _map_like(a)
    for place in places:
        found[place] = function(place)
    return found


def _over_places(values: Tensor) -> Tensor:
    """Bring values of channels (N, C) to where they can be multiplied with features."""
    return values[:, :, None, None]


# --- LPIPS ----------------------------------------------------------------------------------------------------------


def _unit(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `distance.unit` of features, the sum of their squares, and what they were divided by."""
    a = working(a)
    scratch = a.square()
    energy = scratch.sum(1, keepdim=True)
    divided_by = divisor(energy)
    return torch.div(a, divided_by, out=scratch), energy, divided_by


def lpips(a: Tensor, b: Tensor, head: Tensor | None) -> Tensor:
    """Return mean_p sum_c w_c (a^_c - b^_c)^2, (N,)."""

    def compared(place: Place) -> Tensor:
        difference = _unit(a[place])[0].sub_(_unit(b[place])[0]).square_()
        if head is not None:
            difference.mul_(head[:, None, None])
        return difference.sum(1, keepdim=True)

    return pool(_map_of(compared, a))


def lpips_gradients(
    a: Tensor, b: Tensor, head: Tensor | None, gradient: Tensor, needed: Sequence[bool]
) -> list[Tensor]:
    """Return the gradients of `lpips` for a and for b, where they are needed.

    With G = 2 w (a^ - b^) / places times the gradient that comes in, that of a is (G - a^ <G, a^> n / |a|) / n, where
    n = |a| + 1e-10; that of b the same with -G.
    """
    n, c, h, w = a.shape
    factor = (gradient * (2 / (h * w)))[:, None].expand(n, c)
    factor = _over_places(factor if head is None else factor * head)
    found = [torch.empty_like(x) if wanted else None for x, wanted in zip((a, b), needed, strict=True)]
    for place in blocks(a):
        of_a, of_b = _unit(a[place]), _unit(b[place])
        outer = (of_a[0] - of_b[0]).mul_(factor[place[0]])
        for (unit, energy, divided_by), part, sign in zip((of_a, of_b), found, (1, -1), strict=True):
            if part is not None:
                along = (unit * outer).sum(1, keepdim=True)
                along = torch.where(energy > 0, along * divided_by / energy.sqrt(), 0.0)
                across = torch.sub(outer, unit.mul_(along), out=unit)
                torch.div(across, sign * divided_by, out=part[place])
    return [part for part in found if part is not None]


# --- DAMLPIPS -------------------------------------------------------------------------------------------------------


def statistics(a: Tensor, b: Tensor) -> tuple[Statistics, Statistics]:
    """Return `distance.statistics` of both."""
    return _statistics(a), _statistics(b)


def _statistics(a: Tensor) -> Statistics:
    places = list(blocks(a))
    if len(places) == 1:
        return distance.statistics(a)
    n, c, h, w = a.shape
    energy = _map_like(a)
    total, power = energy.new_zeros(2, n, c)
    for place in places:
        x = working(a[place])
        square = x.square()
        energy[place] = square.sum(1, keepdim=True)
        total[place[0]] += x.sum((2, 3))
        power[place[0]] += square.sum((2, 3))
    return Statistics(energy, total / (h * w), power / (h * w))


def differences(a: Tensor, b: Tensor, channel: Tensor | None) -> Tensor:
    """Return sum_c g_c (a_c - b_c)^2 of each place, (N, 1, H, W); g = 1 where None."""

    def compared(place: Place) -> Tensor:
        difference = (working(a[place]) - working(b[place])).square_()
        if channel is not None:
            difference.mul_(_over_places(channel[place[0]]))
        return difference.sum(1, keepdim=True)

    return _map_of(compared, a)


def channel_differences(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Return sum_p w_p (a_cp - b_cp)^2 of each channel, (N, C)."""
    n, c, _, _ = a.shape
    found = weight.new_zeros(n, c)
    for place in blocks(a):
        difference = (working(a[place]) - working(b[place])).square_()
        found[place[0]] += difference.mul_(weight[place]).sum((2, 3))
    return found


class Gradients(NamedTuple):
    """The derivatives of a loss by what was computed from a pair's features.

    Attributes:
        difference: by sum_c g_c (a_c - b_c)^2 of each place, (N, 1, H, W); channel: those g (N, C), None for 1.
        energy: by (|a|^2 + |b|^2) / 2 of each place, (N, 1, H, W); None where it counts for nothing.
        sums: of each channel of a and of b, by the sums over places and by half the sums of squares, (N, 4, C).
    """

    difference: Tensor
    channel: Tensor | None
    energy: Tensor | None
    sums: Tensor


def gradients(a: Tensor, b: Tensor, slopes: Gradients, needed: Sequence[bool]) -> list[Tensor]:
    """Return the gradients for a and for b, where they are needed.

    That of a_cp is 2 g_c (a_cp - b_cp) difference_p + a_cp (energy_p + by square) + by sum; that of b with b - a.
    """
    found = [torch.empty_like(x) if wanted else None for x, wanted in zip((a, b), needed, strict=True)]
    for place in blocks(a):
        images, features = place[0], (working(a[place]), working(b[place]))
        apart = torch.sub(*features).mul_(2 * slopes.difference[place])
        if slopes.channel is not None:
            apart.mul_(_over_places(slopes.channel[images]))
        for k, (x, part, sign) in enumerate(zip(features, found, (1, -1), strict=True)):
            if part is not None:
                by_sum, factor = (_over_places(slopes.sums[images, row]) for row in (k, k + 2))
                if slopes.energy is not None:
                    factor = factor + slopes.energy[place]
                own = torch.addcmul(by_sum, x, factor)
                torch.add(own, apart, alpha=sign, out=part[place])
    return [part for part in found if part is not None]
