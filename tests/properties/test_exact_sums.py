"""Sums of scores are exact, beside Python's own exact arithmetic: nothing that reorders or splits them changes them."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from damlpips import DAMLPIPSMetric
from damlpips.ops import exact_sums

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
SCORES = st.lists(FLOAT32, max_size=40)


def total_of(scores: list[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return exact_sums.exact_sum(torch.tensor(scores, dtype=dtype))


@given(SCORES)
def test_the_sum_is_exact(scores: list[float]) -> None:
    total = exact_sums.value(total_of(scores))
    assert total == sum(map(Fraction, scores))
    assert exact_sums.rounded(total) == math.fsum(scores)


@given(SCORES, st.data())
def test_order_and_partition_change_no_digit(scores: list[float], data: st.DataObject) -> None:
    whole = total_of(scores)
    shuffled = data.draw(st.permutations(scores))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scores)), max_size=4)))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(scores)], strict=True)]
    assert torch.equal(torch.stack([total_of(part) for part in parts]).sum(0), whole)


@given(st.lists(st.floats(min_value=-(2.0**127), max_value=2.0**127, allow_nan=False), max_size=20))
def test_float64_is_rounded_to_the_grid_score_by_score(scores: list[float]) -> None:
    grid = Fraction(1, 2**149)
    # Python rounds halves to even, as torch does
    assert exact_sums.value(total_of(scores, torch.float64)) == sum(round(Fraction(s) / grid) * grid for s in scores)
    kept = [s for s in scores if s == 0 or abs(s) >= 2.0**-96]
    assert exact_sums.value(total_of(kept, torch.float64)) == sum(map(Fraction, kept))


@given(st.sampled_from([2.0**128 * (1 - 2.0**-24), 1.0, 2.0**-149, -(2.0**128) * (1 - 2.0**-24), 0.1]))
def test_as_many_scores_as_are_stated_fit(score: float) -> None:
    """The digits of 2^39 equal scores, which nobody can score: they grow in proportion."""
    digits = total_of([score])
    assert digits.abs().max() * 1.0 * exact_sums.MOST_SCORES <= 2.0**63
    most = digits * (exact_sums.MOST_SCORES - 1)
    assert exact_sums.value(most) == Fraction(torch.tensor(score).item()) * (exact_sums.MOST_SCORES - 1)


def test_beyond_float64_is_infinite() -> None:
    assert exact_sums.rounded(Fraction(10) ** 400) == math.inf
    assert exact_sums.rounded(-(Fraction(10) ** 400)) == -math.inf


@given(st.lists(st.floats(min_value=0, max_value=8, width=32), min_size=1, max_size=30), st.data())
def test_a_metric_gives_the_exact_mean_whatever_the_split(scores: list[float], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(scores))
    cut = data.draw(st.integers(0, len(scores)))
    indexed = data.draw(st.integers(0, len(scores)))
    for reduction, wanted in (
        ("mean", float(sum(map(Fraction, scores)) / len(scores))),
        ("sum", math.fsum(scores)),
    ):
        one, two = DAMLPIPSMetric(reduction=reduction), DAMLPIPSMetric(reduction=reduction)
        for metric, part in ((one, shuffled[:cut]), (two, shuffled[cut:])):
            named = torch.arange(len(scores))[:cut] if metric is one else torch.arange(len(scores))[cut:]
            split = min(indexed, len(part))
            metric._add(torch.tensor(part[:split]), named[:split])
            metric._add(torch.tensor(part[split:]), None)
        one._update_count = 1
        one.merge_state(two)
        assert one.compute() == torch.tensor(wanted, dtype=torch.float64).float()


@pytest.mark.parametrize("count", [exact_sums.MOST_SCORES, exact_sums.MOST_SCORES + 1])
def test_more_scores_than_fit_are_refused(count: int) -> None:
    metric = DAMLPIPSMetric()
    metric._add(torch.tensor([0.5]), None)
    metric.store = replace(metric.store, counts=torch.tensor([count, 0, 0]))
    if count > exact_sums.MOST_SCORES:
        with pytest.raises(OverflowError, match=f"{count} scores: an exact sum holds {exact_sums.MOST_SCORES} at most"):
            metric.compute()
    else:
        metric.compute()
