"""What observers said about images: ratings, choices between two, and whether two look the same."""

from dataclasses import dataclass
from pathlib import Path


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


@dataclass(frozen=True)
class Choice:
    """A two-alternative forced choice: which of two images is closer to the reference (2AFC).

    Attributes:
        votes_a, votes_b: how many observers, or which share of them, chose each; their sum is positive.
    """

    reference: Path
    a: Path
    b: Path
    votes_a: float
    votes_b: float
    content: str
    kind: str = ""


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


Judgement = Rating | Choice | SameOrNot


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
    def contents(self) -> list[str]:
        """The content of each judgement."""
        return [judgement.content for judgement in self.judgements]
