"""What observers said about images: ratings, choices between two, and whether two look the same.

Every judgement has `pairs`, those of files whose distances it is about, in their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# (reference, distorted), or any two in this order
FilePair = tuple[Path, Path]


@dataclass(frozen=True)
class Rating:
    """A mean opinion score of one distorted image.

    Attributes:
        reference, distorted: the image files.
        score: higher is closer to the reference, whatever the set's own direction (DMOS is negated).
        content: what the images of one reference share; intervals are resampled by it.
        kind: the kind of distortion; "" where the set names none.
    """

    reference: Path
    distorted: Path
    score: float
    content: str
    kind: str = ""

    @property
    def pairs(self) -> tuple[FilePair]:
        """The distorted image against its reference."""
        return ((self.reference, self.distorted),)


@dataclass(frozen=True)
class Choice:
    """A two-alternative forced choice: the two images of which pair look more alike (2AFC).

    Where both pairs have the same reference, it is the choice of the image that is closer to it.

    Attributes:
        a, b: the two pairs; the first image of each stands in for the reference.
        votes_a, votes_b: how many observers, or which share of them, chose each; their sum is positive.
        content: what the images share that were compared; intervals are resampled by it.
    """

    a: FilePair
    b: FilePair
    votes_a: float
    votes_b: float
    content: str
    kind: str = ""

    @property
    def pairs(self) -> tuple[FilePair, FilePair]:
        """The two that were compared."""
        return self.a, self.b


@dataclass(frozen=True)
class SameOrNot:
    """Whether two images look the same (just noticeable difference, JND).

    Attributes:
        same: the share of observers who said "the same", 0 to 1.
    """

    a: Path
    b: Path
    same: float
    content: str
    kind: str = ""

    @property
    def pairs(self) -> tuple[FilePair]:
        """The two images; the first stands in for the reference."""
        return ((self.a, self.b),)


Judgement = Rating | Choice | SameOrNot
# what a set of them holds, in words
HELD: Mapping[type[Judgement], str] = {Rating: "ratings", Choice: "choices", SameOrNot: "same or not"}


@dataclass(frozen=True)
class JudgedSet:
    """Judgements of one kind, under the name that tables give them."""

    name: str
    judgements: tuple[Judgement, ...]

    @property
    def kind_of_judgement(self) -> type[Rating] | type[Choice] | type[SameOrNot]:
        """The class of the set's judgements, which says what figures it has."""
        return type(self.judgements[0])

    @property
    def what(self) -> str:
        """What the set holds: "ratings", "choices" or "same or not"."""
        return HELD[self.kind_of_judgement]

    @property
    def contents(self) -> list[str]:
        """The content of each judgement."""
        return [judgement.content for judgement in self.judgements]
