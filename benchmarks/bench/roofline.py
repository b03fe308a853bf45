"""How close a score comes to what the machine can do: pairs a second, and the share of the roofline.

    python -m benchmarks.bench.roofline [--backbones NAME ...] [--device cpu|cuda] [--dtype float32|bfloat16|float16]
        [--size 256] [--batch N] [--budget 10]

Counted are the operations of all convolutions, two a product, and the bytes that convolutions and poolings have to read
and write, weights too, as if all between them were joined to them, and each feature map once more for the comparison.
The roofline (S. Williams, A. Waterman, D. Patterson, CACM 52(4), 2009) is the time that a machine takes at the least:
operations by its rate in a product of two large matrices or in a wide convolution, the faster of the two (not every
library of products is at home on every processor), or bytes by its rate in a large copy, whichever takes longer. The
rates are measured in every round beside the scores; the share is the least time by the time taken, its median over
rounds. Weights are random, which cost the same.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from damlpips.models.base import PerceptualDistance
from damlpips.ops.fused import SWITCH

from .contenders import Place
from .harness import Spread, clock_of, images, interleaved
from .lineup import ours

BACKBONES = ("alex", "squeeze", "vgg", "nano")
METRICS = ("LPIPS", "DAMLPIPS")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# as many as a GPU is busy with, and as a CPU's caches hold
PAIRS = {"cpu": 8, "cuda": 64}
# of the square matrices; of the convolution's images, 256 channels of 64 x 64; of the copy
SIDE = {"cpu": 2048, "cuda": 8192}
WIDE_IMAGES = {"cpu": 4, "cuda": 128}
WIDE, WIDE_CHANNELS = 64, 256
COPIED = {"cpu": 64 << 20, "cuda": 1 << 30}
MOVERS = {torch.ops.aten.convolution, torch.ops.aten.max_pool2d_with_indices}
PRODUCT, CONVOLUTION, COPY = "product", "convolution", "copy"
COLUMNS = ("metric", "backbone", "pairs / s", "GFLOP a pair", "MB a pair", "FLOP a byte", "bound by", "share")


class Work(NamedTuple):
    """What a pair of images costs at the least: floating-point operations, and bytes to be moved."""

    operations: float
    bytes: float

    def least_seconds(self, rates: "Work") -> float:
        return max(self.operations / rates.operations, self.bytes / rates.bytes)

    def bound(self, rates: "Work") -> str:
        return "arithmetic" if self.operations / rates.operations > self.bytes / rates.bytes else "memory"


class _Moved(TorchDispatchMode):
    """Count the bytes that convolutions and poolings read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in MOVERS:
            # a pooling's indices are not used here
            first = out[0] if isinstance(out, tuple) else out
            self.bytes += sum(_size(t) for t in (*args[:3], first) if isinstance(t, Tensor))
        return out


def _size(t: Tensor) -> int:
    return t.numel() * t.element_size()


def work_of(model: PerceptualDistance, x: Tensor) -> Work:
    """Return the work of a pair, counted on one image."""
    moved, operations = _Moved(), FlopCounterMode(display=False)
    # kernels that the counters do not know do the same work
    with mock.patch.dict(os.environ, {SWITCH: "off"}), torch.no_grad(), operations, moved:
        encoded = model.encode(x[:1])
    return Work(2.0 * operations.get_total_flops(), 2.0 * (moved.bytes + sum(map(_size, encoded.features))))


def peaks(device: torch.device, dtype: torch.dtype) -> dict[str, tuple[Callable[[], object], float]]:
    """Return calls that measure the machine's rates, and their operations, of the copy its bytes."""
    side, copied, n = (table[device.type] for table in (SIDE, COPIED, WIDE_IMAGES))
    a, b = torch.rand(2, side, side, device=device).to(dtype)
    kernel = torch.rand(WIDE_CHANNELS, WIDE_CHANNELS, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    maps = torch.rand(n, WIDE_CHANNELS, WIDE, WIDE, device=device).to(dtype, memory_format=torch.channels_last)
    source, target = torch.empty(2, copied, dtype=torch.uint8, device=device)
    return {
        PRODUCT: (lambda: a @ b, 2.0 * side**3),
        CONVOLUTION: (lambda: torch.conv2d(maps, kernel, padding=1), 2.0 * maps.numel() * kernel[0].numel()),
        COPY: (lambda: target.copy_(source), 2.0 * copied),
    }


def rates_of(measured: dict[str, tuple[Callable[[], object], float]], seconds: dict[str, list[float]]) -> list[Work]:
    """Return the machine's rates in each round."""
    each = {name: [amount / taken for taken in seconds[name]] for name, (_, amount) in measured.items()}
    return [
        Work(max(product, convolution), copy)
        for product, convolution, copy in zip(each[PRODUCT], each[CONVOLUTION], each[COPY], strict=True)
    ]


def rows(options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Measure, and return the table's rows."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    pairs = options.batch or PAIRS[device.type]
    x, y = images(pairs, options.size, device)
    found = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for backbone in options.backbones:
            models = {c.name: c.call for c in ours(backbone, Path(folder), Place(device, dtype)) if c.name in METRICS}
            measured = peaks(device, dtype)
            calls = {name: call for name, (call, _) in measured.items()}
            scored = {name: lambda model=model: model(x, y) for name, model in models.items()}
            for call in (*calls.values(), *scored.values()):
                call()  # kernels are chosen, and compiled
            seconds = interleaved({**calls, **scored}, clock_of(device), budget=options.budget)
            rates = rates_of(measured, seconds)
            for name, model in models.items():
                work = work_of(model, x)
                each = [taken / pairs for taken in seconds[name]]
                share = Spread.of(work.least_seconds(r) / s for r, s in zip(rates, each, strict=True))
                found.append(row(name, backbone, work, Spread.of(each), share, rates[0]))
            middle = Work(*(Spread.of(values).median for values in zip(*rates, strict=True)))
            print(f"{backbone}: {middle.operations / 1e9:.0f} GFLOP/s, {middle.bytes / 1e9:.1f} GB/s", flush=True)
    return found


def row(name: str, backbone: str, work: Work, each: Spread, share: Spread, rates: Work) -> tuple[str, ...]:
    return (
        *(name, backbone, f"{1 / each.median:.1f}", f"{work.operations / 1e9:.2f}", f"{work.bytes / 1e6:.1f}"),
        *(f"{work.operations / work.bytes:.0f}", work.bound(rates)),
        f"{share.median:.2f} ({share.low:.2f} to {share.high:.2f})",
    )


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--device", choices=PAIRS, default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, help="pairs; default: 8 on a CPU, 64 on CUDA")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of timed calls a backbone")
    options = parser.parse_args(given)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: no CUDA device is available here")
    found = rows(options)
    print(f"\n{options.device}, {options.dtype}, {options.size} x {options.size}\n")
    for line in (COLUMNS, ("---",) * len(COLUMNS), *found):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
