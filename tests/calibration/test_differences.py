"""What heads weigh, what is dropped of it, and the recipe: each against the published form."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from damlpips.calibration.choices import read
from damlpips.calibration.differences import differences, dropped, statistics
from damlpips.calibration.ranking import Ranking, loss
from damlpips.calibration.recipe import Recipe
from damlpips.calibration.split import held_out, linked
from damlpips.evaluation.distances import distances
from damlpips.evaluation.named import NamedMetric
from tests.support.voted import known_heads, known_metric, voted_set


def test_weighed_by_heads_it_is_lpips(tmp_path: Path) -> None:
    judged = voted_set(tmp_path, 3, 3, lambda d: np.full(len(d), 0.5), 5)
    metric = known_metric(tmp_path)
    named = NamedMetric("known", True, "known", torch.device("cpu"), metric, metric.encode)
    with ExitStack() as stack, torch.no_grad():
        choices = read([judged], most=1, seed=0)
        table = differences(choices, metric, stack, cache=None)
        found = choices.of_pairs(table.distances(torch.cat(known_heads())))
    # float32 features in both; sums in another order
    np.testing.assert_allclose(found, distances(named, judged), rtol=2e-5)


def test_dropout_has_the_mean_and_the_variance_of_dropout_on_the_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 6, 5, 4, generator=generator)
    squared = (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).square()
    mean, noise = statistics(a, b)
    assert torch.allclose(mean, squared.mean((2, 3)))
    n, share = 40_000, 0.5
    published = torch.nn.functional.dropout(squared.expand(n, -1, -1, -1), share).mean((2, 3))
    normal = torch.randn(n, 6, generator=generator)
    ours = dropped(mean.expand(n, -1), noise.expand(n, -1), share, normal)
    assert ours.min() >= 0
    # five standard errors: of a mean s / sqrt(n), of a variance about s^2 sqrt((kurtosis - 1) / n), kurtosis below 9
    for draws in (published, ours):
        assert ((draws.mean(0) - mean[0]).abs() < 5 * noise[0] / n**0.5).all()
        assert ((draws.var(0) / noise[0].square() - 1).abs() < 5 * (8 / n) ** 0.5).all()


def test_without_a_difference_nothing_is_dropped() -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    out = dropped(zero, torch.zeros(2, 3), 0.5, torch.randn(2, 3))
    assert torch.equal(out, torch.zeros(2, 3))


def test_the_ranking_network_and_its_loss_are_those_of_lpips() -> None:
    published = pytest.importorskip("lpips")
    theirs, ours = published.BCERankingLoss(chn_mid=32), Ranking()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other.reshape(mine.shape))
    d0, d1, share = torch.rand(3, 50)
    column = [v.reshape(-1, 1, 1, 1) for v in (d0, d1, 2 * share - 1)]
    logit = ours(d0, d1)
    # float32 in both; log of a sigmoid against the fused form
    assert torch.allclose(logit.sigmoid(), theirs.net(*column[:2]).flatten(), atol=1e-6)
    assert torch.allclose(loss(logit, share, ours.weight(torch.ones(50))).mean(), theirs(*column).mean(), atol=1e-6)


def test_the_rate_falls_after_each_epoch_of_decay() -> None:
    assert [round(Recipe().rate(epoch), 3) for epoch in range(10)] == [*[1] * 6, 0.8, 0.6, 0.4, 0.2]
    assert Recipe(epochs=2, decay_epochs=0).rate(1) == 1


def test_contents_are_held_out_whole() -> None:
    contents = linked([(f"c{k % 20}", f"file {k}") for k in range(200)])
    assert len(set(contents)) == 20
    out = held_out(contents, 0.2, 0)
    labels = np.array(contents)
    assert not set(labels[out]) & set(labels[~out])
    assert len(set(labels[out])) == 4
    assert (held_out(contents, 0.2, 0) == out).all()
    assert (held_out(contents, 0.2, 1) != out).any()
