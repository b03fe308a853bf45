"""The embedded backbone `gabor`: a fixed analytic filter bank, no weights to download."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# Rows: luminance, blue-yellow, red-green, from RGB. The Gaussian colour model: Geusebroek et al., "Color invariance",
# IEEE TPAMI 23(12), 2001, equation 20.
OPPONENT = ((0.06, 0.63, 0.27), (0.30, 0.04, -0.35), (0.34, -0.60, 0.17))

ORIENTATIONS = 4
WAVELENGTH = 4.0
SIGMA = 0.56 * WAVELENGTH
RADIUS = 5
SCALES = 5
SEMI_SATURATION = 0.01
# A five-tap binomial: the low-pass of the Laplacian pyramid (Burt & Adelson, IEEE Trans. Communications 31(4), 1983).
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def gabor_pairs() -> Float[Tensor, "filters k k"]:
    axis = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * SIGMA**2))
    envelope = envelope / envelope.sum()
    filters = []
    for k in range(ORIENTATIONS):
        angle = math.pi * k / ORIENTATIONS
        phase = 2 * math.pi / WAVELENGTH * (x * math.cos(angle) + y * math.sin(angle))
        even = envelope * torch.cos(phase)
        even = even - envelope * even.sum()
        filters += [even, envelope * torch.sin(phase)]
    return torch.stack(filters)


class GaborBank(nn.Module):
    channels = (12, 12, 12, 12, 12, 3)
    kernels: Tensor
    opponent: Tensor
    low_pass: Tensor

    def __init__(self) -> None:
        super().__init__()
        pairs = gabor_pairs().float()
        self.register_buffer("opponent", torch.tensor(OPPONENT).reshape(3, 3, 1, 1), persistent=False)
        self.register_buffer("kernels", pairs.repeat(3, 1, 1).unsqueeze(1), persistent=False)
        tap = torch.tensor(BINOMIAL)
        self.register_buffer("low_pass", torch.outer(tap, tap).expand(3, 1, 5, 5).contiguous(), persistent=False)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        level = F.conv2d(images, self.opponent)
        maps = []
        for scale in range(SCALES):
            if scale:
                level = F.conv2d(F.pad(level, (2, 2, 2, 2), mode="replicate"), self.low_pass, stride=2, groups=3)
            response = F.conv2d(F.pad(level, (RADIUS,) * 4, mode="replicate"), self.kernels, groups=3)
            even, odd = response[:, 0::2], response[:, 1::2]
            magnitude = (even.square() + odd.square() + SEMI_SATURATION**2).sqrt() - SEMI_SATURATION
            maps.append(magnitude)
        maps.append(level)
        return maps
