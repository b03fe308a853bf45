"""Where the parts of one image are in another: a displacement field, and both images brought to the middle of the way.

The field is found on the luma of both images, coarse to fine: a search for the best match on the coarse levels, then
steps of Lucas and Kanade's method (IJCAI 1981). It is symmetric, u(x, y) = -u(y, x): a place p of the middle frame is
p - u/2 in x and p + u/2 in y. Fields are kept on a grid of a quarter of the resolution at which they are found, (right,
down), in shares of the image's shorter side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from damlpips.ops.execution import is_dual
from damlpips.ops.tiling import Span
from damlpips.ops.windows import box, nearby, shrunk

# Levels of the pyramid; each has half the resolution of the one before.
LEVELS = 5
# The level on whose grid the field is kept, and on which it is decided whether anything has moved.
GRID_LEVEL = 2
# The coarsest levels, on which matches are searched for, and what has no contrast follows an affine field.
SEARCHED_LEVELS = 2
AFFINE_LEVELS = 3
# Matches are searched for within this many places: in all, within a sixth of a side of 256.
REACH = 2
# Steps on each level, fine to coarse.
STEPS = (1, 1, 2, 2, 2)
# Windows, in places, of the cost of a match, of a step's equations, and of the smoothing after it.
WINDOW = 3
# Contrast, of luma in 0 to 1, below which there is nothing to follow.
CONTRAST_FLOOR = 0.03
# The cost of a step of one place in the search, in squared differences of normalised luma.
STEP_COST = 0.01
# How sharply the search prefers the best match.
TEMPERATURE = 0.05
# Curvature added to a step's equations, so that flat places stay where they are.
DAMPING = 0.02
# How much a place without contrast keeps to the coarser level's field.
PRIOR = 0.6
# The deviation from the affine field, in shares of the shorter side, at which a place counts half in fitting it.
OUTLIER, FINAL_OUTLIER = 0.05, 0.02
# Deviations from the affine field that cannot be told from none, in shares of the shorter side: half of one is kept.
DOUBT = 2e-3
# A pair counts as moved from where the field explains this share of the difference to where it counts in full.
# Distortions in place seldom explain more than .4, motions .6 and more, from 1 pixel of 256 and half a degree on.
MOVED_FROM, MOVED_TO = 0.45, 0.65


class Field(NamedTuple):
    """A displacement field, and how sure it is of each place.

    Attributes:
        by: (N, 2, h, w), right and down, in shares of the shorter side.
        trust: (N, 1, h, w), at least 0; near 0 where nothing can be followed.
    """

    by: Tensor
    trust: Tensor


class Extent(NamedTuple):
    """How much a field moves, (N,) each.

    Attributes:
        distance: the root mean square of the displacement of the affine field nearest to it and of what deviates from
            that, in shares of the shorter side.
        strain: the norm of the symmetric part of the affine field's gradient: 0 for shifts and rotations; where all
            grows by a share s, s times the root of 2.
    """

    distance: Tensor
    strain: Tensor


# --- sampling --------------------------------------------------------------------------------------------------------


def positions(u: Tensor, first: int = 0) -> Float[Tensor, "1 2 h w"]:
    """Return the column and the row of each place of maps (N, C, h, w), whose first row is the row `first`."""
    h, w = u.shape[2:]
    rows = torch.arange(first, first + h, device=u.device, dtype=u.dtype)[:, None].expand(h, w)
    columns = torch.arange(w, device=u.device, dtype=u.dtype)[None].expand(h, w)
    return torch.stack([columns, rows])[None]


def sampled(x: Tensor, u: Float[Tensor, "n 2 h w"], padding: str = "border", first: int = 0) -> Tensor:
    """Sample maps bilinearly at p + u, with u in places; its first row is that of the row `first` of x."""
    if is_dual(x, u):
        return _gathered(x, positions(u, first) + u, padding)
    h, w = x.shape[2:]
    sides = torch.stack([torch.full((1, 1), 2 / side, device=x.device, dtype=x.dtype) for side in (w, h)])
    # columns and rows lie apart until here: on a CPU, operations on pairs of numbers take ten times as long
    at = torch.addcmul((positions(u, first) + 0.5) * sides - 1, u, sides).permute(0, 2, 3, 1)
    return F.grid_sample(x, at, mode="bilinear", padding_mode=padding, align_corners=False)


def _gathered(x: Tensor, at: Float[Tensor, "n 2 h w"], padding: str) -> Tensor:
    """Do what `grid_sample` does, at columns and rows, with operations that forward mode follows."""
    h, w = x.shape[2:]
    column, row = at.unbind(1)
    if padding == "border":
        column, row = column.clamp(0, w - 1), row.clamp(0, h - 1)
    left, top = column.detach().floor(), row.detach().floor()
    found = x.new_zeros(*x.shape[:2], *at.shape[2:])
    for r, by_row in ((top, 1 - (row - top)), (top + 1, row - top)):
        for c, by_column in ((left, 1 - (column - left)), (left + 1, column - left)):
            inside = (r >= 0) & (r < h) & (c >= 0) & (c < w)
            place = (r.clamp(0, h - 1) * w + c.clamp(0, w - 1)).long().flatten(1)[:, None].expand(-1, x.shape[1], -1)
            value = x.flatten(2).gather(2, place).reshape(found.shape)
            found = found + value * (by_row * by_column * inside)[:, None]
    return found


def in_places(u: Float[Tensor, "n 2 h w"], of: Tensor, rows: Span | None = None) -> Float[Tensor, "n 2 H W"]:
    """Bring a field, or some rows of it, to the size of maps, with displacements in places of theirs."""
    h, w = of.shape[2:]
    if rows is None:
        return F.interpolate(u, (h, w), mode="bilinear", align_corners=False) * min(h, w)
    at = positions(u.new_empty(1, 1, rows.length, w), rows.start)
    column, row = ((m + 0.5) * (2 / side) - 1 for m, side in zip(at.unbind(1), (w, h), strict=True))
    grid = torch.stack([column, row], -1).expand(len(u), -1, -1, -1)
    return F.grid_sample(u, grid, mode="bilinear", padding_mode="border", align_corners=False) * min(h, w)


def aligned(x: Tensor, y: Tensor, u: Float[Tensor, "n 2 h w"], rows: Span | None = None) -> tuple[Tensor, Tensor]:
    """Return both images, or some rows of them, in the middle frame; what only one of them shows is the same in both.

    Args:
        x, y: (N, C, H, W).
        u: the field, in shares of the shorter side.
    """
    half = in_places(u / 2, x, rows)
    first = 0 if rows is None else rows.start
    # weighted by how far the place is inside of the image, 0 to 1
    (a, of_a), (b, of_b) = ((sampled(m, v, "zeros", first), _inside(v, m, first)) for m, v in ((x, -half), (y, half)))
    either = (a + b) / (of_a + of_b).clamp(min=1e-6)
    return torch.addcmul(a, 1 - of_a, either), torch.addcmul(b, 1 - of_b, either)


def _inside(u: Float[Tensor, "n 2 h w"], x: Tensor, first: int) -> Float[Tensor, "n 1 h w"]:
    """Return the weight of the places of an image in what is sampled at p + u, 0 to 1."""
    at, (h, w) = positions(u, first) + u, x.shape[2:]
    across, down = (torch.minimum(m + 1, side - m).clamp(0, 1) for m, side in zip(at.split(1, 1), (w, h), strict=True))
    return across * down


# --- levels ----------------------------------------------------------------------------------------------------------


def pyramid(luma: Float[Tensor, "n 1 h w"]) -> list[Tensor]:
    """Return luma at each level, fine to coarse."""
    levels = [luma]
    for _ in range(LEVELS - 1):
        levels.append(shrunk(levels[-1], 2))
    return levels


def normalised(luma: Tensor, block: int = 4) -> Tensor:
    """Return luma without its local mean, divided by its local deviation: the same in light and in shade."""
    d = luma - nearby(luma, block)
    return d / (nearby(d.square(), block) + CONTRAST_FLOOR**2).sqrt()


# --- the field -------------------------------------------------------------------------------------------------------


def searched(a: Tensor, b: Tensor) -> Float[Tensor, "n 2 h w"]:
    """Return the step from each place of a to its match in b, in places: the mean of all within reach, the best most.

    The cost of a step s is the mean of (a(p) - b(p + s))^2 and (a(p - s) - b(p))^2, which is symmetric.
    """
    n, _, h, w = a.shape
    k = 2 * REACH + 1
    of_a, of_b = (F.unfold(F.pad(m, [REACH] * 4, mode="replicate"), k).reshape(n, k * k, h, w) for m in (a, b))
    cost = ((a - of_b).square() + (of_a.flip(1) - b).square()) / 2
    offsets = torch.arange(-REACH, REACH + 1, device=a.device, dtype=a.dtype)
    steps = torch.stack([offsets.repeat(k), offsets.repeat_interleave(k)])[:, :, None, None]
    likely = torch.softmax(-(box(cost, WINDOW) + STEP_COST * steps.square().sum(0)) / TEMPERATURE, 1)
    return torch.stack([(likely * along).sum(1) for along in steps], 1)


def step(a: Tensor, b: Tensor, u: Tensor, shrink: int = 1) -> Field:
    """Return one step of Lucas and Kanade's method from the field u; step and field are in places of a and b.

    With r = b(p + u/2) - a(p - u/2) and g the gradient of their mean, it minimises the sum of (r + g . step)^2 over a
    window; a step is one place at most. `shrink` x `shrink` places of a and b make a place of the result.
    """
    a, b = sampled(a, -u / 2), sampled(b, u / 2)
    r, mean = b - a, F.pad((a + b) / 2, (1, 1, 1, 1), mode="replicate")
    gx = (mean[..., 1:-1, 2:] - mean[..., 1:-1, :-2]) / 2
    gy = (mean[..., 2:, 1:-1] - mean[..., :-2, 1:-1]) / 2
    products = [v * w for v, w in ((gx, gx), (gx, gy), (gy, gy), (gx, r), (gy, r))]
    if shrink > 1:
        products = [shrunk(m, shrink) for m in products]
    xx, xy, yy, xr, yr = box(torch.cat(products, 1), WINDOW).split(1, 1)
    xx, yy = xx + DAMPING, yy + DAMPING
    det = xx * yy - xy * xy
    by = torch.cat([xy * yr - yy * xr, xy * xr - xx * yr], 1) / det
    # about the smaller eigenvalue of the window's gradients
    trust = (det / (xx + yy) - DAMPING / 2).clamp(min=0)
    return Field(by * by.square().sum(1, keepdim=True).clamp(min=1).rsqrt(), trust)


def smoothed(by: Tensor, trust: Tensor, before: Tensor) -> Tensor:
    """Average a field over its neighbourhood by trust; where there is none it keeps to `before`."""
    prior = PRIOR * trust.mean((2, 3), keepdim=True) + 1e-6
    moments = box(torch.cat([trust * by, trust], 1), WINDOW)
    return (moments[:, :2] + prior * before) / (moments[:, 2:] + prior)


class Affine(NamedTuple):
    """An affine field, (N, 2, h, w), and its coefficients of 1, right and down, (N, 2, 3), in shares of the side."""

    by: Tensor
    coefficients: Tensor


def affine(field: Field, outlier: float, fits: int = 3) -> Affine:
    """Return the affine field nearest to a field by trust; a deviation by `outlier` counts half in the next fit."""
    h, w = field.by.shape[2:]
    at, side = positions(field.by), min(h, w)
    base = torch.cat(
        [torch.ones_like(at[:, :1]), (at[:, :1] - (w - 1) / 2) / side, (at[:, 1:] - (h - 1) / 2) / side], 1
    )
    trust = field.trust + 1e-3 * field.trust.mean((2, 3), keepdim=True) + 1e-9
    weight = trust
    for left in reversed(range(fits)):
        coefficients = _least_squares(base, weight / weight.sum((2, 3), keepdim=True), field.by)
        by = (coefficients[..., None, None] * base[:, None]).sum(2)
        if left:
            weight = trust / (1 + ((field.by - by) / outlier).square().sum(1, keepdim=True))
    return Affine(by, coefficients)


def _least_squares(base: Tensor, weight: Tensor, by: Tensor) -> Float[Tensor, "n 2 3"]:
    # written out, since autocast would run matrix products in half precision
    weighted = base * weight
    moments = torch.stack([(weighted * base[:, i : i + 1]).sum((2, 3)) for i in range(3)], 1)
    targets = torch.stack([(weighted * by[:, i : i + 1]).sum((2, 3)) for i in range(2)], 1)
    first, second, third = (moments + 1e-4 * torch.eye(3, device=by.device, dtype=by.dtype)).unbind(1)
    inverse = [torch.linalg.cross(p, q) for p, q in ((second, third), (third, first), (first, second))]
    det = (first * inverse[0]).sum(1)
    return (targets[..., None] * torch.stack(inverse, 1)[:, None]).sum(2) / det[:, None, None]


def coarse_field(x: Sequence[Tensor], y: Sequence[Tensor]) -> Field:
    """Return the field between two pyramids down to the level of the grid."""
    by = trust = None
    for level in range(LEVELS - 1, GRID_LEVEL - 1, -1):
        is_searched = level >= LEVELS - SEARCHED_LEVELS
        a, b = (normalised(pyramid[level], 2 if is_searched else 4) for pyramid in (x, y))
        side = min(a.shape[2:])
        by = torch.cat([a, a], 1) * 0 if by is None else in_places(by, a)
        before = by
        if is_searched:
            by = box(by + searched(sampled(a, -by / 2), sampled(b, by / 2)), 3)
        for _ in range(STEPS[level]):
            found, trust = step(a, b, by)
            by = by + found
            if level >= LEVELS - AFFINE_LEVELS:
                before = affine(Field(by, trust), max(1.0, OUTLIER * side)).by
            by = smoothed(by, trust, before)
        by = by / side
    if by is None or trust is None:
        raise RuntimeError("there is at least one level")
    return Field(by, trust)


def refined(x: Sequence[Tensor], y: Sequence[Tensor], field: Field) -> Field:
    """Return a field refined on the levels below its grid; it stays on the grid.

    It has the gradients of the last step: at the best field a step is the derivative of where that is.
    """
    by, trust = field
    for level in range(GRID_LEVEL - 1, -1, -1):
        before = by
        for left in reversed(range(STEPS[level])):
            with torch.set_grad_enabled(torch.is_grad_enabled() and level == 0 and left == 0):
                a, b = normalised(x[level]), normalised(y[level])
                found, trust = step(a, b, in_places(by, a), 2 ** (GRID_LEVEL - level))
                by = smoothed(by + found / min(a.shape[2:]), trust, before)
    fit = affine(Field(by, trust), FINAL_OUTLIER).by
    apart = by - fit
    square = apart.square().sum(1, keepdim=True)
    return Field(fit + apart * (square / (square + DOUBT**2)), trust)


# --- what it says ----------------------------------------------------------------------------------------------------


def unexplained(x: Tensor, y: Tensor, u: Float[Tensor, "n 2 h w"]) -> Float[Tensor, " n"]:
    """Return what is left of the local differences in luma when both images are aligned, as a share of their energy."""
    before, after = ((d - nearby(d)).square().mean((1, 2, 3)) for d in (x - y, torch.sub(*aligned(x, y, u))))
    return (after + 1e-9) / (before + 1e-9)


def moved_share(unexplained: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return how far pairs count as moved, smoothly from 0 to 1, by what the coarse field leaves unexplained."""
    t = ((1 - unexplained - MOVED_FROM) / (MOVED_TO - MOVED_FROM)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def extent(field: Field) -> Extent:
    """Return how much a field moves and deforms."""
    fit = affine(field, FINAL_OUTLIER)
    trust = field.trust / (field.trust.mean((2, 3), keepdim=True) + 1e-12)
    apart = ((field.by - fit.by).square() * trust).sum(1).mean((1, 2))
    square = fit.by.square().sum(1).mean((1, 2)) + apart
    (_, xx, xy), (_, yx, yy) = (row.unbind(1) for row in fit.coefficients.unbind(1))
    strain = xx.square() + yy.square() + (xy + yx).square() / 2
    # the root has no derivative at 0
    return Extent(*((m + 1e-12).sqrt() for m in (square, strain)))
