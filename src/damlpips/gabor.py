"""The embedded backbone `gabor`: a fixed bank of oriented band-pass filters; nothing to train, nothing to download."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# Rows: luminance, blue-yellow, red-green, from RGB. The Gaussian colour model, Geusebroek et al., "Color invariance",
# IEEE TPAMI 23(12), 2001.
OPPONENT = ((0.06, 0.63, 0.27), (0.30, 0.04, -0.35), (0.34, -0.60, 0.17))

# Pixels a period, at each scale. The band of a filter reaches to 4/3 of its centre, 1/3 cycle a pixel: below the
# sampling limit of 1/2, so that no filter sees aliases, and the finest one still answers to a one-pixel blur.
WAVELENGTH = 4.0

# Width of the envelope: 0.56 wavelengths give a bandwidth of one octave, that of simple cells (Daugman, JOSA A 2(7),
# 1985; Petkov & Kruizinga, Biological Cybernetics 76, 1997). Scales an octave apart then tile the spectrum.
SIGMA = 0.56 * WAVELENGTH

# Four orientations, 45 degrees apart: the half-amplitude width of such a filter is about 40 degrees. Six instead of
# four changed the agreement with observers by less than 0.005 (docs/explanation/damlpips.md has the trials).
ORIENTATIONS = 4

# Filters reach to 2.2 sigma, where the envelope is down to a tenth.
RADIUS = 5

# From 4 pixels a period to 64: the range that a shorter side of 64 pixels still holds.
SCALES = 5

# The finest scales are read as amplitudes, which forget where exactly a ripple lies, the coarser ones with their phase,
# which tells one shape from another: observers forgive shifts of fine texture, not of outlines. On the development sets
# two such scales agreed with observers better than none, one, three or five.
AMPLITUDE_SCALES = 2

# Contrast below which a response counts as none, near the threshold of vision (Campbell & Robson, J. Physiology 197,
# 1968, find about 0.5 % at best) and twice the step of 8-bit images.
SEMI_SATURATION = 0.01

# A five-tap binomial: the low-pass of the Laplacian pyramid (Burt & Adelson, IEEE Trans. Communications 31(4), 1983).
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def gabor_pairs() -> Float[Tensor, "filters k k"]:
    """Return an even and an odd filter for each orientation, in turn.

    g(x, y) = exp(-(x^2 + y^2) / (2 sigma^2)) (cos(2 pi u / lambda), sin(2 pi u / lambda)), u along the orientation. The
    envelope sums to one, and the even filter is made blind to a constant.
    """
    axis = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64, device="cpu")
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * SIGMA**2))
    envelope = envelope / envelope.sum()
    filters = []
    for k in range(ORIENTATIONS):
        angle = math.pi * k / ORIENTATIONS
        phase = 2 * math.pi / WAVELENGTH * (x * math.cos(angle) + y * math.sin(angle))
        even = envelope * torch.cos(phase)
        filters += [even - envelope * even.sum(), envelope * torch.sin(phase)]
    return torch.stack(filters)


class GaborBank(nn.Module):
    """Oriented contrast at five scales in an opponent colour space, as feature maps.

    For each of three opponent channels and four orientations, with even and odd responses e and o at a place:

    - the two finest scales give the amplitude, rectified smoothly: ``sqrt(e^2 + o^2 + k^2) - k``, k = 0.01. Weak
      contrast counts as its square (below threshold: hardly), strong contrast linearly. An amplitude forgets the phase,
      and so forgives shifts of a fraction of a wavelength;
    - the three coarser scales give the half-wave rectified responses ``max(e, 0), max(-e, 0), max(o, 0), max(-o, 0)``,
      as simple cells do (Heeger, Visual Neuroscience 9, 1992).

    What no oriented filter sees is kept as well, or images could differ without a trace: the finest map carries the
    amplitude of what the low-pass takes away, the coarsest the low-passed opponent channels, as the residuals of the
    steerable pyramid (Simoncelli & Freeman, ICIP 1995). Each scale is the one before, low-passed by a binomial and
    sampled at every second pixel.

    Shapes: images (N, 3, H, W) in [0, 1], any size from 1 x 1 -> five maps, (N, C_s, ceil(H / 2^s), ceil(W / 2^s)),
    with 15, 12, 48, 48 and 51 channels. Always in float32 at least: the filters cancel a constant only to the precision
    they run in.
    """

    channels = (15, 12, 48, 48, 51)

    kernels: Tensor
    opponent: Tensor
    low_pass: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._place(torch.get_default_device(), torch.float32)

    def _place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make the filters anew on a device: a cast to half precision and back would leave rounded ones."""
        tap = torch.tensor(BINOMIAL, dtype=torch.float64, device="cpu")
        constants = {
            "opponent": torch.tensor(OPPONENT, dtype=torch.float64, device="cpu").reshape(3, 3, 1, 1),
            "kernels": gabor_pairs().unsqueeze(1),
            "low_pass": torch.outer(tap, tap)[None, None],
        }
        for name, value in constants.items():
            self.register_buffer(name, value.to(device, dtype), persistent=False)
        self._has_autocast = torch.amp.is_autocast_available(device.type)  # asked here: forward may be compiled

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GaborBank":
        moved = fn(self.kernels.new_empty(0))
        self._place(moved.device, torch.float64 if moved.dtype == torch.float64 else torch.float32)
        return self

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Return the maps from the finest scale to the coarsest."""
        with torch.autocast(images.device.type, enabled=False) if self._has_autocast else nullcontext():
            # Opponent channels as a batch of grey images: a grouped convolution would be a third slower on a CPU.
            level = F.conv2d(images.to(self.kernels.dtype), self.opponent).flatten(0, 1).unsqueeze(1)
            smooth = self._low_passed(level)
            maps = [torch.cat([self._amplitudes(level), _rectified((level - smooth).square())], 1)]
            level = smooth[:, :, ::2, ::2]
            for scale in range(1, SCALES):
                maps.append(self._amplitudes(level) if scale < AMPLITUDE_SCALES else self._half_waves(level))
                if scale < SCALES - 1:
                    level = self._low_passed(level, stride=2)
            maps[-1] = torch.cat([maps[-1], level], 1)
            # the batch of 3 N comes back as N images, its channels one opponent channel after the other
            return [m.unflatten(0, (-1, 3)).flatten(1, 2) for m in maps]

    def _low_passed(self, level: Float[Tensor, "m 1 h w"], stride: int = 1) -> Tensor:
        return F.conv2d(F.pad(level, (2, 2, 2, 2), mode="replicate"), self.low_pass, stride=stride)

    def _responses(self, level: Float[Tensor, "m 1 h w"]) -> Float[Tensor, "m 8 h w"]:
        return F.conv2d(F.pad(level, (RADIUS, RADIUS, RADIUS, RADIUS), mode="replicate"), self.kernels)

    def _amplitudes(self, level: Float[Tensor, "m 1 h w"]) -> Float[Tensor, "m 4 h w"]:
        return _rectified(self._responses(level).square().unflatten(1, (ORIENTATIONS, 2)).sum(2))

    def _half_waves(self, level: Float[Tensor, "m 1 h w"]) -> Float[Tensor, "m 16 h w"]:
        responses = self._responses(level)
        return torch.cat([responses, -responses], 1).relu()


def _rectified(power: Tensor) -> Tensor:
    return (power + SEMI_SATURATION**2).sqrt() - SEMI_SATURATION
