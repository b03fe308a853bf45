"""Time and memory of scores of large images, whole and tile by tile.

    python benchmarks/huge.py [--side 1024 2048 4096 8192] [--tile 1024] [--backbone nano alex] [--limit 8] [--gradient]

Prints a Markdown table: a row for each metric, backbone and size; DAMLPIPS looks at the images as they are. Images are
noise in bytes, 6 bytes a pixel for a pair, weights random except nano's; neither changes time or memory. Each row is a
process of its own, whose peak of resident memory is the operating system's figure; "before" is that with torch, the
network and the images in memory. A row that needs more than `--limit` GiB is stopped and says so.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

from damlpips import DAMLPIPS, LPIPS, Backbone
from damlpips.nets.table import BACKBONES

METRICS = ("LPIPS", "DAMLPIPS")
GIB = 1 << 30
# ru_maxrss counts in bytes on macOS, in kibibytes elsewhere
RESIDENT_UNIT = 1 if sys.platform == "darwin" else 1 << 10
# what an allocation that was refused says: torch's on a CPU, Python's, oneDNN's
REFUSED = ("can't allocate memory", "not enough memory", "MemoryError", "could not create a primitive")
COLUMNS = ("metric", "backbone", "image", "tile", "s / megapixel", "peak, GiB", "before, GiB")


def metric_of(name: str, backbone: str, tile: int | None) -> LPIPS | DAMLPIPS:
    """Return a metric whose network needs no file."""
    spec = BACKBONES[backbone]
    network: str | Backbone = backbone
    if backbone != "nano":
        torch.manual_seed(0)
        network = Backbone.from_table(backbone, {spec.prefix + k: v for k, v in spec.build().state_dict().items()})
    if name == "LPIPS":
        return LPIPS(network, heads="uniform", tile=tile)
    return DAMLPIPS(network, viewing_side=None, tile=tile)


def peak() -> float:
    """Return the most resident memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RESIDENT_UNIT / GIB


def measure(name: str, backbone: str, side: int, tile: int | None, limit: float, *, gradient: bool) -> dict[str, float]:
    """Return seconds a megapixel and GiB of one score, in a process that does nothing else."""
    metric = metric_of(name, backbone, tile).load()
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=generator) for _ in range(2))
    if gradient:  # bytes have none
        x, y = x.float().div_(255).requires_grad_(), y.float().div_(255)
    with torch.no_grad():
        metric(x[..., :256, :256], y[..., :256, :256])  # what is built once
    before = peak()
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * GIB), resource.RLIM_INFINITY))
    begin = time.perf_counter()
    with torch.set_grad_enabled(gradient):
        score = metric(x, y)
        if gradient:
            score.sum().backward()
    seconds = time.perf_counter() - begin
    return {"seconds": seconds / (side * side / 1e6), "peak": peak(), "before": before}


def row(name: str, backbone: str, side: int, tile: int | None, limit: float, *, gradient: bool) -> tuple[str, ...]:
    """Measure in a new process; return the cells of a row."""
    given = json.dumps([name, backbone, side, tile, limit, gradient])
    done = subprocess.run([sys.executable, __file__, "--measure", given], capture_output=True, text=True, check=False)
    cells = (name, backbone, f"{side} x {side}", "whole" if tile is None else str(tile))
    if done.returncode == 0:
        found = json.loads(done.stdout)
        return (*cells, f"{found['seconds']:.2f}", f"{found['peak']:.2f}", f"{found['before']:.2f}")
    if any(text in done.stderr for text in REFUSED):
        return (*cells, "-", f"> {limit:g}", "-")
    raise RuntimeError(f"{' '.join(cells)}: {done.stderr[-2000:]}")


def draw(file: str, rows: Sequence[tuple[int, tuple[str, ...]]]) -> None:
    """Draw time and memory of what could be measured against megapixels, a line for each metric, network and tile."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    lines: dict[str, list[tuple[float, float, float]]] = {}
    for side, (name, backbone, _, tile, seconds, gib, _) in rows:
        if seconds != "-":
            megapixels = side * side / 1e6
            label = f"{name} {backbone}, {'whole' if tile == 'whole' else f'tiles of {tile}'}"
            lines.setdefault(label, []).append((megapixels, float(seconds) * megapixels, float(gib)))
    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for label, points in lines.items():
        pixels, seconds_, gibs = zip(*points, strict=True)
        style = {"marker": "o", "linestyle": ":" if label.endswith("whole") else "-", "label": label}
        times.loglog(pixels, seconds_, **style)
        memory.loglog(pixels, gibs, **style)
    times.set(xlabel="megapixels of an image", ylabel="seconds a pair")
    memory.set(xlabel="megapixels of an image", ylabel="peak of resident memory, GiB")
    memory.legend(fontsize="small")
    figure.savefig(file)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--backbone", nargs="+", choices=list(BACKBONES), default=["nano", "alex"])
    parser.add_argument("--metric", nargs="+", choices=METRICS, default=METRICS)
    parser.add_argument("--limit", type=float, default=8.0, help="GiB")
    parser.add_argument("--gradient", action="store_true", help="with the gradient of the first image")
    parser.add_argument("--plot", metavar="FILE", help="draw time and memory against pixels")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one row, in its own process
    options = parser.parse_args(arguments)
    if options.measure:
        name, backbone, side, tile, limit, gradient = json.loads(options.measure)
        print(json.dumps(measure(name, backbone, side, tile, limit, gradient=gradient)))
        return
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    rows = []
    for name in options.metric:
        for backbone in options.backbone:
            for side in options.side:
                for tile in (None, options.tile):
                    if tile is None or side > tile:
                        cells = row(name, backbone, side, tile, options.limit, gradient=options.gradient)
                        print(f"| {' | '.join(cells)} |", flush=True)
                        rows.append((side, cells))
    if options.plot:
        draw(options.plot, rows)


if __name__ == "__main__":
    main()
