"""How a computation is carried out: in blocks that a CPU cache holds, or with one order of every sum."""

from collections.abc import Iterator, Sized
from contextlib import contextmanager

import torch
from torch import Tensor

# Values of a block for each thread, a mebibyte in float32: a core's caches hold two or three, and a call to a block
# takes longer than the calling.
BLOCK = 1 << 18


Place = tuple[slice, slice, slice]


EVERYWHERE: Place = (slice(None), slice(None), slice(None))


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type for what half precision would round away: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def blocks(a: Tensor) -> Iterator[Place]:
    """Yield where the blocks of maps (N, C, H, W) are: whole images, or rows of one; elsewhere than on a CPU all."""
    n, c, h, w = a.shape
    most = BLOCK * torch.get_num_threads()
    if not on_cpu(a) or a.numel() <= most:
        yield EVERYWHERE
    elif images_of(a) > 0:
        yield from ((part, slice(None), slice(None)) for part in batches(a, images_of(a)))
    else:
        rows = max(1, most // (c * w))
        yield from ((slice(k, k + 1), slice(None), slice(r, r + rows)) for k in range(n) for r in range(0, h, rows))


def images_of(a: Tensor) -> int:
    """Return how many images' maps make a block, 0 if not even one's."""
    return BLOCK * torch.get_num_threads() // a[0].numel()


def batches(a: Sized, count: int) -> Iterator[slice]:
    """Yield where `count` images after the other lie in a batch."""
    yield from (slice(k, k + count) for k in range(0, len(a), count))


def on_cpu(a: Tensor) -> bool:
    """Whether a CPU computes with a tensor now, step by step."""
    return a.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()  # type: ignore[attr-defined]


@contextmanager
def deterministic_sums(device: torch.device) -> Iterator[None]:
    """Run what is inside with one order of every sum: one thread on the CPU, cuDNN's deterministic kernels on CUDA.

    Sums are split among threads, and cuDNN's choice by benchmark depends on what else runs. The number of threads is
    that of the calling thread alone, and comes back afterwards, as do cuDNN's settings.
    """
    if device.type == "cpu":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
    elif device.type == "cuda":
        tf32 = torch.backends.cudnn.allow_tf32
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
            yield
    else:
        yield
