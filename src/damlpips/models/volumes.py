"""Volumes, (N, C, D, H, W): cut into slices along their axes, which are images like any other to a module.

A module compares volumes nowhere else: no network here sees three dimensions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from damlpips import checks
from damlpips.models.base import PerceptualDistance
from damlpips.models.video import ACCELERATED
from damlpips.ops import distance
from damlpips.ops.execution import recomputed

# each with its place in (N, C, D, H, W)
AXES = {"depth": 2, "height": 3, "width": 4}
POOLINGS = ("mean", "max")


def distances(module: PerceptualDistance, x: Any, y: Any, *, axes: Any, pool: str) -> Tensor:
    """Return the distance of each pair of volumes, (N,), or its mean or sum as the module's `reduction` says.

    `damlpips.functional.volume` says what goes in and what is raised.
    """
    axes = _checked_axes(axes)
    checks.one_of("pool", pool, POOLINGS)
    _check(module, x, y, axes)
    scores = torch.stack([_along(module, x, y, AXES[axis], pool) for axis in axes]).mean(0)
    return distance.reduce(scores, module.settings.reduction)


def slice_distances(module: PerceptualDistance, x: Any, y: Any, *, axis: str) -> Float[Tensor, "n s"]:
    """Return the distance of each pair of slices along an axis, (N, S).

    `damlpips.functional.slices` says what goes in and what is raised.
    """
    (axis,) = _checked_axes(axis)
    _check(module, x, y, [axis])
    return _slices(module, x, y, AXES[axis])


def _checked_axes(axes: Any) -> list[str]:
    axes = [axes] if isinstance(axes, str) else axes
    if not isinstance(axes, Sequence) or not axes or len(set(axes)) < len(axes):
        raise ValueError(f"axes: expected one or more of {', '.join(map(repr, AXES))}, once each, got {axes!r}")
    return [checks.one_of("axis", axis, AXES) for axis in axes]


def _check(module: PerceptualDistance, x: Any, y: Any, axes: Sequence[str]) -> None:
    """Check what the slices no longer tell; a module checks these as it does all images."""
    settings, channels = module.settings, module.encoder.channels
    if settings.video:
        raise ValueError("volume: compares volumes slice by slice, got a module with video=True: use one without")
    for what, v in (("first volume", x), ("second volume", y)):
        expected = f"expected (N, {channels}, D, H, W)"
        if not isinstance(v, Tensor):
            raise TypeError(f"{what}: {expected}, a torch.Tensor, got {type(v).__module__}.{type(v).__name__}")
        if v.ndim != 5:
            hint = ": add a dimension for the batch or the channels with x.unsqueeze(0)" if v.ndim in (3, 4) else ""
            raise ValueError(f"{what}: {expected}, got {tuple(v.shape)}{hint}")
        if v.shape[1] != channels and not (v.shape[1] == 1 and channels == 3 and settings.grey == "repeat"):
            hint = ": grey volumes need grey='repeat', or a network of one channel" if v.shape[1] == 1 else ""
            raise ValueError(f"{what}: {expected}, got {tuple(v.shape)}{hint}")
        if v.numel() == 0:
            raise ValueError(f"{what}: {expected}, got {tuple(v.shape)}: there is nothing in it")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"the two batches must hold as many volumes, got {x.shape[0]} and {y.shape[0]}")
    for axis in axes:
        if x.shape[AXES[axis]] != y.shape[AXES[axis]]:
            raise ValueError(
                f"axis {axis!r}: the volumes must have as many slices, got {x.shape[AXES[axis]]} and"
                f" {y.shape[AXES[axis]]}"
            )
        if settings.resize is None:
            checks.large_enough(
                _size_of(x, AXES[axis]),
                module.encoder.min_size,
                what=f"slices along {axis!r}",
                backbone=module.encoder.name,
            )


def _size_of(volume: Tensor, dim: int) -> tuple[int, int]:
    """Return height and width of the slices along a dimension."""
    height, width = (volume.shape[d] for d in AXES.values() if d != dim)
    return height, width


def _along(module: PerceptualDistance, x: Tensor, y: Tensor, dim: int, pool: str) -> Float[Tensor, " n"]:
    scores = _slices(module, x, y, dim)
    return scores.mean(1) if pool == "mean" else scores.amax(1)


def _slices(module: PerceptualDistance, x: Tensor, y: Tensor, dim: int) -> Float[Tensor, "n s"]:
    """Compare the slices along a dimension, a few at a time; in the backward pass they are compared again."""

    def compare(a: Tensor, b: Tensor) -> Tensor:
        return module.per_layer(a, b).sum(1)

    step = module.encoder.pass_count(_size_of(x, dim), ACCELERATED)
    return torch.stack(
        [
            torch.cat([recomputed(compare, [a, b]) for a, b in _parts(v, w, dim, step)])
            for v, w in zip(x, y, strict=True)
        ]
    )


def _parts(x: Tensor, y: Tensor, dim: int, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the slices of a pair of volumes (C, D, H, W), (S, C, height, width), some at a time."""
    # `dim` counts the batch, which is gone
    yield from zip(x.movedim(dim - 1, 0).split(step), y.movedim(dim - 1, 0).split(step), strict=True)
