"""Where the parts of one image are in another: a displacement field, and both images brought to the middle of the way.

The field is found on the luma of both images, coarse to fine: a search for the best match on the coarse levels, then
steps of Lucas and Kanade's method (IJCAI 1981). It is symmetric, u(x, y) = -u(y, x): a place p of the middle frame is
p - u/2 in x and p + u/2 in y. Fields are kept on a grid of a quarter of the resolution at which they are found, (right,
down), in shares of the image's shorter side.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from damlpips.checks import is_optimised
from damlpips.ops import coverage
from damlpips.ops.execution import gradients_with_graph, in_place_of, is_dual, is_transformed, on_cpu, on_cuda
from damlpips.ops.fused import motion_kernels
from damlpips.ops.tiling import Span
from damlpips.ops.windows import at_least, box, enlarged, nearby, shorter_side, shrunk

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
STEPS = (1, 1, 1, 1, 2)
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
# Distortions in place seldom explain more than .35, motions .6 and more, from 1 pixel of 256 and half a degree on.
MOVED_FROM, MOVED_TO = 0.4, 0.6
# On the level above the grid's, distortions explain .25 and less, motions .4 and more: most pairs end there.
HINT_LEVEL, HINTED_FROM, HINTED_TO = GRID_LEVEL + 1, 0.25, 0.35
# A far motion has to explain more, by its extent, up to a bound: true ones explain .85 and more, but the farther places
# are looked for, the more of them look alike by chance.
FAR, FARTHEST = 1.5, 0.35
# With a mask a pair counts as moved from where the field leaves this share of the mask in sight in both images to where
# it counts in full: of a line that moved by more than its width there is nothing to compare in the middle frame.
KEPT_FROM, KEPT_TO = 0.25, 0.5


class Field(NamedTuple):
    """A displacement field, and how sure it is of each place.

    Attributes:
        by: (N, 2, h, w), right and down, in shares of the shorter side.
        trust: (N, 1, h, w), at least 0; near 0 where nothing can be followed, 0 where a mask covers nothing.
        mask: how much of each place a mask covers in both images, (N, 1, h, w); None: all.
    """

    by: Tensor
    trust: Tensor
    mask: Tensor | None = None


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

    @property
    def size(self) -> Tensor:
        """How far the field moves and its deformation moves the edges of the image, (N,), in shares of the side."""
        return self.distance + self.strain / 2


# --- sampling --------------------------------------------------------------------------------------------------------


def places(like: Tensor) -> Float[Tensor, "1 2 h w"]:
    """Return how far right and down of the middle of maps their places are."""
    h, w = like.shape[2:]
    right, down = (torch.arange(n, device=like.device, dtype=like.dtype) - (n - 1) / 2 for n in (w, h))
    return torch.stack([right.expand(h, w), down[:, None].expand(h, w)])[None]


def halfway(
    u: Float[Tensor, "n 2 h w"], of: Tensor, *, every: int = 1, rows: Span | None = None
) -> tuple[Tensor, Tensor]:
    """Return where each place p of the middle frame is in both images: p - u/2 and p + u/2, in halves of their sides.

    Args:
        u: the field, in shares of the shorter side; of any size, or of some `rows` the size of the field of all.
        of: the images, (N, C, H, W).
        every: every so manieth row and column only.
    """
    h, w = of.shape[2:]
    # all that can be done on the small field is done there: u/2 in halves of a side is u in sides
    half = u * _by_side([shorter_side(of) / w, shorter_side(of) / h], u)
    if rows is not None:
        half = sampled(half, _middle_places(of, u, rows=rows).expand(len(u), -1, -1, -1))
    else:
        half = enlarged(half, (h, w), every)
    p = _middle_places(of, u, every=every, rows=rows)
    return p - half, p + half


def _middle_places(of: Tensor, like: Tensor, every: int = 1, rows: Span | None = None) -> Float[Tensor, "1 2 h w"]:
    """Return how far right and down of the middle of images their places are, in halves of their sides."""
    h, w = of.shape[2:]
    top, bottom = (0, h) if rows is None else rows
    down, right = (
        (torch.arange(start, stop, every, device=like.device, dtype=like.dtype) * 2 + (1 - side)) / side
        for start, stop, side in ((top, bottom, h), (0, w, w))
    )
    size = down.shape[0], right.shape[0]
    return torch.stack([right.expand(size), down[:, None].expand(size)])[None]


def _by_side(values: Sequence[float], like: Tensor) -> Float[Tensor, "2 1 1"]:
    """Return a number for the direction to the right, and one down."""
    return torch.stack([torch.full((1, 1), v, device=like.device, dtype=like.dtype) for v in values])


def sampled(x: Tensor, at: Float[Tensor, "n 2 h w"], padding: str = "border") -> Tensor:
    """Sample maps bilinearly at places right and down of their middle, in halves of their sides."""
    if is_dual(x, at) or is_transformed(x) or is_transformed(at):
        return _gathered(x, at, padding)
    # columns and rows lie apart until here, since on a CPU operations on pairs of numbers take ten times as long
    at = at.permute(0, 2, 3, 1)
    return F.grid_sample(x, at, mode="bilinear", padding_mode=padding, align_corners=False)


def _sampled_gradient(gradient: Tensor, x: Tensor, at: Float[Tensor, "n 2 h w"], padding: str) -> Tensor:
    """Return the gradient of maps, from that of what `sampled` makes of them."""
    bilinear, paddings = 0, {"zeros": 0, "border": 1}
    found: Tensor = torch.ops.aten.grid_sampler_2d_backward(
        gradient, x, at.permute(0, 2, 3, 1), bilinear, paddings[padding], False, (True, False)
    )[0]
    return found


def _gathered(x: Tensor, at: Float[Tensor, "n 2 h w"], padding: str) -> Tensor:
    """Do what `sampled` does with operations that forward mode follows, also into a gradient."""
    h, w = x.shape[2:]
    column, row = (m * (n / 2) + (n - 1) / 2 for m, n in zip(at.unbind(1), (w, h), strict=True))
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


def in_places(u: Float[Tensor, "n 2 h w"], of: Tensor) -> Float[Tensor, "n 2 H W"]:
    """Bring a field to the size of maps, with displacements in places of theirs."""
    h, w = of.shape[2:]
    return enlarged(u * shorter_side(of), (h, w))


def aligned(
    x: Tensor, y: Tensor, by: Float[Tensor, "n 2 h w"], share: Float[Tensor, " n"], rows: Span | None = None
) -> tuple[Tensor, Tensor]:
    """Return both images, or some rows of them, in the middle frame; what only one of them shows is the same in both.

    Args:
        x, y: (N, C, H, W).
        by: the field, in shares of the shorter side.
        share: what each pair moves of it; those that do not move are as they were.
    """
    if rows is None and (kernels := motion_kernels(x, y)) is not None:
        found: tuple[Tensor, Tensor] = _Aligned.apply(x, y, by, share, kernels)
        return found
    return plainly_aligned(x, y, by, share, rows)


def plainly_aligned(x: Tensor, y: Tensor, by: Tensor, share: Tensor, rows: Span | None = None) -> tuple[Tensor, Tensor]:
    """Return `aligned`, in operations that can be followed."""
    share = share.to(x.dtype)[:, None, None, None]
    both = _in_the_middle(x, y, by.to(x.dtype) * share, rows)
    part = slice(None) if rows is None else slice(*rows)
    if on_cpu(share) and (share > 0).all():
        return both
    a, b = (torch.where(share > 0, moved, image[:, :, part]) for moved, image in zip(both, (x, y), strict=True))
    return a, b


class _Aligned(torch.autograd.Function):
    """`aligned` by a kernel, of whole images."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, by: Tensor, share: Tensor, kernels: Any) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, y, by, share)
        found: tuple[Tensor, Tensor] = kernels.aligned(x, y, by, share)
        # what only the other image shows has no gradient
        fixed = [image for image, wanted in zip(found, ctx.needs_input_grad[:2], strict=True) if not wanted]
        ctx.mark_non_differentiable(*fixed)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, y, by, share = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # for second derivatives
            plain = partial(plainly_aligned, by=by, share=share)
            found = in_place_of(gradients_with_graph(plain, (x, y), gradients, needed), needed)
            return *found, None, None, None
        share = share[:, None, None, None]
        found = [None, None]
        for k, (image, at) in enumerate(zip((x, y), halfway(by * share, x), strict=True)):
            if needed[k]:
                through = _sampled_gradient(gradients[k].where(share > 0, 0), image, at, "zeros")
                found[k] = gradients[k].where(~(share > 0), 0).add_(through)
        return *found, None, None, None


def _in_the_middle(x: Tensor, y: Tensor, u: Float[Tensor, "n 2 h w"], rows: Span | None) -> tuple[Tensor, Tensor]:
    at = halfway(u, x, rows=rows)
    a, b = (sampled(m, p, "zeros") for m, p in zip((x, y), at, strict=True))
    if rows is not None or not on_cpu(a) or is_optimised(a) or is_optimised(b):
        return _filled(a, b, at, x)
    for part in _frame(x, float(u.abs().amax()) * min(x.shape[2:]) / 2):
        found = _filled(a[part], b[part], [p[part] for p in at], x)
        for whole, new in zip((a, b), found, strict=True):
            whole[part] = new
    return a, b


def _filled(a: Tensor, b: Tensor, at: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Give what only one of two aligned images shows to both; each was sampled at its places of images like x."""
    # weighted by how far a place is inside of its image, 0 to 1
    of_a, of_b = (_inside(p, x) for p in at)
    # what is the same in both has no gradient: an image without one needs no graph because of the other
    either, both = (of_a + of_b).clamp(min=1e-6), (a + b).detach()
    return torch.addcmul(a, (1 - of_a) / either, both), torch.addcmul(b, (1 - of_b) / either, both)


def _frame(x: Tensor, reach: float) -> list[tuple[slice, ...]]:
    """Return the parts of a map from which no more than so many places lead beyond its edges."""
    every, side = slice(None), min(x.shape[2:])
    if not 2 * reach + 4 < side:  # nor NaN
        return [(every,) * 4]
    width = int(reach) + 2
    ends, rest = (slice(width), slice(-width, None)), slice(width, -width)
    return [*((every, every, end, every) for end in ends), *((every, every, rest, end) for end in ends)]


def kept_share(mask: Float[Tensor, "n 1 h w"], u: Float[Tensor, "n 2 H W"]) -> Float[Tensor, " n"]:
    """Return how far pairs may have moved, smoothly from 0 to 1, by how much of a mask a field leaves in sight."""
    kept = middle_mask(mask, halfway(u, mask)).mean((1, 2, 3)) / mask.mean((1, 2, 3))
    return _smooth((kept - KEPT_FROM) / (KEPT_TO - KEPT_FROM))


def middle_mask(mask: Float[Tensor, "n 1 h w"], at: Sequence[Tensor]) -> Float[Tensor, "n 1 H W"]:
    """Return how much of each place of the middle frame a mask covers in both images, sampled at two places each.

    Beyond the edge is what is at the edge: a mask that covers all does so in the middle frame.
    """
    return torch.minimum(*(sampled(mask, p) for p in at))


def _inside(at: Float[Tensor, "n 2 h w"], x: Tensor) -> Float[Tensor, "n 1 h w"]:
    """Return the weight that places of the image have in what is sampled, 0 from one place beyond its edge on."""
    ends = zip(at.split(1, 1), x.shape[:1:-1], strict=True)
    across, down = (((n + 1) / 2 - m.abs() * (n / 2)).clamp(0, 1) for m, n in ends)
    return across * down


# --- levels ----------------------------------------------------------------------------------------------------------


def pyramid(luma: Float[Tensor, "n 1 h w"]) -> list[Tensor]:
    """Return luma at each level, fine to coarse."""
    levels = [luma]
    for _ in range(LEVELS - 1):
        levels.append(shrunk(levels[-1], 2))
    return levels


def normalised(luma: Tensor, block: int) -> Tensor:
    """Return luma without its local mean, divided by its local deviation: the same in light and in shade."""
    mean, scale = _normalisation(luma, block)
    return (luma - mean) * scale


def _normalisation(luma: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return the local mean, and one divided by the local deviation."""
    mean = nearby(luma, block)
    return mean, (nearby((luma - mean).square(), block) + CONTRAST_FLOOR**2).rsqrt()


# --- the field -------------------------------------------------------------------------------------------------------


def searched(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Float[Tensor, "n 2 h w"]:
    """Return the step from each place of a to its match in b, in places: the mean of all within reach, the best most.

    The cost of a step s is the mean of (a(p) - b(p + s))^2 and (a(p - s) - b(p))^2, which is symmetric; it is that of
    places that a mask covers.
    """
    k = 2 * REACH + 1
    of_a, of_b = (_shifted(m, k) for m in (a, b))
    cost = ((a - of_b).square() + (of_a.flip(1) - b).square()) / 2
    offsets = torch.arange(-REACH, REACH + 1, device=a.device, dtype=a.dtype)
    steps = torch.stack([offsets.repeat(k), offsets.repeat_interleave(k)])[:, :, None, None]
    likely = torch.softmax(-(coverage.box(cost, WINDOW, mask) + STEP_COST * steps.square().sum(0)) / TEMPERATURE, 1)
    return torch.stack([(likely * along).sum(1) for along in steps], 1)


def _shifted(m: Tensor, k: int) -> Tensor:
    """Return the values of a map of one channel in the window of k x k around each place, (N, k k, H, W)."""
    n, _, h, w = m.shape
    m = F.pad(m, [k // 2] * 4, mode="replicate")
    if on_cuda(m):  # where `unfold` takes one image after another
        return m.unfold(2, k, 1).unfold(3, k, 1).permute(0, 1, 4, 5, 2, 3).reshape(n, k * k, h, w)
    return F.unfold(m, k).reshape(n, k * k, h, w)


def step(a: Tensor, b: Tensor, u: Tensor, mask: Tensor | None = None) -> Field:
    """Return one step of Lucas and Kanade's method, in places, from the field u between normalised luma.

    With r = b(p + u/2) - a(p - u/2) and g the gradient of their mean, it minimises the sum of (r + g . step)^2 over a
    window, or over what a mask covers of it; a step is one place at most.
    """
    at = halfway(u, a)
    a, b = (sampled(m, p) for m, p in zip((a, b), at, strict=True))
    return _solved(_products(b - a, *_slopes(a + b), mask=None if mask is None else middle_mask(mask, at)))


def fine_step(a: Tensor, b: Tensor, u: Tensor, shrink: int, mask: Tensor | None = None) -> Field:
    """Return a step as `step` does, between luma that is normalised where it is sampled.

    `shrink` x `shrink` places of a and b make a place of the result. Gradients pass through r, with g and what luma is
    normalised by held fixed: where the field is best, r is near 0, and so is what they change.
    """
    every = every_place(shrink)
    at = halfway(u, a, every=every)
    (a, *of_a), (b, *of_b) = (_with_slopes(m, p, 4 // every) for m, p in zip((a, b), at, strict=True))
    gx, gy = (p + q for p, q in zip(of_a, of_b, strict=True))
    in_both = None if mask is None else middle_mask(mask, at).detach()
    return _solved(shrunk(_products(b - a, gx, gy, mask=in_both), shrink // every))


def every_place(shrink: int) -> int:
    """Return which rows and columns a step looks at where so many make a place: many say as much as every second."""
    return 2 if shrink > 2 else 1


def _with_slopes(luma: Tensor, at: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return luma that is sampled, then normalised, and with it its slopes as `_slopes` does."""
    own, *slopes = sampled(torch.cat([luma, *_slopes(luma.detach())], 1), at).split(1, 1)
    with torch.no_grad():
        mean, scale = _normalisation(own, block)
        right, down = (slope * scale for slope in slopes)
    return (own - mean) * scale, right, down


def _slopes(m: Tensor) -> tuple[Tensor, Tensor]:
    """Return twice the slopes of maps to the right and down."""
    m = F.pad(m, (1, 1, 1, 1), mode="replicate")
    return m[..., 1:-1, 2:] - m[..., 1:-1, :-2], m[..., 2:, 1:-1] - m[..., :-2, 1:-1]


def _products(r: Tensor, gx: Tensor, gy: Tensor, mask: Tensor | None) -> Tensor:
    """Return the products of r and slopes that a step's equations are made of; with a mask, what it covers, and it."""
    products = torch.cat([v * w for v, w in ((gx, gx), (gx, gy), (gy, gy), (gx, r), (gy, r))], 1)
    return products if mask is None else torch.cat([products * mask, mask], 1)


def _solved(products: Tensor) -> Field:
    """Return the steps that r and four times the slopes of the mean ask for; that factor is taken off the sums."""
    sums, mask = box(products, WINDOW), None
    if products.shape[1] > 5:
        mask, sums = products[:, 5:], sums[:, :5] / sums[:, 5:].clamp(min=coverage.LEAST)
    (xx, xy, yy), (xr, yr) = (m.split(1, 1) for m in (sums[:, :3].detach() / 16, sums[:, 3:] / 4))
    xx, yy = xx + DAMPING, yy + DAMPING
    det = xx * yy - xy * xy
    by = torch.cat([xy * yr - yy * xr, xy * xr - xx * yr], 1) / det
    # about the smaller eigenvalue of the window's gradients
    trust = (det / (xx + yy) - DAMPING / 2).clamp(min=0)
    trust = trust if mask is None else trust * mask
    return Field(by * by.square().sum(1, keepdim=True).clamp(min=1).rsqrt(), trust, mask)


def smoothed(by: Tensor, trust: Tensor, before: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average a field over its neighbourhood by trust; where there is none it keeps to `before`."""
    typical = trust.mean((2, 3), keepdim=True)
    if mask is not None:  # outside of it trust is 0
        typical = typical / mask.mean((2, 3), keepdim=True).clamp(min=coverage.LEAST)
    prior = PRIOR * typical + 1e-6
    moments = box(torch.cat([trust * by, trust], 1), WINDOW)
    return (moments[:, :2] + prior * before) / (moments[:, 2:] + prior)


class Affine(NamedTuple):
    """An affine field, (N, 2, h, w), and its coefficients of 1, right and down, (N, 2, 3), in shares of the side."""

    by: Tensor
    coefficients: Tensor


def affine(field: Field, outlier: float, fits: int = 3) -> Affine:
    """Return the affine field nearest to a field by trust; a deviation by `outlier` counts half in the next fit."""
    x, y = (places(field.by) / shorter_side(field.by)).split(1, 1)
    base = torch.cat([torch.ones_like(x), x, y], 1)
    products = torch.cat([base, x * x, x * y, y * y], 1)
    trust = field.trust + 1e-3 * field.trust.mean((2, 3), keepdim=True) + 1e-9
    weight = trust
    for left in reversed(range(fits)):
        coefficients = _least_squares(products, weight / weight.sum((2, 3), keepdim=True), field.by)
        by = (coefficients[..., None, None] * base[:, None]).sum(2)
        if left:
            apart = field.by.detach() - by.detach()
            weight = trust / (1 + (apart / outlier).square().sum(1, keepdim=True))
    return Affine(by, coefficients)


def _least_squares(products: Tensor, weight: Tensor, by: Tensor) -> Float[Tensor, "n 2 3"]:
    """Return the coefficients of the best fit; `products` are those of 1, x and y: 1, x, y, xx, xy, yy."""
    # written out, since autocast would run matrix products in half precision
    weighted = products * weight
    one, x, y, xx, xy, yy = weighted.sum((2, 3)).unbind(1)
    moments = torch.stack([one, x, y, x, xx, xy, y, xy, yy], 1).unflatten(1, (3, 3))
    moments = moments + 1e-4 * torch.eye(3, device=by.device, dtype=by.dtype)
    targets = (weighted[:, None, :3] * by[:, :, None]).sum((3, 4))
    inverse = torch.linalg.cross(moments.roll(-1, 1), moments.roll(1, 1))
    det = (moments[:, 0] * inverse[:, 0]).sum(1)
    return (targets[..., None] * inverse[:, None]).sum(2) / det[:, None, None]


def coarse_field(
    x: Sequence[Tensor],
    y: Sequence[Tensor],
    last: int = GRID_LEVEL,
    start: Field | None = None,
    masks: Sequence[Tensor] | None = None,
) -> Field:
    """Return the field between two pyramids down to a level, from the coarsest, or from `start` on the level above.

    With `masks`, the pyramid of a mask, it is that of what the mask covers, and beyond it is continued.
    """
    by, trust, in_both = (None, None, None) if start is None else start
    for level in range(LEVELS - 1 if start is None else last, last - 1, -1):
        is_searched = level >= LEVELS - SEARCHED_LEVELS
        both = normalised(torch.cat([x[level], y[level]]), 2 if is_searched else 4)
        n = x[level].shape[0]  # not its length, which is a number also where torch.export leaves it open
        a, b = both[:n], both[n:]
        mask = None if masks is None else masks[level]
        side = shorter_side(a)
        by = torch.cat([a, a], 1) * 0 if by is None else in_places(by, a)
        before = by
        if is_searched:
            at = halfway(by / side, a)
            seen = None if mask is None else middle_mask(mask, at)
            found = searched(sampled(a, at[0]), sampled(b, at[1]), seen)
            by = coverage.box(by + found, 3, seen)
        for _ in range(STEPS[level]):
            found, trust, in_both = step(a, b, by / side, mask)
            by = by + found
            if level >= LEVELS - AFFINE_LEVELS:
                before = affine(Field(by, trust), at_least(1.0, OUTLIER * side)).by
            by = smoothed(by, trust, before, in_both)
        by = by / side
    if by is None or trust is None:
        raise RuntimeError("there is at least one level")
    return Field(by, trust, in_both)


def refined(
    x: Sequence[Tensor], y: Sequence[Tensor], field: Field, masks: Sequence[Tensor] | None = None
) -> tuple[Field, Extent]:
    """Return a field refined on the levels below its grid, on which it stays, and its extent.

    The extent has the gradients of the last step: at the best field a step is the derivative of where that is.
    """
    kernels = None if masks is not None else motion_kernels(x[0], y[0])
    if kernels is not None:
        by, trust, *extent_ = _Refined.apply(x[0], y[0], x, y, field.by, kernels)
        return Field(by, trust), Extent(*extent_)
    with torch.no_grad():
        for level in range(GRID_LEVEL - 1, 0, -1):
            field = _finer(x, y, field, level, masks)
    field = _last(x, y, field, masks)
    return field, extent(field)


def _finer(
    x: Sequence[Tensor], y: Sequence[Tensor], field: Field, level: int, masks: Sequence[Tensor] | None = None
) -> Field:
    """Return a field after the steps on a level below its grid, with the gradients of the last of them."""
    by, trust, in_both = field
    a, b, mask = x[level], y[level], None if masks is None else masks[level]
    for left in reversed(range(STEPS[level])):
        with torch.set_grad_enabled(torch.is_grad_enabled() and left == 0):
            found, trust, in_both = fine_step(a, b, by, 2 ** (GRID_LEVEL - level), mask)
            by = smoothed(by + found / shorter_side(a), trust, field.by, in_both)
    return Field(by, trust, in_both)


def _last(x: Sequence[Tensor], y: Sequence[Tensor], field: Field, masks: Sequence[Tensor] | None = None) -> Field:
    """Return a field after the finest level."""
    return _settled(_finer(x, y, field, 0, masks))


def _settled(field: Field) -> Field:
    """Return a field without deviations from an affine one that cannot be told from none."""
    fit = affine(field, FINAL_OUTLIER).by
    apart = field.by - fit
    square = apart.square().sum(1, keepdim=True)
    return field._replace(by=fit + apart * (square / (square + DOUBT**2)))


class _Refined(torch.autograd.Function):
    """`refined` by kernels, with the gradients of its extent."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, x: Sequence[Tensor], y: Sequence[Tensor], by: Tensor, kernels: Any
    ) -> tuple[Tensor, ...]:
        before, step = kernels.refined(x, y, by, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(a, b, before, step.kept)
        ctx.mark_non_differentiable(*step.field[:2])
        return *step.field[:2], *step.extent.unbind(1)

    @staticmethod
    def backward(ctx: Any, _by: Tensor, _trust: Tensor, *gradients: Tensor) -> Any:
        a, b, before, kept = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # for second derivatives

            def last(a: Tensor, b: Tensor) -> Extent:
                return extent(_last([a], [b], Field(before, before[:, :1])))

            found = in_place_of(gradients_with_graph(last, (a, b), gradients, needed), needed)
            return *found, None, None, None, None
        # of r, and with it of both luma where it was sampled, times its scale
        r, gx, gy, *scales = kept.split(1, 1)
        shrink = 2**GRID_LEVEL
        every = every_place(shrink)
        with torch.enable_grad():
            r.requires_grad_()
            step = _solved(shrunk(_products(r, gx, gy, None), shrink // every))
            by = smoothed(before + step.by / shorter_side(a), step.trust, before)
            (by_r,) = torch.autograd.grad(extent(_settled(Field(by, step.trust))), r, gradients)
        found = [None, None]
        for k, at in enumerate(halfway(before, a, every=every)):
            if needed[k]:
                sign = 1 if k else -1
                found[k] = _sampled_gradient(sign * by_r * scales[k], (a, b)[k], at, "border")
        return *found, None, None, None, None


# --- what it says ----------------------------------------------------------------------------------------------------


def explained(x: Tensor, y: Tensor, u: Float[Tensor, "n 2 h w"], mask: Tensor | None = None) -> Float[Tensor, " n"]:
    """Return how much of the local differences in luma a field explains: 1 if all, 0 if none.

    ::

        1 - m(a, b) / m(x, y),   m(a, b) = mean_p w_p (a_p - b_p)^2 / mean_p w_p (a_p^2 + b_p^2)

    with a and b the local deviations of x and y when they are aligned, and w_p how far both are seen there, or covered
    by a mask. In proportion to what is seen: a field that moves out of sight what it cannot match explains nothing.
    """
    at = halfway(u, x)
    a, b = (sampled(m, p) for m, p in zip((x, y), at, strict=True))
    both = torch.minimum(*(_inside(p, x) for p in at))
    whole = torch.ones_like(both)
    if mask is not None:
        whole, both = mask, both * middle_mask(mask, at)
    before, after = _mismatch(x, y, whole), _mismatch(a, b, both)
    return 1 - after / before


def _mismatch(a: Tensor, b: Tensor, weight: Tensor) -> Float[Tensor, " n"]:
    """Return the energy of the local differences for that of the local deviations of both: 1 if they are unrelated."""
    a, b = (m - nearby(m) for m in (a, b))
    d, e = ((weight * m).mean((1, 2, 3)) + 1e-9 for m in ((a - b).square(), a.square() + b.square()))
    return d / e


def left_of(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, masks: tuple[Tensor, Tensor] | None = None
) -> Float[Tensor, " n"]:
    """Return what is left of the local differences in luma of x and y when they are aligned, a and b: 1 if all.

    Of those that masks of x and y, and of a and b, cover.
    """
    optimised = any(map(is_optimised, (x, y, a, b)))
    kernels = None if optimised or masks is not None else motion_kernels(x, y, a, b)
    if kernels is not None:
        left: Tensor = kernels.left_of(x, y, a, b)
        return left
    d = torch.cat([x - y, a - b])
    energy = coverage.mean((d - nearby(d)).square(), None if masks is None else torch.cat(masks))[:, 0] + 1e-9
    n = x.shape[0]
    return energy[n:] / energy[:n]


def hinted_share(explained: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return how far pairs may have moved, smoothly from 0 to 1, by what the field explains on `HINT_LEVEL`."""
    return _smooth((explained - HINTED_FROM) / (HINTED_TO - HINTED_FROM))


def moved_share(explained: Float[Tensor, " n"], extent: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return how far pairs count as moved, smoothly from 0 to 1, by what a field of some extent explains."""
    least = MOVED_FROM + (FAR * extent).clamp(max=FARTHEST)
    return _smooth((explained - least) / (MOVED_TO - MOVED_FROM))


def _smooth(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def extent(field: Field) -> Extent:
    """Return how much a field moves and deforms; none of what moves out of a mask, where nothing is left of that."""
    fit = affine(field, FINAL_OUTLIER)
    trust = field.trust / (field.trust.mean((2, 3), keepdim=True) + 1e-12)
    apart = ((field.by - fit.by).square() * trust).sum(1).mean((1, 2))
    by_place = fit.by.square().sum(1)
    if field.mask is None:
        square = by_place.mean((1, 2)) + apart
    else:
        in_both = field.mask[:, 0]
        square = (by_place * in_both).sum((1, 2)) / in_both.sum((1, 2)).clamp(min=coverage.LEAST) + apart
    (_, xx, xy), (_, yx, yy) = (row.unbind(1) for row in fit.coefficients.unbind(1))
    strain = xx.square() + yy.square() + (xy + yx).square() / 2
    # the root has no derivative at 0
    return Extent(*((m + 1e-12).sqrt() for m in (square, strain)))
