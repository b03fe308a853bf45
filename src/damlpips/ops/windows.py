"""Averages over the neighbourhood of each place of maps (N, C, H, W)."""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from damlpips.ops.execution import is_followed, on_cpu, on_cuda


def shorter_side(x: Tensor) -> int:
    """Return the shorter side of maps; torch.export, for which sizes are open, does not have to compare them."""
    h, w = x.shape[2:]
    # where TorchScript traces, sizes are tensors
    return min(h, w) if torch.jit.is_tracing() else cast(int, torch.sym_min(h, w))  # type: ignore[attr-defined]


def at_least(least: float, value: float) -> float:
    """Return the larger of two numbers, of which the second may depend on sizes, as in `shorter_side`."""
    return max(least, value) if torch.jit.is_tracing() else cast(float, torch.sym_max(least, value))  # type: ignore[attr-defined]


def box(x: Tensor, k: int) -> Tensor:
    """Average over k x k places; beyond the edge is what is at the edge."""
    h, w = x.shape[2:]
    x = F.pad(x, [k // 2] * 4, mode="replicate")
    if on_cuda(x):
        return F.avg_pool2d(x, k, 1)
    # on a CPU, slices are added ten times as fast as `avg_pool2d` runs
    rows = sum((x[:, :, i : i + h] for i in range(1, k)), x[:, :, :h])
    return sum((rows[..., i : i + w] for i in range(1, k)), rows[..., :w]) / (k * k)


def shrunk(x: Tensor, k: int) -> Tensor:
    """Average over blocks of k x k places, the last of which go beyond the edge, to what is at the edge."""
    h, w = x.shape[2:]
    if is_followed(x) or h % k or w % k:  # torch.export leaves no branch open
        right, below = ((n + k - 1) // k * k - n for n in (w, h))  # torch.export cannot follow -n % k
        x = F.pad(x, (0, right, 0, below), mode="replicate")
    if not on_cpu(x):
        return F.avg_pool2d(x, k)
    # on a CPU, slices are added several times as fast as `avg_pool2d` runs
    rows = sum((x[:, :, i::k] for i in range(1, k)), x[:, :, ::k])
    return sum((rows[..., i::k] for i in range(1, k)), rows[..., ::k]) / (k * k)


def nearby(x: Tensor, block: int = 4) -> Tensor:
    """Average over about three times three blocks of places, falling towards their edge."""
    h, w = x.shape[2:]
    return enlarged(box(shrunk(x, block), 3), (h, w))


def enlarged(x: Tensor, size: tuple[int, int], every: int = 1) -> Tensor:
    """Resample bilinearly, corners not aligned; every so manieth row and column of the result only."""
    if not on_cpu(x) or (x.shape[2:] == size and every == 1):
        return F.interpolate(x, size, mode="bilinear", align_corners=False)[..., ::every, ::every]
    # on a CPU, `interpolate` takes a third longer than these products, and ten times as long for its gradient
    down, across = (
        F.interpolate(torch.eye(old, dtype=x.dtype, device=x.device)[None], new, mode="linear", align_corners=False)[0]
        for old, new in zip(x.shape[2:], size, strict=True)
    )
    return down[:, ::every].T @ (x @ across[:, ::every])
