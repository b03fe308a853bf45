"""The heat map: a spatial map in colours, over the distorted image in grey.

Colours grow with the root of the value, since a few pixels differ by far the most. Where the images agree, the grey
image shows through.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.colors import PowerNorm

Floats = NDArray[np.floating]

# Lightness grows with the value, for every kind of colour vision and in print; zero is dark, and so is all below it.
COLOURS = "magma"
EXPONENT = 0.5
# The colours end at this quantile of a map: the few pixels above it share the brightest one.
BRIGHTEST = 0.99
# How much of the grey image the colours hide, where the map is 0 and where it is highest.
LEAST_COVER, MOST_COVER = 0.4, 1.0
# ITU-R BT.601's luma, as Pillow makes grey of RGB
LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def require_matplotlib(extra: str = "viz") -> None:
    """Raise an ImportError that names the extra to install, unless matplotlib is there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(f"drawing pictures needs matplotlib: pip install 'damlpips[{extra}]'") from error


def limit(values: Floats) -> float:
    """Return where the colours of a map end: at what one pixel in a hundred exceeds, or if that is 0 at the highest.

    Example:
        >>> limit(np.zeros((4, 4))), limit(np.eye(4))
        (1.0, 1.0)
    """
    for end in (float(np.quantile(values, BRIGHTEST)), float(values.max())):
        if end > 0:
            return end
    return 1.0


def scale(values: Floats, end: float) -> "PowerNorm":
    """Return what brings the values of a map to [0, 1], where the colours end at `end`."""
    from matplotlib.colors import PowerNorm

    # a map may be negative: heads that are read from a file may be
    return PowerNorm(EXPONENT, min(0.0, float(values.min())), end, clip=True)


def cover(shares: ArrayLike) -> Floats:
    """Return how opaque the colours are, for what `scale` made of a map."""
    return LEAST_COVER + (MOST_COVER - LEAST_COVER) * np.asarray(shares)


def grey(image: NDArray) -> Floats:
    """Return the grey of an image (H, W, 3), (H, W), in the image's own range."""
    return image @ LUMA


def overlay(values: Floats, image: NDArray, end: float) -> Floats:
    """Return a map (H, W) in colours up to `end`, over an image (H, W, 3) in [0, 1] in grey; (H, W, 3) in [0, 1].

    mixed = c colour(s) + (1 - c) grey,    s = (value / end)^EXPONENT,    c = cover(s)
    """
    from matplotlib import colormaps

    shares = scale(values, end)(values).filled(1.0)
    opaque = cover(shares)[..., None]
    return np.clip(opaque * colormaps[COLOURS](shares)[..., :3] + (1 - opaque) * grey(image)[..., None], 0, 1)


def palette(count: int, name: str = COLOURS, first: float = 0.0, last: float = 1.0) -> list[str]:
    """Return evenly spaced colours of a scale of matplotlib's, as `#rrggbb`."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[name](share)) for share in np.linspace(first, last, count)]
