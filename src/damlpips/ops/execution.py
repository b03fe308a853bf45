"""How a computation is carried out: in blocks that fit a CPU's caches, or with every sum in one fixed order."""

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

# Values per thread in a block: 1 MiB in float32, so that a core's caches hold two or three such blocks, and working on
# one takes much longer than calling the functions that do it.
BLOCK = 1 << 18

# Images, channels and rows of feature maps (N, C, H, W).
Block = tuple[slice, slice, slice]

WHOLE: Block = (slice(None), slice(None), slice(None))


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type for what half precision would round away: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def blocks(a: Tensor) -> Iterator[Block]:
    """Yield the blocks of maps (N, C, H, W): whole images, or rows of one image; off the CPU a single block of all."""
    n, c, h, w = a.shape
    most = BLOCK * torch.get_num_threads()
    if not on_cpu(a) or a.numel() <= most:
        yield WHOLE
    elif images_of(a) > 0:
        yield from ((part, slice(None), slice(None)) for part in batches(a, images_of(a)))
    else:
        rows = max(1, most // (c * w))
        yield from ((slice(k, k + 1), slice(None), slice(r, r + rows)) for k in range(n) for r in range(0, h, rows))


def images_of(a: Tensor) -> int:
    """Return how many images' maps make a block: 0 if those of one image are larger."""
    return BLOCK * torch.get_num_threads() // a[0].numel()


def batches(a: Sized, count: int) -> Iterator[slice]:
    """Yield slices that cut a batch into parts of `count` images; the last may be shorter."""
    yield from (slice(k, k + count) for k in range(0, len(a), count))


def on_cpu(a: Tensor) -> bool:
    """Return whether a tensor is on the CPU and its operations run now, rather than being followed by something."""
    return a.device.type == "cpu" and not is_followed(a)


def on_cuda(a: Tensor) -> bool:
    """Return whether a tensor is on a CUDA device and its operations run now, as `on_cpu` says of the CPU."""
    return a.device.type == "cuda" and not is_followed(a)


def is_followed(*tensors: Tensor) -> bool:
    """Return whether something follows each operation: a compiler, a tracer, `torch.func` or forward mode."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or any(is_transformed(x) for x in tensors)
        or is_dual(*tensors)
    )


def is_dual(*tensors: Tensor) -> bool:
    """Return whether a tensor carries a tangent, in forward mode."""
    return any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def is_transformed(x: Tensor) -> bool:
    """Return whether a tensor is inside a transform of `torch.func`, such as `vmap`."""
    try:  # the wrapper that stands for it there has no memory of its own
        x.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return True
    return False


def recomputed(run: Callable[..., T], tensors: Sequence[Tensor]) -> T:
    """Return what `run` makes of tensors; for their gradients it is run again, so that a graph keeps only them.

    Within `torch.func`, which has no such thing, the graph keeps everything.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors) and not any(map(is_transformed, tensors)):
        found: T = checkpoint(run, *tensors, use_reentrant=False, preserve_rng_state=False)
        return found
    return run(*tensors)


def gradients_with_graph(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    gradients: Sequence[Tensor],
    needed: Sequence[bool] = (True,),
) -> Sequence[Tensor]:
    """Return gradients of the inputs that need one, which can be differentiated again."""
    with torch.enable_grad():
        # views: where one input was computed from another, its gradient must not include the path through that
        views = [x.view_as(x) for x in inputs]
        wanted = [x for x, want in zip(views, needed, strict=True) if want]
        return torch.autograd.grad(function(*views), wanted, gradients, create_graph=True)


def in_place_of(found: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients in the places of the inputs that need one, and None in the others."""
    left = iter(found)
    return [next(left) if want else None for want in needed]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute without autocast."""
    if not torch.amp.is_autocast_available(device.type):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def deterministic_sums(device: torch.device) -> Iterator[None]:
    """Compute every sum in one fixed order: with one thread on the CPU, with cuDNN's deterministic kernels on CUDA.

    Otherwise the order depends on how a sum is split among threads, and on the kernel that cuDNN's benchmark picks,
    which depends on what else is running. Both settings are restored afterwards; the number of threads is set for the
    calling thread alone.
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
