"""Intervals and tests by contents: what they draw, how often they are right, and where they tell nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from damlpips.report import intervals
from damlpips.report.intervals import Difference, Interval, Rows, interval, paired_difference


def mean_of(values: np.ndarray) -> Callable[[Rows], float]:
    return lambda rows: float(values[rows].mean())


def names(k: int, rows: int = 1) -> list[str]:
    return [f"c{c}" for c in range(k) for _ in range(rows)]


class MeanAtOnce:
    """The mean, of many samples at once, too."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.blocks: list[int] = []

    def __call__(self, rows: Rows) -> float:
        return mean_of(self.values)(rows)

    def of_samples(self, counts: np.ndarray) -> np.ndarray:
        self.blocks.append(len(counts))
        return counts @ self.values / counts.sum(1)


class TestAtOnce:
    """A figure that can be told of many samples at once has the interval that it has sample by sample."""

    @pytest.mark.parametrize("block", [1, 100, 1 << 20])
    def test_is_the_same(self, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(intervals, "BLOCK", block)
        rng = np.random.default_rng(0)
        contents, (one, other) = list(rng.choice(list("abcde"), 30)), rng.normal(size=(2, 30))
        figure, slower = MeanAtOnce(one), mean_of(one)
        found, expected = (interval(contents, f, samples=70, seed=2) for f in (figure, slower))
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert sum(figure.blocks) == 70
        assert max(figure.blocks) == max(1, min(70, block // 30))
        pairs = [(MeanAtOnce(one), MeanAtOnce(other)), (MeanAtOnce(one), mean_of(other)), (slower, mean_of(other))]
        first, *others = (paired_difference(contents, *pair, samples=70, seed=2) for pair in pairs)
        for found in others:
            assert (found.value, found.low, found.high) == pytest.approx((first.value, first.low, first.high))
            assert found.p == first.p

    def test_one_content(self) -> None:
        found = interval(["a", "a"], MeanAtOnce(np.array([1.0, 2.0])))
        assert found.value == 1.5
        assert np.isnan([found.low, found.high]).all()


class TestInterval:
    def test_whole_contents_are_drawn(self) -> None:
        contents = ["a", "b", "a", "c", "b", "a"]
        rows_of = {"a": [0, 2, 5], "b": [1, 4], "c": [3]}
        seen = []

        def figure(rows: Rows) -> float:
            seen.append([contents[r] for r in rows])
            for name, own in rows_of.items():
                counts = {list(rows).count(r) for r in own}
                assert len(counts) == 1, (name, rows)  # each row of a content as often as the others
            return float(len(rows))

        interval(contents, figure, samples=200)
        whole, drawn = seen[-1], seen[:-1]
        assert whole == contents
        assert len(drawn) == 200
        times = [sum(sample.count(name) / len(own) for name, own in rows_of.items()) for sample in drawn]
        assert times == [3.0] * 200
        assert {tuple(sorted(set(sample))) for sample in drawn} >= {("a",), ("a", "b"), ("a", "b", "c")}

    def test_contains_the_value_of_symmetric_contents(self) -> None:
        values = np.concatenate([np.arange(20.0), -np.arange(20.0)])
        found = interval(names(40), mean_of(values), samples=4000)
        assert found.value == 0
        assert found.low < 0 < found.high
        assert found.low == pytest.approx(-found.high, rel=0.1)

    def test_nears_the_normal_one(self) -> None:
        values = np.random.default_rng(0).normal(size=2000)
        found = interval(names(2000), mean_of(values), samples=4000)
        half = 1.96 * values.std() / np.sqrt(2000)
        assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.08 * half)

    def test_few_contents_reach_to_the_outermost(self) -> None:
        found = interval(names(4), mean_of(np.array([1.0, 2.0, 3.0, 6.0])))
        assert found == Interval(3.0, pytest.approx(1.0, abs=0.3), pytest.approx(6.0, abs=0.8))

    def test_correlated_rows_make_it_wider(self) -> None:
        values = np.repeat(np.random.default_rng(0).normal(size=30), 10)
        by_content = interval(names(30, rows=10), mean_of(values))
        by_row = interval(names(300), mean_of(values))
        assert by_content.high - by_content.low > 2.5 * (by_row.high - by_row.low)

    @pytest.mark.parametrize(("k", "least", "most"), [(4, 0.80, 0.93), (10, 0.91, 0.98), (40, 0.92, 0.98)])
    def test_coverage(self, k: int, least: float, most: float) -> None:
        rng = np.random.default_rng(k)
        held = 0
        for seed in range(400):
            values = np.repeat(rng.normal(size=k), 3) + rng.normal(size=3 * k)
            found = interval(names(k, rows=3), MeanAtOnce(values), samples=150, seed=seed)
            held += found.low <= 0 <= found.high
        assert least <= held / 400 <= most

    def test_is_the_same_for_a_seed(self) -> None:
        values = np.random.default_rng(0).normal(size=12)
        first, again, other = (interval(names(12), mean_of(values), samples=100, seed=s) for s in (5, 5, 6))
        assert first == again
        assert (first.low, first.high) != (other.low, other.high)

    def test_few_samples_without_a_figure_are_left_out(self) -> None:
        found = interval(names(3), lambda rows: float(rows.mean()) or float("nan"))  # 1 in 27
        assert found.value == 1.0
        assert 0 < found.low < found.high == 2.0

    def test_many_leave_no_interval(self) -> None:
        found = interval(names(2), lambda rows: float("nan") if len(set(rows)) == 1 else 1.0)  # half of the samples
        assert found.value == 1.0
        assert np.isnan([found.low, found.high]).all()

    def test_nothing_to_draw(self) -> None:
        with pytest.raises(ValueError, match="contents: expected at least one row, got none"):
            interval([], lambda rows: 0.0)
        with pytest.raises(ValueError, match="samples: expected 1 or more, got 0"):
            interval(["a", "b"], lambda rows: 0.0, samples=0)


class TestPairedDifference:
    def test_both_metrics_are_given_the_same_rows(self) -> None:
        values = np.random.default_rng(0).normal(size=20)
        found = paired_difference(names(20), mean_of(values + 0.25), mean_of(values))
        assert found == Difference(*(pytest.approx(0.25) for _ in range(3)), found.p)
        assert found.p < 0.01

    def test_equal_metrics_do_not_differ(self) -> None:
        figure = mean_of(np.random.default_rng(0).normal(size=10))
        assert paired_difference(names(10), figure, figure) == Difference(0.0, 0.0, 0.0, 1.0)

    def test_exchanged_metrics_exchange_the_signs(self) -> None:
        values = np.random.default_rng(2).normal(size=(2, 15))
        one, other = (
            paired_difference(names(15), *(mean_of(v) for v in pair), samples=300) for pair in (values, values[::-1])
        )
        assert (one.value, one.low, one.high, one.p) == pytest.approx((-other.value, -other.high, -other.low, other.p))

    @pytest.mark.parametrize(("k", "p"), [(2, 0.5), (3, 0.25), (4, 0.125), (5, 0.0625)])
    def test_few_contents_never_prove_much(self, k: int, p: float) -> None:
        found = paired_difference(names(k), lambda rows: 1.0, lambda rows: 0.0, samples=10_000)
        assert found.low == found.high == 1.0
        assert found.p == p

    def test_is_never_zero(self) -> None:
        # none of 99 samples beyond zero: the share is 1 in 100, whose normal quantile is read off Student's t
        found = paired_difference(names(50), lambda rows: 1.0, lambda rows: 0.0, samples=99)
        assert found.p == pytest.approx(2 * stats.t.cdf(stats.norm.ppf(0.01) * np.sqrt(49 / 50), df=49))

    @pytest.mark.parametrize("k", [4, 8, 30])
    def test_false_alarms(self, k: int) -> None:
        rng = np.random.default_rng(k)
        alarms = 0
        for seed in range(300):
            first, second = rng.normal(size=(2, k))
            figures = MeanAtOnce(first), MeanAtOnce(second)
            alarms += paired_difference(names(k), *figures, samples=150, seed=seed).p < 0.05
        assert alarms / 300 <= 0.085

    def test_a_real_difference_is_found(self) -> None:
        rng = np.random.default_rng(0)
        hard = rng.normal(size=25)  # hard for both, more than they differ by
        first, second = hard + rng.normal(0.5, 0.5, 25), hard + rng.normal(0, 0.5, 25)
        found = paired_difference(names(25), mean_of(first), mean_of(second))
        assert found.p < 0.05
        assert found.low > 0

    def test_says_the_same_as_its_interval(self) -> None:
        rng = np.random.default_rng(0)
        for seed in range(60):
            values = rng.normal(0.5, 1, 12)
            found = paired_difference(names(12), mean_of(values), lambda rows: 0.0, samples=400, seed=seed)
            if abs(found.p - 0.05) > 0.02:
                assert (found.p < 0.05) == (not found.low <= 0 <= found.high)

    def test_one_content_tells_nothing(self) -> None:
        found = paired_difference(["a", "a"], lambda rows: 1.0, lambda rows: 0.25)
        assert found.value == 0.75
        assert np.isnan([found.low, found.high, found.p]).all()
