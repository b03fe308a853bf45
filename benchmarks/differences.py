"""By how much scores change with what differs between two programs that should give the same number.

    DAMLPIPS_WEIGHTS_DIR=FOLDER python benchmarks/differences.py [--pictures landscape] [--metric LPIPS DAMLPIPS]

Scores the nine versions of each picture of docs/demo as they should be scored, and with one thing changed at a time.
Prints a Markdown table: by what factor the mean changes, between which factors single scores, and of how many pairs of
scores the order. LPIPS needs the weights of `alex` and `squeeze`.
"""

import argparse
import tempfile
from collections.abc import Callable
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from damlpips import DAMLPIPS, LPIPS
from damlpips.scoring.images import read_image

DEMO = Path(__file__).resolve().parents[1] / "docs/demo"
PICTURES = ("landscape", "pebbles", "still_life")
METRICS: dict[str, Callable] = {"LPIPS": LPIPS, "DAMLPIPS": DAMLPIPS}
# of PNG's cICP: Display P3's primaries, sRGB's curve, full range
DISPLAY_P3 = bytes([12, 13, 0, 1])

Pair = tuple[Tensor, Tensor]


def both(change: Callable[[Tensor], Tensor]) -> Callable[[Pair], Pair]:
    return lambda pair: (change(pair[0]), change(pair[1]))


def half(image: Tensor, antialias: bool = True) -> Tensor:
    return interpolate(image / 255, scale_factor=0.5, mode="bilinear", antialias=antialias)


def thinned(image: Tensor) -> Tensor:
    return half(image, antialias=False)


def jpeg(image: Tensor) -> Tensor:
    file = BytesIO()
    to_pil_image(image[0]).save(file, "JPEG", quality=95)
    return pil_to_tensor(Image.open(file))[None]


def in_display_p3(image: Tensor) -> Tensor:
    """Return the sRGB colours of an image whose numbers are Display P3's."""
    stated = PngInfo()
    stated.add(b"cICP", DISPLAY_P3)
    with tempfile.TemporaryDirectory() as folder:
        to_pil_image(image[0]).save(f"{folder}/image.png", pnginfo=stated)
        return read_image(Path(folder, "image.png"))[None]


def noisy(image: Tensor) -> Tensor:
    """Return what a network might: floats between the steps of 8 bits."""
    generator = torch.Generator().manual_seed(0)
    return (image / 255 + 0.03 * torch.randn(image.shape, generator=generator)).clamp(0, 1)


class Change(NamedTuple):
    """One thing that two programs do differently.

    Attributes:
        name: its row.
        options: of the metric; None for its defaults.
        images: what happens to a pair, (distorted, reference), as uint8.
        beside: what happens to the pair whose score is compared with.
        metrics: those that it is measured for.
    """

    name: str
    options: dict[str, Any] | None = None
    images: Callable[[Pair], Pair] = tuple
    beside: Callable[[Pair], Pair] = tuple
    metrics: tuple[str, ...] = tuple(METRICS)


CHANGES = [
    Change("[0, 1] taken for [-1, 1]", {"fed_as": (-1, 1)}, metrics=("LPIPS",)),
    Change("squeeze in place of alex", {"backbone": "squeeze"}, metrics=("LPIPS",)),
    Change("heads v0.0 in place of v0.1", {"heads": "v0.0"}, metrics=("LPIPS",)),
    Change("no learned heads", {"heads": "uniform"}, metrics=("LPIPS",)),
    Change("alex in place of nano", {"backbone": "alex"}, metrics=("DAMLPIPS",)),
    Change("version 1 in place of 2", {"version": 1}, metrics=("DAMLPIPS",)),
    Change("compared at half the size", {"resize": 112}),
    Change("at half the size, both without antialiasing", images=both(thinned), beside=both(half)),
    Change(
        "at half the size, the reference alone without",
        images=lambda pair: (half(pair[0]), thinned(pair[1])),
        beside=both(half),
    ),
    Change("BGR in place of RGB", images=both(lambda image: image.flip(1))),
    Change("Display P3 taken for sRGB, both", beside=both(in_display_p3)),
    Change(
        "Display P3 taken for sRGB, the reference alone",
        images=lambda pair: (in_display_p3(pair[0]), pair[1]),
        beside=both(in_display_p3),
    ),
    Change("result saved as JPEG of quality 95", images=lambda pair: (jpeg(pair[0]), pair[1])),
    Change("8 pixels of each border cut off", images=both(lambda image: image[..., 8:-8, 8:-8])),
    Change(
        "floats rounded to bytes",
        images=lambda pair: ((noisy(pair[1]) * 255).round().byte(), pair[1]),
        beside=lambda pair: (noisy(pair[1]), pair[1] / 255),
    ),
]


@torch.no_grad()
def scores(metric: Callable, pairs: list[Pair], images: Callable[[Pair], Pair]) -> list[float]:
    return [metric(*images(pair)).item() for pair in pairs]


def row(name: str, new: list[float], old: list[float]) -> str:
    """Return a row: the factor on the mean, the least and the largest on a score, and how many orders change."""
    factors = [a / b for a, b in zip(new, old, strict=True)]
    swapped = [(a - b) * (c - d) < 0 for (a, c), (b, d) in combinations(zip(new, old, strict=True), 2)]
    mean, share = sum(new) / sum(old), 100 * sum(swapped) / len(swapped)
    return f"| {name} | {mean:.3f} | {min(factors):.2f} to {max(factors):.2f} | {share:.0f} % |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", nargs="+", default=PICTURES, choices=PICTURES)
    parser.add_argument("--metric", nargs="+", default=list(METRICS), choices=list(METRICS))
    options = parser.parse_args(arguments)
    read = [
        (read_image(file)[None], read_image(DEMO / f"{picture}.png")[None])
        for picture in options.pictures
        for file in sorted((DEMO / picture).iterdir())
    ]
    for metric in options.metric:
        print(f"\n| {metric} | mean | single scores | order |\n|---|---|---|---|")
        for change in CHANGES:
            if metric in change.metrics:
                old = scores(METRICS[metric](), read, change.beside)
                new = scores(METRICS[metric](**(change.options or {})), read, change.images)
                print(row(change.name, new, old), flush=True)


if __name__ == "__main__":
    main()
