"""Beach pebbles seen from above: dead leaves with thickness, each a stone of its own shape, colour and veins."""

import numpy as np
from numpy.typing import NDArray

from .common import HEIGHT, WIDTH, Array, Lattice, developed, film, shrink, smoothstep, spectral, unit

SAMPLES = 3  # a side of each pixel
LIGHT = unit(np.array([-0.62, -0.50, 0.60], np.float32))  # x to the right, y down, z towards the viewer
SUNLIGHT, SKYLIGHT = np.array([2.7, 2.35, 1.9], np.float32), np.array([0.42, 0.50, 0.64], np.float32)

# linear RGB: granite, basalt, sandstone, quartz, jasper, slate, olivine
STONES = np.array(
    [
        [0.34, 0.31, 0.29],
        [0.075, 0.075, 0.08],
        [0.46, 0.33, 0.20],
        [0.66, 0.62, 0.56],
        [0.33, 0.13, 0.085],
        [0.15, 0.18, 0.21],
        [0.20, 0.21, 0.13],
    ],
    np.float32,
)
SHARES = np.array([0.30, 0.12, 0.18, 0.14, 0.08, 0.13, 0.05])


class Bed:
    """The pile: height, colour and wetness of what lies on top at each place, in samples."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.shape = (HEIGHT * SAMPLES, WIDTH * SAMPLES)
        self.rng = rng
        self.lattice = Lattice(31)
        sand = spectral(self.shape, 0.4, 32)
        self.height = 0.8 * sand + 2.5 * spectral(self.shape, 2.4, 33) - 14
        self.colour = np.array([0.30, 0.245, 0.17], np.float32) * (1 + 0.28 * sand)[..., None]
        self.gloss = np.zeros(self.shape, np.float32)

    def drop(self, x: float, y: float, radius: float) -> None:
        """Let a stone fall on what is there."""
        rng, (h, w) = self.rng, self.shape
        reach = int(radius * 1.5)
        top, left = max(0, int(y) - reach), max(0, int(x) - reach)
        window = np.s_[top : max(top, min(h, int(y) + reach)), left : max(left, min(w, int(x) + reach))]
        v, u = np.mgrid[window].astype(np.float32)
        angle, flat = rng.uniform(0, np.pi), rng.uniform(0.58, 0.95)
        c, s = np.cos(angle), np.sin(angle)
        a, b = ((u - x) * c + (v - y) * s) / radius, (-(u - x) * s + (v - y) * c) / (radius * flat)
        place = rng.uniform(0, 30, 3).astype(np.float32)
        bent = self.lattice(np.stack([a, b, 0 * a], -1) * 1.1 + place)
        power = rng.uniform(2.0, 2.7)
        inside = 1 - (np.abs(a) ** power + np.abs(b) ** power) * (1 + 0.32 * bent)
        thickness = radius * rng.uniform(0.38, 0.6)
        dome = thickness * np.maximum(inside, 0) ** 0.55
        grain = self.lattice.fractal(np.stack([a, b, 0 * a], -1) * (radius / 6) + place, 3)
        base = float(np.median(self.height[window][inside > 0.3])) if (inside > 0.3).any() else 0.0
        surface = base + dome + grain * (0.25 + 0.004 * radius)
        seen = (inside > 0) & (surface > self.height[window])
        self.height[window][seen] = surface[seen]
        self.colour[window][seen] = self.stone(a, b, grain, place)[seen]
        self.gloss[window][seen] = rng.uniform(0.0, 0.35)

    def stone(self, a: Array, b: Array, grain: Array, place: Array) -> Array:
        """Return the colours of a stone: a kind of rock, mottled, speckled, and at times with pale veins."""
        rng = self.rng
        base = STONES[rng.choice(len(STONES), p=SHARES / SHARES.sum())] * rng.uniform(0.75, 1.25)
        base = base * (1 + 0.04 * rng.standard_normal(3)).astype(np.float32)
        p = np.stack([a, b, 0 * a], -1)
        mottle = self.lattice.fractal(p * 2.2 + place + 9, 4)
        speckle = np.sign(grain) * np.abs(grain) ** 1.5 * rng.uniform(0.1, 0.7)
        colour = base * (1 + 0.30 * mottle + speckle)[..., None]
        if rng.random() < 0.35:
            band = np.abs(
                a * rng.uniform(-1, 1) + b + 0.5 * self.lattice.fractal(p * 1.3 + place, 3) - rng.uniform(-0.4, 0.4)
            )
            share = smoothstep(rng.uniform(0.04, 0.12), 0.02, band)[..., None] * rng.uniform(0.5, 0.9)
            colour = colour * (1 - share) + np.array([0.66, 0.62, 0.55], np.float32) * share
        return np.clip(colour, 0.015, 0.9).astype(np.float32)


def shifted(field: Array, x: float, y: float) -> Array:
    """Return field[i + y, j + x], bilinear, the edge repeated."""
    h, w = field.shape
    i, j = np.clip(np.arange(h) + y, 0, h - 1.001), np.clip(np.arange(w) + x, 0, w - 1.001)
    i0, j0 = i.astype(int), j.astype(int)
    u, v = (i - i0).astype(np.float32)[:, None], (j - j0).astype(np.float32)[None]
    rows = field[i0] * (1 - u) + field[i0 + 1] * u
    return rows[:, j0] * (1 - v) + rows[:, j0 + 1] * v


def shadow(height: Array) -> Array:
    """Return the share of the sun that each place sees, 0..1; the sun is a disc, so the edges soften with distance."""
    flat = float(np.hypot(LIGHT[0], LIGHT[1]))
    light = np.ones_like(height)
    for distance in np.arange(1.5, 150, 1.5) * 1.0:
        above = shifted(height, LIGHT[0] / flat * distance, LIGHT[1] / flat * distance)
        clearance = height + distance * LIGHT[2] / flat - above
        light = np.minimum(light, np.clip(0.5 + 9 * clearance / (distance + 4), 0, 1))
    return light


def openness(height: Array) -> Array:
    """Return the share of the sky that each place sees, from the horizon in 12 directions."""
    total = np.zeros_like(height)
    for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        horizon = np.zeros_like(height)
        for distance in (2, 4, 8, 14, 24, 40, 64):
            above = shifted(height, float(np.cos(angle)) * distance, float(np.sin(angle)) * distance)
            horizon = np.maximum(horizon, (above - height) / distance)
        total += 1 / (1 + horizon**2)
    return total / 12


def render() -> NDArray[np.uint8]:
    """Return the picture, (H, W, 3)."""
    rng = np.random.default_rng(30)
    bed = Bed(rng)
    h, w = bed.shape
    # large stones first, then ever smaller ones; those that fall later lie on top
    radii = np.sort(np.clip(24 * (1 - rng.random(600)) ** (-1 / 1.9), 24, 145))[::-1]
    for radius in radii * rng.uniform(0.8, 1.2, len(radii)):
        bed.drop(rng.uniform(-40, w + 40), rng.uniform(-40, h + 40), float(radius))
    dy, dx = np.gradient(bed.height)
    normal = unit(np.stack([-dx, -dy, np.ones_like(dx)], -1))
    direct = np.clip(normal @ LIGHT, 0, 1) * shadow(bed.height)
    sky = openness(bed.height) ** 1.5 * (0.6 + 0.4 * normal[..., 2])
    half = unit(LIGHT + np.array([0, 0, 1], np.float32))
    shine = np.clip(normal @ half, 0, 1) ** 40 * bed.gloss * (direct > 0)
    light = direct[..., None] * SUNLIGHT + sky[..., None] * SKYLIGHT
    picture = film(bed.colour * light + (0.9 * shine * direct)[..., None] * SUNLIGHT, 0.72)
    return developed(shrink(picture, SAMPLES), vignette=0.12, grain=0.005, seed=2)
