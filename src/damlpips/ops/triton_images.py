"""Functions of images as Triton kernels, for float32 results on a CUDA device: each reads its images once.

Imported only there, as `damlpips.ops.triton_kernels`. In PyTorch the colours alone are sixty operations on the whole
images.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from damlpips.checks import is_optimised
from damlpips.ops import colour, masking
from damlpips.ops.distance import ENERGY_EPS as EPS
from damlpips.ops.distance import SPREAD_FLOOR as SPREAD
from damlpips.ops.execution import gradients_with_graph
from damlpips.ops.triton_kernels import launched_unfused, root_of_mean, within

# Values, or places of an image with three colours, that a program works on.
VALUES, PLACES = 1024, 512
# Columns of an image, and rows, that a program walks down.
STRIP: dict[str, Any] = {"PLACES": 128, "ROWS": 8}
# Blocks of an image whose sums a program adds at a time.
SUMS = 128
MOST = 2**31 - VALUES

LINEAR_KNEE, LINEAR_SHIFT, LINEAR_EXPONENT, LINEAR_SLOPE = map(tl.constexpr, colour.LINEAR)
ROOT_KNEE, ROOT_SHIFT, ROOT_EXPONENT, ROOT_SLOPE = map(tl.constexpr, colour.ROOT)
CONE_00, CONE_01, CONE_02 = map(tl.constexpr, colour.TO_CONES[0])
CONE_10, CONE_11, CONE_12 = map(tl.constexpr, colour.TO_CONES[1])
CONE_20, CONE_21, CONE_22 = map(tl.constexpr, colour.TO_CONES[2])
OPPONENT_00, OPPONENT_01, OPPONENT_02 = map(tl.constexpr, colour.OPPONENTS[0])
OPPONENT_10, OPPONENT_11, OPPONENT_12 = map(tl.constexpr, colour.OPPONENTS[1])
OPPONENT_20, OPPONENT_21, OPPONENT_22 = map(tl.constexpr, colour.OPPONENTS[2])
ADAPTATION = tl.constexpr(colour.ADAPTATION)
WINDOW, MARGIN = tl.constexpr(masking.MASKING_WINDOW), tl.constexpr(masking.MASKING_WINDOW // 2)
MASKING_FLOOR, MOST_MASKED = tl.constexpr(masking.MASKING_FLOOR), tl.constexpr(masking.MOST)


def fit(*images: Tensor) -> bool:
    """Return whether the kernels can number the values of images."""
    return all(0 < x.numel() < MOST and len(x) < 2**16 for x in images)


# --- values ---------------------------------------------------------------------------------------------------------


@triton.jit
def _clamped_kernel(images, out, M, low, high, near, VALUES: tl.constexpr):
    m = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    value = tl.load(images + m, mask=m < M, other=0.0).to(tl.float32)
    clamped = tl.minimum(tl.maximum(value, low), high)
    tl.store(out + m, tl.where(tl.abs(clamped - value) <= near, clamped, value).to(out.dtype.element_ty), mask=m < M)


def clamped(images: Tensor, low: float, high: float, near: float, out: Tensor | None = None) -> Tensor:
    """Return images with values that leave the range by `near` at most set to its end, others as they are.

    Args:
        out: where it is written; with the strides of `images`, or else the images are copied first.
    """
    found = torch.empty_like(images) if out is None else out
    if not (images.stride() == found.stride() and _is_dense(images)):
        found = torch.empty_like(images, memory_format=torch.contiguous_format)
        images = images.contiguous()
    count = images.numel()
    launched_unfused(
        *(_clamped_kernel, (triton.cdiv(count, VALUES),), images.device),
        *(images, found, count, low, high, near),
        VALUES=VALUES,
    )
    return found if out is None or found is out else out.copy_(found)


def _is_dense(images: Tensor) -> bool:
    """Return whether values lie side by side in memory, in some order, each once."""
    expected = 1
    for stride, size in sorted((st, sz) for sz, st in zip(images.shape, images.stride(), strict=True) if sz > 1):
        if stride != expected:
            return False
        expected *= size
    return True


# --- colours --------------------------------------------------------------------------------------------------------


@triton.jit
def _curve(x, KNEE: tl.constexpr, SHIFT: tl.constexpr, EXPONENT: tl.constexpr, SLOPE: tl.constexpr):
    """Return the value of a curve of `damlpips.ops.colour`, and its slope."""
    base = tl.maximum(x, KNEE, propagate_nan=tl.PropagateNan.ALL) + SHIFT
    power = tl.exp2(tl.log2(base) * EXPONENT)
    value = power + (tl.minimum(x, KNEE, propagate_nan=tl.PropagateNan.ALL) - KNEE) * SLOPE
    return value, tl.where(x > KNEE, power / base * EXPONENT, SLOPE)


@triton.jit
def _linear(x):
    return _curve(x, LINEAR_KNEE, LINEAR_SHIFT, LINEAR_EXPONENT, LINEAR_SLOPE)


@triton.jit
def _root(x):
    return _curve(x, ROOT_KNEE, ROOT_SHIFT, ROOT_EXPONENT, ROOT_SLOPE)


@triton.jit
def _oklab(r, g, b):
    r, _ = _linear(r)
    g, _ = _linear(g)
    b, _ = _linear(b)
    long, _ = _root(r * CONE_00 + g * CONE_01 + b * CONE_02)
    middle, _ = _root(r * CONE_10 + g * CONE_11 + b * CONE_12)
    short, _ = _root(r * CONE_20 + g * CONE_21 + b * CONE_22)
    return (
        long * OPPONENT_00 + middle * OPPONENT_01 + short * OPPONENT_02,
        long * OPPONENT_10 + middle * OPPONENT_11 + short * OPPONENT_12,
        long * OPPONENT_20 + middle * OPPONENT_21 + short * OPPONENT_22,
    )


@triton.jit
def _pixels(images, s_c, s_h, s_w, W, p, there, low, factor, FLAT: tl.constexpr):
    """Return the colours of some places of one image, scaled to [0, 1]; `FLAT`: one stride serves all places."""
    place = images + (p * s_w if FLAT else p // W * s_h + p % W * s_w)
    r = (tl.load(place, mask=there, other=0).to(tl.float32) - low) * factor
    g = (tl.load(place + s_c, mask=there, other=0).to(tl.float32) - low) * factor
    b = (tl.load(place + 2 * s_c, mask=there, other=0).to(tl.float32) - low) * factor
    return r, g, b


@triton.jit
def _colours(images, s_c, s_h, s_w, W, p, there, low, factor, FLAT: tl.constexpr):
    """Return some places of one image in Oklab."""
    r, g, b = _pixels(images, s_c, s_h, s_w, W, p, there, low, factor, FLAT)
    return _oklab(r, g, b)


@triton.jit
def _oklab_kernel(images, s_n, s_c, s_h, s_w, W, P, out, FLAT: tl.constexpr, PLACES: tl.constexpr):
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    there = p < P
    first, second, third = _colours(images + n * s_n, s_c, s_h, s_w, W, p, there, 0.0, 1.0, FLAT)
    out += n * 3 * P
    tl.store(out + p, first, mask=there)
    tl.store(out + P + p, second, mask=there)
    tl.store(out + 2 * P + p, third, mask=there)


@triton.jit
def _oklab_gradient_kernel(
    images, s_n, s_c, s_h, s_w, gradient, g_n, g_c, g_h, g_w, W, P, out, FLAT: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    there = p < P
    r, g, b = _pixels(images + n * s_n, s_c, s_h, s_w, W, p, there, 0.0, 1.0, FLAT)
    by_0, by_1, by_2 = _pixels(gradient + n * g_n, g_c, g_h, g_w, W, p, there, 0.0, 1.0, FLAT)
    r, by_r = _linear(r)
    g, by_g = _linear(g)
    b, by_b = _linear(b)
    _, long = _root(r * CONE_00 + g * CONE_01 + b * CONE_02)
    _, middle = _root(r * CONE_10 + g * CONE_11 + b * CONE_12)
    _, short = _root(r * CONE_20 + g * CONE_21 + b * CONE_22)
    long *= by_0 * OPPONENT_00 + by_1 * OPPONENT_10 + by_2 * OPPONENT_20
    middle *= by_0 * OPPONENT_01 + by_1 * OPPONENT_11 + by_2 * OPPONENT_21
    short *= by_0 * OPPONENT_02 + by_1 * OPPONENT_12 + by_2 * OPPONENT_22
    out += n * 3 * P
    tl.store(out + p, by_r * (long * CONE_00 + middle * CONE_10 + short * CONE_20), mask=there)
    tl.store(out + P + p, by_g * (long * CONE_01 + middle * CONE_11 + short * CONE_21), mask=there)
    tl.store(out + 2 * P + p, by_b * (long * CONE_02 + middle * CONE_12 + short * CONE_22), mask=there)


def _grid(images: Tensor) -> tuple[int, int]:
    return triton.cdiv(images[0, 0].numel(), PLACES), len(images)


def _tiles(*images: Tensor) -> dict[str, Any]:
    """Return how images are read: a division for each place would take longer than its colours."""
    return {"FLAT": all(x.stride(2) == x.shape[3] * x.stride(3) for x in images), "PLACES": PLACES}


def oklab(images: Tensor) -> Tensor:
    """Return `colour.oklab` of images (N, 3, H, W) in [0, 1]."""
    out = torch.empty(images.shape, device=images.device, dtype=torch.float32)
    launched_unfused(
        *(_oklab_kernel, _grid(images), images.device),
        *(images, *images.stride(), images.shape[3], images[0, 0].numel(), out),
        **_tiles(images),
    )
    return out


def oklab_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of images, from that of `oklab`."""
    out = torch.empty(images.shape, device=images.device, dtype=torch.float32)
    launched_unfused(
        *(_oklab_gradient_kernel, _grid(images), images.device),
        *(images, *images.stride(), gradient, *gradient.stride(), images.shape[3], images[0, 0].numel(), out),
        **_tiles(images, gradient),
    )
    return out


def colours(images: Tensor) -> Tensor:
    """Return `colour.oklab` of images (N, 3, H, W) in [0, 1]; a graph keeps the images."""
    found: Tensor = _Oklab.apply(images) if is_optimised(images) else oklab(images)
    return found


class _Oklab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return oklab(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (images,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return oklab_gradient(images, gradient)
        # for second derivatives
        return gradients_with_graph(colour.oklab, (images,), (gradient,))[0]


# --- the image as a layer -------------------------------------------------------------------------------------------


@triton.jit
def _image_sums_kernel(
    x, x_n, x_c, x_h, x_w, y, y_n, y_c, y_h, y_w, W, P, low, factor, sums,
    FLAT: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write the sums of a, b, a^2 and b^2 over the places of a block, for each of three colours: (N, blocks, 4, 3)."""
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    there = p < P
    a_0, a_1, a_2 = _colours(x + n * x_n, x_c, x_h, x_w, W, p, there, low, factor, FLAT)
    b_0, b_1, b_2 = _colours(y + n * y_n, y_c, y_h, y_w, W, p, there, low, factor, FLAT)
    sums += (n * tl.num_programs(0) + tl.program_id(0)) * 12
    tl.store(sums, tl.sum(tl.where(there, a_0, 0.0), 0))
    tl.store(sums + 1, tl.sum(tl.where(there, a_1, 0.0), 0))
    tl.store(sums + 2, tl.sum(tl.where(there, a_2, 0.0), 0))
    tl.store(sums + 3, tl.sum(tl.where(there, b_0, 0.0), 0))
    tl.store(sums + 4, tl.sum(tl.where(there, b_1, 0.0), 0))
    tl.store(sums + 5, tl.sum(tl.where(there, b_2, 0.0), 0))
    tl.store(sums + 6, tl.sum(tl.where(there, a_0 * a_0, 0.0), 0))
    tl.store(sums + 7, tl.sum(tl.where(there, a_1 * a_1, 0.0), 0))
    tl.store(sums + 8, tl.sum(tl.where(there, a_2 * a_2, 0.0), 0))
    tl.store(sums + 9, tl.sum(tl.where(there, b_0 * b_0, 0.0), 0))
    tl.store(sums + 10, tl.sum(tl.where(there, b_1 * b_1, 0.0), 0))
    tl.store(sums + 11, tl.sum(tl.where(there, b_2 * b_2, 0.0), 0))


@triton.jit
def _at(values, places, place):
    return tl.sum(tl.where(places == place, values, 0.0), 0)


@triton.jit
def _image_texture_kernel(sums, means, to, blocks, P, energy, SPREAD, EPS, SUMS: tl.constexpr):
    """Write, for one pair, the means of a, b, a^2 and b^2 of each colour, and the distance in texture."""
    n = tl.program_id(0).to(tl.int64)
    # of sixteen columns twelve are used: those of a colour in four statistics
    column = tl.arange(0, 16)
    found = tl.zeros((SUMS, 16), tl.float32)
    for start in range(0, blocks, SUMS):
        k = start + tl.arange(0, SUMS)
        there = (k < blocks)[:, None] & (column < 12)[None, :]
        found += tl.load(sums + (n * blocks + k)[:, None] * 12 + column[None, :], mask=there, other=0.0)
    mean = tl.sum(found, 0) / P
    tl.store(means + n * 12 + column, mean, mask=column < 12)
    texture = 0.0
    for c in tl.static_range(3):
        a, b = _at(mean, column, c), _at(mean, column, 3 + c)
        # of colours less ADAPTATION of their mean
        power_a = _at(mean, column, 6 + c) - a * a * (1 - (1 - ADAPTATION) * (1 - ADAPTATION))
        power_b = _at(mean, column, 9 + c) - b * b * (1 - (1 - ADAPTATION) * (1 - ADAPTATION))
        a *= 1 - ADAPTATION
        b *= 1 - ADAPTATION
        spread_a = tl.sqrt_rn(tl.maximum(power_a - a * a, 0.0) + SPREAD * power_a + EPS * EPS)
        spread_b = tl.sqrt_rn(tl.maximum(power_b - b * b, 0.0) + SPREAD * power_b + EPS * EPS)
        texture += (a - b) * (a - b) + (spread_a - spread_b) * (spread_a - spread_b)
    tl.store(to + n, texture / energy)


@triton.jit
def _image_difference_kernel(
    x, x_n, x_c, x_h, x_w, y, y_n, y_c, y_h, y_w, W, P, low, factor, means, weight, to,
    FLAT: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write sum_p d_p^2 over the places of a block, d_p = weight sum_c (a_c - b_c)^2 of adapted colours."""
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    there = p < P
    a_0, a_1, a_2 = _colours(x + n * x_n, x_c, x_h, x_w, W, p, there, low, factor, FLAT)
    b_0, b_1, b_2 = _colours(y + n * y_n, y_c, y_h, y_w, W, p, there, low, factor, FLAT)
    means += n * 12
    c_0 = a_0 - b_0 - ADAPTATION * (tl.load(means) - tl.load(means + 3))
    c_1 = a_1 - b_1 - ADAPTATION * (tl.load(means + 1) - tl.load(means + 4))
    c_2 = a_2 - b_2 - ADAPTATION * (tl.load(means + 2) - tl.load(means + 5))
    d = tl.where(there, weight * (c_0 * c_0 + c_1 * c_1 + c_2 * c_2), 0.0)
    tl.store(to + n * tl.num_programs(0) + tl.program_id(0), tl.sum(d * d, 0))


def image_distances(x: Tensor, y: Tensor, low: float, high: float, energy: float) -> tuple[Tensor, Tensor]:
    """Return the distances in structure and in texture, (N,) each, of images in adapted colours, and no gradients.

    Equal to `damlpips_distances` of `colour.adapted_colours` with `distance.Fixed(energy)`; the colours of a pair exist
    in registers only.

    Args:
        x, y: (N, 3, H, W), of any type, in [low, high].
    """
    factor, places = 1 / (high - low), x[0, 0].numel()
    blocks, n = _grid(x)
    sums, squares = torch.empty(n, blocks, 12, device=x.device), torch.empty(n, blocks, device=x.device)
    pair = (x, *x.stride(), y, *y.stride(), x.shape[3], places, low, factor)

    def run(kernel: Any, *arguments: Any) -> None:
        launched_unfused(kernel, (blocks, n), x.device, *pair, *arguments, **_tiles(x, y))

    run(_image_sums_kernel, sums)
    means, texture = torch.empty(n, 12, device=x.device), torch.empty(n, device=x.device)
    statistics = (sums, means, texture, blocks, places, energy, SPREAD, EPS)
    launched_unfused(_image_texture_kernel, (n,), x.device, *statistics, SUMS=SUMS)
    run(_image_difference_kernel, means, 1 / energy, squares)
    return root_of_mean(squares, places), texture


# --- masking ----------------------------------------------------------------------------------------------------------


@triton.jit
def _window_means(m, P, row, column, H, W, there):
    """Average three colours over a window around each place."""
    first, second, third = row * 0.0, row * 0.0, row * 0.0
    for i in range(WINDOW):
        line = m + within(row + (i - MARGIN), H) * W
        for j in tl.static_range(WINDOW):
            place = line + within(column + (j - MARGIN), W)
            first += tl.load(place, mask=there, other=0.0)
            second += tl.load(place + P, mask=there, other=0.0)
            third += tl.load(place + 2 * P, mask=there, other=0.0)
    return first / (WINDOW * WINDOW), second / (WINDOW * WINDOW), third / (WINDOW * WINDOW)


@triton.jit
def _colours_at(m, P, p, there):
    first = tl.load(m + p, mask=there, other=0.0)
    return first, tl.load(m + P + p, mask=there, other=0.0), tl.load(m + 2 * P + p, mask=there, other=0.0)


@triton.jit
def _deviations(m, P, p, r, c, H, W, there):
    """Return how far the colours of places are from the means of their windows."""
    first, second, third = _colours_at(m, P, p, there)
    mean_0, mean_1, mean_2 = _window_means(m, P, r, c, H, W, there)
    return first - mean_0, second - mean_1, third - mean_2


@triton.jit
def _window_row(line, column, W, there):
    """Return the sums of a row of a map over the columns of a window around each place."""
    found = column * 0.0
    for j in tl.static_range(WINDOW):
        found += tl.load(line + within(column + (j - MARGIN), W), mask=there, other=0.0)
    return found


@triton.jit
def _deviations_kernel(
    images, squares, sums, H, W, OF: tl.constexpr, SUMS: tl.constexpr, ROWS: tl.constexpr, PLACES: tl.constexpr
):
    """Write the squared deviation of each place from the mean of its window, over colours: (N, 2, H, W), of a and of b.

    A program walks down some rows, with the sums of the last five of them. With `SUMS` it also writes the sums that
    `_image_sums_kernel` writes. `OF`: 0 for a, 1 for b.
    """
    n = tl.program_id(2).to(tl.int64)
    P = H * W
    images += n * 3 * P
    squares += (n * 2 + OF) * P
    block = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    sums += (n * tl.num_programs(0) * tl.num_programs(1) + block) * 12 + 3 * OF
    top = tl.program_id(1) * ROWS
    column = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    for k in range(3):
        first, second, third, fourth = column * 0.0, column * 0.0, column * 0.0, column * 0.0
        total, power = column * 0.0, column * 0.0
        for i in tl.static_range(ROWS + 2 * MARGIN):
            row = top + i - 2 * MARGIN  # of the middle of the window
            fifth = _window_row(images + k * P + within(row + MARGIN, H) * W, column, W, column < W)
            if i >= 2 * MARGIN:
                there = (column < W) & (row < H)
                place = row * W + column
                value = tl.load(images + k * P + place, mask=there, other=0.0)
                off = value - (first + second + third + fourth + fifth) / (WINDOW * WINDOW)
                found = off * off
                found += tl.load(squares + place, mask=there & (k > 0), other=0.0)
                tl.store(squares + place, found, mask=there)
                total += value
                power += value * value
            first, second, third, fourth = second, third, fourth, fifth
        if SUMS:
            tl.store(sums + k, tl.sum(total, 0))
            tl.store(sums + 6 + k, tl.sum(power, 0))


@triton.jit
def _masked_kernel(
    a, b, squares, means, contrasts, d, place, sums, H, W, TINT: tl.constexpr, ROWS: tl.constexpr, PLACES: tl.constexpr
):
    """Write d and the weight of each place of `masking.masked_map`, or, of colours with a tint, sums of d^2.

    Without a tint also the contrasts with their floor, (N, 2, H, W), which gradients take.
    """
    n = tl.program_id(2).to(tl.int64)
    P = H * W
    a += n * 3 * P
    b += n * 3 * P
    squares += n * 2 * P
    top = tl.program_id(1) * ROWS
    column = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    a_1, a_2, a_3, a_4 = column * 0.0, column * 0.0, column * 0.0, column * 0.0
    b_1, b_2, b_3, b_4 = column * 0.0, column * 0.0, column * 0.0, column * 0.0
    total = column * 0.0
    for i in tl.static_range(ROWS + 2 * MARGIN):
        row = top + i - 2 * MARGIN  # of the middle of the window
        line = squares + within(row + MARGIN, H) * W
        a_5 = _window_row(line, column, W, column < W)
        b_5 = _window_row(line + P, column, W, column < W)
        if i >= 2 * MARGIN:
            there = (column < W) & (row < H)
            p = row * W + column
            square = column * 0.0
            for k in tl.static_range(3):
                apart = tl.load(a + k * P + p, mask=there, other=0.0) - tl.load(b + k * P + p, mask=there, other=0.0)
                if TINT:
                    apart -= (tl.load(means + n * 12 + k) - tl.load(means + n * 12 + 3 + k)) * ADAPTATION
                square += apart * apart
            of_a = (a_1 + a_2 + a_3 + a_4 + a_5) / (WINDOW * WINDOW) + MASKING_FLOOR
            of_b = (b_1 + b_2 + b_3 + b_4 + b_5) / (WINDOW * WINDOW) + MASKING_FLOOR
            weight = 1 / (tl.sqrt_rn(of_a * of_b) + square / MOST_MASKED)
            found = tl.where(there, weight * square, 0.0)
            if TINT:
                total += found * found
            else:
                tl.store(d + n * P + p, found, mask=there)
                tl.store(place + n * P + p, weight, mask=there)
                tl.store(contrasts + n * 2 * P + p, of_a, mask=there)
                tl.store(contrasts + n * 2 * P + P + p, of_b, mask=there)
        a_1, a_2, a_3, a_4 = a_2, a_3, a_4, a_5
        b_1, b_2, b_3, b_4 = b_2, b_3, b_4, b_5
    if TINT:
        block = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        tl.store(sums + n * tl.num_programs(0) * tl.num_programs(1) + block, tl.sum(total, 0))


def _strips(images: Tensor) -> tuple[int, int, int]:
    """Return the grid of programs that walk down some rows of some columns each."""
    n, _, h, w = images.shape
    return triton.cdiv(w, STRIP["PLACES"]), triton.cdiv(h, STRIP["ROWS"]), n


def masked_image_distances(x: Tensor, y: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """Return the distances of images in [0, 1], in structure and in texture, (N,) each, and no gradients.

    Equal to those of `version2.compared_image` of both images in adapted colours.
    """
    n, _, *size = x.shape
    both, grid = (oklab(x), oklab(y)), _strips(x)
    blocks, places = grid[0] * grid[1], x[0, 0].numel()
    squares, sums = x.new_empty(n, 2, *size), x.new_empty(n, blocks, 12)
    means, texture, of_blocks = x.new_empty(n, 12), x.new_empty(n), x.new_empty(n, blocks)
    for k, images in enumerate(both):
        launched_unfused(_deviations_kernel, grid, x.device, images, squares, sums, *size, OF=k, SUMS=True, **STRIP)
    statistics = (sums, means, texture, blocks, places, energy, SPREAD, EPS)
    launched_unfused(_image_texture_kernel, (n,), x.device, *statistics, SUMS=SUMS)
    arguments = (*both, squares, means, squares, squares, squares, of_blocks, *size)
    launched_unfused(_masked_kernel, grid, x.device, *arguments, TINT=True, **STRIP)
    return root_of_mean(of_blocks, places), texture


def masked_map(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `masking.masked_map`, and the contrasts (N, 2, H, W), which `masked_gradients` takes."""
    n, _, *size = a.shape
    a, b = a.contiguous(), b.contiguous()
    squares, contrasts = a.new_empty(n, 2, *size), a.new_empty(n, 2, *size)
    d, place = a.new_empty(n, 1, *size), a.new_empty(n, 1, *size)
    grid = _strips(a)
    for k, images in enumerate((a, b)):
        launched_unfused(_deviations_kernel, grid, a.device, images, squares, d, *size, OF=k, SUMS=False, **STRIP)
    arguments = (a, b, squares, squares, contrasts, d, place, squares, *size)
    launched_unfused(_masked_kernel, grid, a.device, *arguments, TINT=False, **STRIP)
    return d, place, contrasts


@triton.jit
def _times_seen(place, beyond, SIZE):
    """Return how often the window around one place has another in it, which may stand for what is beyond the edge."""
    first = tl.where(place == 0, -WINDOW, place - beyond)
    last = tl.where(place == SIZE - 1, WINDOW, place - beyond)
    times = tl.minimum(last, MARGIN) - tl.maximum(first, -MARGIN) + 1
    return tl.where((beyond >= 0) & (beyond < SIZE), tl.maximum(times, 0), 0)


@triton.jit
def _window_gradient(m, row, column, H, W, there):
    """Apply the transpose of the mean of a window."""
    found = row * 0.0
    for i in range(WINDOW):
        r, across = row + (i - MARGIN), row * 0.0
        line = m + within(r, H) * W
        for j in tl.static_range(WINDOW):
            c = column + (j - MARGIN)
            across += _times_seen(column, c, W) * tl.load(line + within(c, W), mask=there, other=0.0)
        found += _times_seen(row, r, H) * across
    return found / (WINDOW * WINDOW)


@triton.jit
def _window_gradients(m, P, row, column, H, W, there):
    """Do what `_window_gradient` does, with three colours."""
    first, second, third = row * 0.0, row * 0.0, row * 0.0
    for i in range(WINDOW):
        r = row + (i - MARGIN)
        line, of_row = m + within(r, H) * W, _times_seen(row, r, H)
        for j in tl.static_range(WINDOW):
            c = column + (j - MARGIN)
            place, times = line + within(c, W), of_row * _times_seen(column, c, W) * 1.0
            first += times * tl.load(place, mask=there, other=0.0)
            second += times * tl.load(place + P, mask=there, other=0.0)
            third += times * tl.load(place + 2 * P, mask=there, other=0.0)
    return first / (WINDOW * WINDOW), second / (WINDOW * WINDOW), third / (WINDOW * WINDOW)


@triton.jit
def _by_contrast_kernel(
    a, b, contrasts, by_d, by_place, by_difference, by_contrasts, H, W, BY_D: tl.constexpr, BY_PLACE: tl.constexpr,
    PLACES: tl.constexpr,
):  # fmt: skip
    """Write the gradients of D, (N, 1, H, W), and of the contrasts of a and of b, (N, 2, H, W)."""
    n = tl.program_id(1).to(tl.int64)
    P = H * W
    p = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    there = p < P
    a_0, a_1, a_2 = _colours_at(a + n * 3 * P, P, p, there)
    b_0, b_1, b_2 = _colours_at(b + n * 3 * P, P, p, there)
    square = (a_0 - b_0) * (a_0 - b_0) + (a_1 - b_1) * (a_1 - b_1) + (a_2 - b_2) * (a_2 - b_2)
    of_a = tl.load(contrasts + n * 2 * P + p, mask=there, other=1.0)
    of_b = tl.load(contrasts + n * 2 * P + P + p, mask=there, other=1.0)
    mask = tl.sqrt_rn(of_a * of_b)
    weight = 1 / (mask + square / MOST_MASKED)
    of_d, of_weight = p * 0.0, p * 0.0
    if BY_D:
        of_d = tl.load(by_d + n * P + p, mask=there, other=0.0)
    if BY_PLACE:
        of_weight = tl.load(by_place + n * P + p, mask=there, other=0.0)
    # d = D weight, weight = 1 / (mask + D / MOST)
    by_divisor = -weight * weight * (of_d * square + of_weight)
    by_mask = by_divisor * mask / 2
    tl.store(by_difference + n * P + p, of_d * weight + by_divisor / MOST_MASKED, mask=there)
    tl.store(by_contrasts + n * 2 * P + p, by_mask / of_a, mask=there)
    tl.store(by_contrasts + n * 2 * P + P + p, by_mask / of_b, mask=there)


@triton.jit
def _by_deviation_kernel(a, b, by_contrasts, by_deviations, H, W, PLACES: tl.constexpr):
    """Write the gradients of the deviations of each colour, (N, 2, 3, H, W), of a and of b."""
    n = tl.program_id(1).to(tl.int64)
    P = H * W
    a += n * 3 * P
    b += n * 3 * P
    by_contrasts += n * 2 * P
    by_deviations += n * 6 * P
    p = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    r, c, there = p // W, p % W, p < P
    off_0, off_1, off_2 = _deviations(a, P, p, r, c, H, W, there)
    by = 2 * _window_gradient(by_contrasts, r, c, H, W, there)
    _store_colours(by_deviations, P, p, off_0 * by, off_1 * by, off_2 * by, there)
    off_0, off_1, off_2 = _deviations(b, P, p, r, c, H, W, there)
    by = 2 * _window_gradient(by_contrasts + P, r, c, H, W, there)
    _store_colours(by_deviations + 3 * P, P, p, off_0 * by, off_1 * by, off_2 * by, there)


@triton.jit
def _store_colours(to, P, p, first, second, third, there):
    tl.store(to + p, first, mask=there)
    tl.store(to + P + p, second, mask=there)
    tl.store(to + 2 * P + p, third, mask=there)


@triton.jit
def _store_gradient(to, by, P, p, r, c, H, W, there, apart_0, apart_1, apart_2):
    """Write the gradient of an image: from those of its deviations, and directly from the differences."""
    of_0, of_1, of_2 = _colours_at(by, P, p, there)
    mean_0, mean_1, mean_2 = _window_gradients(by, P, r, c, H, W, there)
    _store_colours(to, P, p, of_0 - mean_0 + apart_0, of_1 - mean_1 + apart_1, of_2 - mean_2 + apart_2, there)


@triton.jit
def _masked_gradients_kernel(
    a, b, by_difference, by_deviations, for_a, for_b, H, W, FOR_A: tl.constexpr, FOR_B: tl.constexpr,
    PLACES: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a and b."""
    n = tl.program_id(1).to(tl.int64)
    P = H * W
    by_deviations += n * 6 * P
    p = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    r, c, there = p // W, p % W, p < P
    by_square = 2 * tl.load(by_difference + n * P + p, mask=there, other=0.0)
    a_0, a_1, a_2 = _colours_at(a + n * 3 * P, P, p, there)
    b_0, b_1, b_2 = _colours_at(b + n * 3 * P, P, p, there)
    by_0, by_1, by_2 = (a_0 - b_0) * by_square, (a_1 - b_1) * by_square, (a_2 - b_2) * by_square
    if FOR_A:
        _store_gradient(for_a + n * 3 * P, by_deviations, P, p, r, c, H, W, there, by_0, by_1, by_2)
    if FOR_B:
        _store_gradient(for_b + n * 3 * P, by_deviations + 3 * P, P, p, r, c, H, W, there, -by_0, -by_1, -by_2)


def masked_gradients(
    a: Tensor, b: Tensor, contrasts: Tensor, by_d: Tensor | None, by_place: Tensor | None, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of `masked_map` with respect to a and b, those that are needed."""
    n, _, *size = a.shape
    a, b = a.contiguous(), b.contiguous()
    given = [contrasts if by is None else by.contiguous() for by in (by_d, by_place)]
    by_difference, by_contrasts = a.new_empty(n, 1, *size), a.new_empty(n, 2, *size)
    by_deviations = a.new_empty(n, 2, *a.shape[1:])
    found = [a.new_empty(a.shape) if want else None for want in needed]
    targets = [a if target is None else target for target in found]

    def run(kernel: Any, *arguments: Any, **constants: Any) -> None:
        launched_unfused(kernel, _grid(a), a.device, a, b, *arguments, *size, **constants, PLACES=PLACES)

    wanted = {"BY_D": by_d is not None, "BY_PLACE": by_place is not None}
    run(_by_contrast_kernel, contrasts, *given, by_difference, by_contrasts, **wanted)
    run(_by_deviation_kernel, by_contrasts, by_deviations)
    run(_masked_gradients_kernel, by_difference, by_deviations, *targets, FOR_A=needed[0], FOR_B=needed[1])
    return found
