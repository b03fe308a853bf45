"""What must not change a figure of agreement, whatever the distances and the opinions are."""

import math
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, pearsonr, spearmanr

from damlpips.evaluation.correlation import krcc, plcc, srcc, srcc_of_samples
from damlpips.evaluation.datasets import load
from damlpips.evaluation.figures import evaluate
from damlpips.evaluation.votes import human_2afc, jnd_map, majority_2afc, two_afc
from damlpips.report.intervals import interval

# multiples of a thousandth, so that ties are equal and sums of them are not lost
NUMBERS = st.integers(0, 20_000).map(lambda n: n / 1000)
FEW = st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0])
VALUES = st.one_of(NUMBERS, FEW)
RATINGS = st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=40)
VOTES = st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(any)
CHOICES = st.lists(st.tuples(VALUES, VALUES, VOTES), min_size=1, max_size=30)
PAIRS = st.lists(st.tuples(VALUES, st.sampled_from([0.0, 1 / 3, 0.5, 1.0])), min_size=1, max_size=30)


def columns(rows: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    distance, other = (np.array(column) for column in zip(*rows, strict=True))
    return distance, other


def differing(rows: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    distance, score = columns(rows)
    assume(np.ptp(distance) > 0 and np.ptp(score) > 0)
    return distance, score


@given(RATINGS)
def test_ranks_are_scipys(rows: list[tuple[float, float]]) -> None:
    distance, score = differing(rows)
    assert srcc(distance, score) == pytest.approx(-spearmanr(distance, score).statistic, abs=1e-12)
    assert krcc(distance, score) == pytest.approx(-kendalltau(distance, score).statistic, abs=1e-12)


@given(RATINGS, st.sampled_from([np.sqrt, np.square, np.arctan, lambda d: 3 * d + 1, lambda d: np.exp(d / 10)]))
def test_ranks_do_not_change_under_monotone_maps(rows: list[tuple[float, float]], grows: object) -> None:
    distance, score = differing(rows)
    assert callable(grows)
    mapped = grows(distance)
    assert srcc(mapped, score) == srcc(distance, score)
    assert krcc(mapped, score) == krcc(distance, score)


@given(RATINGS, st.data())
def test_ranks_of_samples_are_those_of_their_rows(rows: list[tuple[float, float]], data: st.DataObject) -> None:
    distance, score = columns(rows)
    times = st.lists(st.sampled_from([0, 0, 1, 2, 3]), min_size=len(rows), max_size=len(rows))
    counts = np.array(data.draw(st.lists(times, min_size=1, max_size=4)))
    expected = [srcc(np.repeat(distance, count), np.repeat(score, count)) for count in counts]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = srcc_of_samples(distance, score, counts)
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=50)
@given(RATINGS, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list[tuple[float, float]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for figure in (srcc, krcc):
        assert figure(*columns(shuffled)) == pytest.approx(figure(*columns(rows)), abs=1e-12, nan_ok=True)


@settings(max_examples=50)
@given(RATINGS)
def test_correlations_stay_in_range_and_turn_with_the_score(rows: list[tuple[float, float]]) -> None:
    distance, score = columns(rows)
    for figure, tolerance in ((srcc, 1e-12), (krcc, 1e-12), (plcc, 1e-6)):
        value = figure(distance, score)
        assert math.isnan(value) or -1 <= value <= 1
        assert abs(figure(distance, -score)) == pytest.approx(abs(value), abs=tolerance, nan_ok=True)
        if figure is not plcc or (abs(value) > 0.9 and len(rows) > 9):  # of weak ones the sign is that of a chance fit
            assert figure(distance, -score) == pytest.approx(-value, abs=tolerance, nan_ok=True)


@settings(max_examples=50)
@given(RATINGS.filter(lambda rows: len(rows) > 4))
def test_a_curve_is_never_worse_than_a_line(rows: list[tuple[float, float]]) -> None:
    distance, score = differing(rows)
    assert abs(plcc(distance, score)) >= abs(pearsonr(distance, score).statistic) - 1e-6


@settings(max_examples=50)
@given(
    st.lists(NUMBERS, min_size=8, max_size=40, unique=True),
    st.floats(0.1, 0.9),
    st.floats(0.1, 2),
    st.floats(0.01, 100),
    st.floats(-100, 100),
)
def test_a_logistic_relation_is_perfect(
    distances: list[float], place: float, width: float, height: float, foot: float
) -> None:
    distance = np.array(distances)
    centre, width = np.quantile(distance, place), width * np.ptp(distance)
    score = foot + height / (1 + np.exp((distance - centre) / width))
    assert plcc(distance, score) == pytest.approx(1, abs=1e-5)
    assert plcc(distance, -score) == pytest.approx(-1, abs=1e-5)


@given(CHOICES)
def test_choices(rows: list[tuple[float, float, tuple[int, int]]]) -> None:
    a, b = (np.array([row[k] for row in rows]) for k in (0, 1))
    votes_a, votes_b = (np.array([row[2][k] for row in rows], dtype=float) for k in (0, 1))
    figure = two_afc(a, b, votes_a, votes_b)
    oracle = two_afc(votes_b, votes_a, votes_a, votes_b)  # the more votes, the closer
    assert oracle == pytest.approx(majority_2afc(votes_a, votes_b))
    assert figure <= oracle + 1e-12
    assert 0.5 <= human_2afc(votes_a, votes_b) <= majority_2afc(votes_a, votes_b) + 1e-12
    # the names of the two images, their distances' unit, and how many asked the same
    assert two_afc(b, a, votes_b, votes_a) == pytest.approx(figure)
    assert two_afc(2 * a, 2 * b, 3 * votes_a, 3 * votes_b) == pytest.approx(figure)
    # the opposite metric gets the other votes
    assert two_afc(-a, -b, votes_a, votes_b) == pytest.approx(1 - figure)


COMPARISONS = st.lists(
    st.tuples(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=4), VOTES), min_size=1, max_size=12
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(COMPARISONS, st.data())
def test_the_two_pairs_of_a_comparison_can_change_places(
    tmp_path: Path, rows: list[tuple[list[str], tuple[int, int]]], data: st.DataObject
) -> None:
    sides = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    swapped = [(i[2:] + i[:2], v[::-1]) if swap else (i, v) for (i, v), swap in zip(rows, sides, strict=True)]
    for name in "abcdefgh":
        (tmp_path / f"{name}.png").touch()
    of_pair = dict(
        zip(product("abcdefgh", repeat=2), data.draw(st.permutations(list(range(30)) + [7] * 34)), strict=True)
    )
    found = []
    for each in (rows, swapped):
        lines = [",".join([*(f"{i}.png" for i in images), *map(str, votes)]) for images, votes in each]
        (tmp_path / "quads.csv").write_text("\n".join(["p1,p2,q1,q2,votes_p,votes_q", *lines]) + "\n")
        (judged,) = load(tmp_path)
        table = [[of_pair[x.stem, y.stem] for x, y in judgement.pairs] for judgement in judged.judgements]
        found.append(evaluate(judged, table, samples=20))
    one, other = found
    assert other.contents == one.contents
    assert other.ceilings == pytest.approx(one.ceilings)
    values = [(f.headline.value, f.headline.low, f.headline.high) for f in found]
    assert values[0] == pytest.approx(values[1], nan_ok=True)


@given(PAIRS, st.randoms(use_true_random=False))
def test_same_or_not(rows: list[tuple[float, float]], random: object) -> None:
    distance, same = columns(rows)
    figure = jnd_map(distance, same)
    if same.sum() == 0:
        assert math.isnan(figure)
        return
    assert same.mean() - 1e-12 <= figure <= same.max() + 1e-12
    assert jnd_map(-same, same == same.max()) == pytest.approx(1)  # all of them found first
    assert jnd_map(np.exp(distance), same) == pytest.approx(figure)
    assert jnd_map(np.zeros(len(same)), same) == pytest.approx(same.mean())
    assert jnd_map(np.repeat(distance, 2), np.repeat(same, 2)) == pytest.approx(figure)  # all asked twice
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert jnd_map(*columns(shuffled)) == pytest.approx(figure)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), NUMBERS), min_size=1, max_size=20), st.integers(0, 1000))
def test_intervals(rows: list[tuple[str, float]], seed: int) -> None:
    contents, values = [name for name, _ in rows], np.array([value for _, value in rows])
    found = interval(contents, lambda drawn: float(values[drawn].mean()), samples=40, seed=seed)
    assert found.value == values.mean()
    if len(set(contents)) == 1:
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    else:
        assert values.min() - 1e-9 <= found.low <= found.high <= values.max() + 1e-9
