"""The functions that read every feature of a pair, in PyTorch, for any device.

A CPU works block by block, each of which stays in its cache from the first step to the last. Nothing as large as the
features is allocated but the results. `damlpips.ops.triton_kernels` has the same functions for CUDA.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from damlpips.ops import distance
from damlpips.ops.distance import Statistics, divisor, pool, working
from damlpips.ops.execution import Block, blocks


def _map_like(a: Tensor) -> Tensor:
    n, _, h, w = a.shape
    return torch.empty(n, 1, h, w, device=a.device, dtype=torch.promote_types(a.dtype, torch.float32))


def _map_of(function: Callable[[Block], Tensor], a: Tensor) -> Tensor:
    """Return the map (N, 1, H, W) whose blocks a function returns."""
    every = list(blocks(a))
    if len(every) == 1:
        return function(*every)
    found = _map_like(a)
    for block in every:
        found[block] = function(block)
    return found


def _over_places(values: Tensor) -> Tensor:
    """Reshape one value per channel (N, C) so that it broadcasts over places."""
    return values[:, :, None, None]


# --- LPIPS ----------------------------------------------------------------------------------------------------------


def _unit(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `distance.unit(a)`, the sum of squares at each place, and the divisor of each place."""
    a = working(a)
    scratch = a.square()
    energy = scratch.sum(1, keepdim=True)
    divided_by = divisor(energy)
    return torch.div(a, divided_by, out=scratch), energy, divided_by


def lpips(a: Tensor, b: Tensor, head: Tensor | None) -> Tensor:
    """Return mean_p sum_c w_c (a^_c - b^_c)^2, (N,)."""

    def compared(block: Block) -> Tensor:
        difference = _unit(a[block])[0].sub_(_unit(b[block])[0]).square_()
        if head is not None:
            difference.mul_(head[:, None, None])
        return difference.sum(1, keepdim=True)

    return pool(_map_of(compared, a))


def lpips_gradients(
    a: Tensor, b: Tensor, head: Tensor | None, gradient: Tensor, needed: Sequence[bool]
) -> list[Tensor]:
    """Return the gradients of `lpips` with respect to a and b, those that are needed.

    With G = 2 w (a^ - b^) / places, times the incoming gradient, and n = |a| + 1e-10, the gradient of a is
    (G - a^ <G, a^> n / |a|) / n; that of b has b for a and -G for G.
    """
    n, c, h, w = a.shape
    factor = (gradient * (2 / (h * w)))[:, None].expand(n, c)
    factor = _over_places(factor if head is None else factor * head)
    found = [torch.empty_like(x) if wanted else None for x, wanted in zip((a, b), needed, strict=True)]
    for block in blocks(a):
        of_a, of_b = _unit(a[block]), _unit(b[block])
        outer = (of_a[0] - of_b[0]).mul_(factor[block[0]])
        for (unit, energy, divided_by), part, sign in zip((of_a, of_b), found, (1, -1), strict=True):
            if part is not None:
                along = (unit * outer).sum(1, keepdim=True)
                along = torch.where(energy > 0, along * divided_by / energy.sqrt(), 0.0)
                across = torch.sub(outer, unit.mul_(along), out=unit)
                torch.div(across, sign * divided_by, out=part[block])
    return [part for part in found if part is not None]


# --- DAMLPIPS -------------------------------------------------------------------------------------------------------


def statistics(a: Tensor, b: Tensor) -> tuple[Statistics, Statistics]:
    """Return `distance.statistics` of both."""
    return _statistics(a), _statistics(b)


def _statistics(a: Tensor) -> Statistics:
    every = list(blocks(a))
    if len(every) == 1:
        return distance.statistics(a)
    n, c, h, w = a.shape
    energy = _map_like(a)
    total, power = energy.new_zeros(2, n, c)
    for block in every:
        x = working(a[block])
        square = x.square()
        energy[block] = square.sum(1, keepdim=True)
        total[block[0]] += x.sum((2, 3))
        power[block[0]] += square.sum((2, 3))
    return Statistics(energy, total / (h * w), power / (h * w))


def differences(a: Tensor, b: Tensor, channel: Tensor | None) -> Tensor:
    """Return sum_c g_c (a_c - b_c)^2 at each place, (N, 1, H, W), with the weights g of `channel` (N, C) or 1."""

    def compared(block: Block) -> Tensor:
        difference = (working(a[block]) - working(b[block])).square_()
        if channel is not None:
            difference.mul_(_over_places(channel[block[0]]))
        return difference.sum(1, keepdim=True)

    return _map_of(compared, a)


def channel_differences(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Return sum_p w_p (a_cp - b_cp)^2 of each channel, (N, C)."""
    n, c, _, _ = a.shape
    found = weight.new_zeros(n, c)
    for block in blocks(a):
        difference = (working(a[block]) - working(b[block])).square_()
        found[block[0]] += difference.mul_(weight[block]).sum((2, 3))
    return found


class Gradients(NamedTuple):
    """The derivatives of a loss with respect to what was computed from the features of a pair.

    Attributes:
        difference: with respect to sum_c g_c (a_c - b_c)^2 at each place, (N, 1, H, W).
        channel: the weights g in this sum, (N, C); None for 1.
        energy: with respect to (|a|^2 + |b|^2) / 2 at each place, (N, 1, H, W); None for 0.
        sums: (N, 4, C), for each channel: with respect to the sum of a over places, that of b, half the sum of a^2, and
            half the sum of b^2.
    """

    difference: Tensor
    channel: Tensor | None
    energy: Tensor | None
    sums: Tensor


def gradients(a: Tensor, b: Tensor, by: Gradients, needed: Sequence[bool]) -> list[Tensor]:
    """Return the gradients of the loss with respect to a and b, those that are needed.

    For a_cp it is 2 g_c (a_cp - b_cp) difference_p + a_cp (energy_p + sums_2c) + sums_0c; for b_cp it is
    2 g_c (b_cp - a_cp) difference_p + b_cp (energy_p + sums_3c) + sums_1c.
    """
    found = [torch.empty_like(x) if wanted else None for x, wanted in zip((a, b), needed, strict=True)]
    for block in blocks(a):
        images, features = block[0], (working(a[block]), working(b[block]))
        apart = torch.sub(*features).mul_(2 * by.difference[block])
        if by.channel is not None:
            apart.mul_(_over_places(by.channel[images]))
        for k, (x, part, sign) in enumerate(zip(features, found, (1, -1), strict=True)):
            if part is not None:
                by_sum, factor = (_over_places(by.sums[images, row]) for row in (k, k + 2))
                if by.energy is not None:
                    factor = factor + by.energy[block]
                own = torch.addcmul(by_sum, x, factor)
                torch.add(own, apart, alpha=sign, out=part[block])
    return [part for part in found if part is not None]
