"""Fruit, glazed balls and a toy block on a wooden table by a window: a small path tracer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .common import HEIGHT, WIDTH, Array, developed, film, smoothstep, unit
from .paints import PAINTS, relief, table, wall

PASSES = 160  # paths a pixel
BOUNCES = 4
EYE, TARGET = np.array([0.15, 1.55, -4.6], np.float32), np.array([0.05, 0.42, 0.1], np.float32)
FIELD = 0.40  # half the width of the picture at distance 1
APERTURE, FOCUS = 0.035, 4.35

# The window: a corner, two sides, its radiance and the way it faces.
WINDOW = np.array([-3.6, 1.0, -1.9], np.float32)
WINDOW_SIDES = np.array([[0, 0, 2.6], [0, 2.2, 0]], np.float32)
WINDOW_LIGHT = np.array([9.5, 9.0, 8.2], np.float32)
WINDOW_NORMAL = np.array([1, 0, 0], np.float32)
WINDOW_AREA = 2.6 * 2.2
ROOM = np.array([0.24, 0.215, 0.19], np.float32)  # what comes from the rest of the room


@dataclass(frozen=True)
class Thing:
    """Something on the table.

    Attributes:
        kind: "ellipsoid" or "block".
        centre, half: position and half the sizes along its own axes.
        turn: rotation about the vertical, radians; tilt: then about the line of sight.
        paint: the pattern of its surface, a key of `PAINTS`.
        coat: reflection at normal incidence of a clear layer on top; metal has 1 with `paint` as its colour.
        bump: depth of the surface's relief.
    """

    kind: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    paint: str
    turn: float = 0.0
    tilt: float = 0.0
    coat: float = 0.04
    bump: float = 0.0
    metal: bool = False

    def axes(self) -> Array:
        """Return the rotation from the world to the thing."""
        c, s, a, b = np.cos(self.turn), np.sin(self.turn), np.cos(self.tilt), np.sin(self.tilt)
        turn, tilt = [[c, 0, -s], [0, 1, 0], [s, 0, c]], [[a, b, 0], [-b, a, 0], [0, 0, 1]]
        return (np.array(tilt) @ np.array(turn)).astype(np.float32)


THINGS = (
    Thing("ellipsoid", (-0.62, 0.46, 0.15), (0.46, 0.445, 0.46), "orange", turn=0.5, coat=0.035, bump=0.05),
    Thing("ellipsoid", (0.28, 0.31, -0.62), (0.45, 0.31, 0.31), "lemon", turn=0.55, coat=0.035, bump=0.035),
    Thing("ellipsoid", (0.32, 0.62, 0.78), (0.62, 0.62, 0.62), "celadon", coat=0.055),
    Thing("ellipsoid", (1.12, 0.33, 0.02), (0.33, 0.33, 0.33), "brass", coat=1.0, metal=True, bump=0.002),
    Thing("block", (-1.28, 0.34, 0.92), (0.34, 0.34, 0.34), "block", turn=0.62, coat=0.03),
    Thing("ellipsoid", (-0.30, 0.115, -0.86), (0.12, 0.115, 0.12), "cherry", coat=0.045),
    Thing("ellipsoid", (-0.56, 0.12, -0.98), (0.125, 0.12, 0.125), "cherry", turn=2.0, coat=0.045),
)


@dataclass
class Hit:
    """What a bundle of rays met."""

    t: Array
    normal: Array
    which: NDArray[np.int8]  # of THINGS; then: table, wall, window; -1 for nothing


TABLE, WALL, OPENING, NOTHING = len(THINGS), len(THINGS) + 1, len(THINGS) + 2, -1
WALL_Z, FAR = 3.4, 50.0


def meet(thing: Thing, o: Array, d: Array) -> tuple[Array, Array]:
    """Return distances (infinity for a miss) and normals."""
    axes, half = thing.axes(), np.array(thing.half, np.float32)
    o, d = ((o - np.array(thing.centre, np.float32)) @ axes.T) / half, (d @ axes.T) / half
    with np.errstate(divide="ignore", invalid="ignore"):
        if thing.kind == "ellipsoid":
            a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
            root = np.sqrt(b * b - a * c)
            t = np.where(-b - root > 1e-3 * a, -b - root, -b + root) / a
            p = o + t[:, None] * d
            local = p / half
        else:
            low, high = (-1 - o) / d, (1 - o) / d
            t = np.minimum(low, high).max(-1)
            t = np.where(t < np.maximum(low, high).min(-1), t, np.inf)
            p = o + t[:, None] * d
            local = np.where(np.abs(p) >= np.abs(p).max(-1, keepdims=True), np.sign(p), 0)
    t = np.where((t > 1e-3) & np.isfinite(t), t, np.inf).astype(np.float32)
    return t, unit(np.nan_to_num(local) @ axes)


def trace(o: Array, d: Array) -> Hit:
    """Return the nearest thing along each ray."""
    with np.errstate(divide="ignore", invalid="ignore"):
        planes = [(TABLE, -o[:, 1] / d[:, 1], (0, 1, 0)), (WALL, (WALL_Z - o[:, 2]) / d[:, 2], (0, 0, -1))]
        side = (WINDOW[0] - o[:, 0]) / d[:, 0]
    at = o + np.nan_to_num(side, posinf=0, neginf=0)[:, None] * d - WINDOW
    within = (at[:, 2] > 0) & (at[:, 2] < 2.6) & (at[:, 1] > 0) & (at[:, 1] < 2.2)
    hit = Hit(np.where(within & (side > 1e-3), side, np.inf), np.zeros_like(o), np.full(len(o), OPENING, np.int8))
    hit.normal[:] = WINDOW_NORMAL
    candidates = [(k, t, np.array(n, np.float32)[None]) for k, t, n in planes]
    candidates += [(k, *meet(thing, o, d)) for k, thing in enumerate(THINGS)]
    for k, t, normal in candidates:
        nearer = (t > 1e-3) & (t < np.minimum(hit.t, FAR))
        hit.t = np.where(nearer, t, hit.t).astype(np.float32)
        hit.which[nearer] = k
        hit.normal = np.where(nearer[:, None], normal, hit.normal)
    hit.which[~np.isfinite(hit.t)] = NOTHING
    return hit


def surface(hit: Hit, p: Array) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Return colour, normal with relief, coat and whether metal, at the points that were met."""
    colour, normal = np.zeros_like(p), hit.normal.copy()
    coat, metal = np.zeros(len(p), np.float32), np.zeros(len(p), bool)
    for k, paint in ((TABLE, table), (WALL, wall)):
        on = hit.which == k
        colour[on] = paint(p[on])
    on = hit.which == TABLE
    coat[on] = 0.02 * smoothstep(0.05, 0.14, colour[on].mean(-1))
    for k, thing in enumerate(THINGS):
        on = np.flatnonzero(hit.which == k)
        if len(on) == 0:
            continue
        local = ((p[on] - np.array(thing.centre, np.float32)) @ thing.axes().T) / np.array(thing.half, np.float32)
        colour[on] = PAINTS[thing.paint](local)
        coat[on], metal[on] = thing.coat, thing.metal
        if thing.bump:
            step = 0.01
            here = relief(local, thing.paint)
            slope = [(relief(local + step * e, thing.paint) - here) / step for e in np.eye(3, dtype=np.float32)]
            normal[on] = unit(normal[on] - thing.bump * np.stack(slope, -1) @ thing.axes())
    return np.clip(colour, 0, 0.95), normal, coat, metal


def scattered(normal: Array, rng: np.random.Generator) -> Array:
    """Return directions about the normals, as dense as their cosine."""
    z, angle = rng.uniform(-1, 1, len(normal)), rng.uniform(0, 2 * np.pi, len(normal))
    r = np.sqrt(1 - z * z)
    ball = np.stack([r * np.cos(angle), r * np.sin(angle), z], -1)
    return unit((normal * 1.0001 + ball).astype(np.float32))


def from_window(p: Array, normal: Array, rng: np.random.Generator) -> Array:
    """Return the light that reaches points from one random place of the window each."""
    uv = rng.random((len(p), 2)).astype(np.float32)
    to = WINDOW + uv @ WINDOW_SIDES - p
    distance = np.linalg.norm(to, axis=-1)
    d = to / distance[:, None]
    cosines = np.clip((normal * d).sum(-1), 0, 1) * np.clip(-d @ WINDOW_NORMAL, 0, 1)
    strength = cosines * WINDOW_AREA / (np.pi * distance**2)
    lit = np.flatnonzero(strength > 0)
    free = trace(p[lit] + 2e-3 * normal[lit], d[lit]).which == OPENING
    light = np.zeros_like(p)
    # the bars of the window
    bars = np.minimum(np.abs(uv[lit] - 0.5), 0.5).min(-1) > 0.022
    light[lit] = WINDOW_LIGHT * (strength[lit] * free * bars)[:, None]
    return light


def paths(o: Array, d: Array, rng: np.random.Generator) -> Array:
    """Return the radiance along rays, by one random path each."""
    radiance, weight = np.zeros_like(d), np.ones_like(d)
    # after one mirror at most: matte surfaces count its light at the bounce, the rest is too rare to sample
    sees_window = np.ones(len(d), bool)
    alive = np.arange(len(d))
    for bounce in range(BOUNCES):
        hit = trace(o, d)
        missed, window = hit.which == NOTHING, hit.which == OPENING
        radiance[alive[missed]] += weight[alive[missed]] * ROOM * (0.7 + np.clip(d[missed, 1:2], -0.3, 1))
        p = o + np.nan_to_num(hit.t, posinf=0)[:, None] * d
        uv = np.abs((p - WINDOW)[:, [2, 1]] / np.array([2.6, 2.2]) - 0.5)
        shown = window & sees_window & (uv.min(-1) > 0.022)
        radiance[alive[shown]] += weight[alive[shown]] * WINDOW_LIGHT
        go = ~(missed | window)
        colour, normal, coat, metal = surface(hit, p)
        facing = np.clip(-(normal * d).sum(-1), 0, 1)
        fresnel = coat + (1 - coat) * (1 - facing) ** 5 * (coat > 0)
        # the mirror image is sampled more often than it is bright: a few glaring samples would stay as dots
        chance = np.where(coat > 0, np.maximum(fresnel, 0.3), 0)
        mirror = metal | (rng.random(len(d)) < chance)
        share = np.where(mirror, fresnel / np.maximum(chance, 1e-9), (1 - fresnel) / (1 - np.minimum(chance, 0.999)))
        weight[alive[go & ~metal]] *= share[go & ~metal, None].astype(np.float32)
        matte = go & ~mirror
        weight[alive[matte]] *= colour[matte]
        weight[alive[go & metal]] *= colour[go & metal]
        light = from_window(p[matte], normal[matte], rng)
        radiance[alive[matte]] += weight[alive[matte]] * light
        blur = np.where(hit.which == TABLE, 0.10, np.where(metal, 0.012, 0.03))[:, None]
        mirrored = d + 2 * facing[:, None] * normal + blur * rng.standard_normal(d.shape)
        bounced = np.where(mirror[:, None], mirrored, scattered(normal, rng))
        o, d = (p + 2e-3 * normal)[go], unit(bounced.astype(np.float32))[go]
        alive, sees_window = alive[go], (mirror & (bounce == 0))[go]
    return radiance


def camera(rng: np.random.Generator) -> tuple[Array, Array]:
    """Return one ray a pixel, through a random place of the pixel and of the lens."""
    forward = unit(TARGET - EYE)
    right = unit(np.cross(np.array([0, 1, 0], np.float32), forward).astype(np.float32))
    up = np.cross(forward, right).astype(np.float32)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].reshape(2, -1) + rng.random((2, HEIGHT * WIDTH))
    x, y = (2 * x / WIDTH - 1) * FIELD, -(2 * y / HEIGHT - 1) * FIELD * HEIGHT / WIDTH
    focus = EYE + FOCUS * (forward + x[:, None] * right + y[:, None] * up)
    radius, angle = APERTURE * np.sqrt(rng.random(len(x))), rng.uniform(0, 2 * np.pi, len(x))
    o = EYE + (radius * np.cos(angle))[:, None] * right + (radius * np.sin(angle))[:, None] * up
    return o.astype(np.float32), unit((focus - o).astype(np.float32))


def render() -> NDArray[np.uint8]:
    """Return the picture, (H, W, 3)."""
    rng = np.random.default_rng(40)
    total = np.zeros((HEIGHT * WIDTH, 3), np.float32)
    for _ in range(PASSES):
        # a rare path of great weight would stay as a bright dot
        total += np.minimum(paths(*camera(rng), rng), 6)
    picture = film((total / PASSES).reshape(HEIGHT, WIDTH, 3), 1.15)
    return developed(picture, vignette=0.18, grain=0.003, seed=3)
