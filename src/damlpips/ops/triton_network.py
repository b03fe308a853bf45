"""Steps of a network in half precision as Triton kernels, where cuDNN's or PyTorch's own take several times as long.

Imported only for a CUDA device, as `damlpips.ops.triton_kernels`. They are a network's first convolution, which has
only three channels to multiply with, together with everything before it, and pooling. Maps are channels last. Products
are taken in half precision and added in float32. No sum is atomic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn import functional as F

from damlpips.ops.triton_kernels import launched

COLOURS = 3
# Places of an output map, and products, that a program works on at a time.
ROWS, PRODUCTS = 128, 32
# `tl.dot` takes no fewer rows and columns.
LEAST_ROWS, LEAST_COLUMNS = 16, 16
# CUDA's limit for the second and the third dimension of a grid
MOST_ROWS = 2**16 - 1
# Values of a map that a program pools.
POOLED = 2048
# Places have 32 bits.
MOST = 2**31 - ROWS


def empty_map(shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised map, channels last."""
    return torch.empty(tuple(shape), dtype=dtype, device=like.device, memory_format=torch.channels_last)


# --- the first convolution ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class First:
    """A network's first convolution, from three colours, laid out for the kernels.

    Attributes:
        weight: (C, 3, size, size).
        bias: (C,), float32.
        forward: (products, C): a row for each colour and place of the window, filled up with zeros.
        backward: (windows^2 C, stride^2 colours), filled up with zeros: see `first_gradient`.
        size, stride: of the window, in pixels.
        padding: zeros on the left and above, and on the right and below, in pixels.
        windows: how many windows reach a pixel, at most, in each direction.
    """

    weight: Tensor
    bias: Tensor
    forward: Tensor
    backward: Tensor
    size: int
    stride: int
    padding: tuple[int, int]
    windows: int

    @classmethod
    def of(cls, convolution: nn.Conv2d, padding: tuple[int, int] | None = None) -> "First":
        """Lay out a square convolution with a bias."""
        weight, bias = convolution.weight.detach(), convolution.bias
        if bias is None:
            raise ValueError("expected a convolution with a bias")
        channels, _, size, _ = weight.shape
        stride = int(convolution.stride[0])
        windows = -(-size // stride)
        rows = COLOURS * size * size
        forward = weight.new_zeros(-(-rows // PRODUCTS) * PRODUCTS, channels)
        forward[:rows] = weight.permute(1, 2, 3, 0).reshape(rows, channels)
        # window (ty, tx) sees pixel (py, px) of a cell at its place (ty stride + py, tx stride + px)
        wide = weight.new_zeros(channels, COLOURS, windows * stride, windows * stride)
        wide[:, :, :size, :size] = weight
        wide = wide.reshape(channels, COLOURS, windows, stride, windows, stride).permute(2, 4, 0, 1, 3, 5)
        columns = COLOURS * stride * stride
        backward = weight.new_zeros(windows * windows * channels, _columns(columns))
        backward[:, :columns] = wide.reshape(-1, columns)
        padding = (int(convolution.padding[0]),) * 2 if padding is None else padding
        return cls(weight, bias.detach().float(), forward, backward, size, stride, padding, windows)

    def out_size(self, images: Tensor) -> tuple[int, int]:
        """Return the height and width of the result."""
        height, width = ((side + sum(self.padding) - self.size) // self.stride + 1 for side in images.shape[2:])
        return height, width

    def plain(self, images: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
        """Return what `first` does, by PyTorch's own operations."""
        scaled = torch.addcmul(shift[:, None, None], images.float(), factor[:, None, None]).to(self.weight.dtype)
        before, after = self.padding
        padded = F.pad(scaled, (before, after, before, after))
        return F.conv2d(padded, self.weight, self.bias.to(self.weight.dtype), self.stride).relu()


def _columns(count: int) -> int:
    return max(LEAST_COLUMNS, triton.next_power_of_2(count))


@triton.jit
def _first_kernel(
    images, x_n, x_c, x_h, x_w, H, W, factor, shift, weight, bias, out, OH, OW,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, ALL: tl.constexpr, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Write max(0, W (factor image + shift) + bias) at some neighbouring places of a row of the output."""
    n = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1)
    column = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    images += n * x_n
    top = row * STRIDE - PADDING
    left = column * STRIDE - PADDING
    channel = tl.arange(0, CHANNELS)
    found = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in tl.static_range(0, ALL, PRODUCTS):
        # a row of the tile is a place: the other way round, storing it for the product takes longer than loading it
        k = start + tl.arange(0, PRODUCTS)
        c = k // (SIZE * SIZE)
        y = top + k // SIZE % SIZE
        real = k < 3 * SIZE * SIZE
        # as unsigned numbers, places before the first are beyond the last
        inside = real & (y.to(tl.uint32) < tl.cast(H, tl.uint32))
        x = left[:, None] + (k % SIZE)[None, :]
        there = inside[None, :] & (x.to(tl.uint32) < tl.cast(W, tl.uint32))
        values = tl.load(images + (c * x_c + y * x_h)[None, :] + x * x_w, mask=there, other=0).to(tl.float32)
        scaled = values * tl.load(factor + c, mask=real, other=0.0)[None, :]
        scaled += tl.load(shift + c, mask=real, other=0.0)[None, :]
        # outside of the image there are zeros, not pixels
        scaled = tl.where(there, scaled, 0.0)
        part = tl.load(weight + k[:, None] * CHANNELS + channel[None, :])
        found = tl.dot(scaled.to(weight.dtype.element_ty), part, found)
    found += tl.load(bias + channel)[None, :]
    found = tl.maximum(found, 0.0, propagate_nan=tl.PropagateNan.ALL)
    out += (n * OH + row) * OW * CHANNELS
    place = out + column[:, None] * CHANNELS + channel[None, :]
    tl.store(place, found.to(out.dtype.element_ty), mask=(column < OW)[:, None])


def first(batches: Sequence[Tensor], factor: Tensor, shift: Tensor, layer: First) -> Tensor:
    """Return relu(conv(factor image + shift) + bias) of all images of some batches, channels last.

    Args:
        batches: (N, 3, H, W) each, of one size, of any type and layout.
        factor, shift: of each colour, (3,), float32.
    """
    size = layer.out_size(batches[0])
    count = sum(len(images) for images in batches)
    channels = layer.forward.shape[1]
    out = empty_map((count, channels, *size), batches[0], layer.forward.dtype)
    rows = max(LEAST_ROWS, min(ROWS, triton.next_power_of_2(size[1])))
    begin = 0
    for images in batches:
        part = out[begin : begin + len(images)]
        begin += len(images)
        launched(
            _first_kernel,
            (triton.cdiv(size[1], rows), size[0], len(images)),
            out.device,
            *(images, *images.stride(), *images.shape[2:], factor, shift, layer.forward, layer.bias, part, *size),
            SIZE=layer.size,
            STRIDE=layer.stride,
            PADDING=layer.padding[0],
            ALL=len(layer.forward),
            CHANNELS=channels,
            ROWS=rows,
            PRODUCTS=PRODUCTS,
        )
    return out


@triton.jit
def _first_gradient_kernel(
    gradient, out, weight, factor, target, t_n, t_c, t_h, t_w, H, W, OH, OW, CH, CW, M,
    STRIDE: tl.constexpr, PADDING: tl.constexpr, WINDOWS: tl.constexpr, CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the pixels of some cells: each cell is `STRIDE` pixels wide and high."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = (m // (CH * CW)).to(tl.int64)
    row = (m // CW) % CH
    column = m % CW
    channel = tl.arange(0, CHANNELS)
    k = tl.arange(0, COLUMNS)
    found = tl.zeros((ROWS, COLUMNS), tl.float32)
    for window in tl.static_range(0, WINDOWS * WINDOWS):
        y = row - window // WINDOWS
        x = column - window % WINDOWS
        there = (m < M) & (y >= 0) & (y < OH) & (x >= 0) & (x < OW)
        place = ((n * OH + y) * OW + x)[:, None] * CHANNELS + channel[None, :]
        values = tl.load(gradient + place, mask=there[:, None], other=0.0)
        passed = tl.load(out + place, mask=there[:, None], other=0.0) > 0
        values = tl.where(passed, values, 0.0).to(weight.dtype.element_ty)
        part = tl.load(weight + (window * CHANNELS + channel)[:, None] * COLUMNS + k[None, :])
        found = tl.dot(values, part, found)
    c = k // (STRIDE * STRIDE)
    real = c < 3
    y = row[:, None] * STRIDE + (k // STRIDE % STRIDE)[None, :] - PADDING
    x = column[:, None] * STRIDE + (k % STRIDE)[None, :] - PADDING
    there = (m < M)[:, None] & real[None, :] & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    found *= tl.load(factor + c, mask=real, other=0.0)[None, :]
    place = target + n[:, None] * t_n + c[None, :] * t_c + y * t_h + x * t_w
    tl.store(place, found.to(target.dtype.element_ty), mask=there)


def first_gradient(gradient: Tensor, out: Tensor, images: Tensor, factor: Tensor, layer: First) -> Tensor:
    """Return the gradient of the images (N, 3, H, W), from that of what `first` made of them, `out`.

    With the stride S and the padding P, pixel (cy S + py - P, cx S + px - P) of the cell (cy, cx) gets from the windows
    (cy - ty, cx - tx), for each t up to `windows`, what they multiply it with: weight (ty S + py, tx S + px).
    """
    n, channels, *size = out.shape
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    target = torch.empty_like(images)
    cells = [-(-(side + layer.padding[0]) // layer.stride) for side in images.shape[2:]]
    count = n * cells[0] * cells[1]
    launched(
        _first_gradient_kernel,
        (triton.cdiv(count, ROWS),),
        out.device,
        *(gradient, out, layer.backward, factor, target, *target.stride(), *images.shape[2:], *size, *cells, count),
        STRIDE=layer.stride,
        PADDING=layer.padding[0],
        WINDOWS=layer.windows,
        CHANNELS=channels,
        COLUMNS=layer.backward.shape[1],
        ROWS=ROWS,
    )
    return target


# --- pooling --------------------------------------------------------------------------------------------------------


@triton.jit
def _pool_kernel(
    maps, out, index, C, H, W, OH, OW, M,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, INDEX: tl.constexpr, PLACES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the highest value of each window, and where in the window it is."""
    m = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    n = (m // (OH * OW)).to(tl.int64)
    top = (m // OW) % OH * STRIDE
    left = m % OW * STRIDE
    c = tl.arange(0, CHANNELS)[None, :]
    highest = tl.full((PLACES, CHANNELS), float("-inf"), tl.float32)
    at = tl.zeros((PLACES, CHANNELS), tl.uint8)
    for window in tl.static_range(0, SIZE * SIZE):
        y = top + window // SIZE
        x = left + window % SIZE
        there = ((m < M) & (y < H) & (x < W))[:, None] & (c < C)
        value = tl.load(maps + ((n * H + y) * W + x)[:, None] * C + c, mask=there, other=float("-inf")).to(tl.float32)
        if INDEX:
            at = tl.where((value > highest) | (value != value), window, at).to(tl.uint8)
        highest = tl.maximum(highest, value, propagate_nan=tl.PropagateNan.ALL)
    place = m.to(tl.int64)[:, None] * C + c
    there = (m < M)[:, None] & (c < C)
    tl.store(out + place, highest.to(out.dtype.element_ty), mask=there)
    if INDEX:
        tl.store(index + place, at, mask=there)


def _for_each_value(kernel: Any, of: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel that writes a map, some places with all their channels at a time."""
    n, c, h, w = of.shape
    wide = triton.next_power_of_2(c)
    places = max(1, POOLED // wide)
    grid = (triton.cdiv(n * h * w, places),)
    launched(kernel, grid, of.device, *arguments, n * h * w, CHANNELS=wide, PLACES=places, **constants)


def max_pool(maps: Tensor, size: int, stride: int, out_size: tuple[int, int], index: bool) -> tuple[Tensor, Tensor]:
    """Return the highest value of each window, and with `index` its place in the window, for `max_pool_gradient`.

    Args:
        maps: (N, C, H, W), channels last.
        out_size: of the result; the last windows may reach beyond the map.
    """
    n, c, h, w = maps.shape
    maps = maps.contiguous(memory_format=torch.channels_last)
    out = empty_map((n, c, *out_size), maps, maps.dtype)
    at = empty_map(out.shape, maps, torch.uint8) if index else out
    _for_each_value(_pool_kernel, out, maps, out, at, c, h, w, *out_size, SIZE=size, STRIDE=stride, INDEX=index)
    return out, at


@triton.jit
def _pool_gradient_kernel(
    gradient, index, target, C, H, W, OH, OW, M,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, WINDOWS: tl.constexpr, PLACES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write, for each value of a map, the gradients of the windows whose highest value it is."""
    m = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    n = (m // (H * W)).to(tl.int64)
    row = (m // W) % H
    column = m % W
    c = tl.arange(0, CHANNELS)[None, :]
    found = tl.zeros((PLACES, CHANNELS), tl.float32)
    for window in tl.static_range(0, WINDOWS * WINDOWS):
        y = row // STRIDE - window // WINDOWS
        x = column // STRIDE - window % WINDOWS
        within = (row - y * STRIDE) * SIZE + column - x * STRIDE
        inside = (m < M) & (y >= 0) & (y < OH) & (x >= 0) & (x < OW)
        inside = inside & (row - y * STRIDE < SIZE) & (column - x * STRIDE < SIZE)
        there = inside[:, None] & (c < C)
        place = ((n * OH + y) * OW + x)[:, None] * C + c
        mine = tl.load(index + place, mask=there, other=255).to(tl.int32) == within[:, None]
        found += tl.load(gradient + place, mask=there & mine, other=0.0).to(tl.float32)
    place = m.to(tl.int64)[:, None] * C + c
    tl.store(target + place, found.to(target.dtype.element_ty), mask=(m < M)[:, None] & (c < C))


def max_pool_gradient(gradient: Tensor, index: Tensor, size: int, stride: int, in_size: tuple[int, int]) -> Tensor:
    """Return the gradient of what `max_pool` was given, from that of what it returned and from its `index`."""
    n, c, h, w = gradient.shape
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    target = empty_map((n, c, *in_size), gradient, gradient.dtype)
    arguments = (gradient, index, target, c, *in_size, h, w)
    windows = -(-size // stride)
    _for_each_value(_pool_gradient_kernel, target, *arguments, SIZE=size, STRIDE=stride, WINDOWS=windows)
    return target
