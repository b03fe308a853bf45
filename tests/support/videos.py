"""Video files for the tests to read."""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.support.pictures import pixels

# a file of each container, with an encoder and its format of pixels
CONTAINERS = {
    "mpeg4.mp4": ("mpeg4", "yuv420p"),
    "h264.mov": ("libx264", "yuv420p"),
    "ffv1.mkv": ("ffv1", "bgr0"),
    "vp9.webm": ("libvpx-vp9", "yuv420p"),
    "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "mpeg2.ts": ("mpeg2video", "yuv420p"),
    "raw.y4m": ("wrapped_avframe", "yuv420p"),
}


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
    given: str = "rgb24",
    rotation: int = 0,
    **tags: object,
) -> Path:
    """Write frames, (H, W, 3) of `given` RGB; ffv1 in bgr0 keeps them as they are.

    Tags are attributes of the encoder, and those of colours also of the frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.pix_fmt = pixel_format
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        made = [av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=given) for frame in frames]
        stream.height, stream.width = made[0].height, made[0].width
        for frame in made:
            for name in tags.keys() & {"colorspace", "color_range"}:
                setattr(frame, name, tags[name])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if rotation:
        sine, cosine = round(math.sin(math.radians(rotation)) * 65536), round(math.cos(math.radians(rotation)) * 65536)
        set_matrix(path, (cosine, -sine, sine, cosine))
    return path


def set_matrix(file: Path, matrix: tuple[int, int, int, int]) -> None:
    """Change how the picture of an MP4 file is to be turned; counter-clockwise for (cos, -sin, sin, cos)."""
    content = file.read_bytes()
    plain = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    a, b, c, d = matrix
    place = content.index(plain, content.index(b"tkhd"))
    file.write_bytes(content[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[place + 36 :])


def frame_folder(folder: Path, frames: Sequence[np.ndarray], name: str = "{:04}.png", first: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / name.format(k))
    return folder
