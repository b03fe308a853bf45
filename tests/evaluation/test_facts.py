"""The distortions that facts are about, and when a fact holds."""

import math
import re

import pytest
import torch
from torch import Tensor

from damlpips.evaluation import facts
from damlpips.evaluation.facts import ANOTHER, CLAIMS, DISTORTIONS, FACTS, MIRRORED, Fact, both
from damlpips.evaluation.ladders import LADDERS, centre


def photograph(seed: int = 0, height: int = 100, width: int = 112) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def mse(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() - y.double()).square().mean((1, 2, 3))


class TestFacts:
    def test_they_are_about_the_distortions(self) -> None:
        assert {name for fact in FACTS for name in (fact.slight, fact.strong)} == set(DISTORTIONS)
        assert len(FACTS) == len(set(FACTS)) == 3 + 6 + 9 * 4 + 2 + 18
        assert all(len({fact.at_most for fact in of_claim}) == 1 for of_claim in CLAIMS.values())

    @pytest.mark.parametrize(
        ("slight", "strong", "ratio", "holds"),
        [
            (0.9, 1.0, 0.9, True),
            (0.91, 1.0, 0.91, False),
            (0.0, 1.0, 0.0, True),
            (1.0, 0.0, math.nan, False),
            (-1.0, -2.0, math.nan, False),
            (math.nan, 1.0, math.nan, False),
            (1.0, math.inf, 0.0, True),
        ],
    )
    def test_ratio(self, slight: float, strong: float, ratio: float, holds: bool) -> None:
        fact, scores = Fact("a", "b", 0.9), {"a": slight, "b": strong}
        assert fact.ratio(scores) == pytest.approx(ratio, nan_ok=True)
        assert fact.holds(scores) is holds


class TestDistortions:
    def test_every_distortion_is_of_the_centre(self) -> None:
        one, other = photograph(0), photograph(1)
        found = facts.distorted(one, other, seed=3)
        assert sorted(found) == sorted(DISTORTIONS)
        x = centre(one)
        assert {(image.shape, image.dtype) for image in found.values()} == {(x.shape, torch.uint8)}
        assert all((image != x).any() for image in found.values())
        shifted, noisy = LADDERS["shift"].apply(one, 4), LADDERS["noise"].apply(x, 20, seed=3)
        assert torch.equal(found["shift 4 px"], shifted)
        assert torch.equal(found["noise 20"], noisy)
        assert torch.equal(found[both("shift 4 px", "noise 20")], LADDERS["noise"].apply(shifted, 20, seed=3))
        assert torch.equal(found[both("shift 4 px", "JPEG 10")], LADDERS["jpeg"].apply(shifted, 10))
        assert torch.equal(found[MIRRORED], x.flip(2))
        assert torch.equal(found[ANOTHER], centre(other))

    @pytest.mark.parametrize(("height", "width", "side"), [(24, 32, 8), (45, 70, 8), (70, 64, 32), (16, 8, 8)])
    def test_rearranged(self, height: int, width: int, side: int) -> None:
        image = photograph(0, height, width)
        found = facts.rearranged(image, side, seed=1)

        def tiles(x: Tensor) -> list[Tensor]:
            rows, columns = (range(0, n - side + 1, side) for n in (height, width))
            return [x[:, i : i + side, j : j + side] for i in rows for j in columns]

        before, after = tiles(image), tiles(found)
        order = [next(k for k, tile in enumerate(before) if torch.equal(tile, other)) for other in after]
        assert sorted(order) == list(range(len(before)))
        assert all(k != here for here, k in enumerate(order))
        below, right = height // side * side, width // side * side
        assert torch.equal(found[:, below:], image[:, below:])
        assert torch.equal(found[:, :, right:], image[:, :, right:])
        assert torch.equal(facts.rearranged(image, side, seed=1), found)

    def test_too_few_tiles(self) -> None:
        message = re.escape("expected two tiles of 32 x 32 pixels or more, got (40, 60) pixels")
        with pytest.raises(ValueError, match=message):
            facts.rearranged(photograph(0, 40, 60), 32)

    def test_two_sizes(self) -> None:
        message = re.escape("expected photographs of one size, got (3, 100, 112) and (3, 100, 113)")
        with pytest.raises(ValueError, match=message):
            facts.distorted(photograph(), photograph(1, 100, 113))


class TestScores:
    def test_they_are_the_metrics(self) -> None:
        one, other = photograph(0), photograph(1)
        x, found = centre(one) / 255, facts.distorted(one, other, seed=2)
        expected = [float(((found[name] / 255 - x) ** 2).mean()) for name in DISTORTIONS]
        assert facts.scores(mse, one, other, seed=2).tolist() == pytest.approx(expected, rel=1e-4)
        floats = facts.scores(mse, one.double() / 255, other.double() / 255, seed=2)
        assert floats.tolist() == pytest.approx(expected, rel=0.05)

    def test_a_similarity_is_counted_from_that_of_the_image_itself(self) -> None:
        one, other = photograph(0), photograph(1)
        found = facts.scores(lambda x, y: mse(x, y) - 1, one, other)
        assert found.tolist() == pytest.approx(facts.scores(mse, one, other).tolist())

    def test_medians(self) -> None:
        photographs = [photograph(k) for k in range(3)]
        each = [facts.scores(mse, photographs[k], photographs[(k + 1) % 3], seed=5 + k) for k in range(3)]
        found = facts.medians(mse, photographs, seed=5)
        assert list(found) == list(DISTORTIONS)
        assert list(found.values()) == pytest.approx(torch.stack(each).median(0).values.tolist())

    def test_one_photograph_is_too_few(self) -> None:
        with pytest.raises(ValueError, match="expected two or more, of which one is unrelated, got 1"):
            facts.medians(mse, [photograph()])
