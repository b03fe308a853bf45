"""Time of references that come again: ratios of medians, interleaved in one process.

    python benchmarks/references.py [--backbones NAME ...] [--repeats 9] [--size 256] [--batch 4] [--batches 4]

Prints a Markdown table: an epoch whose references have keys and came before against the same epoch without keys; one
encoded reference against a batch that repeats it; the matrix of all pairs against a loop over rows. Above 1 is faster.
Networks other than nano have random weights, which cost the same as trained ones; no file is needed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bench.networks import random_weights

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, LPIPSMetric
from damlpips.functional import pairwise
from damlpips.models.base import PerceptualDistance

NETWORKS = ("nano", "alex", "squeeze")

Calls = tuple[Callable[[], object], Callable[[], object]]


def medians(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median of each call's seconds; they take turns, so that what slows the machine down slows all."""
    times: list[list[float]] = [[] for _ in calls]
    for round_ in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if round_:  # the first is a warm-up
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def epochs(metric: type, options: dict, x: torch.Tensor, y: torch.Tensor, batch: int) -> Calls:
    """An epoch of a metric without keys, and one with keys whose references came before."""
    plain, keyed = metric(**options), metric(**options)

    def epoch(metric: LPIPSMetric | DAMLPIPSMetric, *, with_keys: bool) -> None:
        metric.reset()
        for rows in torch.arange(len(x)).split(batch):
            metric.update(x[rows], y[rows], reference_key=rows if with_keys else None)
        metric.compute()

    def second() -> None:
        misses = keyed.model.references.misses
        epoch(keyed, with_keys=True)
        if keyed.model.references.misses > misses:
            raise RuntimeError(f"expected all references to fit the cache: {keyed.model.references}")

    epoch(keyed, with_keys=True)
    return lambda: epoch(plain, with_keys=False), second


def one_to_many(module: PerceptualDistance, x: torch.Tensor, reference: torch.Tensor) -> Calls:
    """A batch that repeats the reference, and the reference encoded once, in the same call."""
    return lambda: module(x, reference.expand(len(x), -1, -1, -1)), lambda: module(x, module.encode(reference))


def all_pairs(module: PerceptualDistance, x: torch.Tensor) -> Calls:
    """A loop over rows, batched as well as it can be, and the matrix."""

    def loop() -> torch.Tensor:
        return torch.stack([module(row.expand(len(x), -1, -1, -1), x) for row in x.split(1)])

    return loop, lambda: pairwise(x, metric=module)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=("nano", "alex", "squeeze", "vgg"), default=NETWORKS)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--batches", type=int, default=4, help="of an epoch; all pairs of --batch + --batches images")
    options = parser.parse_args()
    torch.manual_seed(0)
    x, y = torch.rand(2, options.batch * options.batches, 3, options.size, options.size)
    some = x[: options.batch + options.batches]
    print(f"images of {options.size} x {options.size}, batches of {options.batch}, {torch.get_num_threads()} threads\n")
    print("| metric | second epoch, keys / none | one reference, encoded / repeated | all pairs, matrix / loop |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for net in options.backbones:
            weights = {} if net == "nano" else {"weights": random_weights(net, Path(folder))}
            heads = {"heads": "uniform"} if net == "nano" else {}
            for module, metric, chosen in (
                (LPIPS, LPIPSMetric, {"backbone": net, **weights, **heads}),
                (DAMLPIPS, DAMLPIPSMetric, {"backbone": net, **weights}),
            ):
                model = module(**chosen)
                ratios = []
                for calls in (
                    epochs(metric, chosen, x, y, options.batch),
                    one_to_many(model, x[: options.batch], y[:1]),
                    all_pairs(model, some),
                ):
                    without, once = medians(list(calls), options.repeats)
                    ratios.append(f"{without / once:.2f}")
                print(f"| {module.__name__} {net} | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
