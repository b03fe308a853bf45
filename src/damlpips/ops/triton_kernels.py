"""The functions of `damlpips.ops.blockwise` as Triton kernels, for float16, bfloat16 and float32 on a CUDA device.

Imported only there: it needs triton, which comes with torch for CUDA. Everything is computed in float32, without
synchronising with the device. A program handles some places of one image with all their channels, tile by tile. Sums
over places are partial sums, added afterwards in a fixed order; atomic additions have none. So a score depends on its
pair alone, to the bit, not on the rest of the batch.

DAMLPIPS's weights need sums over the whole image before the first place can be compared. So DAMLPIPS reads the features
twice (`statistics`, then `differences`), where LPIPS reads them once, and twice again for the gradients
(`channel_differences`, then `gradients`). Where a program reads its own tile a second time, it comes from the cache.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from damlpips.ops.blockwise import Gradients
from damlpips.ops.distance import CHANNEL_FLOOR, ENERGY_EPS, NORM_EPS, SPREAD_FLOOR, Adaptive, Statistics

# A tile is CHANNELS x PLACES: enough of either to fill a GPU's cache lines, whichever is contiguous in memory.
CHANNELS, PLACES = 32, 64
LEAST = 16
# LPIPS's kernels keep all channels of a few places in registers, so many values, and read them once.
KEPT = 2048
LEAST_KEPT, MOST_KEPT = 8, 512
# With fewer programs than this, about two for each multiprocessor of a large GPU, tiles are made smaller.
PROGRAMS = 256
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# offsets within an image have 32 bits
LARGEST = 2**31
# CUDA's limit for the second dimension of a grid
IMAGES = 2**16 - 1


def fit(a: Tensor, b: Tensor) -> bool:
    """Return whether the kernels can process a pair of feature maps."""
    # strides may reach beyond the image, for instance in a slice of channels
    return len(a) <= IMAGES and all(x.dtype in DTYPES and x.numel() > 0 and _reach(x) < LARGEST for x in (a, b))


def probe(device: torch.device) -> None:
    """Compile and run a kernel on one feature; raises whatever prevents it, such as a missing C compiler."""
    a = torch.zeros(1, 1, 1, 1, device=device)
    lpips(a, a, None)


def launched(kernel: Any, grid: tuple[int, ...], device: torch.device, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on a device: Triton launches on the current one."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants)


def launched_unfused(
    kernel: Any, grid: tuple[int, ...], device: torch.device, *arguments: Any, **constants: Any
) -> None:
    """Do what `launched` does, without fused multiply-add: x y - z w is zero where the two products are equal."""
    launched(kernel, grid, device, *arguments, **constants, enable_fp_fusion=False)


def _reach(a: Tensor) -> int:
    """Return the largest offset in memory within one image, in the features as they are or in a contiguous copy."""
    spread = sum((size - 1) * stride for size, stride in zip(a.shape[1:], a.stride()[1:], strict=True))
    return max(spread, a[0].numel())


def _flat(a: Tensor) -> tuple[Tensor, int, int, int]:
    """Return features and their strides for image, channel and place; a copy where no one stride serves all places."""
    _, _, h, w = a.shape
    n_stride, c_stride, h_stride, w_stride = a.stride()
    if w == 1:
        return a, n_stride, c_stride, h_stride
    if h == 1 or h_stride == w * w_stride:
        return a, n_stride, c_stride, w_stride
    return _flat(a.contiguous())


class _Launch:
    """The grid of programs for a pair, and the arguments that every kernel begins with."""

    def __init__(self, a: Tensor, b: Tensor, *, once: bool = False) -> None:
        n, c, h, w = a.shape
        self.device, self.shape = a.device, (n, c, h, w)
        channels = max(LEAST, triton.next_power_of_2(c))
        once = once and channels <= MOST_KEPT
        least, most = (LEAST_KEPT, max(LEAST_KEPT, KEPT // channels)) if once else (LEAST, PLACES)
        self.places = max(least, min(most, triton.next_power_of_2(h * w)))
        while self.places > least and n * triton.cdiv(h * w, self.places) < PROGRAMS:
            self.places //= 2
        self.blocks = triton.cdiv(h * w, self.places)
        (a, *of_a), (b, *of_b) = _flat(a), _flat(b)
        self.pair = (a, b, c, h * w, *of_a, *of_b)
        self.tile = {"CHANNELS": channels if once else min(CHANNELS, channels), "PLACES": self.places}

    @property
    def has_all_channels(self) -> bool:
        """Whether a tile holds all channels of its places."""
        return self.tile["CHANNELS"] >= self.shape[1]

    def new(self, *shape: int) -> Tensor:
        return torch.empty(shape, device=self.device, dtype=torch.float32)

    def map(self) -> Tensor:
        n, _, h, w = self.shape
        return self.new(n, 1, h, w)

    def __call__(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        # blocks first: this dimension of a grid has the highest limit
        grid = (self.blocks, self.shape[0])
        launched_unfused(kernel, grid, self.device, *self.pair, *arguments, **constants, **self.tile)


@triton.jit
def within(place, SIZE):
    """Return rows or columns of a map; beyond its edge is what is at the edge."""
    return tl.minimum(tl.maximum(place, 0), SIZE - 1)


@triton.jit
def _here(C, P, start, CHANNELS: tl.constexpr, PLACES: tl.constexpr):
    """Return the channels and the places of a tile, and a mask of those that exist."""
    c = start + tl.arange(0, CHANNELS)[:, None]
    p = tl.program_id(0) * PLACES + tl.arange(0, PLACES)[None, :]
    return c, p, (c < C) & (p < P)


@triton.jit
def _features(a, stride_c, stride_p, c, p, there):
    return tl.load(a + c * stride_c + p * stride_p, mask=there, other=0.0).to(tl.float32)


@triton.jit
def _weighted(values, weight, c, C, WEIGHTED: tl.constexpr):
    """Return values times the weights of their channels, where there are any."""
    if WEIGHTED:
        values *= tl.load(weight + c, mask=c < C, other=0.0)
    return values


@triton.jit
def _factor(energy, EPS):
    """Return what the features at a place are multiplied with, and norm + eps to norm: 0 where the norm is 0.

    A division for each feature would take longer than reading it.
    """
    norm = tl.sqrt_rn(energy)
    dead = norm == 0.0
    divisor = tl.where(dead, 1.0, norm + EPS)
    return tl.div_rn(1.0, divisor), tl.where(dead, 0.0, tl.div_rn(divisor, tl.where(dead, 1.0, norm)))


# --- LPIPS ----------------------------------------------------------------------------------------------------------


@triton.jit
def _energies(a, b, C, P, a_c, a_p, b_c, b_p, CHANNELS: tl.constexpr, PLACES: tl.constexpr):
    of_a = tl.zeros((PLACES,), tl.float32)
    of_b = tl.zeros((PLACES,), tl.float32)
    for start in range(0, C, CHANNELS):
        c, p, there = _here(C, P, start, CHANNELS, PLACES)
        x = _features(a, a_c, a_p, c, p, there)
        y = _features(b, b_c, b_p, c, p, there)
        of_a += tl.sum(x * x, 0)
        of_b += tl.sum(y * y, 0)
    return of_a[None, :], of_b[None, :]


@triton.jit
def _units(a, b, C, P, a_c, a_p, b_c, b_p, start, factor_a, factor_b, CHANNELS: tl.constexpr, PLACES: tl.constexpr):
    """Return some channels of both features times their factors, and which they are and where."""
    c, p, there = _here(C, P, start, CHANNELS, PLACES)
    u = _features(a, a_c, a_p, c, p, there) * factor_a
    v = _features(b, b_c, b_p, c, p, there) * factor_b
    return u, v, c, p, there


@triton.jit
def _unit(x, EPS):
    """Return the features divided by their norm over channels, and what `_factor` returns."""
    factor, in_norms = _factor(tl.sum(x * x, 0)[None, :], EPS)
    return x * factor, factor, in_norms


@triton.jit
def _lpips_kernel(
    a, b, C, P, a_n, a_c, a_p, b_n, b_c, b_p, head, sums, EPS, HEAD: tl.constexpr, ONCE: tl.constexpr,
    CHANNELS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write sum_p sum_c w_c (a^_c - b^_c)^2 over the places of a block."""
    n = tl.program_id(1).to(tl.int64)
    a += n * a_n
    b += n * b_n
    found = tl.zeros((PLACES,), tl.float32)
    if ONCE:
        c, p, there = _here(C, P, 0, CHANNELS, PLACES)
        u, _, _ = _unit(_features(a, a_c, a_p, c, p, there), EPS)
        v, _, _ = _unit(_features(b, b_c, b_p, c, p, there), EPS)
        apart = (u - v) * (u - v)
        apart = _weighted(apart, head, c, C, HEAD)
        found += tl.sum(apart, 0)
    else:
        energy_a, energy_b = _energies(a, b, C, P, a_c, a_p, b_c, b_p, CHANNELS, PLACES)
        factor_a, _ = _factor(energy_a, EPS)
        factor_b, _ = _factor(energy_b, EPS)
        for start in range(0, C, CHANNELS):
            u, v, c, p, there = _units(a, b, C, P, a_c, a_p, b_c, b_p, start, factor_a, factor_b, CHANNELS, PLACES)
            apart = (u - v) * (u - v)
            apart = _weighted(apart, head, c, C, HEAD)
            found += tl.sum(apart, 0)
    tl.store(sums + n * tl.num_programs(0) + tl.program_id(0), tl.sum(found, 0))


@triton.jit
def _lpips_gradients_kernel(
    a, b, C, P, a_n, a_c, a_p, b_n, b_c, b_p, head, gradient, EPS,
    for_a, for_a_n, for_a_c, for_a_p, for_b, for_b_n, for_b_c, for_b_p,
    HEAD: tl.constexpr, FOR_A: tl.constexpr, FOR_B: tl.constexpr, ONCE: tl.constexpr,
    CHANNELS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write (G - a^ <G, a^> n / |a|) / n for a, and the same with b^ and -G for b; G = 2 w (a^ - b^) gradient / P."""
    n = tl.program_id(1).to(tl.int64)
    a += n * a_n
    b += n * b_n
    for_a += n * for_a_n
    for_b += n * for_b_n
    factor = 2.0 * tl.load(gradient + n) / P
    if ONCE:
        c, p, there = _here(C, P, 0, CHANNELS, PLACES)
        u, factor_a, in_norms_a = _unit(_features(a, a_c, a_p, c, p, there), EPS)
        v, factor_b, in_norms_b = _unit(_features(b, b_c, b_p, c, p, there), EPS)
        outer = (u - v) * factor
        outer = _weighted(outer, head, c, C, HEAD)
        if FOR_A:
            share_a = tl.sum(outer * u, 0)[None, :] * in_norms_a
            _put(for_a, for_a_c, for_a_p, c, p, there, (outer - u * share_a) * factor_a)
        if FOR_B:
            share_b = tl.sum(outer * v, 0)[None, :] * in_norms_b
            _put(for_b, for_b_c, for_b_p, c, p, there, (v * share_b - outer) * factor_b)
    else:
        energy_a, energy_b = _energies(a, b, C, P, a_c, a_p, b_c, b_p, CHANNELS, PLACES)
        factor_a, in_norms_a = _factor(energy_a, EPS)
        factor_b, in_norms_b = _factor(energy_b, EPS)
        along_a = tl.zeros((PLACES,), tl.float32)
        along_b = tl.zeros((PLACES,), tl.float32)
        for start in range(0, C, CHANNELS):
            u, v, c, p, there = _units(a, b, C, P, a_c, a_p, b_c, b_p, start, factor_a, factor_b, CHANNELS, PLACES)
            outer = (u - v) * factor
            outer = _weighted(outer, head, c, C, HEAD)
            along_a += tl.sum(outer * u, 0)
            along_b += tl.sum(outer * v, 0)
        share_a = along_a[None, :] * in_norms_a
        share_b = along_b[None, :] * in_norms_b
        for start in range(0, C, CHANNELS):
            u, v, c, p, there = _units(a, b, C, P, a_c, a_p, b_c, b_p, start, factor_a, factor_b, CHANNELS, PLACES)
            outer = (u - v) * factor
            outer = _weighted(outer, head, c, C, HEAD)
            if FOR_A:
                _put(for_a, for_a_c, for_a_p, c, p, there, (outer - u * share_a) * factor_a)
            if FOR_B:
                _put(for_b, for_b_c, for_b_p, c, p, there, (v * share_b - outer) * factor_b)


@triton.jit
def _put(to, stride_c, stride_p, c, p, there, values):
    tl.store(to + c * stride_c + p * stride_p, values.to(to.dtype.element_ty), mask=there)


def lpips(a: Tensor, b: Tensor, head: Tensor | None) -> Tensor:
    """Return mean_p sum_c w_c (a^_c - b^_c)^2, (N,)."""
    launch = _Launch(a, b, once=True)
    sums = launch.new(len(a), launch.blocks)
    launch(
        *(_lpips_kernel, sums if head is None else head, sums, NORM_EPS),
        HEAD=head is not None,
        ONCE=launch.has_all_channels,
    )
    return sums.sum(1) / a[0, 0].numel()


def lpips_gradients(
    a: Tensor, b: Tensor, head: Tensor | None, gradient: Tensor, needed: Sequence[bool]
) -> list[Tensor]:
    """Return the gradients of `lpips` with respect to a and b, those that are needed."""
    launch = _Launch(a, b, once=True)
    gradient = gradient.contiguous()
    found, targets, wanted = _targets(a, b, needed)
    launch(
        _lpips_gradients_kernel,
        *(gradient if head is None else head, gradient, NORM_EPS, *targets),
        HEAD=head is not None,
        ONCE=launch.has_all_channels,
        **wanted,
    )
    return found


def _targets(a: Tensor, b: Tensor, needed: Sequence[bool]) -> tuple[list[Tensor], list[Any], dict[str, bool]]:
    """Return uninitialised gradients, the arguments of the kernel that writes them, and which of them it writes."""
    found: list[Tensor] = []
    arguments: list[Any] = []
    for x, want in zip((a, b), needed, strict=True):
        part = x
        if want:
            # in the features' own memory format where one stride serves all places
            found.append(part := torch.empty_like(_flat(x)[0]))
        arguments += _flat(part)
    return found, arguments, {"FOR_A": needed[0], "FOR_B": needed[1]}


# --- DAMLPIPS -------------------------------------------------------------------------------------------------------


@triton.jit
def _statistics_kernel(
    a, b, C, P, a_n, a_c, a_p, b_n, b_c, b_p, energies_a, energies_b, sums,
    CHANNELS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write the sum of squares at each place, and each channel's sums of values and of squares over a block's places.

    `sums` is (N, blocks, 4, C): the sums of a, b, a^2 and b^2.
    """
    n = tl.program_id(1).to(tl.int64)
    a += n * a_n
    b += n * b_n
    sums += (n * tl.num_programs(0) + tl.program_id(0)) * 4 * C
    energy_a = tl.zeros((PLACES,), tl.float32)
    energy_b = tl.zeros((PLACES,), tl.float32)
    for start in range(0, C, CHANNELS):
        c, p, there = _here(C, P, start, CHANNELS, PLACES)
        x = _features(a, a_c, a_p, c, p, there)
        y = _features(b, b_c, b_p, c, p, there)
        energy_a += tl.sum(x * x, 0)
        energy_b += tl.sum(y * y, 0)
        channel = start + tl.arange(0, CHANNELS)
        tl.store(sums + channel, tl.sum(x, 1), mask=channel < C)
        tl.store(sums + C + channel, tl.sum(y, 1), mask=channel < C)
        tl.store(sums + 2 * C + channel, tl.sum(x * x, 1), mask=channel < C)
        tl.store(sums + 3 * C + channel, tl.sum(y * y, 1), mask=channel < C)
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    tl.store(energies_a + n * P + place, energy_a, mask=place < P)
    tl.store(energies_b + n * P + place, energy_b, mask=place < P)


@triton.jit
def _differences_kernel(
    a, b, C, P, a_n, a_c, a_p, b_n, b_c, b_p, channel, to, CHANNEL: tl.constexpr,
    CHANNELS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write sum_c g_c (a_c - b_c)^2 at each place."""
    n = tl.program_id(1).to(tl.int64)
    a += n * a_n
    b += n * b_n
    found = tl.zeros((PLACES,), tl.float32)
    for start in range(0, C, CHANNELS):
        c, p, there = _here(C, P, start, CHANNELS, PLACES)
        apart = _features(a, a_c, a_p, c, p, there) - _features(b, b_c, b_p, c, p, there)
        apart *= apart
        apart = _weighted(apart, channel + n * C, c, C, CHANNEL)
        found += tl.sum(apart, 0)
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    tl.store(to + n * P + place, found, mask=place < P)


@triton.jit
def _weights_kernel(sums, channel, scales, C, P, gamma, FLOOR, EPS, SPREAD, CHANNELS: tl.constexpr):
    """Write, for one image, the weights of channels, the mean energy E, and the distance in texture.

    `sums` is (N, 4, C), `channel` (N, C), `scales` (N, 2): E and the texture.
    """
    n = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CHANNELS)
    there = c < C
    sums += n * 4 * C
    mean_a = tl.load(sums + c, mask=there, other=0.0) / P
    mean_b = tl.load(sums + C + c, mask=there, other=0.0) / P
    power_a = tl.load(sums + 2 * C + c, mask=there, other=0.0) / P
    power_b = tl.load(sums + 3 * C + c, mask=there, other=0.0) / P
    power = (power_a + power_b) / 2
    energy = tl.sum(power, 0)
    mean = energy / C
    weight = tl.exp2(gamma * tl.log2((mean + EPS) / (power + FLOOR * mean + EPS)))
    spread_a = tl.sqrt(tl.maximum(power_a - mean_a * mean_a, 0.0) + SPREAD * power_a + EPS * EPS)
    spread_b = tl.sqrt(tl.maximum(power_b - mean_b * mean_b, 0.0) + SPREAD * power_b + EPS * EPS)
    means, spreads = mean_a - mean_b, spread_a - spread_b
    apart = tl.where(there, weight * (means * means + spreads * spreads), 0.0)
    tl.store(channel + n * C + c, weight, mask=there)
    tl.store(scales + n * 2, energy)
    # the mean over places of 1 / s_p is E + EPS
    tl.store(scales + n * 2 + 1, tl.sum(apart, 0) / (energy + EPS))


@triton.jit
def _squares_kernel(
    a, b, C, P, a_n, a_c, a_p, b_n, b_c, b_p, energies_a, energies_b, channel, scales, rho, EPS, to,
    CHANNELS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write sum_p d_p^2 over the places of a block, d_p = s_p sum_c g_c (a_c - b_c)^2."""
    n = tl.program_id(1).to(tl.int64)
    a += n * a_n
    b += n * b_n
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    energy = tl.load(energies_a + n * P + place, mask=place < P, other=0.0)
    energy += tl.load(energies_b + n * P + place, mask=place < P, other=0.0)
    found = tl.zeros((PLACES,), tl.float32)
    for start in range(0, C, CHANNELS):
        c, p, there = _here(C, P, start, CHANNELS, PLACES)
        apart = _features(a, a_c, a_p, c, p, there) - _features(b, b_c, b_p, c, p, there)
        found += tl.sum(apart * apart * tl.load(channel + n * C + c, mask=c < C, other=0.0), 0)
    found /= rho * energy / 2 + (1 - rho) * tl.load(scales + n * 2) + EPS
    tl.store(to + n * tl.num_programs(0) + tl.program_id(0), tl.sum(found * found, 0))


@triton.jit
def _root_kernel(sums, to, blocks, P, SUMS: tl.constexpr):
    """Write, for one image, the root of the mean over places, from the sums over blocks of them."""
    n = tl.program_id(0).to(tl.int64)
    found = tl.zeros((SUMS,), tl.float32)
    for start in range(0, blocks, SUMS):
        k = start + tl.arange(0, SUMS)
        found += tl.load(sums + n * blocks + k, mask=k < blocks, other=0.0)
    tl.store(to + n, tl.sqrt_rn(tl.sum(found, 0) / P))


def root_of_mean(sums: Tensor, places: int) -> Tensor:
    """Return sqrt(sum_k sums_nk / places), (N,)."""
    n, blocks = sums.shape
    found = torch.empty(n, device=sums.device)
    at_a_time = min(1024, triton.next_power_of_2(blocks))
    launched(_root_kernel, (n,), sums.device, sums, found, blocks, places, SUMS=at_a_time)
    return found


@triton.jit
def _channel_differences_kernel(
    a, b, C, P, a_n, a_c, a_p, b_n, b_c, b_p, weight, sums, CHANNELS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write sum_p w_p (a_cp - b_cp)^2 over a block's places for each channel; `sums` is (N, blocks, C)."""
    n = tl.program_id(1).to(tl.int64)
    a += n * a_n
    b += n * b_n
    sums += (n * tl.num_programs(0) + tl.program_id(0)) * C
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    w = tl.load(weight + n * P + place, mask=place < P, other=0.0)[None, :]
    for start in range(0, C, CHANNELS):
        c, p, there = _here(C, P, start, CHANNELS, PLACES)
        apart = _features(a, a_c, a_p, c, p, there) - _features(b, b_c, b_p, c, p, there)
        channel = start + tl.arange(0, CHANNELS)
        tl.store(sums + channel, tl.sum(apart * apart * w, 1), mask=channel < C)


@triton.jit
def _gradients_kernel(
    a, b, C, P, a_n, a_c, a_p, b_n, b_c, b_p, by_difference, channel, by_energy, by_sums,
    for_a, for_a_n, for_a_c, for_a_p, for_b, for_b_n, for_b_c, for_b_p,
    CHANNEL: tl.constexpr, ENERGY: tl.constexpr, FOR_A: tl.constexpr, FOR_B: tl.constexpr,
    CHANNELS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a and b, see `damlpips.ops.blockwise.gradients` and `Gradients` there."""
    n = tl.program_id(1).to(tl.int64)
    a += n * a_n
    b += n * b_n
    for_a += n * for_a_n
    for_b += n * for_b_n
    by_sums += n * 4 * C
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    difference = 2.0 * tl.load(by_difference + n * P + place, mask=place < P, other=0.0)[None, :]
    energy = tl.zeros((1, PLACES), tl.float32)
    if ENERGY:
        energy += tl.load(by_energy + n * P + place, mask=place < P, other=0.0)[None, :]
    for start in range(0, C, CHANNELS):
        c, p, there = _here(C, P, start, CHANNELS, PLACES)
        x = _features(a, a_c, a_p, c, p, there)
        y = _features(b, b_c, b_p, c, p, there)
        apart = (x - y) * difference
        apart = _weighted(apart, channel + n * C, c, C, CHANNEL)
        if FOR_A:
            by_sum = tl.load(by_sums + c, mask=c < C, other=0.0)
            square = tl.load(by_sums + 2 * C + c, mask=c < C, other=0.0)
            _put(for_a, for_a_c, for_a_p, c, p, there, by_sum + x * (energy + square) + apart)
        if FOR_B:
            by_sum = tl.load(by_sums + C + c, mask=c < C, other=0.0)
            square = tl.load(by_sums + 3 * C + c, mask=c < C, other=0.0)
            _put(for_b, for_b_c, for_b_p, c, p, there, by_sum + y * (energy + square) - apart)


def _summed(a: Tensor, b: Tensor) -> tuple[_Launch, tuple[Tensor, Tensor], Tensor]:
    """Return the sums of squares at each place, (N, 1, H, W) for each, and the sums of each channel, (N, 4, C)."""
    launch = _Launch(a, b)
    energies = launch.map(), launch.map()
    sums = launch.new(len(a), launch.blocks, 4, a.shape[1])
    launch(_statistics_kernel, *energies, sums)
    return launch, energies, sums.sum(1)


def statistics(a: Tensor, b: Tensor) -> tuple[Statistics, Statistics]:
    """Return `distance.statistics` of both."""
    _, energies, sums = _summed(a, b)
    mean_a, mean_b, power_a, power_b = (sums / a[0, 0].numel()).unbind(1)
    return Statistics(energies[0], mean_a, power_a), Statistics(energies[1], mean_b, power_b)


def distances(a: Tensor, b: Tensor, weighing: Adaptive) -> tuple[Tensor, Tensor]:
    """Return the distances in structure and in texture, (N,) each, and no gradients: see `distance.compare`."""
    n, c, h, w = a.shape
    launch, energies, sums = _summed(a, b)
    channel, scales, squares = launch.new(n, c), launch.new(n, 2), launch.new(n, launch.blocks)
    eps = ENERGY_EPS
    launched_unfused(
        *(_weights_kernel, (n,), a.device),
        *(sums, channel, scales, c, h * w, weighing.gamma, CHANNEL_FLOOR, eps, SPREAD_FLOOR),
        CHANNELS=triton.next_power_of_2(c),
    )
    launch(_squares_kernel, *energies, channel, scales, weighing.rho, eps, squares)
    return root_of_mean(squares, h * w), scales[:, 1]


def differences(a: Tensor, b: Tensor, channel: Tensor | None) -> Tensor:
    """Return sum_c g_c (a_c - b_c)^2 at each place, (N, 1, H, W), with the weights g of `channel` (N, C) or 1."""
    launch = _Launch(a, b)
    found = launch.map()
    launch(
        _differences_kernel,
        *(found if channel is None else channel.contiguous(), found),
        CHANNEL=channel is not None,
    )
    return found


def channel_differences(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Return sum_p w_p (a_cp - b_cp)^2 of each channel, (N, C)."""
    launch = _Launch(a, b)
    sums = launch.new(len(a), launch.blocks, a.shape[1])
    launch(_channel_differences_kernel, weight.contiguous(), sums)
    return sums.sum(1)


def gradients(a: Tensor, b: Tensor, by: Gradients, needed: Sequence[bool]) -> list[Tensor]:
    """Return the gradients with respect to a and b, those that are needed, see `damlpips.ops.blockwise.gradients`."""
    launch = _Launch(a, b)
    found, targets, wanted = _targets(a, b, needed)
    difference = by.difference.contiguous()
    # any pointer will do where the kernel reads nothing
    channel = difference if by.channel is None else by.channel.contiguous()
    energy = difference if by.energy is None else by.energy.contiguous()
    launch(
        _gradients_kernel,
        *(difference, channel, energy, by.sums.contiguous(), *targets),
        CHANNEL=by.channel is not None,
        ENERGY=by.energy is not None,
        **wanted,
    )
    return found
