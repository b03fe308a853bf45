"""Choices between two pairs of images as columns, and what joins those of one content."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from damlpips.evaluation.judgements import Choice, FilePair, JudgedSet
from damlpips.files import digest, reason
from damlpips.scoring.images import ScoringError


@dataclass(frozen=True, eq=False)
class Choices:
    """Choices between two pairs of images, as the columns that metrics are learned from.

    Attributes:
        pairs: all distinct ones.
        digests: the SHA-256 of each file.
        first, second: the rows of `pairs` of each choice, (n,).
        share: of the votes, those for the second pair, (n,).
        votes: how many, (n,).
        keys: what each choice shares with others of its content: its content, and the digests of its files.
    """

    pairs: list[FilePair]
    digests: dict[Path, str]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    share: NDArray[np.float32]
    votes: NDArray[np.float32]
    keys: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def sha256(self) -> str:
        """Of all of it: files by digest, votes and contents, in order."""
        return sha256([self.keys, self.share.tolist(), self.votes.tolist()])

    def of_pairs(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values of both pairs of each choice, (n, 2), of one for each distinct pair."""
        return np.stack([values[self.first], values[self.second]], 1)


def read(sets: Sequence[JudgedSet]) -> Choices:
    """Return the choices of all sets.

    Raises:
        ValueError: no sets, one that holds no choices, or votes that are none; names the set and the row.
        ScoringError: a file that cannot be read.
    """
    choices = [_checked(judged, row) for judged in _of_choices(sets) for row in range(len(judged.judgements))]
    pairs = list(dict.fromkeys(pair for choice in choices for pair in choice.pairs))
    try:
        digests = {path: digest(path) for path in dict.fromkeys(path for pair in pairs for path in pair)}
    except OSError as error:
        raise ScoringError(f"{error.filename}: {reason(error)}") from error
    rows = {pair: k for k, pair in enumerate(pairs)}
    votes = np.array([[choice.votes_a, choice.votes_b] for choice in choices], np.float64)
    names = [judged.name for judged in sets for _ in judged.judgements]
    return Choices(
        pairs=pairs,
        digests=digests,
        first=np.array([rows[choice.a] for choice in choices]),
        second=np.array([rows[choice.b] for choice in choices]),
        share=(votes[:, 1] / votes.sum(1)).astype(np.float32),
        votes=votes.sum(1).astype(np.float32),
        keys=[
            (f"{name} {choice.content}", *(digests[path] for pair in choice.pairs for path in pair))
            for name, choice in zip(names, choices, strict=True)
        ],
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


def sha256(value: object) -> str:
    """Return the SHA-256 of plain values, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, default=str).encode(errors="surrogateescape")).hexdigest()
