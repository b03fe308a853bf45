"""The surfaces of the still life: colours (linear RGB) and relief at points in a thing's own coordinates, -1..1."""

import numpy as np

from .common import Array, Lattice, smoothstep

LATTICE = Lattice(41)


def orange(p: Array) -> Array:
    blush = LATTICE.fractal(p * 1.7 + 3, 3)[..., None]
    return np.array([0.86, 0.30, 0.025], np.float32) + blush * np.array([0.06, 0.08, 0.01], np.float32)


def lemon(p: Array) -> Array:
    tip = smoothstep(0.80, 1.0, np.abs(p[..., 0]))[..., None]
    tone = np.array([0.88, 0.66, 0.055], np.float32) + 0.05 * LATTICE.fractal(p * 2.5 + 8, 3)[..., None]
    return tone * (1 - 0.6 * tip) + np.array([0.42, 0.50, 0.06], np.float32) * 0.6 * tip


def celadon(p: Array) -> Array:
    """A pale green glaze with painted bands in cobalt and fine crackle."""
    y, cloud = p[..., 1], LATTICE.fractal(p * 3, 4)
    glaze = np.array([0.40, 0.58, 0.50], np.float32) * (1 + 0.16 * cloud)[..., None]
    angle = np.arctan2(p[..., 2], p[..., 0])
    wave = np.abs(y - 0.12 + 0.075 * np.sin(9 * angle)) - 0.030 - 0.008 * cloud
    lines = np.minimum(np.abs(np.abs(y - 0.12) - 0.21) - 0.016, wave)
    crackle = 1 - 0.25 * smoothstep(0.035, 0.0, np.abs(LATTICE.fractal(p * 5 + 20, 2)))
    ink = smoothstep(0.012, -0.004, lines)[..., None] * 0.9
    return glaze * crackle[..., None] * (1 - ink) + np.array([0.03, 0.06, 0.24], np.float32) * ink


def brass(p: Array) -> Array:
    stain = LATTICE.fractal(p * 2.4 + 4, 4)[..., None]
    return np.array([0.88, 0.66, 0.34], np.float32) * (0.94 + 0.08 * stain)


def block(p: Array) -> Array:
    """Painted wood, a paler field on each face, worn at the edges."""
    a = np.sort(np.abs(p), -1)[..., 1]  # along a face, the larger of the two distances from its middle
    worn = LATTICE.fractal(p * 4 + 30, 4)
    red, cream = np.array([0.42, 0.065, 0.05], np.float32), np.array([0.72, 0.60, 0.42], np.float32)
    field = smoothstep(0.66, 0.64, a)[..., None]
    tone = (red * (1 - field) + cream * field) * (1 + 0.12 * worn)[..., None]
    disc = smoothstep(0.40, 0.38, np.sqrt(np.maximum((p**2).sum(-1) - 1, 0)))[..., None]
    tone = tone * (1 - disc) + np.array([0.06, 0.16, 0.30], np.float32) * disc
    bare = smoothstep(0.91, 0.99, a + 0.06 * worn)[..., None]
    return tone * (1 - bare) + np.array([0.50, 0.33, 0.18], np.float32) * bare


def cherry(p: Array) -> Array:
    tone = LATTICE.fractal(p * 1.5 + 12, 2)[..., None]
    return np.array([0.30, 0.018, 0.022], np.float32) * (1 + 0.5 * tone)


def table(p: Array) -> Array:
    """Oak boards: rings of a trunk cut lengthwise, pores, gaps between the boards."""
    x, z = p[..., 0], p[..., 2]
    board = np.floor((z + 20.13) / 0.62)
    across = (z + 20.13) / 0.62 - board
    shift = np.stack([board * 3.7, board * 1.3, 0 * x], -1)
    bend = LATTICE.fractal(np.stack([x * 0.7, z * 2.2, 0 * x], -1) + shift, 3)
    ring = np.abs((z * 7 + 1.7 * bend + 0.25 * x + board * 2.7) % 1 - 0.4)
    pores = LATTICE.fractal(np.stack([x * 6, z * 95, 0 * x], -1) + shift, 2)
    tone = 0.80 + 0.34 * ring + 0.16 * bend - 0.30 * smoothstep(0.25, 0.8, pores)
    tone *= 0.86 + 0.10 * np.sin(board * 12.9)
    gap = smoothstep(0.014, 0.003, np.minimum(across, 1 - across))
    return np.array([0.40, 0.235, 0.12], np.float32) * (tone * (1 - 0.8 * gap))[..., None]


def wall(p: Array) -> Array:
    """Limewashed plaster."""
    q = np.stack([p[..., 0], p[..., 1], 0 * p[..., 0]], -1)
    tone = 1 + 0.16 * LATTICE.fractal(q * 0.9 + 5, 5) + 0.05 * LATTICE.fractal(q * 9, 3)
    return np.array([0.46, 0.49, 0.47], np.float32) * tone[..., None]


PAINTS = {f.__name__: f for f in (orange, lemon, celadon, brass, block, cherry)}


def relief(p: Array, paint: str) -> Array:
    """Return the height of a surface's relief."""
    if paint == "orange":
        return 0.22 * LATTICE(p * 26) + 0.3 * LATTICE(p * 13 + 5)
    return LATTICE.fractal(p * (14 if paint == "lemon" else 3), 2) * 0.3
