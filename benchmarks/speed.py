"""Time beside the `lpips` package on the same random weights: ratios of medians, interleaved in one process.

    python benchmarks/speed.py [--repeats 9] [--size 256] [--batch 4]

Prints a Markdown table. Random weights cost the same as trained ones; no file is needed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lpips
import torch
from safetensors.torch import save_file

from damlpips import DAMLPIPS, LPIPS
from damlpips.features import BACKBONES


def random_weights(net: str, folder: Path) -> Path:
    """Return a file of seeded random weights, made once."""
    file = folder / f"{net}.safetensors"
    if not file.exists():
        torch.manual_seed(0)
        features = BACKBONES[net].build()
        save_file({f"features.{name}": t.contiguous() for name, t in features.state_dict().items()}, file)
    return file


def original_and_ours(net: str, folder: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    return lpips.LPIPS(net=net, pnet_rand=True, verbose=False), LPIPS(net, weights=random_weights(net, folder))


def forward(model: Callable, x: torch.Tensor, y: torch.Tensor) -> None:
    with torch.no_grad():
        model(x, y)


def training_step(model: Callable, x: torch.Tensor, y: torch.Tensor) -> None:
    x = x.clone().requires_grad_()
    model(x, y).sum().backward()


def medians(calls: list[Callable[[], None]], repeats: int) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(repeats):
        for call, spent in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            spent.append(time.perf_counter() - begin)
    return [statistics.median(spent) for spent in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    x, y = torch.rand(2, options.batch, 3, options.size, options.size)
    print(f"{options.batch} pairs of {options.size} x {options.size}, {torch.get_num_threads()} threads, float32\n")
    print("| backbone | what | lpips / LPIPS | lpips / DAMLPIPS |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for net in ("alex", "squeeze", "vgg"):
            original, ours = original_and_ours(net, Path(folder))
            adaptive = DAMLPIPS(net, weights=Path(folder) / f"{net}.safetensors")
            for step in (forward, training_step):
                calls = [lambda m=m, s=step: s(m, x, y) for m in (original, ours, adaptive)]
                theirs, mine, damlpips = medians(calls, options.repeats)
                print(f"| {net} | {step.__name__} | {theirs / mine:.2f} | {theirs / damlpips:.2f} |", flush=True)
        original, _ = original_and_ours("alex", Path(folder))
        nano = DAMLPIPS()
        for step in (forward, training_step):
            calls = [lambda m=m, s=step: s(m, x, y) for m in (original, nano)]
            theirs, damlpips = medians(calls, options.repeats)
            print(f"| nano (against lpips alex) | {step.__name__} | | {theirs / damlpips:.2f} |", flush=True)


if __name__ == "__main__":
    main()
