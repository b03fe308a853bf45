"""Render the demo images and their distorted versions beside this script. Takes some minutes.

    python docs/demo/make_images.py [landscape] [pebbles] [still_life]

Everything is computed from formulas and seeds. `<name>.png` is the reference; `<name>/` holds JPEG at three qualities,
Gaussian blur with three deviations in pixels, and white noise with three deviations in steps of 8 bits.
"""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

HERE = Path(__file__).resolve().parent
SCENES = ("landscape", "pebbles", "still_life")
JPEG_QUALITIES = (80, 30, 8)
BLURS = (0.7, 1.5, 3)
NOISES = (5, 15, 40)


def noisy(image: Image.Image, deviation: float, seed: int) -> Image.Image:
    """Return the image with white noise added."""
    pixels = np.asarray(image, np.float64)
    pixels = pixels + deviation * np.random.default_rng(seed).standard_normal(pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def write_versions(reference: Image.Image, folder: Path) -> None:
    """Write the nine distorted versions of an image."""
    folder.mkdir(exist_ok=True)
    for quality in JPEG_QUALITIES:
        reference.save(folder / f"jpeg_q{quality}.jpg", quality=quality)
    for deviation in BLURS:
        reference.filter(ImageFilter.GaussianBlur(deviation)).save(folder / f"blur_{deviation}.png", optimize=True)
    for deviation in NOISES:
        noisy(reference, deviation, seed=deviation).save(folder / f"noise_{deviation}.png", optimize=True)


def main(names: list[str]) -> None:
    """Render the scenes named, or all."""
    if unknown := set(names) - set(SCENES):
        raise SystemExit(f"unknown {', '.join(sorted(unknown))}: expected some of {', '.join(SCENES)}")
    for name in names or SCENES:
        print(f"rendering {name} ...", flush=True)
        image = Image.fromarray(import_module(f"scenes.{name}").render())
        image.save(HERE / f"{name}.png", optimize=True)
        write_versions(image, HERE / name)


if __name__ == "__main__":
    main(sys.argv[1:])
