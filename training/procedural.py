"""Images made on the fly, of what photographs have little of: flat areas, sharp edges, text, noise of any spectrum."""

import math
from collections.abc import Callable

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from training.distortions import _tensor, _uniform

GLYPHS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?()"


def _whole(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=g))


def _colour(g: torch.Generator) -> tuple[int, int, int]:
    r, gr, b = torch.randint(256, (3,), generator=g).tolist()
    return r, gr, b


def dead_leaves(side: int, g: torch.Generator) -> Tensor:
    """Return discs that hide each other, radii by the power law of natural scenes (Lee, Mumford, Huang, IJCV 2001)."""
    image = Image.new("RGB", (side, side), _colour(g))
    draw = ImageDraw.Draw(image)
    for _ in range(_whole(g, 100, 600)):
        radius = min(2 / math.sqrt(_uniform(g, 1e-3, 1)), side / 3)
        x, y = _uniform(g, 0, side), _uniform(g, 0, side)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(g))
    return _tensor(image)


def spectrum_noise(side: int, g: torch.Generator) -> Tensor:
    """Return coloured noise whose amplitude falls as frequency^-a, a from 0.5 to 2.5."""
    fy, fx = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    fall = (fy**2 + fx**2).sqrt().clamp(min=1 / side) ** -_uniform(g, 0.5, 2.5)
    noise = torch.fft.irfft2(torch.fft.rfft2(torch.randn(3, side, side, generator=g)) * fall, s=(side, side))
    mixed = torch.einsum("ij,jhw->ihw", torch.randn(3, 3, generator=g), noise / noise.std())
    return (0.5 + 0.12 * mixed).clamp(0, 1)


def shapes(side: int, g: torch.Generator) -> Tensor:
    """Return a few polygons and lines over a colour gradient."""
    ramp = torch.linspace(0, 1, side)
    ends = torch.rand(3, 3, 1, 1, generator=g)
    slope = ends[0] + (ends[1] - ends[0]) * ramp[:, None] + (ends[2] - ends[0]) * ramp
    image = Image.fromarray((slope.clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous().numpy())
    draw = ImageDraw.Draw(image)
    for _ in range(_whole(g, 2, 12)):
        corners = [(_uniform(g, 0, side), _uniform(g, 0, side)) for _ in range(_whole(g, 2, 6))]
        if len(corners) == 2:
            draw.line(corners, fill=_colour(g), width=_whole(g, 1, 8))
        else:
            draw.polygon(corners, fill=_colour(g))
    return _tensor(image)


def text(side: int, g: torch.Generator) -> Tensor:
    """Return lines of random letters."""
    image = Image.new("RGB", (side, side), _colour(g))
    draw = ImageDraw.Draw(image)
    size, ink, y = _uniform(g, 8, 32), _colour(g), 0.0
    while y < side:
        line = "".join(GLYPHS[_whole(g, 0, len(GLYPHS))] for _ in range(round(3 * side / size)))
        draw.text((2, y), line, fill=ink, font_size=size)
        y += 1.3 * size
    return _tensor(image)


PROCEDURAL: tuple[Callable[[int, torch.Generator], Tensor], ...] = (dead_leaves, spectrum_noise, shapes, text)
