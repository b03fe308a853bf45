"""The rotation that a file's metadata state, as Exif numbers it: 1 as stored, 2 to 8 mirrored or in quarter turns."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import ndarray

# of Exif and TIFF
TAG = 0x0112
# what brings each upright: a method of Pillow's
TRANSPOSES = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# the same for an array: how many quarter turns counter-clockwise, after it was mirrored left to right or not
TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}


def known(value: Any) -> int:
    """Return an orientation that a file states, 1 for what is none."""
    return int(value) if value in TRANSPOSES else 1


def inverse(orientation: int) -> int:
    """Return the orientation that undoes another."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def image_upright(image: Any, orientation: int) -> Any:
    """Return one of Pillow's images as it is to be shown."""
    from PIL.Image import Transpose

    return image if orientation == 1 else image.transpose(Transpose[TRANSPOSES[orientation]])


def array_upright(values: "ndarray", orientation: int) -> "ndarray":
    """Return an array (H, W, C) as it is to be shown."""
    import numpy as np

    turns, mirrored = TURNS.get(orientation, (0, False))
    return np.rot90(values[:, ::-1] if mirrored else values, turns)


def remark(stills: Sequence[tuple[Path | str, int]]) -> str:
    """Return a remark on images that are shown rotated, if only some of them are; otherwise nothing.

    Args:
        stills: for each file the orientation by which its pixels were rotated.

    Example:
        >>> remark([("a.jpg", 6), ("b.png", 1)])
        "a.jpg is rotated by its Exif orientation 6 and b.png is not: use orientation='ignore' to compare stored pixels"
    """
    turned = [(path, applied) for path, applied in stills if applied != 1]
    if len(turned) in (0, len(stills)):
        return ""
    (path, applied), *_ = turned
    others = ", ".join(str(other) for other, upright in stills if upright == 1)
    return (
        f"{path} is rotated by its Exif orientation {applied} and {others} is not:"
        " use orientation='ignore' to compare stored pixels"
    )


def explained(error: Exception, rotated: str) -> str:
    """Return the text of an error, with a remark on rotation in the place of the advice to resize, if there is one.

    Example:
        >>> explained(ValueError("not of one size: use resize='reference'"), "a.jpg is rotated and b.png is not")
        'not of one size: a.jpg is rotated and b.png is not'
    """
    found, advice, _ = str(error).partition(": use resize=")
    return f"{found}: {rotated}" if advice and rotated else str(error)
