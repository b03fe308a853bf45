"""Pairs of image files in, scores out: read them, score them in batches, write tables."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import torch
from torch import Tensor

from damlpips import __version__
from damlpips.features import Encoded
from damlpips.images import ScoringError, read_image
from damlpips.models import PerceptualDistance
from damlpips.pairs import Pair


@dataclass(frozen=True)
class Score:
    """What a pair scored; lower is closer."""

    pair: Pair
    score: float


def score_pairs(
    model: PerceptualDistance,
    pairs: Iterable[Pair],
    *,
    batch_size: int = 8,
    device: torch.device | str | None = None,
) -> Iterator[Score]:
    """Score pairs of files one batch at a time, in order; an image is read when its batch comes.

    Consecutive pairs of equal size share a batch. Consecutive pairs with one reference share its feature maps too: it
    is read, and run through the network, once.

    Args:
        model: with `reduction="none"`; on `device`.
        batch_size: the most pairs a batch.
        device: where to put the images; None for the model's own.

    Raises:
        ScoringError: an image that cannot be read or scored; names the file.
        ValueError: `batch_size` or the model's reduction.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if model.reduction != "none":
        raise ValueError(f"model: expected reduction='none', a score a pair, got {model.reduction!r}")
    return _scored(model, pairs, batch_size, torch.device(device) if device is not None else model.anchor.device)


def _scored(model: PerceptualDistance, pairs: Iterable[Pair], size: int, device: torch.device) -> Iterator[Score]:
    runs = (list(run) for _, run in groupby(pairs, key=lambda pair: pair.reference))
    for alone, group in groupby(runs, key=lambda run: len(run) == 1):
        if alone:
            yield from _scored_apart(model, (pair for (pair,) in group), size, device)
        else:
            for run in group:
                yield from _scored_against_one(model, run, size, device)


def _scored_apart(model: PerceptualDistance, pairs: Iterable[Pair], size: int, device: torch.device) -> Iterator[Score]:
    items = ((pair, read_image(pair.distorted), read_image(pair.reference)) for pair in pairs)
    for _, same_size in groupby(items, key=lambda item: (item[1].shape, item[2].shape)):
        while batch := list(islice(same_size, size)):
            batch_pairs, distorted, references = zip(*batch, strict=True)
            yield from _scores(
                model, batch_pairs, torch.stack(distorted).to(device), torch.stack(references).to(device)
            )


def _scored_against_one(
    model: PerceptualDistance, run: Sequence[Pair], size: int, device: torch.device
) -> Iterator[Score]:
    reference = read_image(run[0].reference).unsqueeze(0).to(device)
    encoded: Encoded | None = None
    items = ((pair, read_image(pair.distorted)) for pair in run)
    for _, same_size in groupby(items, key=lambda item: item[1].shape):
        while batch := list(islice(same_size, size)):
            batch_pairs, images = zip(*batch, strict=True)
            distorted = torch.stack(images).to(device)
            if distorted.shape[2:] != reference.shape[2:]:
                # only two images can be brought to one size, and only they tell what is wrong with them
                yield from _scores(model, batch_pairs, distorted, reference.expand(len(batch), -1, -1, -1))
                continue
            encoded = encoded or _encoded(model, run[0].reference, reference)
            yield from _scores(model, batch_pairs, distorted, encoded.expand(len(batch)))


# not inference_mode: a backbone that is loaded now may later serve a module that needs gradients
@torch.no_grad()
def _encoded(model: PerceptualDistance, path: Path, image: Tensor) -> Encoded:
    try:
        return model.encode(image)
    except (ValueError, TypeError, torch.cuda.OutOfMemoryError) as error:
        raise ScoringError(f"{path}: {error}") from error


@torch.no_grad()
def _scores(
    model: PerceptualDistance, pairs: Sequence[Pair], distorted: Tensor, reference: Tensor | Encoded
) -> list[Score]:
    # all pairs of a batch have the same sizes, so what is wrong with one of them is wrong with the first
    try:
        values = model(distorted, reference).tolist()
    except (ValueError, TypeError) as error:
        raise ScoringError(f"{pairs[0].distorted}: {error}") from error
    except torch.cuda.OutOfMemoryError as error:
        raise ScoringError(f"{pairs[0].distorted}: out of memory with {len(pairs)} pairs a batch: {error}") from error
    for pair, value in zip(pairs, values, strict=True):
        if not math.isfinite(value):
            raise ScoringError(f"{pair.distorted}: its score is {value}, not a finite number")
    return [Score(pair, value) for pair, value in zip(pairs, values, strict=True)]


def mean(scores: Sequence[Score]) -> float:
    """Return the mean score of at least one pair."""
    return math.fsum(s.score for s in scores) / len(scores)


def as_csv(scores: Iterable[Score], *, metric: str, backbone: str) -> str:
    """Return a CSV table with a header, one row a pair, scores in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["reference", "distorted", "score", "metric", "backbone"])
    writer.writerows([s.pair.reference, s.pair.distorted, repr(s.score), metric, backbone] for s in scores)
    return text.getvalue()


def as_json(scores: Sequence[Score], *, metric: str, backbone: str) -> str:
    """Return a JSON object with the mean and every pair, scores in full precision."""
    rows = [{"reference": str(s.pair.reference), "distorted": str(s.pair.distorted), "score": s.score} for s in scores]
    table = {"metric": metric, "backbone": backbone, "version": __version__, "mean": mean(scores), "pairs": rows}
    return json.dumps(table, indent=2) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all: a run that fails leaves what was there before.

    Raises:
        OSError: it cannot be written.
    """
    # a link is written through; a device or a pipe has no contents to keep, and must not be replaced by a file
    path = path.resolve()
    direct = path.exists() and not path.is_file()
    temporary = path if direct else path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
        if not direct:
            os.replace(temporary, path)
    finally:
        if not direct:
            temporary.unlink(missing_ok=True)
