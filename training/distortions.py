"""Distortions of every kind, each a function of an image, a strength and a source of random numbers.

The strength runs from 0, hardly visible, to 1, gross; within one draw of random numbers a stronger one is farther away.
"""

import io
import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from damlpips.evaluation.ladders import LADDERS

# (image (3, H, W) in [0, 1], strength 0..1, generator) to the distorted image, which may leave the range
Distortion = Callable[[Tensor, float, torch.Generator], Tensor]
DISTORTIONS: dict[str, Distortion] = {}
# Those that move the image and leave it as it is.
MOTIONS = ("elastic_warp", "shift", "whole_shift", "rotation", "zoom")
# How often a kind is drawn; all others once. Only neighbouring whole shifts show the aliasing that a stride leaves.
WEIGHTS = {"whole_shift": 6}
LUMA = torch.tensor([0.299, 0.587, 0.114])


def distort(name: str, image: Tensor, strength: float, seed: int) -> Tensor:
    """Return the image distorted, rounded to 8 bits as files are."""
    changed = DISTORTIONS[name](image, strength, torch.Generator().manual_seed(seed))
    return in_8_bits(changed)


def in_8_bits(image: Tensor) -> Tensor:
    """Return an image as a file of 8 bits has it."""
    return (image.clamp(0, 1) * 255).round() / 255


def draw_kinds(count: int, g: torch.Generator, kinds: Sequence[str] = ()) -> list[str]:
    """Return the names of that many different distortions, of `kinds` or of all."""
    names = list(kinds or DISTORTIONS)
    weights = torch.tensor([1.0 if kinds else float(WEIGHTS.get(name, 1)) for name in names])
    return [names[kind] for kind in torch.multinomial(weights, count, generator=g).tolist()]


def _register(function: Distortion) -> Distortion:
    DISTORTIONS[function.__name__] = function
    return function


def _between(low: float, high: float, strength: float) -> float:
    """Return a value that grows by equal ratios from `low` to `high`."""
    return low * (high / low) ** strength


def _uniform(g: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))


def _sign(g: torch.Generator) -> float:
    return 1.0 if _uniform(g) < 0.5 else -1.0


def _normal(like: Tensor, g: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=g)


def _seed(g: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=g))


def _blurred(x: Tensor, sigma: float) -> Tensor:
    return LADDERS["blur"].change(x, max(sigma, 0.1), 0)


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    height, width = kernel.shape
    padded = F.pad(x[:, None], (width // 2, width // 2, height // 2, height // 2), mode="replicate")
    return F.conv2d(padded, kernel[None, None])[:, 0]


def _resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    options = {} if mode == "nearest" else {"antialias": True, "align_corners": False}
    return F.interpolate(x[None], size, mode=mode, **options)[0]


def _smooth_field(x: Tensor, channels: int, scale: float, g: torch.Generator) -> Tensor:
    """Return (channels, H, W) smooth random fields, about -1 to 1, that vary over `scale` of the image's side."""
    coarse = max(2, round(1 / scale))
    field = torch.randn(1, channels, coarse + 1, coarse + 1, generator=g)
    return F.interpolate(field, x.shape[1:], mode="bicubic", align_corners=True)[0].clamp(-2, 2) / 2


def _region(x: Tensor, g: torch.Generator) -> Tensor:
    """Return a soft mask (1, H, W) in [0, 1] of some part of the image."""
    field = _smooth_field(x, 1, _uniform(g, 0.2, 0.6), g)
    return torch.sigmoid(12 * (field - field.quantile(_uniform(g, 0.4, 0.85))))


def _warped(x: Tensor, flow: Tensor) -> Tensor:
    """Return the image sampled at each pixel plus `flow`, (2, H, W) in pixels."""
    _, height, width = x.shape
    y0, x0 = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([(x0 + flow[0]) / (width - 1), (y0 + flow[1]) / (height - 1)], -1) * 2 - 1
    return F.grid_sample(x[None], grid[None], mode="bicubic", padding_mode="reflection", align_corners=True)[0]


def _affine(x: Tensor, angle: float, zoom: float, dx: float, dy: float) -> Tensor:
    _, height, width = x.shape
    y, xs = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
    return _warped(x, torch.stack([c * xs - s * y - xs + dx, s * xs + c * y - y + dy]))


def _pil(x: Tensor) -> Image.Image:
    return Image.fromarray((x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1).float() / 255


def _coded(x: Tensor, **options: object) -> Tensor:
    file = io.BytesIO()
    _pil(x).save(file, **options)
    with Image.open(file) as image:
        return _tensor(image.convert("RGB"))


# --- noise


@_register
def white_noise(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x + _between(0.006, 0.3, s) * _normal(x, g)


@_register
def grey_noise(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x + _between(0.006, 0.3, s) * _normal(x[:1], g)


@_register
def chroma_noise(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    noise = _normal(x, g)
    return x + _between(0.01, 0.5, s) * (noise - (noise * LUMA[:, None, None]).sum(0, keepdim=True))


@_register
def correlated_noise(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    noise = _blurred(_normal(x, g), _uniform(g, 0.7, 4))
    return x + _between(0.006, 0.25, s) * noise / noise.std()


@_register
def high_frequency_noise(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    noise = _normal(x, g)
    return x + _between(0.006, 0.3, s) * (noise - _blurred(noise, 0.8))


@_register
def impulse_noise(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    hit = torch.rand(x[:1].shape, generator=g) < _between(0.001, 0.2, s)
    return torch.where(hit, (torch.rand(x[:1].shape, generator=g) < 0.5).float(), x)


@_register
def speckle(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x * (1 + _between(0.02, 0.7, s) * _normal(x, g))


@_register
def shot_noise(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x + x.sqrt() * _between(0.01, 0.4, s) * _normal(x, g)


@_register
def masked_noise(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x + _region(x, g) * _between(0.01, 0.4, s) * _normal(x, g)


# --- blur and sharpening


@_register
def gaussian_blur(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return _blurred(x, _between(0.35, 6, s))


@_register
def defocus(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    radius = _between(0.6, 8, s)
    axis = torch.arange(-math.ceil(radius), math.ceil(radius) + 1).float()
    disc = (radius + 0.5 - (axis[:, None] ** 2 + axis[None] ** 2).sqrt()).clamp(0, 1)
    return _filtered(x, disc / disc.sum())


@_register
def motion_blur(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    length, angle = _between(1.2, 20, s), _uniform(g, 0, math.pi)
    radius = math.ceil(length / 2)
    axis = torch.arange(-radius, radius + 1).float()
    along = axis[None] * math.cos(angle) + axis[:, None] * math.sin(angle)
    across = axis[:, None] * math.cos(angle) - axis[None] * math.sin(angle)
    line = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(0, 1)
    return _filtered(x, line / line.sum())


@_register
def local_blur(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return torch.lerp(x, _blurred(x, _between(0.5, 8, s)), _region(x, g))


@_register
def oversharpening(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x + _between(0.1, 5, s) * (x - _blurred(x, _uniform(g, 0.6, 2)))


@_register
def ringing(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    _, height, width = x.shape
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    keep = (fy**2 + fx**2).sqrt() < _between(0.6, 0.05, s)
    return torch.fft.irfft2(torch.fft.rfft2(x) * keep, s=(height, width))


@_register
def median(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    size = (3, 5, 7, 9)[min(int(4 * s), 3)]
    return torch.lerp(x, _tensor(_pil(x).filter(ImageFilter.MedianFilter(size))), min(1.0, 0.4 + s))


@_register
def flattening(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    """Smooth faint detail away and keep edges, as denoisers and learned restorers do."""
    edge = _between(0.02, 0.3, s)
    for _ in range(4):
        steps = [torch.roll(x, shift, dims) - x for shift, dims in ((1, 1), (-1, 1), (1, 2), (-1, 2))]
        x = x + 0.24 * torch.stack([d * torch.exp(-((d.abs().mean(0, keepdim=True) / edge) ** 2)) for d in steps]).sum(
            0
        )
    return x


# --- compression and sampling


@_register
def jpeg(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    sampling = "4:2:0" if _uniform(g) < 0.7 else "4:4:4"
    return _coded(x, format="JPEG", quality=round(_between(95, 4, s)), subsampling=sampling)


@_register
def webp(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return _coded(x, format="WEBP", quality=round(90 * (1 - s)), method=0)


@_register
def jpeg2000(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return _coded(x, format="JPEG2000", quality_mode="rates", quality_layers=[_between(8, 200, s)], irreversible=True)


@_register
def quantisation(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    levels = round(_between(48, 2, s))
    return (x * levels).round() / levels


@_register
def dithering(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    levels = round(_between(48, 2, s))
    return (x * levels + torch.rand(x.shape, generator=g) - 0.5).round() / levels


@_register
def resampling(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    factor = _between(1.15, 8, s)
    small = (max(4, round(x.shape[1] / factor)), max(4, round(x.shape[2] / factor)))
    mode = "bilinear" if _uniform(g) < 0.5 else "bicubic"
    return _resized(_resized(x, small, mode), (x.shape[1], x.shape[2]), mode)


@_register
def pixelation(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    factor = _between(1.3, 12, s)
    small = (max(4, round(x.shape[1] / factor)), max(4, round(x.shape[2] / factor)))
    return _resized(_resized(x, small, "bilinear"), (x.shape[1], x.shape[2]), "nearest")


@_register
def aliasing(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    factor = _between(1.15, 6, s)
    small = (max(4, round(x.shape[1] / factor)), max(4, round(x.shape[2] / factor)))
    return _resized(_resized(x, small, "nearest"), (x.shape[1], x.shape[2]), "bicubic")


@_register
def transform_coding(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    """Keep the strongest principal components of the image's own patches, as a weak autoencoder would."""
    side = 8
    patches = F.unfold(x[None], side, stride=4)[0].T
    mean = patches.mean(0)
    _, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean))
    strongest = directions[:, -round(_between(96, 2, s)) :]
    kept = ((patches - mean) @ strongest @ strongest.T + mean).T[None]
    ones = F.fold(torch.ones_like(kept), x.shape[1:], side, stride=4)
    return torch.where(ones[0] > 0, F.fold(kept, x.shape[1:], side, stride=4)[0] / ones[0].clamp(min=1), x)


@_register
def upsampling_grid(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    """Add the checkerboards that transposed convolutions leave."""
    period = (2, 4, 8)[int(torch.randint(3, (), generator=g))]
    tile = torch.randn(3, period, period, generator=g)
    tile = (tile - tile.mean()) / tile.std()
    _, height, width = x.shape
    grid = tile.repeat(1, height // period + 1, width // period + 1)[:, :height, :width]
    contrast = (x - _blurred(x, 2)).abs().mean(0, keepdim=True) + 0.02
    return x + _between(0.05, 2, s) * grid * contrast


# --- colour and light


@_register
def brightness(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x + _sign(g) * _between(0.01, 0.4, s)


@_register
def contrast(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    kept = 1 - _between(0.03, 0.85, s)
    mean = x.mean()
    return mean + (x - mean) * (kept if _uniform(g) < 0.7 else 1 / kept)


@_register
def gamma(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x.clamp(min=1e-4) ** math.exp(_sign(g) * _between(0.03, 1, s))


@_register
def saturation(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    grey = (x * LUMA[:, None, None]).sum(0, keepdim=True)
    change = _between(0.05, 1, s)
    return grey + (x - grey) * (1 - change if _uniform(g) < 0.6 else 1 + 2 * change)


@_register
def hue(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return _hue_turned(x, _sign(g) * _between(0.05, math.pi, s))


def _hue_turned(x: Tensor, angle: float) -> Tensor:
    """Rotate colours about the grey axis."""
    c, s = math.cos(angle), math.sin(angle)
    third, root = (1 - c) / 3, s / math.sqrt(3)
    turn = torch.tensor(
        [
            [c + third, third - root, third + root],
            [third + root, c + third, third - root],
            [third - root, third + root, c + third],
        ]
    )
    return torch.einsum("ij,jhw->ihw", turn, x)


@_register
def tint(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    colour = torch.randn(3, 1, 1, generator=g)
    return x + _between(0.01, 0.3, s) * colour / colour.norm()


@_register
def white_balance(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x * torch.exp(_between(0.02, 0.7, s) * torch.randn(3, 1, 1, generator=g))


@_register
def region_tint(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    colour = torch.randn(3, 1, 1, generator=g)
    return x + _region(x, g) * _between(0.02, 0.5, s) * colour / colour.norm()


@_register
def region_recolouring(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return torch.lerp(x, _hue_turned(x, _sign(g) * _between(0.1, math.pi, s)), _region(x, g))


@_register
def region_fading(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    grey = (x * LUMA[:, None, None]).sum(0, keepdim=True)
    return torch.lerp(x, grey, _between(0.1, 1, s) * _region(x, g))


@_register
def colour_bleeding(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    """Blur the colours and keep the lightness, as weak colourisers do; further on the colours fade, too."""
    grey = (x * LUMA[:, None, None]).sum(0, keepdim=True)
    return grey + (1 - 0.4 * s) * _blurred(x - grey, _between(1, 16, s))


@_register
def colour_stains(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    """Tint regions with smooth random colours."""
    stains = _smooth_field(x, 3, _uniform(g, 0.1, 0.5), g)
    return x + _between(0.02, 0.5, s) * (stains - stains.mean(0, keepdim=True))


@_register
def vignette(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return x * (1 - _between(0.05, 0.9, s) * (0.5 + 0.5 * _smooth_field(x, 1, 0.9, g)))


@_register
def inversion(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return torch.lerp(x, 1 - x, _between(0.05, 1, s))


# --- damage and geometry


@_register
def flat_blocks(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    y = x.clone()
    for _ in range(round(_between(1, 24, s))):
        side = int(_uniform(g, 6, 24))
        top, left = (int(_uniform(g, 0, length - side)) for length in x.shape[1:])
        patch = y[:, top : top + side, left : left + side]
        patch.copy_(patch.mean((1, 2), keepdim=True) + 0.15 * torch.randn(3, 1, 1, generator=g))
    return y


@_register
def misplaced_blocks(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    y = x.clone()
    side = int(_uniform(g, 8, 24))
    for _ in range(round(_between(1, 40, s))):
        top, left = (int(_uniform(g, 8, length - side - 8)) for length in x.shape[1:])
        dy, dx = (int(_uniform(g, -8, 8)) for _ in range(2))
        y[:, top : top + side, left : left + side] = x[:, top + dy : top + dy + side, left + dx : left + dx + side]
    return y


@_register
def scratches(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    y = x.clone()
    for _ in range(round(_between(1, 30, s))):
        across, start = int(_uniform(g, 0, x.shape[1])), _uniform(g, 0, 0.7)
        first, last = int(start * x.shape[2]), int(_uniform(g, start, 1) * x.shape[2])
        y[:, across, first:last] = _uniform(g)
    return y


@_register
def rearranged_texture(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    """Move every pixel to somewhere near: the texture stays, its details move."""
    reach = _between(0.5, 6, s)
    return _warped(x, reach * torch.randn(2, *x.shape[1:], generator=g).clamp(-2, 2))


@_register
def elastic_warp(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return _warped(x, _between(0.5, 20, s) * _smooth_field(x, 2, _uniform(g, 0.08, 0.4), g))


@_register
def shift(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    angle, length = _uniform(g, 0, 2 * math.pi), _between(0.15, 20, s)
    return _affine(x, 0.0, 1.0, length * math.cos(angle), length * math.sin(angle))


@_register
def whole_shift(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    """Move the image by 1 to 8 whole pixels along x, along y or both."""
    across, down = ((1, 0), (0, 1), (1, 1), (1, -1))[int(_uniform(g, 0, 4))]
    length = 1 + round(7 * s)
    padded = F.pad(x[None], (length,) * 4, mode="replicate")[0]
    top, left = length + length * down, length + length * across
    return padded[:, top : top + x.shape[1], left : left + x.shape[2]]


@_register
def rotation(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return _affine(x, _sign(g) * _between(0.003, 0.4, s), 1.0, 0.0, 0.0)


@_register
def zoom(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    return _affine(x, 0.0, math.exp(_sign(g) * _between(0.004, 0.3, s)), 0.0, 0.0)


@_register
def hallucination(x: Tensor, s: float, g: torch.Generator) -> Tensor:
    """Replace fine detail by random detail of the same strength, as generative restorers do."""
    sigma = _between(0.6, 5, s)
    smooth = _blurred(x, sigma)
    detail = _normal(x[:1], g)
    detail = _blurred(detail, 0.5) - _blurred(detail, sigma)
    strength = _blurred((x - smooth).square().mean(0, keepdim=True), 3 + sigma).sqrt()
    return smooth + detail / detail.std() * strength
