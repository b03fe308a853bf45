"""Time and memory of the heads of a layer beside the plain functions, in one process, interleaved.

    python benchmarks/heads.py [--device cpu] [--dtype float32] [--repeats 9] [--batch 4]

Prints a Markdown table: medians in milliseconds, and what a graph keeps in units of the two feature maps. On a CUDA
device `heads` are Triton's kernels, and `no kernels` are the heads without them.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from damlpips.ops import distance, fused

# (C, H, W) at 256 x 256, and how backbones lay them out
LAYERS = {
    "image": (3, 256, 256, torch.contiguous_format),
    "nano 1": (32, 64, 64, torch.channels_last),
    "nano 4": (160, 8, 8, torch.channels_last),
    "alex 1": (64, 63, 63, torch.contiguous_format),
    "vgg 1": (64, 256, 256, torch.contiguous_format),
    "vgg 5": (512, 16, 16, torch.contiguous_format),
}
WEIGHING = distance.Adaptive(rho=0.25, gamma=0.5)
Head = Callable[[Tensor, Tensor], Tensor]


def plain_lpips(a: Tensor, b: Tensor) -> Tensor:
    return distance.pool(distance.lpips_map(a, b, torch.ones(a.shape[1], device=a.device))).sum()


def lpips(a: Tensor, b: Tensor) -> Tensor:
    return fused.lpips_distance(a, b, torch.ones(a.shape[1], device=a.device)).sum()


def plain_damlpips(a: Tensor, b: Tensor) -> Tensor:
    compared = distance.compare(a, b, WEIGHING)
    return (compared.structure + compared.texture).sum()


def damlpips(a: Tensor, b: Tensor) -> Tensor:
    return sum(fused.damlpips_distances(a, b, WEIGHING)).sum()


def without_kernels(head: Head) -> Head:
    def run(a: Tensor, b: Tensor) -> Tensor:
        with mock.patch.dict(os.environ, {fused.SWITCH: "off"}):
            return head(a, b)

    return run


def score(head: Head, a: Tensor, b: Tensor) -> None:
    with torch.no_grad():
        head(a, b)


def gradient(head: Head, a: Tensor, b: Tensor) -> None:
    """One of the two images is optimised, as where the score is a loss."""
    a = a.detach().requires_grad_()
    torch.autograd.grad(head(a, b), a)


def kept(head: Head, a: Tensor, b: Tensor) -> float:
    """Return the memory that a graph keeps, in units of both feature maps."""
    storages: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        loss = head(a.detach().requires_grad_(), b)
    assert loss.requires_grad
    return sum(storages.values()) / (a.nbytes + b.nbytes)


def medians(calls: list[Callable[[], None]], repeats: int, device: str) -> list[float]:
    """Return the median time of each call in milliseconds."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, spent in zip(calls, times, strict=True):
            if device != "cpu":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            if repeat > 0:  # the first compiles and fills caches
                spent.append(1e3 * (time.perf_counter() - begin))
    return [statistics.median(spent) for spent in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    on_cuda = options.device != "cpu"
    kinds = ["plain", "heads", *(["no kernels"] if on_cuda else [])]
    print(f"{options.batch} pairs, {options.device}, {torch.get_num_threads()} threads, {options.dtype}\n")
    print(f"| layer | head | what | {' | '.join(kinds)} |\n|---|---|---|{'---|' * len(kinds)}")
    for name, (c, h, w, layout) in LAYERS.items():
        a, b = (
            torch.randn(options.batch, c, h, w, device=options.device)
            .relu()
            .to(getattr(torch, options.dtype), memory_format=layout)
            for _ in range(2)
        )
        for title, plain, head in (("LPIPS", plain_lpips, lpips), ("DAMLPIPS", plain_damlpips, damlpips)):
            columns = [plain, head, *([without_kernels(head)] if on_cuda else [])]
            for step in (score, gradient):
                calls = [lambda f=f, s=step, a=a, b=b: s(f, a, b) for f in columns]
                found = " | ".join(f"{t:.2f} ms" for t in medians(calls, options.repeats, options.device))
                print(f"| {name} | {title} | {step.__name__} | {found} |", flush=True)
            print(f"| {name} | {title} | kept | {' | '.join(f'{kept(f, a, b):.2f}' for f in columns)} |", flush=True)


if __name__ == "__main__":
    main()
