"""Ratings from the rows of a table and the images that they name."""

from collections.abc import Sequence
from dataclasses import dataclass

from damlpips.evaluation.datasets.folders import Images
from damlpips.evaluation.datasets.tables import DatasetError, quoted
from damlpips.evaluation.judgements import Rating


@dataclass(frozen=True)
class Listed:
    """A rating whose images are still names.

    Attributes:
        where: the row, for errors.
        score: higher is closer.
    """

    where: str
    reference: str
    distorted: str
    score: float
    content: str
    kind: str


def rated(listed: Sequence[Listed], references: Images, distorted: Images) -> tuple[Rating, ...]:
    """Return the ratings with the paths of their images.

    Raises:
        DatasetError: an image is missing, or rated twice.
    """
    first: dict[str, str] = {}
    for item in listed:
        other = first.setdefault(item.distorted.lower(), item.where)
        if other != item.where:
            raise DatasetError(f"{item.where}: {quoted(item.distorted)} is rated a second time, first in {other}")
    ones = references.find((item.where, item.reference) for item in listed)
    others = distorted.find((item.where, item.distorted) for item in listed)
    return tuple(Rating(r, d, i.score, i.content, i.kind) for r, d, i in zip(ones, others, listed, strict=True))
