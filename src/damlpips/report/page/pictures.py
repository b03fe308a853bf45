"""The pictures of a pair as a page holds them: small, as data URIs, and only of files that are what was scored."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from damlpips.files import digest, reason
from damlpips.models.base import PerceptualDistance
from damlpips.report import panels
from damlpips.report.figure import measure
from damlpips.report.page.reading import ScoredPair
from damlpips.report.page.rebuilding import Rebuilt
from damlpips.scoring.images import ScoringError, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 480
# JPEG with its colours in full: halved ones, as WebP's, would hide coloured noise. Heat maps need no such care.
PHOTO = {"format": "JPEG", "quality": 90, "subsampling": 0}
HEAT = {"format": "JPEG", "quality": 80}
# Another device or batch changes the last digits. More than that, and something else than the row says was scored.
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
    """A map in a picture's size, the result in grey below it, and where its own colours would end."""

    looks: PairImages
    values: NDArray[np.float32]
    grey: NDArray[np.float32]
    end: float


class ImageRenderer:
    """Makes the pictures of a section's pairs.

    Args:
        rebuilt: the metric of the rows, for heat maps.
        side: the largest side of a picture in pixels.
        folder: what relative paths of rows start from.
        moved: called after each pair.
    """

    def __init__(
        self,
        rebuilt: Rebuilt,
        *,
        side: int = SIDE,
        folder: Path = Path(),
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._rebuilt = rebuilt
        self._side = side
        self._folder = folder
        self._moved = moved
        self._maps: list[_Map] = []
        self.limit = 0.0

    def look(self, pair: ScoredPair) -> PairImages:
        """Return the pictures of a pair; heat maps come with `finish`."""
        looks = PairImages(pair)
        if (images := self._read(looks)) is not None:
            self._show(looks, *images)
        self._moved()
        return looks

    def _show(self, looks: PairImages, distorted: Tensor, reference: Tensor) -> None:
        if self._rebuilt.model is not None:
            distorted, reference = self._measured(looks, self._rebuilt.model, distorted, reference)
        pictures = [_picture(image) for image in (reference, distorted)]
        looks.size = _within(pictures[1].size, self._side)
        looks.reference, looks.result = (_uri(picture, looks.size, PHOTO) for picture in pictures)

    def finish(self) -> None:
        """Colour the heat maps, all up to the same value, so that they compare."""
        self.limit = max((m.end for m in self._maps), default=0.0) or 1.0
        for drawn in self._maps:
            image = _heat(drawn.values, drawn.grey, self.limit)
            drawn.looks.heat = _uri(image, image.size, HEAT)
        self._maps.clear()

    def _read(self, looks: PairImages) -> tuple[Tensor, Tensor] | None:
        found, missing = [], {}
        pair = looks.pair
        for what, name, expected in (
            ("result", pair.distorted, pair.sha256),
            ("reference", pair.reference, pair.reference_sha256),
        ):
            try:
                found.append(self._image(self._folder / name, expected))
            except OSError as error:
                missing[what] = reason(error)
            except ScoringError as error:
                missing[what] = str(error)
        if len(set(missing.values())) < len(missing):
            looks.notes.append(f"Neither picture is shown: {missing['result']}.")
        else:
            looks.notes += [f"The {what} is not shown: {why}." for what, why in missing.items()]
        return (found[0], found[1]) if len(found) == 2 else None

    def _image(self, path: Path, expected: str) -> Tensor:
        """Return the pixels of a file, if it is the one that was scored: nothing else of a disk gets on a page."""
        if digest(path) != expected:
            raise ScoringError("the file has changed since it was scored")
        return read_image(path, alpha=self._rebuilt.alpha, deep=True)

    def _measured(
        self, looks: PairImages, model: PerceptualDistance, distorted: Tensor, reference: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the images as they were compared, and keep the map of a pair that scores what its row says."""
        score = looks.pair.score
        assert score is not None  # pairs without one have no pictures
        images = [image.to(model.anchor.device) for image in (distorted, reference)]
        if images[0].dtype != images[1].dtype:  # 8 bits beside 16
            images = [image / 255 if image.dtype == torch.uint8 else image for image in images]
        try:
            found = measure(model, *images)
        except (TypeError, ValueError) as error:
            looks.notes.append(f"No heat map: {error}.")
            return distorted, reference
        if abs(found.score - score) > TOLERANCE * max(abs(score), LEAST_SCORE):
            looks.notes.append(f"No heat map: scored again, the pair has {found.score:.4g}.")
            return distorted, reference
        size = _within((found.map.shape[1], found.map.shape[0]), self._side)
        values = found.map.float().clamp(min=0)
        end = _end(values.numpy())
        small = interpolate(values[None, None], size=(size[1], size[0]), mode="area")[0, 0].numpy()
        grey = np.asarray(_picture(found.distorted).resize(size), np.float32) @ np.array(panels.LUMA, np.float32)
        self._maps.append(_Map(looks, small, grey, end))
        return found.distorted, found.reference


def _end(values: NDArray[np.float32]) -> float:
    """Return what a hundredth of the places exceed."""
    return float(np.quantile(values, panels.BRIGHTEST)) or float(values.max())


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size of a picture, width and height, no side of which is above `side`."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _picture(image: Tensor) -> "Image":
    """Return (3, H, W), uint8 or floats in [0, 1], as an image of Pillow's."""
    import PIL.Image

    values = image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).to(torch.uint8)
    return PIL.Image.fromarray(values.permute(1, 2, 0).contiguous().cpu().numpy())


def _heat(values: NDArray[np.float32], grey: NDArray[np.float32], limit: float) -> "Image":
    """Return a map over the grey result, in the colours and with the cover of `damlpips map`."""
    import PIL.Image
    from matplotlib import colormaps

    norm = np.clip(values / limit, 0, 1) ** panels.EXPONENT
    cover = (panels.LEAST_COVER + (panels.MOST_COVER - panels.LEAST_COVER) * norm)[..., None]
    mixed = cover * colormaps[panels.COLOURS](norm)[..., :3] * 255 + (1 - cover) * grey[..., None]
    return PIL.Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def _uri(image: "Image", size: tuple[int, int], options: Mapping[str, Any]) -> str:
    """Return an image as a data URI. Everything but its pixels, as where a photograph was taken, is left behind."""
    if image.size != size:
        image = image.resize(size, resample=_lanczos(), reducing_gap=3.0)
    content = BytesIO()
    # not optimised: for that Pillow wants all of a picture in a buffer, whose size it guesses too low for noise
    image.save(content, **options)
    return f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"


def _lanczos() -> Any:
    from PIL.Image import Resampling

    return Resampling.LANCZOS


def colours(count: int, name: str = panels.COLOURS, first: float = 0.0, last: float = 1.0) -> list[str]:
    """Return evenly spaced colours of a scale as `#rrggbb`."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[name](value)) for value in np.linspace(first, last, count)]


def all_looks(studio: ImageRenderer, lists: Iterable[Sequence[ScoredPair]]) -> list[list[PairImages]]:
    """Return the pictures of lists of pairs, heat maps and all."""
    found = [[studio.look(pair) for pair in pairs] for pairs in lists]
    studio.finish()
    return found
