"""Pictures in which something moves: cut out of a larger one, so that new content comes in at the edges."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def picture(size: int = 96, seed: int = 0, margin: int = 24) -> Tensor:
    """Return a picture of blobs of all sizes, (1, 3, size + 2 margin, size + 2 margin) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    side = size + 2 * margin
    layers = [
        F.interpolate(torch.randn(1, 3, n, n, generator=generator), (side, side), mode="bicubic", align_corners=False)
        for n in (5, 12, 30, 60)
    ]
    return torch.stack([layer / (1 + k) for k, layer in enumerate(layers)]).sum(0).mul(0.22).add(0.5).clamp(0, 1)


def moved(
    image: Tensor, *, shift: tuple[float, float] = (0, 0), degrees: float = 0, zoom: float = 1, margin: int = 24
) -> Tensor:
    """Turn a picture about its centre, enlarge it and move its content right and down; then cut off the margin."""
    h, w = image.shape[2:]
    turn, (right, down) = math.radians(degrees), shift
    matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]) / zoom
    to = -matrix @ np.array([2 * right / w, 2 * down / h])
    theta = torch.tensor(np.column_stack([matrix, to]), dtype=image.dtype)[None].expand(len(image), -1, -1)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    found = F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return found.clamp(0, 1)[:, :, margin:-margin, margin:-margin]
