"""What metrics see of an image file: how it is read, and at which scale it is viewed."""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import update_wrapper
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from damlpips.evaluation.datasets import members
from damlpips.files import identity, open_regular, reason
from damlpips.scoring.images import ScoringError, decode_image, limited, pillow, read_image
from damlpips.version import SCORES

# of a file to uint8 RGB (3, H, W)
Reader = Callable[[Path], Tensor]

# bytes of pixels: a thousand images of 512 x 384
MOST_KEPT = 600_000_000


class KeptImages:
    """A reader that does not read again what it read last, up to `most` bytes of pixels, unless the file has changed.

    It has the name of the function that it reads with, since what it reads is the same; errors are that function's.
    """

    def __init__(self, read: Reader, most: int = MOST_KEPT) -> None:
        update_wrapper(self, read)
        self.read, self.most = read, most
        self._images: OrderedDict[tuple[Path, tuple[int, ...]], Tensor] = OrderedDict()
        self._bytes = 0

    def __call__(self, path: Path) -> Tensor:
        try:
            key = path, identity(members.file_of(path))
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return self.read(path)  # whose error says more
        if key in self._images:
            self._images.move_to_end(key)
            return self._images[key]
        self._images[key] = image = self.read(path)
        self._bytes += image.nbytes
        while self._bytes > self.most:
            self._bytes -= self._images.popitem(last=False)[1].nbytes
        return image


def read_without_alpha(path: Path) -> Tensor:
    """Return an image file's pixels as uint8 RGB (3, H, W), whatever its alpha channel says.

    Some of the inverted images of the challenge set have edges that are transparent by a tenth; the study compared
    their colours all the same. Errors are those of `read_image`.
    """
    pil = pillow()
    try:
        with open_regular(path) as file, limited(), pil.Image.open(file) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except Exception as error:  # each of Pillow's readers has its own kinds of errors for a damaged file
        what = reason(error) if isinstance(error, OSError) else f"damaged image ({error})"
        raise ScoringError(f"{path}: {what}") from error


def read_judged(path: Path) -> Tensor:
    """Return the pixels of an image file as `read_image` does, also of one inside a shard."""
    return members.read(path, read_image, decode_image)


# a file's pixels are the same: distances that were kept under the second name stay good
SAME = {f"{__name__}.read_judged": "damlpips.scoring.images.read_image"}


@dataclass(frozen=True)
class View:
    """How metrics see images.

    Attributes:
        read: from a file to its pixels: a function of a module, under whose name distances are kept; or `KeptImages`.
        shorter_side: in pixels; images with a longer one are averaged down to it first: the viewing scale. None leaves
            every image as it is.
    """

    read: Reader = read_judged
    shorter_side: int | None = None

    def __post_init__(self) -> None:
        if self.shorter_side is not None and self.shorter_side < 1:
            raise ValueError(f"shorter_side: expected at least 1 pixel, got {self.shorter_side}")

    def keeping_images(self) -> "View":
        """Return this view, by a reader that reads each image once."""
        return replace(self, read=KeptImages(self.read))

    def of(self, pixels: Tensor, device: torch.device) -> Tensor:
        """Return what a metric sees of an image's pixels, uint8 (3, H, W): (1, 3, h, w) in [0, 1]."""
        return scaled_down(pixels[None].to(device).float() / 255, self.shorter_side)

    def described(self) -> str:
        """Return a text of everything that what metrics see depends on besides the file."""
        read = f"{self.read.__module__}.{self.read.__qualname__}"
        of = {
            "read": SAME.get(read, read),
            "pillow": version("pillow"),
            "scores": SCORES,
            "shorter_side": self.shorter_side,
        }
        return json.dumps(of)


def scaled_down(x: Tensor, shorter_side: int | None) -> Tensor:
    """Return images (N, 3, H, W) in [0, 1] averaged down to a shorter side; those without a longer one as they are."""
    if shorter_side is None or min(x.shape[2:]) <= shorter_side:
        return x
    factor = shorter_side / min(x.shape[2:])
    size = [round(side * factor) for side in x.shape[2:]]
    # rounding leaves values a step outside the range, which some metrics refuse
    return F.interpolate(x, size, mode="bilinear", antialias=True).clamp(0, 1)


AS_IS = View()
