"""Figures of agreement are the published ones, and say so where they are not defined."""

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import pearsonr

from damlpips.evaluation.correlation import krcc, plcc, srcc
from damlpips.evaluation.figures import breakdown, compare, evaluate
from damlpips.evaluation.judgements import Choice, JudgedSet, Rating, SameOrNot
from damlpips.evaluation.logistic import _loss, logistic_fit
from damlpips.evaluation.votes import human_2afc, jnd_map, majority_2afc, two_afc
from damlpips.report.intervals import interval

PICTURES = Path("r.png"), Path("a.png"), Path("b.png")
# each against the reference
CHOSEN = PICTURES[:2], PICTURES[::2]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def random(seed: int, n: int, *, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and scores that agree in part, with ties where there are `levels`."""
    rng = np.random.default_rng(seed)
    distance = rng.gamma(1.0, 1.0, n)
    score = 4 / (1 + np.exp((distance - 1) / 0.4)) + rng.normal(0, 0.5, n)
    if levels is not None:
        distance, score = (np.floor(levels * (x - x.min()) / np.ptp(x)) for x in (distance, score))
    return distance, score


class TestRanks:
    def test_by_hand(self) -> None:
        # rank differences 0, 1, 1, 0: 1 - 6 * 2 / (4 * 15)
        assert srcc([1.0, 2.0, 3.0, 4.0], [40.0, 20.0, 30.0, 10.0]) == pytest.approx(0.8)
        # of six pairs one is tied in distance only, one in score only, four agree
        assert krcc([1.0, 1.0, 2.0, 3.0], [4.0, 3.0, 2.0, 2.0]) == pytest.approx(4 / 5)

    def test_perfect_agreement_is_exactly_one(self) -> None:
        for n in range(3, 40):
            assert (srcc(np.arange(n), -np.arange(n)), srcc(np.arange(n), np.arange(n))) == (1.0, -1.0)


class TestCurve:
    def test_its_parameters_are_found(self) -> None:
        distance = np.linspace(0, 500, 60)
        curve = logistic_fit(distance, 2.0 + 7.0 / (1 + np.exp((distance - 200) / 35)))
        assert (curve.b1, curve.b2, curve.b3, curve.b4) == pytest.approx((9, 2, 200, 35), rel=1e-3)

    @pytest.mark.parametrize("seed", range(5))
    def test_equals_a_fit_of_four_parameters_by_scipy(self, seed: int) -> None:
        def published(d: np.ndarray, b1: float, b2: float, b3: float, b4: float) -> np.ndarray:
            return b2 + (b1 - b2) / (1 + np.exp((d - b3) / np.abs(b4)))

        distance, score = random(seed, 300)
        found, _ = curve_fit(published, distance, score, p0=(score.max(), score.min(), distance.mean(), 0.5))
        assert plcc(distance, score) == pytest.approx(pearsonr(published(distance, *found), score).statistic, abs=1e-6)

    @pytest.mark.parametrize("shape", [np.log, np.sqrt, np.square, lambda d: -np.exp(-d), lambda d: d])
    def test_is_never_worse_than_a_straight_line(self, shape: Callable[[np.ndarray], np.ndarray]) -> None:
        rng = np.random.default_rng(0)
        for _ in range(10):
            distance = rng.lognormal(0, rng.uniform(0, 3), rng.integers(5, 60))
            score = -shape(distance) + rng.normal(0, 1, len(distance))
            assert abs(plcc(distance, score)) >= abs(pearsonr(distance, score).statistic) - 1e-7

    def test_is_as_good_as_the_best_of_many_curves(self) -> None:
        distance, score = random(3, 200)
        centres = np.quantile(distance, np.linspace(0, 1, 30))[:, None, None]
        widths = np.geomspace(0.01, 100, 60)[:, None]
        curves = (1 / (1 + np.exp(np.clip((distance - centres) / widths, -500, 500)))).reshape(-1, len(distance))
        curves = curves[np.ptp(curves, axis=1) > 1e-6]
        assert plcc(distance, score) >= max(np.corrcoef(curve, score)[0, 1] for curve in curves)

    def test_scale_and_origin_do_not_matter(self) -> None:
        distance, score = random(1, 80)
        value = plcc(distance, score)
        assert plcc(1e-9 * distance, 1e4 * score - 7) == pytest.approx(value, abs=1e-6)
        assert plcc(1e6 * distance + 1e7, score) == pytest.approx(value, abs=1e-6)

    def test_many_equal_distances(self) -> None:
        # so many that the quartiles are equal
        distance, score = [1.0] * 10 + [2.0, 3.0], [5.0] * 10 + [3.0, 1.0]
        assert plcc(distance, score) == pytest.approx(1, abs=1e-6)

    def test_its_slopes_are_those_of_its_loss(self) -> None:
        distance, score = random(0, 40)
        x, y = distance / np.ptp(distance), (score - score.mean()) / np.linalg.norm(score - score.mean())
        for point in np.array([(0.1, -1.0), (0.5, -3.0), (-0.5, 0.5), (0.2, 4.0)]):
            _, slopes = _loss(point, x, y)
            steps = 1e-6 * np.eye(2)
            numeric = [(_loss(point + step, x, y)[0] - _loss(point - step, x, y)[0]) / 2e-6 for step in steps]
            assert slopes == pytest.approx(numeric, rel=1e-4, abs=1e-7)

    def test_rounding_errors_are_no_curve(self) -> None:
        # far out a curve has no digits left, and what it has can correlate with anything
        distance, score = random(0, 40)
        x, y = distance / np.ptp(distance), (score - score.mean()) / np.linalg.norm(score - score.mean())
        for centre, width in [(11.0, 1 / 3), (-10.0, 10 / 365), (0.0, 1e12)]:
            assert _loss(np.array([centre, np.log(width)]), x, y)[0] == 0.0
        assert _loss(np.array([0.0, np.log(1e3)]), x, y)[0] < -0.1  # a straight line has them

    def test_needs_different_distances(self) -> None:
        with pytest.raises(ValueError, match=r"distance: expected at least two different values .* got 4 equal ones"):
            logistic_fit([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0])
        with pytest.raises(ValueError, match="got 0 equal ones"):
            logistic_fit([], [])

    def test_is_flat_for_a_constant_score(self) -> None:
        assert logistic_fit([1.0, 2.0, 3.0], [5.0, 5.0, 5.0])([0.0, 9.0]) == pytest.approx([5.0, 5.0])


@pytest.mark.parametrize("correlation", [srcc, krcc, plcc])
class TestUndefined:
    def test_constants_have_none(self, correlation: Callable[..., float]) -> None:
        assert np.isnan(correlation([0.1] * 6, range(6)))
        assert np.isnan(correlation(range(6), [0.1] * 6))

    def test_nor_have_too_few_rows(self, correlation: Callable[..., float]) -> None:
        fewest = 5 if correlation is plcc else 3
        for n in range(fewest):
            assert np.isnan(correlation(range(n), range(n)))
        assert correlation(range(fewest), range(fewest)) == pytest.approx(-1, abs=1e-6)

    def test_unequal_lengths(self, correlation: Callable[..., float]) -> None:
        with pytest.raises(ValueError, match="expected as many numbers in each column, got 3 of distance, 2 of score"):
            correlation([1.0, 2.0, 3.0], [1.0, 2.0])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_numbers_that_are_not_finite(self, correlation: Callable[..., float], bad: float) -> None:
        with pytest.raises(ValueError, match=rf"distance: expected finite numbers, got {bad} in row 1 \(2 of 4\)"):
            correlation([1.0, bad, 3.0, bad], [1.0, 2.0, 3.0, 4.0])
        with pytest.raises(ValueError, match=rf"score: expected finite numbers, got {bad} in row 3 \(1 of 4\)"):
            correlation([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, bad])

    def test_tables(self, correlation: Callable[..., float]) -> None:
        with pytest.raises(ValueError, match=r"distance: expected one number for each judgement, \(n,\), got \(2, 2\)"):
            correlation([[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0])


class TestChoices:
    def test_by_hand(self) -> None:
        # right with 3 of 4, wrong with 1 of 5, undecided, right with all
        found = two_afc([0.1, 0.9, 0.5, 0.2], [0.2, 0.8, 0.5, 0.1], [3, 4, 1, 0], [1, 1, 0, 2])
        assert found == pytest.approx((0.75 + 0.2 + 0.5 + 1.0) / 4)

    def test_comparisons_by_hand(self) -> None:
        # of two pairs: p is the larger distance with 3 of 4 votes for it, the smaller one with 4 of 5, and equal to q
        votes_p, votes_q = [3, 4, 9], [1, 1, 0]
        judged = JudgedSet(
            "quads",
            tuple(
                Choice(PICTURES[:2], PICTURES[1:], q, p, f"c{k}")
                for k, (p, q) in enumerate(zip(votes_p, votes_q, strict=True))
            ),
        )
        found = evaluate(judged, [(0.2, 0.1), (0.1, 0.2), (0.3, 0.3)], samples=50)
        assert found.headline_name == "2AFC"
        assert found.headline.value == pytest.approx((3 / 4 + 1 / 5 + 1 / 2) / 3)
        assert found.headline.low < found.headline.value < found.headline.high
        assert found.ceilings["human"] == pytest.approx((10 / 16 + 17 / 25 + 1) / 3)
        assert found.ceilings["majority"] == pytest.approx((3 / 4 + 4 / 5 + 1) / 3)

    def test_comparisons_of_one_content_have_no_interval(self) -> None:
        judged = JudgedSet("quads", (Choice(PICTURES[:2], PICTURES[1:], 1, 3, "c"),) * 3)
        found = evaluate(judged, [(0.2, 0.1)] * 3, samples=50).headline
        assert found.value == 0.75
        assert np.isnan([found.low, found.high]).all()

    def test_ceilings_by_hand(self) -> None:
        votes = [4, 1, 3], [1, 1, 0]
        assert human_2afc(*votes) == pytest.approx((0.64 + 0.04 + 0.25 + 0.25 + 1.0) / 3)
        assert majority_2afc(*votes) == pytest.approx((0.8 + 0.5 + 1.0) / 3)

    def test_human_ceiling_is_what_a_human_reaches(self) -> None:
        rng = np.random.default_rng(0)
        p = rng.uniform(0, 1, 200_000)
        chooses_a = rng.uniform(0, 1, len(p)) < p
        assert two_afc(1.0 - chooses_a, chooses_a, p, 1 - p) == pytest.approx(human_2afc(p, 1 - p), abs=0.005)

    def test_without_choices(self) -> None:
        assert np.isnan([two_afc([], [], [], []), human_2afc([], []), majority_2afc([], [])]).all()

    @pytest.mark.parametrize("figure", [human_2afc, majority_2afc, lambda a, b: two_afc([0.0, 1.0], [1.0, 0.0], a, b)])
    def test_votes_that_are_none(self, figure: Callable[..., float]) -> None:
        with pytest.raises(ValueError, match=r"votes_b: expected .* 0 or more, got -1 in row 1 \(1 of 2\)"):
            figure([1, 3], [1, -1])
        with pytest.raises(ValueError, match=r"votes_a \+ votes_b: expected at least one vote, got 0 in row 0"):
            figure([0, 1], [0, 1])
        with pytest.raises(ValueError, match="votes_a: expected finite numbers"):
            figure([np.nan, 1], [0, 1])


def average_precision(distance: list[float], same: list[float]) -> float:
    """The released definition, row by row: for each recall the best precision at that recall or a higher one."""
    order = sorted(range(len(distance)), key=lambda k: distance[k])
    found = np.cumsum([same[k] for k in order])
    points = [(f / sum(same), f / n) for n, f in enumerate(found, 1)]
    area, before = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[k:])
        before = recall
    return area


class TestSameOrNot:
    def test_by_hand(self) -> None:
        # found after 1, 3 and 4 of 5 pairs: precisions 1, 2/3, 3/4, of which the second counts as the third
        assert jnd_map([1, 2, 3, 4, 5], [1, 0, 1, 1, 0]) == pytest.approx((1 + 3 / 4 + 3 / 4) / 3)

    @pytest.mark.parametrize("seed", range(20))
    def test_equals_the_definition(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 30))
        distance, same = rng.permutation(n) / n, rng.integers(0, 4, n) / 3
        same[0] = 1.0
        assert jnd_map(distance, same) == pytest.approx(average_precision(list(distance), list(same)), abs=1e-12)

    def test_equals_the_released_area(self) -> None:
        import lpips  # slow

        rng = np.random.default_rng(0)
        distance, same = rng.permutation(200), rng.integers(0, 4, 200) / 3
        found = np.cumsum(same[np.argsort(distance)])
        area = lpips.voc_ap(found / found[-1], found / np.arange(1, 201))
        assert jnd_map(distance, same) == pytest.approx(area, abs=1e-12)

    def test_equal_distances_enter_together(self) -> None:
        assert jnd_map([0.5] * 4, [1, 0, 0, 1]) == pytest.approx(0.5)
        for same in ([1, 0, 1], [1, 1, 0]):
            assert jnd_map([0.1, 0.2, 0.2], same) == pytest.approx((1 + 2 / 3) / 2)

    def test_a_row_that_is_drawn_twice_counts_twice(self) -> None:
        assert jnd_map([0.1, 0.1, 0.2, 0.3], [0, 0, 1, 1]) == pytest.approx(1 / 2)

    def test_undefined(self) -> None:
        assert np.isnan(jnd_map([], []))
        assert np.isnan(jnd_map([0.1, 0.2], [0.0, 0.0]))

    def test_shares_that_are_none(self) -> None:
        with pytest.raises(ValueError, match=r"same: expected shares from 0 to 1, got 1.5 in row 1 \(1 of 2\)"):
            jnd_map([0.1, 0.2], [0.5, 1.5])


def ratings(n: int = 48, contents: int = 6) -> tuple[JudgedSet, np.ndarray]:
    distance, score = random(0, n)
    judgements = tuple(
        Rating(*PICTURES[:2], float(s), f"c{k % contents}", ("blur", "noise")[k % 2]) for k, s in enumerate(score)
    )
    return JudgedSet("ratings", judgements), distance


class TestSets:
    def test_ratings(self) -> None:
        judged, distance = ratings()
        score = np.array([j.score for j in judged.judgements])
        found = evaluate(judged, distance, samples=50, seed=3)
        assert (found.name, found.judgements, found.contents, found.ceilings) == ("ratings", 48, 6, {})
        assert {name: i.value for name, i in found.figures.items()} == {
            "SRCC": srcc(distance, score),
            "KRCC": krcc(distance, score),
            "PLCC": plcc(distance, score),
        }
        contents = [j.content for j in judged.judgements]
        by_hand = interval(contents, lambda rows: srcc(distance[rows], score[rows]), samples=50, seed=3)
        assert found.headline_name == "SRCC"
        assert found.headline == by_hand
        assert all(i.low < i.value < i.high for i in found.figures.values())

    def test_the_headline_only(self) -> None:
        judged, distance = ratings()
        every, one = (evaluate(judged, distance, samples=20, headline_only=only) for only in (False, True))
        assert (list(every.figures), list(one.figures)) == (["SRCC", "KRCC", "PLCC"], ["SRCC"])
        assert one.headline == every.headline
        every, one = (compare(judged, distance, -distance, samples=20, headline_only=o) for o in (False, True))
        assert one == {"SRCC": every["SRCC"]}

    def test_choices(self) -> None:
        votes = [(3, 1), (1, 3), (2, 2), (4, 0)]
        judged = JudgedSet("choices", tuple(Choice(*CHOSEN, a, b, f"c{k}") for k, (a, b) in enumerate(votes)))
        distances = [(0.1, 0.2), (0.1, 0.2), (0.2, 0.1), (0.1, 0.2)]
        found = evaluate(judged, distances)
        assert found.headline_name == "2AFC"
        assert found.headline.value == pytest.approx((0.75 + 0.25 + 0.5 + 1) / 4)
        assert found.headline.low <= found.headline.value <= found.headline.high
        assert found.ceilings == {"human": human_2afc(*zip(*votes, strict=True)), "majority": pytest.approx(0.75)}

    def test_same_or_not(self) -> None:
        shares = [1.0, 0.0, 0.5, 1.0]
        judged = JudgedSet("jnd", tuple(SameOrNot(*PICTURES[1:], s, f"c{k // 2}") for k, s in enumerate(shares)))
        found = evaluate(judged, [0.1, 0.2, 0.3, 0.4])
        assert (found.headline_name, found.ceilings) == ("mAP", {})
        assert found.headline.value == pytest.approx(average_precision([1, 2, 3, 4], shares))

    def test_parts(self) -> None:
        judged, distance = ratings()
        score = np.array([j.score for j in judged.judgements])
        kinds, contents = (breakdown(judged, distance, by) for by in ("kind", "content"))
        assert (list(kinds), list(contents)) == (["blur", "noise"], [f"c{k}" for k in range(6)])
        assert kinds["noise"].figures["SRCC"] == srcc(distance[1::2], score[1::2])
        assert contents["c2"].figures["PLCC"] == plcc(distance[2::6], score[2::6])
        assert {part.judgements for part in contents.values()} == {8}

    def test_parts_have_ceilings(self) -> None:
        choices = tuple(Choice(*CHOSEN, a, 4 - a, "c", kind) for a, kind in [(4, "x"), (3, "x"), (2, "")])
        parts = breakdown(JudgedSet("choices", choices), [(0, 1), (0, 1), (1, 0)], "kind")
        assert parts["x"].ceilings["majority"] == parts["x"].figures["2AFC"] == pytest.approx(0.875)
        assert parts[""].ceilings == {"human": 0.5, "majority": 0.5}

    def test_a_part_that_is_too_small_has_no_figure(self) -> None:
        judged, distance = ratings(n=4, contents=2)
        parts = breakdown(judged, distance, "content").values()
        assert all(np.isnan(value) for part in parts for value in part.figures.values())

    def test_two_metrics(self) -> None:
        judged, distance = ratings(contents=12)
        noise = np.random.default_rng(1).normal(size=len(distance))
        found = compare(judged, distance, noise, samples=150)
        assert list(found) == ["SRCC", "KRCC", "PLCC"]
        values = [evaluate(judged, d, samples=1).headline.value for d in (distance, noise)]
        assert found["SRCC"].value == pytest.approx(values[0] - values[1])
        assert found["SRCC"].low > 0
        assert found["SRCC"].p < 0.05

    def test_distances_of_another_shape(self) -> None:
        judged, distance = ratings(n=20)
        with pytest.raises(ValueError, match=r"ratings: expected distances \(20,\) for judgements Rating, got \(19,\)"):
            evaluate(judged, distance[1:])
        choices = JudgedSet("two", (Choice(*CHOSEN, 1, 0, "c"),))
        with pytest.raises(ValueError, match=r"two: expected distances \(1, 2\) for judgements Choice, got \(2, 1\)"):
            breakdown(choices, [[0.1], [0.2]], "kind")

    def test_errors_name_the_set_and_the_judgement(self) -> None:
        judged, distance = ratings(n=20)
        distance[7] = np.nan
        for function in (evaluate, partial(breakdown, by="kind")):
            with pytest.raises(ValueError, match=r"ratings: distance: expected finite numbers, got nan in row 7"):
                function(judged, distance)
        none = JudgedSet("two", (Choice(*CHOSEN, 0, 0, "c"),))
        with pytest.raises(ValueError, match=r"two: votes_a \+ votes_b: expected at least one vote"):
            evaluate(none, [(0.1, 0.2)])

    def test_without_judgements(self) -> None:
        with pytest.raises(ValueError, match="nothing: expected judgements, got none"):
            evaluate(JudgedSet("nothing", ()), [])


def test_importing_the_package_loads_no_scipy() -> None:
    code = "import sys, damlpips.evaluation, damlpips.evaluation.judgements; sys.exit('scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
