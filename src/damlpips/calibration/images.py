"""The images of pairs of files, read for each batch: what a network is learned from."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from damlpips.calibration.choices import Where
from damlpips.calibration.differences import Progress
from damlpips.evaluation.judgements import FilePair
from damlpips.evaluation.views import AS_IS, View
from damlpips.models.lpips import LPIPS
from damlpips.scoring.images import ScoringError

# pairs whose images are held at a time where nothing is learned
PASS_PAIRS = 50


class Images(NamedTuple):
    """Pairs of images of one size.

    Attributes:
        pixels: each image once, uint8 (m, 3, H, W).
        one, other: the rows of `pixels` of each pair, (k,).
        places: where each pair was asked for, (k,).
    """

    pixels: Tensor
    one: Tensor
    other: Tensor
    places: Tensor


class ImageFiles:
    """Pairs of files whose images are read when they are asked for.

    Args:
        least: of an image's sides, in pixels.
        where: which judgement a pair is of, for errors.
    """

    def __init__(self, pairs: Sequence[FilePair], least: int, where: Where, view: View = AS_IS) -> None:
        self.pairs, self.least, self.where, self.view = pairs, least, where, view

    def of(self, *rows: NDArray[np.intp]) -> list[Images]:
        """Return the images of the pairs in some rows, those of one size together.

        Raises:
            ScoringError: a file that cannot be read, images that are too small, or a pair in two sizes; names the
                judgement and the file.
        """
        numbers = np.concatenate(rows).tolist()
        pairs = [self.pairs[row] for row in numbers]
        images: dict[Path, Tensor] = {}
        for row, pair in zip(numbers, pairs, strict=True):
            try:
                images |= {path: self._read(path) for path in pair if path not in images}
                one, other = (images[path] for path in pair)
                if one.shape != other.shape:
                    raise ScoringError(f"{pair[1]}: {_size(other)} pixels, {pair[0]} {_size(one)}: expected one size")
            except ScoringError as error:
                raise ScoringError(f"{self.where(row)}: {error}") from error
        sizes = dict.fromkeys(image.shape for image in images.values())
        return [self._of_size(size, pairs, images) for size in sizes]

    def _of_size(self, size: torch.Size, pairs: list[FilePair], images: dict[Path, Tensor]) -> Images:
        paths = [path for path, image in images.items() if image.shape == size]
        rows = {path: k for k, path in enumerate(paths)}
        places = [k for k, pair in enumerate(pairs) if pair[0] in rows]
        one, other = (torch.tensor([rows[pairs[k][side]] for k in places]) for side in (0, 1))
        return Images(torch.stack([images[path] for path in paths]), one, other, torch.tensor(places))

    def _read(self, path: Path) -> Tensor:
        image = self.view.read(path)
        if min(image.shape[1:]) < self.least:
            raise ScoringError(f"{path}: {_size(image)} pixels, expected sides of at least {self.least}")
        return image


class Reading(Dataset):
    """What `read` returns for each key; of a process that reads the error as it is, which a loader would rewrite."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.read(key)
        except ScoringError as error:
            if get_worker_info() is None:
                raise
            return error


def loader(read: Callable[[Any], Any], keys: Iterable[Any], workers: int) -> DataLoader:
    """Return a loader of what `read` returns for each key, by some processes, or this one where there are none."""
    # a generator of its own: the loader would draw from torch's
    options: dict[str, Any] = {"batch_size": None, "generator": torch.Generator()}
    return DataLoader(Reading(read), sampler=keys, num_workers=workers, persistent_workers=workers > 0, **options)


def distances(
    metric: LPIPS, files: ImageFiles, rows: NDArray[np.intp], workers: int, progress: Progress | None = None
) -> NDArray[np.float64]:
    """Return the distances of the pairs in some rows, by the metric itself; those of the others are NaN, (pairs,)."""
    found = np.full(len(files.pairs), np.nan)
    batches = [rows[k : k + PASS_PAIRS] for k in range(0, len(rows), PASS_PAIRS)]
    done = 0
    for batch, of in zip(batches, loader(files.of, batches, workers), strict=True):
        if isinstance(of, ScoringError):
            raise of
        for images in of:
            pixels = images.pixels.to(metric.encoder.device)
            with torch.no_grad():
                found[batch[images.places]] = metric(pixels[images.one], pixels[images.other]).cpu().numpy()
        done += len(batch)
        if progress is not None:
            progress(done, len(rows))
    return found


def _size(image: Tensor) -> str:
    return "{} x {}".format(*image.shape[1:])
