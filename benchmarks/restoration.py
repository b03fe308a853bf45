"""An image is led back to its reference by one metric or another as the loss: how close it comes.

    DAMLPIPS_WEIGHTS_DIR=WEIGHTS python benchmarks/restoration.py IMAGE ... [--start noise] [--picture FILE]

It starts from the reference with noise, or from the reference shifted by 1, 2 or 8 pixels to the right and down. Adam
changes the pixels, at a rate that falls to zero over the steps. Prints a Markdown table: PSNR, LPIPS of AlexNet, and
`grid`, the mean power of the error at the five highest frequencies along x or y over its mean power at all
frequencies, 1 for white noise: a checkerboard or stripes that a network's strides leave would stand out. `--picture`
draws what came of the last image.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from damlpips import DAMLPIPS, LPIPS
from damlpips.scoring.images import read_image

RATE = 0.02
# of 255
NOISE = 50
HIGHEST = 5
LOSSES = {
    "DAMLPIPS nano": lambda: DAMLPIPS(reduction="mean"),
    "DAMLPIPS nano, align=False": lambda: DAMLPIPS(reduction="mean", align=False),
    "DAMLPIPS nano, version 1": lambda: DAMLPIPS(reduction="mean", version=1),
    "DAMLPIPS alex": lambda: DAMLPIPS("alex", reduction="mean"),
    "LPIPS alex": lambda: LPIPS("alex", reduction="mean"),
}


# Pixels, right and down.
SHIFTS = {"shift1": 1, "shift2": 2, "shift8": 8}


def cut(file: Path, side: int, beside: int = 0) -> Tensor:
    """Return a square from the middle of an image, or so many pixels beside it, (1, 3, side, side) in [0, 1]."""
    image = read_image(file)
    top, left = ((length - side) // 2 - beside for length in image.shape[1:])
    return image[None, :, top : top + side, left : left + side].float() / 255


def restored(loss: nn.Module, start: Tensor, reference: Tensor, steps: int) -> Tensor:
    """Return the image after Adam has changed its pixels to bring the loss down."""
    image = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    fixed = loss.encode(reference)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(image, fixed).backward()
        optimizer.step()
        schedule.step()
    return image.detach().clamp(0, 1)


def psnr(x: Tensor, y: Tensor) -> float:
    return -10 * math.log10(float((x - y).square().mean()))


def grid(x: Tensor, y: Tensor) -> float:
    """Return the error's mean power at the highest frequencies along x or y, over that at all but the lowest."""
    power = torch.fft.fftshift(torch.fft.fft2(x - y).abs().square().mean((0, 1)))
    highest = torch.cat([power[:HIGHEST].flatten(), power[:, :HIGHEST].flatten()])
    return float(highest.mean() / power.mean())


def draw(file: Path, pictures: dict[str, Tensor]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(pictures), figsize=(2.6 * len(pictures), 5.4), constrained_layout=True)
    for (title, picture), (above, below) in zip(pictures.items(), axes.T, strict=True):
        pixels = picture[0].permute(1, 2, 0).numpy()
        middle, quarter = pixels.shape[0] // 2, pixels.shape[0] // 6
        above.imshow(pixels)
        below.imshow(pixels[middle - quarter : middle + quarter, middle - quarter : middle + quarter])
        above.set_title(title, fontsize=10)
        for axis in (above, below):
            axis.set_axis_off()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--start", choices=("noise", *SHIFTS), default="noise")
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=LOSSES, metavar="LOSS")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    losses = {name: LOSSES[name]() for name in options.losses}
    judge = LPIPS("alex", reduction="mean")
    print("| image | loss | PSNR, dB | LPIPS alex | grid |\n|---|---|---|---|---|")
    for file in options.images:
        reference = cut(file, options.side)
        if options.start == "noise":
            noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
            start = (reference + NOISE / 255 * noise).clamp(0, 1)
        else:
            start = cut(file, options.side, SHIFTS[options.start])
        pictures = {"reference": reference, "start": start}
        pictures |= {name: restored(loss, start, reference, options.steps) for name, loss in losses.items()}
        for name, picture in list(pictures.items())[1:]:
            with torch.inference_mode():
                score = float(judge(picture, reference))
            row = (f"{psnr(picture, reference):.1f}", f"{score:.4f}", f"{grid(picture, reference):.2f}")
            print(f"| {file.stem} | {name} | {' | '.join(row)} |", flush=True)
    if options.picture:
        draw(options.picture, pictures)


if __name__ == "__main__":
    main()
