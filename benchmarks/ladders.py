"""How often the score of a distortion fails to grow with the distortion: a Markdown table.

    python benchmarks/ladders.py FOLDER [--count 200] [--seed 0] [--side 240] [--metric NAME ...]

FOLDER holds photographs; those with a side below `--side` + 12 pixels are skipped. Each is cropped to a square at its
centre, on a grid that is 4 pixels off that of JPEG's 8 x 8 blocks: a photograph that was a JPEG before would hardly
change when it is compressed again on the same grid. A cell is the share of neighbouring rungs of a ladder
(`damlpips.evaluation.ladders`) whose scores are in the wrong order or equal, in percent; the last column is that of all
ladders together.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from damlpips.evaluation.custom import MetricFileError
from damlpips.evaluation.ladders import LADDERS, Violations, violations
from damlpips.evaluation.named import NamedMetric, UnavailableMetricError, UnknownMetricError, build
from damlpips.evaluation.tables import NOTHING, Table, as_markdown
from damlpips.nets.encoded import Encoded
from damlpips.scoring.images import SUFFIXES, ScoringError, read_image

METRICS = ("damlpips", "damlpips-alex", "damlpips-squeeze", "lpips-alex", "lpips-squeeze")
# of JPEG, in pixels
BLOCK = 8


def asking(description: str | None, count: int, metrics: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser of what every benchmark on photographs is asked: where they are, how many, and which metrics."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=240)
    parser.add_argument("--metric", metavar="NAME", nargs="+", default=metrics)
    return parser


def photographs(folder: Path, *, count: int, seed: int, side: int) -> list[Tensor]:
    """Return square crops of `count` images of a folder, drawn by the seed: each (3, side, side), uint8.

    Raises:
        ScoringError: an image that cannot be read, or fewer that are large enough.
    """
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    random.Random(seed).shuffle(files)
    found: list[Tensor] = []
    for file in files:
        if len(found) == count:
            break
        image = read_image(file)
        if min(image.shape[1:]) >= side + BLOCK + BLOCK // 2:
            found.append(_cut(image, side))
    if len(found) < count or not found:
        least = side + BLOCK + BLOCK // 2
        raise ScoringError(f"{folder}: expected {count} images of {least} x {least} pixels or more, found {len(found)}")
    return found


def _cut(image: Tensor, side: int) -> Tensor:
    top, left = ((length - side) // 2 // BLOCK * BLOCK + BLOCK // 2 for length in image.shape[1:])
    return image[:, top : top + side, left : left + side]


def against_one(metric: NamedMetric) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the metric's distances as a function of N copies of a reference, which is encoded once, and N images."""

    def distances(references: Tensor, distorted: Tensor) -> Tensor:
        encoded = metric.encode(references[:1])
        if isinstance(encoded, Encoded):
            return metric.distances(encoded.expand(len(distorted)), distorted)
        return metric.distances(references, distorted)

    return distances


def table(metrics: Sequence[NamedMetric], images: Sequence[Tensor], *, seed: int, progress: Progress) -> Table:
    """Return the shares of violated neighbours: a row a metric, a column a ladder."""
    rows = []
    for metric in metrics:
        counts = []
        for ladder in LADDERS.values():
            shown = progress.track(images, description=f"{metric.name}, {ladder.name}")
            counts.append(violations(against_one(metric), shown, ladder, seed=seed))
        counts.append(Violations(sum(c.neighbours for c in counts), sum(c.violated for c in counts)))
        rows.append((metric.name, *(f"{100 * c.share:.2f}" if c.neighbours else NOTHING for c in counts)))
    title = f"Neighbouring rungs whose score does not grow, in %: {len(images)} photographs, seed {seed}"
    return Table(title, ("metric", *LADDERS, "all"), tuple(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = asking(__doc__, 200, METRICS)
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        metrics = [build(name) for name in options.metric]
        images = photographs(options.folder, count=options.count, seed=options.seed, side=options.side)
        with torch.inference_mode(), Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            found = table(metrics, images, seed=options.seed, progress=bar)
    except (MetricFileError, ScoringError, UnavailableMetricError, UnknownMetricError) as error:
        sys.exit(f"error: {error}")
    print(as_markdown(found), end="")


if __name__ == "__main__":
    main()
