"""A mountain lake in late light: a fractal height field, ray-marched, with shadows, haze, clouds and reflections."""

import numpy as np
from numpy.typing import NDArray

from .common import HEIGHT, WIDTH, Array, Lattice, developed, film, mix, shrink, smoothstep, spectral, unit

CELLS = 2048
EXTENT = 12.0  # km: the ground is x in -6..6, z in 0..12
OCTAVES = 9
NEAREST, STEPS = 0.08, 560
SAMPLES = 2  # a side of each pixel
CAMERA = np.array([0.0, 0.06, 0.0], np.float32)
SUN = unit(np.array([-0.78, 0.46, -0.18], np.float32))
SUNLIGHT = np.array([4.9, 3.7, 2.45], np.float32)
ZENITH, HORIZON = np.array([0.05, 0.16, 0.46], np.float32), np.array([0.66, 0.67, 0.70], np.float32)


def ground() -> Array:
    """Return heights in km on the grid (z, x), below 0 where the lake is."""
    z, x = np.mgrid[0 : EXTENT : CELLS * 1j, -EXTENT / 2 : EXTENT / 2 : CELLS * 1j].astype(np.float32)
    lattice = Lattice(11)
    flat = np.zeros_like(x)
    warp = lattice.fractal(np.stack([x * 0.5, z * 0.5, flat + 3.7], -1), 3)
    ridges, weight = np.zeros_like(x), np.ones_like(x)
    u, v = x + 0.35 * warp + 5.1, z + 0.28 * warp + 1.9
    for k in range(OCTAVES):
        n = lattice(np.stack([u * 0.45, v * 0.45, flat + 1.7 * k], -1))
        crest = (1 - np.sqrt(n**2 + 0.003)) ** 2 * weight
        ridges += 0.47**k * crest
        weight = np.clip(crest * 1.5, 0.2, 1)
        # each octave turned, so that the lattice's axes do not add up to a grid
        u, v = 2.03 * (0.8 * u - 0.6 * v), 2.03 * (0.6 * u + 0.8 * v)
    valley = np.abs(x + 0.45 * np.sin(z * 0.8 + 0.4) - 0.1) / (0.75 + 0.11 * z)
    rise = smoothstep(0.45, 3.6, valley) + 0.85 * smoothstep(3.6, 9.0, z)
    height = (ridges * 1.25 - 0.55) * np.clip(rise, 0, 1.1) + 0.20 * rise - 0.035
    return height.astype(np.float32)


def sample(field: Array, x: Array, z: Array) -> Array:
    """Return a field of the ground at points, bilinear."""
    u = np.clip((x / EXTENT + 0.5) * (CELLS - 1), 0, CELLS - 1.001)
    v = np.clip(z / EXTENT * (CELLS - 1), 0, CELLS - 1.001)
    i, j = u.astype(np.int32), v.astype(np.int32)
    u, v = (u - i).astype(np.float32), (v - j).astype(np.float32)
    flat, at = field.reshape(-1), j * CELLS + i
    top = flat[at] * (1 - u) + flat[at + 1] * u
    return top * (1 - v) + (flat[at + CELLS] * (1 - u) + flat[at + CELLS + 1] * u) * v


def sunlit(height: Array) -> Array:
    """Return the share of the sun that each cell sees, 0..1, with a soft edge."""
    cell = EXTENT / (CELLS - 1)
    j, i = np.mgrid[0:CELLS, 0:CELLS].astype(np.float32)
    x, z = (i / (CELLS - 1) - 0.5) * EXTENT, j * cell
    light = np.ones_like(height)
    for distance in np.geomspace(1.5 * cell, 4.0, 70):
        above = sample(height, x + SUN[0] * distance, z + SUN[2] * distance)
        clearance = height + SUN[1] * distance - above
        light = np.minimum(light, np.clip(0.5 + 20 * clearance / distance, 0, 1))
    return light.astype(np.float32)


def march(height: Array, origin: Array, direction: Array) -> Array:
    """Return the distance at which each ray meets the ground, infinity where it does not."""
    found = np.full(len(direction), np.inf, np.float32)
    active = np.arange(len(direction))
    # rays that stop at the same distances would leave steps in the slopes
    jitter = np.random.default_rng(3).uniform(1, (EXTENT / NEAREST) ** (1 / STEPS), len(direction)).astype(np.float32)
    near, near_gap = np.zeros(len(direction), np.float32), np.ones(len(direction), np.float32)
    for step in np.geomspace(NEAREST, EXTENT, STEPS, dtype=np.float32):
        t = step * jitter[active]
        p = origin[active] + t[:, None] * direction[active]
        gap = p[:, 1] - sample(height, p[:, 0], p[:, 2])
        hit = gap < 0
        share = near_gap[active] / np.maximum(near_gap[active] - gap, 1e-9)
        found[active[hit]] = (near[active] + (t - near[active]) * np.clip(share, 0, 1))[hit]
        near[active], near_gap[active] = t, gap
        inside = (np.abs(p[:, 0]) < EXTENT / 2) & (p[:, 2] < EXTENT) & (p[:, 1] < 2.5) & (p[:, 1] > -0.2)
        active = active[~hit & inside]
    return found


class Scene:
    """The ground and everything that is computed on it once."""

    def __init__(self) -> None:
        self.coarse = spectral((CELLS, CELLS), 2.6, 6)
        self.height = ground()
        self.wooded = self.trees(self.height)
        self.height += 0.011 * self.wooded * np.abs(spectral((CELLS, CELLS), 0.9, 7))
        cell = EXTENT / (CELLS - 1)
        self.slope_z, self.slope_x = (g.astype(np.float32) for g in np.gradient(self.height, cell))
        self.light = sunlit(self.height)
        self.fine = spectral((CELLS, CELLS), 1.6, 5)
        self.clouds = spectral((1024, 1024), 3.1, 9)

    def trees(self, height: Array) -> Array:
        """Return how densely each cell is wooded, 0..1."""
        return smoothstep(0.9, 0.3, self.coarse) * smoothstep(0.012, 0.03, height) * smoothstep(0.5, 0.35, height)

    def sky(self, d: Array) -> Array:
        """Return the radiance of the sky along rays."""
        up = np.clip(d[:, 1], 0, 1)
        towards = np.clip(d @ SUN, 0, 1)
        colour = mix(np.broadcast_to(HORIZON, d.shape), np.broadcast_to(ZENITH, d.shape), 1 - np.exp(-4.5 * up))
        colour = colour + SUNLIGHT * (0.08 * towards[:, None] ** 6)
        reach = 1.1 / np.maximum(up + 0.05, 0.02)
        u, v = d[:, 0] * reach * 110 + 300, d[:, 2] * reach * 110 + 520
        density = self.cloud(u, v)
        lit = np.clip(density - self.cloud(u + 9 * SUN[0], v + 9 * SUN[2]), -0.6, 0.6)
        white = np.array([1.0, 0.93, 0.86], np.float32) * (1.05 + 0.7 * lit[:, None])
        cover = smoothstep(0.15, 1.7, density) * smoothstep(0.01, 0.12, up) * 0.92
        return mix(colour, white, cover)

    def cloud(self, u: Array, v: Array) -> Array:
        i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        a, b = (u - i).astype(np.float32), (v - j).astype(np.float32)
        at = [self.clouds[(j + dj) % 1024, (i + di) % 1024] for dj in (0, 1) for di in (0, 1)]
        return (at[0] * (1 - a) + at[1] * a) * (1 - b) + (at[2] * (1 - a) + at[3] * a) * b

    def land(self, p: Array, t: Array) -> Array:
        """Return the radiance of the ground at points: snow, rock, wood and grass, in the sun or not."""
        x, y, z = p.T
        normal = unit(np.stack([-sample(self.slope_x, x, z), np.ones_like(x), -sample(self.slope_z, x, z)], -1))
        fine, coarse = sample(self.fine, x, z), sample(self.coarse, x, z)
        strata = 0.5 + 0.5 * np.sin(y * 60 + 3.5 * coarse + 0.5 * fine)
        rock = np.array([0.23, 0.20, 0.18], np.float32) * (0.85 + 0.18 * strata + 0.22 * fine)[:, None]
        wood = np.array([0.034, 0.056, 0.020], np.float32) * (1 + 0.35 * np.clip(fine, -2, 2))[:, None]
        grass = np.array([0.15, 0.125, 0.05], np.float32) * (1 + 0.25 * fine)[:, None]
        snow = np.broadcast_to(np.array([0.86, 0.89, 0.95], np.float32), p.shape)
        green = mix(wood, grass, smoothstep(0.3, 1.2, coarse + 0.2 * fine))
        ground = mix(green, rock, smoothstep(0.32, 0.55, y + 0.07 * coarse + 0.02 * fine))
        bare = smoothstep(0.80, 0.62, normal[:, 1] + 0.03 * fine) * (1 - sample(self.wooded, x, z))
        ground = mix(ground, rock, bare)
        high = smoothstep(0.55, 0.85, y + 0.08 * coarse + 0.03 * fine)
        ground = mix(ground, snow, high * smoothstep(0.52, 0.72, normal[:, 1] + 0.04 * fine))
        ground = mix(np.array([0.20, 0.18, 0.15], np.float32) * np.ones_like(p), ground, smoothstep(0.002, 0.014, y))
        direct = np.clip(normal @ SUN, 0, 1) * sample(self.light, x, z)
        ambient = (0.55 + 0.45 * normal[:, 1])[:, None] * np.array([0.18, 0.27, 0.46], np.float32)
        colour = ground * (direct[:, None] * SUNLIGHT + ambient)
        return self.hazy(colour, p, t)

    def hazy(self, colour: Array, p: Array, t: Array) -> Array:
        towards = np.clip(unit(p - CAMERA) @ SUN, 0, 1)
        haze = np.array([0.50, 0.56, 0.66], np.float32) + towards[:, None] ** 3 * np.array(
            [0.5, 0.34, 0.18], np.float32
        )
        return mix(colour, haze, 1 - np.exp(-0.030 * t * np.exp(-0.8 * np.clip(p[:, 1], 0, 2))))

    def seen(self, origin: Array, d: Array) -> Array:
        """Return the radiance along rays that meet land or sky."""
        t = march(self.height, origin, d)
        colour, hit = self.sky(d), np.isfinite(t)
        colour[hit] = self.land(origin[hit] + t[hit, None] * d[hit], t[hit])
        return colour

    def water(self, p: Array, d: Array, t: Array) -> Array:
        """Return the radiance of the lake: the land and the sky mirrored, over dark green depth."""
        # waves narrower than a pixel would only make noise, hence the fading with distance
        calm = 0.030 / (1 + 1.3 * t)
        lattice = Lattice(21)
        q = np.stack([p[:, 0] * 18, p[:, 2] * 46, np.zeros_like(t)], -1)
        patches = 0.35 + 0.65 * smoothstep(-0.3, 0.5, lattice.fractal(q * 0.06, 3))
        tilt = [calm * patches * lattice.fractal(q + shift, 4) for shift in (0.0, 13.5)]
        n = unit(np.stack([tilt[0] * 0.6, np.ones_like(t), tilt[1] * 1.6], -1))
        facing = np.clip(-(n * d).sum(-1), 0.01, 1)
        mirrored = d + 2 * facing[:, None] * n
        mirrored[:, 1] = np.maximum(mirrored[:, 1], 0.003)
        fresnel = 0.03 + 0.97 * (1 - facing) ** 5
        depth = np.array([0.030, 0.060, 0.062], np.float32) * np.ones_like(p)
        return mix(depth, 0.92 * self.seen(p, unit(mirrored)), fresnel)


def rays() -> Array:
    """Return one direction a sample, row by row."""
    h, w = HEIGHT * SAMPLES, WIDTH * SAMPLES
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    x, y = (x + 0.5 - w / 2) / w * 0.92, (h * 0.615 - y - 0.5) / w * 0.92
    return unit(np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3))


def render() -> NDArray[np.uint8]:
    """Return the picture, (H, W, 3)."""
    scene, d = Scene(), rays()
    origin = np.broadcast_to(CAMERA, d.shape)
    t = march(scene.height, origin, d)
    to_water = np.where(d[:, 1] < 0, -CAMERA[1] / np.minimum(d[:, 1], -1e-6), np.inf).astype(np.float32)
    wet, land = (to_water < t) & (to_water < EXTENT), np.isfinite(t) & (t <= to_water)
    colour = scene.sky(d)
    colour[land] = scene.land(origin[land] + t[land, None] * d[land], t[land])
    p = origin[wet] + to_water[wet, None] * d[wet]
    colour[wet] = scene.hazy(scene.water(p, d[wet], to_water[wet]), p, to_water[wet])
    picture = shrink(film(colour.reshape(HEIGHT * SAMPLES, WIDTH * SAMPLES, 3), 0.72), SAMPLES)
    return developed(picture, vignette=0.16, grain=0.004, seed=1)
