"""The store by itself: however scores came into it, it is the same store, and nothing changes it."""

import ast
import inspect
import math
from functools import reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from damlpips import checks
from damlpips.adapters.torchmetrics import score_store
from damlpips.adapters.torchmetrics.score_store import ScoreStore
from tests.support.metrics import KINDS

SCORES = st.lists(st.one_of(st.just(math.nan), st.floats(0, 8, width=32)), max_size=6)
BATCHES = st.lists(SCORES, min_size=1, max_size=8)


def added(store: ScoreStore, batch: tuple[torch.Tensor, torch.Tensor | None]) -> ScoreStore:
    before = str(store)
    more = store.add(*batch)
    assert str(store) == before
    return more


@given(BATCHES, st.integers(0, 8), st.sampled_from(checks.REDUCTIONS), st.booleans())
def test_added_merged_and_taken_from_a_dict_a_store_is_the_same(
    scores: list[list[float]], cut: int, reduction: str, indexed: bool
) -> None:
    batches = [
        (torch.tensor(batch), torch.arange(k, k + len(batch)) if indexed else None) for k, batch in enumerate(scores)
    ]
    empty = ScoreStore.empty(keeps_all=reduction == "none")
    whole = reduce(added, batches, empty)
    merged = reduce(added, batches[:cut], empty).merge(reduce(added, batches[cut:], empty))
    options = {"keeps_all": whole.keeps_all, "dtype": whole.dtype}
    again = ScoreStore.from_dict(whole.to_dict("a name: "), "a name: ", **options)
    n, which = whole.unscorable
    assert n == len(which) or (reduction != "none" and not indexed)
    for store in (merged, again):
        torch.testing.assert_close(store.value(reduction), whole.value(reduction), rtol=0, atol=0, equal_nan=True)
        assert store.unscorable[0] == n
        assert torch.equal(store.unscorable[1], which)
    torch.testing.assert_close(whole.emptied().value(reduction), empty.value(reduction), equal_nan=True)


def test_the_store_knows_neither_torchmetrics_nor_processes() -> None:
    imports = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(score_store)))
        if isinstance(node, ast.ImportFrom | ast.Import)
    ]
    assert not any(word in ast.unparse(node) for node in imports for word in ("torchmetrics", "distributed", "models"))


@pytest.mark.parametrize(
    ("kind", "reduction", "digest"),
    [
        ("lpips", "mean", "506dfcb9ae5c"),
        ("lpips", "none", "052c3c6196fa"),
        ("damlpips", "mean", "09c01bafbebc"),
        ("damlpips", "sum", "09c01bafbebc"),
        ("damlpips", "none", "55e8f35922e1"),
    ],
)
def test_a_state_that_version_0_1_0_saved_is_taken_over(kind: str, reduction: str, digest: str) -> None:
    scores, indices = [torch.tensor([0.5, 0.25, 0.1]), torch.tensor([1.5])], [[7, 3, 1], [9]]
    total, counts = torch.zeros(12, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    if reduction != "none":  # the same scores again, without an index
        total[5:7], counts[0] = torch.tensor([3355444, 75]), 4
    saved = {
        "total": total,
        "counts": counts,
        "scores": scores,
        "indices": [torch.tensor(i, dtype=torch.int32) for i in indices],
        "share": torch.tensor([0, 1]),
    }
    metric = KINDS[kind](reduction=reduction, **({"version": 1} if kind == "damlpips" else {}))
    metric.load_state_dict({f"{kind}_{digest}_{name}": value for name, value in saved.items()})
    wanted = {"mean": 0.5875, "sum": 4.7, "none": [0.1, 0.25, 0.5, 1.5]}
    torch.testing.assert_close(metric.compute(), torch.tensor(wanted[reduction]), rtol=1e-7, atol=0)
