"""Metrics of whole sets of images, FID and KID: one value a method, in a file beside the rows.

A value depends on all images of a method at once: it is no mean over pairs, and there is none for a pair.
"""

import csv
import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from damlpips.files import open_regular, reason, spelled, unspelled, write_whole
from damlpips.scoring.formats import read_csv
from damlpips.scoring.images import ScoringError, read_still
from damlpips.scoring.journal import explained
from damlpips.scoring.pairs import Pair
from damlpips.scoring.reading import Reading
from damlpips.scoring.rows import INTEGER, NUMBER, TEXT, Row
from damlpips.scoring.several import Said, as_text, from_text

FID, KID = "fid", "kid"
NAMES = (FID, KID)
# images of a subset of KID, and how many subsets are drawn where there are more images
SUBSET, SUBSETS = 1000, 100
LEAST_IMAGES = 2
COLUMNS = {
    "method": TEXT,
    "metric": TEXT,
    "score": NUMBER,
    "images": INTEGER,
    "references": INTEGER,
    "sha256": TEXT,
    "metrics": TEXT,
    "error": TEXT,
}


@dataclass(frozen=True)
class Features:
    """A network that gives the features of images.

    Attributes:
        network: images (N, 3, H, W) to (N, F).
        description: for the line to cite.
        identity: everything that the features depend on.
        takes_bytes: whether images are uint8; else they are floats in [0, 1].
    """

    network: Callable[[Tensor], Tensor]
    description: str
    identity: Mapping[str, Any]
    takes_bytes: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images, uint8 or floats in [0, 1], float64 on the CPU."""
        if self.takes_bytes:
            images = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
        elif images.dtype == torch.uint8:
            images = images / 255
        try:
            with torch.no_grad():
                found = self.network(images)
        except Exception as error:  # a network of one's own raises what it likes
            what = " ".join(str(error).split()) or type(error).__name__
            size = f"{images.shape[3]} x {images.shape[2]}"
            raise ScoringError(f"{self.description}: fails on images of {size} pixels ({what})") from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ScoringError(f"{self.description}: expected features ({len(images)}, F) of as many images, got {got}")
        if not found.isfinite().all():
            raise ScoringError(f"{self.description}: its features are not all finite")
        return found.to("cpu", torch.float64)

    def said(self, name: str) -> Said:
        """Return what the rows say of a metric on these features."""
        how = {FID: "", KID: f"; subsets of {SUBSET} images at most, {SUBSETS} of them"}[name]
        description = f"{name.upper()} ({self.description}{how})"
        return Said.of(name, description, {**self.identity, "how": how}, lower_is_closer=True)


@dataclass(frozen=True)
class SetScore:
    """What a method has by a metric of sets; the fields are the columns of the file.

    Attributes:
        images, references: how many there are.
        sha256: of the list of the SHA-256 of all files.
        metrics: what the metric is, as in rows of several metrics.
        error: why there is no score.
    """

    method: str
    metric: str
    score: float | None
    images: int
    references: int
    sha256: str
    metrics: str
    error: str = ""

    @property
    def said(self) -> Said:
        return from_text(self.metrics)[0]


def sets_of(file: Path) -> Path:
    """Return the file of what whole sets score, beside a file of rows.

    Example:
        >>> sets_of(Path("scores.csv")).name
        'scores.sets.csv'
    """
    return file.with_name(f"{file.stem}.sets.csv")


def read_sets(path: Path) -> list[SetScore]:
    """Return what a file of sets holds; nothing if there is no such file.

    Raises:
        ScoringError: it cannot be read, or is no such file.
    """
    if not path.exists():
        return []

    def wanted(headers: Sequence[str]) -> Mapping[str, str]:
        if list(headers) != list(COLUMNS):
            raise ScoringError(f"{path}: expected the columns {', '.join(COLUMNS)}")
        return COLUMNS

    try:
        with open_regular(path) as file:
            found = [SetScore(**{k: _plain(v) for k, v in r.row.items()}) for r in read_csv(file, path, wanted)]
        for each in found:
            from_text(each.metrics)
    except OSError as error:
        raise ScoringError(f"{path}: {reason(error)}") from error
    except ValueError as error:
        raise error if isinstance(error, ScoringError) else ScoringError(f"{path}: {error}") from error
    return found


def _plain(value: Any) -> Any:
    return unspelled(value) if isinstance(value, str) else value


def write_sets(path: Path, scores: Sequence[SetScore]) -> None:
    """Write a file of sets, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    for score in scores:
        row = {name: spelled(value) if isinstance(value, str) else value for name, value in asdict(score).items()}
        writer.writerow({**row, "score": "" if score.score is None else repr(score.score)})
    write_whole(path, text.getvalue())


@dataclass
class Members:
    """The images of a method, by their files; the digest of all of them."""

    pairs: list[Pair] = field(default_factory=list)
    _digest: Any = field(default_factory=hashlib.sha256)

    def add(self, pair: Pair, row: Row) -> None:
        """Add a pair and its row."""
        self.pairs.append(pair)
        self.tell(str(row["sha256"]), str(row["reference_sha256"]))

    def tell(self, sha256: str, reference_sha256: str) -> None:
        """Add the digests of a pair's files."""
        self._digest.update(f"{sha256} {reference_sha256}\n".encode())

    @property
    def sha256(self) -> str:
        return str(self._digest.hexdigest())

    @property
    def distorted(self) -> list[Path]:
        return [pair.distorted for pair in self.pairs]

    @property
    def references(self) -> list[Path]:
        """The references, each once."""
        return list(dict.fromkeys(pair.reference for pair in self.pairs))


class SetScorer:
    """Scores the sets of each method by some metrics on the same features.

    Args:
        names: of `NAMES`.
        features: the network; on `device`.
        batch_size: the most images that go through it at once; those of a batch have one size.
    """

    def __init__(
        self,
        names: Sequence[str],
        features: Features,
        *,
        device: torch.device,
        batch_size: int,
        reading: Reading,
    ) -> None:
        self.names, self.features = names, features
        self._device, self._batch_size, self._reading = device, batch_size, reading
        self.methods: dict[str, Members] = {}
        self._references: tuple[list[Path], list[Tensor]] | None = None

    def add(self, pair: Pair, row: Row) -> None:
        """Count a pair among those of its method."""
        self.methods.setdefault(pair.method, Members()).add(pair, row)

    def scores(self, kept: Sequence[SetScore] = ()) -> Iterator[list[SetScore]]:
        """Yield what all methods up to each have scored; what was kept of the same images and metric is taken over."""
        known = {(old.method, old.metric, old.sha256, old.metrics): old for old in kept if not old.error}
        found: list[SetScore] = []
        for method, members in self.methods.items():
            wanted = [(method, name, members.sha256, as_text([self.features.said(name)])) for name in self.names]
            missing = [key for key in wanted if key not in known]
            new = dict(zip(missing, self._scored(members, missing), strict=True)) if missing else {}
            found += [known.get(key) or new[key] for key in wanted]
            yield found

    def _scored(self, members: Members, keys: Sequence[tuple[str, str, str, str]]) -> Iterator[SetScore]:
        counts = len(members.distorted), len(members.references)
        try:
            if self._references is None or self._references[0] != members.references:
                self._references = members.references, list(self._of_files(members.references))
            real, fake = self._references[1], list(self._of_files(members.distorted))
            values: list[float | str] = [
                VALUES[name](torch.cat(real), torch.cat(fake))
                if min(counts) >= LEAST_IMAGES
                else f"{name}: expected {LEAST_IMAGES} images and references or more, got {counts[0]} and {counts[1]}"
                for _, name, *_ in keys
            ]
        except ScoringError as error:
            values = [str(error)] * len(keys)
        for (method, name, sha256, metrics), value in zip(keys, values, strict=True):
            score, error_text = (None, value) if isinstance(value, str) else (value, "")
            yield SetScore(method, name, score, *counts, sha256, metrics, error_text)

    def _of_files(self, paths: Iterable[Path]) -> Iterator[Tensor]:
        """Yield the features of images, a batch at a time."""
        pixels = (read_still(path, deep=True, reading=self._reading).pixels for path in paths)
        for _, alike in groupby(pixels, lambda image: (image.shape, image.dtype)):
            while batch := list(islice(alike, self._batch_size)):
                yield self.features(torch.stack(batch).to(self._device))


def score_sets(scorer: SetScorer, file: Path | None, *, anew: bool = False) -> list[SetScore]:
    """Score the sets of all methods, and keep them beside a file of rows: after each method the file is whole.

    Args:
        file: of the rows; None keeps nothing.
        anew: whether nothing that was kept counts.

    Raises:
        ScoringError: the file of sets cannot be read or written.
    """
    path = None if file is None else sets_of(file)
    found: list[SetScore] = []
    for found in scorer.scores([] if path is None or anew else read_sets(path)):
        if path is not None:
            with explained(str(path)):
                write_sets(path, found)
    return found


class _Given(nn.Module):
    """Stands in for the network of torchmetrics: its images are features already."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return FID of features, (N, F) and (M, F) in float64, by torchmetrics.

    FID = |mu_r - mu_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2))

    Reference:
        Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule Converge to a
        Local Nash Equilibrium", NeurIPS 2017.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    return _computed(FrechetInceptionDistance(feature=_Given(real.shape[1])).set_dtype(torch.float64), real, fake)


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return KID of features, (N, F) and (M, F) in float64, by torchmetrics: the mean over its subsets.

    KID = mean k(r, r') + mean k(f, f') - 2 mean k(r, f),    k(a, b) = (a . b / F + 1)^3,  of different r, r' and f, f'

    Where all images fit into a subset they are one; else the same `SUBSETS` are drawn each time.

    Reference:
        Binkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", ICLR 2018.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(SUBSET, len(real), len(fake))
    subsets = SUBSETS if size < max(len(real), len(fake)) else 1
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # that it keeps all features
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(0)
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subsets=subsets, subset_size=size)
        return _computed(metric.set_dtype(torch.float64), real, fake)


def _computed(metric: Any, real: Tensor, fake: Tensor) -> float:
    metric.update(real, real=True)
    metric.update(fake, real=False)
    found = metric.compute()
    return float(found[0] if isinstance(found, tuple) else found)


VALUES: Mapping[str, Callable[[Tensor, Tensor], float]] = {FID: frechet_distance, KID: kernel_distance}
