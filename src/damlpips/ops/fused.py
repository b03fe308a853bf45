"""The distance of one layer, with few reads of its features and little memory: the graph keeps hardly more than them.

The equations are those of `distance`. Differentiated by autograd, its plain functions would keep several tensors as
large as the features; the gradients here are derived by hand instead. The plain functions are used where each operation
must be seen: by the compiler, which fuses them itself, in forward mode, in `torch.func`, and for second derivatives.
"""

import os
import warnings
from collections.abc import Sequence
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from damlpips.checks import is_optimised
from damlpips.ops import blockwise, distance
from damlpips.ops.blockwise import Gradients
from damlpips.ops.distance import Adaptive, Fixed
from damlpips.ops.execution import gradients_with_graph, in_place_of, is_followed, is_transformed

# An environment variable: "off" computes without Triton's kernels, for comparison.
SWITCH = "DAMLPIPS_KERNELS"


class Distances(NamedTuple):
    """The distances of a layer, (N,) each."""

    structure: Tensor
    texture: Tensor


def lpips_distance(a: Tensor, b: Tensor, head: Tensor | None) -> Tensor:
    """Return mean_p sum_c w_c (a^_c - b^_c)^2, what a layer adds to LPIPS.

    Equal to `distance.pool(distance.lpips_map(a, b, head))`.

    Args:
        a, b: feature maps, (N, C, H, W).
        head: the weights w of the channels (C,); None for 1.

    Returns:
        (N,), float64 if the features are, else float32.
    """
    if is_followed(a, b) or (head is not None and head.requires_grad):
        return _plain_lpips(a, b, head)
    head = None if head is None else head.to(torch.promote_types(a.dtype, torch.float32))
    return _Lpips.apply(*_kept(a, b), head) if any(map(is_optimised, (a, b))) else _Lpips.forward(a, b, head)


def damlpips_distances(a: Tensor, b: Tensor, weighing: Adaptive | Fixed) -> Distances:
    """Return the distances in structure and in texture of a layer of DAMLPIPS.

    Equal to those of `distance.compare(a, b, weighing)`. The features are read twice, since the weights need sums over
    all places before the first can be compared, and twice again for the gradients.

    Args:
        a, b: feature maps, (N, C, H, W).
        weighing: where the weights of places and channels come from.

    Returns:
        structure and texture, (N,) each, float64 if the features are, else float32.
    """
    if is_followed(a, b):
        return Distances(*_plain_distances(a, b, weighing))
    if is_optimised(a) or is_optimised(b):
        return Distances(*_Distances.apply(*_kept(a, b), weighing)[:2])
    run = _implementation(a, b)
    if run is not blockwise and isinstance(weighing, Adaptive):
        return Distances(*run.distances(a, b, weighing))
    return Distances(*_Distances.forward(a, b, weighing)[:2])


def _kept(*features: Tensor) -> Sequence[Tensor]:
    """Return the features, with copies of those made in inference mode, which a graph cannot keep."""
    return [x.clone() if x.is_inference() else x for x in features]


def image_kernels(*images: Tensor) -> ModuleType | None:
    """Return `damlpips.ops.triton_images` where it can compute with images, and nothing follows each operation."""
    return _kernels_for("triton_images", images)


def motion_kernels(*images: Tensor) -> ModuleType | None:
    """Return `damlpips.ops.triton_motion`, as `image_kernels` does its module."""
    return _kernels_for("triton_motion", images)


def _kernels_for(name: str, images: Sequence[Tensor]) -> ModuleType | None:
    if not kernels_run(images[0].device) or is_followed(*images):
        return None
    kernels = import_module(f"damlpips.ops.{name}")
    return kernels if kernels.fit(*images) else None


def kernels_run(device: torch.device) -> bool:
    """Return whether Triton's kernels are to be used on a device, and can be."""
    return device.type == "cuda" and os.environ.get(SWITCH) != "off" and _kernels(device) is not None


def _implementation(a: Tensor, b: Tensor) -> ModuleType:
    """Return the module that computes with a pair of feature maps: `triton_kernels` or `blockwise`."""
    if a.device.type != "cuda" or os.environ.get(SWITCH) == "off":
        return blockwise
    kernels = _kernels(a.device)
    return kernels if kernels is not None and kernels.fit(a, b) else blockwise


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    """Return `damlpips.ops.triton_kernels` if Triton is installed and works on the device; tried once per device."""
    try:
        from damlpips.ops import triton_kernels

        triton_kernels.probe(device)
    except ImportError:
        return None
    except Exception as error:  # Triton cannot use the compiler, the driver or the device
        warnings.warn(
            f"Triton cannot run its kernels on {device} ({type(error).__name__}: {error}): scores are computed without"
            f" them, which takes more time and memory; {SWITCH}=off does so without this warning",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return triton_kernels


def _plain_lpips(a: Tensor, b: Tensor, head: Tensor | None) -> Tensor:
    return distance.pool(distance.lpips_map(a, b, head))


def _plain_distances(a: Tensor, b: Tensor, weighing: Adaptive | Fixed) -> tuple[Tensor, Tensor]:
    compared = distance.compare(a, b, weighing)
    return compared.structure, compared.texture


def _needs_plain_gradients(gradient: Tensor) -> bool:
    """Return whether the gradients will be differentiated again, or are inside a transform of `torch.func`."""
    return torch.is_grad_enabled() or is_transformed(gradient)


class _Lpips(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, head: Tensor | None) -> Tensor:
        return _implementation(a, b).lpips(a, b, head)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, b, ctx.head = inputs
        ctx.save_for_backward(a, b)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        a, b = ctx.saved_tensors
        head = ctx.head
        needed = ctx.needs_input_grad[:2]
        if _needs_plain_gradients(gradient):
            found = gradients_with_graph(partial(_plain_lpips, head=head), (a, b), (gradient,), needed)
        else:
            found = _implementation(a, b).lpips_gradients(a, b, head, gradient, needed)
        return *in_place_of(found, needed), None


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, weighing: Adaptive | Fixed) -> tuple[Tensor, ...]:
        run = _implementation(a, b)
        of_a, of_b = run.statistics(a, b)
        place, channel = weighing.weights(of_a, of_b)
        d = run.differences(a, b, channel if isinstance(weighing, Adaptive) else None).mul_(place)
        structure, texture = distance.peak_pool(d), distance.texture_distance(of_a, of_b, place, channel)
        channels = torch.stack([of_a.mean, of_b.mean, of_a.power, of_b.power, channel], 1)
        return structure, texture, d, place, channels

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, b, ctx.weighing = inputs
        structure, _, d, place, channels = output
        ctx.mark_non_differentiable(d, place, channels)
        ctx.set_materialize_grads(False)
        # beside the features: one C-th as much, and what does not grow with the image
        ctx.save_for_backward(a, b, structure, d, place, channels)

    @staticmethod
    def backward(ctx: Any, by_structure: Tensor | None, by_texture: Tensor | None, *_: None) -> Any:
        a, b, *kept = ctx.saved_tensors
        none = kept[0].new_zeros(len(a))
        gradients = (none if by_structure is None else by_structure, none if by_texture is None else by_texture)
        needed, weighing = ctx.needs_input_grad[:2], ctx.weighing
        if any(map(_needs_plain_gradients, gradients)):
            found = gradients_with_graph(partial(_plain_distances, weighing=weighing), (a, b), gradients, needed)
        else:
            found = _gradients_of_distances(a, b, kept, gradients, weighing, needed)
        return *in_place_of(found, needed), None


def _gradients_of_distances(
    a: Tensor,
    b: Tensor,
    kept: Sequence[Tensor],
    gradients: tuple[Tensor, Tensor],
    weighing: Adaptive | Fixed,
    needed: Sequence[bool],
) -> list[Tensor]:
    """Return the gradients of a loss L with respect to a and b, those that are needed.

    `gradients` are dL / dS and dL / dT. With S the structure, u_p = sum_c g_c (a_cp - b_cp)^2, s_p = 1 / place_p,
    d_p = u_p / s_p, and the texture T = sum_c g_c t_c / mean_p s_p::

        dL / du_p = dL / dS * d_p / (S s_p places),    dL / ds_p = - d_p dL / du_p - dL / dT * T / sum_p s_p
        dL / dg_c = sum_p dL / du_p (a_cp - b_cp)^2 + dL / dT * t_c / mean_p s_p

    and from there through the weights to energies, means and powers. `kept` is what the forward pass has saved: S, d,
    `place`, and for each channel (N, 5, C) the means of a and of b, their powers, and the weights.
    """
    run = _implementation(a, b)
    structure, d, place, channels = kept
    places = d[0].numel()
    means, powers, channel = channels[:, :2], channels[:, 2:4], channels[:, 4:]
    by_structure, by_texture = (g[:, None, None] for g in gradients)
    weight = distance.peak_weight(d, structure) * place
    by_difference = weight * (by_structure / places)[..., None]
    pool = place.reciprocal().mean((2, 3))[..., None]
    by_texture = by_texture / pool
    apart, by_means, by_powers = _through_texture(means, powers, by_texture * channel)
    by_energy = None
    if isinstance(weighing, Adaptive):
        by_pool = -by_difference * d
        by_energy = weighing.rho * by_pool
        # the mean of s is the mean energy
        by_all = (1 - weighing.rho) * by_pool.sum((2, 3))[..., None]
        by_all = by_all - by_texture * (apart * channel).sum(2, keepdim=True) / pool
        by_channel = by_texture * apart + run.channel_differences(a, b, by_difference)[:, None]
        by_power = by_all + _through_channel(powers.mean(1, keepdim=True), channel, by_channel, weighing.gamma)
        # the weights depend on the mean of the two powers
        by_powers = by_powers + by_power / 2
    by = Gradients(
        by_difference,
        channel[:, 0] if isinstance(weighing, Adaptive) else None,
        by_energy,
        # a mean is a places-th of a sum, a power twice a places-th of half a sum of squares
        torch.cat([by_means / places, by_powers * (2 / places)], 1),
    )
    return run.gradients(a, b, by, needed)


def _through_texture(means: Tensor, powers: Tensor, by_difference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `distance.texture_differences` (N, 1, C), and the derivatives by means and by powers (N, 2, C each)."""
    spreads = distance.spread(means, powers)
    # a - b for a, b - a for b
    mean_apart, spread_apart = (x - x.flip(1) for x in (means, spreads))
    differences = mean_apart[:, :1].square() + spread_apart[:, :1].square()
    inside = (powers >= means.square()).to(means)  # where the variance is not cut off at zero
    by_variance = by_difference * spread_apart / spreads
    by_means = 2 * (by_difference * mean_apart - by_variance * inside * means)
    return differences, by_means, by_variance * (inside + distance.SPREAD_FLOOR)


def _through_channel(power: Tensor, channel: Tensor, by_channel: Tensor, gamma: float) -> Tensor:
    """Differentiate the weights of channels, ((m + eps) / (E_c + 0.001 m + eps))^gamma, by the powers E_c."""
    mean = power.mean(-1, keepdim=True)
    floored = power + distance.CHANNEL_FLOOR * mean + distance.ENERGY_EPS
    by_log = gamma * by_channel * channel
    by_mean = by_log * (1 / (mean + distance.ENERGY_EPS) - distance.CHANNEL_FLOOR / floored)
    return by_mean.mean(-1, keepdim=True) - by_log / floored
