"""Frames of a decoder, of more than 8 bits a channel or grey, as RGB: by the equations, since FFmpeg's own conversion

leaves white at 1023/1024 of 10 bits, and at 255/256 for a narrow range.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from damlpips.scoring.reading import ScoringError

if TYPE_CHECKING:
    from numpy import ndarray

# The matrix between YUV and RGB by its number in H.273: what red and blue weigh in grey
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
IDENTITY = 0


def pyav() -> ModuleType:
    """Return PyAV.

    Raises:
        ScoringError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ScoringError("reading video files needs PyAV: pip install 'damlpips[video]'") from error
    return av


def refuse(url: str, *_: object) -> NoReturn:
    """Refuse to open a file that another file names."""
    raise PermissionError(f"refused to open {url!r}, which the file names")


def reformatter() -> Any:
    """Return a function like PyAV's `VideoReformatter.reformat`, which gives the same bits on every processor."""
    from av.video.reformatter import Interpolation, VideoReformatter

    how = Interpolation.BILINEAR
    # possible with PyAV 17 or newer
    for name in ("ACCURATE_RND", "BITEXACT") if hasattr(Interpolation, "BITEXACT") else ():
        how |= Interpolation[name]
    reformat = VideoReformatter().reformat
    return lambda frame, **options: reformat(frame, interpolation=how, **options)


def bits_of(kind: Any) -> int:
    """Return how many bits the channels of a pixel format have."""
    return max((part.bits for part in kind.components), default=0)


def is_grey(kind: Any) -> bool:
    """Return whether a pixel format has one channel of brightness."""
    return kind.name.startswith("gray") and len(kind.components) == 1


def planes(frame: Any) -> "ndarray":
    """Return the channels of a planar frame (C, H, W), as whole numbers."""
    import numpy as np

    kind = "<u2" if bits_of(frame.format) > 8 else "u1"
    size = np.dtype(kind).itemsize
    return np.stack(
        [np.frombuffer(p, kind).reshape(-1, p.line_size // size)[: frame.height, : frame.width] for p in frame.planes]
    )


def grey(frame: Any, *, full_range: bool) -> "ndarray":
    """Return a frame of one channel (H, W) as float32 from 0 to 1."""
    import numpy as np

    bits = bits_of(frame.format)
    found = planes(frame if bits == 8 else frame.reformat(format=f"gray{bits}le"))[0].astype(np.float32)
    low, span = (0, 2**bits - 1) if full_range else (16 << (bits - 8), 219 << (bits - 8))
    found -= low
    found /= span
    return np.clip(found, 0, 1, out=found)


def rgb(frame: Any, matrix: int, *, full_range: bool, reformat: Any) -> "ndarray":
    """Return a YUV frame of more than 8 bits (H, W, 3) as float32 from 0 to 1.

    R = Y + 2 (1 - k_r) V, B = Y + 2 (1 - k_b) U, and G from Y = k_r R + (1 - k_r - k_b) G + k_b B.
    """
    import numpy as np

    bits = bits_of(frame.format)
    # of equal sizes and depth: only the chroma is resampled
    y, u, v = (part.astype(np.float32) for part in planes(reformat(frame, format=f"yuv444p{bits}le")))
    step = 1 << (bits - 8)
    low, span, chroma = (0, 2**bits - 1, 2**bits - 1) if full_range else (16 * step, 219 * step, 224 * step)
    if matrix == IDENTITY:
        found = (np.stack([v, y, u], -1) - low) / span
    else:
        red, blue = WEIGHTS[matrix]
        y = (y - low) / span
        u, v = ((part - 128 * step) / chroma for part in (u, v))
        r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
        found = np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1)
    return np.clip(found, 0, 1, out=found)
