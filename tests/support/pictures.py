"""Image files for the tests to read."""

import io
import os
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


def avif(pixel_format: str, values: np.ndarray, **colours: int) -> bytes:
    """Return a lossless AVIF of values (H, W) in its first plane and of 512 in the others, as FFmpeg writes it."""
    import av

    declared = {"color_range": 2, "colorspace": 1, "color_trc": 13, "color_primaries": 1, **colours}
    height, width = values.shape[:2]
    file = io.BytesIO()
    scheduling = (os.sched_getscheduler(0), os.sched_getparam(0)) if hasattr(os, "sched_getscheduler") else None
    try:
        with av.open(file, "w", format="avif") as container:
            stream = container.add_stream("libsvtav1", rate=1, options={"crf": "1", "svtav1-params": "lossless=1"})
            stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
            for name, value in declared.items():
                setattr(stream.codec_context, name, value)
            frame = av.VideoFrame(width, height, pixel_format)
            for k, plane in enumerate(frame.planes):
                row = np.zeros((plane.height, plane.line_size // 2), "<u2")
                row[:, : plane.width] = values[: plane.height, : plane.width] if k == 0 else 512
                plane.update(row.tobytes())
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    finally:
        # this encoder gives a process of root real-time priority, and everything else on the machine has to wait
        if scheduling is not None:
            os.sched_setscheduler(0, *scheduling)
    return file.getvalue()


def score_of(model: torch.nn.Module, reference: Path, distorted: Path) -> float:
    """Return the score of two files that are read by Pillow alone, and scored without any batching."""
    x, y = (torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] for path in (distorted, reference))
    with torch.no_grad():
        return model(x, y).item()
