"""Any number of processes with any share of the scores each: threads that exchange states stand in for them."""

import math
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from damlpips import DAMLPIPSMetric


class Exchange:
    """What an all_gather does, among threads; breaks when one of them does not come."""

    def __init__(self, world: int) -> None:
        self.slots: list[Tensor | None] = [None] * world
        self.barrier = threading.Barrier(world, timeout=20)

    def of(self, rank: int) -> Callable[..., list[Tensor]]:
        def gather(mine: Tensor, group: object = None) -> list[Tensor]:
            self.slots[rank] = mine
            self.barrier.wait()
            gathered = [slot.clone() for slot in self.slots if slot is not None]
            self.barrier.wait()
            return gathered

        return gather


# the score of each image; None is one that cannot be scored
SCORES = st.lists(st.one_of(st.none(), st.floats(0, 8, width=32)), min_size=1, max_size=24)
# for each process its updates, each the images in it
PATTERNS = st.lists(st.lists(st.lists(st.integers(0, 23), max_size=6), max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=120)
@given(SCORES, PATTERNS, st.sampled_from(["mean", "sum", "none"]), st.booleans())
def test_any_pattern_of_processes(
    scores: list[float | None], pattern: list[list[list[int]]], reduction: str, indexed: bool
) -> None:
    updates = [[[n % len(scores) for n in batch] for batch in mine] for mine in pattern]
    exchange = Exchange(len(updates))

    def validate(rank: int) -> tuple[Tensor, int]:
        metric = DAMLPIPSMetric(
            reduction=reduction,
            on_error="skip",
            dist_sync_fn=exchange.of(rank),
            distributed_available_fn=lambda: True,
        )
        for batch in updates[rank]:
            values = torch.tensor([math.nan if scores[n] is None else scores[n] for n in batch])
            metric._add(values, torch.tensor(batch, dtype=torch.int64) if indexed else None)
        value = metric.compute()
        return value, metric.skipped

    with warnings.catch_warnings(), ThreadPoolExecutor(len(updates)) as pool:
        warnings.simplefilter("ignore")
        results = list(pool.map(validate, range(len(updates))))

    seen = [n for mine in updates for batch in mine for n in batch]
    counted = sorted(set(seen)) if indexed else seen
    good = [Fraction(scores[n]) for n in counted if scores[n] is not None]
    for value, skipped in results:
        assert skipped == len(counted) - len(good)
        if reduction == "none":
            wanted = torch.tensor([math.nan if scores[n] is None else scores[n] for n in counted])
        elif reduction == "sum":
            wanted = torch.tensor(float(sum(good)), dtype=torch.float64).float()
        else:
            wanted = torch.tensor(float(sum(good) / len(good)) if good else math.nan, dtype=torch.float64).float()
        torch.testing.assert_close(value, wanted, rtol=0, atol=0, equal_nan=True)
