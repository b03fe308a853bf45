"""Judged pairs of files to what heads weigh: each channel's mean squared difference, kept on disk.

A head only weighs channels, and a distance is a mean over places; so LPIPS is linear in these numbers, and an epoch
needs no image. Beside each mean is kept how much it varies when single places are left out, for `dropped`.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from damlpips.calibration.choices import Choices, sha256
from damlpips.evaluation.judgements import FilePair
from damlpips.evaluation.views import View
from damlpips.files import reason, replacing
from damlpips.models.lpips import LPIPS
from damlpips.nets.table import BACKBONES
from damlpips.ops import distance
from damlpips.scoring.images import ScoringError
from damlpips.version import SCORES

# pixels of the images that go through a network at a time: 64 patches of 64 x 64, or one pair of photographs
PASS_PIXELS = 1 << 18
# pairs that one process reads after each other
READ_PAIRS = 64
# pairs whose numbers are held in float64 at a time: 38 MB for alex
BLOCK = 1 << 12
# of the numbers of a pair: the means, and how they vary
PARTS = 2

# called with how many distinct pairs are done, and of how many
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Differences:
    """What heads weigh, of each distinct pair of some choices.

    Attributes:
        table: (pairs, 2, channels), float32, mapped from disk.
    """

    table: np.memmap[Any, Any]

    def __getstate__(self) -> dict[str, Any]:
        # another process maps the table as well, and gets no copy
        return {**vars(self), "table": self.table.filename}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, table=np.load(state["table"], mmap_mode="r"))

    def distances(self, weights: Tensor) -> NDArray[np.float64]:
        """Return the distance of each pair by heads one behind the other, (pairs,)."""
        w = weights.double().numpy()
        # block by block: the whole table may not fit in memory
        blocks = range(0, len(self.table), BLOCK)
        _advise(self.table, "MADV_SEQUENTIAL")
        found = np.concatenate([self.table[k : k + BLOCK, 0] @ w for k in blocks])
        _advise(self.table, "MADV_RANDOM")
        return found

    def of(self, *rows: NDArray[np.intp]) -> tuple[Tensor, ...]:
        """Return the numbers of the pairs in some rows, (n, 2, channels) each."""
        return tuple(torch.from_numpy(self.table[of]) for of in rows)


def _advise(table: NDArray[np.float32], advice: str) -> None:
    """Tell the system how a table is read that the memory cannot hold, where it can be told.

    Around each row of a random order it otherwise reads a megabyte.
    """
    mapped = getattr(table, "_mmap", None)
    if mapped is not None and hasattr(mmap, advice) and table.nbytes > memory() / 2:
        mapped.madvise(getattr(mmap, advice))


def memory() -> int:
    """Return the bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def differences(
    choices: Choices,
    metric: LPIPS,
    stack: ExitStack,
    *,
    cache: Path | None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Differences:
    """Return the numbers of all pairs from a folder, computed if they are not there.

    Args:
        stack: holds the folder, where there is no cache.
        cache: the folder where the numbers are kept, under the digests of the images and the network.
        workers: processes that read images; 0: this one does.

    Raises:
        ScoringError: an image that cannot be read or compared (names the judgement and the files); numbers that cannot
            be kept.
    """
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="damlpips-"))) if cache is None else Path(cache)
    view = View()
    of_files = [[choices.digests[reference], choices.digests[distorted]] for reference, distorted in choices.pairs]
    path = folder / f"{sha256([network(metric), SCORES, view.described(), of_files])}.npy"
    shape = (len(choices.pairs), PARTS, sum(channels(metric)))
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as whole, open(whole, "wb") as file:
                _fill(_Table(file, shape), metric, choices, view, workers, progress)
        found = np.load(path, mmap_mode="r")
    except ScoringError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no array
        raise ScoringError(f"{path}: {reason(error) if isinstance(error, OSError) else error}") from error
    if found.shape != shape or found.dtype != np.float32:
        raise ScoringError(f"{path}: {found.dtype} {found.shape}, expected float32 {shape}: delete it")
    _advise(found, "MADV_RANDOM")
    return Differences(found)


class _Table:
    """An array in a file that is written in any order: where the disk is full, a mapped one would end the process.

    Its space is taken at once, where the system can: a full disk is then an error before the first image is read.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...]) -> None:
        empty = np.lib.format.header_data_from_array_1_0(np.empty((0, *shape[1:]), np.float32))
        np.lib.format.write_array_header_1_0(file, {**empty, "shape": shape})
        self.file, self.start = file, file.tell()
        self.row = int(np.prod(shape[1:])) * np.dtype(np.float32).itemsize
        length = self.start + shape[0] * self.row
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, length)
        else:
            file.truncate(length)

    def __setitem__(self, rows: Sequence[int], values: NDArray[np.float32]) -> None:
        for row, value in zip(rows, values, strict=True):
            self.file.seek(self.start + row * self.row)
            self.file.write(value.tobytes())


def channels(metric: LPIPS) -> tuple[int, ...]:
    """Return the channels of each layer of a network that is known by name, as heads from a file need it."""
    name = metric.source.backbone
    if not isinstance(name, str) or name not in BACKBONES:
        raise ValueError(f"backbone: expected one of {', '.join(BACKBONES)}, to which heads can belong, got {name!r}")
    return BACKBONES[name].channels


def network(metric: LPIPS) -> dict[str, object]:
    """Return what the numbers depend on besides the images: the configuration of the metric without its heads."""
    found = {name: value for name, value in metric.load().configuration().items() if name != "heads"}
    return {**found, "device": metric.encoder.device.type}


class _Images(NamedTuple):
    """Images of one size, each once: (m, 3, H, W); and some pairs of them, by their numbers and by their images."""

    pixels: Tensor
    pairs: list[int]
    one: list[int]
    other: list[int]


class _Read(IterableDataset):
    """The images of pairs, those of one size and of few pixels together; several processes share the pairs.

    Which images come together does not depend on how many processes there are: nor do the last bits of what is
    computed of them.
    """

    def __init__(self, pairs: Sequence[FilePair], view: View) -> None:
        self.pairs, self.view = pairs, view
        # pairs of one reference after each other
        first = {reference: k for k, (reference, _) in reversed(list(enumerate(pairs)))}
        self.order = np.array(sorted(range(len(pairs)), key=lambda k: first[pairs[k][0]]), np.intp)

    def __iter__(self) -> Iterator[_Images | tuple[int, str]]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for start in range(number * READ_PAIRS, len(self.order), count * READ_PAIRS):
            yield from self._block(self.order[start : start + READ_PAIRS].tolist())

    def _block(self, numbers: Sequence[int]) -> Iterator[_Images | tuple[int, str]]:
        waiting: list[int] = []
        images: dict[Path, Tensor] = {}
        for k in numbers:
            try:
                one, other = (images[path] if path in images else self.view.read(path) for path in self.pairs[k])
                if one.shape != other.shape:
                    sizes = [f"{height} x {width}" for _, height, width in (other.shape, one.shape)]
                    raise ScoringError(
                        f"{self.pairs[k][1]}: {sizes[0]} pixels, {self.pairs[k][0]} {sizes[1]}: expected one size"
                    )
            except ScoringError as error:
                yield k, str(error)  # raised here it would come as another one, of another process
                return
            full = (len(images) + 2) * one[0].numel() > PASS_PIXELS
            if waiting and (full or next(iter(images.values())).shape != one.shape):
                yield self._together(waiting, images)
                waiting, images = [], {}
            waiting.append(k)
            images |= {self.pairs[k][0]: one, self.pairs[k][1]: other}
        yield self._together(waiting, images)

    def _together(self, numbers: list[int], images: dict[Path, Tensor]) -> _Images:
        rows = {path: row for row, path in enumerate(images)}
        one, other = ([rows[self.pairs[k][side]] for k in numbers] for side in (0, 1))
        return _Images(torch.stack(list(images.values())), numbers, one, other)


def _fill(table: _Table, metric: LPIPS, choices: Choices, view: View, workers: int, progress: Progress | None) -> None:
    """Compute the numbers of all pairs."""
    # a generator of its own: the loader would draw from torch's
    own: dict[str, Any] = {"batch_size": None, "generator": torch.Generator()}
    done = 0
    for images in DataLoader(_Read(choices.pairs, view), num_workers=workers, **own):
        if not isinstance(images, _Images):
            pair, what = images
            raise ScoringError(f"{choices.where(pair)}: {what}")
        table[images.pairs] = _numbers(metric, images, choices).numpy()
        done += len(images.pairs)
        if progress is not None:
            progress(done, len(choices.pairs))


@torch.no_grad()
def _numbers(metric: LPIPS, images: _Images, choices: Choices) -> Tensor:
    """Return the numbers of pairs of images of one size, (n, 2, channels)."""

    def named(k: int) -> str:
        reference, distorted = choices.pairs[images.pairs[k]]
        return f"{choices.where(images.pairs[k])}: {distorted} against {reference}"

    try:
        maps = metric.encode(images.pixels.to(metric.encoder.device)).features
    except (ValueError, RuntimeError) as error:
        raise ScoringError(f"{named(0)}: {error}") from error
    layers = [torch.stack(statistics(m[images.one], m[images.other]), 1) for m in maps]
    found = torch.cat(layers, 2).float().cpu()
    if not bool((finite := found.isfinite().flatten(1).all(1)).all()):
        raise ScoringError(f"{named(int((~finite).nonzero()[0]))}: features are not finite")
    return found


def statistics(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each channel's squared difference the mean over places, and its noise by `dropped`, each (N, C).

    x_cp = (a^_cp - b^_cp)^2;    mean_c = sum_p x_cp / P;    noise_c = sqrt(sum_p x_cp^2) / P
    """
    squared = (distance.unit(a) - distance.unit(b)).square().flatten(2)
    return squared.mean(2), squared.square().sum(2).sqrt() / squared.shape[2]


def dropped(mean: Tensor, noise: Tensor, share: float, normal: Tensor) -> Tensor:
    """Return means over places as if a share q of the squared differences had been dropped, the rest scaled up.

    Dropout of the maps, x_cp m_cp / (1 - q) with P(m_cp = 1) = 1 - q, has the mean mean_c and the variance
    q / (1 - q) noise_c^2, each channel for itself, and no value below 0. Here it is log-normal with these, and made of
    normal numbers, one for each mean.
    """
    # a channel without any difference has no noise, either
    relative = noise / mean.clamp(min=torch.finfo(mean.dtype).tiny)
    spread = torch.log1p(share / (1 - share) * relative.square())
    return mean * torch.exp(spread.sqrt() * normal - spread / 2)
