"""Judged pairs of files to what heads weigh: each channel's mean squared difference, kept on disk.

A head only weighs channels, and a distance is a mean over places; so LPIPS is linear in these numbers, and an epoch
needs no image. Beside each mean is kept how much it varies when single places are left out, for `dropped`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from damlpips.evaluation.judgements import Choice, FilePair, JudgedSet
from damlpips.evaluation.views import View
from damlpips.files import digest, reason, replacing
from damlpips.models.lpips import LPIPS
from damlpips.nets.table import BACKBONES
from damlpips.ops import distance
from damlpips.scoring.images import ScoringError
from damlpips.version import SCORES

# pixels of the images that go through a network at a time: 64 patches of 64 x 64, or one pair of photographs
PASS_PIXELS = 1 << 18
# pairs whose numbers are held in float64 at a time: 38 MB for alex
BLOCK = 1 << 12
# of the numbers of a pair: the means, and how they vary
PARTS = 2

# called with how many distinct pairs are done, and of how many
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Choices:
    """Choices between two pairs of images, as the columns that heads are learned from.

    Attributes:
        table: (pairs, 2, channels), float32, of all distinct pairs, mapped from disk.
        first, second: the rows of `table` of each choice, (n,).
        share: of the votes, those for the second pair, (n,).
        votes: how many, (n,).
        keys: what each choice shares with others of its content: its content, and the digests of its files.
        sha256: of all of it but the table: files by digest, votes and contents, in order.
    """

    table: NDArray[np.float32]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    share: NDArray[np.float32]
    votes: NDArray[np.float32]
    keys: list[tuple[str, ...]]
    sha256: str

    def __len__(self) -> int:
        return len(self.first)

    def distances(self, weights: Tensor) -> NDArray[np.float64]:
        """Return the distance of both pairs of each choice by heads one behind the other, (n, 2)."""
        w = weights.double().numpy()
        # block by block: the whole table may not fit in memory
        blocks = range(0, len(self.table), BLOCK)
        of_pairs = np.concatenate([self.table[k : k + BLOCK, 0] @ w for k in blocks])
        return np.stack([of_pairs[self.first], of_pairs[self.second]], 1)


def read(
    sets: Sequence[JudgedSet], metric: LPIPS, stack: ExitStack, *, cache: Path | None, progress: Progress | None = None
) -> Choices:
    """Return the choices of all sets.

    Args:
        stack: holds the folder of the numbers, where there is no cache.
        cache: the folder where the numbers are kept, under the digests of the images and the network.

    Raises:
        ValueError: no sets, one that holds no choices, or votes that are none; names the set and the row.
        ScoringError: an image that cannot be read or compared; names the files.
    """
    choices = [_checked(judged, row) for judged in _of_choices(sets) for row in range(len(judged.judgements))]
    pairs = list(dict.fromkeys(pair for choice in choices for pair in choice.pairs))
    try:
        digests = {path: digest(path) for path in dict.fromkeys(path for pair in pairs for path in pair)}
    except OSError as error:
        raise ScoringError(f"{error.filename}: {reason(error)}") from error
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="damlpips-"))) if cache is None else Path(cache)
    table = _kept(metric, pairs, digests, folder, progress)
    rows = {pair: k for k, pair in enumerate(pairs)}
    votes = np.array([[choice.votes_a, choice.votes_b] for choice in choices], np.float64)
    names = [judged.name for judged in sets for _ in judged.judgements]
    keys = [
        (f"{name} {choice.content}", *(digests[path] for pair in choice.pairs for path in pair))
        for name, choice in zip(names, choices, strict=True)
    ]
    return Choices(
        table=table,
        first=np.array([rows[choice.a] for choice in choices]),
        second=np.array([rows[choice.b] for choice in choices]),
        share=(votes[:, 1] / votes.sum(1)).astype(np.float32),
        votes=votes.sum(1).astype(np.float32),
        keys=keys,
        sha256=_sha256([keys, votes.tolist()]),
    )


def _of_choices(sets: Sequence[JudgedSet]) -> Sequence[JudgedSet]:
    if not any(judged.judgements for judged in sets):
        raise ValueError("sets: expected choices to learn from, got none")
    for judged in sets:
        if judged.judgements and judged.kind_of_judgement is not Choice:
            raise ValueError(f"{judged.name}: expected choices (2AFC), got {judged.what}")
    return sets


def _checked(judged: JudgedSet, row: int) -> Choice:
    choice = judged.judgements[row]
    if not isinstance(choice, Choice):
        raise ValueError(f"{judged.name}, row {row}: expected a choice, got {type(choice).__name__}")
    votes = choice.votes_a, choice.votes_b
    if not (all(math.isfinite(count) and count >= 0 for count in votes) and sum(votes) > 0):
        raise ValueError(f"{judged.name}, row {row}: expected votes, 0 or more and not both 0, got {votes}")
    return choice


def _kept(
    metric: LPIPS, pairs: Sequence[FilePair], digests: dict[Path, str], folder: Path, progress: Progress | None
) -> NDArray[np.float32]:
    """Return the numbers of all pairs from the folder, computed if they are not there."""
    view = View().keeping_images()
    of_files = [[digests[reference], digests[distorted]] for reference, distorted in pairs]
    path = folder / f"{_sha256([network(metric), SCORES, view.described(), of_files])}.npy"
    shape = (len(pairs), PARTS, sum(channels(metric)))
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as whole:
                table = np.lib.format.open_memmap(whole, mode="w+", dtype=np.float32, shape=shape)
                _fill(table, metric, pairs, view, progress)
                table.flush()
                del table
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:  # ValueError: no array
        raise ScoringError(f"{path}: {reason(error) if isinstance(error, OSError) else error}") from error
    if found.shape != shape or found.dtype != np.float32:
        raise ScoringError(f"{path}: {found.dtype} {found.shape}, expected float32 {shape}: delete it")
    return found


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


def _fill(
    table: NDArray[np.float32],
    metric: LPIPS,
    pairs: Sequence[FilePair],
    view: View,
    progress: Progress | None,
) -> None:
    """Compute the numbers of all pairs: those of one reference, and of one size, after each other and together."""
    first = {reference: k for k, (reference, _) in reversed(list(enumerate(pairs)))}
    waiting: list[int] = []
    images: dict[Path, Tensor] = {}
    done = 0

    def compute() -> None:
        nonlocal done
        if waiting:
            table[waiting] = _numbers(metric, [pairs[k] for k in waiting], images).numpy()
            done += len(waiting)
            if progress is not None:
                progress(done, len(pairs))
        waiting.clear()
        images.clear()

    for k in sorted(range(len(pairs)), key=lambda k: first[pairs[k][0]]):
        one, other = (view.read(path) for path in pairs[k])
        if one.shape != other.shape:
            sizes = [f"{height} x {width}" for _, height, width in (other.shape, one.shape)]
            raise ScoringError(f"{pairs[k][1]}: {sizes[0]} pixels, {pairs[k][0]} {sizes[1]}: expected one size")
        full = (len(images) + 2) * one[0].numel() > PASS_PIXELS
        if full or any(image.shape != one.shape for image in images.values()):
            compute()
        waiting.append(k)
        images |= {pairs[k][0]: one, pairs[k][1]: other}
    compute()


@torch.no_grad()
def _numbers(metric: LPIPS, pairs: Sequence[FilePair], images: dict[Path, Tensor]) -> Tensor:
    """Return the numbers of pairs of images of one size, (n, 2, channels)."""
    rows = {path: k for k, path in enumerate(images)}
    first, second = ([rows[pair[k]] for pair in pairs] for k in (0, 1))
    try:
        maps = metric.encode(torch.stack(list(images.values())).to(metric.encoder.device)).features
    except (ValueError, RuntimeError) as error:
        raise ScoringError(f"{pairs[0][1]} against {pairs[0][0]}: {error}") from error
    layers = [torch.stack(statistics(m[first], m[second]), 1) for m in maps]
    found = torch.cat(layers, 2).float().cpu()
    if not bool((finite := found.isfinite().flatten(1).all(1)).all()):
        reference, distorted = pairs[int((~finite).nonzero()[0])]
        raise ScoringError(f"{distorted} against {reference}: features are not finite")
    return found


def statistics(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each channel's squared difference the mean over places, and its noise by `dropped`, each (N, C).

    x_cp = (a^_cp - b^_cp)^2;    mean_c = sum_p x_cp / P;    noise_c = sqrt(sum_p x_cp^2) / P
    """
    squared = (distance.unit(a) - distance.unit(b)).square().flatten(2)
    return squared.mean(2), squared.square().sum(2).sqrt() / squared.shape[2]


def dropped(mean: Tensor, noise: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return means over places as if a share q of the squared differences had been dropped, the rest scaled up.

    Dropout of the maps, x_cp m_cp / (1 - q) with P(m_cp = 1) = 1 - q, has the mean mean_c and the variance
    q / (1 - q) noise_c^2, each channel for itself, and no value below 0. Here it is log-normal with these.
    """
    if not share:
        return mean
    normal = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    # a channel without any difference has no noise, either
    relative = noise / mean.clamp(min=torch.finfo(mean.dtype).tiny)
    spread = torch.log1p(share / (1 - share) * relative.square())
    return mean * torch.exp(spread.sqrt() * normal - spread / 2)


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode(errors="surrogateescape")).hexdigest()
