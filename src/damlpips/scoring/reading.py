"""How files of images and videos are read: the options, the error, and notes on what could not be told."""

import warnings
from dataclasses import asdict, dataclass
from typing import TypedDict

# What to do with transparent pixels: their score depends on the background.
ALPHA = ("error", "white", "black")
# What to do with colours that a file states: bring them to sRGB, or take the numbers as they are.
COLOUR = ("convert", "ignore")
# What to do with a rotation that a file's metadata state.
ORIENTATION = ("apply", "ignore")


class ScoringError(ValueError):
    """A file cannot be paired, read or scored; the message names it."""


class FileWarning(UserWarning):
    """Something about a file that may not be as it was meant, though every pixel of it was read."""


class ReadingOptions(TypedDict, total=False):
    """The fields of `Reading`, as keywords."""

    alpha: str
    colour: str
    orientation: str
    max_pixels: int | None


@dataclass(frozen=True)
class Reading:
    """How files become pixels.

    Attributes:
        alpha: transparent pixels: "error" refuses them, "white" and "black" are backgrounds.
        colour: "convert" brings stills to sRGB from the colours that they state; "ignore" takes their numbers as sRGB.
        orientation: "apply" rotates as the metadata say; "ignore" leaves pixels as they are stored.
        max_pixels: the most pixels of an image; None for Pillow's own limit, `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises:
        ValueError: an option is not one of these.
    """

    alpha: str = "error"
    colour: str = "convert"
    orientation: str = "apply"
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("alpha", ALPHA), ("colour", COLOUR), ("orientation", ORIENTATION)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"max_pixels: expected at least 1, got {self.max_pixels}")

    def in_rows(self) -> dict[str, str]:
        """Return what rows say of the options: all that a score depends on."""
        return {name: value for name, value in asdict(self).items() if name != "max_pixels"}


def note(text: str) -> None:
    """Warn of what could not be told about a file."""
    warnings.warn(text, FileWarning, stacklevel=1)
