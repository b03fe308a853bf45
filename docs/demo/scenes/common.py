"""What the scenes share: noise, a film-like tone curve, averaging of samples."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

WIDTH, HEIGHT = 336, 224


def unit(v: Array) -> Array:
    """Return vectors of length 1 along the last axis."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def smoothstep(low: float, high: float, x: Array) -> Array:
    """Return 0 below `low`, 1 above `high`, smooth between; falls where `low` > `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Array, b: Array, share: Array) -> Array:
    """Return colours (..., 3) between `a` and `b`, `share` (...) of the latter."""
    return a + (b - a) * share[..., None]


def spectral(shape: tuple[int, int], exponent: float, seed: int) -> Array:
    """Return periodic noise with power 1 / frequency^exponent, mean 0, deviation 1."""
    white = np.fft.rfft2(np.random.default_rng(seed).standard_normal(shape))
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    frequency = np.sqrt(fy**2 + fx**2)
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(white / frequency ** (exponent / 2), s=shape)
    return (field / field.std()).astype(np.float32)


class Lattice:
    """Smooth noise in three dimensions, -1 to 1, from random values on a periodic lattice."""

    side = 32

    def __init__(self, seed: int) -> None:
        self.values = np.random.default_rng(seed).uniform(-1, 1, self.side**3).astype(np.float32)

    def __call__(self, p: Array) -> Array:
        """Return the noise at points (..., 3)."""
        near, far, share = [], [], []
        for k, stride in enumerate((self.side**2, self.side, 1)):
            axis = p[..., k]
            floor = np.floor(axis)
            i, t = floor.astype(np.int32), axis - floor
            near.append(i % self.side * stride)
            far.append((i + 1) % self.side * stride)
            share.append(t * t * (3 - 2 * t))
        u, v, w = share

        def along_z(xy: NDArray[np.int32]) -> Array:
            low = self.values[xy + near[2]]
            return low + w * (self.values[xy + far[2]] - low)

        def along_y(x: NDArray[np.int32]) -> Array:
            low = along_z(x + near[1])
            return low + v * (along_z(x + far[1]) - low)

        low = along_y(near[0])
        return low + u * (along_y(far[0]) - low)

    def fractal(self, p: Array, octaves: int) -> Array:
        """Return a sum of octaves, each of half the size and half the strength of the one before."""
        return sum((0.5**k * self(p * 2**k + 7.3 * k) for k in range(octaves)), np.zeros(p.shape[:-1], np.float32))


def film(radiance: Array, exposure: float = 1.0) -> Array:
    """Return display values 0..1 of linear light: a filmic curve (Narkowicz's fit of ACES), then the sRGB one."""
    x = np.maximum(radiance * exposure, 0)
    x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055).astype(np.float32)


def shrink(image: Array, factor: int) -> Array:
    """Return the mean of each `factor` x `factor` block."""
    h, w, c = image.shape
    return image.reshape(h // factor, factor, w // factor, factor, c).mean((1, 3))


def developed(display: Array, *, vignette: float, grain: float, seed: int) -> NDArray[np.uint8]:
    """Return 8-bit pixels, darkened towards the corners and with a sensor's fine grain."""
    h, w, _ = display.shape
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    noise = np.random.default_rng(seed).standard_normal((h, w, 1)) * grain
    shaded = display * (1 - vignette * (x**2 + y**2) / 2)[..., None] + noise
    return np.clip(np.rint(shaded * 255), 0, 255).astype(np.uint8)
