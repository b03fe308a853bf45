"""Choices between two pairs of images as columns, what they were made from, and what joins those of one content."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from damlpips.calibration import ratings
from damlpips.calibration.split import linked
from damlpips.evaluation.datasets.members import digest
from damlpips.evaluation.judgements import HELD, Choice, FilePair, JudgedSet, Judgement, Rating
from damlpips.files import reason
from damlpips.scoring.images import ScoringError

# what can be learned from
USED: tuple[type[Judgement], ...] = (Choice, Rating)
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Judged:
    """A set, and what is known of its judgements.

    Attributes:
        rows: those of `Choices.pairs` of each judgement, (n, 1) or (n, 2).
        contents: the content of each judgement, (n,).
        choices: how many were made of it.
    """

    judged_set: JudgedSet
    rows: Rows
    contents: Rows
    choices: int


@dataclass(frozen=True, eq=False)
class Where:
    """Which judgement a pair is of, the first one, by set and row: errors name it.

    Attributes:
        rows: of each set its name, and the rows of `Choices.pairs` of each judgement.
    """

    rows: list[tuple[str, Rows]]

    def __call__(self, pair: int) -> str:
        for name, rows in self.rows:
            if len(found := np.flatnonzero((rows == pair).any(1))):
                return f"{name}, row {found[0]}"
        raise ValueError(f"pair: expected one that was judged, got {pair}")


@dataclass(frozen=True, eq=False)
class Choices:
    """Choices between two pairs of images, as the columns that metrics are learned from.

    Attributes:
        pairs: all distinct ones.
        digests: the SHA-256 of each file.
        first, second: the rows of `pairs` of each choice, (n,).
        for_each: the votes for each pair, (n, 2).
        share: of the votes, those for the second pair, (n,).
        votes: how many, (n,).
        contents: the content of each choice, (n,): images are of one where a judgement or a file joins them.
        of_set: the number of the set that each choice is from, (n,).
        sets: what the choices were made from.
        sha256: of all judgements: files by digest, what observers said, and contents, in order.
    """

    pairs: list[FilePair]
    digests: dict[Path, str]
    first: Rows
    second: Rows
    for_each: NDArray[np.float64]
    share: NDArray[np.float32]
    votes: NDArray[np.float32]
    contents: Rows
    of_set: Rows
    sets: list[Judged]
    sha256: str

    def __len__(self) -> int:
        return len(self.first)

    def of_pairs(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values of both pairs of each choice, (n, 2), of one for each distinct pair."""
        return np.stack([values[self.first], values[self.second]], 1)

    def pairs_of(self, contents: Rows) -> Rows:
        """Return the rows of all pairs that were judged of some contents, in order."""
        return np.unique(np.concatenate([s.rows[np.isin(s.contents, contents)].reshape(-1) for s in self.sets]))

    @property
    def where(self) -> "Where":
        """What says which judgement a pair is of."""
        return Where([(judged.judged_set.name, judged.rows) for judged in self.sets])


@dataclass(frozen=True, eq=False)
class _Columns:
    """Choices of one set: the judgements that each is between, and votes for both."""

    judgements: tuple[Rows, Rows]
    votes: NDArray[np.float64]


def read(sets: Sequence[JudgedSet], *, most: int, seed: int) -> Choices:
    """Return the choices of all sets; those of ratings are drawn.

    Args:
        most: choices between the rated images of a content.
        seed: of which these are.

    Raises:
        ValueError: no sets, one of another kind of judgements, votes or scores that are none (names the set and the
            row), or no choices at all.
        ScoringError: a file that cannot be read; names the set and the row.
    """
    sets = [judged for judged in sets if judged.judgements]
    if not sets:
        raise ValueError("sets: expected choices to learn from, got none")
    columns = [_columns(judged, most, [seed, number]) for number, judged in enumerate(sets)]
    numbers: dict[FilePair, int] = {}
    rows = [
        np.array([[numbers.setdefault(pair, len(numbers)) for pair in j.pairs] for j in judged.judgements])
        for judged in sets
    ]
    digests = _digests(sets)
    keys = [
        (f"{judged.name} {judgement.content}", *(digests[path] for pair in judgement.pairs for path in pair))
        for judged in sets
        for judgement in judged.judgements
    ]
    ends = np.cumsum([len(judged.judgements) for judged in sets])
    contents = np.split(np.array(linked(keys), np.intp), ends[:-1])
    votes = np.concatenate([of.votes for of in columns])
    if not len(votes):
        raise ValueError("sets: expected choices to learn from, got ratings without two images of one content")
    both = [[row[of.judgements[k], -1 if k else 0] for row, of in zip(rows, columns, strict=True)] for k in (0, 1)]
    opinions = [_opinion(judgement) for judged in sets for judgement in judged.judgements]
    return Choices(
        pairs=list(numbers),
        digests=digests,
        first=np.concatenate(both[0]),
        second=np.concatenate(both[1]),
        for_each=votes,
        share=(votes[:, 1] / votes.sum(1)).astype(np.float32),
        votes=votes.sum(1).astype(np.float32),
        contents=np.concatenate([of[c.judgements[0]] for of, c in zip(contents, columns, strict=True)]),
        of_set=np.repeat(np.arange(len(sets)), [len(of.votes) for of in columns]),
        sets=list(map(Judged, sets, rows, contents, [len(of.votes) for of in columns])),
        sha256=sha256([keys, opinions]),
    )


def _columns(judged: JudgedSet, most: int, seed: Sequence[int]) -> _Columns:
    if judged.kind_of_judgement not in USED:
        wanted = " or ".join(HELD[kind] for kind in USED)
        raise ValueError(f"{judged.name}: expected {wanted}, got {judged.what}")
    for row, judgement in enumerate(judged.judgements):
        _check(judgement, judged, row)
    if judged.kind_of_judgement is Rating:
        scores = np.array([_opinion(judgement)[0] for judgement in judged.judgements])
        first, second = ratings.drawn(judged.contents, most, seed)
        share = ratings.shares(scores[second] - scores[first], ratings.spread_within(scores, judged.contents))
        return _Columns((first, second), np.stack([1 - share, share], 1))
    rows = np.arange(len(judged.judgements))
    return _Columns((rows, rows), np.array([_opinion(judgement) for judgement in judged.judgements]))


def _opinion(judgement: Judgement) -> tuple[float, ...]:
    """Return what observers said: the votes for each pair, or the score."""
    if isinstance(judgement, Choice):
        return float(judgement.votes_a), float(judgement.votes_b)
    return (float(judgement.score),) if isinstance(judgement, Rating) else ()


def _check(judgement: Judgement, judged: JudgedSet, row: int) -> None:
    where = f"{judged.name}, row {row}"
    if type(judgement) is not judged.kind_of_judgement:
        raise ValueError(f"{where}: expected {judged.what}, got {type(judgement).__name__}")
    opinion = _opinion(judgement)
    finite = all(map(math.isfinite, opinion))
    if isinstance(judgement, Rating) and not finite:
        raise ValueError(f"{where}: expected a finite score, got {opinion[0]}")
    if isinstance(judgement, Choice) and not (finite and min(opinion) >= 0 and sum(opinion) > 0):
        raise ValueError(f"{where}: expected votes, 0 or more and not both 0, got {opinion}")


def _digests(sets: Sequence[JudgedSet]) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for judged in sets:
        for row, judgement in enumerate(judged.judgements):
            for path in (path for pair in judgement.pairs for path in pair):
                try:
                    if path not in found:
                        found[path] = digest(path)
                except (OSError, ScoringError) as error:
                    what = f"{path}: {reason(error)}" if isinstance(error, OSError) else error
                    raise ScoringError(f"{judged.name}, row {row}: {what}") from error
    return found


def sha256(value: object) -> str:
    """Return the SHA-256 of plain values, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, default=str).encode(errors="surrogateescape")).hexdigest()
