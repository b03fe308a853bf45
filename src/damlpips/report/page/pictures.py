"""The pictures of a pair as the page holds them: small, as data URIs, and only of the very files that were scored."""

import warnings
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from damlpips.files import digest, reason, unspelled
from damlpips.models.base import PerceptualDistance
from damlpips.report import heat
from damlpips.report.figure import as_bytes, measure
from damlpips.report.page.reading import ScoredPair
from damlpips.report.page.rebuilding import Rebuilt
from damlpips.scoring.images import ScoringError, read_still
from damlpips.scoring.reading import FileWarning

SIDE = 480
# JPEG without chroma subsampling, which hides coloured noise; WebP always has it. A heat map can do with it.
PHOTO = {"format": "JPEG", "quality": 90, "subsampling": 0}
HEAT = {"format": "JPEG", "quality": 80}
# Another device or batch changes the last digits. A larger difference means that something else was scored.
TOLERANCE = 0.01
LEAST_SCORE = 0.01


@dataclass
class PairImages:
    """What there is to see of a pair.

    Attributes:
        reference, result, heat: data URIs; empty where there is nothing to show.
        size: width and height of the pictures in pixels.
        notes: what is missing, and why.
    """

    pair: ScoredPair
    reference: str = ""
    result: str = ""
    heat: str = ""
    size: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Map:
    """A map (H, W), the result below it (H, W, 3) in [0, 1], and where the map's own colours would end."""

    images: PairImages
    values: heat.Floats
    result: heat.Floats
    end: float


@dataclass
class ImageRenderer:
    """Makes the pictures of a section's pairs.

    Attributes:
        rebuilt: the metric of the rows, for heat maps.
        side: the largest side of a picture in pixels.
        folder: what relative paths of rows start from.
        moved: called after each pair.
        limit: where the colours of all heat maps end, once they are rendered.
    """

    rebuilt: Rebuilt
    side: int
    folder: Path
    moved: Callable[[], None]
    limit: float = field(default=1.0, init=False)
    _maps: list[_Map] = field(default_factory=list, init=False)

    def render(self, lists: Iterable[Sequence[ScoredPair]]) -> list[list[PairImages]]:
        """Return the pictures of lists of pairs. Their heat maps share one scale, so that they compare."""
        rendered = [[self._rendered(pair) for pair in pairs] for pairs in lists]
        self.limit = max((m.end for m in self._maps), default=0.0) or 1.0
        for drawn in self._maps:
            coloured = np.rint(heat.overlay(drawn.values, drawn.result, self.limit) * 255).astype(np.uint8)
            drawn.images.heat = _uri(PIL.Image.fromarray(coloured), drawn.images.size, HEAT)
        self._maps.clear()
        return rendered

    def _rendered(self, pair: ScoredPair) -> PairImages:
        """Return the pictures of a pair but for its heat map, which waits for the others'."""
        images = PairImages(pair)
        if (found := self._read(images)) is not None:
            distorted, reference = found if self.rebuilt.model is None else self._measured(images, *found)
            pictures = [_picture(image) for image in (reference, distorted)]
            images.size = _within(pictures[1].size, self.side)
            images.reference, images.result = (_uri(picture, images.size, PHOTO) for picture in pictures)
        self.moved()
        return images

    def _read(self, images: PairImages) -> tuple[Tensor, Tensor] | None:
        """Return both images; None, and a note, where one is missing."""
        found, missing = [], {}
        pair = images.pair
        for what, name, expected in (
            ("result", pair.distorted, pair.sha256),
            ("reference", pair.reference, pair.reference_sha256),
        ):
            try:
                found.append(self._image(self.folder / unspelled(name), expected))
            except OSError as error:
                missing[what] = reason(error)
            except ScoringError as error:
                missing[what] = str(error)
        if len(set(missing.values())) < len(missing):
            images.notes.append(f"Neither picture is shown: {missing['result']}.")
        else:
            images.notes += [f"The {what} is not shown: {why}." for what, why in missing.items()]
        return (found[0], found[1]) if len(found) == 2 else None

    def _image(self, path: Path, expected: str) -> Tensor:
        """Return the pixels of a file, if it is the one that was scored: no other file gets onto the page."""
        if digest(path) != expected:
            raise ScoringError("the file has changed since it was scored")
        with warnings.catch_warnings():
            # what is remarkable about a file was said when it was scored
            warnings.simplefilter("ignore", FileWarning)
            return read_still(path, deep=True, reading=self.rebuilt.reading).pixels

    def _measured(self, images: PairImages, distorted: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images as they were compared, and keep the map of a pair that scores what its row says."""
        model, score = self.rebuilt.model, images.pair.score
        assert isinstance(model, PerceptualDistance)
        assert score is not None  # pairs without one have no pictures
        pair = [image.to(model.anchor.device) for image in (distorted, reference)]
        if pair[0].dtype != pair[1].dtype:  # 8 bits beside 16
            pair = [image / 255 if image.dtype == torch.uint8 else image for image in pair]
        try:
            found = measure(model, *pair)
        except (TypeError, ValueError) as error:
            images.notes.append(f"No heat map: {error}.")
            return distorted, reference
        if abs(found.score - score) > TOLERANCE * max(abs(score), LEAST_SCORE):
            images.notes.append(f"No heat map: scored again, the pair has {found.score:.4g}.")
            return distorted, reference
        height, width = found.map.shape
        size = _within((width, height), self.side)
        values = found.map.float().clamp(min=0)
        small = interpolate(values[None, None], size=(size[1], size[0]), mode="area")[0, 0].numpy()
        result = np.asarray(_picture(found.distorted).resize(size), np.float32) / 255
        self._maps.append(_Map(images, small, result, heat.limit(values.numpy()) if values.any() else 0.0))
        return found.distorted, found.reference


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size of a picture, width and height, no side of which is above `side`."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _picture(image: Tensor) -> PIL.Image.Image:
    """Return (3, H, W), uint8 or floats in [0, 1], as an image of Pillow's."""
    return PIL.Image.fromarray(as_bytes(image).permute(1, 2, 0).contiguous().numpy())


def _uri(image: PIL.Image.Image, size: tuple[int, int], options: Mapping[str, Any]) -> str:
    """Return an image as a data URI. Metadata, such as where a photograph was taken, are dropped."""
    if image.size != size:
        image = image.resize(size, resample=PIL.Image.Resampling.LANCZOS, reducing_gap=3.0)
    content = BytesIO()
    # without `optimize`, for which Pillow needs the whole picture in one buffer and guesses its size too low for noise
    image.save(content, **options)
    return f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"
