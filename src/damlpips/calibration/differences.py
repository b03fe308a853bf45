"""Judged pairs of files to what heads weigh: each channel's mean squared difference, kept on disk.

A head only weighs channels, and a distance is a mean over places; so LPIPS is linear in these numbers, and an epoch
needs no image. Beside each mean is kept how much it varies when single places are left out, for `dropped`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

    table: NDArray[np.float32]

    def distances(self, weights: Tensor) -> NDArray[np.float64]:
        """Return the distance of each pair by heads one behind the other, (pairs,)."""
        w = weights.double().numpy()
        # block by block: the whole table may not fit in memory
        blocks = range(0, len(self.table), BLOCK)
        return np.concatenate([self.table[k : k + BLOCK, 0] @ w for k in blocks])

    def of(self, *rows: NDArray[np.intp]) -> tuple[Tensor, ...]:
        """Return the numbers of the pairs in some rows, (n, 2, channels) each."""
        return tuple(torch.from_numpy(self.table[of]) for of in rows)


def differences(
    choices: Choices, metric: LPIPS, stack: ExitStack, *, cache: Path | None, progress: Progress | None = None
) -> Differences:
    """Return the numbers of all pairs from a folder, computed if they are not there.

    Args:
        stack: holds the folder, where there is no cache.
        cache: the folder where the numbers are kept, under the digests of the images and the network.

    Raises:
        ScoringError: an image that cannot be read or compared; names the files.
    """
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="damlpips-"))) if cache is None else Path(cache)
    pairs, digests = choices.pairs, choices.digests
    view = View().keeping_images()
    of_files = [[digests[reference], digests[distorted]] for reference, distorted in pairs]
    path = folder / f"{sha256([network(metric), SCORES, view.described(), of_files])}.npy"
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
    return Differences(found)


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
