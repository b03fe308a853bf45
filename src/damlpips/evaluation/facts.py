"""Facts that nobody disputes: of two distortions of a photograph, one is slight beside the other.

A photograph that moves by a pixel is closer to itself than after strong compression; another photograph is farther away
than any of them. Nobody has to be asked, and no judged set is needed. A fact holds for a metric where

    m_k(slight) <= at_most m_k(strong),    m_k(distortion) = median_k (d(x_k, distortion(x_k)) - d(x_k, x_k))

x_k are the centres of photographs. d(x, x) is 0 for a distance and -s(x, x) for a negated similarity.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from damlpips.evaluation.ladders import LADDERS, WHITE, Distance, centre

# a ladder and a level
Rung = tuple[str, float]

SLIGHT_MOTIONS: dict[str, Rung] = {"shift 1 px": ("shift", 1)}
SMALL_MOTIONS: dict[str, Rung] = {"shift 4 px": ("shift", 4), "rotation 1 degree": ("rotation", 1)}
VISIBLE: dict[str, Rung] = {"JPEG 50": ("jpeg", 50), "blur 1 px": ("blur", 1), "noise 10": ("noise", 10)}
STRONG: dict[str, Rung] = {"JPEG 10": ("jpeg", 10), "blur 2 px": ("blur", 2), "noise 20": ("noise", 20)}
MOVED, IN_PLACE = SLIGHT_MOTIONS | SMALL_MOTIONS, VISIBLE | STRONG
# sides of the tiles that are rearranged, in pixels
TILES = {"tiles of 8 px rearranged": 8, "tiles of 32 px rearranged": 32}
MIRRORED, ANOTHER = "mirrored", "another photograph"
UNRELATED = (MIRRORED, *TILES, ANOTHER)

# A fact leaves no doubt: a share of the greater distance, well below 1.
BELOW = 0.9
# the unrelated are at least 1.3 times as far away
FAR_BELOW = 1 / 1.3
# a moved and distorted image scores at least half of what the same distortion does in place
HALF = 2.0

# images in one call of a metric
BATCH = 8


@dataclass(frozen=True)
class Fact:
    """That a slight distortion scores at most a share of what a strong one does.

    Attributes:
        slight, strong: names in `DISTORTIONS`.
        at_most: the largest ratio of the two scores with which the fact holds.
    """

    slight: str
    strong: str
    at_most: float

    def ratio(self, scores: Mapping[str, float]) -> float:
        """Return the ratio of the two scores by name; NaN where the strong score is not above 0."""
        slight, strong = scores[self.slight], scores[self.strong]
        return slight / strong if strong > 0 else math.nan

    def holds(self, scores: Mapping[str, float]) -> bool:
        """Return whether the fact holds for a metric's scores by name."""
        return self.ratio(scores) <= self.at_most


def both(motion: str, distortion: str) -> str:
    """Return the name of an image that was moved, and then distorted."""
    return f"{motion} + {distortion}"


DISTORTIONS = (*MOVED, *IN_PLACE, *(both(m, d) for m in MOVED for d in IN_PLACE), *UNRELATED)


def _facts(slight: Iterable[str], strong: Iterable[str], at_most: float) -> tuple[Fact, ...]:
    strong = tuple(strong)
    return tuple(Fact(a, b, at_most) for a in slight for b in strong)


# what is claimed, in words, and the facts that it consists of
CLAIMS: dict[str, tuple[Fact, ...]] = {
    "a shift by 1 px is below JPEG 50, blur 1 px, noise 10": _facts(SLIGHT_MOTIONS, VISIBLE, BELOW),
    "a shift by 4 px, a rotation by 1 degree are below JPEG 10, blur 2 px, noise 20": _facts(
        SMALL_MOTIONS, STRONG, BELOW
    ),
    "all of these are far below a mirrored image": _facts((*MOVED, *IN_PLACE), [MIRRORED], FAR_BELOW),
    "... below rearranged tiles": _facts((*MOVED, *IN_PLACE), TILES, FAR_BELOW),
    "... below another photograph": _facts((*MOVED, *IN_PLACE), [ANOTHER], FAR_BELOW),
    "distortion brings a moved image no closer": (
        Fact("shift 4 px", both("shift 4 px", "JPEG 10"), 1),
        Fact("shift 1 px", both("shift 1 px", "noise 10"), 1),
    ),
    "motion hides no more than half of a distortion": tuple(
        Fact(distortion, both(motion, distortion), HALF) for motion in MOVED for distortion in IN_PLACE
    ),
}
FACTS = tuple(fact for facts in CLAIMS.values() for fact in facts)


def distorted(photograph: Tensor, other: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Return the centre of a photograph after each of `DISTORTIONS`, by name.

    Args:
        photograph, other: (3, H, W), both uint8, or both floats in [0, 1].
        seed: of the noise, and of the order of tiles.

    Raises:
        ValueError: two sizes, or too few tiles.
        TypeError, ValueError, ScoringError: as `damlpips.evaluation.ladders.Ladder.apply`.
    """
    if photograph.shape != other.shape:
        raise ValueError(f"expected photographs of one size, got {tuple(photograph.shape)} and {tuple(other.shape)}")

    def apply(image: Tensor, rung: Rung) -> Tensor:
        ladder, level = rung
        return LADDERS[ladder].apply(image, level, seed=seed)

    moved = {name: apply(photograph, rung) for name, rung in MOVED.items()}
    x = centre(photograph)
    return {
        **moved,
        **{name: apply(x, rung) for name, rung in IN_PLACE.items()},
        **{
            both(motion, name): apply(image, rung) for motion, image in moved.items() for name, rung in IN_PLACE.items()
        },
        MIRRORED: x.flip(-1),
        **{name: rearranged(x, side, seed=seed) for name, side in TILES.items()},
        ANOTHER: centre(other),
    }


def rearranged(image: Tensor, side: int, *, seed: int = 0) -> Tensor:
    """Return an image (C, H, W) with each of its tiles of side x side pixels elsewhere; what is left over stays.

    Raises:
        ValueError: fewer than two tiles.
    """
    channels, rows, columns = image.shape[0], image.shape[1] // side, image.shape[2] // side
    if rows * columns < 2:
        raise ValueError(f"expected two tiles of {side} x {side} pixels or more, got {tuple(image.shape[1:])} pixels")
    whole = image[:, : rows * side, : columns * side].reshape(channels, rows, side, columns, side)
    tiles = whole.permute(1, 3, 0, 2, 4).reshape(rows * columns, channels, side, side)
    # one cycle through all tiles: none stays where it is
    cycle = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(seed)).to(tiles.device)
    tiles = tiles.index_copy(0, cycle, tiles[cycle.roll(1)]).reshape(rows, columns, channels, side, side)
    found = image.clone()
    found[:, : rows * side, : columns * side] = tiles.permute(2, 0, 3, 1, 4).reshape(channels, rows * side, -1)
    return found


def scores(metric: Distance, photograph: Tensor, other: Tensor, *, seed: int = 0) -> Tensor:
    """Return a metric's score of each of `DISTORTIONS` of a photograph, (distortions,), float64.

    Args:
        metric: (references, distorted), each (N, 3, h, w) in [0, 1], to N distances; lower is closer.
        photograph, other, seed: as for `distorted`, whose errors these are.
    """
    x, found = centre(photograph), distorted(photograph, other, seed=seed)
    images = torch.stack([x, *(found[name] for name in DISTORTIONS)])
    floats = images.float() / WHITE if images.dtype == torch.uint8 else images
    parts = [metric(floats[:1].expand_as(part), part) for part in floats.split(BATCH)]
    distances = torch.cat([torch.as_tensor(part, dtype=torch.float64, device="cpu").detach() for part in parts])
    return distances[1:] - distances[0]


def medians(metric: Distance, photographs: Sequence[Tensor], *, seed: int = 0) -> dict[str, float]:
    """Return a metric's median score of each of `DISTORTIONS` over photographs, by name.

    Args:
        photographs: two or more of one size; the unrelated one is the next. Photograph k draws by `seed + k`.
        metric, seed: as for `scores`; errors are those of `distorted`, and fewer than two photographs a ValueError.
    """
    if len(photographs) < 2:
        raise ValueError(f"photographs: expected two or more, of which one is unrelated, got {len(photographs)}")
    others = [*photographs[1:], photographs[0]]
    pairs = enumerate(zip(photographs, others, strict=True))
    return median([scores(metric, photograph, other, seed=seed + k) for k, (photograph, other) in pairs])


def median(scores_of: Sequence[Tensor]) -> dict[str, float]:
    """Return the median of the `scores` of several photographs, by name."""
    middle = torch.stack(list(scores_of)).quantile(0.5, dim=0)
    return dict(zip(DISTORTIONS, middle.tolist(), strict=True))
