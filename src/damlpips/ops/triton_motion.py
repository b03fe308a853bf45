"""The functions of `damlpips.ops.displacement` as Triton kernels, for float32 on a CUDA device, without masks.

Imported only there, as `damlpips.ops.triton_kernels`. In PyTorch's operations a field takes two thousand kernels, most
of them on maps of a few hundred places. Here one program finds the field of a pair on the coarse levels, one step after
another over all places, with what other places need of a step kept in memory between them; on the fine levels each step
is a kernel of its own. No sum is atomic, and images that are not a number cannot lead out of their memory.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from damlpips.ops import displacement as of
from damlpips.ops.triton_kernels import launched_unfused, within

# Places that a program works on at a time: where it does all of a level or a grid, and where it is one of many.
COARSE: dict[str, Any] = {"PLACES": 512, "num_warps": 8}
FINE: dict[str, Any] = {"PLACES": 256}
# Maps of the size of a level that the steps on a coarse level are kept in.
MAPS = tl.constexpr(13)
# A block, in places, of which local means are made (`displacement.normalised`, `windows.nearby`).
BLOCK = tl.constexpr(4)

REACH, WIDE = tl.constexpr(of.REACH), tl.constexpr(2 * of.REACH + 1)
STEP_COST, TEMPERATURE = tl.constexpr(of.STEP_COST), tl.constexpr(of.TEMPERATURE)
FLOOR = tl.constexpr(of.CONTRAST_FLOOR**2)
DAMPING, PRIOR, DOUBT = tl.constexpr(of.DAMPING), tl.constexpr(of.PRIOR), tl.constexpr(of.DOUBT**2)
OUTLIER, FINAL_OUTLIER = tl.constexpr(of.OUTLIER), tl.constexpr(of.FINAL_OUTLIER)
MOVED_FROM, MOVED_TO = tl.constexpr(of.MOVED_FROM), tl.constexpr(of.MOVED_TO)
HINTED_FROM, HINTED_TO = tl.constexpr(of.HINTED_FROM), tl.constexpr(of.HINTED_TO)
FAR, FARTHEST = tl.constexpr(of.FAR), tl.constexpr(of.FARTHEST)
MOST = 2**31 - 1


def fit(*images: Tensor) -> bool:
    """Return whether the kernels can number the places of images, and have their type."""
    return all(m.dtype == torch.float32 and 0 < m.numel() < MOST and len(m) < 2**16 for m in images)


# --- reading maps -----------------------------------------------------------------------------------------------------


@triton.jit
def _places(start, H, W, PLACES: tl.constexpr):
    """Return some places of a map, their rows and columns, and whether they are there."""
    p = start + tl.arange(0, PLACES)
    return p, p // W, p % W, p < H * W


@triton.jit
def _pixel(m, row, column, H, W, there):
    """Return the values of a map at whole places; beyond its edge is what is at the edge."""
    return _in_row(_row(m, row, H, W), column, W, there)


@triton.jit
def _cell(row, column, H, W):
    """Return the place up and left of a point of a map, which is kept within its edges, and the way from there."""
    # what is not a number is at the edge
    row = tl.minimum(tl.maximum(row, 0.0), (H - 1) * 1.0)
    column = tl.minimum(tl.maximum(column, 0.0), (W - 1) * 1.0)
    top, left = tl.floor(row), tl.floor(column)
    return top.to(tl.int32), left.to(tl.int32), row - top, column - left


@triton.jit
def _at(m, row, column, H, W, there):
    """Sample a map bilinearly."""
    r, c, down, right = _cell(row, column, H, W)
    upper = _pixel(m, r, c, H, W, there) * (1 - right) + _pixel(m, r, c + 1, H, W, there) * right
    lower = _pixel(m, r + 1, c, H, W, there) * (1 - right) + _pixel(m, r + 1, c + 1, H, W, there) * right
    return upper * (1 - down) + lower * down


@triton.jit
def _scaled(place, SMALL, LARGE):
    """Return where a place of a large map is in a small one that is enlarged to it."""
    return (place + 0.5) * ((SMALL * 1.0) / LARGE) - 0.5


@triton.jit
def _spread(k, along):
    """Return the weight of the k-th of four places in a row, of bilinear interpolation between means of three."""
    return tl.where(k == 0, 1 - along, tl.where(k == 3, along, 1.0)) / 3


@triton.jit
def _row(m, row, H, W):
    """Return where a row of a map begins."""
    return m + within(row, H) * W


@triton.jit
def _in_row(row, column, W, there):
    """Return the values of a row of a map; beyond its ends is what is at the end."""
    return tl.load(row + within(column, W), mask=there, other=0.0)


@triton.jit
def _near(means, row, column, SH, SW, H, W, there):
    """Return the average of about three times three blocks around places, from the means of blocks."""
    r, c, down, right = _cell(_scaled(row, SH, H), _scaled(column, SW, W), SH, SW)
    found = row * 0.0
    for i in range(4):
        line, across = _row(means, r + (i - 1), SH, SW), row * 0.0
        for j in tl.static_range(4):
            across += _spread(j, right) * _in_row(line, c + (j - 1), SW, there)
        found += _spread(i, down) * across
    return found


@triton.jit
def _box(m, row, column, H, W, there):
    """Average a map over 3 x 3 places."""
    found = row * 0.0
    for i in range(3):
        line = _row(m, row + (i - 1), H, W)
        for j in tl.static_range(3):
            found += _in_row(line, column + (j - 1), W, there)
    return found / 9


@triton.jit
def _block_mean(m, row, column, H, W, there, BLOCK: tl.constexpr):
    """Average a map over blocks, the last of which go beyond the edge, to what is at the edge."""
    found = row * 0.0
    for i in range(BLOCK):
        line = _row(m, row * BLOCK + i, H, W)
        for j in tl.static_range(BLOCK):
            found += _in_row(line, column * BLOCK + j, W, there)
    return found / (BLOCK * BLOCK)


@triton.jit
def _shrunk(m, to, H, W, SH, SW, BLOCK: tl.constexpr, PLACES: tl.constexpr):
    """Write the means of the blocks of a map."""
    for start in range(0, SH * SW, PLACES):
        p, r, c, there = _places(start, SH, SW, PLACES)
        tl.store(to + p, _block_mean(m, r, c, H, W, there, BLOCK), mask=there)


# --- equations --------------------------------------------------------------------------------------------------------


@triton.jit
def _step(xx, xy, yy, xr, yr):
    """Return the step, right and down, that the means of products ask for, and its trust: `displacement._solved`."""
    xx, xy, yy, xr, yr = xx / 16 + DAMPING, xy / 16, yy / 16 + DAMPING, xr / 4, yr / 4
    det = xx * yy - xy * xy
    right, down = (xy * yr - yy * xr) / det, (xy * xr - xx * yr) / det
    short = tl.rsqrt(tl.maximum(right * right + down * down, 1.0))
    return right * short, down * short, tl.maximum(det / (xx + yy) - DAMPING / 2, 0.0)


@triton.jit
def _affine(by, trust, mean, H, W, side, outlier, PLACES: tl.constexpr):
    """Return the coefficients of the affine field nearest to one, of 1, right and down: see `displacement.affine`."""
    P = H * W
    floor = 1e-3 * mean + 1e-9
    right_1, right_x, right_y = mean * 0.0, mean * 0.0, mean * 0.0
    down_1, down_x, down_y = mean * 0.0, mean * 0.0, mean * 0.0
    for fit in range(3):
        zeros = tl.zeros((PLACES,), tl.float32)
        s_1, s_x, s_y, s_xx, s_xy, s_yy = zeros, zeros, zeros, zeros, zeros, zeros
        u_1, u_x, u_y, v_1, v_x, v_y = zeros, zeros, zeros, zeros, zeros, zeros
        for start in range(0, P, PLACES):
            p, r, c, there = _places(start, H, W, PLACES)
            x, y = _centred(c, W, side), _centred(r, H, side)
            u, v = tl.load(by + p, mask=there, other=0.0), tl.load(by + P + p, mask=there, other=0.0)
            w = tl.where(there, tl.load(trust + p, mask=there, other=0.0) + floor, 0.0)
            apart_u, apart_v = u - (right_1 + right_x * x + right_y * y), v - (down_1 + down_x * x + down_y * y)
            far = (apart_u * apart_u + apart_v * apart_v) / (outlier * outlier)
            w = tl.where(fit > 0, w / (1 + far), w)
            s_1, s_x, s_y = s_1 + w, s_x + w * x, s_y + w * y
            s_xx, s_xy, s_yy = s_xx + w * x * x, s_xy + w * x * y, s_yy + w * y * y
            u_1, u_x, u_y = u_1 + w * u, u_x + w * u * x, u_y + w * u * y
            v_1, v_x, v_y = v_1 + w * v, v_x + w * v * x, v_y + w * v * y
        all_1 = tl.sum(s_1, 0)
        one, x, y = 1.0 + 1e-4, tl.sum(s_x, 0) / all_1, tl.sum(s_y, 0) / all_1
        xx, xy, yy = tl.sum(s_xx, 0) / all_1 + 1e-4, tl.sum(s_xy, 0) / all_1, tl.sum(s_yy, 0) / all_1 + 1e-4
        # the inverse of a symmetric matrix, times its determinant
        i_11, i_1x, i_1y = xx * yy - xy * xy, xy * y - x * yy, x * xy - xx * y
        i_xx, i_xy, i_yy = one * yy - y * y, x * y - one * xy, one * xx - x * x
        det = (one * i_11 + x * i_1x + y * i_1y) * all_1
        t_1, t_x, t_y = tl.sum(u_1, 0), tl.sum(u_x, 0), tl.sum(u_y, 0)
        right_1 = (i_11 * t_1 + i_1x * t_x + i_1y * t_y) / det
        right_x = (i_1x * t_1 + i_xx * t_x + i_xy * t_y) / det
        right_y = (i_1y * t_1 + i_xy * t_x + i_yy * t_y) / det
        t_1, t_x, t_y = tl.sum(v_1, 0), tl.sum(v_x, 0), tl.sum(v_y, 0)
        down_1 = (i_11 * t_1 + i_1x * t_x + i_1y * t_y) / det
        down_x = (i_1x * t_1 + i_xx * t_x + i_xy * t_y) / det
        down_y = (i_1y * t_1 + i_xy * t_x + i_yy * t_y) / det
    return right_1, right_x, right_y, down_1, down_x, down_y


@triton.jit
def _centred(place, SIZE, side):
    """Return how far a place is from the middle, in shares of the shorter side."""
    return (place - (SIZE - 1) / 2) / side


@triton.jit
def _affine_at(right_1, right_x, right_y, down_1, down_x, down_y, row, column, H, W, side):
    """Return an affine field at places, right and down."""
    x, y = _centred(column, W, side), _centred(row, H, side)
    return right_1 + right_x * x + right_y * y, down_1 + down_x * x + down_y * y


@triton.jit
def _smooth_share(t):
    t = tl.minimum(tl.maximum(t, 0.0, propagate_nan=tl.PropagateNan.ALL), 1.0, propagate_nan=tl.PropagateNan.ALL)
    return t * t * (3 - 2 * t)


# --- coarse levels ----------------------------------------------------------------------------------------------------


@triton.jit
def _search(a, b, row, column, H, W, there):
    """Return the step from each place to its match, right and down: `displacement.searched`."""
    lowest = row * 0.0 + float("inf")
    total, right, down = row * 0.0, row * 0.0, row * 0.0
    for k in range(WIDE * WIDE):
        dy = k // WIDE - REACH
        dx = k - (dy + REACH) * WIDE - REACH
        cost = row * 0.0
        for i in range(3):
            r = within(row + (i - 1), H)
            of_a, of_b = a + r * W, b + r * W
            past_a, past_b = _row(a, r - dy, H, W), _row(b, r + dy, H, W)
            for j in tl.static_range(3):
                c = within(column + (j - 1), W)
                one = tl.load(of_a + c, mask=there, other=0.0) - _in_row(past_b, c + dx, W, there)
                other = _in_row(past_a, c - dx, W, there) - tl.load(of_b + c, mask=there, other=0.0)
                cost += one * one + other * other
        cost = (cost / 18 + STEP_COST * (dx * dx + dy * dy)) / TEMPERATURE
        below = tl.minimum(lowest, cost)
        keep, share = tl.exp(below - lowest), tl.exp(below - cost)
        total, right, down = total * keep + share, right * keep + share * dx, down * keep + share * dy
        lowest = below
    return right / total, down / total


@triton.jit
def _level_kernel(
    x, y, before, field, trust, maps, H, W, BH, BW, side,
    FIRST: tl.constexpr, SEARCHED: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write the field and its trust on a level: what `displacement.coarse_field` does there."""
    n = tl.program_id(0).to(tl.int64)
    P = H * W
    SH, SW = (H + BLOCK - 1) // BLOCK, (W + BLOCK - 1) // BLOCK
    x += n * P
    y += n * P
    before += n * 2 * BH * BW
    field += n * 2 * P
    trust += n * P
    maps += n * MAPS * P
    a, b, at_a, at_b, moved, products, small = (
        maps, maps + P, maps + 2 * P, maps + 3 * P, maps + 4 * P, maps + 6 * P, maps + 11 * P
    )  # fmt: skip
    small_a, small_b = small, small + P
    # normalised luma
    _shrunk(x, small_a, H, W, SH, SW, BLOCK, PLACES)
    _shrunk(y, small_b, H, W, SH, SW, BLOCK, PLACES)
    tl.debug_barrier()
    for start in range(0, P, PLACES):
        p, r, c, there = _places(start, H, W, PLACES)
        of_a = tl.load(x + p, mask=there, other=0.0) - _near(small_a, r, c, SH, SW, H, W, there)
        of_b = tl.load(y + p, mask=there, other=0.0) - _near(small_b, r, c, SH, SW, H, W, there)
        tl.store(a + p, of_a, mask=there)
        tl.store(b + p, of_b, mask=there)
        tl.store(at_a + p, of_a * of_a, mask=there)
        tl.store(at_b + p, of_b * of_b, mask=there)
    tl.debug_barrier()
    _shrunk(at_a, small_a, H, W, SH, SW, BLOCK, PLACES)
    _shrunk(at_b, small_b, H, W, SH, SW, BLOCK, PLACES)
    tl.debug_barrier()
    for start in range(0, P, PLACES):
        p, r, c, there = _places(start, H, W, PLACES)
        of_a = tl.rsqrt(_near(small_a, r, c, SH, SW, H, W, there) + FLOOR)
        of_b = tl.rsqrt(_near(small_b, r, c, SH, SW, H, W, there) + FLOOR)
        tl.store(a + p, tl.load(a + p, mask=there, other=0.0) * of_a, mask=there)
        tl.store(b + p, tl.load(b + p, mask=there, other=0.0) * of_b, mask=there)
        right, down = of_a * 0.0, of_a * 0.0
        if not FIRST:
            row, column = _scaled(r, BH, H), _scaled(c, BW, W)
            right = _at(before, row, column, BH, BW, there) * side
            down = _at(before + BH * BW, row, column, BH, BW, there) * side
        tl.store(field + p, right, mask=there)
        tl.store(field + P + p, down, mask=there)
    tl.debug_barrier()
    if SEARCHED:
        _sample_both(a, b, field, at_a, at_b, H, W, 0.5, PLACES)
        tl.debug_barrier()
        for start in range(0, P, PLACES):
            p, r, c, there = _places(start, H, W, PLACES)
            right, down = _search(at_a, at_b, r, c, H, W, there)
            tl.store(moved + p, tl.load(field + p, mask=there, other=0.0) + right, mask=there)
            tl.store(moved + P + p, tl.load(field + P + p, mask=there, other=0.0) + down, mask=there)
        tl.debug_barrier()
        for start in range(0, P, PLACES):
            p, r, c, there = _places(start, H, W, PLACES)
            tl.store(field + p, _box(moved, r, c, H, W, there), mask=there)
            tl.store(field + P + p, _box(moved + P, r, c, H, W, there), mask=there)
        tl.debug_barrier()
    for _ in range(STEPS):
        _sample_both(a, b, field, at_a, at_b, H, W, 0.5, PLACES)
        tl.debug_barrier()
        for start in range(0, P, PLACES):
            p, r, c, there = _places(start, H, W, PLACES)
            right = _pixel(at_a, r, c + 1, H, W, there) + _pixel(at_b, r, c + 1, H, W, there)
            right -= _pixel(at_a, r, c - 1, H, W, there) + _pixel(at_b, r, c - 1, H, W, there)
            down = _pixel(at_a, r + 1, c, H, W, there) + _pixel(at_b, r + 1, c, H, W, there)
            down -= _pixel(at_a, r - 1, c, H, W, there) + _pixel(at_b, r - 1, c, H, W, there)
            left = tl.load(at_b + p, mask=there, other=0.0) - tl.load(at_a + p, mask=there, other=0.0)
            tl.store(products + p, right * right, mask=there)
            tl.store(products + P + p, right * down, mask=there)
            tl.store(products + 2 * P + p, down * down, mask=there)
            tl.store(products + 3 * P + p, right * left, mask=there)
            tl.store(products + 4 * P + p, down * left, mask=there)
        tl.debug_barrier()
        mean = _solved(products, field, moved, trust, H, W, 1.0, PLACES)
        tl.debug_barrier()
        outlier = tl.maximum(side * OUTLIER, 1.0)
        a_1, a_x, a_y, b_1, b_x, b_y = _affine(moved, trust, mean, H, W, side, outlier, PLACES)
        for start in range(0, P, PLACES):
            p, r, c, there = _places(start, H, W, PLACES)
            right, down = _affine_at(a_1, a_x, a_y, b_1, b_x, b_y, r, c, H, W, side)
            _store_smoothed(moved, trust, mean, right, down, field, p, r, c, H, W, there)
        tl.debug_barrier()
    for start in range(0, P, PLACES):
        p, _r, _c, there = _places(start, H, W, PLACES)
        tl.store(field + p, tl.load(field + p, mask=there, other=0.0) / side, mask=there)
        tl.store(field + P + p, tl.load(field + P + p, mask=there, other=0.0) / side, mask=there)


@triton.jit
def _sample_both(a, b, field, at_a, at_b, H, W, half, PLACES: tl.constexpr):
    """Write two maps as they are in the middle frame of a field; half of its unit is `half` places."""
    P = H * W
    for start in range(0, P, PLACES):
        p, r, c, there = _places(start, H, W, PLACES)
        right = tl.load(field + p, mask=there, other=0.0) * half
        down = tl.load(field + P + p, mask=there, other=0.0) * half
        tl.store(at_a + p, _at(a, r - down, c - right, H, W, there), mask=there)
        tl.store(at_b + p, _at(b, r + down, c + right, H, W, there), mask=there)


@triton.jit
def _solved(products, before, to, trust, H, W, side, PLACES: tl.constexpr):
    """Write a field with the step that products ask for, and its trust, of which it returns the mean."""
    P = H * W
    total = tl.zeros((PLACES,), tl.float32)
    for start in range(0, P, PLACES):
        p, r, c, there = _places(start, H, W, PLACES)
        xx = _box(products, r, c, H, W, there)
        xy = _box(products + P, r, c, H, W, there)
        yy = _box(products + 2 * P, r, c, H, W, there)
        xr = _box(products + 3 * P, r, c, H, W, there)
        yr = _box(products + 4 * P, r, c, H, W, there)
        right, down, sure = _step(xx, xy, yy, xr, yr)
        tl.store(to + p, tl.load(before + p, mask=there, other=0.0) + right / side, mask=there)
        tl.store(to + P + p, tl.load(before + P + p, mask=there, other=0.0) + down / side, mask=there)
        tl.store(trust + p, sure, mask=there)
        total += tl.where(there, sure, 0.0)
    return tl.sum(total, 0) / P


@triton.jit
def _store_smoothed(by, trust, mean, before_right, before_down, to, p, row, column, H, W, there):
    """Average a field over 3 x 3 places by trust; where there is none it keeps to what was before."""
    P = H * W
    right, down, total = row * 0.0, row * 0.0, row * 0.0
    for i in range(3):
        of_trust, of_by = _row(trust, row + (i - 1), H, W), _row(by, row + (i - 1), H, W)
        for j in tl.static_range(3):
            sure = _in_row(of_trust, column + (j - 1), W, there)
            right += sure * _in_row(of_by, column + (j - 1), W, there)
            down += sure * _in_row(of_by + P, column + (j - 1), W, there)
            total += sure
    prior = mean * PRIOR + 1e-6
    total = total / 9 + prior
    tl.store(to + p, (right / 9 + prior * before_right) / total, mask=there)
    tl.store(to + P + p, (down / 9 + prior * before_down) / total, mask=there)


@triton.jit
def _share_kernel(x, y, field, trust, maps, share, H, W, side, HINT: tl.constexpr, PLACES: tl.constexpr):
    """Write how far a pair may have moved by what its field explains, and multiply that by how far it did."""
    n = tl.program_id(0).to(tl.int64)
    P = H * W
    SH, SW = (H + BLOCK - 1) // BLOCK, (W + BLOCK - 1) // BLOCK
    x += n * P
    y += n * P
    field += n * 2 * P
    trust += n * P
    maps += n * MAPS * P
    a, b, small = maps, maps + P, maps + 2 * P
    _sample_both(x, y, field, a, b, H, W, side / 2, PLACES)
    tl.debug_barrier()
    _shrunk(x, small, H, W, SH, SW, BLOCK, PLACES)
    _shrunk(y, small + P, H, W, SH, SW, BLOCK, PLACES)
    _shrunk(a, small + 2 * P, H, W, SH, SW, BLOCK, PLACES)
    _shrunk(b, small + 3 * P, H, W, SH, SW, BLOCK, PLACES)
    tl.debug_barrier()
    zeros = tl.zeros((PLACES,), tl.float32)
    left_before, all_before, left_after, all_after = zeros, zeros, zeros, zeros
    for start in range(0, P, PLACES):
        p, r, c, there = _places(start, H, W, PLACES)
        one = tl.load(x + p, mask=there, other=0.0) - _near(small, r, c, SH, SW, H, W, there)
        other = tl.load(y + p, mask=there, other=0.0) - _near(small + P, r, c, SH, SW, H, W, there)
        left_before += tl.where(there, (one - other) * (one - other), 0.0)
        all_before += tl.where(there, one * one + other * other, 0.0)
        one = tl.load(a + p, mask=there, other=0.0) - _near(small + 2 * P, r, c, SH, SW, H, W, there)
        other = tl.load(b + p, mask=there, other=0.0) - _near(small + 3 * P, r, c, SH, SW, H, W, there)
        right = tl.load(field + p, mask=there, other=0.0) * side / 2
        down = tl.load(field + P + p, mask=there, other=0.0) * side / 2
        weight = tl.minimum(_inside(r - down, c - right, H, W), _inside(r + down, c + right, H, W))
        left_after += tl.where(there, weight * (one - other) * (one - other), 0.0)
        all_after += tl.where(there, weight * (one * one + other * other), 0.0)
    before = (tl.sum(left_before, 0) / P + 1e-9) / (tl.sum(all_before, 0) / P + 1e-9)
    after = (tl.sum(left_after, 0) / P + 1e-9) / (tl.sum(all_after, 0) / P + 1e-9)
    explained = 1 - after / before
    if HINT:
        tl.store(share + n, _smooth_share((explained - HINTED_FROM) / (HINTED_TO - HINTED_FROM)))
    else:
        distance, strain = _extent(field, trust, H, W, side, PLACES)
        least = MOVED_FROM + tl.minimum((distance + strain / 2) * FAR, FARTHEST, propagate_nan=tl.PropagateNan.ALL)
        moved = _smooth_share((explained - least) / (MOVED_TO - MOVED_FROM))
        tl.store(share + n, tl.load(share + n) * moved)


@triton.jit
def _inside(row, column, H, W):
    """Return the weight that places of an image have in what is sampled, 0 from one place beyond its edge on."""
    down = (H + 1) / 2 - tl.abs(row - (H - 1) / 2)
    across = (W + 1) / 2 - tl.abs(column - (W - 1) / 2)
    return tl.minimum(tl.maximum(across, 0.0), 1.0) * tl.minimum(tl.maximum(down, 0.0), 1.0)


@triton.jit
def _extent(field, trust, H, W, side, PLACES: tl.constexpr):
    """Return how far a field moves, and how much it deforms: `displacement.extent`."""
    P = H * W
    total = tl.zeros((PLACES,), tl.float32)
    for start in range(0, P, PLACES):
        p, _r, _c, there = _places(start, H, W, PLACES)
        total += tl.load(trust + p, mask=there, other=0.0)
    mean = tl.sum(total, 0) / P
    a_1, a_x, a_y, b_1, b_x, b_y = _affine(field, trust, mean, H, W, side, FINAL_OUTLIER, PLACES)
    total = tl.zeros((PLACES,), tl.float32)
    for start in range(0, P, PLACES):
        p, r, c, there = _places(start, H, W, PLACES)
        right, down = _affine_at(a_1, a_x, a_y, b_1, b_x, b_y, r, c, H, W, side)
        apart_right = tl.load(field + p, mask=there, other=0.0) - right
        apart_down = tl.load(field + P + p, mask=there, other=0.0) - down
        sure = tl.load(trust + p, mask=there, other=0.0) / (mean + 1e-12)
        square = right * right + down * down + (apart_right * apart_right + apart_down * apart_down) * sure
        total += tl.where(there, square, 0.0)
    strain = a_x * a_x + b_y * b_y + (a_y + b_x) * (a_y + b_x) / 2
    return tl.sqrt_rn(tl.sum(total, 0) / P + 1e-12), tl.sqrt_rn(strain + 1e-12)


def coarse_field(x: Sequence[Tensor], y: Sequence[Tensor]) -> tuple[of.Field, Tensor]:
    """Return the field between two pyramids on the grid's level, and how far each pair counts as moved, (N,)."""
    field = trust = x[-1]
    share = x[-1].new_empty(len(x[-1]))
    for level in range(of.LEVELS - 1, of.GRID_LEVEL - 1, -1):
        before, first = field, level == of.LEVELS - 1
        n, _, h, w = x[level].shape
        field, trust = x[level].new_empty(n, 2, h, w), x[level].new_empty(n, 1, h, w)
        maps = x[level].new_empty(n, MAPS.value, h, w)
        searched = level >= of.LEVELS - of.SEARCHED_LEVELS
        pair = x[level].contiguous(), y[level].contiguous()
        launched_unfused(
            *(_level_kernel, (n,), field.device),
            *(*pair, before, field, trust, maps, h, w, *before.shape[2:], float(min(h, w))),
            FIRST=first,
            SEARCHED=searched,
            STEPS=of.STEPS[level],
            BLOCK=2 if searched else 4,
            **COARSE,
        )
        if level in (of.HINT_LEVEL, of.GRID_LEVEL):
            arguments = (*pair, field, trust, maps, share, h, w, float(min(h, w)))
            hint = level == of.HINT_LEVEL
            launched_unfused(_share_kernel, (n,), field.device, *arguments, HINT=hint, **COARSE)
    return of.Field(field, trust), share


# --- fine levels ------------------------------------------------------------------------------------------------------


@triton.jit
def _sampled_kernel(x, y, field, maps, H, W, GH, GW, SH, SW, side, EVERY: tl.constexpr, PLACES: tl.constexpr):
    """Write luma and its slopes right and down, of both images in the middle frame: (N, 6, SH, SW)."""
    n = tl.program_id(1).to(tl.int64)
    P, G = SH * SW, GH * GW
    x += n * H * W
    y += n * H * W
    field += n * 2 * G
    maps += n * 6 * P
    p, r, c, there = _places(tl.program_id(0) * PLACES, SH, SW, PLACES)
    r *= EVERY
    c *= EVERY
    row, column = _scaled(r, GH, H), _scaled(c, GW, W)
    right = _at(field, row, column, GH, GW, there) * side / 2
    down = _at(field + G, row, column, GH, GW, there) * side / 2
    _store_sample(x, maps, p, P, r - down, c - right, H, W, there)
    _store_sample(y, maps + 3 * P, p, P, r + down, c + right, H, W, there)


@triton.jit
def _store_sample(m, to, p, P, row, column, H, W, there):
    """Sample a map and twice its slopes, bilinearly."""
    r, c, down, right = _cell(row, column, H, W)
    value, across, along = row * 0.0, row * 0.0, row * 0.0
    for k in tl.static_range(4):
        at_r, at_c = tl.minimum(r + k // 2, H - 1), tl.minimum(c + k % 2, W - 1)
        weight = (down if k // 2 else 1 - down) * (right if k % 2 else 1 - right)
        value += weight * _pixel(m, at_r, at_c, H, W, there)
        across += weight * (_pixel(m, at_r, at_c + 1, H, W, there) - _pixel(m, at_r, at_c - 1, H, W, there))
        along += weight * (_pixel(m, at_r + 1, at_c, H, W, there) - _pixel(m, at_r - 1, at_c, H, W, there))
    tl.store(to + p, value, mask=there)
    tl.store(to + P + p, across, mask=there)
    tl.store(to + 2 * P + p, along, mask=there)


@triton.jit
def _means_kernel(maps, means, squares, H, W, SH, SW, SQUARES: tl.constexpr, BLOCK: tl.constexpr, PLACES: tl.constexpr):
    """Write the means of blocks of luma, or of its squared deviations from those around: (2 N, SH, SW)."""
    n = tl.program_id(1).to(tl.int64)
    maps += n * 3 * H * W
    means += n * SH * SW
    squares += n * SH * SW
    p, r, c, there = _places(tl.program_id(0) * PLACES, SH, SW, PLACES)
    if SQUARES:
        found = r * 0.0
        for k in range(BLOCK * BLOCK):
            row = tl.minimum(r * BLOCK + k // BLOCK, H - 1)
            column = tl.minimum(c * BLOCK + k % BLOCK, W - 1)
            off = _pixel(maps, row, column, H, W, there) - _near(means, row, column, SH, SW, H, W, there)
            found += off * off
        tl.store(squares + p, found / (BLOCK * BLOCK), mask=there)
    else:
        tl.store(means + p, _block_mean(maps, r, c, H, W, there, BLOCK), mask=there)


@triton.jit
def _products_kernel(
    maps, means, squares, products, kept, H, W, SH, SW, GH, GW,
    SHRINK: tl.constexpr, KEEP: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write the products that a step is made of, averaged over blocks: (N, 5, GH, GW).

    With `KEEP` also what its gradients take, (N, 5, H, W): r, the slopes, and the scales of a and of b.
    """
    n = tl.program_id(1).to(tl.int64)
    P, S, G = H * W, SH * SW, GH * GW
    maps += n * 6 * P
    means += n * 2 * S
    squares += n * 2 * S
    products += n * 5 * G
    kept += n * 5 * P
    p, r, c, there = _places(tl.program_id(0) * PLACES, GH, GW, PLACES)
    xx, xy, yy, xr, yr = r * 0.0, r * 0.0, r * 0.0, r * 0.0, r * 0.0
    for k in range(SHRINK * SHRINK):
        row = tl.minimum(r * SHRINK + k // SHRINK, H - 1)
        column = tl.minimum(c * SHRINK + k % SHRINK, W - 1)
        of_a = tl.rsqrt(_near(squares, row, column, SH, SW, H, W, there) + FLOOR)
        of_b = tl.rsqrt(_near(squares + S, row, column, SH, SW, H, W, there) + FLOOR)
        a = (_pixel(maps, row, column, H, W, there) - _near(means, row, column, SH, SW, H, W, there)) * of_a
        b = _pixel(maps + 3 * P, row, column, H, W, there) - _near(means + S, row, column, SH, SW, H, W, there)
        left = b * of_b - a
        right = (
            _pixel(maps + P, row, column, H, W, there) * of_a + _pixel(maps + 4 * P, row, column, H, W, there) * of_b
        )
        down = _pixel(maps + 2 * P, row, column, H, W, there) * of_a
        down += _pixel(maps + 5 * P, row, column, H, W, there) * of_b
        if KEEP:
            # where a block reaches beyond the edge it writes what is at the edge once more
            place = kept + row * W + column
            tl.store(place, left, mask=there)
            tl.store(place + P, right, mask=there)
            tl.store(place + 2 * P, down, mask=there)
            tl.store(place + 3 * P, of_a, mask=there)
            tl.store(place + 4 * P, of_b, mask=there)
        xx, xy, yy = xx + right * right, xy + right * down, yy + down * down
        xr, yr = xr + right * left, yr + down * left
    count = SHRINK * SHRINK
    tl.store(products + p, xx / count, mask=there)
    tl.store(products + G + p, xy / count, mask=there)
    tl.store(products + 2 * G + p, yy / count, mask=there)
    tl.store(products + 3 * G + p, xr / count, mask=there)
    tl.store(products + 4 * G + p, yr / count, mask=there)


@triton.jit
def _solved_kernel(
    products, before, field, trust, moved, extent, H, W, side, of_grid, LAST: tl.constexpr, PLACES: tl.constexpr
):
    """Write a field after a step and smoothing, and what `displacement.refined` does to the last; and its extent."""
    n = tl.program_id(0).to(tl.int64)
    P = H * W
    products += n * 5 * P
    before += n * 2 * P
    field += n * 2 * P
    trust += n * P
    moved += n * 2 * P
    mean = _solved(products, before, moved, trust, H, W, side, PLACES)
    tl.debug_barrier()
    for start in range(0, P, PLACES):
        p, r, c, there = _places(start, H, W, PLACES)
        right = tl.load(before + p, mask=there, other=0.0)
        down = tl.load(before + P + p, mask=there, other=0.0)
        _store_smoothed(moved, trust, mean, right, down, field, p, r, c, H, W, there)
    if LAST:
        tl.debug_barrier()
        a_1, a_x, a_y, b_1, b_x, b_y = _affine(field, trust, mean, H, W, of_grid, FINAL_OUTLIER, PLACES)
        tl.debug_barrier()
        for start in range(0, P, PLACES):
            p, r, c, there = _places(start, H, W, PLACES)
            right, down = _affine_at(a_1, a_x, a_y, b_1, b_x, b_y, r, c, H, W, of_grid)
            off_right = tl.load(field + p, mask=there, other=0.0) - right
            off_down = tl.load(field + P + p, mask=there, other=0.0) - down
            square = off_right * off_right + off_down * off_down
            kept = square / (square + DOUBT)
            tl.store(field + p, right + off_right * kept, mask=there)
            tl.store(field + P + p, down + off_down * kept, mask=there)
        tl.debug_barrier()
        distance, strain = _extent(field, trust, H, W, of_grid, PLACES)
        tl.store(extent + 2 * n, distance)
        tl.store(extent + 2 * n + 1, strain)


def _fine_programs(count: int, size: Sequence[int]) -> tuple[int, int]:
    """Return the grid of programs for all places of so many maps."""
    return triton.cdiv(size[0] * size[1], FINE["PLACES"]), count


def _for_each_place(kernel: Any, count: int, size: Sequence[int], *arguments: Any, **constants: Any) -> None:
    """Run a kernel for all places of so many maps, on the device of its first argument."""
    launched_unfused(kernel, _fine_programs(count, size), arguments[0].device, *arguments, **constants, **FINE)


class Step(NamedTuple):
    """A field after a step on a level finer than its grid.

    Attributes:
        field: with its trust.
        extent: (N, 2), of the last step.
        kept: (N, 5, h, w), what the step's gradients take, if it was asked for: see `_products_kernel`.
    """

    field: of.Field
    extent: Tensor
    kept: Tensor


def _step_on(x: Tensor, y: Tensor, level: int, field: Tensor, *, last: bool = False, keep: bool = False) -> Step:
    """Return what a step on a level makes of a field, (N, 2, h, w); `last`: there is no finer level."""
    n, _, *size = x.shape
    grid, shrink = field.shape[2:], 2 ** (of.GRID_LEVEL - level)
    every = of.every_place(shrink)
    sampled = [-(-m // every) for m in size]
    block = BLOCK.value // every
    blocks = [-(-m // block) for m in sampled]
    maps, products = x.new_empty(n, 6, *sampled), x.new_empty(n, 5, *grid)
    means, squares = x.new_empty(2 * n, *blocks), x.new_empty(2 * n, *blocks)
    kept = x.new_empty(n, 5, *sampled) if keep else products
    side = float(min(size))

    pair = x.contiguous(), y.contiguous()
    _for_each_place(_sampled_kernel, n, sampled, *pair, field, maps, *size, *grid, *sampled, side, EVERY=every)
    for of_squares in (False, True):
        arguments = (maps, means, squares, *sampled, *blocks)
        _for_each_place(_means_kernel, 2 * n, blocks, *arguments, SQUARES=of_squares, BLOCK=block)
    arguments = (maps, means, squares, products, kept, *sampled, *blocks, *grid)
    _for_each_place(_products_kernel, n, grid, *arguments, SHRINK=shrink // every, KEEP=keep)
    found, trust, moved = torch.empty_like(field), field.new_empty(n, 1, *grid), torch.empty_like(field)
    extent = field.new_empty(n, 2)
    launched_unfused(
        *(_solved_kernel, (n,), x.device),
        *(products, field, found, trust, moved, extent, *grid, side, float(min(grid))),
        LAST=last,
        **COARSE,
    )
    return Step(of.Field(found, trust), extent, kept)


def refined(x: Sequence[Tensor], y: Sequence[Tensor], field: Tensor, *, keep: bool = False) -> tuple[Tensor, Step]:
    """Return the field before the last step, and that step: what `displacement.refined` does."""
    for level in range(of.GRID_LEVEL - 1, 0, -1):
        field = _step_on(x[level], y[level], level, field).field.by
    return field, _step_on(x[0], y[0], 0, field, last=True, keep=keep)


# --- images -----------------------------------------------------------------------------------------------------------


@triton.jit
def _luma_kernel(images, s_n, s_c, s_h, s_w, out, H, W, RED, GREEN, BLUE, PLACES: tl.constexpr):
    """Write the luma of images in colour."""
    n = tl.program_id(1).to(tl.int64)
    p, r, c, there = _places(tl.program_id(0) * PLACES, H, W, PLACES)
    place = images + n * s_n + r * s_h + c * s_w
    found = tl.load(place, mask=there, other=0.0) * RED
    found += tl.load(place + s_c, mask=there, other=0.0) * GREEN
    found += tl.load(place + 2 * s_c, mask=there, other=0.0) * BLUE
    tl.store(out + n * H * W + p, found, mask=there)


def luma(images: Tensor, weights: Sequence[float]) -> Tensor:
    """Return weighted sums of the three colours of images, (N, 1, H, W)."""
    n, _, h, w = images.shape
    out = images.new_empty(n, 1, h, w)
    _for_each_place(_luma_kernel, n, (h, w), images, *images.stride(), out, h, w, *weights)
    return out


@triton.jit
def _seen(m, s_h, s_w, row, column, H, W, there):
    """Sample a map bilinearly; beyond its edge there are zeros."""
    top, left = tl.floor(row), tl.floor(column)
    r, c, down, right = top.to(tl.int32), left.to(tl.int32), row - top, column - left
    found = row * 0.0
    for k in tl.static_range(4):
        at_r, at_c = r + k // 2, c + k % 2
        weight = (down if k // 2 else 1 - down) * (right if k % 2 else 1 - right)
        inside = there & (at_r >= 0) & (at_r < H) & (at_c >= 0) & (at_c < W)
        found += weight * tl.load(m + at_r * s_h + at_c * s_w, mask=inside, other=0.0)
    return found


@triton.jit
def _aligned_kernel(
    x, x_n, x_c, x_h, x_w, y, y_n, y_c, y_h, y_w, field, share, to_x, to_y, C, H, W, GH, GW, side,
    PLACES: tl.constexpr,
):  # fmt: skip
    """Write both images in the middle frame: what only one of them shows is the same in both."""
    n = tl.program_id(1).to(tl.int64)
    P, G = H * W, GH * GW
    x += n * x_n
    y += n * y_n
    field += n * 2 * G
    to_x += n * C * P
    to_y += n * C * P
    p, r, c, there = _places(tl.program_id(0) * PLACES, H, W, PLACES)
    moved = tl.load(share + n)
    if moved > 0:
        row, column = _scaled(r, GH, H), _scaled(c, GW, W)
        right = _at(field, row, column, GH, GW, there) * moved * side / 2
        down = _at(field + G, row, column, GH, GW, there) * moved * side / 2
        in_a, in_b = _inside(r - down, c - right, H, W), _inside(r + down, c + right, H, W)
        either = tl.maximum(in_a + in_b, 1e-6)
        by_a, by_b = (1 - in_a) / either, (1 - in_b) / either
        for k in range(C):
            a = _seen(x + k * x_c, x_h, x_w, r - down, c - right, H, W, there)
            b = _seen(y + k * y_c, y_h, y_w, r + down, c + right, H, W, there)
            both = a + b
            tl.store(to_x + k * P + p, a + by_a * both, mask=there)
            tl.store(to_y + k * P + p, b + by_b * both, mask=there)
    else:  # nothing moved, or nobody knows
        for k in range(C):
            a = tl.load(x + k * x_c + r * x_h + c * x_w, mask=there, other=0.0)
            b = tl.load(y + k * y_c + r * y_h + c * y_w, mask=there, other=0.0)
            tl.store(to_x + k * P + p, a, mask=there)
            tl.store(to_y + k * P + p, b, mask=there)


def aligned(x: Tensor, y: Tensor, field: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return both images in the middle frame of a field times its share; those without a share as they are."""
    n, channels, h, w = x.shape
    found = x.new_empty(x.shape), x.new_empty(x.shape)
    _for_each_place(
        *(_aligned_kernel, n, (h, w)),
        *(x, *x.stride(), y, *y.stride(), field.contiguous(), share.contiguous(), *found),
        *(channels, h, w, *field.shape[2:], float(min(h, w))),
    )
    return found


@triton.jit
def _apart_kernel(x, y, a, b, means, sums, H, W, SH, SW, MEANS: tl.constexpr, PLACES: tl.constexpr):
    """Write the means of blocks of x - y and of a - b, (N, 2, SH, SW), or sums of what these do not explain."""
    n = tl.program_id(1).to(tl.int64)
    P, S = H * W, SH * SW
    x += n * P
    y += n * P
    a += n * P
    b += n * P
    means += n * 2 * S
    if MEANS:
        p, r, c, there = _places(tl.program_id(0) * PLACES, SH, SW, PLACES)
        before = _block_mean(x, r, c, H, W, there, BLOCK) - _block_mean(y, r, c, H, W, there, BLOCK)
        after = _block_mean(a, r, c, H, W, there, BLOCK) - _block_mean(b, r, c, H, W, there, BLOCK)
        tl.store(means + p, before, mask=there)
        tl.store(means + S + p, after, mask=there)
    else:
        p, r, c, there = _places(tl.program_id(0) * PLACES, H, W, PLACES)
        before = tl.load(x + p, mask=there, other=0.0) - tl.load(y + p, mask=there, other=0.0)
        after = tl.load(a + p, mask=there, other=0.0) - tl.load(b + p, mask=there, other=0.0)
        before = tl.where(there, before - _near(means, r, c, SH, SW, H, W, there), 0.0)
        after = tl.where(there, after - _near(means + S, r, c, SH, SW, H, W, there), 0.0)
        sums += (n * tl.num_programs(0) + tl.program_id(0)) * 2
        tl.store(sums, tl.sum(before * before, 0))
        tl.store(sums + 1, tl.sum(after * after, 0))


def left_of(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return what is left of the local differences in luma of x and y, (N, 1, H, W), when they are aligned."""
    n, _, h, w = x.shape
    blocks = [-(-m // BLOCK.value) for m in (h, w)]
    means = x.new_empty(n, 2, *blocks)
    sums = x.new_empty(n, _fine_programs(n, (h, w))[0], 2)
    arguments = (*(m.contiguous() for m in (x, y, a, b)), means, sums, h, w, *blocks)
    _for_each_place(_apart_kernel, n, blocks, *arguments, MEANS=True)
    _for_each_place(_apart_kernel, n, (h, w), *arguments, MEANS=False)
    before, after = (sums.sum(1) / (h * w) + 1e-9).unbind(1)
    return after / before
