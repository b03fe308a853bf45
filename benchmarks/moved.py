"""How long DAMLPIPS takes where something moves and where nothing does, beside `lpips` on AlexNet and version 1.

    python benchmarks/moved.py PHOTOGRAPHS [--rounds 16] [--threads 2]

Eight pairs of 256 x 256 pixels, in float32: photographs with white noise, in place, and the same photographs shifted by
two and four pixels. Every way runs once a round, in one process; prints the ratios of the medians, forward and for a
training step (forward, and the gradient by one image). AlexNet has random weights, which takes the same time.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lpips
import torch
from references import medians
from torch import Tensor, nn
from torch.nn import functional as F

from damlpips import DAMLPIPS, Backbone
from damlpips.models.settings import DAMLPIPS_VERSIONS
from damlpips.nets.table import BACKBONES
from damlpips.scoring.images import SUFFIXES, read_image

SIDE, DOWN, RIGHT, PAIRS = 256, 4, 2, 8
WAYS = ("still", "moved")


def photographs(folder: Path) -> Tensor:
    """Return as many photographs as there are pairs, with a margin to shift them by."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)[:PAIRS]
    size = (SIDE + DOWN, SIDE + RIGHT)
    images = [F.interpolate(read_image(f)[None].float() / 255, size, mode="bilinear", antialias=True) for f in files]
    return torch.cat(images).clamp(0, 1)


def forward(module: nn.Module, x: Tensor, y: Tensor) -> None:
    with torch.no_grad():
        module(x, y)


def training(module: nn.Module, x: Tensor, y: Tensor) -> None:
    module(x, y.clone().requires_grad_()).mean().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = photographs(options.photographs)
    x = images[..., DOWN:, RIGHT:].contiguous()
    others = {"still": (x + 0.08 * torch.randn_like(x)).clamp(0, 1), "moved": images[..., :SIDE, :SIDE].contiguous()}
    row = BACKBONES["alex"]
    scaling = row.scaling._asdict()
    alex = Backbone(row.build().eval(), taps=row.taps, **scaling, min_size=row.min_size, name="alex")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision's names for weights
        original = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
    steps = {"forward": forward, "training": training}
    jobs: dict[str, Callable[[], None]] = {
        f"lpips {name}": partial(step, original, 2 * x - 1, 2 * others["still"] - 1) for name, step in steps.items()
    }
    for backbone in ("nano", alex):
        for version in DAMLPIPS_VERSIONS:
            module = DAMLPIPS(backbone, version=version)
            for way in WAYS:
                for name, step in steps.items():
                    jobs[f"{module.source.name} {version} {way} {name}"] = partial(step, module, x, others[way])
    found = dict(zip(jobs, medians(list(jobs.values()), options.rounds), strict=True))
    print("| of the time of | " + " | ".join(f"{way}, {name}" for name in steps for way in WAYS) + " |")
    print("|---|" + "---|" * len(WAYS) * len(steps))
    for backbone in ("nano", "alex"):
        cells = [found[f"{backbone} 2 {way} {name}"] / found[f"lpips {name}"] for name in steps for way in WAYS]
        print(f"| {backbone}, `lpips` on alex | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
        cells = [
            found[f"{backbone} 2 {way} {name}"] / found[f"{backbone} 1 {way} {name}"] for name in steps for way in WAYS
        ]
        print(f"| {backbone}, version 1 | " + " | ".join(f"{c:.2f}" for c in cells) + " |")


if __name__ == "__main__":
    main()
