"""How far a score moves with batch and threads, with and without `deterministic=True`, and what that option costs.

    python benchmarks/determinism.py [--repeats 5] [--size 256] [--batch 8]

Prints a Markdown table. Random weights; for each metric the largest relative difference between the scores of one image
over batches of 1, 2, 4 and `--batch` and 1, 2 and 4 threads, and the time of a batch in that mode in times of the plain
one, with 2 threads.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from bench.contenders import FORWARD
from bench.harness import interleaved, ratio, run, wall_clock
from bench.networks import random_weights

from damlpips import DAMLPIPS, LPIPS

METRICS: dict[str, Callable] = {
    "LPIPS alex": lambda file, **options: LPIPS("alex", weights=file("alex"), **options),
    "LPIPS squeeze": lambda file, **options: LPIPS("squeeze", weights=file("squeeze"), **options),
    "LPIPS vgg": lambda file, **options: LPIPS("vgg", weights=file("vgg"), **options),
    "DAMLPIPS alex": lambda file, **options: DAMLPIPS("alex", weights=file("alex"), **options),
    "DAMLPIPS nano": lambda file, **options: DAMLPIPS(**options),
}


@torch.no_grad()
def spread(metric: Callable, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the largest relative difference between scores of one image."""
    scores = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        scores += [
            torch.cat([metric(a, b) for a, b in zip(x.split(n), y.split(n), strict=True)]) for n in (1, 2, 4, len(x))
        ]
    lowest, highest = torch.stack(scores).double().aminmax(dim=0)
    return float(((highest - lowest) / lowest).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.rand(options.batch, 3, options.size, options.size)
    y = (x + 0.2 * torch.rand_like(x)).clamp(0, 1)
    print(f"{options.batch} pairs of {options.size} x {options.size}, float32\n")
    print("| metric | spread | spread, deterministic | time, deterministic |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        file = functools.partial(random_weights, folder=Path(folder))
        for name, make in METRICS.items():
            plain, fixed = make(file), make(file, deterministic=True)
            spreads = [spread(metric, x, y) for metric in (plain, fixed)]
            torch.set_num_threads(2)
            calls = {kind: functools.partial(run, FORWARD, m, x, y) for kind, m in (("plain", plain), ("fixed", fixed))}
            for call in calls.values():
                call()
            seconds = interleaved(calls, wall_clock, budget=0, least=options.repeats)
            slower = ratio(seconds["fixed"], seconds["plain"]).median
            print(f"| {name} | {spreads[0]:.1e} | {spreads[1]:.1e} | {slower:.2f} |", flush=True)


if __name__ == "__main__":
    main()
