"""What a mask covers: averages over its places, and images continued beyond it.

A mask is (N, 1, H, W), from 0, which does not count, to 1.
"""

from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from damlpips.ops import windows
from damlpips.ops.execution import exact_dtype

# How often an image is halved to be continued; farther away it is the mean of what is covered.
LEVELS = 7
# Below any mean of a mask that covers a pixel.
LEAST = 1e-12


@overload
def on_grid(mask: Tensor, like: Tensor) -> Tensor: ...
@overload
def on_grid(mask: Tensor | None, like: Tensor) -> Tensor | None: ...
def on_grid(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return how much of each place of maps, (N, C, P, Q), a mask covers, (N, 1, P, Q): the mean of its pixels."""
    if mask is None:
        return None
    size = like.shape[2], like.shape[3]
    return (mask if mask.shape[2:] == size else F.adaptive_avg_pool2d(mask, size)).to(exact_dtype(like.dtype))


def mean(x: Float[Tensor, "n c h w"], mask: Float[Tensor, "n _ h w"] | None) -> Float[Tensor, "n c"]:
    """Average maps over the places that a mask covers, by how much it does; over all without one."""
    if mask is None:
        return x.mean((2, 3))
    return (x * mask).sum((2, 3)) / mask.sum((2, 3))


def box(x: Tensor, k: int, mask: Tensor | None) -> Tensor:
    """Average over those of k x k places that a mask covers; zero where there are none."""
    if mask is None:
        return windows.box(x, k)
    return windows.box(x * mask, k) / windows.box(mask, k).clamp(min=LEAST)


def covered(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return maps with zeros where a mask covers nothing."""
    return x if mask is None else x.where(mask > 0, 0)


def continued(x: Float[Tensor, "n c h w"], mask: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n c h w"]:
    """Return what a mask covers of images, continued smoothly beyond it.

    Averages over ever larger blocks are taken of what is covered, and go back to where less is (pull and push: Gortler
    et al., "The Lumigraph", SIGGRAPH 1996). Nothing of what is not covered is looked at.
    """
    levels = [torch.cat([x * mask, mask], 1)]
    for _ in range(LEVELS):
        levels.append(windows.shrunk(levels[-1], 2))
    total = levels[0].sum((2, 3), keepdim=True)
    found = total[:, :-1] / total[:, -1:]
    for level in reversed(levels):
        known, weight = level[:, :-1], level[:, -1:]
        found = known + (1 - weight) * windows.enlarged(found, (weight.shape[2], weight.shape[3]))
    return found
