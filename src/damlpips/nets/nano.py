"""The embedded backbone `nano`: a small network for comparing images, whose weights are part of the package."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

STEM_CHANNELS = 16

# The smallest low-pass that removes the highest frequency, so that sampling every second pixel causes little aliasing
# (R. Zhang, "Making convolutional networks shift-invariant again", arXiv 1904.11486).
BINOMIAL = (1 / 4, 2 / 4, 1 / 4)


def binomial(dtype: torch.dtype = torch.float32) -> Float[Tensor, "3 3"]:
    """Return the kernel of the low-pass, which sums to one."""
    tap = torch.tensor(BINOMIAL, dtype=dtype, device="cpu")
    return torch.outer(tap, tap)


class Nano(nn.Module):
    """Four convolutions with rectifiers; feature maps of three scales.

    ::

        h_0 = relu(conv_0(x))                          6 x 6, every second pixel
        h_l = relu(conv_l(low_pass(h_l-1)))            3 x 3, l = 1 to 3; read as feature maps

    `low_pass` is a 3 x 3 binomial kernel, sampled at every second pixel. The kernels of conv_0 are 4 x 4 learned
    numbers convolved with the same low-pass, so that conv_0, too, is blind to the highest frequency; DAMLPIPS's image
    layer sees it. There are no batch statistics, and no tensors but the weights and the binomial kernel.

    Shapes: images (N, 3, H, W), normalised, any size from 1 x 1 -> three maps, (N, C_l, ceil(H / 2^(l+1)),
    ceil(W / 2^(l+1))), with 32, 64 and 112 channels.
    """

    channels = (32, 64, 112)
    # zeros on the left, the right, above and below: as for the later maps, sizes are halved and rounded up
    margin = (2, 3, 2, 3)
    low_pass: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 6, stride=2)
        widths = (STEM_CHANNELS, *self.channels)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.register_buffer("low_pass", binomial())  # exact in any precision

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Return the maps, from the finest scale to the coarsest."""
        x = self.stem(F.pad(images, self.margin)).relu_()  # in place: a convolution needs no output later
        maps = []
        for stage in self.stages:
            x = stage(self._halved(x)).relu_()
            maps.append(x)
        return maps

    def _halved(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        channels = x.shape[1]
        kernel = self.low_pass.to(x.dtype).expand(channels, 1, 3, 3)
        return F.conv2d(x, kernel, stride=2, padding=1, groups=channels)
