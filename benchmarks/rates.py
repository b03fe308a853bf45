"""The rates that a large run is planned from: images read and pairs scored by a core, and bytes a row.

    python benchmarks/rates.py [--repeats 5] [--device cpu]

Prints three Markdown tables. Reading is what `damlpips score` does with a file: its SHA-256, Pillow's decoding, a
tensor; the images are mosaics of the demo's pictures. Times on a CPU are the CPU time of one thread, so that other work
on the machine hardly matters, the least of `--repeats`; on CUDA they are by the clock. AlexNet has random weights: the
work is the same.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from bench.networks import random_weights
from PIL import Image

from damlpips import DAMLPIPS, LPIPS
from damlpips.files import digest
from damlpips.scoring.formats import Csv, JsonLines, write_parquet
from damlpips.scoring.images import read_image
from damlpips.scoring.journal import RowFile
from damlpips.scoring.pairs import Pair
from damlpips.scoring.rows import Table
from damlpips.scoring.scorer import Score

DEMO = Path(__file__).resolve().parents[1] / "docs" / "demo"
SIDES = (256, 512, 1024)
FORMATS = {"JPEG, quality 90": ("jpg", {"quality": 90}), "PNG": ("png", {})}
ROWS = 20_000
BILLION = 1_000_000_000


def mosaic(side: int) -> Image.Image:
    """Return the demo's pictures side by side, as much as a square holds."""
    pictures = [Image.open(file).convert("RGB") for file in sorted(DEMO.glob("*.png"))]
    canvas, number = Image.new("RGB", (side, side)), 0
    for top in range(0, side, pictures[0].height):
        for left in range(0, side, pictures[0].width):
            canvas.paste(pictures[number % len(pictures)], (left, top))
            number += 1
    return canvas


def seconds(call: Callable[[], object], times: int, *, repeats: int, device: str = "cpu") -> float:
    """Return how long one call takes, the least of `repeats` measurements of several calls."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    found = []
    call()
    for _ in range(repeats):
        began = clock()
        for _ in range(times):
            call()
        if device != "cpu":
            torch.cuda.synchronize()
        found.append((clock() - began) / times)
    return min(found)


def read(path: Path) -> torch.Tensor:
    digest(path)
    return read_image(path, deep=True)


def reading(folder: Path, repeats: int) -> Iterator[tuple[str, int, int, float]]:
    """Yield format, side, bytes of a file, and images a second."""
    for name, (ending, options) in FORMATS.items():
        for side in SIDES:
            file = folder / f"{side}.{ending}"
            mosaic(side).save(file, **options)
            taken = seconds(lambda file=file: read(file), 40 * SIDES[0] // side, repeats=repeats)
            yield name, side, file.stat().st_size, 1 / taken


@torch.no_grad()
def scoring(folder: Path, repeats: int, device: str) -> Iterator[tuple[str, int, int, float]]:
    """Yield metric, side, pairs a batch, and pairs a second; DAMLPIPS brings larger images to its own size first."""
    alone, batch = (1, 8) if device == "cpu" else (8, 64)
    nano, alex = DAMLPIPS(), LPIPS("alex", weights=random_weights("alex", folder))
    cells = [("DAMLPIPS nano", nano, side, n) for side, n in ((256, alone), *((side, batch) for side in SIDES))]
    cells += [("LPIPS alex", alex, SIDES[0], n) for n in (alone, batch)]
    for name, metric, side, n in cells:
        metric.to(device).load()
        x = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, device=device)
        y = x // 2 + 40
        taken = seconds(lambda m=metric, x=x, y=y: m.per_layer(x, y), 4, repeats=repeats, device=device)
        yield name, side, n, n / taken


def rows(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield a format of rows, and the bytes of one."""
    generator = torch.Generator().manual_seed(0)
    settings = {"metric": "damlpips", "backbone": "nano", "weights": f"nano:{64 * '0'}"}
    table = Table({**settings, "options": "alpha=error resize=none tile=none version=1"}, 4)
    layers = torch.rand(ROWS, 4, generator=generator)
    sums = torch.randint(0, 256, (ROWS, 64), dtype=torch.uint8, generator=generator)
    scores = []
    for k, values in enumerate(layers.tolist()):
        name = f"{k // 1000:04d}/{k:08d}"
        pair = Pair(Path(f"originals/{name}.png"), Path(f"restored/{name}.jpg"), name)
        one, other = (bytes(part.tolist()).hex() for part in sums[k].split(32))
        scores.append(Score(pair, sum(values), tuple(values), (256, 256), one, other))
    for name, form in (("CSV", Csv(table)), ("JSON Lines", JsonLines(table))):
        file = RowFile(folder / name, form)
        for score in scores:
            file.write(table.scored(score))
        file.close()
        yield name, (folder / name).stat().st_size / ROWS
    write_parquet(folder / "JSON Lines", folder / "rows.parquet", table)
    yield "Parquet", (folder / "rows.parquet").stat().st_size / ROWS


def core_hours(rate: float) -> str:
    """Return the hours that a billion takes at so many a second."""
    return f"{BILLION / rate / 3600:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| image | side | kB | images/s a core | core-hours, 10⁹ images |\n|---|---|---|---|---|")
        for kind, side, size, rate in reading(folder, options.repeats):
            print(f"| {kind} | {side} | {size / 1000:.0f} | {rate:.0f} | {core_hours(rate)} |", flush=True)
        unit = "core" if options.device == "cpu" else options.device
        print(
            f"\n| metric | side | pairs a batch | pairs/s a {unit} | {unit}-hours, 10⁹ pairs |\n|---|---|---|---|---|"
        )
        for kind, side, batch, rate in scoring(folder, options.repeats, options.device):
            print(f"| {kind} | {side} | {batch} | {rate:.1f} | {core_hours(rate)} |", flush=True)
        print("\n| rows | bytes a row | TB, 10⁹ rows |\n|---|---|---|")
        for kind, size in rows(folder):
            print(f"| {kind} | {size:.0f} | {size * BILLION / 1e12:.2f} |")


if __name__ == "__main__":
    main()
