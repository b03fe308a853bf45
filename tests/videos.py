"""Video files for the tests to read."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from pictures import pixels
from PIL import Image


def moving(seed: int, count: int = 6, size: tuple[int, int] = (40, 48)) -> list[np.ndarray]:
    """Frames of a picture that moves to the left."""
    whole = pixels(seed, size[0], size[1] + count)
    return [whole[:, k : k + size[1]] for k in range(count)]


def noisy(frames: Sequence[np.ndarray], strength: int = 40) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [np.clip(f + generator.integers(-strength, strength, f.shape), 0, 255).astype(np.uint8) for f in frames]


def video_file(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "ffv1",
    pixel_format: str = "bgr0",
    *,
    rotation: int = 0,
    **tags: object,
) -> Path:
    """Write frames (H, W, 3) as RGB; ffv1 in bgr0 keeps them as they are. Tags are attributes of the encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def frame_folder(folder: Path, frames: Sequence[np.ndarray], name: str = "{:04}.png", first: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / name.format(k))
    return folder
