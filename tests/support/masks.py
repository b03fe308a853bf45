"""Masks of several kinds, (1, 1, H, W) of bool."""

import torch
from torch import Tensor


def rectangle(height: int = 96, width: int = 96, border: int | None = None) -> Tensor:
    border = min(height, width) // 4 if border is None else border
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    mask[..., border:-border, border:-border] = True
    return mask


def alpha(height: int = 96, width: int = 96, seed: int = 0) -> Tensor:
    """Return the opacity of an object with a soft edge and a hole, as a renderer gives it: float, 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    down, across = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    opaque = torch.zeros(height, width)
    for k in range(6):
        x, y, size = torch.rand(3, generator=generator).mul(2).sub(1).mul(0.45).tolist()
        blob = 3 * torch.exp(-((across - x).square() + (down - y).square()) / (0.06 + 0.05 * abs(size)))
        opaque = opaque + (blob if k else -blob)
    return torch.sigmoid(6 * (opaque - 1))[None, None]


def silhouette(height: int = 96, width: int = 96, seed: int = 0) -> Tensor:
    return alpha(height, width, seed) > 0.5


def thin(height: int = 96, width: int = 96) -> Tensor:
    """Return a curve and a line of one pixel's width."""
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    across = torch.arange(width)
    down = (height / 2 + height / 3 * torch.sin(across * 6.0 / width)).long()
    mask[0, 0, down, across] = True
    mask[0, 0, height // 4, : width // 2] = True
    return mask


def pixel(height: int = 96, width: int = 96) -> Tensor:
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    mask[..., height // 3, width // 2] = True
    return mask


MASKS = {"rectangle": rectangle, "silhouette": silhouette, "thin": thin, "pixel": pixel}
