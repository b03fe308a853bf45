"""Image files for the tests to read."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def pixels(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Smooth colours with a little texture, different for each seed."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    noise = generator.integers(-9, 10, (height, width, 3))
    return np.clip(np.asarray(small).astype(int) + noise, 0, 255).astype(np.uint8)


def image_file(path: Path, seed: int = 0, size: tuple[int, int] = (40, 48), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, *size)).save(path, **options)
    return path


def image_folders(folder: Path, sizes: Iterable[tuple[int, int]]) -> tuple[Path, Path]:
    """Return two folders of images of the same names, 0.png, 1.png, ..., that differ."""
    for k, size in enumerate(sizes):
        image_file(folder / f"r/{k}.png", k, size)
        image_file(folder / f"d/{k}.png", k + 100, size)
    return folder / "r", folder / "d"


def score_of(model: torch.nn.Module, reference: Path, distorted: Path) -> float:
    """Return the score of two files that are read by Pillow alone, and scored without any batching."""
    x, y = (torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] for path in (distorted, reference))
    with torch.no_grad():
        return model(x, y).item()
