"""Made-up judgements of patches in BAPPS's layout, as many as one likes, and what a fit on them takes.

    python benchmarks/judged_patches.py make FOLDER [--choices 5000] [--layout folders|tar|parquet]
    python benchmarks/judged_patches.py measure FOLDER [--backbone nano] [--workers 0]
    python benchmarks/judged_patches.py steps FOLDER [--backbone nano]

`make` cuts patches of 64 x 64 out of the demo's pictures and distorts each in two ways. Five votes a choice are drawn
by the distances of LPIPS on nano with random heads, `truth.safetensors`, which a fit should find again: nobody was
asked.

`measure` prints a Markdown table: the CPU time of one process for each stage of `damlpips fit --variant lin`, what that
comes to for the 151,000 choices of BAPPS's train sets, bytes kept, and the peak of memory. Linux only.

`steps` prints the same for the steps of `--variant tune`, as published: batches of 50, ten epochs.
"""

import argparse
import io
import json
import math
import mmap
import os
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from damlpips import LPIPS
from damlpips.calibration import Recipe, fit
from damlpips.calibration.choices import read
from damlpips.calibration.differences import differences
from damlpips.evaluation.datasets import load
from damlpips.evaluation.views import View
from damlpips.nets.table import BACKBONES

DEMO = Path(__file__).resolve().parents[1] / "docs" / "demo"
SIDE, VOTES, EXPONENT = 64, 5, 3
BAPPS = 151_000
PASS = 64
SHARD = 1000
LAYOUTS = ("folders", "tar", "parquet")


class Triplet(NamedTuple):
    """Three images as PNG files, and the share of votes for p1."""

    ref: bytes
    p0: bytes
    p1: bytes
    judge: float


def truth(folder: Path) -> LPIPS:
    """Return the metric that votes are drawn by, and write its heads."""
    generator = torch.Generator().manual_seed(0)
    heads = [torch.rand(c, generator=generator).log().neg().pow(4) for c in BACKBONES["nano"].channels]
    path = folder / "truth.safetensors"
    save_file({f"lin{k}.model.1.weight": w.reshape(1, -1, 1, 1) for k, w in enumerate(heads)}, path)
    return LPIPS("nano", heads=str(path))


def distorted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one of five distortions, of a random strength."""
    kind, strength = rng.integers(5), rng.uniform(0.2, 1)
    x = image.astype(float)
    if kind == 0:
        x += rng.normal(0, 30 * strength, x.shape)
    elif kind == 1:
        x = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2.5 * strength)), float)
    elif kind == 2:
        x = x.mean() + (x - x.mean()) * (1 - 0.7 * strength)
    elif kind == 3:
        x += strength * rng.normal(0, 40, 3)
    else:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(60 - 55 * strength))
        x = np.asarray(Image.open(buffer), float)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def triplets(metric: LPIPS, count: int, seed: int = 0) -> Iterator[Triplet]:
    """Yield choices between two distorted images of a patch."""
    rng = np.random.default_rng(seed)
    photographs = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(DEMO.glob("*.png"))]
    for start in range(0, count, PASS):
        images = []
        for _ in range(min(PASS, count - start)):
            photograph = photographs[rng.integers(len(photographs))]
            y, x = (rng.integers(side - SIDE + 1) for side in photograph.shape[:2])
            # of one place in two ways: no two patches have the same bytes
            patch = photograph[y : y + SIDE, x : x + SIDE].astype(int) + rng.integers(-20, 21, 3)
            patch = np.clip(patch, 0, 255).astype(np.uint8)
            images.append([patch, distorted(patch, rng), distorted(patch, rng)])
        ref, p0, p1 = torch.from_numpy(np.array(images)).permute(1, 0, 4, 2, 3)
        with torch.no_grad():
            d0, d1 = (metric(ref, p).double().numpy() for p in (p0, p1))
        shares = rng.binomial(VOTES, d0**EXPONENT / (d0**EXPONENT + d1**EXPONENT + 1e-12)) / VOTES
        for each, share in zip(images, shares, strict=True):
            yield Triplet(*map(png, each), float(share))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def array(share: float) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([share], np.float32))
    return buffer.getvalue()


def make(folder: Path, choices: int, layout: str = "folders", seed: int = 0) -> Path:
    """Write choices below a folder, and return the folder of the set."""
    folder.mkdir(parents=True, exist_ok=True)
    found = enumerate(triplets(truth(folder), choices, seed))
    return {"folders": _folders, "tar": _tars, "parquet": _parquet}[layout](folder, found)


def _folders(folder: Path, found: Iterator[tuple[int, Triplet]]) -> Path:
    leaf = folder / "2afc" / "train" / "patches"
    for part in ("ref", "p0", "p1", "judge"):
        (leaf / part).mkdir(parents=True, exist_ok=True)
    for k, triplet in found:
        for part in ("ref", "p0", "p1"):
            (leaf / part / f"{k:06d}.png").write_bytes(getattr(triplet, part))
        (leaf / "judge" / f"{k:06d}.npy").write_bytes(array(triplet.judge))
    return folder / "2afc" / "train"


def _shards(found: Iterator[tuple[int, Triplet]]) -> Iterator[list[tuple[int, Triplet]]]:
    shard: list[tuple[int, Triplet]] = []
    for each in found:
        shard.append(each)
        if len(shard) == SHARD:
            yield shard
            shard = []
    if shard:
        yield shard


def _tars(folder: Path, found: Iterator[tuple[int, Triplet]]) -> Path:
    (folder / "tar").mkdir()
    for number, shard in enumerate(_shards(found)):
        with tarfile.open(folder / "tar" / f"{number:04d}.tar", "w") as tar:
            for k, triplet in shard:
                parts = {f"{part}.png": getattr(triplet, part) for part in ("ref", "p0", "p1")}
                parts["json"] = json.dumps({"judge": triplet.judge}).encode()
                for part, content in parts.items():
                    info = tarfile.TarInfo(f"{k:06d}.{part}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder / "tar"


def _parquet(folder: Path, found: Iterator[tuple[int, Triplet]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "parquet").mkdir()
    for number, shard in enumerate(_shards(found)):
        table = pa.Table.from_pylist([triplet._asdict() for _, triplet in shard])
        pq.write_table(table, folder / "parquet" / f"{number:04d}.parquet", row_group_size=100)
    return folder / "parquet"


class Clock:
    """CPU time of this process by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.process_time()

    def stop(self, stage: str) -> None:
        now = time.process_time()
        self.seconds[stage] = now - self.last
        self.last = now


def measure(folder: Path, backbone: str, workers: int) -> str:
    """Return what a fit takes, as a Markdown table."""
    metric = LPIPS(backbone, heads="uniform")
    metric.load()
    clock = Clock()
    sets = load(folder)
    clock.stop("list files, read votes")
    choices = read(sets, most=1, seed=0)
    n = len(choices)
    clock.stop("digest images")
    paths = list(choices.digests)
    for path in paths[:3000]:
        View().read(path)
    clock.stop("decode")
    clock.seconds["decode"] *= len(paths) / min(3000, len(paths))
    with TemporaryDirectory() as name, ExitStack() as stack:
        cache = Path(name)
        differences(choices, metric, stack, cache=cache, workers=workers)
        clock.stop("decode and run the network" if not workers else "run the network")
        (table,) = cache.iterdir()
        recipe = Recipe(epochs=1, decay_epochs=1)
        before = time.process_time()
        fit(sets, metric, recipe, cache=cache, samples=10)
        both = time.process_time() - before
        before = time.process_time()
        fit(sets, metric, Recipe(epochs=4, decay_epochs=1), cache=cache, samples=10)
        clock.seconds["an epoch"] = (time.process_time() - before - both) / 3
        size = table.stat().st_size
        warm, cold = gathered(table, choices.first, choices.second)
    rows = ["| stage | seconds | a choice | for BAPPS |", "|---|---|---|---|"]
    for stage, seconds in clock.seconds.items():
        rows.append(f"| {stage} | {seconds:.1f} | {1e3 * seconds / n:.2f} ms | {seconds / n * BAPPS / 60:.1f} min |")
    rows.append(f"| kept | {size / 1e6:.0f} MB | {size / n:.0f} bytes | {size / n * BAPPS / 1e9:.2f} GB |")
    rows.append("")
    rows.append(
        f"{n} choices on {backbone}, {workers} workers. An epoch's rows in a random order, elapsed: {warm:.2f} s"
    )
    rows.append(f"from memory, {cold:.2f} s from the disk. Peak of memory: {status('VmHWM') / 1e6:.0f} MB.")
    return "\n".join(rows)


class Steps(Callback):
    """When each step began, in CPU time, and the memory in use before the first."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.memory = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.memory = self.memory or status("VmRSS")
        self.began.append(time.process_time())


def steps(folder: Path, backbone: str) -> str:
    """Return what a step takes in which the network is learned, too, as a line of text."""
    recipe, watch = Recipe(variant="tune", epochs=2, decay_epochs=0), Steps()
    fit(load(folder), LPIPS(backbone, heads="uniform"), recipe, samples=10, callbacks=[watch])
    seconds = float(np.median(np.diff(watch.began)))
    hours = seconds * math.ceil((1 - recipe.held_out) * BAPPS / recipe.batch) * Recipe().all_epochs / 3600
    return (
        f"{backbone}, {recipe.batch} choices a step: {seconds:.3f} s, {hours:.1f} h for BAPPS. Memory:"
        f" {watch.memory / 1e6:.0f} MB before the first step, {status('VmHWM') / 1e6:.0f} MB at most"
    )


def gathered(path: Path, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the seconds to gather all choices of a table in a random order, from memory and from the disk."""
    rng = np.random.default_rng(0)
    seconds = []
    for dropped in (False, False, True):
        table = np.load(path, mmap_mode="r")
        if dropped:
            # pages that no process maps any more can be taken from memory
            table._mmap.madvise(mmap.MADV_DONTNEED)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        order = rng.permutation(len(first))
        for k in range(0, len(order), 50):
            table[first[order[k : k + 50]]], table[second[order[k : k + 50]]]
        seconds.append(time.perf_counter() - start)
        del table
    return seconds[1], seconds[2]


def status(name: str) -> int:
    """Return what the kernel says of this process's memory in bytes: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("--choices", type=int, default=5000)
    making.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0])
    measuring, stepping = commands.add_parser("measure"), commands.add_parser("steps")
    for parser_of in (measuring, stepping):
        parser_of.add_argument("folder", type=Path)
        parser_of.add_argument("--backbone", default="nano")
    measuring.add_argument("--workers", type=int, default=0)
    given: Any = parser.parse_args(arguments)
    if given.command == "make":
        print(make(given.folder, given.choices, given.layout))
    else:
        torch.set_num_threads(1)
        stepped = given.command == "steps"
        print(steps(given.folder, given.backbone) if stepped else measure(given.folder, given.backbone, given.workers))


if __name__ == "__main__":
    main()
