"""Distortion ladders: a photograph, and it again distorted more and more. A distance should grow at every rung.

Nobody has to be asked which is closer: of two rungs of one ladder, the lower one is.

Moved images are drawn from the whole photograph and cut to its centre: what comes in at their edges is the photograph.
"""

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from damlpips.evaluation.peers import luma
from damlpips.scoring.images import ScoringError

WHITE = 255
# the farthest motions, in pixels, degrees and per cent: the margin has room for them
FARTHEST = 16
# how far beyond a place bicubic resampling looks, in pixels
BICUBIC = 2
# of a Gaussian kernel, in standard deviations: 0.01 % of it lies outside
REACH = 4

# (reference, distorted), each (N, 3, H, W) in [0, 1], to N distances
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Ladder:
    """One kind of distortion in growing strength.

    Attributes:
        name: of the kind.
        unit: of a level.
        levels: from weak to strong; neighbours can be told apart by eye.
        bounds: the smallest and the largest possible level.
        change: (image, level, seed) to the distorted image; the image (3, H, W), floats in [0, 1].
        whole: whether a level is a whole number.
        moves: whether the image moves. Rung 0 is then its `centre`; the other rungs are cut in the same place.
    """

    name: str
    unit: str
    levels: tuple[float, ...]
    bounds: tuple[float, float]
    change: Callable[[Tensor, float, int], Tensor]
    whole: bool = False
    moves: bool = False

    def first(self, image: Tensor) -> Tensor:
        """Return rung 0, to which the others are compared: the image, or its centre. Errors as of `apply`."""
        self._check_image(image)
        return centre(image) if self.moves else image

    def apply(self, image: Tensor, level: float, *, seed: int = 0) -> Tensor:
        """Return the image distorted to a level, in the size of rung 0 and the dtype of the image.

        Args:
            image: (3, H, W), uint8, or floats in [0, 1].
            level: in the ladder's unit, any within its bounds.
            seed: of random distortions; one seed draws one pattern, which a level only scales.

        Raises:
            TypeError: not a tensor of uint8 or floats.
            ValueError: not (3, H, W), too small for the margin, values outside [0, 1], or a level out of bounds.
            ScoringError: JPEG without Pillow.
        """
        self._check_image(image)
        self._check_level(level)
        if image.dtype == torch.uint8:
            return _bytes(self.change(image.float() / WHITE, level, seed))
        # noise leaves the range; so may a rounding step
        working = torch.promote_types(image.dtype, torch.float32)
        return self.change(image.to(working), level, seed).clamp(0, 1).to(image.dtype)

    def rungs(self, image: Tensor, *, seed: int = 0) -> Tensor:
        """Return rung 0 and the image at each level, (1 + levels, 3, H, W), in its dtype. Errors as of `apply`."""
        return torch.stack([self.first(image), *(self.apply(image, level, seed=seed) for level in self.levels)])

    def _check_image(self, image: Any) -> None:
        if not isinstance(image, Tensor):
            raise TypeError(f"image: expected a torch.Tensor (3, H, W), got {type(image).__name__}")
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"image: expected (3, H, W), got {tuple(image.shape)}")
        height, width = image.shape[1:]
        least = 2 * margin(height, width) if self.moves else 0
        if min(height, width) <= least:
            raise ValueError(f"image: {self.name} needs more than {least} pixels a side, got {(height, width)}")
        if image.dtype == torch.uint8:
            return
        if not image.is_floating_point():
            raise TypeError(f"image: expected uint8 or floats in [0, 1], got {image.dtype}")
        low, high = (float(v) for v in torch.aminmax(image))
        if not (low >= 0 and high <= 1):  # nor NaN
            raise ValueError(f"image: expected floats in [0, 1], got {low:.6g} to {high:.6g}")

    def _check_level(self, level: float) -> None:
        low, high = self.bounds
        # an infinite level is none, even without an upper bound
        if low <= level <= high and math.isfinite(level) and (level == int(level) or not self.whole):
            return
        kind = "a whole level" if self.whole else "a finite level"
        raise ValueError(f"{self.name}: expected {kind} from {low:g} to {high:g} ({self.unit}), got {level!r}")


@dataclass(frozen=True)
class Violations:
    """How many pairs of neighbouring rungs there are, and in how many of them the distance to rung 0 does not grow."""

    neighbours: int
    violated: int

    @property
    def share(self) -> float:
        """The share of violated pairs, 0 to 1; NaN where there are none."""
        return self.violated / self.neighbours if self.neighbours else math.nan


def margin(height: int, width: int) -> int:
    """Return how many pixels a photograph has to have on each side of the centre that moves.

    m = max(16, ceil((l sin a - s (1 - cos a)) / (2 (cos a + sin a))) + 2),    a = 16 degrees, sides s <= l

    The corners of what is left then stay within the photograph under every shift and rotation of the ladders.
    """
    shorter, longer = sorted((height, width))
    sine, cosine = (f(math.radians(FARTHEST)) for f in (math.sin, math.cos))
    swept = math.ceil((longer * sine - shorter * (1 - cosine)) / (2 * (cosine + sine)))
    return max(FARTHEST, swept + BICUBIC)


def centre(image: Tensor) -> Tensor:
    """Return an image (..., H, W) without its margin."""
    height, width = image.shape[-2:]
    out = margin(height, width)
    return image[..., out : height - out, out : width - out]


def violations(metric: Distance, images: Iterable[Tensor], ladder: Ladder, *, seed: int = 0) -> Violations:
    """Count the neighbouring rungs of a ladder whose distances are in the wrong order, or equal::

        violated = #{ (x, k) : d(x_0, x_k+1) <= d(x_0, x_k) },    k = 0, 1, ..., levels - 1

    x_0 is the image, x_1 the weakest rung; d(x_0, x_0) is 0 for a distance, and -s(x_0, x_0) for a negated similarity.
    Neighbours that are equal in 8 bits are not counted: a grey image has no saturation to lose.

    Args:
        metric: (references, distorted) to distances, (N,), lower is closer. Both are (N, 3, H, W), floats in [0, 1];
            the references are N times rung 0, the distorted images are all rungs of one image.
        images: each (3, H, W), uint8, or floats in [0, 1]; of any sizes.
        seed: image k draws its noise by `seed + k`.

    Raises:
        TypeError, ValueError, ScoringError: as `Ladder.apply`; no images; a metric that does not return one number for
            each rung.
    """
    neighbours = violated = 0
    k = -1
    for k, image in enumerate(images):
        rungs, where = ladder.rungs(image, seed=seed + k), f"image {k}, {ladder.name}"
        floats = rungs.float() / WHITE if rungs.dtype == torch.uint8 else rungs
        distances = torch.as_tensor(metric(floats[:1].expand_as(floats), floats), device="cpu").detach()
        if distances.shape != (len(rungs),):
            raise ValueError(f"{where}: expected {len(rungs)} distances, ({len(rungs)},), got {tuple(distances.shape)}")
        if distances.isnan().any():
            raise ValueError(f"{where}: the metric gives NaN, not a number")
        eight_bits = _bytes(rungs)
        differ = (eight_bits[1:] != eight_bits[:-1]).flatten(1).any(1).cpu()
        neighbours += int(differ.sum())
        violated += int((differ & (distances[1:] <= distances[:-1])).sum())
    if k < 0:
        raise ValueError("images: expected at least one, got none")
    return Violations(neighbours, violated)


def _bytes(x: Tensor) -> Tensor:
    """Return floats in [0, 1], or a step outside, as uint8."""
    return x if x.dtype == torch.uint8 else (x.clamp(0, 1) * WHITE).round().to(torch.uint8)


def _noisy(x: Tensor, sigma: float, seed: int) -> Tensor:
    # drawn on the CPU: a GPU draws other numbers by the same seed
    pattern = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return x + sigma / WHITE * pattern.to(x)


def _blurred(x: Tensor, sigma: float, seed: int) -> Tensor:
    radius = math.ceil(REACH * sigma)
    places = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.softmax(-(places**2) / (2 * sigma**2), 0)
    # repeated edges, unlike mirrored ones, are there for a kernel that is larger than the image
    padded = F.pad(x[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None, :]), kernel[None, None, :, None])[:, 0]


def _compressed(x: Tensor, quality: float, seed: int) -> Tensor:
    """Return the image, rounded to 8 bits, as JPEG keeps it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ScoringError("JPEG needs Pillow: pip install 'damlpips[cli]'") from error
    _, height, width = x.shape
    file = io.BytesIO()
    pixels = _bytes(x).cpu().permute(1, 2, 0).contiguous().numpy().tobytes()
    # half the resolution for colour, as most cameras and programs have it
    Image.frombytes("RGB", (width, height), pixels).save(file, "JPEG", quality=int(quality), subsampling="4:2:0")
    with Image.open(file) as image:
        decoded = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return decoded.reshape(height, width, 3).permute(2, 0, 1).to(x) / WHITE


def _flattened(x: Tensor, contrast: float, seed: int) -> Tensor:
    """Return the image with its contrast lost towards its mean luma."""
    mean = luma(x).mean()
    return mean + contrast * (x - mean)


def _faded(x: Tensor, saturation: float, seed: int) -> Tensor:
    """Return the image with its colours lost towards each pixel's luma."""
    grey = luma(x)
    return grey + saturation * (x - grey)


def _shifted(x: Tensor, pixels: float, seed: int) -> Tensor:
    """Return the crop that lies this many pixels to the right of the centre and below it."""
    step = int(pixels)
    return centre(x.roll((-step, -step), (-2, -1)))


def _rotated(x: Tensor, degrees: float, seed: int) -> Tensor:
    """Return the centre of the image, turned clockwise about its middle."""
    angle = math.radians(degrees)
    return _drawn(x, ((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))))


def _zoomed(x: Tensor, percent: float, seed: int) -> Tensor:
    """Return the centre of the image, enlarged about its middle."""
    scale = 1 / (1 + percent / 100)
    return _drawn(x, ((scale, 0), (0, scale)))


def _drawn(x: Tensor, matrix: tuple[tuple[float, float], tuple[float, float]]) -> Tensor:
    """Sample the image (bicubic) where a matrix takes the places of its centre, (right, down) from the middle."""
    height, width = x.shape[1:]
    across, down = (torch.arange(n, dtype=x.dtype, device=x.device) - (n - 1) / 2 for n in (width, height))
    places = centre(torch.stack(torch.meshgrid(across, down, indexing="xy")))
    taken = torch.einsum("ij,jhw->hwi", x.new_tensor(matrix), places)
    # from pixels to the range from -1 to 1 that `grid_sample` has between an image's edges
    grid = taken * x.new_tensor([2 / width, 2 / height])
    return F.grid_sample(x[None], grid[None], mode="bicubic", padding_mode="border", align_corners=False)[0]


LADDERS = {
    ladder.name: ladder
    for ladder in (
        Ladder("noise", "sigma, of 255", (2, 5, 10, 20, 35, 60), (0, math.inf), _noisy),
        Ladder("blur", "sigma, px", (0.5, 1, 1.5, 2.5, 4, 6), (0.1, math.inf), _blurred),
        Ladder("jpeg", "quality", (80, 60, 40, 25, 15, 8), (1, 100), _compressed, whole=True),
        Ladder("contrast", "share kept", (0.9, 0.75, 0.6, 0.45, 0.3), (0, 1), _flattened),
        Ladder("saturation", "share kept", (0.8, 0.6, 0.4, 0.2, 0), (0, 1), _faded),
        Ladder("shift", "px each way", (1, 2, 4, 8, 16), (0, FARTHEST), _shifted, whole=True, moves=True),
        Ladder("rotation", "degrees", (0.5, 1, 2, 4, 8, 16), (0, FARTHEST), _rotated, moves=True),
        Ladder("zoom", "% larger", (1, 2, 4, 8, 16), (0, FARTHEST), _zoomed, moves=True),
    )
}
