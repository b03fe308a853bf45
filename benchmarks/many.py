"""Time and memory of `damlpips score` over very many pairs.

    python benchmarks/many.py [--pairs 300 6000 100000] [--side 32] [--batch-size 32] [--workers 0]

Prints a Markdown table: a row for each number of pairs, which a process of its own scores into a CSV file. The images
are 200 small files whose names stand in a manifest again and again, each pair with another reference than its
neighbours. "kept" is by how much the peak of resident memory is above the first row's, a pair: names, and nothing else.
Linux only.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = 200
MIB = 1 << 20
COLUMNS = ("pairs", "seconds", "pairs / s", "peak, MiB", "kept, bytes a pair")
# Linux counts the peak of one program here; what os.wait4 says begins with the memory of the program that started it
PROGRAM = """
import sys
from pathlib import Path
from damlpips.__main__ import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), file=sys.stderr)
"""


def make_images(folder: Path, side: int, count: int = IMAGES) -> None:
    """Write `count` references and as many distorted images."""
    generator = np.random.default_rng(0)
    for kind in ("reference", "distorted"):
        (folder / kind).mkdir(parents=True)
        for k in range(count):
            pixels = generator.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{k:06}.png")


def write_manifest(folder: Path, pairs: int, count: int = IMAGES) -> Path:
    """Return a list of pairs, none of whose neighbours has its reference."""
    names = islice(((d, (d + shift) % count) for shift, d in product(range(pairs), range(count))), pairs)
    manifest = folder / f"{pairs}.csv"
    rows = (f"{r:06}.png,{d:06}.png\n" for d, r in names)
    manifest.write_text("reference,distorted\n" + "".join(rows))
    return manifest


def peak_of(folder: Path, pairs: int, *options: str, count: int = IMAGES) -> int:
    """Return the bytes that scoring so many pairs of a folder of `count` images takes at its peak."""
    manifest = write_manifest(folder, pairs, count)
    command = ["score", "reference", "distorted", "--pairs", manifest, "--csv", f"{pairs}.out.csv"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, command), "--quiet", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    with open(folder / f"{pairs}.out.csv", encoding="utf-8") as rows:
        if (found := sum(1 for _ in rows) - 1) != pairs:
            raise RuntimeError(f"expected {pairs} rows, got {found}")
    return int(done.stderr.split()[-1]) << 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of damlpips score over very many pairs.")
    parser.add_argument("--pairs", type=int, nargs="+", default=[300, 6000, 100_000])
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch-size", default="32")
    parser.add_argument("--workers", default="0")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder, options.side)
        first: tuple[int, int] | None = None
        for pairs in options.pairs:
            begun = time.perf_counter()
            peak = peak_of(folder, pairs, "--batch-size", options.batch_size, "--workers", options.workers)
            seconds = time.perf_counter() - begun
            kept = "" if first is None else f"{(peak - first[1]) / (pairs - first[0]):.0f}"
            first = first or (pairs, peak)
            row = f"{pairs:,}", f"{seconds:.0f}", f"{pairs / seconds:.0f}", f"{peak / MIB:.0f}", kept
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
